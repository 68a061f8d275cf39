//! The one HTTP client that Entra and Key Vault are asked with.

use crate::error::StartError;
use std::path::Path;
use std::time::Duration;

/// Time to connect, TLS included. Key Vault answers in milliseconds; a firewall that drops packets never does.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for one whole request.
const TOTAL: Duration = Duration::from_secs(15);
/// The system's certificates, where the platform keeps them.
const SYSTEM_BUNDLES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Makes the client: pooled connections, HTTP/2 where offered, TLS 1.2 and 1.3, proxies by the usual variables
/// (`HTTPS_PROXY`, `NO_PROXY`, …), CA certificates of the system and of `SSL_CERT_FILE`.
///
/// # Errors
/// [`StartError::Http`], when there is no CA certificate at all.
pub fn client(custom_user_agent: &str) -> Result<reqwest::Client, StartError> {
    let failed = |error: reqwest::Error| StartError::Http(crate::error::chain(&error));
    let mut agent = format!("akv-csi/{}", env!("CARGO_PKG_VERSION"));
    if !custom_user_agent.is_empty() {
        agent = format!("{agent} {custom_user_agent}");
    }
    let mut builder = reqwest::Client::builder()
        .user_agent(agent)
        .connect_timeout(CONNECT)
        .timeout(TOTAL)
        .pool_idle_timeout(Duration::from_secs(90))
        .tcp_keepalive(Duration::from_secs(30))
        .redirect(reqwest::redirect::Policy::none())
        .https_only(true)
        .tls_version_min(reqwest::tls::Version::TLS_1_2);
    // With SSL_CERT_FILE set, the TLS library takes that file in place of the system's bundle. Operators set it to add a
    // private CA and still need the public ones, as with Go programs, where the system's folder stays in use.
    if std::env::var_os("SSL_CERT_FILE").is_some_and(|file| !file.is_empty()) {
        for bundle in SYSTEM_BUNDLES.iter().map(Path::new).filter(|bundle| bundle.is_file()) {
            let pem = std::fs::read(bundle)
                .map_err(|error| StartError::Http(format!("{}: {error}", bundle.display())))?;
            builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&pem).map_err(failed)?);
        }
    }
    builder.build().map_err(failed)
}
