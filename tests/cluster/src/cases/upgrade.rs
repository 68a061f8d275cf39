//! From the reference to akv-csi on a node whose pods run.

use super::helm;
use super::volumes::{mount_ids, pod_folder};
use crate::api::Kind;
use crate::cluster::{Cluster, VAULT, pod};
use crate::old_driver::{self, OldDriver};
use e2e::mounts_below;
use serde_json::{Value, json};

/// Pods that got their volumes from the reference run on when akv-csi takes over, by kubectl and the plain manifests: the mounts
/// stay, their content becomes current, what has no object any more goes away, the pods' status objects are the same objects with
/// what is mounted now, and everything goes with the pods.
pub async fn from_reference(cluster: &Cluster) {
    helm::uninstall(cluster).await;
    let version = cluster.azure.vault(VAULT).set_secret("inherited", "current").expect("a valid secret");
    cluster.namespace("upgrade", &["default"]).await;
    let old = OldDriver::start("node-1", "inherited", "of the old driver");
    cluster.apply_all("", &[old_driver::csi_driver()]).await;
    let objects =
        [cluster.class("legacy", &["inherited"]), pod("app", &["legacy"]), pod("moved", &["legacy"])];
    cluster.apply_all("upgrade", &objects).await;
    // As an early version left it, and as one of a pod of that name on another node did.
    let labels = json!({"internal.secrets-store.csi.k8s.io/node-name": "node-0", "team": "shop"});
    let statuses = [
        old_driver::status("app", "upgrade", "legacy", &Value::Null),
        old_driver::status("moved", "upgrade", "legacy", &labels),
    ];
    cluster.apply_all("upgrade", &statuses).await;
    let mut before = Vec::new();
    for name in ["app", "moved"] {
        cluster.pod_ready("upgrade", name).await;
        assert_eq!(cluster.cat("upgrade", name, "/mnt/legacy/inherited").await, "of the old driver");
        let folder = pod_folder(cluster, "upgrade", name).await;
        let status = status(cluster, name).await.expect("it was applied");
        before.push((name, mount_ids(&folder), folder, status));
    }
    assert_eq!(before[0].3["metadata"]["labels"], Value::Null);
    old.stop().await;

    cluster.apply_manifests().await;
    cluster.driver_ready().await;
    for (name, mounts, folder, old) in &before {
        cluster.cat_until("upgrade", name, "/mnt/legacy/inherited", "current").await;
        assert_eq!(&mount_ids(folder), mounts, "the mount is another one");
        let names = cluster.exec("upgrade", name, &["ls", "/mnt/legacy"]).await.expect("a readable volume");
        assert_eq!(names.trim(), "inherited");
        let new = cluster
            .until(&format!("the status object of {name} says what is mounted"), || async {
                let now = status(cluster, name).await?;
                let object = json!([{"id": "secret/inherited", "version": version}]);
                (now["status"]["objects"] == object).then_some(now)
            })
            .await;
        assert_eq!(new["metadata"]["uid"], old["metadata"]["uid"], "the status object is another one");
        let labels = &new["metadata"]["labels"];
        assert_eq!(labels["internal.secrets-store.csi.k8s.io/node-name"], "node-1");
        assert_eq!(labels["team"], old["metadata"]["labels"]["team"], "a label of somebody else stays");
        let owners = &new["metadata"]["ownerReferences"];
        assert_eq!((owners[0]["kind"].as_str(), owners[0]["name"].as_str()), (Some("Pod"), Some(*name)));
    }
    cluster.delete("upgrade", &["pod", "app", "moved"]).await;
    for (name, _, folder, _) in &before {
        cluster
            .until(&format!("nothing is left of {name}"), || async {
                (mounts_below(folder).is_empty() && status(cluster, name).await.is_none()).then_some(())
            })
            .await;
    }
    cluster.delete("", &["namespace", "upgrade"]).await;
}

async fn status(cluster: &Cluster, pod: &str) -> Option<Value> {
    let kind = Kind::SecretProviderClassPodStatus;
    cluster.get(kind, "upgrade", &format!("{pod}-upgrade-legacy")).await
}
