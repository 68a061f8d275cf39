//! The three ways to Key Vault, with the manifests that people deploy.

use crate::api::Kind;
use crate::cluster::{CLIENT_SECRET, Cluster, VAULT, pod};
use e2e::manifests;
use serde_json::{Value, json};

/// The sample manifest with an annotated, federated service account.
pub async fn workload_identity(cluster: &Cluster) {
    fill(cluster, "secret1", "Hello!");
    cluster.trust("default", "workload-identity-sa");
    let manifest = manifests::fill(
        manifests::WORKLOAD_IDENTITY,
        &[
            ("USER_ASSIGNED_CLIENT_ID", cluster.workload_identity.client_id.as_str()),
            ("KEYVAULT_NAME", VAULT),
            ("IDENTITY_TENANT", cluster.azure.tenant()),
        ],
    );
    cluster.apply("default", &manifest).await;
    let pod = "busybox-secrets-store-inline-wi";
    cluster.pod_ready("default", pod).await;
    assert_eq!(cluster.cat("default", pod, "/mnt/secrets-store/secret1").await, "Hello!");
    let key = cluster.cat("default", pod, "/mnt/secrets-store/key1").await;
    assert!(key.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{key}");
    let write = cluster.exec("default", pod, &["sh", "-c", "echo x > /mnt/secrets-store/secret1"]).await;
    let error = write.expect_err("the volume is read-only");
    assert!(error.contains("Read-only file system"), "{error}");
    cluster.delete("default", &["pod", pod]).await;
}

/// The sample manifest with the VM's identity, which the metadata service speaks for.
pub async fn managed_identity(cluster: &Cluster) {
    fill(cluster, "secret1", "Hello!");
    let manifest = manifests::fill(
        manifests::MANAGED_IDENTITY,
        &[
            ("CLIENT_ID", cluster.vm_identity.client_id.as_str()),
            ("KEYVAULT_NAME", VAULT),
            ("TENANT_ID", cluster.azure.tenant()),
        ],
    );
    cluster.apply("default", &manifest).await;
    let pod = "busybox-secrets-store-inline-user-msi";
    cluster.pod_ready("default", pod).await;
    assert_eq!(cluster.cat("default", pod, "/mnt/secrets-store/secret1").await, "Hello!");
    cluster.delete("default", &["pod", pod]).await;
}

/// An application's id and secret, which the kubelet reads from a Secret of the pod's namespace.
pub async fn service_principal(cluster: &Cluster) {
    let namespace = "service-principal";
    fill(cluster, "sp-secret", "for the application");
    cluster.namespace(namespace, &[]).await;
    let mut class = cluster.class("sp", &["sp-secret"]);
    class["spec"]["parameters"].as_object_mut().expect("parameters").remove("clientID");
    let credentials = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secrets-store-creds"},
        "stringData": {"clientid": cluster.application.client_id, "clientsecret": CLIENT_SECRET},
    });
    let mut pod = pod("app", &["sp"]);
    pod["spec"]["volumes"][0]["csi"]["nodePublishSecretRef"] = json!({"name": "secrets-store-creds"});
    cluster.apply_all(namespace, &[credentials, class, pod]).await;
    cluster.pod_ready(namespace, "app").await;
    assert_eq!(cluster.cat(namespace, "app", "/mnt/sp/sp-secret").await, "for the application");
    cluster.delete("", &["namespace", namespace]).await;
}

/// The chart asks for tokens as secrets of the call where the API server can do that (Kubernetes 1.35), and the kubelet then hands
/// them over in no other way. A pod mounts with what it brings, here and there.
pub async fn tokens(cluster: &Cluster) {
    let version = cluster.kubectl(&["get", "--raw", "/version"]).await.expect("an API server has a version");
    let version: Value = serde_json::from_str(&version).expect("JSON");
    let minor = version["minor"].as_str().and_then(|text| text.parse::<u32>().ok()).expect("a number");
    let driver = cluster.get(Kind::CsiDriver, "", e2e::DRIVER_NAME).await.expect("the chart brings it");
    let in_secrets = &driver["spec"]["serviceAccountTokenInSecrets"];
    assert_eq!(in_secrets.as_bool().unwrap_or_default(), minor >= 35, "{driver}");

    let namespace = "tokens";
    fill(cluster, "by-token", "for a service account");
    cluster.namespace(namespace, &["default"]).await;
    cluster.apply_all(namespace, &[cluster.class("token", &["by-token"]), pod("app", &["token"])]).await;
    cluster.pod_ready(namespace, "app").await;
    assert_eq!(cluster.cat(namespace, "app", "/mnt/token/by-token").await, "for a service account");
    cluster.delete("", &["namespace", namespace]).await;
}

/// Makes what the sample manifests mount.
fn fill(cluster: &Cluster, secret: &str, value: &str) {
    let vault = cluster.azure.vault(VAULT);
    vault.set_secret(secret, value).expect("a valid secret");
    vault.create_key("key1", json!({"kty": "EC", "crv": "P-256"})).expect("a valid key");
}
