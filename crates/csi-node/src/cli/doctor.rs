//! Flags of `akv-csi doctor`.

use super::SocketArgs;
use super::go_flags::parse_duration;
use super::status::OutputFormat;
use crate::doctor::Check;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What to examine.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Examine the volumes of this pod: class, token, permission on each object.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = parse_namespaced)]
    pub pod: Option<Namespaced>,
    /// Examine this class, as a pod of --service-account would use it.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = parse_namespaced, conflicts_with = "pod")]
    pub class: Option<Namespaced>,
    /// Service account, in the namespace of --class.
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "pod",
        default_value_if("class", clap::builder::ArgPredicate::IsPresent, "default")
    )]
    pub service_account: Option<String>,
    /// Show this service-account token to Entra instead of one that the API server makes.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Do not read the objects. Without this, each is fetched once, and its value is thrown away at once.
    #[arg(long)]
    pub no_fetch: bool,
    /// Look at these things only, comma-separated.
    #[arg(long, value_name = "CHECK", value_enum, value_delimiter = ',', hide_possible_values = false)]
    pub only: Vec<Check>,
    /// How long each check may wait for an answer.
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// For people or for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: OutputFormat,
    /// Write a file for support as well, with what was found, the volumes' status, flags, versions and mounts. It has no
    /// secrets. With -, it is what the standard output gets, and nothing else is printed there.
    #[arg(long, value_name = "FILE.tar.gz")]
    pub bundle: Option<PathBuf>,
    /// Kubernetes client configuration. Default: that of the driver.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubelet's root folder. Default: the one that the driver's sockets are in, else /var/lib/kubelet.
    #[arg(long, value_name = "DIR")]
    pub kubelet_root: Option<PathBuf>,
    /// Where the running driver is.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Flags of `akv-csi node` that differ from those of the running driver, behind `--`.
    #[arg(last = true, value_name = "NODE FLAGS")]
    pub node_flags: Vec<OsString>,
}

/// A namespace and a name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaced {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

fn parse_namespaced(text: &str) -> Result<Namespaced, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(Namespaced { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err(format!("{text:?} is not NAMESPACE/NAME, such as default/web")),
    }
}
