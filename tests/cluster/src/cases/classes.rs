//! Classes and their names, as the tests of the reference look at them.

use crate::api::Kind;
use crate::cluster::{Cluster, VAULT, pod};
use serde_json::json;

/// The definitions are served, in both versions, and a pod mounts a class written in the old one.
pub async fn definitions(cluster: &Cluster) {
    for name in ["secretproviderclasses", "secretproviderclasspodstatuses"] {
        let name = format!("{name}.secrets-store.csi.x-k8s.io");
        cluster
            .until(&format!("{name} is established"), || async {
                let definition = cluster.get(Kind::CustomResourceDefinition, "", &name).await?;
                let conditions = definition["status"]["conditions"].as_array()?.clone();
                conditions
                    .iter()
                    .any(|one| one["type"] == "Established" && one["status"] == "True")
                    .then_some(())
            })
            .await;
    }
    cluster.azure.vault(VAULT).set_secret("old-version", "v1alpha1").expect("a valid secret");
    cluster.namespace("old-version", &["default"]).await;
    let mut class = cluster.class("alpha", &["old-version"]);
    class["apiVersion"] = "secrets-store.csi.x-k8s.io/v1alpha1".into();
    cluster.apply_all("old-version", &[class, pod("app", &["alpha"])]).await;
    cluster.pod_ready("old-version", "app").await;
    assert_eq!(cluster.cat("old-version", "app", "/mnt/alpha/old-version").await, "v1alpha1");
    cluster.delete("", &["namespace", "old-version"]).await;
}

/// A class is looked for in the pod's namespace, and only there.
pub async fn own_namespace(cluster: &Cluster) {
    cluster.azure.vault(VAULT).set_secret("scoped", "of this namespace").expect("a valid secret");
    cluster.namespace("scoped", &["default"]).await;
    let class = cluster.class("scoped-class", &["scoped"]);
    let mut other = class.clone();
    other["spec"]["provider"] = "invalidprovider".into();
    cluster.apply_all("default", &[other]).await;
    cluster.apply_all("scoped", &[class, pod("app", &["scoped-class"])]).await;
    cluster.pod_ready("scoped", "app").await;
    assert_eq!(cluster.cat("scoped", "app", "/mnt/scoped-class/scoped").await, "of this namespace");
    cluster.delete("", &["namespace", "scoped"]).await;
}

/// A class that is not there is what the pod's event says, in the words that tools look for; and once it is there, the pod
/// runs without anybody's help.
pub async fn missing(cluster: &Cluster) {
    cluster.azure.vault(VAULT).set_secret("late", "better late").expect("a valid secret");
    cluster.namespace("negative-test", &["default"]).await;
    cluster.apply_all("negative-test", &[pod("app", &["late-class"])]).await;
    let expected = "failed to get secretproviderclass negative-test/late-class";
    cluster
        .until(&format!("an event FailedMount says {expected:?}"), || async {
            let events = cluster.events("negative-test").await;
            let told = |event: &String| {
                event.starts_with("FailedMount app ")
                    && event.contains(expected)
                    && event.contains("not found")
            };
            events.iter().any(told).then_some(())
        })
        .await;
    cluster.apply_all("negative-test", &[cluster.class("late-class", &["late"])]).await;
    cluster.pod_ready("negative-test", "app").await;
    assert_eq!(cluster.cat("negative-test", "app", "/mnt/late-class/late").await, "better late");
    cluster.delete("", &["namespace", "negative-test"]).await;
}

/// One pod with volumes of two classes.
pub async fn two_in_one_pod(cluster: &Cluster) {
    let vault = cluster.azure.vault(VAULT);
    vault.set_secret("left", "one").expect("a valid secret");
    vault.set_secret("right", "two").expect("a valid secret");
    cluster.namespace("two-classes", &["default"]).await;
    let objects = [cluster.class("first", &["left", "right"]), cluster.class("second", &["left", "right"])];
    cluster.apply_all("two-classes", &objects).await;
    cluster.apply_all("two-classes", &[pod("app", &["first", "second"])]).await;
    cluster.pod_ready("two-classes", "app").await;
    for class in ["first", "second"] {
        for (file, content) in [("left", "one"), ("right", "two")] {
            assert_eq!(cluster.cat("two-classes", "app", &format!("/mnt/{class}/{file}")).await, content);
        }
    }
    cluster.delete("", &["namespace", "two-classes"]).await;
}

/// A pod of an ordinary user reads files that are its group's alone.
pub async fn group(cluster: &Cluster) {
    cluster.azure.vault(VAULT).set_secret("grouped", "for 4242").expect("a valid secret");
    cluster.namespace("grouped", &["default"]).await;
    let mut class = cluster.class("group-class", &[]);
    let object = json!({"objectName": "grouped", "objectType": "secret", "filePermission": "0440"});
    class["spec"]["parameters"]["objects"] = json!({"array": [object.to_string()]}).to_string().into();
    let mut pod = pod("app", &["group-class"]);
    pod["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 4242});
    cluster.apply_all("grouped", &[class, pod]).await;
    cluster.pod_ready("grouped", "app").await;
    assert_eq!(cluster.cat("grouped", "app", "/mnt/group-class/grouped").await, "for 4242");
    cluster.delete("", &["namespace", "grouped"]).await;
}

/// The cluster roles that manifests and tools of the reference name.
pub async fn roles(cluster: &Cluster) {
    let roles = [
        "secretproviderclasses-role",
        "secretproviderclasses-admin-role",
        "secretproviderclasses-viewer-role",
        "secretproviderclasspodstatuses-viewer-role",
        "secretprovidersyncing-role",
    ];
    for role in roles {
        assert!(cluster.get(Kind::ClusterRole, "", role).await.is_some(), "there is no ClusterRole {role}");
    }
    for binding in ["secretproviderclasses-rolebinding", "secretprovidersyncing-rolebinding"] {
        let found = cluster.get(Kind::ClusterRoleBinding, "", binding).await;
        assert!(found.is_some(), "there is no ClusterRoleBinding {binding}");
    }
}
