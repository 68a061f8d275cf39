//! The client of the Kubernetes API server, and how it is used: what is followed, when a failed call is repeated, and how a
//! failure is told.

mod changes;
mod pause;

pub use changes::{Change, Followed, follow};

use crate::error::StartError;
use axum::http::Uri;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(5);
/// Longer than a watch may be silent; each call has a bound of its own, which is shorter.
const READ: Duration = Duration::from_secs(310);

/// Sets up a client: from the given kubeconfig, else from `KUBECONFIG`, the pod's service account or `~/.kube/config`.
/// Nothing is sent yet.
///
/// # Errors
/// [`StartError::Kubernetes`], when there is no usable configuration.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, StartError> {
    let failed = |error: &dyn std::error::Error| StartError::Kubernetes(crate::error::chain(error));
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| failed(&error))?
        }
        None => Config::infer().await.map_err(|error| failed(&error))?,
    };
    // What the environment says is for Azure. A pod reaches its API server directly, so it is the same with a kubeconfig; and
    // NO_PROXY, which would have to be heeded then, is compared with the proxy's own address by this client.
    if config.proxy_url.is_some() && config.proxy_url == proxy_of_environment() {
        config.proxy_url = None;
    }
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.reset_reader_on_write = true;
    // It would keep to `Retry-After` within a call and forget it with the call.
    config.default_retry = false;
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|error| failed(&error))?;
    Ok(pause::heeding(client, namespace))
}

/// What the API server, or the way to it, has to say, in one line: its words, its reason and its code.
///
/// Nothing of an answer's content: that may be a Secret's.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            let words = one_line(&status.message);
            let (words, reason) = match (words.as_str(), status.reason.as_str()) {
                // What stands between here and the API server has answered, with a page for people.
                (_, "Failed to parse error data") => (words, "not an answer of Kubernetes"),
                ("", reason) => (reason.to_owned(), reason),
                (_, "") => (words, "no reason given"),
                (_, reason) => (words, reason),
            };
            format!("{words} ({reason}, {})", status.code)
        }
        kube::Error::SerdeError(error) => format!(
            "the API server's answer is not what it should be, at line {} column {}",
            error.line(),
            error.column()
        ),
        kube::Error::Service(_) | kube::Error::HyperError(_) => {
            let cause = std::error::Error::source(error).map(crate::error::chain).unwrap_or_default();
            format!(
                "no answer: {}; is the API server up, and reachable from this node? akv-csi doctor looks",
                one_line(&cause)
            )
        }
        other => one_line(&crate::error::chain(other)),
    }
}

/// Whether the API server says that the driver lacks a right, in the words it has for that whatever authorizes. Admission
/// plugins, quotas and namespaces on their way out answer `Forbidden` as well, and no right helps there.
pub fn lacks_right(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_forbidden() && status.message.contains(" cannot "))
}

/// The code of the API server's answer; 0 if there was none.
pub fn code(error: &kube::Error) -> u16 {
    if let kube::Error::Api(status) = error { status.code } else { 0 }
}

/// A text on one line, and no longer than anybody reads.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 500;
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > LONGEST {
        line = line.chars().take(LONGEST).chain("…".chars()).collect();
    }
    line
}

/// The proxy that the client takes from the environment where a kubeconfig names none.
fn proxy_of_environment() -> Option<Uri> {
    ["HTTPS_PROXY", "https_proxy"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty())
        .and_then(|value| value.parse().ok())
}

/// How long to wait before try number `attempt` (from 1) of something that failed: 1 s, doubling up to a minute, a quarter more
/// or less, so that nodes that failed together do not come back together.
pub fn backoff(attempt: u32) -> Duration {
    jittered(Duration::from_secs(1 << attempt.saturating_sub(1).min(6)).min(Duration::from_secs(60)))
}

/// `wait`, a quarter more or less.
pub fn jittered(wait: Duration) -> Duration {
    // A hasher's random seed is randomness enough, and needs no generator.
    let random = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(u32::MAX / 2);
    wait.mul_f64(0.75 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn a_missing_right_is_told_from_other_refusals() {
        let answer = |text: &str, reason, code| {
            kube::Error::Api(Status::failure(text, reason).with_code(code).boxed())
        };
        assert!(lacks_right(&answer(
            "pods \"web\" is forbidden: User \"x\" cannot get resource \"pods\"",
            "Forbidden",
            403
        )));
        let quota =
            "secrets \"db\" is forbidden: exceeded quota: few, requested: secrets=1, limited: secrets=0";
        assert!(!lacks_right(&answer(quota, "Forbidden", 403)));
        assert!(!lacks_right(&answer("it cannot be done now", "Conflict", 409)));
    }

    #[test]
    fn what_the_api_server_says_is_one_line() {
        let status = Status::failure("pods \"web\" is forbidden:\n User \"x\" cannot get it", "Forbidden");
        let text = said(&kube::Error::Api(status.with_code(403).boxed()));
        assert_eq!(text, "pods \"web\" is forbidden: User \"x\" cannot get it (Forbidden, 403)");
        let page = Status::failure(&"<html>\n".repeat(1000), "Failed to parse error data").with_code(502);
        let text = said(&kube::Error::Api(page.boxed()));
        assert!(text.len() < 600 && text.ends_with("… (not an answer of Kubernetes, 502)"), "{text}");
        assert_eq!(
            said(&kube::Error::Api(Status::failure("", "Conflict").with_code(409).boxed())),
            "Conflict (Conflict, 409)"
        );
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_not_quoted() {
        let error = serde_json::from_str::<Vec<u8>>("[\"c2VjcmV0\"]").unwrap_err();
        assert!(error.to_string().contains("c2VjcmV0"), "{error}");
        assert!(!said(&kube::Error::SerdeError(error)).contains("c2VjcmV0"));
    }
}
