//! The command line of `akv-csi`.

mod cluster;
mod doctor;
pub mod go_flags;
mod node;
mod status;
pub mod terminal;
mod validate;

pub use cluster::{ClusterArgs, ClusterTask};
pub use doctor::{DoctorArgs, Namespaced};
pub use node::{NodeArgs, RetiredArgs};
pub use status::{OutputFormat, SelectionArgs, SocketArgs, StatusArgs};
pub use terminal::Terminal;
pub use validate::ValidateArgs;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;

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
    /// Show the volumes on this node: how fresh they are and what is wrong with them.
    Status(StatusArgs),
    /// Try out, step by step, what a mount needs, and say what to do about what does not work.
    Doctor(Box<DoctorArgs>),
    /// Check manifests without a cluster, by the driver's own rules: classes, pods, what they refer to.
    Validate(ValidateArgs),
}

/// Which volumes to refresh; without a choice, all on this node.
#[derive(Debug, Args)]
pub struct RefreshArgs {
    /// Which volumes.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

impl Cli {
    /// Reads a command line, accepting the reference's Go spelling of flags as well.
    ///
    /// # Errors
    /// The parser's own error, which knows how to print itself and which exit code fits (`--help` and `--version` too).
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        for subcommand in ["node", "refresh", "status", "doctor", "validate"] {
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
