use super::catalogue::{ALL, Entry, Kind, Origin};
use super::labels::{Cause, ErrorType};
use super::volumes::Look;
use super::{Format, Metrics};
use crate::csi::request::{InvalidRequest, Pod};
use crate::driver::Outcome;
use crate::error::PublishError;
use crate::volume::TargetPath;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;
use vault::{FailureKind, Lookup, ObjectKind, Observer};

fn target(name: &str) -> TargetPath {
    TargetPath::parse(&format!("/var/lib/kubelet/pods/{name}/mount")).unwrap()
}

/// Metrics of a driver that has seen everything.
fn eventful() -> Metrics {
    let metrics = Metrics::new();
    let took = Duration::from_millis(30);
    let error = PublishError::from(InvalidRequest::NoVolumeId);
    for outcome in [Outcome::Mounted, Outcome::Rotated, Outcome::Unchanged, Outcome::Fresh] {
        metrics.calls.published("azure", outcome, took);
    }
    metrics.calls.publish_failed(&error, took);
    metrics.calls.publish_kept(&error, took);
    metrics.calls.unpublished(true);
    metrics.calls.unpublished(false);
    metrics.calls.contents(true, took);
    let look = |ago, stale| Look { checked: tokio::time::Instant::now() - ago, interval: Some(took), stale };
    metrics.volumes.looked(&target("a"), look(Duration::ZERO, false));
    metrics.volumes.looked(&target("b"), look(Duration::ZERO, true));
    metrics.volumes.looked(&target("c"), look(Duration::ZERO, false));
    metrics.volumes.kept(&target("c"));
    metrics.volumes.looked(&target("d"), look(Duration::from_secs(600), false));
    metrics.volumes.looked(&target("e"), look(Duration::from_secs(900), false));
    metrics.volumes.gone(&target("e"));
    metrics.vault.looked_up(Lookup::Hit);
    metrics.vault.fetched(ObjectKind::Key, Err(FailureKind::Forbidden), took);
    metrics.vault.answered(Some(403));
    metrics.vault.throttled("kv.vault.azure.net", Duration::from_secs(60));
    metrics.vault.served_stale(took);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
    metrics.tokens.watch(identity::Tokens::new(identity::Config::new(http).unwrap()).unwrap());
    metrics.objects.secret_synced("azure", took);
    metrics.objects.secret_sync_failed();
    metrics.objects.two_classes("shop", "old", "new");
    metrics
}

/// Name, kind and labels of what an exposition holds. Lines that belong to nothing declared are an error.
fn exposed(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut found: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.starts_with("# HELP ")) {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            assert!(
                found.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new())).is_none(),
                "{name} twice"
            );
            name.clone_into(&mut current);
            continue;
        }
        let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let (kind, labels) = found.get_mut(&current).unwrap();
        let fits = match kind.as_str() {
            "histogram" => ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{current}{end}")),
            _ => name == current,
        };
        assert!(fits, "{line} does not belong to {current}");
        let inside =
            line.strip_prefix(&name).unwrap().strip_prefix('{').and_then(|rest| rest.split_once('}'));
        for pair in inside.map_or("", |(inside, _)| inside).split("\",").filter(|pair| !pair.is_empty()) {
            labels.insert(pair.split_once('=').unwrap().0.to_owned());
        }
    }
    found
}

fn sample(text: &str, series: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    rest.parse().ok()
}

#[tokio::test]
async fn everything_of_the_catalogue_is_exposed_and_nothing_else() {
    let found = exposed(&eventful().render(Format::Text));
    for Entry { name, kind, labels, .. } in ALL {
        // No token, no age of it.
        if *name == "akv_csi_oldest_token_age_seconds" {
            continue;
        }
        let (shown_kind, shown_labels) = found.get(*name).unwrap_or_else(|| panic!("{name} is not exposed"));
        let kind = if *kind == Kind::Info { "gauge" } else { kind.as_str() };
        assert_eq!(shown_kind, kind, "{name}");
        let mut expected: BTreeSet<String> = labels.iter().map(|&label| label.to_owned()).collect();
        if kind == "histogram" {
            expected.insert("le".to_owned());
        }
        assert_eq!(*shown_labels, expected, "{name}");
    }
    let unknown: Vec<_> =
        found.keys().filter(|name| !ALL.iter().any(|entry| entry.name == name.as_str())).collect();
    assert!(unknown.is_empty(), "not in the catalogue: {unknown:?}");
}

#[tokio::test]
async fn the_values_are_those_of_what_happened() {
    let text = eventful().render(Format::Text);
    for (series, value) in [
        (r#"node_publish_total{os_type="linux",provider="azure"}"#, 4.0),
        (r#"node_publish_error_total{os_type="linux",provider="unknown",error_type="FailedToMount"}"#, 2.0),
        (r#"rotation_reconcile_total{os_type="linux",provider="azure",rotated="true"}"#, 1.0),
        (r#"rotation_reconcile_total{os_type="linux",provider="azure",rotated="false"}"#, 1.0),
        (r#"rotation_reconcile_duration_sec_count{os_type="linux"}"#, 2.0),
        (r#"node_unpublish_total{os_type="linux"}"#, 1.0),
        (r#"akv_csi_publish_failures_total{cause="request",volume="none"}"#, 1.0),
        (r#"akv_csi_publish_failures_total{cause="request",volume="kept"}"#, 1.0),
        (r#"akv_csi_volumes{state="current"}"#, 1.0),
        (r#"akv_csi_volumes{state="stale"}"#, 1.0),
        (r#"akv_csi_volumes{state="kept"}"#, 1.0),
        (r#"akv_csi_volumes{state="overdue"}"#, 1.0),
        (r#"akv_csi_cache_lookups_total{outcome="hit"}"#, 1.0),
        (r#"akv_csi_vault_responses_total{status="403"}"#, 1.0),
    ] {
        assert_eq!(sample(&text, series), Some(value), "{series} in:\n{text}");
    }
    let oldest = sample(&text, "akv_csi_oldest_content_age_seconds").unwrap();
    assert!((600.0..700.0).contains(&oldest), "the volume that is gone does not count: {oldest}");
    let pause = sample(&text, r#"akv_csi_vault_pause_seconds{vault="kv.vault.azure.net"}"#).unwrap();
    assert!((1.0..=60.0).contains(&pause), "{pause}");
    assert!(sample(&text, "process_resident_memory_bytes").unwrap() > 1e6);
    assert!(sample(&text, "process_open_fds").unwrap() > 2.0);
}

/// Names in classes are written by users: a thousand of them must not make a thousand series.
#[test]
fn users_cannot_make_series_without_end() {
    let metrics = Metrics::new();
    for n in 0..1000 {
        let class = crate::class::ClassName { namespace: "n".into(), name: "c".into() };
        let cause = crate::provider::ProviderError::InvalidName { provider: format!("provider-{n}") };
        let step = crate::error::MountError::Provider { class, cause };
        let error = PublishError::Mount { pod: Pod::default(), step };
        metrics.calls.publish_failed(&error, Duration::ZERO);
        metrics.vault.throttled(&format!("kv{n}.vault.azure.net"), Duration::ZERO);
        metrics.objects.secret_synced(&format!("provider-{n}"), Duration::ZERO);
    }
    let text = metrics.render(Format::Text);
    assert!(text.lines().count() < 600, "{}", text.lines().count());
    assert!(text.contains(r#"provider="other""#) && text.contains(r#"vault="other""#));
}

#[test]
fn errors_are_told_in_the_references_words_and_in_finer_ones() {
    let pod = Pod::default;
    let class = || crate::class::ClassName { namespace: "n".into(), name: "c".into() };
    for (error, error_type, cause) in [
        (PublishError::NoClass { pod: pod() }, ErrorType::FailedToMount, Cause::Request),
        (
            PublishError::Class {
                pod: pod(),
                class: class(),
                cause: crate::class::ClassError::ApiServer { class: class(), cause: String::new() },
            },
            ErrorType::SecretProviderClassNotFound,
            Cause::Class,
        ),
        (
            PublishError::Mount {
                pod: pod(),
                step: crate::error::MountError::NothingSelected { class: class() },
            },
            ErrorType::Provider,
            Cause::Parameters,
        ),
        (
            PublishError::Internal { target: String::new(), cause: String::new() },
            ErrorType::Internal,
            Cause::Internal,
        ),
    ] {
        assert_eq!((ErrorType::from(&error), Cause::from(&error)), (error_type, cause), "{error}");
    }
}

/// The table in the documentation is made from the catalogue. With `AKV_CSI_WRITE_DOCS` set it is written anew.
#[test]
fn the_documentation_has_every_metric() {
    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let mut table = String::new();
    for (origin, title) in [
        (Origin::Driver, "The Secrets Store CSI Driver's"),
        (Origin::Provider, "The Azure provider's"),
        (Origin::Own, "Our own"),
        (Origin::Process, "The process"),
    ] {
        writeln!(table, "\n### {title}\n\n| name | kind | labels | meaning |\n|---|---|---|---|").unwrap();
        for entry in ALL.iter().filter(|entry| entry.origin == origin) {
            let labels: Vec<_> = entry.labels.iter().map(|label| format!("`{label}`")).collect();
            let Entry { name, help, .. } = entry;
            let (kind, labels) = (entry.kind.as_str(), labels.join(", "));
            writeln!(table, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
        }
    }
    let text = std::fs::read_to_string(FILE).unwrap();
    let (before, rest) = text.split_once("<!-- begin: made from the catalogue -->\n").unwrap();
    let (found, after) = rest.split_once("\n<!-- end -->").unwrap();
    if std::env::var_os("AKV_CSI_WRITE_DOCS").is_some() {
        let text = format!("{before}<!-- begin: made from the catalogue -->\n{table}\n<!-- end -->{after}");
        std::fs::write(FILE, text).unwrap();
        return;
    }
    assert_eq!(found, table, "docs/metrics.md differs: run this test with AKV_CSI_WRITE_DOCS=1");
}
