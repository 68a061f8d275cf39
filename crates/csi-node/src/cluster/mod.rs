//! What is done once for a cluster, by the Helm chart's hooks or by hand: [`crds`] are brought up to date before an upgrade,
//! and [`in_use`] keeps a driver from being removed under pods that mount.

pub mod crds;
pub mod in_use;

use crate::cli::{ClusterArgs, ClusterTask};
use crate::error::StartError;
use crate::kubernetes;
use std::fmt::Write as _;

/// Why a task was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no API server to talk to.
    #[error(transparent)]
    Client(#[from] StartError),
    /// A CRD of this binary cannot be read. Only a broken build gets here.
    #[error("the CRD built into this binary cannot be read: {0}")]
    Manifest(String),
    /// The API server refused to take a CRD.
    #[error(
        "cannot apply CRD {name}: {cause}; the caller needs create, and get and patch on customresourcedefinitions {name}"
    )]
    Apply {
        /// The CRD.
        name: String,
        /// Why.
        cause: String,
    },
    /// The API server does not serve a CRD.
    #[error("CRD {name} is not served after {waited_s} s: {reason}")]
    NotServed {
        /// The CRD.
        name: String,
        /// For how long it was waited for, in seconds.
        waited_s: u64,
        /// What its conditions say.
        reason: String,
    },
    /// Pods could not be listed.
    #[error(
        "cannot see whether pods mount volumes of {driver}: {cause}; the caller needs list on pods of all namespaces"
    )]
    Pods {
        /// The driver.
        driver: String,
        /// Why.
        cause: String,
    },
    /// Pods mount volumes.
    #[error("{}", in_use_message(.0))]
    InUse(in_use::Uses),
}

fn in_use_message(uses: &in_use::Uses) -> String {
    let mut text = format!(
        "nothing was removed: pods mount {} of driver {}:",
        if uses.classes.len() == 1 {
            "1 SecretProviderClass".to_owned()
        } else {
            format!("{} SecretProviderClasses", uses.classes.len())
        },
        uses.driver
    );
    for (class, pods) in &uses.classes {
        let shown: Vec<&str> = pods.iter().take(in_use::PODS_SHOWN).map(String::as_str).collect();
        let _ = write!(text, "\n  {class}: {}", shown.join(", "));
        if let Some(more) = pods.len().checked_sub(in_use::PODS_SHOWN).filter(|more| *more > 0) {
            let _ = write!(text, " and {more} more");
        }
    }
    text.push_str(
        "\nWithout a driver, these pods go on with the files they have, but cannot be ended, and no new one can start. Take the \
         volumes out of their workloads or replace the driver by an upgrade. To remove it all the same: helm uninstall --no-hooks",
    );
    text
}

/// Does the task, and returns what to tell whoever asked for it.
///
/// # Errors
/// [`ClusterError`].
pub async fn run(arguments: ClusterArgs) -> Result<String, ClusterError> {
    let client = kubernetes::client(arguments.kubeconfig.as_deref()).await?;
    match arguments.task {
        ClusterTask::ApplyCrds => {
            let names = crds::apply(&client).await?;
            Ok(format!("served: {}", names.join(", ")))
        }
        ClusterTask::CheckUnused { driver_name } => {
            let uses = in_use::find(&client, &driver_name).await?;
            if uses.classes.is_empty() {
                Ok(format!("no pod mounts volumes of driver {driver_name}"))
            } else {
                Err(ClusterError::InUse(uses))
            }
        }
    }
}
