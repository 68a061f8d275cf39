//! The project's own manifests, and what a cluster of tests changes in them.

use crate::places::AZURE;
use serde_json::{Value, json};
use std::path::Path;

/// All documents of a YAML text.
pub fn documents(text: &str) -> Vec<Value> {
    let documents = text.split("\n---").map(|document| {
        serde_saphyr::from_str::<Value>(document).unwrap_or_else(|error| panic!("{error} in\n{document}"))
    });
    documents.filter(|document| !document.is_null()).collect()
}

/// All documents of a folder's YAML files.
pub fn folder(path: &Path) -> Vec<Value> {
    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
        .iter()
        .flat_map(|file| documents(&std::fs::read_to_string(file).expect("a readable file")))
        .collect()
}

/// The name of the driver's DaemonSet, whose namespace is `kube-system`.
pub const DAEMON_SET: &str = "secrets-store-csi-driver";
/// The driver's container.
pub const CONTAINER: &str = "secrets-store";

/// The ConfigMap with the authority of the emulated Azure.
pub const AZURE_CA: &str = "azure-ca";
/// Seconds instead of minutes, so that cases see a rotation.
const ROTATION: &str = "3s";

/// What the driver needs to trust the emulated Azure and to find its metadata service.
fn environment() -> [Value; 2] {
    [
        json!({"name": "SSL_CERT_FILE", "value": "/azure-ca/ca.pem"}),
        json!({"name": "AZURE_POD_IDENTITY_AUTHORITY_HOST", "value": format!("http://{AZURE}")}),
    ]
}

fn authority() -> Value {
    json!({"name": AZURE_CA, "configMap": {"name": AZURE_CA}})
}

fn authority_mount() -> Value {
    json!({"name": AZURE_CA, "mountPath": "/azure-ca", "readOnly": true})
}

/// The chart's values for a cluster of tests: the image that was loaded, an emulated Azure, a rotation every few seconds, and
/// Secrets kept.
pub fn values() -> Value {
    json!({
        "image": {"pullPolicy": "Never"},
        "enableSecretRotation": true,
        "rotationPollInterval": ROTATION,
        "syncSecret": {"enabled": true},
        "linux": {"env": environment(), "volumes": [authority()], "volumeMounts": [authority_mount()]},
    })
}

/// The same for a DaemonSet of the plain manifests.
pub fn adapt(daemon_set: &mut Value) {
    let spec = &mut daemon_set["spec"]["template"]["spec"];
    push(&mut spec["volumes"], authority());
    let containers = spec["containers"].as_array_mut().expect("a pod has containers");
    let container = containers.iter_mut().find(|container| container["name"] == CONTAINER);
    let container = container.expect("the driver's container keeps its name, which tools rely on");
    container["image"] = format!("akv-csi:{}", env!("CARGO_PKG_VERSION")).into();
    container["imagePullPolicy"] = "Never".into();
    push(&mut container["volumeMounts"], authority_mount());
    for variable in environment() {
        push(&mut container["env"], variable);
    }
    let arguments = container["args"].as_array_mut().expect("the driver has arguments");
    arguments.retain(|argument| {
        let text = argument.as_str().unwrap_or_default();
        !text.starts_with("--rotation-poll-interval") && !text.starts_with("--enable-secret-rotation")
    });
    arguments.push("--enable-secret-rotation=true".into());
    arguments.push(format!("--rotation-poll-interval={ROTATION}").into());
}

/// What the chart adds with `syncSecret.enabled`, and the plain manifests leave to the operator: the right to keep Secrets.
pub fn syncing() -> Vec<Value> {
    let name = |kind: &str| json!({"name": format!("secretprovidersyncing-{kind}")});
    vec![
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": name("role"),
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "get", "patch"]}],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": name("rolebinding"),
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "secretprovidersyncing-role",
            },
            "subjects": [{"kind": "ServiceAccount", "name": DAEMON_SET, "namespace": "kube-system"}],
        }),
    ]
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}
