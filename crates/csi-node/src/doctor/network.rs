//! The way to Azure: names, connections, certificates, proxies, clocks, and the VM's metadata service.

use super::context::Context;
use super::finding::{Check, Finding};
use super::proxy::{self, Path};
use super::tls::Witness;
use super::within;
use crate::error::chain;
use crate::http::{self, trust::Anchors, trust::Verifier};
use crate::node;
use identity::VmIdentitySource;
use reqwest::StatusCode;
use reqwest::header::{DATE, WWW_AUTHENTICATE};
use rustls::crypto::ring;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use url::Url;

/// More than this is worth a look.
const CLOCK_DIFFERS: u64 = 60;
/// More than this and Entra refuses tokens.
const CLOCK_REFUSED: u64 = 300;
/// The metadata service answers from the same machine.
const IMDS_PATIENCE: Duration = Duration::from_secs(5);

/// What is asked at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// A token authority.
    Authority,
    /// A vault.
    Vault,
}

/// Looks at one host of Azure: its name, the connection, its certificate, its clock.
pub(super) async fn host(context: &Context, url: &Url, service: Service) -> Vec<Finding> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let path = proxy::path_to(url);
    let mut findings = vec![dns(context, url, &host, &path).await];
    findings.extend(connection(context, url, &host, &path, service).await);
    findings
}

async fn dns(context: &Context, url: &Url, host: &str, path: &Path) -> Finding {
    if let Path::Proxy(_) = path {
        return Finding::ok(Check::Dns, format!("{host} is reached {path}, which looks the name up"));
    }
    let port = url.port_or_known_default().unwrap_or(443);
    let looked_up = tokio::net::lookup_host((host, port));
    let cure = "see that the node's resolver works (the pod's dnsPolicy is ClusterFirstWithHostNet) and that the name is right: \
                keyvaultName and cloudName of the class. A vault behind a private endpoint needs its private DNS zone linked to \
                the node's network";
    match within(context.arguments.timeout, Check::Dns, &format!("looking up {host}"), looked_up).await {
        Err(finding) => finding,
        Ok(Err(error)) => Finding::failed(Check::Dns, format!("{host} does not resolve: {error}"), cure),
        Ok(Ok(addresses)) => {
            let mut found: Vec<IpAddr> = addresses.map(|address| address.ip()).collect();
            found.dedup();
            let private = if found.iter().any(is_private) { ", a private endpoint" } else { "" };
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            Finding::ok(Check::Dns, format!("{host} is {}{private}", found.join(", ")))
        }
    }
}

fn is_private(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

async fn connection(context: &Context, url: &Url, host: &str, path: &Path, service: Service) -> Vec<Finding> {
    let anchors = match Anchors::from_environment() {
        Ok(anchors) => anchors,
        Err(error) => {
            return vec![Finding::failed(
                Check::Tls,
                error.to_string(),
                "correct SSL_CERT_FILE, or install ca-certificates",
            )];
        }
    };
    let trusted = anchors.describe();
    let defect = |error: &dyn std::fmt::Display| {
        vec![Finding::failed(Check::Tls, error.to_string(), "correct the driver's flags")]
    };
    let agent = context.node.as_ref().map_or("", |node| node.custom_user_agent.as_str());
    let witness = match Verifier::new(anchors, Arc::new(ring::default_provider())) {
        Ok(verifier) => Witness::new(verifier),
        Err(error) => return defect(&error),
    };
    let client = match http::client_verifying(witness.clone(), agent) {
        Ok(client) => client,
        Err(error) => return defect(&error),
    };
    let sent = SystemTime::now();
    let asking = client.get(url.clone()).send();
    let answer =
        match within(context.arguments.timeout, Check::Tls, &format!("connecting to {host} {path}"), asking)
            .await
        {
            Err(finding) => return vec![finding],
            Ok(Err(error)) => return vec![refused(&error.without_url(), host, path, &witness, &trusted)],
            Ok(Ok(answer)) => answer,
        };
    let (status, headers) = (answer.status(), answer.headers());
    let certificate = witness.seen().map_or_else(String::new, |seen| format!("; {}", seen.describe()));
    let text =
        format!("{host} answers {path} (HTTP {}){certificate}; trusted are {trusted}", status.as_u16());
    let strange = match service {
        Service::Vault => {
            let challenge =
                headers.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            status == StatusCode::UNAUTHORIZED && !challenge.to_ascii_lowercase().starts_with("bearer")
                || !matches!(
                    status,
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
                )
        }
        Service::Authority => status.is_redirection() || status == StatusCode::PROXY_AUTHENTICATION_REQUIRED,
    };
    let first = if status.is_server_error() {
        Finding::warning(
            Check::Tls,
            text,
            "the service has trouble, which passes; or a proxy has none to send it to",
        )
    } else if strange {
        let what = if service == Service::Vault {
            "Key Vault, which asks for a token,"
        } else {
            "a token authority"
        };
        Finding::warning(
            Check::Tls,
            text,
            format!("this is not how {what} answers: check what is between, and keyvaultName and cloudName"),
        )
    } else {
        Finding::ok(Check::Tls, text)
    };
    let date = headers.get(DATE).and_then(|value| value.to_str().ok());
    vec![first, clock(host, date, sent)]
}

fn refused(error: &reqwest::Error, host: &str, path: &Path, witness: &Witness, trusted: &str) -> Finding {
    if let Some((text, cure)) = witness.seen().and_then(|seen| seen.explain(host, trusted)) {
        return Finding::failed(Check::Tls, format!("{host} is reached {path}, but {text}"), cure);
    }
    let variables = proxy::variables();
    let cure = match path {
        Path::Proxy(_) => format!(
            "see that the proxy runs and lets {host} through, or exempt the host with NO_PROXY; set here: {}",
            variables.join(" ")
        ),
        Path::Direct => format!(
            "let the node reach {host} on port 443: firewall, network policy, private endpoint; a proxy is used when HTTPS_PROXY names one"
        ),
    };
    Finding::failed(Check::Tls, format!("{host} cannot be reached {path}: {}", chain(error)), cure)
}

/// Compares this node's clock with what an answer says.
pub(super) fn clock(who: &str, date: Option<&str>, sent: SystemTime) -> Finding {
    let Some(theirs) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
        return Finding::skipped(Check::Clock, format!("{who} does not say what time it is"), None);
    };
    let received = SystemTime::now();
    // The answer was made at some moment between, in a whole second.
    let (ahead, behind) = (
        sent.duration_since(theirs + Duration::from_secs(1)).unwrap_or_default().as_secs(),
        theirs.duration_since(received).unwrap_or_default().as_secs(),
    );
    let (seconds, word) = if ahead > 0 { (ahead, "ahead of") } else { (behind, "behind") };
    let cure = "let the node's time service (chrony, systemd-timesyncd) set the clock; if two services differ, one of them is wrong";
    let text = format!("this node's clock is {seconds} s {word} that of {who}");
    match seconds {
        0..=CLOCK_DIFFERS => {
            Finding::ok(Check::Clock, format!("this node's clock agrees with that of {who}"))
        }
        _ if seconds <= CLOCK_REFUSED => Finding::warning(Check::Clock, text, cure),
        _ => Finding::failed(
            Check::Clock,
            format!("{text}: tokens are refused as not yet valid, or as expired"),
            cure,
        ),
    }
}

/// Asks the VM's metadata service for a token of its default identity, and looks at no more than the status.
pub(super) async fn imds(context: &Context) -> Vec<Finding> {
    let needed = "classes with useVMManagedIdentity need it, others do not";
    let base = match node::vm_identity_source() {
        Ok(VmIdentitySource::Imds(url)) => url,
        Ok(VmIdentitySource::Arc(_)) => {
            let text =
                "identities come from the agent of Azure Arc here, and are tried when a class asks for them";
            return vec![Finding::skipped(Check::Imds, text, None)];
        }
        Err(error) => return vec![Finding::failed(Check::Imds, error.to_string(), "correct the variable")],
    };
    let mut url = base.clone();
    url.set_path(&format!("{}/metadata/identity/oauth2/token", base.path().trim_end_matches('/')));
    url.query_pairs_mut()
        .append_pair("api-version", "2018-02-01")
        .append_pair("resource", "https://vault.azure.net");
    // Plain HTTP on a link-local address, as the driver asks it.
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            return vec![Finding::failed(
                Check::Imds,
                chain(&error),
                "this is a defect of akv-csi: please report it",
            )];
        }
    };
    let cure = "outside Azure there is none. In a pod it takes hostNetwork: true; network policies and iptables rules may block it";
    let time = context.arguments.timeout.min(IMDS_PATIENCE);
    let asking = async {
        Ok::<_, reqwest::Error>(match client.get(url).header("Metadata", "true").send().await? {
            // A token is not even read.
            answer if answer.status().is_success() => (answer.status(), String::new()),
            answer => (answer.status(), answer.text().await?),
        })
    };
    let base = base.as_str().trim_end_matches('/');
    let (status, body) = match tokio::time::timeout(time, asking).await {
        Err(_) => {
            let text = format!("{base} has not answered within {} s; {needed}", time.as_secs());
            return vec![Finding::warning(Check::Imds, text, cure)];
        }
        Ok(Err(error)) => {
            let text = format!("{base} is not reached: {}; {needed}", chain(&error.without_url()));
            return vec![Finding::warning(Check::Imds, text, cure)];
        }
        Ok(Ok(answer)) => answer,
    };
    let body = body.to_ascii_lowercase();
    vec![match status.as_u16() {
        200 => Finding::ok(
            Check::Imds,
            format!("{base} answers, and has a token of the VM's default identity (not read)"),
        ),
        400 if body.contains("multiple user assigned") => Finding::ok(
            Check::Imds,
            format!(
                "{base} answers; the VM has several user-assigned identities, so classes have to name one (userAssignedIdentityID)"
            ),
        ),
        400 => Finding::ok(
            Check::Imds,
            format!(
                "{base} answers; the VM has no default identity, so classes have to name one, if it has any"
            ),
        ),
        429 => Finding::warning(
            Check::Imds,
            format!("{base} throttles (HTTP 429)"),
            "something on this node asks it too often: 5 requests at once and 20 a second are its limit for all",
        ),
        other => Finding::warning(Check::Imds, format!("{base} answers HTTP {other}; {needed}"), cure),
    }]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn clocks_are_compared_with_room_for_the_way() {
        let now = SystemTime::now();
        let of = |offset: i64| {
            let shift = Duration::from_secs(offset.unsigned_abs());
            let theirs = if offset < 0 { now - shift } else { now + shift };
            clock("vault", Some(&httpdate::fmt_http_date(theirs)), now)
        };
        for (offset, verdict, words) in [
            (0, Verdict::Ok, "agrees"),
            (-30, Verdict::Ok, "agrees"),
            (120, Verdict::Warning, "behind that of vault"),
            (-120, Verdict::Warning, "ahead of that of vault"),
            (3600, Verdict::Failed, "behind that of vault"),
            (-3600, Verdict::Failed, "ahead of that of vault"),
        ] {
            let finding = of(offset);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(
                finding.text.contains(words) && (verdict == Verdict::Ok || finding.cure.is_some()),
                "{finding:?}"
            );
        }
        assert_eq!(clock("vault", Some("soon"), now).verdict, Verdict::Skipped);
    }
}
