//! The life of a mounted volume: rotation, restarts of the driver, removal.

use crate::api::Kind;
use crate::cluster::{Cluster, VAULT, pod};
use e2e::mounts_below;
use std::path::{Path, PathBuf};

/// A new version in the vault reaches the file, and so does an object that was added to the class.
pub async fn rotation(cluster: &Cluster) {
    let vault = cluster.azure.vault(VAULT);
    vault.set_secret("rotating", "before").expect("a valid secret");
    vault.set_secret("added", "new object").expect("a valid secret");
    cluster.namespace("rotation", &["default"]).await;
    cluster.apply_all("rotation", &[cluster.class("rotates", &["rotating"]), pod("app", &["rotates"])]).await;
    cluster.pod_ready("rotation", "app").await;
    assert_eq!(cluster.cat("rotation", "app", "/mnt/rotates/rotating").await, "before");
    vault.set_secret("rotating", "after").expect("a valid secret");
    cluster.cat_until("rotation", "app", "/mnt/rotates/rotating", "after").await;
    cluster.apply_all("rotation", &[cluster.class("rotates", &["rotating", "added"])]).await;
    cluster.cat_until("rotation", "app", "/mnt/rotates/added", "new object").await;
    cluster.delete("", &["namespace", "rotation"]).await;
}

/// The driver's pod is replaced. The pod's volume stays the mount it was, keeps its content meanwhile, and rotates afterwards.
pub async fn driver_restart(cluster: &Cluster) {
    let vault = cluster.azure.vault(VAULT);
    vault.set_secret("outlives", "before").expect("a valid secret");
    cluster.namespace("restart", &["default"]).await;
    cluster
        .apply_all("restart", &[cluster.class("survivor", &["outlives"]), pod("app", &["survivor"])])
        .await;
    cluster.pod_ready("restart", "app").await;
    let before = mount_ids(&pod_folder(cluster, "restart", "app").await);
    assert_eq!(before.len(), 1, "one volume is mounted");

    cluster.restart_driver().await;
    assert_eq!(cluster.cat("restart", "app", "/mnt/survivor/outlives").await, "before");
    vault.set_secret("outlives", "after").expect("a valid secret");
    cluster.cat_until("restart", "app", "/mnt/survivor/outlives", "after").await;
    assert_eq!(mount_ids(&pod_folder(cluster, "restart", "app").await), before, "the mount is another one");
    cluster.delete("", &["namespace", "restart"]).await;
}

/// A deleted pod leaves no mount, no folder, and no complaint in the driver's log.
pub async fn removal(cluster: &Cluster) {
    cluster.azure.vault(VAULT).set_secret("removed", "for a while").expect("a valid secret");
    cluster.namespace("removal", &["default"]).await;
    cluster.apply_all("removal", &[cluster.class("short", &["removed"]), pod("app", &["short"])]).await;
    cluster.pod_ready("removal", "app").await;
    let folder = pod_folder(cluster, "removal", "app").await;
    assert_eq!(mounts_below(&folder.join("volumes/kubernetes.io~csi")).len(), 1, "one volume is mounted");
    cluster.delete("removal", &["pod", "app"]).await;
    cluster
        .until(&format!("{} is gone", folder.display()), || async {
            (mounts_below(&folder).is_empty() && !folder.exists()).then_some(())
        })
        .await;
    let log = cluster.driver_log().await;
    assert!(!log.contains("failed to clean and unmount target path"), "{log}");
    cluster.delete("", &["namespace", "removal"]).await;
}

/// What the driver's pods have counted is read from them under the names that dashboards know.
pub async fn metrics(cluster: &Cluster) {
    let vault = cluster.azure.vault(VAULT);
    vault.set_secret("counting", "before").expect("a valid secret");
    cluster.namespace("metrics", &["default"]).await;
    cluster.apply_all("metrics", &[cluster.class("counts", &["counting"]), pod("app", &["counts"])]).await;
    cluster.pod_ready("metrics", "app").await;
    vault.set_secret("counting", "after").expect("a valid secret");
    cluster.cat_until("metrics", "app", "/mnt/counts/counting", "after").await;
    cluster.delete("", &["namespace", "metrics"]).await;
    for pod in cluster.driver_pods().await {
        let path = format!("/api/v1/namespaces/kube-system/pods/{pod}:8095/proxy/metrics");
        let text = cluster.kubectl(&["get", "--raw", &path]).await.expect("the driver serves metrics");
        for name in ["node_publish_total", "node_unpublish_total", "rotation_reconcile_total"] {
            assert!(
                text.lines().any(|line| line.starts_with(&format!("{name}{{"))),
                "there is no {name} in\n{text}"
            );
        }
    }
}

/// The kubelet's folder of a pod.
pub async fn pod_folder(cluster: &Cluster, namespace: &str, name: &str) -> PathBuf {
    let pod = cluster.get(Kind::Pod, namespace, name).await.expect("the pod is there");
    let uid = pod["metadata"]["uid"].as_str().expect("a pod has a uid");
    Path::new("/var/lib/kubelet/pods").join(uid)
}

/// The ids of the CSI mounts of a pod's folder. A mount that is made anew has another one.
pub fn mount_ids(folder: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("a readable mount table");
    let below = folder.join("volumes/kubernetes.io~csi").display().to_string();
    let lines =
        table.lines().filter(|line| line.split(' ').nth(4).is_some_and(|place| place.starts_with(&below)));
    lines.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}
