//! Runs Helm on the chart of this project and reads what comes out.
//!
//! Helm is looked for where `AKV_CSI_HELM` says, then where `hack/chart.sh` puts it, then in `PATH`. Without it, [`helm`] is
//! nothing and a test has nothing to do; with `CI` set that is a failure.

mod objects;
mod readme;

pub use objects::Objects;
pub use readme::table;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The sources' root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The chart.
pub fn chart() -> PathBuf {
    root().join("deploy/charts/akv-csi")
}

/// A values file of this crate.
pub fn values(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("values").join(name).display().to_string()
}

/// A command that runs Helm; nothing where there is no Helm.
///
/// # Panics
/// Without Helm, when `CI` is set.
#[allow(clippy::panic, reason = "test code: CI leaves nothing out")]
pub fn helm() -> Option<Command> {
    let mut places = Vec::from_iter(std::env::var_os("AKV_CSI_HELM").map(PathBuf::from));
    let tools = std::env::var_os("AKV_CSI_TOOLS").map_or_else(|| root().join(".cache/tools"), PathBuf::from);
    places.push(tools.join("bin/helm"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path).map(|folder| folder.join("helm")));
    let found = places.into_iter().find(|place| place.is_file());
    assert!(
        found.is_some() || std::env::var_os("CI").is_none_or(|ci| ci.is_empty()),
        "there is no helm, and CI skips nothing: run hack/chart.sh install"
    );
    if found.is_none() {
        eprintln!("NOTICE: no helm (hack/chart.sh install): left out");
    }
    found.map(Command::new)
}

/// What `helm template` makes of the chart with these arguments, or Helm's error.
///
/// # Errors
/// Helm's own words.
pub fn render(mut helm: Command, arguments: &[&str]) -> Result<Objects, String> {
    helm.args(["template", "release"]).arg(chart()).args(["--namespace", "kube-system"]);
    if !arguments.contains(&"--kube-version") {
        helm.args(["--kube-version", "1.34.4"]);
    }
    Objects::read(&run(helm.args(arguments))?)
}

/// Runs a command and returns its standard output.
///
/// # Errors
/// What it wrote to standard error.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A YAML document.
///
/// # Errors
/// What is wrong with it.
pub fn yaml(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}
