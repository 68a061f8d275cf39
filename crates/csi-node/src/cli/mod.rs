//! The command line of `akv-csi`.

mod cluster;
mod doctor;
pub mod go_flags;
mod help;
mod node;
mod status;
mod switch;
pub mod terminal;
mod validate;

pub use cluster::{ClusterArgs, ClusterTask};
pub use doctor::{DoctorArgs, Namespaced};
pub use help::{LESSONS, Lesson};
pub use node::{NodeArgs, RetiredArgs};
pub use status::{OutputFormat, SelectionArgs, SocketArgs, StatusArgs};
pub use switch::Switch;
pub use terminal::Terminal;
pub use validate::ValidateArgs;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;

/// Exit code for a command line or configuration that cannot be used (`EX_USAGE` of sysexits.h).
pub const USAGE: u8 = 64;

/// Mounts Azure Key Vault secrets, keys and certificates into pods.
#[derive(Debug, Parser)]
#[command(name = "akv-csi", version = crate::build_info::describe(), about, max_term_width = 110)]
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
    /// Show the volumes on this node: how fresh they are and what is wrong with them.
    Status(StatusArgs),
    /// Try out, step by step, what a mount needs, and say what to do about what does not work.
    Doctor(Box<DoctorArgs>),
    /// Look at once at Key Vault for volumes mounted on this node, without waiting for their interval.
    Refresh(RefreshArgs),
    /// Show how much the driver on this node logs, or change it for as long as it runs.
    LogLevel(LogLevelArgs),
    /// Check manifests without a cluster, by the driver's own rules: classes, pods, what they refer to.
    Validate(ValidateArgs),
    /// Do what is done once for a cluster, as the Helm chart's hooks do: CRDs, and a look before the driver is removed.
    Cluster(ClusterArgs),
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page of akv-csi, or of one of its commands.
    Man {
        /// The command.
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
}

/// Which volumes to refresh; without a choice, all on this node.
#[derive(Debug, Args)]
pub struct RefreshArgs {
    /// Which volumes.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// How much to log.
#[derive(Debug, Args)]
pub struct LogLevelArgs {
    /// Verbosity as `-v` counts it: 0 normal, 3 debugging, 5 every step. Without it, only the present one is shown.
    #[arg(value_name = "LEVEL", allow_negative_numbers = true)]
    pub level: Option<i32>,
    /// Which driver.
    #[command(flatten)]
    pub socket: SocketArgs,
}

impl Cli {
    /// Reads a command line, accepting the reference's Go spelling of flags as well.
    ///
    /// # Errors
    /// The parser's own error, which knows how to print itself and which exit code fits (`--help` and `--version` too).
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::complete_command();
        for name in names(&command) {
            command = command.mut_subcommand(name, |subcommand| {
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
    /// The command with headings, examples and switches, for parsing, manual pages, completions and the guide.
    pub fn complete_command() -> clap::Command {
        let mut command = help::teach(Self::command());
        for name in names(&command) {
            command = command.mut_subcommand(name, |subcommand| {
                // Only of these there are too many for one list.
                let headed = subcommand.get_name() == "node";
                help::teach(subcommand.mut_args(|argument| {
                    let argument = go_flags::adapt(switch::adapt(argument));
                    if headed { help::under_heading(argument) } else { argument }
                }))
            });
        }
        command
    }

    /// The exit code for a command line that cannot be used: `EX_USAGE` of sysexits.h, and for `validate`, where 1 means
    /// faults in manifests, the 2 that linters use.
    pub fn usage_code(arguments: impl IntoIterator<Item = OsString>) -> u8 {
        let validates = arguments.into_iter().nth(1).is_some_and(|name| name == "validate");
        if validates { crate::validate::UNUSABLE } else { USAGE }
    }

    /// The manual page of the program or of one of its commands, as roff.
    ///
    /// # Errors
    /// When there is no such command.
    pub fn manual(name: Option<&str>) -> Result<Vec<u8>, String> {
        let mut command = Self::complete_command();
        command.build();
        let page = match name {
            None => clap_mangen::Man::new(command),
            Some(name) => {
                let known = names(&command).join(", ");
                let found = command.find_subcommand(name).cloned();
                let found =
                    found.ok_or_else(|| format!("there is no command {name:?}: commands are {known}"))?;
                clap_mangen::Man::new(found).title(format!("akv-csi-{name}"))
            }
        };
        let mut roff = Vec::new();
        page.render(&mut roff).map_err(|error| error.to_string())?;
        Ok(roff)
    }
}

/// Names of all subcommands.
fn names(command: &clap::Command) -> Vec<String> {
    command.get_subcommands().map(|subcommand| subcommand.get_name().to_owned()).collect()
}
