//! The client of the Kubernetes API server.

use crate::error::StartError;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use std::path::Path;
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(5);
/// An API server that is alive answers in milliseconds. The publish call's own deadline is longer.
const READ: Duration = Duration::from_secs(20);

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
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    Client::try_from(config).map_err(|error| failed(&error))
}
