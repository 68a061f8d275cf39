//! Many pods with nothing to do for the driver.

use crate::api::Kind;
use crate::audit::Request;
use crate::cluster::{Cluster, DRIVER_ACCOUNT, VAULT, pod};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Pods on the node, unless `AKV_CSI_CLUSTER_PODS` says otherwise.
const PODS: u64 = 30;
/// How often each volume is published again while nobody may write, at least.
const ROUNDS: u64 = 5;

/// A number from the environment.
fn number(variable: &str, usual: u64) -> u64 {
    let Ok(text) = std::env::var(variable) else { return usual };
    text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}; it takes a whole number"))
}

/// Pods of one Deployment, published again and again with nothing changed: the driver writes nothing to the API server, and
/// asks the vault once for each object and interval, not once for each pod. `AKV_CSI_CLUSTER_MINUTES` makes it go on for longer.
pub async fn unchanged(cluster: &Cluster) {
    let pods = number("AKV_CSI_CLUSTER_PODS", PODS);
    let long = Duration::from_secs(60 * number("AKV_CSI_CLUSTER_MINUTES", 0));
    let vault = cluster.azure.vault(VAULT);
    vault.set_secret("crowd", "the same for all").expect("a valid secret");
    cluster.namespace("crowd", &["default"]).await;
    let pod = pod("crowd", &["crowd-class"]);
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "crowd"},
        "spec": {
            "replicas": pods,
            "selector": {"matchLabels": {"app": "crowd"}},
            "template": {"metadata": pod["metadata"], "spec": pod["spec"]},
        },
    });
    cluster.apply_all("crowd", &[cluster.class("crowd-class", &["crowd"]), deployment]).await;
    let mut ready = 0;
    // Each look that sees more of them ready gets its own time: a slow machine is not a fault.
    while ready < pods {
        ready = cluster
            .until(&format!("more than {ready} of {pods} pods are ready"), || async {
                let deployment = cluster.get(Kind::Deployment, "crowd", "crowd").await?;
                deployment["status"]["readyReplicas"].as_u64().filter(|now| *now > ready)
            })
            .await;
    }

    // What a first publish has to write may still be on its way.
    round(cluster, "node-1", pods).await;
    round(cluster, "node-1", pods).await;
    let begun = Instant::now();
    let requests = cluster.driver_requests().len();
    let asked = cluster.azure.counters().object(VAULT, "secrets", "crowd");
    let published = publishes(cluster, "node-1").await.expect("the kubelet has metrics");
    let mut rounds = 0;
    while rounds < ROUNDS || begun.elapsed() < long {
        round(cluster, "node-1", pods).await;
        rounds += 1;
    }
    let published = publishes(cluster, "node-1").await.expect("the kubelet has metrics") - published;
    let asked = cluster.azure.counters().object(VAULT, "secrets", "crowd") - asked;
    let requests = cluster.driver_requests().split_off(requests);
    let seconds = begun.elapsed().as_secs();
    let writes: Vec<_> = requests.iter().filter(|request| request.is_write()).collect();
    println!(
        "   {pods} pods in {seconds} s: {published} publish calls, {asked} requests to Key Vault, {} to the API server, {} of them \
         writes",
        requests.len(),
        writes.len()
    );
    assert_eq!(writes, Vec::<&Request>::new(), "{DRIVER_ACCOUNT} wrote although nothing changed");
    assert!(asked > 0, "nobody looked for a new version");
    assert!(asked < rounds * pods / 2, "{asked} requests for {pods} volumes published {rounds} times");
    cluster.delete("", &["namespace", "crowd"]).await;
}

/// Waits until a node's kubelet has called the driver as many times as there are pods.
pub async fn round(cluster: &Cluster, node: &str, pods: u64) {
    let started = publishes(cluster, node).await.expect("the kubelet has metrics");
    cluster
        .until(&format!("{pods} volumes are published again"), || async {
            publishes(cluster, node).await.filter(|now| *now >= started + pods)
        })
        .await;
}

/// How often a node's kubelet has called NodePublishVolume.
async fn publishes(cluster: &Cluster, node: &str) -> Option<u64> {
    let metrics =
        cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")]).await.ok()?;
    let series = metrics.lines().filter(|line| {
        line.starts_with("csi_operations_seconds_count{") && line.contains("/csi.v1.Node/NodePublishVolume")
    });
    let counts = series.filter_map(|line| line.rsplit(' ').next()?.parse::<Value>().ok()?.as_f64());
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let total = counts.sum::<f64>() as u64;
    (total > 0).then_some(total)
}
