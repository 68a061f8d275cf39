//! What a check found: one line for people, with a cure where one is needed.

use clap::ValueEnum;
use serde::Serialize;
use std::fmt;

/// What is looked at. The names are those of `--only`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// The running driver answers.
    Driver,
    /// The kubelet knows the driver.
    Registration,
    /// Driver, this program, the chart and the cluster's objects are of one version.
    Version,
    /// What the kernel can do.
    Kernel,
    /// A tmpfs is mounted, filled, read and unmounted, by both ways the driver knows.
    Mount,
    /// What is mounted below the kubelet's folder reaches the pods.
    Propagation,
    /// The API server answers.
    Apiserver,
    /// The CSIDriver object says what the driver needs.
    Csidriver,
    /// The custom resources are served, with the fields and columns of this version.
    Crds,
    /// The service account may do what the driver does.
    Rbac,
    /// The metadata service of the VM answers.
    Imds,
    /// The class says something that can be mounted.
    Class,
    /// Names of Azure's hosts resolve.
    Dns,
    /// Azure's hosts are reached and trusted.
    Tls,
    /// The node's clock agrees with Azure's and the API server's.
    Clock,
    /// The identity gets a token.
    Token,
    /// The identity may read each object.
    Objects,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value();
        f.write_str(name.as_ref().map_or("", clap::builder::PossibleValue::get_name))
    }
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, and should be looked at.
    Warning,
    /// Does not work.
    Failed,
    /// Not looked at.
    Skipped,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub text: String,
    /// What to do about it. Whatever failed has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(check: Check, text: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, text: text.into(), cure: None }
    }

    /// Works, and should be looked at.
    pub fn warning(check: Check, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, text: text.into(), cure: Some(cure.into()) }
    }

    /// Does not work.
    pub fn failed(check: Check, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Failed, text: text.into(), cure: Some(cure.into()) }
    }

    /// Not looked at, and how it can be.
    pub fn skipped(check: Check, text: impl Into<String>, cure: Option<&str>) -> Self {
        Self { check, verdict: Verdict::Skipped, text: text.into(), cure: cure.map(str::to_owned) }
    }

    /// What failed, with the cure that the error's own text brings, or this one.
    pub fn of_error(check: Check, error: &dyn fmt::Display, otherwise: &str) -> Self {
        let (text, cure) = split_cure(&error.to_string());
        Self::failed(check, text, cure.unwrap_or_else(|| otherwise.to_owned()))
    }
}

/// Takes the cure out of an error of the identity crate: `… Cause: … Cure: … [HTTP …]`. The bracket, which is for support
/// engineers, goes to the text.
fn split_cure(error: &str) -> (String, Option<String>) {
    let Some((text, cure)) = error.rsplit_once(" Cure: ") else { return (error.to_owned(), None) };
    match cure.rsplit_once(" [HTTP ") {
        Some((cure, bracket)) => (format!("{text} [HTTP {bracket}"), Some(cure.to_owned())),
        None => (text.to_owned(), Some(cure.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cure_of_an_identity_error_gets_a_line_of_its_own() {
        let error = "AADSTS700213: no. Cause: subject. Cure: az identity … create. [HTTP 401 from https://login, asked for x.]";
        let finding = Finding::of_error(Check::Token, &error, "ask");
        assert_eq!(
            finding.text,
            "AADSTS700213: no. Cause: subject. [HTTP 401 from https://login, asked for x.]"
        );
        assert_eq!(finding.cure.as_deref(), Some("az identity … create."));
        assert_eq!(Finding::of_error(Check::Token, &"no", "ask").cure.as_deref(), Some("ask"));
    }
}
