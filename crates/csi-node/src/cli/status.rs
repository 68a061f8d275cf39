//! Flags of `akv-csi status`, and those it has in common with `akv-csi refresh`.

use super::go_flags::parse_duration;
use crate::driver::Selection;
use crate::endpoint::Endpoint;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which volumes of this node are meant; without a choice, all.
#[derive(Debug, Clone, Args)]
pub struct SelectionArgs {
    /// Namespace of the pods.
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Name of the pod.
    #[arg(long)]
    pub pod: Option<String>,
    /// Name of the SecretProviderClass.
    #[arg(long)]
    pub class: Option<String>,
    /// Where the driver is.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Where the running driver is reached.
#[derive(Debug, Clone, Args)]
pub struct SocketArgs {
    /// The driver's socket for operators. Default: admin.sock beside the CSI socket.
    #[arg(long, env = "AKV_CSI_ADMIN_SOCKET", value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// The driver's CSI socket, beside which the other one is. Default: where the manifests put it, in the driver's container
    /// (/csi) or on the node (/var/lib/kubelet/plugins/csi-secrets-store).
    #[arg(long, env = "CSI_ENDPOINT", value_name = "URL")]
    pub endpoint: Option<Endpoint>,
}

/// CSI sockets of the manifests, and the one of a driver without flags.
const USUAL: [&str; 3] =
    ["/csi/csi.sock", "/var/lib/kubelet/plugins/csi-secrets-store/csi.sock", "/tmp/csi.sock"];

impl SocketArgs {
    /// The driver's socket for operators. Where nothing is said, the first that is there.
    pub fn path(&self) -> PathBuf {
        if let Some(path) = &self.admin_socket {
            return path.clone();
        }
        if let Some(endpoint) = &self.endpoint {
            return crate::admin::default_socket(endpoint.path());
        }
        let [first, others @ ..] = USUAL.map(|path| crate::admin::default_socket(Path::new(path)));
        if first.exists() {
            return first;
        }
        others.into_iter().find(|path| path.exists()).unwrap_or(first)
    }
}

impl SelectionArgs {
    /// The volumes that are meant.
    pub fn wanted(&self) -> Selection {
        Selection { namespace: self.namespace.clone(), pod: self.pod.clone(), class: self.class.clone() }
    }
}

/// For whom the output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// People.
    Table,
    /// Programs.
    Json,
}

/// What to show of the volumes on this node.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Which volumes.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// For people or for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: OutputFormat,
    /// Show it again and again, every 2 s if no other time is given. As JSON, one line each time.
    #[arg(
        short,
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = parse_duration
    )]
    pub watch: Option<Duration>,
}
