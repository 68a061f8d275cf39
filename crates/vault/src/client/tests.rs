//! The client against a small HTTP server of its own.

#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "tests read better so, and need not be fast"
)]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use azure_core::{
    credentials::{AccessToken, TokenCredential, TokenRequestOptions},
    time::OffsetDateTime,
};
use parking_lot::Mutex;
use reqwest::dns::{Name, Resolve, Resolving};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Barrier,
};

use super::*;
use crate::parse_objects;

/// A request as the server saw it.
#[derive(Clone, Debug)]
struct Seen {
    target: String,
    headers: HashMap<String, String>,
}

impl Seen {
    fn token(&self) -> Option<&str> {
        self.headers.get("authorization")?.strip_prefix("Bearer ")
    }
}

#[derive(Clone, Default)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

fn ok(body: &str) -> Reply {
    Reply { status: 200, headers: Vec::new(), body: body.to_owned() }
}

fn status(status: u16, body: &str) -> Reply {
    // Short waits keep the tests short.
    Reply { status, headers: vec![("retry-after-ms", "1".to_owned())], body: body.to_owned() }
}

fn challenge(resource: &str) -> Reply {
    let header = format!("Bearer authorization=\"https://login.test/t\", resource=\"{resource}\"");
    Reply { status: 401, headers: vec![("www-authenticate", header)], body: UNAUTHORIZED.to_owned() }
}

const UNAUTHORIZED: &str =
    r#"{"error":{"code":"Unauthorized","message":"AKV10000: Request is missing a Bearer or PoP token."}}"#;
const SECRET: &str =
    r#"{"id":"https://kv1.vault.test/secrets/n/v1","value":"hello","attributes":{"enabled":true}}"#;

struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    barrier: Arc<Mutex<Option<Arc<Barrier>>>>,
}

impl Server {
    /// Serves `reply` of each request and of how many came before it.
    async fn new(reply: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let barrier: Arc<Mutex<Option<Arc<Barrier>>>> = Arc::default();
        let reply = Arc::new(reply);
        let (log, gate) = (Arc::clone(&seen), Arc::clone(&barrier));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (reply, log, gate) = (Arc::clone(&reply), Arc::clone(&log), Arc::clone(&gate));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        if stream.read_exact(&mut byte).await.is_err() {
                            return;
                        }
                        head.push(byte[0]);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let mut lines = head.lines();
                    let target = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
                    let headers = lines
                        .filter_map(|line| line.split_once(": "))
                        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                        .collect();
                    let request = Seen { target, headers };
                    let before = {
                        let mut log = log.lock();
                        log.push(request.clone());
                        log.len() - 1
                    };
                    let wait = gate.lock().clone();
                    if let Some(barrier) = wait {
                        barrier.wait().await;
                    }
                    let Reply { status, headers, body } = reply(&request, before);
                    let mut answer = format!(
                        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n",
                        body.len()
                    );
                    for (name, value) in headers {
                        answer.push_str(&format!("{name}: {value}\r\n"));
                    }
                    answer.push_str("\r\n");
                    answer.push_str(&body);
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { address, seen, barrier }
    }

    fn endpoint(&self) -> VaultEndpoint {
        VaultEndpoint::plain(self.address)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }
}

/// An identity that hands out `token-1`, and `token-2…` after a refusal.
#[derive(Debug)]
struct Identity {
    key: Option<&'static str>,
    number: AtomicUsize,
    refused: Mutex<Vec<String>>,
    /// The scopes asked for.
    scopes: Mutex<Vec<String>>,
    /// The only scope Entra knows, if not all.
    known: Option<&'static str>,
    /// Hands out `token of <scope>` instead.
    scoped: bool,
}

impl Identity {
    fn new(key: Option<&'static str>) -> Arc<Self> {
        Arc::new(Self {
            key,
            number: AtomicUsize::new(1),
            refused: Mutex::default(),
            scopes: Mutex::default(),
            known: None,
            scoped: false,
        })
    }
}

#[async_trait::async_trait]
impl TokenCredential for Identity {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        self.scopes.lock().push(scopes[0].to_owned());
        if self.known.is_some_and(|known| known != scopes[0]) {
            let inner = std::io::Error::other("AADSTS500011: The resource principal was not found");
            return Err(azure_core::Error::with_error(
                azure_core::error::ErrorKind::Credential,
                inner,
                "credential failed",
            ));
        }
        let number = self.number.load(Ordering::Relaxed);
        let token = if self.scoped { format!("token of {}", scopes[0]) } else { format!("token-{number}") };
        Ok(AccessToken { token: token.into(), expires_on: OffsetDateTime::now_utc() })
    }
}

impl Credential for Identity {
    fn key(&self) -> Option<&str> {
        self.key
    }

    fn refused(&self, token: &str) {
        self.refused.lock().push(token.to_owned());
        self.number.fetch_add(1, Ordering::Relaxed);
    }

    fn describe(&self) -> String {
        "workload identity 1111 of ns/sa in tenant t".to_owned()
    }

    fn source(&self) -> String {
        "https://login.test".to_owned()
    }
}

fn client(options: ClientOptions) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    Client::new(http.build().unwrap(), options)
}

fn objects(fields: &[&str]) -> Vec<ObjectRequest> {
    let text: String =
        fields.iter().map(|fields| format!("- \"{}\"\n", fields.replace('\n', "\\n"))).collect();
    parse_objects(&format!("array:\n{text}")).unwrap()
}

const N: &str = "objectName: n\nobjectType: secret";

/// Fetches within ten seconds.
async fn fetch(
    client: &Client,
    endpoint: &VaultEndpoint,
    identity: &Arc<Identity>,
    wanted: &[&str],
) -> Result<Contents, FetchError> {
    fetch_aged(client, endpoint, identity, wanted, Duration::ZERO).await
}

async fn fetch_aged(
    client: &Client,
    endpoint: &VaultEndpoint,
    identity: &Arc<Identity>,
    wanted: &[&str],
    max_age: Duration,
) -> Result<Contents, FetchError> {
    let objects = objects(wanted);
    let credential: Arc<dyn Credential> = Arc::clone(identity) as Arc<dyn Credential>;
    let request = FetchRequest {
        endpoint,
        credential,
        objects: &objects,
        rendering: Rendering::default(),
        deadline: Instant::now() + Duration::from_secs(10),
        max_age,
        stale_if_error: Duration::ZERO,
        priority: Priority::Mount,
    };
    client.fetch(request).await
}

fn shown(contents: &Contents) -> Vec<(String, String, String, String)> {
    contents
        .files
        .iter()
        .zip(&contents.versions)
        .map(|(file, version)| {
            (
                file.path.clone(),
                String::from_utf8_lossy(&file.contents).into_owned(),
                version.id.clone(),
                version.version.clone(),
            )
        })
        .collect()
}

fn row(path: &str, contents: &str, id: &str, version: &str) -> (String, String, String, String) {
    (path.into(), contents.into(), id.into(), version.into())
}

#[tokio::test]
async fn one_request_suffices() {
    let server = Server::new(|_, _| ok(SECRET)).await;
    let identity = Identity::new(None);
    let contents = fetch(
        &client(ClientOptions::default()),
        &server.endpoint(),
        &identity,
        &["objectName: n\nobjectType: secret\nobjectAlias: a/b\nfilePermission: 0600"],
    )
    .await
    .unwrap();
    assert_eq!(shown(&contents), [row("a/b", "hello", "secret/n", "v1")]);
    assert_eq!(contents.files[0].mode, Some(0o600));
    assert_eq!(
        format!("{:?}", contents.files[0]),
        "File { path: \"a/b\", mode: Some(384), contents: \"[redacted]\" }"
    );
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].target, "/secrets/n/?api-version=7.4");
    assert_eq!(seen[0].headers["accept"], "application/json");
    assert_eq!(seen[0].token(), Some("token-1"));
    assert_eq!(*identity.scopes.lock(), ["https://vault.test/.default"]);
}

#[tokio::test]
async fn each_type_has_its_collection_and_its_complaints() {
    let server = Server::new(|seen, _| {
        ok(match seen.target.as_str() {
            "/keys/k/v9?api-version=7.4" => r#"{"key":{"kid":"https://v/keys/k/v9","kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}}"#,
            "/certificates/c/?api-version=7.4" => r#"{"id":"https://v/certificates/c/v3","kid":"x","cer":"dGVzdA=="}"#,
            "/keys/oct/?api-version=7.4" => r#"{"key":{"kid":"https://v/keys/oct/1","kty":"oct-HSM"}}"#,
            "/certificates/bare/?api-version=7.4" => r#"{"id":"x"}"#,
            "/keys/bare/?api-version=7.4" => r#"{"key":{"kty":"RSA"}}"#,
            "/keys/none/?api-version=7.4" | "/secrets/none/?api-version=7.4" => "{}",
            "/secrets/idless/?api-version=7.4" => r#"{"value":"x"}"#,
            _ => "<html>secret text</html>",
        })
    })
    .await;
    let client = client(ClientOptions::default());
    let identity = Identity::new(None);
    let contents = fetch(
        &client,
        &server.endpoint(),
        &identity,
        &["objectName: k\nobjectType: key\nobjectVersion: v9", "objectName: c\nobjectType: cert"],
    )
    .await
    .unwrap();
    let rows = shown(&contents);
    assert!(rows[0].1.starts_with("-----BEGIN PUBLIC KEY-----\n"));
    assert_eq!((rows[0].2.as_str(), rows[0].3.as_str()), ("key/k", "v9"));
    assert_eq!(
        rows[1],
        row("c", "-----BEGIN CERTIFICATE-----\ndGVzdA==\n-----END CERTIFICATE-----\n", "cert/c", "v3")
    );
    for (fields, problem) in [
        ("objectName: oct\nobjectType: key", "failed to get key. key type 'oct-HSM' currently not supported"),
        ("objectName: none\nobjectType: key", "key value is nil"),
        ("objectName: bare\nobjectType: key", "key id is nil"),
        ("objectName: bare\nobjectType: cert", "certificate value is nil"),
        ("objectName: none\nobjectType: secret", "secret value is nil"),
        ("objectName: idless\nobjectType: secret", "secret id is nil"),
        ("objectName: html\nobjectType: secret", "not what Key Vault's API promises (line 1, column 1)"),
    ] {
        let error = fetch(&client, &server.endpoint(), &identity, &[fields]).await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Unusable);
        assert!(error.to_string().contains(problem), "{error}");
        assert!(!error.to_string().contains("secret text"));
    }
}

/// Every answer a vault is known to give, and what a person reads of it.
#[tokio::test]
async fn what_each_refusal_says() {
    let forbidden = |inner: &str, message: &str| {
        format!(
            r#"{{"error":{{"code":"Forbidden","message":"{message}","innererror":{{"code":"{inner}"}}}}}}"#
        )
    };
    let caller = r"Caller is not authorized.\r\nCaller: appid=aaaa-1;oid=bbbb;iss=https://sts\r\nAction: 'x'";
    let cases: Vec<(u16, String, FailureKind, Vec<&str>)> = vec![
        (403, forbidden("ForbiddenByRbac", caller), FailureKind::Forbidden, vec!["403 Forbidden (ForbiddenByRbac); az role", "az role assignment create --role \"Key Vault Secrets User\" --assignee aaaa-1 --scope", "wait some minutes"]),
        (403, forbidden("AccessDenied", "The user, group or application 'appid=aaaa-1;oid=b' does not have secrets get permission"), FailureKind::Forbidden, vec!["az keyvault set-policy --name kv1 --spn aaaa-1 --secret-permissions get"]),
        (403, forbidden("ForbiddenByPolicy", "The policy requires the caller to use on-behalf-of (OBO) flow"), FailureKind::Forbidden, vec!["on behalf of a user"]),
        (403, forbidden("ForbiddenByFirewall", "Client address is not authorized"), FailureKind::Forbidden, vec!["az keyvault network-rule add --name kv1"]),
        (403, forbidden("ForbiddenByConnection", "Public network access is disabled"), FailureKind::Forbidden, vec!["private endpoint"]),
        (403, r#"{"error":{"code":"Forbidden","message":"m","innerError":{"code":"SecretDisabled"}}}"#.into(), FailureKind::Forbidden, vec!["(SecretDisabled)", "objectVersion"]),
        (403, r#"{"error":{"code":"Forbidden","message":"m"}}"#.into(), FailureKind::Forbidden, vec!["az role assignment create", "az keyvault set-policy"]),
        (404, r#"{"error":{"code":"SecretNotFound","message":"A secret with (name/id) n was not found"}}"#.into(), FailureKind::NotFound, vec!["Key Vault says: A secret with (name/id) n was not found", "az keyvault secret list-versions --vault-name kv1 --name n"]),
        (400, r#"{"error":{"code":"BadParameter","message":"m"}}"#.into(), FailureKind::Invalid, vec!["400 BadParameter; objectName", "objectName"]),
        (409, r#"{"error":{"code":"Conflict","message":"m"}}"#.into(), FailureKind::Invalid, vec!["409 Conflict"]),
        (429, r#"{"error":{"code":"Throttled","message":"VaultRequestTypeLimitReached"}}"#.into(), FailureKind::Throttled, vec!["429 Throttled; the vault", "rotation interval"]),
        (503, "busy".into(), FailureKind::Unavailable, vec![": 503;"]),
        (500, String::new(), FailureKind::Unavailable, vec![": 500;"]),
        (204, String::new(), FailureKind::Unusable, vec![": 204;"]),
        (401, r#"{"error":{"code":"Unauthorized","message":"AKV10032: Invalid issuer. Expected one of https://sts.windows.net/x/, found y."}}"#.into(), FailureKind::Unauthenticated, vec!["401 Unauthorized; the token is of another tenant", "set tenantID"]),
        (401, r#"{"error":{"code":"Unauthorized","message":"AKV10022: Invalid audience."}}"#.into(), FailureKind::Unauthenticated, vec!["AKV10022", "cloudName"]),
        (401, r#"{"error":{"code":"Unauthorized","message":"AKV10046: x"}}"#.into(), FailureKind::Unauthenticated, vec!["AKV10046", "try again"]),
    ];
    let client = client(ClientOptions::default());
    for (code, body, kind, said) in cases {
        let answer = status(code, &body);
        let server = Server::new(move |_, _| answer.clone()).await;
        let error = fetch(&client, &server.endpoint(), &Identity::new(None), &[N]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{code} {body}");
        let text = error.to_string();
        let start = format!(
            "failed to get objectType:secret, objectName:n, objectVersion:: vault kv1 (http://{}) as workload identity 1111 of ns/sa in tenant t: ",
            server.address
        );
        assert!(text.starts_with(&start), "{text}");
        for part in said {
            assert!(text.contains(part), "{code}: {text} lacks {part}");
        }
        assert!(!text.contains("token-"), "{text}");
        assert!(!text.contains(['\r', '\n']), "{text}");
        assert_eq!(error.is_transient(), matches!(code, 429 | 500 | 503));
        assert_eq!(error.is_definite_refusal(), matches!(code, 401 | 403 | 404));
    }
}

#[tokio::test]
async fn a_challenge_is_answered_once_and_remembered() {
    let server =
        Server::new(|_, before| if before == 0 { challenge("https://test") } else { ok(SECRET) }).await;
    let client = client(ClientOptions::default());
    let identity = Identity::new(None);
    assert!(fetch(&client, &server.endpoint(), &identity, &[N]).await.is_ok());
    assert!(fetch(&client, &server.endpoint(), &identity, &[N]).await.is_ok());
    assert_eq!(
        *identity.scopes.lock(),
        ["https://vault.test/.default", "https://test/.default", "https://test/.default"]
    );
    assert!(identity.refused.lock().is_empty());
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn no_token_is_asked_for_a_foreign_resource() {
    let server = Server::new(|_, _| challenge("https://evil.example")).await;
    let identity = Identity::new(None);
    let error =
        fetch(&client(ClientOptions::default()), &server.endpoint(), &identity, &[N]).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("challenge resource \"https://evil.example\" doesn't match the requested domain"),
        "{error}"
    );
    assert_eq!(error.kind(), FailureKind::Unauthenticated);
    assert_eq!(*identity.scopes.lock(), ["https://vault.test/.default"]);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let server = Server::new(|seen, _| {
        if seen.token() == Some("token-1") { challenge("https://vault.test") } else { ok(SECRET) }
    })
    .await;
    let identity = Identity::new(None);
    assert!(fetch(&client(ClientOptions::default()), &server.endpoint(), &identity, &[N]).await.is_ok());
    assert_eq!(*identity.refused.lock(), ["token-1"]);

    let server = Server::new(|_, _| challenge("https://vault.test")).await;
    let identity = Identity::new(None);
    let error =
        fetch(&client(ClientOptions::default()), &server.endpoint(), &identity, &[N]).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Unauthenticated);
    assert_eq!(*identity.refused.lock(), ["token-1", "token-2"]);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_vault_that_keeps_changing_its_mind_is_left() {
    let server = Server::new(|_, before| {
        challenge(if before % 2 == 0 { "https://test" } else { "https://vault.test" })
    })
    .await;
    let error = fetch(&client(ClientOptions::default()), &server.endpoint(), &Identity::new(None), &[N])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("names another resource each time"), "{error}");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn the_vault_is_asked_what_it_wants_when_the_guess_is_unknown() {
    let server =
        Server::new(|seen, _| if seen.token().is_none() { challenge("https://test") } else { ok(SECRET) })
            .await;
    let identity = Arc::new(Identity {
        known: Some("https://test/.default"),
        ..Arc::into_inner(Identity::new(None)).unwrap()
    });
    assert!(fetch(&client(ClientOptions::default()), &server.endpoint(), &identity, &[N]).await.is_ok());
    assert_eq!(server.seen()[0].token(), None);

    // If the guess was right, the credential's own words are told.
    let server = Server::new(|_, _| challenge("https://vault.test")).await;
    let identity =
        Arc::new(Identity { known: Some("nothing"), ..Arc::into_inner(Identity::new(None)).unwrap() });
    let error =
        fetch(&client(ClientOptions::default()), &server.endpoint(), &identity, &[N]).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Credential);
    // They bring their own cure: none follows.
    assert!(
        error.to_string().ends_with(
            ") as workload identity 1111 of ns/sa in tenant t: no token: credential failed: AADSTS500011: The resource principal was not found"
        ),
        "{error}"
    );
    // A 401 without a challenge leaves it at that, too.
    let server = Server::new(|_, _| status(401, UNAUTHORIZED)).await;
    let error =
        fetch(&client(ClientOptions::default()), &server.endpoint(), &identity, &[N]).await.unwrap_err();
    assert!(error.to_string().contains("AADSTS500011"), "{error}");
}

/// A vault that names its audience only to whoever comes without a token, and says `code` to any other's.
fn secretive(code: u16, wanted: &'static str) -> impl Fn(&Seen, usize) -> Reply {
    move |seen, _| match seen.token() {
        None => challenge(wanted),
        Some("token of https://test/.default") => ok(SECRET),
        Some(_) => Reply { status: code, headers: vec![], body: UNAUTHORIZED.to_owned() },
    }
}

fn scoped() -> Arc<Identity> {
    Arc::new(Identity { scoped: true, ..Arc::into_inner(Identity::new(None)).unwrap() })
}

#[tokio::test]
async fn a_vault_that_refuses_the_guess_in_silence_is_asked_what_it_wants() {
    for code in [401, 403] {
        let server = Server::new(secretive(code, "https://test")).await;
        let client = client(ClientOptions::default());
        let identity = scoped();
        assert!(fetch(&client, &server.endpoint(), &identity, &[N]).await.is_ok(), "{code}");
        let tokens: Vec<Option<String>> =
            server.seen().iter().map(|seen| seen.token().map(str::to_owned)).collect();
        let told = |scope: &str| Some(format!("token of {scope}/.default"));
        assert_eq!(tokens, [told("https://vault.test"), None, told("https://test")]);
        // The token was good, only not here.
        assert!(identity.refused.lock().is_empty());
        // What was learnt is remembered.
        assert!(fetch(&client, &server.endpoint(), &identity, &[N]).await.is_ok());
        assert_eq!(server.seen().len(), 4);
    }
}

#[tokio::test]
async fn a_guess_that_was_right_is_doubted_once() {
    // The vault wants the very audience of the tokens it refuses, or one it has no business with.
    for (code, wanted, kind, requests) in [
        (401, "https://vault.test", FailureKind::Unauthenticated, [3, 5]),
        (403, "https://vault.test", FailureKind::Forbidden, [2, 3]),
        (401, "https://evil.example", FailureKind::Unauthenticated, [3, 6]),
        (403, "https://evil.example", FailureKind::Forbidden, [2, 4]),
    ] {
        let server = Server::new(secretive(code, wanted)).await;
        let client = client(ClientOptions::default());
        let identity = scoped();
        for requests in requests {
            let error = fetch(&client, &server.endpoint(), &identity, &[N]).await.unwrap_err();
            assert_eq!(error.kind(), kind);
            assert_eq!(server.seen().len(), requests, "{code} {wanted}");
        }
        assert!(identity.scopes.lock().iter().all(|scope| scope == "https://vault.test/.default"));
    }
    // Nor is a guess doubted that was taken before.
    let server = Server::new(|seen, before| match (before, seen.token()) {
        (0, Some(_)) => ok(SECRET),
        _ => status(403, ""),
    })
    .await;
    let client = client(ClientOptions::default());
    assert!(fetch(&client, &server.endpoint(), &scoped(), &[N]).await.is_ok());
    assert!(fetch(&client, &server.endpoint(), &scoped(), &[N]).await.is_err());
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn all_objects_of_a_volume_learn_together() {
    let server = Server::new(secretive(401, "https://test")).await;
    let fields: Vec<String> = (0..20).map(|i| format!("objectName: n{i}\nobjectType: secret")).collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let contents = fetch(&client(ClientOptions::default()), &server.endpoint(), &scoped(), &fields).await;
    assert_eq!(contents.map(|contents| contents.files.len()), Ok(20));
    assert_eq!(server.seen().iter().filter(|seen| seen.token().is_none()).count(), 1);
}

#[tokio::test]
async fn one_object_out_of_order_does_not_hold_up_the_others() {
    for code in [500, 503] {
        let server = Server::new(move |seen, before| match seen.target.as_str() {
            "/secrets/sick/?api-version=7.4" if before < 20 => {
                Reply { status: code, headers: vec![("retry-after", "600".into())], body: String::new() }
            }
            _ => ok(SECRET),
        })
        .await;
        let client = client(ClientOptions::default());
        let sick = "objectName: sick\nobjectType: secret";
        let error = fetch(&client, &server.endpoint(), &Identity::new(None), &[sick]).await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Unavailable);
        assert!(fetch(&client, &server.endpoint(), &Identity::new(None), &[N]).await.is_ok(), "{code}");
    }
    // Throttling concerns everyone.
    let server = Server::new(|_, _| Reply {
        status: 429,
        headers: vec![("retry-after", "600".into())],
        body: String::new(),
    })
    .await;
    let client = client(ClientOptions::default());
    for _ in 0..2 {
        let error = fetch(&client, &server.endpoint(), &Identity::new(None), &[N]).await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Throttled);
        assert_eq!(server.seen().len(), 1);
    }
}

/// A vault that takes connections and never answers, with no help of the HTTP client.
#[tokio::test(start_paused = true)]
async fn an_attempt_ends_by_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = VaultEndpoint::plain(listener.local_addr().unwrap());
    let credential = Identity::new(None);
    for (patience, waited, says) in [
        // Three attempts, and a wait of one and of two seconds between them, a quarter more or less.
        (
            Duration::from_mins(5),
            3.0 * 60.0 + 2.25..=3.0 * 60.0 + 3.75,
            "after 60.0 s of waiting for an answer",
        ),
        (Duration::from_secs(10), 10.0..=10.0, "after 10.0 s of waiting for an answer"),
    ] {
        let began = Instant::now();
        let request = FetchRequest {
            endpoint: &endpoint,
            credential: Arc::clone(&credential) as Arc<dyn Credential>,
            objects: &objects(&[N]),
            rendering: Rendering::default(),
            deadline: began + patience,
            max_age: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            priority: Priority::Mount,
        };
        let error = client(ClientOptions::default()).fetch(request).await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::DeadlineExceeded);
        assert!(error.to_string().contains(&format!("context deadline exceeded {says};")), "{error}");
        let elapsed = began.elapsed().as_secs_f64();
        assert!((waited.start() - 0.1..=waited.end() + 0.1).contains(&elapsed), "{elapsed}");
    }
    assert_eq!(exchange::LONGEST_ATTEMPT, Duration::from_mins(1));
}

#[tokio::test]
async fn answers_are_read_as_leniently_as_the_go_sdk_reads_them() {
    let server = Server::new(|_, _| {
        ok("\u{feff}{\"id\":\"https://v/secrets/n/old\",\"id\":\"https://v/secrets/n/v2\",\"value\":\"a\\ud800b\"}")
    })
    .await;
    let client = client(ClientOptions::default());
    let contents = fetch(&client, &server.endpoint(), &Identity::new(None), &[N]).await.unwrap();
    assert_eq!(shown(&contents), [row("n", "a\u{fffd}b", "secret/n", "v2")]);

    let server = Server::new(|_, _| {
        status(404, "\u{feff}{\"error\":{\"code\":\"SecretNotFound\",\"message\":\"m\\udc00\"}}")
    })
    .await;
    let error = fetch(&client, &server.endpoint(), &Identity::new(None), &[N]).await.unwrap_err();
    assert!(error.to_string().contains("404 SecretNotFound; "), "{error}");
    assert!(error.to_string().ends_with("Key Vault says: m\u{fffd}"), "{error}");
}

#[tokio::test]
async fn outages_and_throttling_pass() {
    for code in [408, 429, 500, 502, 503, 504] {
        let server =
            Server::new(move |_, before| if before < 3 { status(code, "") } else { ok(SECRET) }).await;
        let contents =
            fetch(&client(ClientOptions::default()), &server.endpoint(), &Identity::new(None), &[N]).await;
        assert!(contents.is_ok(), "{code}: {contents:?}");
        assert_eq!(server.seen().len(), 4);
    }
}

#[tokio::test]
async fn no_wait_is_begun_that_ends_too_late() {
    let server = Server::new(|_, _| Reply {
        status: 503,
        headers: vec![("retry-after", "600".into())],
        body: String::new(),
    })
    .await;
    let error = fetch(&client(ClientOptions::default()), &server.endpoint(), &Identity::new(None), &[N])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), FailureKind::Unavailable);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn redirects_stay_at_the_vault() {
    let to = |location: &'static str| Reply {
        status: 307,
        headers: vec![("location", location.into())],
        body: String::new(),
    };
    let server = Server::new(
        move |seen, _| if seen.target.starts_with("/moved") { ok(SECRET) } else { to("/moved?x=1") },
    )
    .await;
    assert!(
        fetch(&client(ClientOptions::default()), &server.endpoint(), &Identity::new(None), &[N])
            .await
            .is_ok()
    );
    assert_eq!(server.seen()[1].token(), Some("token-1"));

    let other = Server::new(|_, _| ok(SECRET)).await;
    let elsewhere = format!("http://{}/secrets/n/", other.address);
    let server = Server::new(move |_, _| Reply {
        status: 302,
        headers: vec![("location", elsewhere.clone())],
        body: String::new(),
    })
    .await;
    let error = fetch(&client(ClientOptions::default()), &server.endpoint(), &Identity::new(None), &[N])
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("a redirect leads away from the vault and is not followed"),
        "{error}"
    );
    assert!(other.seen().is_empty());

    let server = Server::new(move |_, _| to("/again")).await;
    let error = fetch(&client(ClientOptions::default()), &server.endpoint(), &Identity::new(None), &[N])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("one redirect after another"), "{error}");
}

fn item(version: &str, created: u32, enabled: bool) -> String {
    format!(
        r#"{{"id":"https://kv1/secrets/n/{version}","attributes":{{"enabled":{enabled},"created":{created}}}}}"#
    )
}

/// A vault with versions `v1` … `v5`, of which `v3` is off, on two pages.
fn versioned(seen: &Seen) -> Reply {
    if seen.target == "/secrets/n/versions?api-version=7.4" {
        let page = [item("v2", 20, true), item("v5", 50, true)].join(",");
        return ok(&format!(
            r#"{{"value":[{page}],"nextLink":"/secrets/n/versions?api-version=7.4&page=2"}}"#
        ));
    }
    if seen.target.ends_with("page=2") {
        let page = [item("v1", 10, true), item("v3", 30, false), item("v4", 40, true)].join(",");
        return ok(&format!(r#"{{"value":[{page}],"nextLink":""}}"#));
    }
    let version = seen.target.split(['/', '?']).nth(3).unwrap();
    ok(&format!(r#"{{"id":"https://kv1/secrets/n/{version}","value":"value of {version}"}}"#))
}

#[tokio::test]
async fn histories_are_newest_first_and_one_longer() {
    let server = Server::new(|seen, _| versioned(seen)).await;
    let client = client(ClientOptions::default());
    let names = |contents: &Contents| {
        contents.versions.iter().map(|version| version.version.clone()).collect::<Vec<_>>()
    };
    for (fields, expected) in [
        ("objectVersionHistory: 2", vec!["v5", "v4", "v2"]),
        ("objectVersionHistory: 9", vec!["v5", "v4", "v2", "v1"]),
        ("objectVersionHistory: 2\nobjectVersion: v4", vec!["v4", "v2", "v1"]),
        ("objectVersionHistory: 2\nobjectVersion: latest", vec!["v5", "v4", "v2"]),
        ("objectVersionHistory: 2\nobjectVersion: v3", vec![]),
    ] {
        let contents = fetch(&client, &server.endpoint(), &Identity::new(None), &[&format!("{N}\n{fields}")])
            .await
            .unwrap();
        assert_eq!(names(&contents), expected, "{fields}");
    }
    let contents = fetch(
        &client,
        &server.endpoint(),
        &Identity::new(None),
        &[&format!("{N}\nobjectVersionHistory: 2\nobjectAlias: ./a//b/")],
    )
    .await
    .unwrap();
    assert_eq!(
        shown(&contents)[..2],
        [row("a/b/0", "value of v5", "secret/n/0", "v5"), row("a/b/1", "value of v4", "secret/n/1", "v4")]
    );
}

/// An emulator behind a port mapping names an address of its own for the next page.
#[tokio::test]
async fn pages_of_the_same_list_are_asked_of_the_vault_wherever_they_are_said_to_be() {
    let other = Server::new(|_, _| ok("{}")).await;
    let inner = other.address;
    let server = Server::new(move |seen, _| {
        let mut reply = versioned(seen);
        reply.body = reply.body.replace(r#""nextLink":"/"#, &format!(r#""nextLink":"http://{inner}/"#));
        reply
    })
    .await;
    let contents = fetch(
        &client(ClientOptions::default()),
        &server.endpoint(),
        &Identity::new(None),
        &[&format!("{N}\nobjectVersionHistory: 2")],
    )
    .await
    .unwrap();
    assert_eq!(shown(&contents)[1], row("n/1", "value of v4", "secret/n/1", "v4"));
    assert_eq!(server.seen()[1].target, "/secrets/n/versions?api-version=7.4&page=2");
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn pages_elsewhere_are_not_followed() {
    let other = Server::new(|_, _| ok("{}")).await;
    let link = format!(r#"{{"value":[],"nextLink":"http://{}/secrets/m/versions"}}"#, other.address);
    let server = Server::new(move |_, _| ok(&link)).await;
    let error = fetch(
        &client(ClientOptions::default()),
        &server.endpoint(),
        &Identity::new(None),
        &[&format!("{N}\nobjectVersionHistory: 2")],
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("the next page of its versions leads away from the vault"), "{error}");
    assert!(other.seen().is_empty());
    let server = Server::new(|_, _| ok(r#"{"value":[],"nextLink":"/again"}"#)).await;
    let error = fetch(
        &client(ClientOptions::default()),
        &server.endpoint(),
        &Identity::new(None),
        &[&format!("{N}\nobjectVersionHistory: 2")],
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("does not end"), "{error}");
}

#[tokio::test]
async fn listing_needs_its_own_permission() {
    let body = r#"{"error":{"code":"Forbidden","message":"appid=a;","innererror":{"code":"AccessDenied"}}}"#;
    let server = Server::new(move |_, _| status(403, body)).await;
    let error = fetch(
        &client(ClientOptions::default()),
        &server.endpoint(),
        &Identity::new(None),
        &[&format!("{N}\nobjectVersionHistory: 2")],
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("--secret-permissions get list"), "{error}");
}

#[tokio::test]
async fn large_answers_are_cut_off() {
    let server = Server::new(|_, _| ok(&"x".repeat(5000))).await;
    let small = ClientOptions { largest_body: 4096, ..ClientOptions::default() };
    let error = fetch(&client(small), &server.endpoint(), &Identity::new(None), &[N]).await.unwrap_err();
    assert!(
        error.to_string().contains("the answer is larger than the limit of 4096 bytes; Key Vault's own"),
        "{error}"
    );
}

#[tokio::test]
async fn all_objects_are_asked_for_at_once() {
    let server = Server::new(|_, _| ok(SECRET)).await;
    // Nobody is answered before all twenty have asked.
    *server.barrier.lock() = Some(Arc::new(Barrier::new(20)));
    let fields: Vec<String> = (0..20).map(|i| format!("objectName: n{i}\nobjectType: secret")).collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let contents =
        fetch(&client(ClientOptions::default()), &server.endpoint(), &Identity::new(None), &fields)
            .await
            .unwrap();
    let paths: Vec<&str> = contents.files.iter().map(|file| file.path.as_str()).collect();
    let expected: Vec<String> = (0..20).map(|i| format!("n{i}")).collect();
    assert_eq!(paths, expected);
}

#[tokio::test]
async fn a_definite_failure_ends_the_rest_and_all_known_are_told() {
    let server = Server::new(|seen, _| match seen.target.as_str() {
        "/secrets/gone/?api-version=7.4" => {
            status(404, r#"{"error":{"code":"SecretNotFound","message":"m"}}"#)
        }
        "/secrets/busy/?api-version=7.4" => {
            Reply { status: 503, headers: vec![("retry-after", "600".into())], body: String::new() }
        }
        // Would be tried again for longer than the test may take.
        _ => Reply { status: 503, headers: vec![("retry-after", "9".into())], body: String::new() },
    })
    .await;
    let wanted = ["objectName: slow\nobjectType: secret", "objectName: gone\nobjectType: secret"];
    let error = fetch(&client(ClientOptions::default()), &server.endpoint(), &Identity::new(None), &wanted)
        .await
        .unwrap_err();
    let told: Vec<&str> = error.failures().iter().map(|failure| failure.object.as_str()).collect();
    assert_eq!(told, ["secret/gone"]);

    // What only may pass does not end the others; both are told.
    let wanted =
        ["objectName: busy\nobjectType: secret", "objectName: busy\nobjectType: secret\nobjectAlias: b"];
    let error = fetch(&client(ClientOptions::default()), &server.endpoint(), &Identity::new(None), &wanted)
        .await
        .unwrap_err();
    assert_eq!(error.failures().len(), 2);
    assert!(error.is_transient());
}

#[tokio::test]
async fn volumes_of_one_identity_share_what_is_fetched() {
    let server = Server::new(|_, _| ok(SECRET)).await;
    let client = client(ClientOptions::default());
    let age = Duration::from_mins(1);
    let first = fetch_aged(&client, &server.endpoint(), &Identity::new(Some("a")), &[N], age).await.unwrap();
    let again = fetch_aged(&client, &server.endpoint(), &Identity::new(Some("a")), &[N], age).await.unwrap();
    assert_eq!(shown(&first), shown(&again));
    assert_eq!(server.seen().len(), 1);
    // Another identity, and one that shares with nobody, ask for themselves.
    fetch_aged(&client, &server.endpoint(), &Identity::new(Some("b")), &[N], age).await.unwrap();
    fetch_aged(&client, &server.endpoint(), &Identity::new(None), &[N], age).await.unwrap();
    assert_eq!(server.seen().len(), 3);
    // Another version, type or vault is another value.
    fetch_aged(
        &client,
        &server.endpoint(),
        &Identity::new(Some("a")),
        &["objectName: n\nobjectType: secret\nobjectVersion: v1"],
        age,
    )
    .await
    .unwrap();
    assert_eq!(server.seen().len(), 4);
    // With the last volume the value is gone.
    drop((first, again));
    fetch_aged(&client, &server.endpoint(), &Identity::new(Some("a")), &[N], age).await.unwrap();
    assert_eq!(server.seen().len(), 5);
}

/// A resolver that knows no name.
struct Nowhere;

impl Resolve for Nowhere {
    fn resolve(&self, _: Name) -> Resolving {
        Box::pin(async { Err("failed to lookup address information: Name or service not known".into()) })
    }
}

/// What a client over `http` is told of a vault that cannot be reached.
async fn unreachable(http: reqwest::ClientBuilder, endpoint: &VaultEndpoint) -> FetchError {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::new(http.no_proxy().build().unwrap(), ClientOptions::default());
    fetch(&client, endpoint, &Identity::new(None), &[N]).await.unwrap_err()
}

fn vault_at(port: u16) -> VaultEndpoint {
    VaultEndpoint::new(&crate::VaultName::parse("kv1").unwrap(), &format!("vault.test:{port}"), None).unwrap()
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    let error = unreachable(reqwest::Client::builder().dns_resolver(Arc::new(Nowhere)), &vault_at(443)).await;
    assert!(error.to_string().contains("no such host: "), "{error}");
    assert!(error.to_string().contains("the vault is gone or never was"), "{error}");
    assert_eq!(error.kind(), FailureKind::Unavailable);
}

#[tokio::test]
async fn a_port_where_nobody_listens() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = client(ClientOptions::default());
    // The path of a certificate is no sign of trouble with TLS.
    let wanted = ["objectName: alert\nobjectType: cert"];
    let error = fetch(&client, &VaultEndpoint::plain(free), &Identity::new(None), &wanted).await.unwrap_err();
    assert!(error.to_string().contains("firewall, network policy, proxy, private endpoint"), "{error}");
    assert_eq!(error.kind(), FailureKind::Unavailable);
}

#[tokio::test]
async fn a_server_that_is_not_to_be_trusted() {
    // One certificate of nobody known, and one server that does not speak TLS.
    let certified = rcgen::generate_simple_self_signed(vec!["kv1.vault.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    for speaks_tls in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                if speaks_tls {
                    let _ = acceptor.accept(stream).await;
                } else {
                    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                }
            }
        });
        let http = reqwest::Client::builder().resolve("kv1.vault.test", address);
        let error = unreachable(http, &vault_at(address.port())).await;
        assert!(error.to_string().contains(": TLS: "), "{error}");
        assert!(error.to_string().contains("SSL_CERT_FILE"), "{error}");
        assert_eq!(error.kind(), FailureKind::Unavailable);
    }
}

#[tokio::test]
async fn a_storm_of_throttling_fails_nobody() {
    let server = Server::new(|_, before| if before % 2 == 0 { status(429, "") } else { ok(SECRET) }).await;
    let fields: Vec<String> = (0..20).map(|i| format!("objectName: n{i}\nobjectType: secret")).collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let contents =
        fetch(&client(ClientOptions::default()), &server.endpoint(), &Identity::new(None), &fields).await;
    assert_eq!(contents.map(|contents| contents.files.len()), Ok(20));
}

#[tokio::test]
async fn separate_files_carry_the_same_version() {
    let pem = "-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n-----BEGIN PRIVATE KEY-----\\nBBBB\\n-----END PRIVATE KEY-----\\n";
    let body = format!(
        r#"{{"id":"https://v/secrets/c/v7","kid":"https://v/keys/c/v7","contentType":"application/x-pem-file","value":"{pem}"}}"#
    );
    let server = Server::new(move |_, _| ok(&body)).await;
    let objects = objects(&["objectName: c\nobjectType: secret\nobjectAlias: tls/web\nfilePermission: 0640"]);
    let request = FetchRequest {
        endpoint: &server.endpoint(),
        credential: Identity::new(None),
        objects: &objects,
        rendering: Rendering { construct_pem_chain: true, separate_cert_and_key_files: true },
        deadline: Instant::now() + Duration::from_secs(10),
        max_age: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        priority: Priority::Mount,
    };
    let contents = client(ClientOptions::default()).fetch(request).await.unwrap();
    let paths: Vec<(&str, Option<u32>)> =
        contents.files.iter().map(|file| (file.path.as_str(), file.mode)).collect();
    assert_eq!(paths, [("tls/web.crt", Some(0o640)), ("tls/web.key", Some(0o640)), ("tls/web", Some(0o640))]);
    let version = ObjectVersion { id: "secret/c".into(), version: "v7".into() };
    assert_eq!(contents.versions, vec![version; 3]);
}

/// A PFX as Key Vault makes them goes all the way through, off the thread that serves others.
#[tokio::test]
async fn a_pfx_becomes_pem() {
    let body = r#"{"id":"https://v/secrets/c/v7","kid":"https://v/keys/c/v7","contentType":"application/x-pkcs12","value":"*"}"#;
    let server = Server::new(move |_, _| ok(body)).await;
    let identity = Identity::new(None);
    let as_pem = fetch(
        &client(ClientOptions::default()),
        &server.endpoint(),
        &identity,
        &["objectName: c\nobjectType: secret"],
    )
    .await;
    assert!(as_pem.unwrap_err().to_string().contains("illegal base64 data at input byte 0"));
    let as_pfx = fetch(
        &client(ClientOptions::default()),
        &server.endpoint(),
        &identity,
        &["objectName: c\nobjectType: secret\nobjectFormat: pfx"],
    )
    .await;
    assert_eq!(shown(&as_pfx.unwrap()), [row("c", "*", "secret/c", "v7")]);
}
