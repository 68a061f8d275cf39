//! The one HTTP client that Entra and Key Vault are asked with.

pub mod trust;

use crate::error::StartError;
use reqwest::header::HeaderValue;
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::version::{TLS12, TLS13};
use std::sync::Arc;
use std::time::Duration;
use trust::{Anchors, Verifier};

/// Time to connect, TLS included. Key Vault answers in milliseconds; a firewall that drops packets never does.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a connection is kept without requests. Load balancers of Azure drop idle ones after 4 minutes.
const IDLE: Duration = Duration::from_secs(90);
/// How often a silent connection is probed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Makes the client that trusts what the environment says; see [`Anchors::from_environment`] and [`client_trusting`].
///
/// # Errors
/// [`StartError::Http`] for certificates that cannot be used, [`StartError::Flag`] for a user agent that cannot be sent.
pub fn client(custom_user_agent: &str) -> Result<reqwest::Client, StartError> {
    client_trusting(Anchors::from_environment()?, custom_user_agent)
}

/// Makes a client: pooled connections, HTTP/2 where offered, TLS 1.2 and 1.3, https only, no redirects, proxies by the
/// usual variables (`HTTPS_PROXY`, `NO_PROXY`, …). Only connecting is bounded in time: whoever asks bounds the whole try.
///
/// # Errors
/// [`StartError::Flag`] when `custom_user_agent`, which comes after the driver's own name, has characters that no HTTP
/// header may have (RFC 9110, section 5.5).
pub fn client_trusting(anchors: Anchors, custom_user_agent: &str) -> Result<reqwest::Client, StartError> {
    let verifier = Verifier::new(anchors, Arc::new(ring::default_provider()))?;
    client_verifying(Arc::new(verifier), custom_user_agent)
}

/// Makes a client for a collector of traces, which trusts the same servers. Collectors within a cluster speak plain HTTP.
///
/// # Errors
/// As [`client`].
pub fn client_for_collector(custom_user_agent: &str) -> Result<reqwest::Client, StartError> {
    let verifier = Verifier::new(Anchors::from_environment()?, Arc::new(ring::default_provider()))?;
    let client = builder(Arc::new(verifier), custom_user_agent)?.https_only(false).build();
    client.map_err(|error| StartError::Http(crate::error::chain(&error)))
}

/// Makes a client as [`client_trusting`] does, whose servers are judged by this verifier.
///
/// # Errors
/// As [`client_trusting`].
pub fn client_verifying(
    verifier: Arc<dyn ServerCertVerifier>,
    custom_user_agent: &str,
) -> Result<reqwest::Client, StartError> {
    let client = builder(verifier, custom_user_agent)?.build();
    client.map_err(|error| StartError::Http(crate::error::chain(&error)))
}

fn builder(
    verifier: Arc<dyn ServerCertVerifier>,
    custom_user_agent: &str,
) -> Result<reqwest::ClientBuilder, StartError> {
    let mut agent = format!("akv-csi/{}", env!("CARGO_PKG_VERSION"));
    if !custom_user_agent.is_empty() {
        agent = format!("{agent} {custom_user_agent}");
    }
    let agent = HeaderValue::from_str(&agent).map_err(|_| StartError::Flag {
        flag: "--custom-user-agent",
        reason: format!(
            "{custom_user_agent:?} cannot be sent in a header: leave line breaks and other control characters out"
        ),
    })?;
    let failed = |cause: &dyn std::error::Error| StartError::Http(crate::error::chain(cause));

    let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| failed(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // A TLS configuration that is handed over is taken as it is: nobody else names the protocols.
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(agent)
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .tcp_keepalive(KEEP_ALIVE)
        .redirect(reqwest::redirect::Policy::none())
        .https_only(true))
}
