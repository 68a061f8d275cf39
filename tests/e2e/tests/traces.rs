//! The spans of a driver at work, as a collector gets them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use azure_emulator::{Extent, FaultRule, Service};
use e2e::{
    Call, Collector, DriverProcess, Recorded, Scrape, Stage, StageOptions, can_mount, class, free_address,
};
use proto::csi::node_client::NodeClient;
use proto::otlp::span::Kind;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

const SECRET: &str = "objectName: secret1\nobjectType: secret";
const CALLER: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A driver that exports to this collector; further variables of its environment.
async fn start(
    collector: &Collector,
    arguments: &[String],
    variables: &[(&str, &str)],
) -> (Stage, DriverProcess) {
    let mut arguments = arguments.to_vec();
    arguments.push(format!("--otlp-endpoint={}", collector.url()));
    let stage = Stage::set(StageOptions { arguments, ..StageOptions::default() }).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let variables: Vec<_> =
        [("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "20".to_owned())].into_iter().chain(variables).collect();
    let driver = stage.start_unregistered(&DriverProcess::binary(), variables).await;
    (stage, driver)
}

async fn publish_traced(stage: &Stage, call: &Call, flags: &str) {
    let channel = tonic::transport::Endpoint::try_from(format!("unix://{}", stage.socket().display()));
    let mut client = NodeClient::new(channel.unwrap().connect().await.unwrap());
    let mut request = tonic::Request::new(call.request.clone());
    let parent = format!("00-{CALLER}-00f067aa0ba902b7-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    client.node_publish_volume(request).await.unwrap();
}

/// The names from the root down to this span. A parent that is not there fails the test.
fn path(spans: &HashMap<String, Recorded>, span: &Recorded, root: &str) -> Vec<String> {
    let mut path = vec![span.span.name.clone()];
    let mut at = span;
    while at.parent() != root {
        at = spans.get(&at.parent()).unwrap_or_else(|| panic!("{} has no parent: {path:?}", at.span.name));
        path.insert(0, at.span.name.clone());
    }
    path
}

#[tokio::test]
async fn the_spans_of_a_mount_are_one_tree_and_its_requests_are_in_it() {
    if !can_mount() {
        return;
    }
    let collector = Collector::start().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20planted"),
        ("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=prod"),
        // Nothing is sent before the end.
        ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
    ];
    let (stage, driver) = start(&collector, &[], &variables).await;
    stage.azure.faults().inject(FaultRule::status(Service::Vault, 503).extent(Extent::Count(1)));
    let call = Call::new(&stage, "web", "kv");
    publish_traced(&stage, &call, "01").await;
    call.unpublish().await.unwrap();
    assert!(driver.terminate().await.success(), "{}", stage.log());

    let all = collector.spans();
    let (own, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|span| span.trace() == CALLER);
    let apart: Vec<_> = others.iter().map(|span| span.span.name.as_str()).collect();
    assert_eq!(apart, ["unmount volume", "csi.v1.Node/NodeUnpublishVolume"], "a trace of its own");
    let spans: HashMap<String, Recorded> = own.iter().map(|span| (span.id(), span.clone())).collect();
    assert_eq!(spans.len(), own.len(), "an id is there twice");
    let root = "00f067aa0ba902b7";
    let paths: BTreeSet<String> = own.iter().map(|span| path(&spans, span, root).join(" > ")).collect();
    let publish = "csi.v1.Node/NodePublishVolume";
    let expected = [
        publish.to_owned(),
        format!("{publish} > fetch from Key Vault"),
        format!("{publish} > fetch from Key Vault > GET"),
        format!("{publish} > fetch from Key Vault > token request"),
        format!("{publish} > fetch from Key Vault > token request > POST"),
        format!("{publish} > write volume"),
    ];
    assert_eq!(paths, expected.into());

    let named = |name: &str| own.iter().filter(|span| span.span.name == name).collect::<Vec<_>>();
    let call_span = named(publish)[0];
    for (key, value) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "csi.v1.Node"),
        ("rpc.method", "NodePublishVolume"),
        ("rpc.grpc.status_code", "0"),
        ("k8s.namespace.name", "default"),
        ("k8s.pod.name", "web"),
        ("akv_csi.class", "kv"),
        ("akv_csi.outcome", "Mounted"),
    ] {
        assert_eq!(call_span.attribute(key).as_deref(), Some(value), "{key}");
    }
    assert_eq!((call_span.span.kind(), call_span.span.flags), (Kind::Server, 0x301));
    for (key, value) in
        [("service.name", "akv-csi"), ("k8s.node.name", e2e::NODE), ("k8s.cluster.name", "prod")]
    {
        assert_eq!(call_span.resource(key).as_deref(), Some(value), "{key}");
    }
    let gets = named("GET");
    let [refused, taken] = gets[..] else { panic!("{gets:?}") };
    assert_eq!(refused.attribute("http.response.status_code").as_deref(), Some("503"));
    assert_eq!(refused.span.status.as_ref().map(|status| status.code), Some(2));
    assert_eq!(refused.attribute("http.request.resend_count"), None);
    assert_eq!(taken.attribute("http.response.status_code").as_deref(), Some("200"));
    assert_eq!(taken.attribute("http.request.resend_count").as_deref(), Some("1"));
    assert_eq!(taken.attribute("server.address").as_deref(), Some("demo-vault.vault.azure.net"));
    assert!(taken.span.status.is_none() && taken.span.kind() == Kind::Client);
    assert_eq!(named("POST")[0].attribute("server.address").as_deref(), Some("login.microsoftonline.com"));

    // What Azure saw as traceparent is what was exported.
    let sent: BTreeSet<String> =
        stage.azure.telemetry().log().into_iter().filter_map(|entry| entry.traceparent).collect();
    let exported = [named("GET"), named("POST")].concat();
    let exported = exported.into_iter().map(|span| format!("00-{CALLER}-{}-01", span.id()));
    assert_eq!(sent, exported.collect());
    let log = stage.log();
    assert!(log.contains(&format!("trace_id=\"{CALLER}\"")), "{log}");

    assert!(collector.authorizations().iter().all(|header| header == "Bearer planted"));
    assert!(!log.contains("planted"), "headers are secrets: {log}");
}

#[tokio::test]
async fn a_caller_that_records_nothing_is_not_recorded() {
    if !can_mount() {
        return;
    }
    let collector = Collector::start().await;
    let (stage, driver) = start(&collector, &[], &[]).await;
    publish_traced(&stage, &Call::new(&stage, "quiet", "kv"), "00").await;
    Call::new(&stage, "web", "kv").publish().await.unwrap();
    assert!(driver.terminate().await.success());
    let spans = collector.spans();
    assert!(!spans.is_empty() && spans.iter().all(|span| span.trace() != CALLER), "{spans:?}");
}

#[tokio::test]
async fn spans_that_a_collector_does_not_want_are_counted_and_told_of_once() {
    if !can_mount() {
        return;
    }
    let (collector, metrics) = (Collector::start().await, free_address());
    collector.answer(400);
    let (stage, driver) = start(&collector, &[format!("--metrics-addr={metrics}")], &[]).await;
    let series = r#"akv_csi_spans_total{outcome="dropped"}"#;
    for (number, requests) in [(0, 1), (1, 2)] {
        Call::new(&stage, &format!("web-{number}"), "kv").publish().await.unwrap();
        collector.wait_for_requests(requests).await;
    }
    let counted = async {
        while Scrape::metrics(&metrics).await.value(series).unwrap() < 4.0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), counted).await.expect("they are counted");
    collector.answer(200);
    Call::new(&stage, "web-2", "kv").publish().await.unwrap();
    assert!(driver.terminate().await.success());
    let log = stage.log();
    assert_eq!(log.matches("spans are not exported").count(), 1, "{log}");
    assert!(log.contains("HTTP 400") && log.contains("spans are exported again"), "{log}");
    assert!(!collector.spans().is_empty());
}

#[tokio::test]
async fn a_collector_that_is_silent_or_gone_delays_neither_mounts_nor_the_end() {
    if !can_mount() {
        return;
    }
    let collector = Collector::start().await;
    collector.fall_silent();
    let (stage, driver) = start(&collector, &[], &[]).await;
    for number in 0..20 {
        // Each is answered while the first one's spans are still waiting for an answer.
        Call::new(&stage, &format!("web-{number}"), "kv").publish().await.unwrap();
    }
    collector.wait_for_requests(1).await;
    assert!(driver.terminate().await.success());
    let log = stage.log();
    assert!(log.contains("the collector did not take the last spans in time"), "{log}");

    drop(collector);
    let gone = format!("--otlp-endpoint=http://{}", free_address());
    let stage = Stage::set(StageOptions { arguments: vec![gone], ..StageOptions::default() }).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
    let driver = stage.start_unregistered(&DriverProcess::binary(), []).await;
    Call::new(&stage, "web", "kv").publish().await.unwrap();
    assert!(driver.terminate().await.success());
    assert!(stage.log().contains("spans are not exported"), "{}", stage.log());
}
