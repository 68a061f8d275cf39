//! Dashboard, alerts and their copies speak of metrics and labels that exist. Whether the queries mean what they should is for
//! `hack/observability.sh`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use csi_node::metrics::catalogue::{ALL, Entry, Kind};
use serde_json::Value;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");
/// Words of the query language, and labels that every scrape adds.
const WORDS: &[&str] = &[
    "absent",
    "and",
    "by",
    "changes",
    "count",
    "group_left",
    "histogram_quantile",
    "ignoring",
    "increase",
    "max",
    "min_over_time",
    "on",
    "rate",
    "sum",
    "without",
];
const ADDED: &[&str] = &["instance", "job", "le"];

fn read(path: &str) -> String {
    let path = format!("{DEPLOY}/{path}");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The words outside of quotes and of durations in brackets, Grafana's variables left out.
fn words(expression: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quoted, mut bracketed) = (false, false);
    for c in expression.chars() {
        match c {
            '"' => quoted = !quoted,
            '[' => bracketed = true,
            ']' => bracketed = false,
            c if !quoted && !bracketed && (c.is_ascii_alphanumeric() || c == '_') => {
                words.last_mut().unwrap().push(c);
                continue;
            }
            _ => {}
        }
        words.push(String::new());
    }
    words.retain(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()));
    words
}

fn metric(word: &str) -> Option<&'static Entry> {
    ALL.iter().find(|entry| {
        let series =
            ["_bucket", "_sum", "_count"].iter().any(|end| word.strip_suffix(end) == Some(entry.name));
        if entry.kind == Kind::Histogram { series } else { word == entry.name }
    })
}

fn is_known(expression: &str) {
    let words = words(expression);
    let metrics: Vec<_> = words.iter().filter_map(|word| metric(word)).collect();
    assert!(!metrics.is_empty(), "no metric in: {expression}");
    for word in &words {
        let label = ADDED.contains(&word.as_str())
            || metrics.iter().any(|entry| entry.labels.contains(&word.as_str()));
        assert!(
            label || metric(word).is_some() || WORDS.contains(&word.as_str()),
            "{word} is no metric, nor a label of one, in: {expression}"
        );
    }
}

#[test]
fn what_the_dashboard_shows_exists() {
    let dashboard: Value = serde_json::from_str(&read("grafana/akv-csi.json")).unwrap();
    let (mut ids, mut shown) = (Vec::new(), Vec::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        ids.push(panel["id"].as_u64().unwrap());
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            is_known(expression);
            assert!(expression.contains(r#"instance=~"$instance""#), "not for one node: {expression}");
            shown.extend(words(expression).iter().filter_map(|word| metric(word)).map(|entry| entry.name));
        }
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "two panels with one id");
    // Each of our own metrics is shown somewhere.
    let missing: Vec<_> = ALL
        .iter()
        .map(|entry| entry.name)
        .filter(|name| name.starts_with("akv_csi_") && !shown.contains(name))
        .collect();
    assert!(missing.is_empty(), "not on the dashboard: {missing:?}");
}

#[test]
fn what_the_alerts_watch_exists_and_both_files_say_the_same() {
    let rules: Value = serde_saphyr::from_str(&read("alerts/akv-csi.rules.yaml")).unwrap();
    let object: Value = serde_saphyr::from_str(&read("alerts/prometheusrule.yaml")).unwrap();
    assert_eq!(object["kind"], "PrometheusRule");
    assert_eq!(object["spec"]["groups"], rules["groups"], "make prometheusrule.yaml anew; its head says how");
    let tests = read("alerts/akv-csi.rules.test.yaml");
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        is_known(rule["expr"].as_str().unwrap());
        let name = rule["alert"].as_str().unwrap();
        assert!(tests.contains(name), "{name} is not tested");
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].is_string(), "{name} has no {text}");
        }
    }
}

#[test]
fn an_unknown_name_is_found() {
    for wrong in [
        "rate(akv_csi_no_such_total[5m])",
        r#"akv_csi_volumes{stat="kept"}"#,
        "sum by (pod) (akv_csi_volumes)",
        "akv_csi_publish_duration_seconds",
    ] {
        assert!(std::panic::catch_unwind(|| is_known(wrong)).is_err(), "{wrong}");
    }
    is_known(r#"sum by (state) (akv_csi_volumes{instance=~"$instance",state!="no_such_total"})"#);
}
