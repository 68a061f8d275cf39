//! A release of the chart: upgraded, rolled back, removed.

use super::volumes::{mount_ids, pod_folder};
use crate::api::Kind;
use crate::cluster::{Cluster, DRIVER_NAMESPACE, VAULT, pod};
use crate::helm::RELEASE;
use crate::manifests::DAEMON_SET;
use serde_json::json;

const CLASSES: &str = "secretproviderclasses.secrets-store.csi.x-k8s.io";

/// `helm upgrade` with other values, and back: the driver gets them, the definitions of an older version are brought up to date
/// by the hook, nothing of the hook stays, and a mounted volume is the same mount all the while.
pub async fn upgrade(cluster: &Cluster) {
    let vault = cluster.azure.vault(VAULT);
    vault.set_secret("upgraded", "before").expect("a valid secret");
    cluster.namespace("helm-upgrade", &["default"]).await;
    let objects = [cluster.class("kept", &["upgraded"]), pod("app", &["kept"])];
    cluster.apply_all("helm-upgrade", &objects).await;
    cluster.pod_ready("helm-upgrade", "app").await;
    let mounts = mount_ids(&pod_folder(cluster, "helm-upgrade", "app").await);
    assert_eq!(mounts.len(), 1, "one volume is mounted");

    assert_eq!(versions(cluster).await, ["v1", "v1alpha1"]);
    let older = json!([{"op": "remove", "path": "/spec/versions/1"}]).to_string();
    let patched = cluster.kubectl(&["patch", "crd", CLASSES, "--type=json", "--patch", &older]).await;
    patched.unwrap_or_else(|error| panic!("kubectl patch: {error}"));
    assert_eq!(versions(cluster).await, ["v1"]);

    let (revision, _) = cluster.helm_revision().await;
    let pods = cluster.driver_pods().await;
    let told = cluster.helm_upgrade(&["--set", "linux.metricsAddr=:8096"]).await;
    told.unwrap_or_else(|error| panic!("helm upgrade: {error}"));
    cluster.driver_ready().await;
    assert_eq!(versions(cluster).await, ["v1", "v1alpha1"], "the hook applied the definitions");
    no_hooks(cluster).await;
    assert_ne!(cluster.driver_pods().await, pods);
    serves_metrics(cluster, 8096).await;
    vault.set_secret("upgraded", "after").expect("a valid secret");
    cluster.cat_until("helm-upgrade", "app", "/mnt/kept/upgraded", "after").await;

    let told = cluster.helm(&["rollback", RELEASE, &revision.to_string()]).await;
    told.unwrap_or_else(|error| panic!("helm rollback: {error}"));
    cluster.driver_ready().await;
    serves_metrics(cluster, 8095).await;
    vault.set_secret("upgraded", "back").expect("a valid secret");
    cluster.cat_until("helm-upgrade", "app", "/mnt/kept/upgraded", "back").await;
    assert_eq!(
        mount_ids(&pod_folder(cluster, "helm-upgrade", "app").await),
        mounts,
        "the mount is another one"
    );
    cluster.delete("", &["namespace", "helm-upgrade"]).await;
}

/// `helm uninstall` is refused while a pod mounts, in words that name it, and the driver goes on; when the pod is gone, it removes
/// all but definitions and classes; and then the chart can be installed again.
pub async fn removal(cluster: &Cluster) {
    cluster.azure.vault(VAULT).set_secret("in-use", "needed").expect("a valid secret");
    cluster.namespace("in-use", &["default"]).await;
    let objects =
        [cluster.class("used", &["in-use"]), cluster.class("idle", &["in-use"]), pod("app", &["used"])];
    cluster.apply_all("in-use", &objects).await;
    cluster.pod_ready("in-use", "app").await;

    let (revision, _) = cluster.helm_revision().await;
    let refusal = cluster.helm(&["uninstall", RELEASE]).await.expect_err("a pod mounts");
    assert!(refusal.contains("nothing was removed"), "{refusal}");
    assert!(refusal.contains("in-use/used: app"), "{refusal}");
    assert!(!refusal.contains("idle"), "a class that nobody mounts is in nobody's way: {refusal}");
    cluster.apply_all("in-use", &[pod("next", &["used"])]).await;
    cluster.pod_ready("in-use", "next").await;
    // Helm takes the release for half removed. What docs/migration.md says about that:
    let told = cluster.helm(&["rollback", RELEASE, &revision.to_string()]).await;
    told.unwrap_or_else(|error| panic!("helm rollback: {error}"));
    assert_eq!(cluster.helm_revision().await.1, "deployed");
    cluster.driver_ready().await;

    cluster.delete("in-use", &["pod", "app", "next"]).await;
    uninstall(cluster).await;
    no_hooks(cluster).await;
    let drivers = cluster.kubectl(&["get", "csidrivers", "--output=name"]).await.expect("a list");
    assert_eq!(drivers, "");
    let roles = cluster.kubectl(&["get", "clusterroles", "--output=name"]).await.expect("a list");
    assert!(!roles.contains("/secretprovider"), "{roles}");
    assert_eq!(versions(cluster).await, ["v1", "v1alpha1"], "definitions stay");
    assert!(cluster.get(Kind::SecretProviderClass, "in-use", "used").await.is_some(), "classes stay");

    cluster.install().await;
    cluster.driver_ready().await;
    cluster.apply_all("in-use", &[pod("app", &["used"])]).await;
    cluster.pod_ready("in-use", "app").await;
    cluster.delete("", &["namespace", "in-use"]).await;
}

/// Removes the release, under pods that nobody has, and waits until the driver is gone.
pub async fn uninstall(cluster: &Cluster) {
    cluster.helm(&["uninstall", RELEASE]).await.unwrap_or_else(|error| panic!("helm uninstall: {error}"));
    cluster
        .until("the driver's pods are gone", || async {
            cluster.driver_pods().await.is_empty().then_some(())
        })
        .await;
}

/// The versions of the class's definition.
async fn versions(cluster: &Cluster) -> Vec<String> {
    let definition = cluster.get(Kind::CustomResourceDefinition, "", CLASSES).await.expect("it is there");
    let versions = definition["spec"]["versions"].as_array().expect("a list").clone();
    versions.iter().filter_map(|version| version["name"].as_str().map(str::to_owned)).collect()
}

/// What hooks bring with them is gone with them.
async fn no_hooks(cluster: &Cluster) {
    let kinds = "jobs,serviceaccounts,clusterroles,clusterrolebindings";
    let all = cluster.kubectl(&["-n", DRIVER_NAMESPACE, "get", kinds, "--output=name"]).await;
    let all = all.expect("the administrator may list");
    for hook in ["upgrade-crds", "check-unused"] {
        let name = format!("{DAEMON_SET}-{hook}");
        assert!(!all.contains(&name), "{name} was left behind: {all}");
    }
}

async fn serves_metrics(cluster: &Cluster, port: u16) {
    for pod in cluster.driver_pods().await {
        let path = format!("/api/v1/namespaces/{DRIVER_NAMESPACE}/pods/{pod}:{port}/proxy/metrics");
        let text = cluster.kubectl(&["get", "--raw", &path]).await;
        text.unwrap_or_else(|error| panic!("{pod} serves no metrics on port {port}: {error}"));
    }
}
