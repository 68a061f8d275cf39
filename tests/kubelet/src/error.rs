//! What can go wrong in the test kubelet itself, as opposed to what a driver answers.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::manifest::PodName;

/// An error of this crate. A driver's refusal to mount is not one: see [`MountFailure`](crate::MountFailure).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A YAML text that is malformed, or that the API server would refuse.
    #[error("manifest refused: {0}")]
    Manifest(String),
    /// A name that Kubernetes does not allow, or that would not be safe as part of a path.
    #[error("{what} {name:?} is not a valid Kubernetes name: {cure}")]
    InvalidName {
        /// What the name was to name.
        what: &'static str,
        /// The name.
        name: String,
        /// What a valid one looks like.
        cure: &'static str,
    },
    /// The kubelet was started without something it needs.
    #[error("the test kubelet cannot start: {0}")]
    Configuration(String),
    /// A file or folder could not be read, made or removed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The issuer's discovery server could not listen.
    #[error("the service-account issuer cannot listen on {address}: {source}; is another one running there?")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
    /// The issuer's signing key or TLS certificate is unusable.
    #[error("the service-account issuer's {what} is unusable: {reason}")]
    Key {
        /// Which one.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// A pod of that name is there already.
    #[error("pod {0} already exists; delete it first")]
    PodExists(PodName),
    /// No pod of that name is known.
    #[error("pod {0} not found")]
    PodNotFound(PodName),
    /// The pod has no inline CSI volume of that name.
    #[error("pod {pod} has no CSI volume {volume:?}")]
    VolumeNotFound {
        /// The pod.
        pod: PodName,
        /// The volume asked for.
        volume: String,
    },
    /// A driver did not register in time.
    #[error("driver {driver} did not register within {waited:?}{}", last.as_ref().map(|l| format!("; last news: {l}")).unwrap_or_default())]
    NotRegistered {
        /// The driver waited for.
        driver: String,
        /// How long.
        waited: Duration,
        /// The last thing seen in the registration folder.
        last: Option<String>,
    },
    /// A volume was not mounted in time.
    #[error("pod {pod}: volume {volume} not mounted within {waited:?}: {last}")]
    NotMounted {
        /// The pod.
        pod: PodName,
        /// The first volume that was not mounted.
        volume: String,
        /// How long.
        waited: Duration,
        /// The last failure, or what the volume waits for.
        last: String,
    },
    /// A requested republish failed; the volume stays mounted as it was.
    #[error("pod {pod}: volume {volume} not republished: {failure}")]
    NotRepublished {
        /// The pod.
        pod: PodName,
        /// The volume.
        volume: String,
        /// What the driver answered, or why it was not asked.
        failure: String,
    },
    /// A volume was not unpublished in time.
    #[error("pod {pod}: volume {volume} not unmounted within {waited:?}: {last}")]
    NotUnmounted {
        /// The pod.
        pod: PodName,
        /// The first volume that is still there.
        volume: String,
        /// How long.
        waited: Duration,
        /// The last failure.
        last: String,
    },
}

impl Error {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
