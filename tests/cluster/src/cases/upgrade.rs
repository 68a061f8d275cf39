//! From the reference to akv-csi on a node whose pods run.

use super::volumes::{mount_ids, pod_folder};
use crate::cluster::{Cluster, DRIVER_NAMESPACE, VAULT, pod};
use crate::manifests::DAEMON_SET;
use crate::old_driver::OldDriver;
use e2e::mounts_below;

/// A pod that got its volume from the reference runs on when akv-csi takes over: the mount stays, its content becomes current,
/// what has no object any more goes away, and the volume is removed with the pod.
pub async fn from_reference(cluster: &Cluster) {
    cluster.delete(DRIVER_NAMESPACE, &["daemonset", DAEMON_SET]).await;
    cluster
        .until("the driver's pods are gone", || async {
            cluster.driver_pods().await.is_empty().then_some(())
        })
        .await;

    cluster.azure.vault(VAULT).set_secret("inherited", "current").expect("a valid secret");
    cluster.namespace("upgrade", &["default"]).await;
    let old = OldDriver::start("node-1", "inherited", "of the old driver");
    cluster.apply_all("upgrade", &[cluster.class("legacy", &["inherited"]), pod("app", &["legacy"])]).await;
    cluster.pod_ready("upgrade", "app").await;
    assert_eq!(cluster.cat("upgrade", "app", "/mnt/legacy/inherited").await, "of the old driver");
    let folder = pod_folder(cluster, "upgrade", "app").await;
    let before = mount_ids(&folder);
    old.stop().await;

    cluster.install().await;
    cluster.driver_ready().await;
    cluster.cat_until("upgrade", "app", "/mnt/legacy/inherited", "current").await;
    assert_eq!(mount_ids(&folder), before, "the mount is another one");
    let names = cluster.exec("upgrade", "app", &["ls", "/mnt/legacy"]).await.expect("a readable volume");
    assert_eq!(names.trim(), "inherited");
    cluster.delete("", &["namespace", "upgrade"]).await;
    cluster.until("its mounts are gone", || async { mounts_below(&folder).is_empty().then_some(()) }).await;
}
