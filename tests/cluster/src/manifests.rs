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

/// Makes the driver's DaemonSet find the emulated Azure where it looks for the real one, look again every few seconds, and run
/// the image that was loaded.
pub fn adapt(daemon_set: &mut Value, image: &str, vault_host: &str) {
    let spec = &mut daemon_set["spec"]["template"]["spec"];
    spec["hostAliases"] =
        json!([{"ip": AZURE.to_string(), "hostnames": ["login.microsoftonline.com", vault_host]}]);
    push(&mut spec["volumes"], json!({"name": "azure-ca", "configMap": {"name": "azure-ca"}}));
    let containers = spec["containers"].as_array_mut().expect("a pod has containers");
    let container = containers.iter_mut().find(|container| container["name"] == CONTAINER);
    let container = container.expect("the driver's container keeps its name, which tools rely on");
    container["image"] = image.into();
    container["imagePullPolicy"] = "Never".into();
    push(
        &mut container["volumeMounts"],
        json!({"name": "azure-ca", "mountPath": "/azure-ca", "readOnly": true}),
    );
    push(&mut container["env"], json!({"name": "SSL_CERT_FILE", "value": "/azure-ca/ca.pem"}));
    push(
        &mut container["env"],
        json!({"name": "AZURE_POD_IDENTITY_AUTHORITY_HOST", "value": format!("http://{AZURE}")}),
    );
    let arguments = container["args"].as_array_mut().expect("the driver has arguments");
    arguments.retain(|argument| {
        let text = argument.as_str().unwrap_or_default();
        !text.starts_with("--rotation-poll-interval") && !text.starts_with("--enable-secret-rotation")
    });
    arguments.extend(["--enable-secret-rotation=true".into(), "--rotation-poll-interval=3s".into()]);
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
