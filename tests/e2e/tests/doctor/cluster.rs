//! The cluster, with a real API server.

use super::*;
use api_server::ApiServer;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::json;

const CLUSTER: [&str; 2] = ["--only", "apiserver,csidriver,crds,rbac,clock"];

#[tokio::test]
async fn the_cluster_is_looked_at_with_the_rights_of_whoever_asks() {
    if !can_mount() {
        return;
    }
    let Some(server) = ApiServer::shared().await.unwrap() else { return };
    let stage = stage().await;
    let namespace = server.namespace("doctor").await.unwrap();
    let admin = server.kubeconfig().display().to_string();
    let as_admin = [&["--kubeconfig", &admin][..], &CLUSTER].concat();

    let examined = examine(&stage, &as_admin, &[]).await;
    examined.assert_failed(
        "csidriver",
        &["there is no CSIDriver secrets-store.csi.k8s.io"],
        &["helm upgrade"],
    );
    for (check, number) in [("apiserver", 1), ("crds", 1), ("rbac", 1), ("clock", 2)] {
        examined.assert_ok(check, number);
    }

    let drivers: Api<CSIDriver> = Api::all(server.client().await.unwrap());
    let apply = async |spec: Value| {
        let object = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
            "metadata": {"name": "secrets-store.csi.k8s.io"}, "spec": spec,
        });
        let parameters = PatchParams::apply("test").force();
        drivers.patch("secrets-store.csi.k8s.io", &parameters, &Patch::Apply(&object)).await.unwrap();
    };
    let spec = json!({
        "podInfoOnMount": true, "attachRequired": false, "requiresRepublish": true, "volumeLifecycleModes": ["Ephemeral"],
    });
    apply(spec.clone()).await;
    let examined = examine(&stage, &as_admin, &[]).await;
    examined.assert_failed(
        "csidriver",
        &["tokenRequests lists no audience for Azure (none)"],
        &["helm upgrade"],
    );
    let mut good = spec;
    good["tokenRequests"] = json!([{"audience": EXCHANGE}]);
    apply(good).await;
    let examined = examine(&stage, &as_admin, &[]).await;
    assert_eq!(examined.code, 0, "{}", examined.out);

    // A service account without any rights.
    let nobody = server.kubeconfig_of(&namespace, "nobody").await.unwrap().display().to_string();
    let as_nobody = [&["--kubeconfig", &nobody][..], &CLUSTER].concat();
    let examined = examine(&stage, &as_nobody, &[]).await;
    assert_eq!(examined.of("csidriver")[0].0, "skipped", "{}", examined.out);
    examined.assert_ok("crds", 1);
    examined.assert_failed("rbac", &["get secretproviderclasses (to read classes)"], &["ClusterRole"]);

    // The pod, its class and a token of its service account come from the API server.
    let classes = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "secrets-store.csi.x-k8s.io",
        "v1",
        "SecretProviderClass",
    ));
    let client = server.client().await.unwrap();
    let classes: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &classes);
    let class = json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass", "metadata": {"name": "kv"},
        "spec": {"provider": "azure", "parameters": {
            "keyvaultName": VAULT, "tenantId": stage.azure.tenant(), "clientID": stage.workload_identity.client_id,
            "objects": "array:\n- |\n  objectName: secret1\n  objectType: secret\n",
        }},
    });
    let parameters = PatchParams::apply("test").force();
    classes.patch("kv", &parameters, &Patch::Apply(&class)).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {
            "serviceAccountName": "nobody",
            "containers": [{"name": "c", "image": "c"}],
            "volumes": [{"name": "v", "csi": {
                "driver": "secrets-store.csi.k8s.io", "readOnly": true,
                "volumeAttributes": {"secretProviderClass": "kv"},
            }}],
        },
    });
    pods.patch("web", &parameters, &Patch::Apply(&pod)).await.unwrap();
    let pod = format!("{namespace}/web");
    let only = ["--only", "class,token,objects"];
    let examined =
        examine(&stage, &[&["--kubeconfig", &admin, "--pod", &pod][..], &only].concat(), &[]).await;
    examined.assert_ok("class", 1);
    // This API server signs as Entra does not take it; that the token is the pod's shows in what Entra was sent.
    let subject = format!("system:serviceaccount:{namespace}:nobody");
    let sent = [subject.as_str(), "https://kubernetes.default.svc", EXCHANGE, "ES256"];
    examined.assert_failed("token", &sent, &["error?code=5002723"]);

    // Whoever may read nothing is told what else there is.
    let examined =
        examine(&stage, &[&["--kubeconfig", &nobody, "--pod", &pod][..], &only].concat(), &[]).await;
    examined.assert_failed("class", &["is not known", "forbidden"], &["--class NAMESPACE/NAME"]);
}
