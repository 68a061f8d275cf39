//! `akv-csi doctor` against the emulator: nothing to say where all is well, and for each trouble the line that names it, with
//! its cure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod bundle;
mod cluster;
mod network;
mod node;
mod transcripts;
mod workload;

use azure_emulator::{Emulator, Federation, Permissions};
use e2e::{Call, DriverProcess, Stage, StageOptions, VAULT, can_mount, class, tokens};
use serde_json::Value;
use std::path::PathBuf;

const SECRET: &str = "objectName: secret1\nobjectType: secret";
const KEY: &str = "objectName: key1\nobjectType: key";
/// What the secret holds; it may show nowhere.
const VALUE: &str = "Hello!";
const EXCHANGE: &str = "api://AzureADTokenExchange";
const ACCOUNT: &str = "workload-identity-sa";

/// A report, and everything that was printed.
struct Examined {
    code: i32,
    report: Value,
    out: String,
}

impl Examined {
    /// The findings of a check, as verdict, text and cure.
    fn of(&self, check: &str) -> Vec<(&str, &str, &str)> {
        let findings = self.report["findings"].as_array().unwrap().iter();
        findings
            .filter(|finding| finding["check"] == check)
            .map(|finding| {
                let field = |name: &str| finding[name].as_str().unwrap_or_default();
                (field("verdict"), field("text"), field("cure"))
            })
            .collect()
    }

    /// Asserts that a check has so many findings and all went well.
    fn assert_ok(&self, check: &str, number: usize) {
        let found = self.of(check);
        assert!(found.len() == number && found.iter().all(|finding| finding.0 == "ok"), "{check}: {found:?}");
    }

    /// Asserts that a finding of a check failed with these words, and that its cure has those.
    fn assert_failed(&self, check: &str, words: &[&str], cure: &[&str]) {
        assert_eq!(self.code, 1, "{}", self.out);
        let found = self.of(check);
        let fits = |(verdict, text, told): &(&str, &str, &str)| {
            *verdict == "failed"
                && words.iter().all(|word| text.contains(word))
                && cure.iter().all(|word| told.contains(word))
        };
        assert!(found.iter().any(fits), "{check} has no {words:?} with {cure:?}: {found:#?}\n{}", self.out);
    }
}

/// A stage with a vault, a class `kv` and a driver whose registration has been confirmed.
async fn stage() -> Stage {
    let stage = Stage::start(StageOptions::default()).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET, KEY], &[]));
    stage
}

/// A file with the token that the kubelet would send for a service account.
fn token_file(stage: &Stage, account: &str) -> String {
    let sent: Value = serde_json::from_str(&tokens(stage, "default", account)).unwrap();
    let path = stage.path(&format!("{account}.token"));
    std::fs::write(&path, sent[EXCHANGE]["token"].as_str().unwrap()).unwrap();
    path.display().to_string()
}

/// Examines with these arguments, in the driver's environment with changes.
async fn examine(stage: &Stage, arguments: &[&str], changes: &[(&str, &str)]) -> Examined {
    let endpoint = format!("unix://{}", stage.socket().display());
    let root = stage.path("kubelet").display().to_string();
    let mut line = vec!["doctor", "--output=json", "--endpoint", &endpoint, "--kubelet-root", &root];
    line.extend(arguments);
    let is_replaced = |name: &str| changes.iter().any(|(other, _)| *other == name);
    let kept = stage.environment().into_iter().filter(|(name, _)| !is_replaced(name));
    let environment: Vec<(String, String)> =
        kept.chain(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).collect();
    let (code, out, err) = DriverProcess::command_in(&line, &environment).await;
    assert!(
        !out.contains(VALUE) && !out.contains("eyJ") && !err.contains("eyJ"),
        "a secret shows in {out}\n{err}"
    );
    let report = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"));
    Examined { code, report, out }
}

/// Examines the class of this name as the trusted service account.
async fn examine_class(stage: &Stage, name: &str, more: &[&str]) -> Examined {
    let (file, name) = (token_file(stage, ACCOUNT), format!("default/{name}"));
    let mut arguments = vec!["--class", &name, "--service-account", ACCOUNT, "--token-file", &file];
    arguments.extend(more);
    examine(stage, &arguments, &[]).await
}
