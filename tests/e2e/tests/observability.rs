//! The dashboard and the alerts before a real Prometheus that scrapes a real driver. `hack/observability.sh` runs this: it
//! knows where Prometheus is, and says so in `AKV_CSI_PROMETHEUS`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use azure_emulator::{Extent, FaultRule, RetryAfter, Service};
use e2e::{Call, Collector, Scrape, Stage, StageOptions, VAULT, can_mount, class, free_address};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

const SECRET: &str = "objectName: secret1\nobjectType: secret";
const PATIENCE: Duration = Duration::from_secs(90);
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");
/// Names of the reference that promtool would have otherwise.
const NOT_OUR_CHOICE: [&str; 2] = ["rotation_reconcile_duration_sec", "k8s_secret_duration_sec"];
/// Two classes of one Secret: a driver without an API server writes none.
const ONLY_IN_A_CLUSTER: &str = "akv_csi_secret_conflicts_total";

fn programs() -> PathBuf {
    std::env::var_os("AKV_CSI_PROMETHEUS").expect("hack/observability.sh sets this").into()
}

/// A Prometheus that scrapes one driver each second and knows the alerts.
struct Prometheus {
    _process: Child,
    address: String,
}

impl Prometheus {
    fn start(folder: &Path, driver: &str) -> Self {
        let address = free_address();
        let configuration = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{DEPLOY}/alerts/akv-csi.rules.yaml]\n\
             scrape_configs:\n  - job_name: akv-csi\n    static_configs: [{{targets: ['{driver}']}}]\n"
        );
        std::fs::write(folder.join("prometheus.yml"), configuration).unwrap();
        let process = Command::new(programs().join("prometheus"))
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { _process: process, address }
    }

    /// The series of an instant query. A query that Prometheus does not understand ends the test.
    async fn query(&self, expression: &str) -> Vec<Value> {
        let mut path = "/api/v1/query?query=".to_owned();
        for byte in expression.bytes() {
            write!(path, "%{byte:02X}").unwrap();
        }
        let Ok(answer) = Scrape::get(&self.address, &path, "application/json").await else {
            return Vec::new();
        };
        let Ok(answer) = serde_json::from_str::<Value>(&answer.body) else { return Vec::new() };
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    async fn wait_for(&self, expression: &str) {
        let found = async {
            while self.query(expression).await.is_empty() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no series for {expression}"));
    }
}

/// Title and expression of every query of the dashboard, with Grafana's variables filled in.
fn queries() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(format!("{DEPLOY}/grafana/akv-csi.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let expression = expression.replace("$instance", ".*").replace("$__rate_interval", "1m");
            queries.push((panel["title"].as_str().unwrap().to_owned(), expression));
        }
    }
    assert!(queries.len() > 30, "{queries:?}");
    queries
}

async fn promtool_finds_nothing_wrong(metrics: &str) {
    let mut promtool = Command::new(programs().join("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = promtool.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, metrics.as_bytes()).await.unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().await.unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let ours: Vec<&str> =
        said.lines().filter(|line| !NOT_OUR_CHOICE.iter().any(|name| line.starts_with(name))).collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));
}

#[tokio::test]
#[ignore = "needs Prometheus: hack/observability.sh runs it"]
async fn every_query_of_the_dashboard_finds_something() {
    if !can_mount() {
        return;
    }
    let address = free_address();
    let mut arguments: Vec<String> =
        ["--enable-secret-rotation=true", "--rotation-poll-interval=0", "--publish-timeout=2s"]
            .map(str::to_owned)
            .into();
    arguments.push(format!("--metrics-addr={address}"));
    let collector = Collector::start().await;
    arguments.push(format!("--otlp-endpoint={}", collector.url()));
    let stage = Stage::start(StageOptions { arguments, ..StageOptions::default() }).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
    stage.deploy("none", &class(&stage, "none", &["objectName: nothing\nobjectType: secret"], &[]));
    let prometheus = Prometheus::start(stage.folder(), &address);
    // What has happened before the first scrape is no increase.
    prometheus.wait_for("count_over_time(akv_csi_build_info[1m]) > 2").await;

    let (web, other) = (Call::new(&stage, "web", "kv"), Call::new(&stage, "other", "kv"));
    web.publish().await.unwrap();
    other.publish().await.unwrap();
    other.publish().await.unwrap();
    Call::new(&stage, "wrong", "none").publish().await.unwrap_err();
    stage.azure.vault(VAULT).set_secret("secret1", "second").unwrap();
    web.publish().await.unwrap();
    let throttled = FaultRule::status(Service::Vault, 429).retry_after(RetryAfter::Seconds(1));
    stage.azure.faults().inject(throttled.extent(Extent::Count(1)));
    web.publish().await.unwrap();
    other.unpublish().await.unwrap();

    for (title, expression) in queries() {
        if expression.contains(ONLY_IN_A_CLUSTER) {
            // Understood it has to be.
            prometheus.query(&expression).await;
            continue;
        }
        prometheus.wait_for(&expression).await;
        println!("{title}: {expression}");
    }
    promtool_finds_nothing_wrong(&Scrape::metrics(&address).await.body).await;
}
