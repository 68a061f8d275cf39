//! `akv-csi validate` as a program.

use crate::DriverProcess;
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

/// What it says of a text.
#[derive(Debug)]
pub struct Report {
    /// Its exit code.
    pub code: Option<i32>,
    /// Its JSON report.
    pub report: Value,
}

impl Report {
    /// `rule field: problem` of each finding of a severity.
    pub fn of(&self, severity: &str) -> Vec<String> {
        let findings = self.report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        findings
            .iter()
            .filter(|finding| finding["severity"] == severity)
            .map(|finding| {
                format!("{} {}: {}", text(finding, "rule"), text(finding, "field"), text(finding, "problem"))
            })
            .collect()
    }

    /// The errors.
    pub fn errors(&self) -> Vec<String> {
        self.of("error")
    }
}

/// Runs it on a text, with further arguments.
///
/// # Panics
/// When the program does not run, or prints no JSON.
pub fn validate(text: &str, arguments: &[&str]) -> Report {
    let mut child = Command::new(DriverProcess::binary())
        .args(["validate", "-", "--output", "json"])
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the driver's binary runs");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads its input");
    let output = child.wait_with_output().expect("it ends");
    let report = serde_json::from_slice(&output.stdout).expect("a JSON report");
    Report { code: output.status.code(), report }
}
