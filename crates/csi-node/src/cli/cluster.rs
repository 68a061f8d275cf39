//! Arguments of `akv-csi cluster`, which the Helm chart's hooks run.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What is done once for a cluster, not on each node.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// What to do.
    #[command(subcommand)]
    pub task: ClusterTask,
    /// Kubernetes client configuration. Default: KUBECONFIG, then the pod's service account, then ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// The tasks of `akv-csi cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterTask {
    /// Make the CRDs of this version, or bring those of another version up to date, and wait until they are served.
    ApplyCrds,
    /// Fail, and name classes and pods, while pods of any namespace mount volumes of the driver.
    CheckUnused {
        /// Name of the driver, as in the CSIDriver object and in pods' volumes.
        #[arg(
            long,
            alias = "drivername",
            env = "AKV_CSI_DRIVER_NAME",
            value_name = "NAME",
            default_value = "secrets-store.csi.k8s.io",
            value_parser = NonEmptyStringValueParser::new()
        )]
        driver_name: String,
    },
}
