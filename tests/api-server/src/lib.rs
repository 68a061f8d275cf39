//! A real kube-apiserver with its etcd on the loopback, for tests.
//!
//! RBAC is on, the project's CRDs are installed, and every request is written down ([`ApiServer::requests`]), so that a
//! test can prove how often the API server was asked. There are no controllers: nothing is collected as garbage, no
//! service account gets created, and pods are just objects.
//!
//! ```no_run
//! # async fn test() {
//! let Some(server) = api_server::ApiServer::shared().await.unwrap() else { return };
//! let namespace = server.namespace("sync").await.unwrap();
//! let client = server.client_as("system:serviceaccount:kube-system:akv-csi").await.unwrap();
//! # }
//! ```
//!
//! Two programs are needed: `kube-apiserver`, looked for in the folder `AKV_CSI_KUBERNETES_BIN` names, else in
//! `~/.cache/akv-csi/kubernetes-v1.34.4`; and `etcd`, looked for there too, then in `PATH`.

mod audit;
mod gateway;
mod process;
mod programs;
mod server;

pub use audit::Request;
pub use gateway::{ApiFault, Arrival, Gateway};
pub use server::ApiServer;

use std::path::PathBuf;

/// Why there is no API server to test with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is missing, and `CI` is set.
    #[error("{0}: needed here, because CI skips nothing")]
    Lacking(String),
    /// A file could not be written or read, or a program not started.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file or program.
        path: PathBuf,
        /// The system's error.
        cause: std::io::Error,
    },
    /// A key could not be made.
    #[error("cannot make the service accounts' key: {0}")]
    Key(#[from] rcgen::Error),
    /// The server did not come up.
    #[error("kube-apiserver did not get ready: {reason}; its log ends with:\n{log}")]
    NotReady {
        /// What was seen.
        reason: String,
        /// The end of its log, or of etcd's.
        log: String,
    },
    /// A request to the server failed.
    #[error("API server: {0}")]
    Api(#[from] kube::Error),
    /// The kubeconfig of the fixture is not right.
    #[error("kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// A manifest of the project is not YAML.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}
