//! Secrets of Kubernetes made from what is mounted.

use crate::api::Kind;
use crate::cluster::{Cluster, VAULT, pod};
use serde_json::{Value, json};

/// The file of a class that is made into a Secret.
const ALIAS: &str = "secretalias";

/// A class whose one secret, under another name, goes into a Secret, under the key `username`.
fn class(cluster: &Cluster, name: &str, object: &str, secret: &str) -> Value {
    let mut class = cluster.class(name, &[]);
    let aliased = json!({"objectName": object, "objectType": "secret", "objectAlias": ALIAS}).to_string();
    class["spec"]["parameters"]["objects"] = json!({"array": [aliased]}).to_string().into();
    class["spec"]["secretObjects"] = json!([{
        "secretName": secret,
        "type": "Opaque",
        "labels": {"environment": "test"},
        "data": [{"objectName": ALIAS, "key": "username"}],
    }]);
    class
}

/// A Deployment whose pods mount a class and take a variable from the Secret that is made of it.
fn deployment(name: &str, class: &str, secret: &str, replicas: u32) -> Value {
    let mut pod = pod(name, &[class]);
    pod["spec"]["containers"][0]["env"] = json!([
        {"name": "SECRET_USERNAME", "valueFrom": {"secretKeyRef": {"name": secret, "key": "username"}}},
    ]);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": pod["metadata"], "spec": pod["spec"]},
        },
    })
}

/// Waits until all of a Deployment's pods are ready.
async fn deployed(cluster: &Cluster, namespace: &str, name: &str, replicas: u64) {
    cluster
        .until(&format!("Deployment {namespace}/{name} has {replicas} ready pods"), || async {
            let deployment = cluster.get(Kind::Deployment, namespace, name).await?;
            (deployment["status"]["readyReplicas"].as_u64() == Some(replicas)).then_some(())
        })
        .await;
}

/// Waits until a Secret has this many owners, and gives it back.
async fn owned(cluster: &Cluster, namespace: &str, name: &str, owners: usize) -> Value {
    cluster
        .until(&format!("Secret {namespace}/{name} has {owners} owners"), || async {
            let secret = cluster.get(Kind::Secret, namespace, name).await?;
            let now = secret["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
            (now == owners).then_some(secret)
        })
        .await
}

async fn gone(cluster: &Cluster, namespace: &str, name: &str) {
    cluster
        .until(&format!("Secret {namespace}/{name} is gone"), || async {
            cluster.gone(Kind::Secret, namespace, name).await.then_some(())
        })
        .await;
}

/// Base64 as Secrets have it.
fn encoded(text: &str) -> Value {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text).into()
}

/// Two Deployments of one class start with a variable from its Secret; the Secret has both for owners, follows the vault, and
/// goes with the last of them.
pub async fn deployments(cluster: &Cluster) {
    let vault = cluster.azure.vault(VAULT);
    vault.set_secret("synced", "before").expect("a valid secret");
    cluster.namespace("sync", &["default"]).await;
    let objects = [
        class(cluster, "sync-class", "synced", "foosecret"),
        deployment("first", "sync-class", "foosecret", 2),
        deployment("second", "sync-class", "foosecret", 2),
    ];
    cluster.apply_all("sync", &objects).await;
    deployed(cluster, "sync", "first", 2).await;
    deployed(cluster, "sync", "second", 2).await;
    for pod in cluster.pods("sync", "app", "first").await {
        let variables = cluster.exec("sync", &pod, &["env"]).await.expect("a running pod");
        assert!(variables.lines().any(|line| line == "SECRET_USERNAME=before"), "{variables}");
    }
    let secret = owned(cluster, "sync", "foosecret", 2).await;
    assert_eq!(secret["data"], json!({"username": encoded("before")}));
    assert_eq!(secret["type"], "Opaque");
    let labels = &secret["metadata"]["labels"];
    assert_eq!(labels["environment"], "test");
    assert_eq!(labels["secrets-store.csi.k8s.io/managed"], "true");

    vault.set_secret("synced", "after").expect("a valid secret");
    cluster
        .until("the rotation reaches the Secret", || async {
            let secret = cluster.get(Kind::Secret, "sync", "foosecret").await?;
            (secret["data"]["username"] == encoded("after")).then_some(())
        })
        .await;

    for pod in cluster.pods("sync", "app", "second").await {
        cluster.cat_until("sync", &pod, &format!("/mnt/sync-class/{ALIAS}"), "after").await;
    }

    cluster.delete("sync", &["deployment", "first"]).await;
    owned(cluster, "sync", "foosecret", 1).await;
    cluster.delete("sync", &["deployment", "second"]).await;
    gone(cluster, "sync", "foosecret").await;
    cluster.delete("", &["namespace", "sync"]).await;
}

/// A class of the pod's namespace makes the Secret, though one of that name in `default` could not: pods get their variable from
/// it, it has one owner, and it goes with the Deployment.
pub async fn own_namespace(cluster: &Cluster) {
    cluster.azure.vault(VAULT).set_secret("sync-scoped", "of this namespace").expect("a valid secret");
    cluster.namespace("sync-scoped", &["default"]).await;
    let valid = class(cluster, "sync-scoped-class", "sync-scoped", "scoped-secret");
    let mut invalid = valid.clone();
    invalid["spec"]["provider"] = "invalidprovider".into();
    cluster.apply_all("default", &[invalid]).await;
    let deployment = deployment("app", "sync-scoped-class", "scoped-secret", 2);
    cluster.apply_all("sync-scoped", &[valid, deployment]).await;
    deployed(cluster, "sync-scoped", "app", 2).await;
    for pod in cluster.pods("sync-scoped", "app", "app").await {
        let file = cluster.cat("sync-scoped", &pod, &format!("/mnt/sync-scoped-class/{ALIAS}")).await;
        assert_eq!(file, "of this namespace");
        let variables = cluster.exec("sync-scoped", &pod, &["env"]).await.expect("a running pod");
        assert!(variables.lines().any(|line| line == "SECRET_USERNAME=of this namespace"), "{variables}");
    }
    let secret = owned(cluster, "sync-scoped", "scoped-secret", 1).await;
    assert_eq!(secret["data"], json!({"username": encoded("of this namespace")}));
    assert_eq!(secret["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet");
    assert!(cluster.gone(Kind::Secret, "default", "scoped-secret").await, "nobody in default mounts");
    cluster.delete("sync-scoped", &["deployment", "app"]).await;
    gone(cluster, "sync-scoped", "scoped-secret").await;
    cluster.delete("default", &["secretproviderclass", "sync-scoped-class"]).await;
    cluster.delete("", &["namespace", "sync-scoped"]).await;
}

/// A pod of its own, with two classes: each has its Secret, which has one owner and goes with the pod.
pub async fn bare_pod(cluster: &Cluster) {
    let vault = cluster.azure.vault(VAULT);
    vault.set_secret("bare", "alone").expect("a valid secret");
    cluster.namespace("sync-pod", &["default"]).await;
    let objects = [
        class(cluster, "bare-0", "bare", "foosecret-0"),
        class(cluster, "bare-1", "bare", "foosecret-1"),
        pod("app", &["bare-0", "bare-1"]),
    ];
    cluster.apply_all("sync-pod", &objects).await;
    cluster.pod_ready("sync-pod", "app").await;
    for name in ["foosecret-0", "foosecret-1"] {
        let secret = owned(cluster, "sync-pod", name, 1).await;
        assert_eq!(secret["data"], json!({"username": encoded("alone")}));
    }
    cluster.delete("sync-pod", &["pod", "app"]).await;
    gone(cluster, "sync-pod", "foosecret-0").await;
    gone(cluster, "sync-pod", "foosecret-1").await;
    cluster.delete("", &["namespace", "sync-pod"]).await;
}

/// A pod has a status object that names its class, files and versions, and goes with it.
pub async fn status(cluster: &Cluster) {
    let vault = cluster.azure.vault(VAULT);
    let first = vault.set_secret("counted", "before").expect("a valid secret");
    cluster.namespace("status", &["default"]).await;
    cluster
        .apply_all("status", &[cluster.class("status-class", &["counted"]), pod("app", &["status-class"])])
        .await;
    cluster.pod_ready("status", "app").await;
    let name = "app-status-status-class";
    let version = |version: String| async move {
        let object = json!([{"id": "secret/counted", "version": version}]);
        cluster
            .until(&format!("{name} has version {version}"), || async {
                let status = cluster.get(Kind::SecretProviderClassPodStatus, "status", name).await?;
                (status["status"]["objects"] == object).then_some(status)
            })
            .await
    };
    let status = version(first).await;
    assert_eq!(status["status"]["podName"], "app");
    assert_eq!(status["status"]["secretProviderClassName"], "status-class");
    assert_eq!(status["status"]["mounted"], true);
    assert_eq!(status["metadata"]["labels"]["internal.secrets-store.csi.k8s.io/node-name"], "node-1");
    assert_eq!(status["metadata"]["ownerReferences"][0]["kind"], "Pod");
    let second = vault.set_secret("counted", "after").expect("a valid secret");
    version(second).await;
    cluster.delete("status", &["pod", "app"]).await;
    cluster
        .until("the status object is gone", || async {
            cluster.gone(Kind::SecretProviderClassPodStatus, "status", name).await.then_some(())
        })
        .await;
    cluster.delete("", &["namespace", "status"]).await;
}

/// A Deployment's pods on two nodes, whose two drivers keep one Secret: nothing flaps, nobody's owner is lost, and it goes with
/// the last pod.
pub async fn two_nodes(cluster: &Cluster) {
    let vault = cluster.azure.vault(VAULT);
    vault.set_secret("shared", "before").expect("a valid secret");
    cluster.second_node().await;
    cluster.namespace("two-nodes", &["default"]).await;
    let on = |node: &str| {
        let mut deployment = deployment(&format!("on-{node}"), "shared-class", "shared", 1);
        deployment["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        deployment
    };
    let objects = [class(cluster, "shared-class", "shared", "shared"), on("node-1"), on("node-2")];
    cluster.apply_all("two-nodes", &objects).await;
    deployed(cluster, "two-nodes", "on-node-1", 1).await;
    deployed(cluster, "two-nodes", "on-node-2", 1).await;
    let before = owned(cluster, "two-nodes", "shared", 2).await;

    // Both drivers look at it again and again; each would show what it thinks of the other's work.
    for _ in 0..3 {
        super::scale::round(cluster, "node-1", 1).await;
        super::scale::round(cluster, "node-2", 1).await;
    }
    let after = owned(cluster, "two-nodes", "shared", 2).await;
    assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"], "somebody wrote");

    vault.set_secret("shared", "after").expect("a valid secret");
    cluster
        .until("the rotation reaches the Secret", || async {
            let secret = cluster.get(Kind::Secret, "two-nodes", "shared").await?;
            (secret["data"]["username"] == encoded("after")).then_some(())
        })
        .await;
    owned(cluster, "two-nodes", "shared", 2).await;
    cluster.delete("two-nodes", &["deployment", "on-node-1"]).await;
    owned(cluster, "two-nodes", "shared", 1).await;
    cluster.delete("two-nodes", &["deployment", "on-node-2"]).await;
    gone(cluster, "two-nodes", "shared").await;
    cluster.delete("", &["namespace", "two-nodes"]).await;
}
