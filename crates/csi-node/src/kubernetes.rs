//! The client of the Kubernetes API server, and how it is used: what is followed, and when a failed call is repeated.

mod changes;

pub use changes::{Change, Followed, follow};

use crate::error::StartError;
use axum::http::Uri;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(5);
/// Longer than a watch may be silent; each call has a bound of its own, which is shorter.
const READ: Duration = Duration::from_secs(310);

/// Sets up a client: from the given kubeconfig, else from `KUBECONFIG`, the pod's service account or `~/.kube/config`.
/// Nothing is sent yet.
///
/// # Errors
/// [`StartError::Kubernetes`], when there is no usable configuration.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, StartError> {
    let failed = |error: &dyn std::error::Error| StartError::Kubernetes(crate::error::chain(error));
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| failed(&error))?
        }
        None => Config::infer().await.map_err(|error| failed(&error))?,
    };
    // What the environment says is for Azure. A pod reaches its API server directly, so it is the same with a kubeconfig; and
    // NO_PROXY, which would have to be heeded then, is compared with the proxy's own address by this client.
    if config.proxy_url.is_some() && config.proxy_url == proxy_of_environment() {
        config.proxy_url = None;
    }
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.reset_reader_on_write = true;
    Client::try_from(config).map_err(|error| failed(&error))
}

/// The proxy that the client takes from the environment where a kubeconfig names none.
fn proxy_of_environment() -> Option<Uri> {
    ["HTTPS_PROXY", "https_proxy"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty())
        .and_then(|value| value.parse().ok())
}

/// How long to wait before try number `attempt` (from 1) of something that failed: 1 s, doubling up to a minute, a quarter more
/// or less, so that nodes that failed together do not come back together.
pub fn backoff(attempt: u32) -> Duration {
    jittered(Duration::from_secs(1 << attempt.saturating_sub(1).min(6)).min(Duration::from_secs(60)))
}

/// `wait`, a quarter more or less.
pub fn jittered(wait: Duration) -> Duration {
    // A hasher's random seed is randomness enough, and needs no generator.
    let random = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(u32::MAX / 2);
    wait.mul_f64(0.75 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}
