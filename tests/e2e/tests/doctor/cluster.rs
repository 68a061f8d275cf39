//! The cluster, with a real API server.

use super::*;
use api_server::ApiServer;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriver;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use serde_json::json;
use std::time::Duration;

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

    until_crds_are(&stage, &admin, &["ok"]).await;
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
    apply(good.clone()).await;
    let examined = examine(&stage, &as_admin, &[]).await;
    assert_eq!(examined.code, 0, "{}", examined.out);
    let found = examined.of("csidriver")[0];
    assert!(
        found.0 == "warning" && found.1.contains("fsGroupPolicy is ReadWriteOnceWithFSType"),
        "{found:?}"
    );
    good["fsGroupPolicy"] = json!("File");
    apply(good).await;
    let examined = examine(&stage, &as_admin, &[]).await;
    examined.assert_ok("csidriver", 1);

    // Whose object it is shows in its labels: another release's, or that of a chart that has not come to this node.
    let label = async |labels: Value| {
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        drivers.patch("secrets-store.csi.k8s.io", &PatchParams::default(), &patch).await.unwrap();
        examine(&stage, &["--kubeconfig", &admin, "--only", "version,csidriver"], &[]).await
    };
    let examined =
        label(json!({"app.kubernetes.io/version": "9.0.0", "helm.sh/chart": "akv-csi-9.0.0"})).await;
    let told = examined.of("version");
    assert!(told.len() == 2 && told[1].0 == "warning" && told[1].2.contains("rollout status"), "{told:?}");
    let examined = label(json!({"helm.sh/chart": "secrets-store-csi-driver-1.5.4"})).await;
    assert!(examined.of("version")[1].1.contains("chart secrets-store-csi-driver-1.5.4"), "{}", examined.out);
    let own = env!("CARGO_PKG_VERSION");
    let examined =
        label(json!({"app.kubernetes.io/version": own, "helm.sh/chart": format!("akv-csi-{own}")})).await;
    examined.assert_ok("version", 1);

    // A service account without any rights.
    let nobody = server.kubeconfig_of(&namespace, "nobody").await.unwrap().display().to_string();
    let as_nobody = [&["--kubeconfig", &nobody][..], &CLUSTER].concat();
    let examined = examine(&stage, &as_nobody, &[]).await;
    assert_eq!(examined.of("csidriver")[0].0, "skipped", "{}", examined.out);
    let crds: Vec<&str> = examined.of("crds").into_iter().map(|(verdict, ..)| verdict).collect();
    assert_eq!(crds, ["ok", "skipped"], "{}", examined.out);
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

#[tokio::test]
async fn definitions_of_another_version_are_told_and_the_cure_cures() {
    if !can_mount() {
        return;
    }
    let Some(server) = server_or_notice().await else { return };
    let stage = stage().await;
    let admin = server.kubeconfig().display().to_string();
    let examined = forget_fields(&stage, &server).await;
    examined.assert_failed(
        "crds",
        &["the API server drops SecretProviderClass.spec.secretObjects"],
        &["akv-csi cluster apply-crds"],
    );
    let told = examined.of("crds")[1].1;
    assert!(
        told.contains("secretproviderclasses are stored as another version than v1")
            && told.contains("kubectl get secretproviderclasses does not show Vault"),
        "{told}"
    );

    let (code, out, err) = DriverProcess::command(&["cluster", "apply-crds", "--kubeconfig", &admin]).await;
    assert_eq!(code, 0, "{out}{err}");
    until_crds_are(&stage, &admin, &["ok"]).await;

    let crds: Api<CustomResourceDefinition> = Api::all(server.client().await.unwrap());
    crds.delete(CLASSES, &DeleteParams::default()).await.unwrap();
    let examined = until_crds_are(&stage, &admin, &["failed"]).await;
    examined.assert_failed("crds", &["lacks secretproviderclasses"], &["akv-csi cluster apply-crds"]);
}

const CLASSES: &str = "secretproviderclasses.secrets-store.csi.x-k8s.io";

/// An API server for one test alone, which changes what others rely on.
pub(super) async fn server_or_notice() -> Option<ApiServer> {
    ApiServer::start().await.unwrap()
}

/// Examines the definitions until their findings have these verdicts: the API server takes a moment to serve what it was given.
async fn until_crds_are(stage: &Stage, kubeconfig: &str, wanted: &[&str]) -> Examined {
    let told = async {
        loop {
            let examined = examine(stage, &["--kubeconfig", kubeconfig, "--only", "crds"], &[]).await;
            let verdicts: Vec<&str> = examined.of("crds").into_iter().map(|found| found.0).collect();
            if verdicts == wanted {
                return examined;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("the definitions are served")
}

/// Makes the definition of classes one without Secrets, that column and this stored version, and returns what is said of it.
pub(super) async fn forget_fields(stage: &Stage, server: &ApiServer) -> Examined {
    let admin = server.kubeconfig().display().to_string();
    until_crds_are(stage, &admin, &["ok"]).await;
    let crds: Api<CustomResourceDefinition> = Api::all(server.client().await.unwrap());
    let mut old = crds.get(CLASSES).await.unwrap();
    for version in &mut old.spec.versions {
        version.storage = version.name == "v1alpha1";
        if let Some(columns) = &mut version.additional_printer_columns {
            columns.retain(|column| column.name != "Vault");
        }
        let schema = version.schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
        let spec = schema.properties.as_mut().unwrap().get_mut("spec").unwrap();
        spec.properties.as_mut().unwrap().remove("secretObjects");
    }
    crds.replace(CLASSES, &PostParams::default(), &old).await.unwrap();
    until_crds_are(stage, &admin, &["failed", "warning"]).await
}
