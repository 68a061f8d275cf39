//! What Helm does with the chart in a cluster that has one of today's charts, or none: against a real API server, with stand-ins
//! for those charts. Helm's hooks run: this test plays the Job controller and the kubelet, with the hook's own service account.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod jobs;

use api_server::ApiServer;
use chart::{chart, values};
use jobs::Jobs;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokio::sync::{Mutex, MutexGuard};

const NAMESPACE: &str = "kube-system";
const CRD: &str = "secretproviderclasses.secrets-store.csi.x-k8s.io";

/// Each test has a server of its own, because most names are the cluster's. One at a time is enough for a machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

struct Cluster {
    server: ApiServer,
    client: Client,
    jobs: Jobs,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Nothing where Helm or the API server is missing.
    async fn start() -> Option<Self> {
        chart::helm()?;
        let turn = ONE_AT_A_TIME.lock().await;
        let server = ApiServer::start().await.unwrap()?;
        let client = server.client().await.unwrap();
        let jobs = Jobs::play(server.kubeconfig(), client.clone(), NAMESPACE);
        Some(Self { server, client, jobs, _turn: turn })
    }

    /// Runs Helm; its output, or its error.
    async fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        let mut helm = tokio::process::Command::from(chart::helm().unwrap());
        // Nothing of the developer's own Helm.
        let home = self.server.kubeconfig().parent().unwrap().join("helm");
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(variable, &home);
        }
        helm.args(arguments).args(["--namespace", NAMESPACE, "--kubeconfig"]).arg(self.server.kubeconfig());
        let output = helm.output().await.unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{out}{err}")) }
    }

    async fn install(&self, release: &str, chart: &Path, more: &[&str]) -> Result<String, String> {
        self.helm(&[&["install", release, chart.to_str().unwrap()], more].concat()).await
    }

    async fn upgrade(&self, release: &str, more: &[&str]) -> Result<String, String> {
        self.helm(&[&["upgrade", release, chart().to_str().unwrap()], more].concat()).await
    }

    /// Whether an upgrade would have tokens handed over as secrets, were this cluster new enough. (Helm 4 does not let one ask.)
    async fn tokens_in_secrets(&self, release: &str) -> bool {
        let path = chart();
        let arguments =
            ["template", release, path.to_str().unwrap(), "--dry-run=server", "--kube-version", "1.35.0"];
        self.helm(&arguments).await.unwrap().contains("serviceAccountTokenInSecrets: true")
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (group, version, namespaced) = match kind {
            "DaemonSet" => ("apps", "v1", true),
            "CSIDriver" => ("storage.k8s.io", "v1", false),
            "ClusterRole" => ("rbac.authorization.k8s.io", "v1", false),
            "CustomResourceDefinition" => ("apiextensions.k8s.io", "v1", false),
            "Job" => ("batch", "v1", true),
            "SecretProviderClass" => ("secrets-store.csi.x-k8s.io", "v1", true),
            _ => ("", "v1", true),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        if namespaced {
            Api::namespaced_with(self.client.clone(), NAMESPACE, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }

    async fn names(&self, kind: &str) -> Vec<String> {
        let list = self.api(kind).list(&ListParams::default()).await.unwrap();
        list.items.iter().map(ResourceExt::name_any).collect()
    }

    async fn get(&self, kind: &str, name: &str) -> DynamicObject {
        self.api(kind).get(name).await.unwrap()
    }

    async fn create(&self, kind: &str, object: Value) {
        self.api(kind)
            .create(&PostParams::default(), &serde_json::from_value(object).unwrap())
            .await
            .unwrap();
    }

    /// The CRDs as a cluster has them that never saw this project.
    async fn remove_crds(&self) {
        for name in self.names("CustomResourceDefinition").await {
            self.api("CustomResourceDefinition").delete(&name, &DeleteParams::default()).await.unwrap();
        }
        while !self.names("CustomResourceDefinition").await.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    async fn crd_versions(&self) -> Vec<String> {
        let crd = self.get("CustomResourceDefinition", CRD).await;
        let versions = crd.data["spec"]["versions"].as_array().unwrap().clone();
        versions.iter().map(|version| version["name"].as_str().unwrap().to_owned()).collect()
    }
}

fn umbrella() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/provider-azure")
}

fn driver() -> PathBuf {
    umbrella().join("charts/secrets-store-csi-driver")
}

fn containers(daemon_set: &DynamicObject) -> Vec<String> {
    let containers = daemon_set.data["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    containers.iter().map(|container| container["image"].as_str().unwrap().to_owned()).collect()
}

fn a_class() -> Value {
    json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
        "metadata": {"name": "kv"}, "spec": {"provider": "azure", "parameters": {"keyvaultName": "kv"}}
    })
}

fn a_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "s", "csi": {
                "driver": "secrets-store.csi.k8s.io", "readOnly": true,
                "volumeAttributes": {"secretProviderClass": "kv"}
            }}]
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn values_files_of_today_install() {
    let Some(cluster) = Cluster::start().await else { return };
    for file in [
        "driver-1.6.0.yaml",
        "provider-azure-1.8.2.yaml",
        "user-umbrella.yaml",
        "user-driver.yaml",
        "arc.yaml",
    ] {
        let notes = cluster.install("csi", &chart(), &["--values", &values(file)]).await.unwrap();
        assert!(notes.contains("rollout status daemonset/secrets-store-csi-driver"), "{file}: {notes}");
        let daemon_set = cluster.get("DaemonSet", "secrets-store-csi-driver").await;
        assert_eq!(containers(&daemon_set), ["akv-csi:0.1.0"], "{file}");
        for (value, told) in [
            ("linux.image:", file != "user-driver.yaml" && file != "arc.yaml"),
            ("windows.enabled:", file == "user-driver.yaml" || file == "arc.yaml"),
            ("linux.resources:", file == "provider-azure-1.8.2.yaml"),
        ] {
            assert_eq!(notes.contains(value), told, "{file} {value}: {notes}");
        }
        cluster.helm(&["uninstall", "csi"]).await.unwrap();
    }
    assert_eq!(
        cluster.jobs.commands(),
        ["cluster apply-crds", "cluster check-unused"].repeat(5),
        "hooks ran, with the rights they bring"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_the_umbrella_chart_is_upgraded_in_place_and_goes_back() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.remove_crds().await;
    let provider = "csi-csi-secrets-store-provider-azure";
    let set = "secrets-store-csi-driver.enableSecretRotation=true";
    cluster.install("csi", &umbrella(), &["--set", set]).await.unwrap();
    cluster.create("SecretProviderClass", a_class()).await;
    assert_eq!(cluster.crd_versions().await, ["v1"]);
    let before = cluster.get("DaemonSet", "secrets-store-csi-driver").await;
    let csi_driver = cluster.get("CSIDriver", "secrets-store.csi.k8s.io").await;

    let refusal = cluster.upgrade("csi", &["--reuse-values"]).await.unwrap_err();
    assert!(refusal.contains("repeat with --reset-then-reuse-values"), "{refusal}");

    // As docs/migration.md says: the provider serves nodes that still have the old driver.
    let keep = json!({"metadata": {"annotations": {"helm.sh/resource-policy": "keep"}}});
    cluster.api("DaemonSet").patch(provider, &PatchParams::default(), &Patch::Merge(keep)).await.unwrap();
    cluster.upgrade("csi", &["--reset-then-reuse-values"]).await.unwrap();
    assert_eq!(cluster.names("DaemonSet").await, [provider, "secrets-store-csi-driver"]);
    let after = cluster.get("DaemonSet", "secrets-store-csi-driver").await;
    assert_eq!(after.uid(), before.uid());
    assert_eq!(containers(&after), ["akv-csi:0.1.0"]);
    let arguments = after.data["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(arguments.contains("--enable-secret-rotation=true"), "{arguments}");
    assert_eq!(cluster.get("CSIDriver", "secrets-store.csi.k8s.io").await.uid(), csi_driver.uid());
    assert!(!cluster.names("ClusterRole").await.contains(&"secretproviderrotation-role".to_owned()));
    // The CRDs are this version's, and the classes in them are still there.
    assert_eq!(cluster.crd_versions().await, ["v1", "v1alpha1"]);
    let crd = cluster.get("CustomResourceDefinition", CRD).await;
    assert_eq!(crd.annotations()["helm.sh/resource-policy"], "keep");
    assert_eq!(cluster.names("SecretProviderClass").await, ["kv"]);
    // Hooks leave nothing behind.
    assert!(cluster.names("Job").await.is_empty());
    assert!(!cluster.names("ServiceAccount").await.iter().any(|name| name.contains("upgrade-crds")));

    cluster.helm(&["rollback", "csi", "1"]).await.unwrap();
    assert_eq!(cluster.names("DaemonSet").await, [provider, "secrets-store-csi-driver"]);
    let back = cluster.get("DaemonSet", "secrets-store-csi-driver").await;
    assert_eq!((back.uid(), containers(&back)), (before.uid(), containers(&before)));
    assert_eq!(back.data["spec"]["template"]["spec"], before.data["spec"]["template"]["spec"]);
    let spec = |object: &DynamicObject| object.data["spec"].clone();
    assert_eq!(spec(&cluster.get("CSIDriver", "secrets-store.csi.k8s.io").await), spec(&csi_driver));

    // Without the annotation, Helm takes the provider away at once.
    let unkept = json!({"metadata": {"annotations": {"helm.sh/resource-policy": null}}});
    cluster.api("DaemonSet").patch(provider, &PatchParams::default(), &Patch::Merge(unkept)).await.unwrap();
    cluster.upgrade("csi", &["--reset-then-reuse-values"]).await.unwrap();
    assert_eq!(cluster.names("DaemonSet").await, ["secrets-store-csi-driver"]);
    // And back it comes.
    cluster.helm(&["rollback", "csi", "1"]).await.unwrap();
    assert_eq!(cluster.names("DaemonSet").await, [provider, "secrets-store-csi-driver"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_the_driver_chart_keeps_its_daemon_set() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.remove_crds().await;
    cluster.install("csi", &driver(), &["--set", "nameOverride=vault-csi"]).await.unwrap();
    let before = cluster.get("DaemonSet", "csi-vault-csi").await;
    // That of another release, or of kubectl, is not mistaken for this release's.
    let mut foreign = serde_json::to_value(&before).unwrap();
    foreign["metadata"] =
        json!({"name": "z-foreign-one", "annotations": {"meta.helm.sh/release-name": "other"}});
    cluster.create("DaemonSet", foreign).await;
    assert!(!cluster.tokens_in_secrets("csi").await, "the old driver may still run somewhere");
    let notes =
        cluster.upgrade("csi", &["--reset-then-reuse-values", "--set", "nameOverride=other"]).await.unwrap();
    assert!(notes.contains("keeps the name csi-vault-csi"), "{notes}");
    assert_eq!(cluster.names("DaemonSet").await, ["csi-vault-csi", "z-foreign-one"]);
    let after = cluster.get("DaemonSet", "csi-vault-csi").await;
    assert_eq!(after.uid(), before.uid());
    assert_eq!(containers(&after), ["akv-csi:0.1.0"]);
    assert_eq!(after.data["spec"]["template"]["metadata"]["labels"]["app"], "vault-csi");
    assert!(cluster.tokens_in_secrets("csi").await);
    // A second upgrade finds it again.
    cluster.upgrade("csi", &["--reuse-values", "--set", "enableSecretRotation=true"]).await.unwrap();
    assert_eq!(cluster.get("DaemonSet", "csi-vault-csi").await.uid(), before.uid());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_installs_with_and_without_the_crds_of_somebody_else() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.remove_crds().await;
    cluster.install("csi", &chart(), &[]).await.unwrap();
    assert_eq!(cluster.crd_versions().await, ["v1", "v1alpha1"]);
    cluster.helm(&["uninstall", "csi"]).await.unwrap();
    assert_eq!(cluster.crd_versions().await.len(), 2, "CRDs stay, and classes with them");

    cluster.remove_crds().await;
    cluster.install("old", &driver(), &[]).await.unwrap();
    cluster.helm(&["uninstall", "old"]).await.unwrap();
    assert_eq!(cluster.crd_versions().await, ["v1"]);
    cluster.install("csi", &chart(), &[]).await.unwrap();
    assert_eq!(cluster.crd_versions().await, ["v1", "v1alpha1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_removed_under_pods_that_mount() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.install("csi", &chart(), &[]).await.unwrap();
    cluster.create("SecretProviderClass", a_class()).await;
    cluster.create("Pod", a_pod("web-1")).await;
    cluster.helm(&["uninstall", "csi"]).await.unwrap_err();
    let told = cluster.jobs.last_words();
    assert!(
        told.contains("pods mount 1 SecretProviderClass") && told.contains("kube-system/kv: web-1"),
        "{told}"
    );
    assert_eq!(cluster.names("DaemonSet").await, ["secrets-store-csi-driver"]);
    assert_eq!(cluster.names("Job").await, ["secrets-store-csi-driver-check-unused"], "its log can be read");
    // Helm takes the release for half removed now, and an upgrade would be refused. As docs/migration.md says:
    cluster.helm(&["rollback", "csi", "1"]).await.unwrap();
    assert!(cluster.helm(&["status", "csi"]).await.unwrap().contains("STATUS: deployed"));
    cluster.upgrade("csi", &[]).await.unwrap();
    assert_eq!(cluster.names("DaemonSet").await, ["secrets-store-csi-driver"]);

    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.api("Pod").delete("web-1", &now).await.unwrap();
    cluster.helm(&["uninstall", "csi"]).await.unwrap();
    assert!(cluster.names("DaemonSet").await.is_empty());
    assert_eq!(cluster.names("SecretProviderClass").await, ["kv"], "classes stay");
    assert!(!cluster.names("ClusterRole").await.iter().any(|name| name.contains("check-unused")));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_removed_under_pods_when_that_is_wanted() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.install("csi", &chart(), &[]).await.unwrap();
    cluster.create("Pod", a_pod("web-1")).await;
    cluster.helm(&["uninstall", "csi", "--no-hooks"]).await.unwrap();
    assert!(cluster.names("DaemonSet").await.is_empty());
}
