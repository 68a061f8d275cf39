//! A file for support: what was found, how the volumes are, and the node's circumstances. Nothing in it is secret.

use super::Report;
use super::context::Context;
use super::proxy;
use crate::build_info::VERSION;
use crate::volume::mount_lines;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Flags whose values cannot hold a secret. Of all others only the name is written.
const HARMLESS: [&str; 27] = [
    "--endpoint",
    "--node-id",
    "--nodeid",
    "--driver-name",
    "--drivername",
    "--registration-dir",
    "--kubelet-registration-path",
    "--secret-provider-classes",
    "--startup-taint",
    "--admin-socket",
    "--enable-secret-rotation",
    "--rotation-poll-interval",
    "--mount-freshness",
    "--publish-timeout",
    "--volume-size",
    "--volume-noexec",
    "--construct-pem-chain",
    "--write-cert-and-key-in-separate-files",
    "--cloud-name",
    "--vm-identity-namespaces",
    "--allowed-tenants",
    "--allowed-clouds",
    "--health-addr",
    "--metrics-addr",
    "--log-format-json",
    "--v",
    "-v",
];

/// Environment variables that matter and whose values cannot hold a secret.
const VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "AZURE_ENVIRONMENT_FILEPATH",
    "AZURE_AUTHORITY_HOST",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
];

/// Whether the bundle goes to the standard output: an image without a shell has no program that would carry a file out.
pub(super) fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Writes the bundle, as a file readable by its owner alone or to the standard output, and says what is in it.
///
/// # Errors
/// When the file exists already or cannot be written.
pub(super) fn write(path: &Path, report: &Report, context: &Context) -> io::Result<Vec<&'static str>> {
    let json = |value: serde_json::Result<String>| value.map_err(io::Error::other);
    let status = match &context.status {
        Ok(status) => json(serde_json::to_string_pretty(status))?,
        Err(error) => serde_json::json!({ "error": error }).to_string(),
    };
    let files = [
        ("doctor.json", json(serde_json::to_string_pretty(report))?),
        ("status.json", status),
        ("versions.txt", versions(context)),
        ("flags.txt", lines(flags(&context.line))),
        ("environment.txt", lines(environment())),
        ("mounts.txt", lines(mount_lines().unwrap_or_else(|error| vec![error.to_string()]))),
    ];
    let out: Box<dyn Write> = if is_stdout(path) {
        Box::new(io::stdout().lock())
    } else {
        Box::new(OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?)
    };
    let mut archive = tar::Builder::new(GzEncoder::new(out, Compression::default()));
    for (name, text) in &files {
        let text = without_tokens(text);
        let mut header = tar::Header::new_ustar();
        header.set_size(u64::try_from(text.len()).map_err(io::Error::other)?);
        header.set_mode(0o600);
        header.set_cksum();
        archive.append_data(&mut header, format!("akv-csi-doctor/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()?;
    Ok(files.map(|(name, _)| name).into())
}

fn versions(context: &Context) -> String {
    let kernel = rustix::system::uname();
    let status = context.status.as_ref();
    let driver = status.map_or("not running", |status| status.version.as_str());
    let chart = status.ok().and_then(|status| status.chart_version.as_deref()).unwrap_or("not known");
    format!(
        "akv-csi {}\ndriver {driver}\nchart {chart}\nkernel {} {} {}\n",
        VERSION,
        kernel.sysname().to_string_lossy(),
        kernel.release().to_string_lossy(),
        kernel.machine().to_string_lossy()
    )
}

/// The running driver's flags. A value that may be secret is left out, with or without an equals sign before it.
fn flags(line: &[String]) -> Vec<String> {
    let mut shown = Vec::new();
    let mut harmless = false;
    for argument in line {
        if !argument.starts_with('-') {
            shown.push(if harmless { argument.clone() } else { "[redacted]".to_owned() });
            harmless = false;
            continue;
        }
        let (name, value) =
            argument.split_once('=').map_or((argument.as_str(), None), |(name, value)| (name, Some(value)));
        let long = format!("--{}", name.trim_start_matches('-'));
        harmless = HARMLESS.contains(&long.as_str());
        shown.push(match value {
            Some(_) if !harmless => format!("{name}=[redacted]"),
            _ => argument.clone(),
        });
        harmless &= value.is_none();
    }
    shown
}

fn environment() -> Vec<String> {
    let set = |name: &&str| std::env::var(name).ok().map(|value| format!("{name}={value}"));
    proxy::variables().into_iter().chain(VARIABLES.iter().filter_map(set)).collect()
}

fn lines(lines: Vec<String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The last line of defence: nothing that looks like a token leaves, should an upstream's words ever hold one.
fn without_tokens(text: &str) -> String {
    let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("eyJ") {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !is_token(c)).unwrap_or(from.len());
        out.push_str(before);
        out.push_str("[redacted]");
        rest = &from[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_may_be_secret_are_left_out() {
        let line = [
            "--cloud-name=X",
            "--custom-user-agent=s3cret",
            "-v=5",
            "--token-proxy-url",
            "s3cret",
            "--node-id",
            "n1",
            "-nodeid=n2",
            "s3cret",
        ];
        let shown = flags(&line.map(str::to_owned));
        assert_eq!(
            shown,
            [
                "--cloud-name=X",
                "--custom-user-agent=[redacted]",
                "-v=5",
                "--token-proxy-url",
                "[redacted]",
                "--node-id",
                "n1",
                "-nodeid=n2",
                "[redacted]"
            ]
        );
    }

    #[test]
    fn what_looks_like_a_token_does_not_leave() {
        let text = "a eyJhbGciOi.eyJzdWIi.c2ln b \"eyJ\" ä";
        assert_eq!(without_tokens(text), "a [redacted] b \"[redacted]\" ä");
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_lost_around_tokens(before in "[^e]{0,20}", token in "eyJ[A-Za-z0-9_.-]{0,30}", after in " [^e]{0,20}") {
            let cleaned = without_tokens(&format!("{before}{token}{after}"));
            proptest::prop_assert_eq!(cleaned, format!("{before}[redacted]{after}"));
        }
    }
}
