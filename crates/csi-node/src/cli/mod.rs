//! The command line of `akv-csi`.

mod cluster;
pub mod go_flags;
mod node;

pub use cluster::{ClusterArgs, ClusterTask};
pub use node::{NodeArgs, RetiredArgs};

use crate::endpoint::Endpoint;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Mounts Azure Key Vault secrets, keys and certificates into pods.
#[derive(Debug, Parser)]
#[command(name = "akv-csi", version, about, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands of `akv-csi`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the CSI node driver: the kubelet calls it over a unix socket to mount and unmount volumes.
    Node(Box<NodeArgs>),
    /// Look at once at Key Vault for volumes mounted on this node, without waiting for their interval.
    Refresh(RefreshArgs),
    /// What is done once for a cluster: the Helm chart's hooks run it.
    Cluster(ClusterArgs),
}

/// Which volumes to refresh; without a choice, all on this node.
#[derive(Debug, Args)]
pub struct RefreshArgs {
    /// Namespace of the pods.
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Name of the pod.
    #[arg(long)]
    pub pod: Option<String>,
    /// Name of the SecretProviderClass.
    #[arg(long)]
    pub class: Option<String>,
    /// The driver's socket for operators. Default: admin.sock beside the CSI socket.
    #[arg(long, env = "AKV_CSI_ADMIN_SOCKET", value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// The driver's CSI socket, beside which the other one is.
    #[arg(long, env = "CSI_ENDPOINT", value_name = "URL", default_value = "unix:///tmp/csi.sock")]
    pub endpoint: Endpoint,
}

impl Cli {
    /// Reads a command line, accepting the reference's Go spelling of flags as well.
    ///
    /// # Errors
    /// The parser's own error, which knows how to print itself and which exit code fits (`--help` and `--version` too).
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        for subcommand in ["node", "refresh"] {
            command = command.mut_subcommand(subcommand, |subcommand| {
                // As in Go, the last of several equal flags counts. And a variable that a chart leaves blank is not set.
                subcommand.args_override_self(true).mut_args(|argument| {
                    let blank =
                        argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
                    if blank { argument.env(clap::builder::Resettable::Reset) } else { argument }
                })
            });
        }
        Self::from_arg_matches(&command.try_get_matches_from(go_flags::normalise(arguments))?)
    }
}
