//! Which build this is.

use std::sync::LazyLock;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Commit it was built from, if whoever built it said so in `AKV_CSI_GIT_COMMIT`.
pub const COMMIT: &str = match option_env!("AKV_CSI_GIT_COMMIT") {
    Some(commit) => commit,
    None => "",
};

/// The environment variable by which a DaemonSet says of which version's chart it is.
pub const CHART_VERSION: &str = "AKV_CSI_CHART_VERSION";

/// When it was built: the time of `SOURCE_DATE_EPOCH`, so that equal sources make equal binaries; empty without it.
pub fn date() -> String {
    let seconds = option_env!("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok());
    let date = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    date.and_then(|date| date.format(&Rfc3339).ok()).unwrap_or_default()
}

/// What the machine has to be: architecture, system and C library.
pub fn target() -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("{}-{}-{libc}", std::env::consts::ARCH, std::env::consts::OS)
}

/// For `akv-csi --version`: `0.1.0 (commit, date, target)`, without what is not known.
pub fn describe() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let facts = [COMMIT.to_owned(), date(), target()];
        let known: Vec<String> = facts.into_iter().filter(|fact| !fact.is_empty()).collect();
        format!("{VERSION} ({})", known.join(", "))
    });
    &TEXT
}

/// One line of JSON with the keys that the reference prints for `--version`.
pub fn json() -> String {
    serde_json::json!({"BuildVersion": VERSION, "GitCommit": COMMIT, "BuildDate": date()}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_says_what_it_is() {
        assert!(describe().starts_with(VERSION) && describe().contains("linux"), "{}", describe());
        let json: serde_json::Value = serde_json::from_str(&json()).unwrap();
        assert_eq!(json["BuildVersion"], VERSION);
    }
}
