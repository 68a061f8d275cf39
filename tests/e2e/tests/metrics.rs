//! What a scraper sees of a driver at work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use azure_emulator::{FaultRule, Service};
use e2e::{Call, Scrape, Stage, StageOptions, Usage, VAULT, can_mount, class, free_address};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const SECRET: &str = "objectName: secret1\nobjectType: secret";

fn arguments(further: &[String]) -> Vec<String> {
    let rotation = ["--enable-secret-rotation=true", "--rotation-poll-interval=0"].map(str::to_owned);
    rotation.iter().chain(further).cloned().collect()
}

#[tokio::test]
async fn a_day_in_the_life_of_a_volume_is_counted() {
    if !can_mount() {
        return;
    }
    let (first, second) = (free_address(), free_address());
    let port = second.rsplit(':').next().unwrap().to_owned();
    let flags = [format!("--metrics-addr={first}"), format!("--prometheus-port={port}")];
    let stage = Stage::start(StageOptions { arguments: arguments(&flags), ..StageOptions::default() }).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
    stage.deploy("none", &class(&stage, "none", &["objectName: no-such-object\nobjectType: secret"], &[]));

    let before = Scrape::metrics(&first).await;
    assert!(before.head.contains("text/plain; version=0.0.4"), "{}", before.head);
    for series in [
        r#"node_publish_total{os_type="linux",provider="azure"}"#,
        r#"node_publish_error_total{os_type="linux",provider="azure",error_type="GRPCProviderError"}"#,
        r#"akv_csi_volumes{state="current"}"#,
        r#"akv_csi_cache_lookups_total{outcome="hit"}"#,
    ] {
        assert_eq!(before.value(series), Some(0.0), "{series}");
    }

    let (web, other) = (Call::new(&stage, "web", "kv"), Call::new(&stage, "other", "kv"));
    web.publish().await.unwrap();
    other.publish().await.unwrap();
    Call::new(&stage, "wrong", "none").publish().await.unwrap_err();
    stage.azure.vault(VAULT).set_secret("secret1", "second").unwrap();
    web.publish().await.unwrap();
    web.publish().await.unwrap();
    stage.azure.faults().inject(FaultRule::status(Service::Vault, 403));
    web.publish().await.unwrap();
    stage.azure.faults().clear();
    other.unpublish().await.unwrap();

    let after = Scrape::metrics(&first).await;
    for (series, value) in [
        (r#"node_publish_total{os_type="linux",provider="azure"}"#, 4.0),
        (r#"node_publish_error_total{os_type="linux",provider="azure",error_type="GRPCProviderError"}"#, 2.0),
        (r#"node_unpublish_total{os_type="linux"}"#, 1.0),
        (r#"rotation_reconcile_total{os_type="linux",provider="azure",rotated="true"}"#, 1.0),
        (r#"rotation_reconcile_total{os_type="linux",provider="azure",rotated="false"}"#, 1.0),
        (r#"rotation_reconcile_duration_sec_count{os_type="linux"}"#, 2.0),
        (r#"akv_csi_publish_failures_total{cause="not_found",volume="none"}"#, 1.0),
        (r#"akv_csi_publish_failures_total{cause="forbidden",volume="kept"}"#, 1.0),
        (r#"akv_csi_publish_duration_seconds_count{outcome="mounted"}"#, 2.0),
        (r#"akv_csi_publish_duration_seconds_count{outcome="kept"}"#, 1.0),
        (r#"akv_csi_volumes{state="kept"}"#, 1.0),
        (r#"akv_csi_volumes{state="current"}"#, 0.0),
        // The second mount took what the first had fetched.
        (r#"akv_csi_cache_lookups_total{outcome="hit"}"#, 1.0),
        (r#"akv_csi_vault_responses_total{status="404"}"#, 1.0),
        (r#"akv_csi_vault_responses_total{status="403"}"#, 1.0),
        (r#"akv_csi_token_requests_total{outcome="ok"}"#, 1.0),
        ("akv_csi_token_identities", 1.0),
    ] {
        assert_eq!(after.value(series), Some(value), "{series} in:\n{}", after.body);
    }
    assert!(
        after.body.contains(r#"keyvault_request_count{provider="azure",os_type="linux""#),
        "{}",
        after.body
    );
    assert!(after.value("akv_csi_oldest_content_age_seconds").unwrap() < 60.0);

    // The provider's old port, and Prometheus' own format.
    let format = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let open_metrics = Scrape::get(&format!("[::1]:{port}"), "/metrics", format).await.unwrap();
    assert!(
        open_metrics.head.contains("application/openmetrics-text; version=1.0.0"),
        "{}",
        open_metrics.head
    );
    assert!(open_metrics.body.contains("# TYPE node_publish counter\nnode_publish_total{"));
    assert!(open_metrics.body.ends_with("# EOF\n"));
    // Names of what was fetched, of pods and of identities are nowhere.
    for name in ["secret1", "no-such-object", "web", &stage.workload_identity.client_id, stage.azure.tenant()]
    {
        assert!(!after.body.contains(name), "{name} in:\n{}", after.body);
    }
}

#[tokio::test]
async fn a_taken_port_does_not_stop_the_driver_and_is_served_when_it_is_free() {
    if !can_mount() {
        return;
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let flags = [format!("--metrics-addr={address}")];
    let stage = Stage::start(StageOptions { arguments: arguments(&flags), ..StageOptions::default() }).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
    Call::new(&stage, "web", "kv").publish().await.unwrap();
    let told = async {
        while !stage.log().contains("metrics are not served yet") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told).await.unwrap();
    drop(taken);
    let scrape = Scrape::metrics(&address).await;
    assert_eq!(scrape.value(r#"node_publish_total{os_type="linux",provider="azure"}"#), Some(1.0));
}

#[tokio::test]
async fn slow_clients_cost_the_driver_little_and_keep_nobody_out() {
    if !can_mount() {
        return;
    }
    let (health, metrics) = (free_address(), free_address());
    let flags = [format!("--health-addr={health}"), format!("--metrics-addr={metrics}")];
    let stage = Stage::start(StageOptions { arguments: arguments(&flags), ..StageOptions::default() }).await;
    Scrape::metrics(&metrics).await;
    let pid = stage.driver.as_ref().unwrap().pid();
    let before = Usage::of(pid);
    let mut slow = Vec::new();
    for address in [&health, &metrics].into_iter().cycle().take(300) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Whoever came too early has been hung up on by now, which is no matter here.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
        slow.push(stream);
    }
    let probe = Scrape::get(&health, "/healthz", "*/*").await.unwrap();
    assert!(probe.head.starts_with("HTTP/1.0 200"), "{}", probe.head);
    assert!(Scrape::metrics(&metrics).await.body.contains("akv_csi_build_info"));
    let after = Usage::of(pid);
    let more = after.descriptors.saturating_sub(before.descriptors);
    assert!(more <= 2 * 32 + 8, "{} descriptors, and {} before", after.descriptors, before.descriptors);
    let grown = after.memory_kib.saturating_sub(before.memory_kib);
    assert!(grown < 4 * 1024, "{grown} KiB more");
}
