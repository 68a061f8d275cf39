//! What all checks start from: the running driver's word, and a driver of our own with the same flags, which is never served.

use crate::cli::{Cli, Command, DoctorArgs, NodeArgs};
use crate::driver::Driver;
use crate::node::Purpose;
use crate::status::NodeStatus;
use crate::{admin, kubernetes, node};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What all checks start from.
pub(super) struct Context {
    /// What was asked for.
    pub arguments: DoctorArgs,
    /// The running driver's socket for operators.
    pub socket: PathBuf,
    /// What it says of itself, or why it says nothing.
    pub status: Result<NodeStatus, String>,
    /// Its own arguments, where it told them.
    pub line: Vec<String>,
    /// All that is set by them and by the environment.
    pub node: Result<NodeArgs, String>,
    /// The API server; `None` in standalone mode.
    pub kubernetes: Option<Result<kube::Client, String>>,
    /// A driver put together from `node`.
    pub driver: Result<Driver, String>,
}

impl Context {
    /// Asks the running driver for its flags and puts another one together from them.
    pub async fn gather(arguments: DoctorArgs) -> Self {
        let socket = arguments.socket.path();
        let status = admin::status(&socket).await;
        let line = match &status {
            Ok(_) => admin::arguments(&socket).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let mut node = node_arguments(&line, &arguments.node_flags);
        if let (Ok(node), Some(_)) = (&mut node, &arguments.kubeconfig) {
            // Who names a cluster does not mean a folder.
            node.secret_provider_classes = None;
        }
        let (mut kubernetes, mut driver) = (None, Err("its flags cannot be read".to_owned()));
        if let Ok(node) = &node {
            let kubeconfig = arguments.kubeconfig.as_deref().or(node.kubeconfig.as_deref());
            if node.secret_provider_classes.is_none() {
                kubernetes = Some(kubernetes::client(kubeconfig).await.map_err(|error| error.to_string()));
            }
            let client = kubernetes.as_ref().and_then(|client| client.as_ref().ok());
            driver = node::assemble(node, client, Purpose::Examine).map_err(|error| match &kubernetes {
                Some(Err(cause)) => cause.clone(),
                _ => error.to_string(),
            });
        }
        Self { arguments, socket, status, line, node, kubernetes, driver }
    }

    /// The kubelet's root folder.
    pub fn kubelet_root(&self) -> PathBuf {
        if let Some(root) = &self.arguments.kubelet_root {
            return root.clone();
        }
        let node = self.node.as_ref().ok();
        let mut sockets = node.into_iter().flat_map(|node| {
            node.kubelet_registration_path.as_deref().into_iter().chain([node.endpoint.path()])
        });
        sockets.find_map(above_plugins).unwrap_or_else(|| PathBuf::from("/var/lib/kubelet"))
    }
}

/// `ROOT/plugins/DRIVER/csi.sock`
fn above_plugins(socket: &Path) -> Option<PathBuf> {
    let plugins =
        socket.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "plugins"))?;
    plugins.parent().map(Path::to_owned)
}

/// The flags of the running driver, then those given to this program: of equal ones the last counts.
fn node_arguments(line: &[String], own: &[OsString]) -> Result<NodeArgs, String> {
    let given = line.iter().map(OsString::from).chain(own.iter().cloned());
    let whole = [OsString::from("akv-csi"), OsString::from("node")].into_iter().chain(given);
    match Cli::read(whole).map_err(|error| error.to_string())?.command {
        Command::Node(node) => Ok(*node),
        _ => Err("the flags are not those of akv-csi node".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_folder_is_found_by_its_sockets() {
        let root = |socket: &str| above_plugins(Path::new(socket));
        assert_eq!(root("/data/kubelet/plugins/csi-secrets-store/csi.sock"), Some("/data/kubelet".into()));
        assert_eq!(root("/csi/csi.sock"), None);
    }

    #[test]
    fn flags_given_here_win_over_those_of_the_running_driver() {
        let line = ["-v=5".to_owned(), "--cloud-name=AzureChinaCloud".to_owned(), "--nodeid=n".to_owned()];
        let node = node_arguments(&line, &["--cloud-name=AzureUSGovernment".into()]).unwrap();
        assert_eq!((node.cloud_name.as_str(), node.node_id.as_str()), ("AzureUSGovernment", "n"));
        assert!(node_arguments(&[], &["--no-such-flag".into()]).unwrap_err().contains("--no-such-flag"));
    }
}
