//! Entra and AD FS: what is sent, how often, and what is told when it is refused.

use std::time::Duration;

use azure_core::credentials::TokenCredential;
use identity::{
    Asker, Assertion, ClientCertificate, ClientId, Cloud, Config, Credential, Error, Kind, Mode, Proof,
    TenantId, Tokens,
};
use serde_json::json;
use time::OffsetDateTime;

use crate::server::{Answer, Asked, Server, asker, assertion, jwt, own_assertion, subject_of, tenant};

pub const SCOPE: &str = "https://vault.test/.default";

pub fn client_id() -> ClientId {
    ClientId::parse("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee").unwrap()
}

pub fn federated(server: &Server, tokens: &Tokens, asker: &Asker) -> Credential {
    let assertion = own_assertion(asker);
    let mode = Mode::WorkloadIdentity { tenant: tenant(), client_id: client_id(), assertion };
    tokens.credential(asker, &server.authority(&tenant()), mode).unwrap()
}

pub fn with_proof(server: &Server, tokens: &Tokens, asker: &Asker, proof: Proof) -> Credential {
    let mode = Mode::ServicePrincipal { tenant: tenant(), client_id: client_id(), proof };
    tokens.credential(asker, &server.authority(&tenant()), mode).unwrap()
}

/// A token that names whom it is for.
fn token_for(asked: &Asked) -> Answer {
    Answer::token(&format!("token of {}", subject_of(asked.field("client_assertion"))))
}

async fn text(credential: &Credential) -> Result<String, azure_core::Error> {
    Ok(credential.get_token(&[SCOPE], None).await?.token.secret().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_pods_of_one_service_account_cost_one_request() {
    let server = Server::tls(&[], token_for).await;
    let tokens = server.tokens();
    server.close();
    let mounts: Vec<_> = (0..100)
        .map(|n| {
            let mut asker = asker("shop", "web");
            asker.pod = format!("web-{n}");
            let credential = federated(&server, &tokens, &asker);
            tokio::spawn(async move { text(&credential).await })
        })
        .collect();
    server.wait_for_arrivals(1).await;
    server.open();
    for mount in mounts {
        assert_eq!(mount.await.unwrap().unwrap(), "token of system:serviceaccount:shop:web");
    }
    assert_eq!(server.count(), 1);
    let stats = tokens.stats();
    assert_eq!((stats.identities, stats.requests, stats.failures), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_identities_cost_a_hundred_requests_and_each_gets_its_own() {
    let server = Server::tls(&[], token_for).await;
    let tokens = server.tokens();
    let mounts: Vec<_> = (0..100)
        .map(|n| {
            let credential = federated(&server, &tokens, &asker("shop", &format!("sa{n}")));
            tokio::spawn(async move { (n, text(&credential).await, text(&credential).await) })
        })
        .collect();
    for mount in mounts {
        let (n, first, second) = mount.await.unwrap();
        assert_eq!(first.unwrap(), format!("token of system:serviceaccount:shop:sa{n}"));
        assert_eq!(second.unwrap(), format!("token of system:serviceaccount:shop:sa{n}"));
    }
    assert_eq!(server.count(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failure_is_shared_and_remembered() {
    let refuse = |_: &Asked| Answer::aadsts(401, "invalid_client", 700_213, "No matching \"record\" found.");
    let server = Server::tls(&[], refuse).await;
    let tokens = server.tokens();
    let mounts: Vec<_> = (0..100)
        .map(|_| {
            let credential = federated(&server, &tokens, &asker("shop", "web"));
            tokio::spawn(async move { text(&credential).await })
        })
        .collect();
    for mount in mounts {
        let sdk = mount.await.unwrap().unwrap_err();
        let ours = Error::find(&sdk).expect("our error survives the SDK's");
        assert_eq!(sdk.to_string(), ours.to_string());
        assert_eq!(ours.kind(), Kind::Refused);
    }
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn what_is_posted() {
    let server = Server::tls(&[], token_for).await;
    let asker = asker("shop", "web");
    text(&federated(&server, &server.tokens(), &asker)).await.unwrap();
    let post = &server.asked()[0];
    assert_eq!(post.path, "/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token");
    assert_eq!(post.header("content-type"), "application/x-www-form-urlencoded");
    let expected = [
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_id", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"),
        ("grant_type", "client_credentials"),
        ("scope", SCOPE),
    ];
    for (name, value) in expected {
        assert_eq!(post.field(name), value);
    }
    assert_eq!(subject_of(post.field("client_assertion")), asker.subject());
}

#[tokio::test]
async fn renewals_show_the_newest_assertion() {
    let server = Server::tls(&[], |asked| Answer::token(asked.field("client_assertion"))).await;
    let tokens = server.tokens();
    let asker = asker("shop", "web");
    let [first, second] =
        ["first", "second"].map(|id| jwt(&asker.subject(), identity::AUDIENCE_PUBLIC, 3000, id));
    let publish = |token: &str| {
        let assertion = Assertion::new(identity::AUDIENCE_PUBLIC.to_owned(), token.to_owned().into(), None);
        let mode = Mode::WorkloadIdentity { tenant: tenant(), client_id: client_id(), assertion };
        tokens.credential(&asker, &server.authority(&tenant()), mode).unwrap()
    };
    let earlier = publish(&first);
    assert_eq!(text(&earlier).await.unwrap(), first);
    let later = publish(&second);
    assert_eq!(text(&later).await.unwrap(), first, "the token at hand is still good");
    earlier.refused(&first);
    assert_eq!(text(&earlier).await.unwrap(), second, "the answer echoes the assertion shown");
}

#[tokio::test]
async fn a_refusal_tells_cause_cure_and_what_was_sent() {
    // Code, status, `error`, words of the message, kind.
    let table = [
        (70021, 400, "invalid_request", "no federated credential", Kind::Refused),
        (700_211, 401, "invalid_client", "trailing slash", Kind::Refused),
        (700_212, 401, "invalid_client", "another audience", Kind::Refused),
        (700_213, 401, "invalid_client", "for this subject", Kind::Refused),
        (7_002_138, 401, "invalid_client", "letter by letter", Kind::Refused),
        (700_016, 400, "unauthorized_client", "no application with this client id", Kind::Misconfiguration),
        (90002, 400, "invalid_request", "no such tenant", Kind::Misconfiguration),
        (500_011, 400, "invalid_resource", "resource is not known", Kind::Misconfiguration),
        (53003, 400, "access_denied", "Conditional Access", Kind::Refused),
        (99999, 400, "invalid_request", "error?code=99999", Kind::Refused),
    ];
    for (code, status, error, words, kind) in table {
        let refuse = move |_: &Asked| Answer::aadsts(status, error, code, "It's \"no\".");
        let server = Server::tls(&[], refuse).await;
        let sdk = text(&federated(&server, &server.tokens(), &asker("shop", "web"))).await.unwrap_err();
        let ours = Error::find(&sdk).unwrap();
        assert_eq!(ours.kind(), kind, "{code}");
        let message = sdk.to_string();
        for part in [
            "ClientAssertionCredential authentication failed. ",
            &format!("AADSTS{code}: It's \"no\". Cause: "),
            &format!("[HTTP {status} from https://localhost:"),
            " Trace ID: 0-1 Timestamp: 2026-01-01 00:00:00Z]",
            "client id aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee in tenant 11111111-2222-3333-4444-555555555555, for \
             service account shop/web",
            "issuer \"https://oidc.test/cluster/\", subject \"system:serviceaccount:shop:web\", audience \
             \"api://AzureADTokenExchange\"",
            words,
        ] {
            assert!(message.contains(part), "{code}: {part:?} in {message}");
        }
        assert!(!message.contains("eyJ"), "{message}");
    }
}

#[tokio::test]
async fn the_command_that_cures_it_is_spelt_out() {
    let refuse = |_: &Asked| Answer::aadsts(401, "invalid_client", 700_213, "No.");
    let server = Server::tls(&[], refuse).await;
    let error = text(&federated(&server, &server.tokens(), &asker("shop", "web"))).await.unwrap_err();
    let command = "az identity federated-credential create --name kubernetes-shop-web --identity-name \
                   IDENTITY_NAME --resource-group RESOURCE_GROUP --issuer https://oidc.test/cluster/ --subject \
                   system:serviceaccount:shop:web --audiences api://AzureADTokenExchange ";
    assert!(error.to_string().contains(command), "{error}");
}

#[tokio::test]
async fn an_outage_is_asked_again_and_ends_at_once_if_told_to_wait_long() {
    let server = Server::tls(&[], |_| Answer(503, vec![("retry-after", "3600".into())], "busy".into())).await;
    let sdk = text(&federated(&server, &server.tokens(), &asker("shop", "web"))).await.unwrap_err();
    let ours = Error::find(&sdk).unwrap();
    assert_eq!((server.count(), ours.kind()), (1, Kind::Transient));
    assert_eq!(ours.retry_after().map(|d| d.as_secs()), Some(3600));
    assert!(ours.to_string().contains("HTTP 503 busy"), "{ours}");

    let n = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::tls(&[], move |asked| match n.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => Answer::aadsts(400, "temporarily_unavailable", 90_033, "A transient error."),
        _ => token_for(asked),
    })
    .await;
    text(&federated(&server, &server.tokens(), &asker("shop", "web"))).await.unwrap();
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn answers_that_are_no_tokens_are_told_without_their_content() {
    for body in [
        "<html>planted</html>",
        "\"eyJplantedplantedplantedplanted\"",
        "{}",
        r#"{"access_token":"","expires_in":3599}"#,
    ] {
        let server = Server::tls(&[], move |_| Answer(200, vec![], body.to_owned())).await;
        let sdk = text(&federated(&server, &server.tokens(), &asker("shop", "web"))).await.unwrap_err();
        assert!(matches!(Error::find(&sdk), Some(Error::Answer { .. })), "{body}: {sdk}");
        assert!(!sdk.to_string().contains("planted"), "{sdk}");
    }
}

#[tokio::test]
async fn lifetimes_are_taken_in_all_their_forms() {
    for (lifetime, seconds) in [
        (r#""expires_in":3599"#, 3599),
        (r#""expires_in":"3599","ext_expires_in":"3599""#, 3599),
        (r#""expires_in":3599.75"#, 3599),
        (r#""expires_on":"01/01/2020 00:00:00 AM +00:00","expires_in":"3599""#, 3599),
        (r#""token_type":7"#, 60),
        (r#""expires_in":0"#, 60),
        (r#""expires_in":9223372036854775807"#, 60),
        (r#""expires_on":5"#, 60),
    ] {
        let body = format!("{{\"access_token\":\"t\",{lifetime}}}");
        let server = Server::tls(&[], move |_| Answer(200, vec![], body.clone())).await;
        let credential = federated(&server, &server.tokens(), &asker("shop", "web"));
        let token = credential.token(SCOPE).await.unwrap();
        assert_eq!(token.token.secret(), "t");
        let left = (token.expires_on - OffsetDateTime::now_utc()).whole_seconds();
        assert!((seconds - 20..=seconds).contains(&left), "{lifetime}: {left}");
    }
}

/// With the clock paused, time passes only while everything waits.
#[tokio::test(start_paused = true)]
async fn a_slow_token_service_is_waited_for_whatever_limit_the_client_has() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Connections are accepted by the kernel, and nobody reads them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().timeout(Duration::from_secs(15));
    let tokens = Tokens::new(Config::new(client.build().unwrap()).unwrap()).unwrap();
    let file = json!({"activeDirectoryEndpoint": format!("https://{}/", silent.local_addr().unwrap()),
                      "keyVaultDNSSuffix": "vault.test"});
    let authority =
        Cloud::from_file(file.to_string().as_bytes(), None).unwrap().authority(&tenant()).unwrap();
    let asker = asker("shop", "web");
    let mode =
        Mode::WorkloadIdentity { tenant: tenant(), client_id: client_id(), assertion: own_assertion(&asker) };
    let start = tokio::time::Instant::now();
    let error = tokens.credential(&asker, &authority, mode).unwrap().token(SCOPE).await.unwrap_err();
    // Two attempts of 45 s, waits of 0.5 and 1 s, and what is left.
    assert_eq!(start.elapsed(), Duration::from_secs(95));
    assert!(error.to_string().contains("after 3 attempts in 95.0 s; the last one: no answer"), "{error}");
}

#[tokio::test]
async fn a_custom_cloud_may_have_its_token_endpoint_elsewhere_on_its_host() {
    const METADATA: &str = "/11111111-2222-3333-4444-555555555555/v2.0/.well-known/openid-configuration";
    for status in [404, 405] {
        let server = Server::tls(&[], move |asked| match asked.path.as_str() {
            METADATA => {
                let endpoint = format!("https://{}/sts/token", asked.header("host"));
                Answer::json(200, &json!({"token_endpoint": endpoint}))
            }
            "/sts/token" => Answer::token(asked.field("client_secret")),
            _ => Answer(status, vec![], String::new()),
        })
        .await;
        let proof = Proof::Secret("s3cret".to_owned().into());
        let credential = with_proof(&server, &server.tokens(), &asker("shop", "web"), proof);
        assert_eq!(text(&credential).await.unwrap(), "s3cret");
        let paths: Vec<_> = server.asked().into_iter().map(|asked| asked.path).collect();
        assert_eq!(
            paths,
            ["/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token", METADATA, "/sts/token"]
        );
        assert_eq!(server.asked()[2].field("scope"), SCOPE);

        let certificate = ClientCertificate::parse(include_bytes!("../data/client.pem"), "").unwrap();
        let proof = Proof::Certificate(certificate);
        let _ = text(&with_proof(&server, &server.tokens(), &asker("shop", "web"), proof)).await;
        let signed = server.asked()[5].clone();
        let claims = signed.field("client_assertion").split('.').nth(1).unwrap().to_owned();
        let claims = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["aud"], format!("https://{}/sts/token", signed.header("host")));
    }
}

#[tokio::test]
async fn a_custom_clouds_metadata_cannot_send_a_secret_elsewhere() {
    for endpoint in ["http://localhost:1/token", "https://127.0.0.1:1/token", "nowhere"] {
        let server = Server::tls(&[], move |asked| {
            if asked.path.ends_with("/openid-configuration") {
                Answer::json(200, &json!({"token_endpoint": endpoint}))
            } else {
                Answer(404, vec![], "no such page".to_owned())
            }
        })
        .await;
        let proof = Proof::Secret("s3cret".to_owned().into());
        let credential = with_proof(&server, &server.tokens(), &asker("shop", "web"), proof);
        let error = text(&credential).await.unwrap_err().to_string();
        assert!(error.contains("no such page") && error.contains("[HTTP 404 from "), "{error}");
        assert_eq!(server.count(), 2, "{endpoint}");
    }
}

#[tokio::test]
async fn an_expired_assertion_is_not_sent() {
    let server = Server::tls(&[], token_for).await;
    let tokens = server.tokens();
    let asker = asker("shop", "web");
    let assertion = assertion(&asker.subject(), identity::AUDIENCE_PUBLIC, -4000, "old");
    let mode = Mode::WorkloadIdentity { tenant: tenant(), client_id: client_id(), assertion };
    let credential = tokens.credential(&asker, &server.authority(&tenant()), mode).unwrap();
    assert_eq!(credential.key(), None);
    let error = text(&credential).await.unwrap_err();
    assert!(error.to_string().contains("expired at"), "{error}");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn a_service_principal_shows_its_secret() {
    let server = Server::tls(&[], |asked| Answer::token(asked.field("client_secret"))).await;
    let proof = Proof::Secret("s3cr+t".to_owned().into());
    let credential = with_proof(&server, &server.tokens(), &asker("shop", "web"), proof);
    assert_eq!(text(&credential).await.unwrap(), "s3cr+t");
}

#[tokio::test]
async fn a_service_principal_signs_with_its_certificate() {
    let server = Server::tls(&[], |_| Answer::token("t")).await;
    let certificate = ClientCertificate::parse(include_bytes!("../data/client.pem"), "").unwrap();
    let proof = Proof::Certificate(certificate);
    text(&with_proof(&server, &server.tokens(), &asker("shop", "web"), proof)).await.unwrap();
    let asked = &server.asked()[0];
    assert_eq!(subject_of(asked.field("client_assertion")), client_id().as_str());
    assert_eq!(
        asked.field("client_assertion_type"),
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    );
}

#[tokio::test]
async fn adfs_is_asked_at_the_address_its_metadata_names() {
    let server = Server::tls(&[], |asked| match asked.path.as_str() {
        "/adfs/.well-known/openid-configuration" => {
            let endpoint = format!("https://{}/adfs/oauth2/token/", asked.header("host"));
            Answer::json(200, &json!({"token_endpoint": endpoint}))
        }
        "/adfs/oauth2/token/" => Answer::token(asked.field("client_secret")),
        _ => Answer(404, vec![], String::new()),
    })
    .await;
    let adfs = TenantId::parse("ADFS").unwrap();
    let proof = Proof::Secret("s3cret".to_owned().into());
    let mode = Mode::ServicePrincipal { tenant: adfs.clone(), client_id: client_id(), proof };
    let credential =
        server.tokens().credential(&asker("shop", "web"), &server.authority(&adfs), mode).unwrap();
    assert_eq!(text(&credential).await.unwrap(), "s3cret");
    assert_eq!(server.asked()[1].field("scope"), format!("{SCOPE} openid offline_access profile"));
}

#[tokio::test]
async fn adfs_metadata_cannot_send_a_secret_over_plain_http() {
    let server =
        Server::tls(&[], |_| Answer::json(200, &json!({"token_endpoint": "http://localhost:1/token"}))).await;
    let adfs = TenantId::parse("adfs").unwrap();
    let proof = Proof::Secret("s3cret".to_owned().into());
    let mode = Mode::ServicePrincipal { tenant: adfs.clone(), client_id: client_id(), proof };
    let credential =
        server.tokens().credential(&asker("shop", "web"), &server.authority(&adfs), mode).unwrap();
    let error = text(&credential).await.unwrap_err();
    assert!(error.to_string().contains("no https URL"), "{error}");
}
