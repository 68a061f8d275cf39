//! The project's chart in the cluster, by Helm itself: its hooks are pods of the cluster, with the driver's image.

use crate::cluster::{Cluster, DRIVER_NAMESPACE};
use crate::manifests;
use serde_json::Value;

/// The name that the documentation gives the release.
pub const RELEASE: &str = "akv-csi";

impl Cluster {
    /// Runs Helm as the administrator, in the driver's namespace.
    ///
    /// # Errors
    /// All that it says, logs of hooks included.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        self.run("helm", &[&["--namespace", DRIVER_NAMESPACE], arguments].concat(), None).await
    }

    /// Installs the chart with the values of a cluster of tests.
    ///
    /// # Errors
    /// What Helm says.
    pub async fn helm_install(&self) -> Result<String, String> {
        let values = self.places.values();
        let text = serde_json::to_string_pretty(&manifests::values()).expect("a map of texts");
        std::fs::write(&values, text).expect("the state folder is writable");
        let values = values.display().to_string();
        self.helm(&["install", RELEASE, &self.chart(), "--values", &values]).await
    }

    /// Upgrades the release to the chart as it is, with its own values and these arguments.
    ///
    /// # Errors
    /// What Helm says.
    pub async fn helm_upgrade(&self, arguments: &[&str]) -> Result<String, String> {
        self.helm(&[&["upgrade", RELEASE, &self.chart(), "--reuse-values"], arguments].concat()).await
    }

    /// The number of the release's newest revision, and its state.
    pub async fn helm_revision(&self) -> (u64, String) {
        let history = self.helm(&["history", RELEASE, "--output", "json"]).await;
        let history = history.unwrap_or_else(|error| panic!("helm history: {error}"));
        let history: Vec<Value> = serde_json::from_str(&history).expect("Helm writes JSON");
        let last = history.last().expect("a release has a revision");
        let state = last["status"].as_str().expect("a revision has a state");
        (last["revision"].as_u64().expect("revisions are numbers"), state.to_owned())
    }

    fn chart(&self) -> String {
        self.places.checkout.join("deploy/charts/akv-csi").display().to_string()
    }
}
