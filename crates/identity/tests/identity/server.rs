//! A token service's stand-in: answers what a test tells it to and remembers what it was asked.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Method, Response, Uri},
};
use identity::{Asker, Assertion, Authority, Cloud, Config, TenantId, Tokens};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub headers: HeaderMap,
    pub form: BTreeMap<String, String>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn field(&self, name: &str) -> &str {
        self.form.get(name).map_or("", String::as_str)
    }
}

/// What to answer: status, headers, body.
pub struct Answer(pub u16, pub Vec<(&'static str, String)>, pub String);

impl Answer {
    pub fn json(status: u16, body: &Value) -> Self {
        Self(status, vec![("content-type", "application/json".to_owned())], body.to_string())
    }

    /// A token that lasts an hour.
    pub fn token(text: &str) -> Self {
        Self::json(200, &json!({"token_type": "Bearer", "expires_in": 3600, "access_token": text}))
    }

    /// A refusal in Entra's form. The `\r\n` becomes an escape in JSON, as it is on the wire.
    pub fn aadsts(status: u16, error: &str, code: u32, text: &str) -> Self {
        let description = format!("AADSTS{code}: {text}\r\nTrace ID: 0-1\r\nTimestamp: 2026-01-01 00:00:00Z");
        Self::json(status, &json!({"error": error, "error_description": description, "error_codes": [code]}))
    }
}

type Script = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    pub ca_pem: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    names: Arc<Mutex<Vec<Option<String>>>>,
    failed_handshakes: Arc<AtomicUsize>,
    arrived: Arc<AtomicUsize>,
    door: Arc<Semaphore>,
}

impl Server {
    /// A TLS server with a certificate for `localhost` and further names.
    pub async fn tls(more_names: &[&str], script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let mut names = vec!["localhost".to_owned()];
        names.extend(more_names.iter().map(|name| (*name).to_owned()));
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
        let chain = vec![CertificateDer::from(leaf.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let ca_pem = ca.pem();
        Self::serve(Some(TlsAcceptor::from(Arc::new(config))), ca_pem, script).await
    }

    /// A server without TLS, as the metadata service is.
    pub async fn plain(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self::serve(None, String::new(), script).await
    }

    async fn serve(
        tls: Option<TlsAcceptor>,
        ca_pem: String,
        script: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            ca_pem,
            asked: Arc::default(),
            names: Arc::default(),
            failed_handshakes: Arc::default(),
            arrived: Arc::default(),
            door: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        };
        let (asked, arrived, door) = (server.asked.clone(), server.arrived.clone(), server.door.clone());
        let script: Arc<Script> = Arc::new(script);
        let router = Router::new().fallback(
            move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
                arrived.fetch_add(1, SeqCst);
                let _open = door.acquire().await.unwrap();
                let pairs = |text: &[u8]| url::form_urlencoded::parse(text).into_owned().collect();
                let request = Asked {
                    method,
                    path: uri.path().to_owned(),
                    query: pairs(uri.query().unwrap_or_default().as_bytes()),
                    headers,
                    form: pairs(&body),
                    body: String::from_utf8_lossy(&body).into_owned(),
                };
                let Answer(status, headers, body) = script(&request);
                asked.lock().unwrap().push(request);
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                response.body(Body::from(body)).unwrap()
            },
        );
        match tls {
            None => drop(tokio::spawn(async move { axum::serve(listener, router).await })),
            Some(acceptor) => {
                let listener = TlsListener {
                    listener,
                    acceptor,
                    names: server.names.clone(),
                    failed: server.failed_handshakes.clone(),
                };
                drop(tokio::spawn(async move { axum::serve(listener, router).await }));
            }
        }
        server
    }

    /// All requests that were answered.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// TLS server names asked for, one per connection.
    pub fn names(&self) -> Vec<Option<String>> {
        self.names.lock().unwrap().clone()
    }

    /// TLS handshakes that came to nothing.
    pub fn failed_handshakes(&self) -> usize {
        self.failed_handshakes.load(SeqCst)
    }

    /// Requests that have arrived, answered or not.
    pub fn arrivals(&self) -> usize {
        self.arrived.load(SeqCst)
    }

    /// Holds all answers back until [`Server::open`].
    pub fn close(&self) {
        self.door.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub fn open(&self) {
        self.door.add_permits(Semaphore::MAX_PERMITS);
    }

    /// Waits until so many requests have arrived; a watchdog ends it if they never do.
    pub async fn wait_for_arrivals(&self, count: usize) {
        let arrivals = async {
            while self.arrived.load(SeqCst) < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), arrivals).await.expect("requests arrive");
    }

    /// A client that trusts this server.
    pub fn client(&self) -> reqwest::Client {
        let ca = reqwest::Certificate::from_pem(self.ca_pem.as_bytes()).unwrap();
        reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap()
    }

    /// This server as the authority of a custom cloud.
    pub fn authority(&self, tenant: &TenantId) -> Authority {
        let file = json!({
            "name": "TestCloud",
            "activeDirectoryEndpoint": format!("https://localhost:{}/", self.address.port()),
            "keyVaultDNSSuffix": "vault.test",
        });
        Cloud::from_file(file.to_string().as_bytes(), None).unwrap().authority(tenant).unwrap()
    }

    pub fn tokens(&self) -> Tokens {
        Tokens::new(Config::new(self.client()).unwrap()).unwrap()
    }

    pub fn write_ca(&self, file: &Path) {
        std::fs::write(file, &self.ca_pem).unwrap();
    }
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    names: Arc<Mutex<Vec<Option<String>>>>,
    failed: Arc<AtomicUsize>,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((socket, address)) = self.listener.accept().await else { continue };
            let Ok(stream) = self.acceptor.accept(socket).await else {
                self.failed.fetch_add(1, SeqCst);
                continue;
            };
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            self.names.lock().unwrap().push(name);
            return (stream, address);
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

pub fn tenant() -> TenantId {
    TenantId::parse("11111111-2222-3333-4444-555555555555").unwrap()
}

pub fn asker(namespace: &str, service_account: &str) -> Asker {
    Asker {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod: format!("{service_account}-pod"),
    }
}

/// A service account token as Kubernetes makes them, signed by nobody. `id` tells several apart.
pub fn assertion(subject: &str, audience: &str, seconds_left: i64, id: &str) -> Assertion {
    Assertion::new(audience.to_owned(), jwt(subject, audience, seconds_left, id).into(), None)
}

pub fn jwt(subject: &str, audience: &str, seconds_left: i64, id: &str) -> String {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let claims = json!({"iss": "https://oidc.test/cluster/", "sub": subject, "aud": [audience],
        "nbf": now - 5000, "exp": now + seconds_left, "jti": id});
    let part = |text: &str| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
    format!(
        "{}.{}.{}",
        part(r#"{"alg":"RS256","kid":"k"}"#),
        part(&claims.to_string()),
        part("a signature by nobody")
    )
}

/// The pod's own, good service account token.
pub fn own_assertion(asker: &Asker) -> Assertion {
    assertion(&asker.subject(), identity::AUDIENCE_PUBLIC, 3000, &asker.pod)
}

/// What an assertion in a form says it is of. A stand-in for Entra's verification.
pub fn subject_of(jwt: &str) -> String {
    let payload = jwt.split('.').nth(1).unwrap_or_default();
    let payload = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&payload).unwrap_or_default();
    claims["sub"].as_str().unwrap_or_default().to_owned()
}
