//! The CustomResourceDefinitions: what the API server takes, keeps and shows.

use api_server::ApiServer;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, PostParams};
use serde_json::json;

fn kind(version: &str, name: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk("secrets-store.csi.x-k8s.io", version, name);
    ApiResource { plural: plural.to_owned(), ..ApiResource::from_gvk(&kind) }
}

#[tokio::test]
async fn whatever_a_class_says_is_taken_and_kept_in_both_versions() {
    let Some(server) = ApiServer::shared().await.unwrap() else { return };
    let (client, namespace) = (server.client().await.unwrap(), server.namespace("crds").await.unwrap());
    let classes = |version: &str| -> Api<DynamicObject> {
        let kind = kind(version, "SecretProviderClass", "secretproviderclasses");
        Api::namespaced_with(client.clone(), &namespace, &kind)
    };
    let full = json!({
        "provider": "azure",
        "parameters": {"keyvaultName": "kv", "objects": "array: [", "useVMManagedIdentity": "maybe", "": "", "what ever": "x"},
        "secretObjects": [
            {
                "secretName": "", "type": "any thing", "labels": {"a": "b"}, "annotations": {"c": "d"},
                "data": [{"objectName": "dir/file", "key": "k"}, {}],
            },
            {},
        ],
    });
    for (name, version, spec) in [
        ("full", "v1", Some(full.clone())),
        ("old", "v1alpha1", Some(full)),
        ("other", "v1", Some(json!({"provider": "Any Provider!"}))),
        ("empty", "v1", Some(json!({}))),
        ("none", "v1", None),
    ] {
        let api_version = format!("secrets-store.csi.x-k8s.io/{version}");
        let mut object =
            json!({"apiVersion": api_version, "kind": "SecretProviderClass", "metadata": {"name": name}});
        if let Some(spec) = &spec {
            object["spec"] = spec.clone();
        }
        let object = serde_json::from_value(object).unwrap();
        classes(version).create(&PostParams::default(), &object).await.unwrap();
        for version in ["v1", "v1alpha1"] {
            let read = classes(version).get(name).await.unwrap();
            assert_eq!(read.data.get("spec"), spec.as_ref(), "{name} in {version}");
        }
    }
}

#[tokio::test]
async fn lists_show_what_people_look_for() {
    let Some(server) = ApiServer::shared().await.unwrap() else { return };
    let client = server.client().await.unwrap();
    for (plural, columns) in [
        ("secretproviderclasses", &["Name", "Provider", "Vault", "Age"][..]),
        ("secretproviderclasspodstatuses", &["Name", "Pod", "Class", "Age"]),
    ] {
        let request = as_table(plural);
        let table: serde_json::Value = client.request(request).await.unwrap();
        let shown: Vec<_> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|column| column["name"].as_str().unwrap())
            .collect();
        assert_eq!(shown, columns, "{plural}");
    }
}

/// A list as `kubectl get` asks for it.
fn as_table(plural: &str) -> hyper::Request<Vec<u8>> {
    let path = format!("/apis/secrets-store.csi.x-k8s.io/v1/{plural}");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    hyper::Request::get(path).header("accept", table).body(Vec::new()).unwrap()
}
