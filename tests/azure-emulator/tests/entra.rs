//! The authority over real sockets: metadata, tokens, and every way to be refused one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail this way")]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use azure_emulator::{Config, Federation, Identity};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use parking_lot::Mutex;
use reqwest::StatusCode;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use support::{API, Azure, Signer, claims};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

const SUBJECT: &str = "system:serviceaccount:default:reader";
const AUDIENCE: &str = "api://AzureADTokenExchange";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[tokio::test]
async fn metadata_names_the_host_it_was_asked_by() {
    let azure = Azure::start().await;
    let tenant = azure.emulator.tenant();
    let port = azure.emulator.https_addr().port();
    for host in
        [format!("localhost:{port}"), format!("127.0.0.1:{port}"), "login.microsoftonline.com".to_owned()]
    {
        let url = format!("https://{host}/{tenant}/v2.0/.well-known/openid-configuration");
        let document: Value = azure.client.get(url).send().await.unwrap().json().await.unwrap();
        assert_eq!(document["issuer"], format!("https://{host}/{tenant}/v2.0"));
        assert_eq!(document["token_endpoint"], format!("https://{host}/{tenant}/oauth2/v2.0/token"));
        assert!(document["authorization_endpoint"].is_string());
    }
    let url = format!(
        "https://localhost:{port}/common/discovery/instance?api-version=1.1&authorization_endpoint=https://localhost/{tenant}/oauth2/v2.0/authorize"
    );
    let document: Value = azure.client.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(
        document["tenant_discovery_endpoint"],
        format!("https://localhost:{port}/{tenant}/v2.0/.well-known/openid-configuration")
    );
    let url = format!("https://localhost:{port}/nowhere.example/v2.0/.well-known/openid-configuration");
    let response = azure.client.get(url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(response.json::<Value>().await.unwrap()["error_codes"], json!([90002]));
}

#[tokio::test]
async fn the_authority_may_share_the_vaults_suffix() {
    let config = Config {
        authority_host: "login.cloud.example".to_owned(),
        vault_suffix: "cloud.example".to_owned(),
        ..Config::default()
    };
    let azure = Azure::start_with(config).await;
    assert_eq!(azure.token_request(&[("client_secret", "client-secret")]).await.0, 200);
    azure.vault.set_secret("a", "1").unwrap();
    assert_eq!(azure.get("/secrets/a").await["value"], "1");
}

#[tokio::test]
async fn a_secret_buys_a_signed_token_for_the_vault() {
    let azure = Azure::start().await;
    azure.vault.set_secret("a", "1").unwrap();
    let scope = format!("{}/.default openid offline_access profile", azure.emulator.vault_resource());
    let (status, answer) =
        azure.token_request(&[("client_secret", "client-secret"), ("scope", &scope)]).await;
    assert_eq!(status, 200);
    assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(3600)));
    let token = answer["access_token"].as_str().unwrap();
    let claims = claims(token);
    let now = azure.emulator.clock().now();
    assert_eq!(claims["iss"], format!("https://sts.windows.net/{}/", azure.emulator.tenant()));
    assert_eq!(claims["aud"], azure.emulator.vault_resource());
    assert_eq!(
        (&claims["appid"], &claims["oid"]),
        (&json!(azure.app.client_id), &json!(azure.app.object_id))
    );
    assert!((now + 3590..=now + 3600).contains(&claims["exp"].as_i64().unwrap()));

    let keys = format!("{}{}/discovery/v2.0/keys", azure.emulator.authority_url(), azure.emulator.tenant());
    let keys: Value = azure.client.get(keys).send().await.unwrap().json().await.unwrap();
    let number = |name: &str| URL_SAFE_NO_PAD.decode(keys["keys"][0][name].as_str().unwrap()).unwrap();
    let (message, signature) = token.rsplit_once('.').unwrap();
    ring::signature::RsaPublicKeyComponents { n: number("n"), e: number("e") }
        .verify(
            &ring::signature::RSA_PKCS1_2048_8192_SHA256,
            message.as_bytes(),
            &URL_SAFE_NO_PAD.decode(signature).unwrap(),
        )
        .unwrap();

    let url = format!("{}/secrets/a?{API}", azure.vault.url());
    let response = azure.client.get(url).bearer_auth(token).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(azure.emulator.counters().tokens_for(&azure.app.client_id), 1);
}

/// The refusal of a token request: status, `error`, code.
fn refusal((status, body): (u16, Value)) -> (u16, String, u64) {
    let code = body["error_codes"][0].as_u64().unwrap();
    let description = body["error_description"].as_str().unwrap();
    assert!(description.starts_with(&format!("AADSTS{code}: ")), "{description}");
    for part in ["Trace ID: ", "Correlation ID: ", "Timestamp: "] {
        assert!(description.contains(part), "{description}");
    }
    assert_eq!(body["error_uri"], format!("https://login.microsoftonline.com/error?code={code}"));
    (status, body["error"].as_str().unwrap().to_owned(), code)
}

#[tokio::test]
async fn refusals_have_entras_codes() {
    let azure = Azure::start().await;
    let entra = azure.emulator.entra();
    let now = azure.emulator.clock().now();
    entra.add_secret(&azure.app.client_id, "ending", Some(now + 100)).unwrap();
    let secret = ("client_secret", "client-secret");
    let unknown = "99999999-0000-4000-8000-000000000000";
    for (fields, status, error, code) in [
        (vec![("client_secret", "wrong")], 401, "invalid_client", 7_000_215),
        (vec![], 401, "invalid_client", 7_000_218),
        (vec![secret, ("client_id", unknown)], 400, "unauthorized_client", 700_016),
        (vec![secret, ("client_id", "")], 400, "invalid_request", 900_144),
        (vec![secret, ("grant_type", "")], 400, "invalid_request", 900_144),
        (vec![secret, ("grant_type", "password")], 400, "unsupported_grant_type", 70_003),
        (vec![secret, ("scope", "")], 400, "invalid_request", 900_144),
        (vec![secret, ("scope", "https://vault.azure.net")], 400, "invalid_scope", 1_002_012),
        (vec![secret, ("scope", "https://a/.default https://b/.default")], 400, "invalid_scope", 70_011),
        (vec![secret, ("scope", "https://unknown.example/.default")], 400, "invalid_resource", 500_011),
        (vec![("client_assertion", "x"), ("client_assertion_type", "y")], 400, "invalid_request", 50_027),
        (
            vec![("client_assertion", "x"), ("client_assertion_type", ASSERTION_TYPE)],
            400,
            "invalid_request",
            50_027,
        ),
    ] {
        let answer = refusal(azure.token_request(&fields).await);
        assert_eq!(answer, (status, error.to_owned(), code), "{fields:?}");
    }
    for (tenant, code) in
        [("00000000-0000-4000-8000-000000000000", 90002), ("contoso.example", 90002), ("x", 900_023)]
    {
        let url = format!("{}{tenant}/oauth2/v2.0/token", azure.emulator.authority_url());
        let answer = refusal(azure.token_request_at(&azure.client, &url, &[secret]).await);
        assert_eq!(answer, (400, "invalid_request".to_owned(), code), "{tenant}");
    }
    assert_eq!(azure.token_request(&[("client_secret", "ending")]).await.0, 200);
    azure.emulator.clock().set_offset(100);
    assert_eq!(refusal(azure.token_request(&[("client_secret", "ending")]).await).2, 7_000_222);
    assert_eq!(azure.token_request(&[secret]).await.0, 200);
    entra.set_disabled(&azure.app.client_id, true).unwrap();
    assert_eq!(refusal(azure.token_request(&[secret]).await).2, 7_000_112);
    entra.remove_identity(&azure.app.client_id).unwrap();
    assert_eq!(refusal(azure.token_request(&[secret]).await).2, 700_016);
}

/// The claims of a service account token, some of them replaced.
fn assertion(issuer: &str, changes: &Value) -> Value {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let mut claims =
        json!({ "iss": issuer, "sub": SUBJECT, "aud": [AUDIENCE], "iat": now, "nbf": now, "exp": now + 600 });
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims
}

async fn exchange(azure: &Azure, assertion: &str) -> (u16, Value) {
    azure.token_request(&[("client_assertion", assertion), ("client_assertion_type", ASSERTION_TYPE)]).await
}

#[tokio::test]
async fn an_assertion_must_match_a_federated_credential_exactly() {
    let azure = Azure::start().await;
    let entra = azure.emulator.entra();
    let issuer = "https://cluster.example/id/";
    let signer = Signer::new("k1");
    let code = async |token: String| refusal(exchange(&azure, &token).await);
    let invalid = |code: u64| (401, "invalid_client".to_owned(), code);

    assert_eq!(code(signer.sign(&assertion(issuer, &json!({})))).await, invalid(70_025));
    entra.federate(&azure.app.client_id, Federation::service_account(issuer, "default", "reader")).unwrap();
    assert!(
        entra
            .federate(&azure.app.client_id, Federation::service_account(issuer, "default", "reader"))
            .is_err()
    );
    entra.set_issuer_keys(issuer, json!({ "keys": [signer.jwk()] }));

    let (status, answer) = exchange(&azure, &signer.sign(&assertion(issuer, &json!({})))).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(claims(answer["access_token"].as_str().unwrap())["appid"], azure.app.client_id);
    // One audience may be text as well as a list.
    assert_eq!(exchange(&azure, &signer.sign(&assertion(issuer, &json!({ "aud": AUDIENCE })))).await.0, 200);

    let now = azure.emulator.clock().now();
    for (changes, expected) in [
        (json!({ "iss": "https://cluster.example/id" }), 700_211),
        (json!({ "iss": "https://Cluster.example/id/" }), 7_002_138),
        (json!({ "sub": "system:serviceaccount:other:reader" }), 700_213),
        (json!({ "sub": "system:serviceaccount:default:Reader" }), 7_002_138),
        (json!({ "aud": ["api://other"] }), 700_212),
        (json!({ "aud": ["api://azureadtokenexchange"] }), 7_002_138),
        (json!({ "aud": [AUDIENCE, "api://other"] }), 700_212),
        (json!({ "exp": now - 1 }), 700_024),
        (json!({ "nbf": now + 3600, "exp": now + 7200 }), 700_024),
        (json!({ "iss": format!("https://sts.windows.net/{}/", azure.emulator.tenant()) }), 700_222),
    ] {
        assert_eq!(code(signer.sign(&assertion(issuer, &changes))).await, invalid(expected), "{changes}");
    }
    let stranger = Signer::new("k1");
    assert_eq!(code(stranger.sign(&assertion(issuer, &json!({})))).await, invalid(50_013));
    let unknown = Signer::new("k2");
    assert_eq!(code(unknown.sign(&assertion(issuer, &json!({})))).await, invalid(50_013));
    let unsigned = signer.sign_with(&json!({ "alg": "none", "kid": "k1" }), &assertion(issuer, &json!({})));
    assert_eq!(code(unsigned).await.2, 5_002_723);

    azure.emulator.clock().set_offset(3600);
    assert_eq!(code(signer.sign(&assertion(issuer, &json!({})))).await, invalid(700_024));
}

/// An issuer that publishes its keys on the loopback and counts how often they are fetched.
async fn publish(keys: Arc<Mutex<Value>>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let fetched = Arc::new(AtomicUsize::new(0));
    let (own, count) = (issuer.clone(), Arc::clone(&fetched));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut first = String::new();
            stream.read_line(&mut first).await.unwrap();
            let mut line = String::new();
            while stream.read_line(&mut line).await.unwrap() > 2 {
                line.clear();
            }
            let body = if first.starts_with("GET /.well-known/openid-configuration ") {
                json!({ "issuer": own, "jwks_uri": format!("{own}/keys") })
            } else {
                count.fetch_add(1, Ordering::SeqCst);
                keys.lock().clone()
            }
            .to_string();
            let head =
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length:";
            stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (issuer, fetched)
}

#[tokio::test]
async fn an_issuers_keys_are_fetched_and_fetched_again_when_they_change() {
    let azure = Azure::start().await;
    let first = Signer::new("first");
    let keys = Arc::new(Mutex::new(json!({ "keys": [first.jwk()] })));
    let (issuer, fetched) = publish(Arc::clone(&keys)).await;
    azure.emulator.entra().federate(&azure.app.client_id, Federation::new(&issuer, SUBJECT)).unwrap();
    let attempt =
        async |signer: &Signer| exchange(&azure, &signer.sign(&assertion(&issuer, &json!({})))).await;

    assert_eq!(attempt(&first).await.0, 200);
    assert_eq!(attempt(&first).await.0, 200);
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
    let second = Signer::new("second");
    assert_eq!(refusal(attempt(&second).await).2, 50_013);
    *keys.lock() = json!({ "keys": [second.jwk()] });
    assert_eq!(attempt(&second).await.0, 200);
    assert_eq!(fetched.load(Ordering::SeqCst), 3);
    assert_eq!(refusal(attempt(&first).await).2, 50_013);
}

#[tokio::test]
async fn an_issuer_that_cannot_be_asked_is_reported() {
    let azure = Azure::start().await;
    // An address where nobody listens, since the listener is gone.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let issuer = format!("http://{gone}");
    azure.emulator.entra().federate(&azure.app.client_id, Federation::new(&issuer, SUBJECT)).unwrap();
    let token = Signer::new("k").sign(&assertion(&issuer, &json!({})));
    assert_eq!(refusal(exchange(&azure, &token).await), (400, "invalid_request".to_owned(), 90_061));
}

#[tokio::test]
async fn a_registered_certificate_signs_assertions() {
    let azure = Azure::start().await;
    let policy = json!({ "secret_props": { "contentType": "application/x-pem-file" } });
    azure.vault.create_certificate("login", policy).unwrap();
    let pem = azure.get("/secrets/login").await["value"].as_str().unwrap().to_owned();
    let (key, certificate) = pem.split_once("-----END PRIVATE KEY-----\n").unwrap();
    let key: String = key.lines().filter(|line| !line.starts_with("-----")).collect();
    let signer = Signer::from_pkcs8(&STANDARD.decode(key).unwrap(), "");
    let thumbprint = azure.get("/certificates/login").await["x5t"].as_str().unwrap().to_owned();

    let url = format!("{}{}/oauth2/v2.0/token", azure.emulator.authority_url(), azure.emulator.tenant());
    let header = json!({ "alg": "RS256", "typ": "JWT", "x5t": thumbprint });
    let own = json!({ "iss": azure.app.client_id, "sub": azure.app.client_id, "aud": url, "jti": "1" });
    let attempt = async |signer: &Signer, header: &Value, changes: &Value| {
        let mut claims = assertion("", &own);
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        exchange(&azure, &signer.sign_with(header, &claims)).await
    };
    assert_eq!(refusal(attempt(&signer, &header, &json!({})).await).2, 700_027);
    azure.emulator.entra().add_certificate(&azure.app.client_id, certificate).unwrap();
    assert_eq!(attempt(&signer, &header, &json!({})).await.0, 200);
    assert_eq!(refusal(attempt(&Signer::new(""), &header, &json!({})).await).2, 700_027);
    assert_eq!(refusal(attempt(&signer, &json!({ "alg": "RS256" }), &json!({})).await).2, 700_027);
    assert_eq!(refusal(attempt(&signer, &header, &json!({ "aud": "https://other" })).await).2, 700_023);
    assert_eq!(refusal(attempt(&signer, &header, &json!({ "exp": 1 })).await).2, 700_024);
}

#[tokio::test]
async fn the_token_proxy_takes_identity_bindings_only() {
    let azure = Azure::start().await;
    let entra = azure.emulator.entra();
    let (signer, issuer) = (Signer::new("k"), "https://cluster.example/");
    entra.set_issuer_keys(issuer, json!({ "keys": [signer.jwk()] }));
    let binding =
        Federation { audience: "api://AKSIdentityBinding".to_owned(), ..Federation::new(issuer, SUBJECT) };
    entra.federate(&azure.app.client_id, binding).unwrap();
    let bound = signer.sign(&assertion(issuer, &json!({ "aud": ["api://AKSIdentityBinding"] })));
    let plain = signer.sign(&assertion(issuer, &json!({})));

    // The proxy is chosen by the handshake's server name; the Host header stays the authority's.
    let path = format!("{}/oauth2/v2.0/token", azure.emulator.tenant());
    let port = azure.emulator.https_addr().port();
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("host", "login.microsoftonline.com".parse().unwrap());
    let client = azure.emulator.client_builder().http1_only().default_headers(headers).build().unwrap();
    let proxy = format!("https://abc123.ests.aks:{port}/{path}");
    let through = async |token: &str| {
        let fields = [("client_assertion", token), ("client_assertion_type", ASSERTION_TYPE)];
        azure.token_request_at(&client, &proxy, &fields).await
    };
    assert_eq!(through(&bound).await.0, 200);
    assert_eq!(refusal(through(&plain).await).2, 700_212);
    assert_eq!(azure.emulator.counters().endpoint("entra.proxy"), 2);
    // Without the proxy the same token is worth nothing.
    assert_eq!(refusal(exchange(&azure, &bound).await).2, 700_211);
}

/// The certificate (DER) presented to a handshake for a server name, which must be trusted.
async fn presented(azure: &Azure, name: &'static str) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(azure.emulator.ca_pem().as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(azure.emulator.https_addr()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name.try_into().unwrap(), stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn the_api_servers_certificate_tells_the_cluster() {
    let azure = Azure::start().await;
    let cluster = b"hcp-kubernetes.abc123def456.svc.cluster.local";
    let tells = |der: &[u8]| der.windows(cluster.len()).any(|window| window == cluster);
    assert!(!tells(&presented(&azure, "kubernetes.default.svc").await));
    azure.emulator.set_cluster_id("abc123def456");
    assert!(tells(&presented(&azure, "kubernetes.default.svc").await));
    assert!(!tells(&presented(&azure, "kv1.vault.azure.net").await));
}

#[tokio::test]
async fn ad_fs_is_a_tenant_with_paths_of_its_own() {
    let azure = Azure::start().await;
    azure.vault.set_secret("a", "1").unwrap();
    let app = Identity { tenant: "adfs".to_owned(), client_id: "adfs-app".to_owned(), ..azure.app.clone() };
    azure.emulator.entra().register(app);
    azure.emulator.entra().add_secret("adfs-app", "s", None).unwrap();
    let base = azure.emulator.authority_url();
    let url = format!("{base}adfs/.well-known/openid-configuration");
    let document: Value = azure.client.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(document["issuer"], format!("{base}adfs"));
    let endpoint = document["token_endpoint"].as_str().unwrap();
    assert_eq!(endpoint, format!("{base}adfs/oauth2/token/"));
    let fields = [
        ("client_id", "adfs-app"),
        ("client_secret", "s"),
        ("scope", ""),
        ("resource", "https://vault.azure.net"),
    ];
    let (status, answer) = azure.token_request_at(&azure.client, endpoint, &fields).await;
    assert_eq!(status, 200, "{answer}");

    // A vault of that tenant says so in its challenge and takes its tokens.
    azure.vault.set_tenant("adfs");
    azure.vault.grant("adfs-app", azure_emulator::Permissions::read());
    let url = format!("{}/secrets/a?{API}", azure.vault.url());
    let challenge = azure.client.get(&url).send().await.unwrap();
    let challenge = challenge.headers()["www-authenticate"].to_str().unwrap().to_owned();
    assert!(challenge.contains(&format!("authorization=\"{base}adfs\"")), "{challenge}");
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(azure.client.get(&url).bearer_auth(token).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(
        azure.client.get(&url).bearer_auth(azure.token()).send().await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
}
