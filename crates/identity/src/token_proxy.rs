//! The way to the token proxy of AKS identity bindings: the cluster's API server, asked under a TLS server
//! name of its own, passes token requests on to Entra.
//!
//! Neither the Azure SDK nor reqwest can send a request to one address under another's TLS name; a client
//! whose resolver maps that name to the proxy's address can.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use data_encoding::BASE32HEX_NOPAD;
use ring::digest;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, sync::Mutex, time::Instant};
use tokio_rustls::TlsConnector;
use url::Url;
use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use crate::{Error, error::chain};

/// How long finding out the API server's certificate may take.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// How long a failure of it stands before it is tried again.
const PROBE_PAUSE: Duration = Duration::from_secs(5);

/// Where the token proxy is and how it is trusted.
#[derive(Clone, Debug)]
pub struct TokenProxyConfig {
    /// The proxy's address, https, possibly with a path to put before every request's (`--token-proxy-url`).
    pub url: Url,
    /// The TLS server name to ask for (`--sni-name`); computed from the API server's certificate if absent.
    pub server_name: Option<String>,
    /// The cluster's CA. Trusted exclusively, and read again when it changes; if there is no such file, the
    /// system's CAs are trusted.
    pub ca_file: PathBuf,
    /// Host and port of the API server, whose certificate names the cluster.
    pub api_server: (String, u16),
}

impl TokenProxyConfig {
    /// The proxy of the cluster this process runs in. `port` is `KUBERNETES_SERVICE_PORT`.
    ///
    /// # Errors
    /// None in practice; the fixed address is a URL.
    pub fn in_cluster(port: u16) -> Result<Self, Error> {
        let host = "kubernetes.default.svc.cluster.local";
        Ok(Self {
            url: Url::parse(&format!("https://{host}")).map_err(Error::internal)?,
            server_name: None,
            ca_file: PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"),
            api_server: (host.to_owned(), port),
        })
    }
}

/// Rewrites token requests so that they reach the proxy.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    base: Url,
}

impl Route {
    /// The same path and query at the proxy, below its own path.
    pub(crate) fn through(&self, url: &Url) -> Url {
        let mut to = self.base.clone();
        to.set_path(&format!("{}{}", self.base.path().trim_end_matches('/'), url.path()));
        to.set_query(url.query());
        to
    }
}

/// The prepared way to the proxy. What cannot be prepared now is tried again with the next request.
pub(crate) struct TokenProxy {
    config: TokenProxyConfig,
    prepared: Mutex<Prepared>,
}

#[derive(Default)]
struct Prepared {
    server_name: Option<String>,
    /// When looking for the name failed last, and how.
    failed: Option<(Instant, String)>,
    /// The CA text the client was built with, and the client.
    client: Option<(Option<Vec<u8>>, reqwest::Client)>,
}

impl TokenProxy {
    pub(crate) fn new(config: TokenProxyConfig) -> Result<Self, Error> {
        let url = &config.url;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if url.scheme() != "https" || !plain {
            return Err(Error::TokenProxy {
                reason: "the proxy's URL must be https, without user name, query and fragment".to_owned(),
            });
        }
        let prepared = Prepared { server_name: config.server_name.clone(), ..Prepared::default() };
        Ok(Self { config, prepared: Mutex::new(prepared) })
    }

    /// A client that reaches the proxy and the rewriting that goes with it.
    pub(crate) async fn prepare(&self) -> Result<(reqwest::Client, Route), Error> {
        let mut prepared = self.prepared.lock().await;
        let server_name = if let Some(name) = &prepared.server_name {
            name.clone()
        } else {
            let told = |reason| Error::TokenProxy {
                reason: format!("compute SNI name: extract cluster ID from API server certificate: {reason}"),
            };
            let roots = read_roots(&self.config.ca_file).await.map_err(told)?;
            // A hundred identities must not each wait for the same silence, one after another.
            if let Some((at, reason)) = &prepared.failed
                && at.elapsed() < PROBE_PAUSE
            {
                return Err(told(reason.clone()));
            }
            match self.compute_server_name(roots).await {
                Ok(name) => prepared.server_name.insert(name).clone(),
                Err(reason) => {
                    prepared.failed = Some((Instant::now(), reason.clone()));
                    return Err(told(reason));
                }
            }
        };
        let ca = match tokio::fs::read(&self.config.ca_file).await {
            Ok(text) if text.trim_ascii().is_empty() => match &prepared.client {
                // A CA file is empty for a moment while it is being written.
                Some((old, _)) => old.clone(),
                None => return Err(self.bad_ca("it is empty")),
            },
            Ok(text) => Some(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(self.bad_ca(&e.to_string())),
        };
        let client = match &prepared.client {
            Some((of, client)) if *of == ca => client.clone(),
            _ => {
                let client = self.client(&server_name, ca.as_deref())?;
                prepared.client = Some((ca, client.clone()));
                client
            }
        };
        let mut base = self.config.url.clone();
        base.set_host(Some(&server_name)).map_err(|e| Error::TokenProxy {
            reason: format!("the server name {server_name:?} is no host name: {e}"),
        })?;
        Ok((client, Route { base }))
    }

    fn client(&self, server_name: &str, ca: Option<&[u8]>) -> Result<reqwest::Client, Error> {
        let resolver = ToProxy {
            server_name: server_name.to_ascii_lowercase(),
            host: self.config.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        };
        let mut builder = reqwest::Client::builder()
            // HTTP/2 would put the TLS name where the Host header must name the authority.
            .http1_only()
            // The API server is in the cluster, and no proxy outside could resolve the TLS name.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .dns_resolver(Arc::new(resolver));
        if let Some(ca) = ca {
            let roots = reqwest::Certificate::from_pem_bundle(ca).map_err(|e| self.bad_ca(&chain(&e)))?;
            builder = builder.tls_certs_only(roots);
        }
        builder.build().map_err(|e| Error::TokenProxy { reason: chain(&e) })
    }

    fn bad_ca(&self, reason: &str) -> Error {
        Error::TokenProxy { reason: format!("CA file {}: {reason}", self.config.ca_file.display()) }
    }

    /// Asks the API server for its certificate and computes the proxy's name from the cluster id in it.
    async fn compute_server_name(&self, roots: RootCertStore) -> Result<String, String> {
        let (host, port) = &self.config.api_server;
        let probe = async {
            let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
            let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
            let socket = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| chain(&e))?;
            let tls = TlsConnector::from(Arc::new(config));
            let stream = tls.connect(name, socket).await.map_err(|e| chain(&e))?;
            let (_, session) = stream.get_ref();
            let leaf = session.peer_certificates().and_then(<[_]>::first);
            leaf.map(|der| der.to_vec()).ok_or_else(|| "no certificate".to_owned())
        };
        let leaf = tokio::time::timeout(PROBE_LIMIT, probe)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", PROBE_LIMIT.as_secs())))
            .map_err(|reason| {
                format!(
                    "TLS connect to API server: {host}:{port}: {reason} (the driver's pod needs dnsPolicy \
                     ClusterFirstWithHostNet to resolve this name; use --sni-name flag to skip automatic SNI \
                     detection)"
                )
            })?;
        let id = dns_names(&leaf).iter().find_map(|name| cluster_id(name).map(str::to_owned));
        id.map(|id| server_name(&id)).ok_or_else(|| {
            "cluster ID SAN not found in API server certificate (use --sni-name flag to provide SNI name \
             explicitly)"
                .to_owned()
        })
    }
}

async fn read_roots(file: &Path) -> Result<RootCertStore, String> {
    let hint = "(use --sni-name flag to skip automatic SNI detection)";
    let shown = file.display();
    let text = tokio::fs::read(file).await.map_err(|e| format!("read CA file {shown}: {e} {hint}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let added =
            certificate.map_err(|e| e.to_string()).and_then(|c| roots.add(c).map_err(|e| e.to_string()));
        added.map_err(|e| format!("parse CA file {shown}: {e} {hint}"))?;
    }
    if roots.is_empty() {
        return Err(format!("parse CA file {shown}: it holds no certificate {hint}"));
    }
    Ok(roots)
}

fn dns_names(certificate: &[u8]) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some((_, SubjectAltName(names)))) =
        certificate.tbs_certificate().get_extension::<SubjectAltName>()
    else {
        return Vec::new();
    };
    let dns = names.into_iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        _ => None,
    });
    dns.collect()
}

/// The id in a name AKS gives its API servers: `hcp-kubernetes.ID.svc.cluster.local`.
fn cluster_id(name: &str) -> Option<&str> {
    let id = name.strip_prefix("hcp-kubernetes.")?.strip_suffix(".svc.cluster.local")?;
    (!id.is_empty() && !id.contains('.')).then_some(id)
}

/// The proxy's TLS name in the cluster with this id: one label of 53 characters under `ests.aks`.
fn server_name(cluster_id: &str) -> String {
    let hash = digest::digest(&digest::SHA256, format!("identity-binding{cluster_id}").as_bytes());
    format!("a{}.ests.aks", BASE32HEX_NOPAD.encode(hash.as_ref()).to_ascii_lowercase())
}

/// Resolves the proxy's TLS name to the proxy's address.
struct ToProxy {
    server_name: String,
    host: String,
}

impl reqwest::dns::Resolve for ToProxy {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let asked = name.as_str().eq_ignore_ascii_case(&self.server_name);
        let host = if asked { self.host.clone() } else { name.as_str().to_owned() };
        Box::pin(async move {
            // Port 0: the port of the URL is used.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn server_names_of_known_clusters() {
        assert_eq!(
            server_name("696995ccb303450001b31a18"),
            "aeaf29ip1hi5q38ebc3u4daum81u0unk52t5bg50j25234fmuj78g.ests.aks"
        );
        assert_eq!(
            server_name("abc123def456"),
            "avimke6u6l2eeq8qc1cneuaq4sl2e1av9t4clqgun97le32hub670.ests.aks"
        );
    }

    #[test]
    fn cluster_ids_stand_in_one_kind_of_name() {
        assert_eq!(cluster_id("hcp-kubernetes.abc123.svc.cluster.local"), Some("abc123"));
        for other in
            ["kubernetes", "hcp-kubernetes..svc.cluster.local", "hcp-kubernetes.a.b.svc.cluster.local", "x"]
        {
            assert_eq!(cluster_id(other), None, "{other}");
        }
    }

    #[test]
    fn requests_keep_path_and_query_below_the_proxys_path() {
        let url = Url::parse("https://login.microsoftonline.com/t/oauth2/v2.0/token?a=b").unwrap();
        let route = |base| Route { base: Url::parse(base).unwrap() }.through(&url).to_string();
        assert_eq!(route("https://x.ests.aks"), "https://x.ests.aks/t/oauth2/v2.0/token?a=b");
        assert_eq!(route("https://x.ests.aks:8/p/"), "https://x.ests.aks:8/p/t/oauth2/v2.0/token?a=b");
    }

    #[test]
    fn the_proxys_url_is_checked() {
        for bad in ["http://h", "https://u@h", "https://h?q", "https://h#f"] {
            let mut config = TokenProxyConfig::in_cluster(443).unwrap();
            config.url = Url::parse(bad).unwrap();
            assert!(TokenProxy::new(config).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_certificate_is_taken(der in any::<Vec<u8>>(), name in any::<String>()) {
            let _ = dns_names(&der);
            let _ = cluster_id(&name);
            prop_assert_eq!(server_name(&name).len(), 53 + ".ests.aks".len());
        }
    }
}
