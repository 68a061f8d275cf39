//! A stage whose driver has an API server.

use crate::relay::Relay;
use api_server::{ApiServer, Gateway, Request};
use e2e::{Call, Stage, StageOptions, can_mount, class};
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const GROUP: &str = "secrets-store.csi.x-k8s.io";
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/manifests/akv-csi.yaml");
pub const SECRET: &str = "objectName: secret1\nobjectType: secret";
/// Long enough for a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How the driver gets to its API server.
#[derive(Clone, Copy)]
enum Way {
    Relay,
    Gateway,
}

static SETTINGS: AtomicU32 = AtomicU32::new(0);

/// API server, stage and driver. All tests of the process share the API server and the namespace `default`: each uses names of
/// its own.
pub struct Setting {
    pub server: Arc<ApiServer>,
    /// The way of [`Setting::start`].
    pub relay: Relay,
    /// The way of [`Setting::start_with_faults`].
    pub gateway: Gateway,
    pub stage: Stage,
    pub client: kube::Client,
    /// The driver's service account, in namespace `kube-system`.
    account: String,
    _kubeconfig: tempfile::NamedTempFile,
}

impl Setting {
    /// Puts all up. `None`, and a notice, where something is lacking.
    pub async fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_on(Way::Relay, arguments).await
    }

    /// The same with a way to the API server on which requests can be made to fail.
    pub async fn start_with_faults(arguments: &[&str]) -> Option<Self> {
        Self::start_on(Way::Gateway, arguments).await
    }

    async fn start_on(way: Way, arguments: &[&str]) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let server = ApiServer::shared().await.unwrap()?;
        let client = server.client().await.unwrap();
        let account = format!("driver-{}", SETTINGS.fetch_add(1, Ordering::Relaxed));
        grant(&client, &account).await;
        let kubeconfig = server.kubeconfig_of("kube-system", &account).await.unwrap();
        let url = server.url();
        let relay = Relay::start(url.strip_prefix("https://").unwrap().parse().unwrap()).await;
        let gateway = Gateway::start(&server).await.unwrap();
        let by = match way {
            Way::Relay => format!("https://{}", relay.address()),
            Way::Gateway => gateway.url(),
        };
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let own = tempfile::NamedTempFile::with_prefix("kubeconfig-").unwrap();
        std::fs::write(&own, text.replace(&url, &by)).unwrap();
        let arguments =
            ["--enable-secret-rotation=true", "--rotation-poll-interval=1ms"].iter().chain(arguments);
        let options = StageOptions {
            arguments: arguments.map(|argument| (*argument).to_owned()).collect(),
            kubeconfig: Some(own.path().to_owned()),
            ..StageOptions::default()
        };
        let stage = Stage::start(options).await;
        stage.fill_vault();
        Some(Self { server, relay, gateway, stage, client, account, _kubeconfig: own })
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub fn classes(&self) -> Api<DynamicObject> {
        Api::namespaced_with(
            self.client.clone(),
            "default",
            &kind("SecretProviderClass", "secretproviderclasses"),
        )
    }

    pub fn statuses(&self) -> Api<DynamicObject> {
        let kind = kind("SecretProviderClassPodStatus", "secretproviderclasspodstatuses");
        Api::namespaced_with(self.client.clone(), "default", &kind)
    }

    /// Lets the driver sync Secrets, as the Helm value syncSecret.enabled does.
    pub async fn allow_secrets(&self) {
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "secretprovidersyncing-role"},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "get", "patch"]}],
        });
        let name = format!("secretprovidersyncing-rolebinding-{}", self.account);
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "secretprovidersyncing-role"},
            "subjects": [{"kind": "ServiceAccount", "name": self.account, "namespace": "kube-system"}],
        });
        let apply = PatchParams::apply("test").force();
        let roles: Api<ClusterRole> = Api::all(self.client.clone());
        roles.patch("secretprovidersyncing-role", &apply, &Patch::Apply(role)).await.unwrap();
        let bindings: Api<ClusterRoleBinding> = Api::all(self.client.clone());
        bindings.patch(&name, &apply, &Patch::Apply(binding)).await.unwrap();
    }

    /// Creates a class that asks for the Secret `NAME-secret`, with the key `username`.
    pub async fn create_class_with_secret(&self, name: &str) {
        self.create_class_for(name, &format!("{name}-secret"), "username").await;
    }

    /// Creates a class that asks for this Secret, with this key.
    pub async fn create_class_for(&self, name: &str, secret: &str, key: &str) {
        let mut class = self.class_object(name);
        class.data["spec"]["secretObjects"] = json!([{
            "secretName": secret, "type": "Opaque",
            "labels": {"environment": "test"}, "data": [{"objectName": "secret1", "key": key}],
        }]);
        self.classes().create(&PostParams::default(), &class).await.unwrap();
        self.foretell(name).await;
    }

    /// Puts a class beside the stage's files, where calls look for what validation has to say of it.
    async fn foretell(&self, class: &str) {
        let class_object = self.classes().get(class).await.unwrap();
        // A class may have a longer name than a file.
        let file: String = class.chars().take(200).collect();
        self.stage.deploy(&file, &serde_json::to_string(&class_object).unwrap());
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// The class of this name, with the stage's secret.
    pub fn class_object(&self, name: &str) -> DynamicObject {
        serde_saphyr::from_str(&class(&self.stage, name, &[SECRET], &[])).unwrap()
    }

    /// Creates a class.
    pub async fn create_class(&self, name: &str) {
        self.classes().create(&PostParams::default(), &self.class_object(name)).await.unwrap();
        self.foretell(name).await;
    }

    /// Changes a parameter of a class.
    pub async fn set_parameter(&self, class: &str, name: &str, value: &str) {
        let patch = Patch::Merge(json!({"spec": {"parameters": {name: value}}}));
        self.classes().patch(class, &PatchParams::default(), &patch).await.unwrap();
        self.foretell(class).await;
    }

    /// Creates a pod, and the calls for its volume of this class.
    pub async fn pod(&self, name: &str, class: &str) -> Call {
        self.owned_pod(name, class, json!([])).await
    }

    /// The same with these owner references.
    pub async fn owned_pod(&self, name: &str, class: &str, owners: Value) -> Call {
        let pods = self.pods();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "ownerReferences": owners},
            "spec": {"containers": [{"name": "web", "image": "web"}]},
        });
        let pod = serde_json::from_value(pod).unwrap();
        let created = pods.create(&PostParams::default(), &pod).await.unwrap();
        Call::new(&self.stage, name, class)
            .with_attribute("csi.storage.k8s.io/pod.uid", &created.metadata.uid.unwrap())
    }

    /// Deletes a pod and what it owns, as the garbage collector would.
    pub async fn delete_pod(&self, name: &str, class: &str) {
        let now = DeleteParams::default().grace_period(0);
        self.pods().delete(name, &now).await.unwrap();
        self.statuses().delete(&format!("{name}-default-{class}"), &now).await.unwrap();
    }

    pub async fn status_of(&self, pod: &str, class: &str) -> Option<DynamicObject> {
        self.statuses().get_opt(&format!("{pod}-default-{class}")).await.unwrap()
    }

    /// Waits for the status object of a pod.
    pub async fn wait_status(&self, pod: &str, class: &str) -> DynamicObject {
        wait("the status object", async || self.status_of(pod, class).await).await
    }

    /// Events about a pod with this reason.
    pub async fn events(&self, pod: &str, reason: &str) -> Vec<Event> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let mut list = events.list(&ListParams::default()).await.unwrap().items;
        list.retain(|event| {
            event.involved_object.name.as_deref() == Some(pod) && event.reason.as_deref() == Some(reason)
        });
        list
    }

    /// What this setting's driver has asked of the API server.
    pub fn asked(&self) -> Vec<Request> {
        let user = format!("system:serviceaccount:kube-system:{}", self.account);
        self.server.requests().unwrap().into_iter().filter(|request| request.user == user).collect()
    }

    /// What it has asked about status objects, without watching them: the verbs.
    pub fn asked_about_statuses(&self) -> Vec<String> {
        let about = |request: &Request| {
            request.resource == "secretproviderclasspodstatuses"
                && !matches!(request.verb.as_str(), "list" | "watch")
        };
        self.asked().into_iter().filter(about).map(|request| request.verb).collect()
    }

    /// How often it has read classes one by one.
    pub fn class_reads(&self) -> usize {
        let read = |request: &&Request| request.verb == "get" && request.resource == "secretproviderclasses";
        self.asked().iter().filter(read).count()
    }
}

/// Polls until there is something.
pub async fn wait<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

fn kind(name: &str, plural: &str) -> ApiResource {
    ApiResource {
        plural: plural.to_owned(),
        ..ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", name))
    }
}

/// Grants what the manifest grants, to this service account.
async fn grant(client: &kube::Client, account: &str) {
    let manifest = std::fs::read_to_string(MANIFEST).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&manifest).unwrap();
    for mut document in documents {
        let name = document["metadata"]["name"].as_str().unwrap().to_owned();
        let apply = PatchParams::apply("test").force();
        match document["kind"].as_str() {
            Some("ClusterRole") => {
                let roles: Api<ClusterRole> = Api::all(client.clone());
                roles.patch(&name, &apply, &Patch::Apply(&document)).await.unwrap();
            }
            Some("ClusterRoleBinding") => {
                let name = format!("{name}-{account}");
                document["metadata"]["name"] = json!(name);
                document["subjects"][0]["name"] = json!(account);
                let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
                bindings.patch(&name, &apply, &Patch::Apply(&document)).await.unwrap();
            }
            _ => {}
        }
    }
}
