//! All of it together, and what cases do with it.

use crate::api::{self, Kind};
use crate::audit::{self, Request};
use crate::control_plane::{ControlPlane, ISSUER};
use crate::credentials::Credentials;
use crate::manifests;
use crate::node::{Node, Room};
use crate::places::{AZURE, FIRST_NODE, Places, SECOND_NODE};
use crate::process::tail;
use azure_emulator::{Config, Emulator, Federation, Identity, Permissions};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::Mutex;

/// The vault that the classes of cases name.
pub const VAULT: &str = "cluster-vault";
/// The driver, as the API server knows it.
pub const DRIVER_ACCOUNT: &str = "system:serviceaccount:kube-system:secrets-store-csi-driver";
/// Where the driver is installed.
pub const DRIVER_NAMESPACE: &str = "kube-system";

/// Time for a pod to run, a rotation to arrive, an object to go: what the reference's own tests allow is more.
pub const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(150);

/// A running cluster with the driver installed. Its processes end with this value.
pub struct Cluster {
    /// Key Vault, Entra and the metadata service.
    pub azure: Emulator,
    /// The identity that trusts the service accounts which [`trust`](Self::trust) names. The vault lets it read.
    pub workload_identity: Identity,
    /// The VM's user-assigned identity. The vault lets it read.
    pub vm_identity: Identity,
    /// An application with a client secret. The vault lets it read.
    pub application: Identity,
    /// etcd, the API server and its controllers.
    pub control_plane: Mutex<ControlPlane>,
    /// The nodes that run.
    pub nodes: Mutex<Vec<Node>>,
    /// Where things are.
    pub places: Places,
    /// Who may talk to whom.
    pub credentials: Credentials,
    client: Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("places", &self.places).finish_non_exhaustive()
    }
}

/// The application's client secret.
pub const CLIENT_SECRET: &str = "application-secret";

impl Cluster {
    /// Starts everything and installs the driver. Each step is told to `progress` when it is done.
    pub async fn start(places: Places, progress: impl Fn(&str)) -> Self {
        // Logs of the run before would be taken for this one's.
        let _ = std::fs::remove_dir_all(places.state.join("logs"));
        std::fs::create_dir_all(places.state.join("logs")).expect("the state folder is writable");
        let config = Config {
            https: vec![SocketAddr::new(AZURE, 443)],
            imds: Some(SocketAddr::new(AZURE, 80)),
            control: Some(SocketAddr::new(AZURE, 8078)),
            ..Config::default()
        };
        let azure = Emulator::start(config.with_public_names()).await.expect("the addresses are free");
        let [workload_identity, vm_identity, application] =
            ["workload", "vm", "application"].map(|name| azure.entra().add_identity(name));
        let vault = azure.vault(VAULT);
        for identity in [&workload_identity, &vm_identity, &application] {
            vault.grant(&identity.client_id, Permissions::read());
        }
        azure.imds().assign_user(&vm_identity.client_id).expect("a known identity");
        azure.entra().add_secret(&application.client_id, CLIENT_SECRET, None).expect("a known identity");

        name_azure(&places);
        let credentials = Credentials::create(&places);
        std::fs::write(places.admin(), credentials.kubeconfig("admin", Some("system:masters")))
            .expect("the state folder is writable");
        let mut control_plane = ControlPlane::start(&places, &credentials);
        let file = Kubeconfig::read_from(places.admin()).expect("a kubeconfig of ours");
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("a kubeconfig of ours")).expect("a kubeconfig of ours");
        control_plane.ready(&client).await;
        progress("etcd, API server, controller manager and scheduler run");

        let request = hyper::Request::get("/openid/v1/jwks").body(Vec::new()).expect("a valid request");
        let keys = client.request::<Value>(request).await.expect("the API server publishes its keys");
        azure.entra().set_issuer_keys(ISSUER, keys);

        let node = Node::start(&places, &credentials, "node-1", FIRST_NODE, None).await;
        let cluster = Self {
            azure,
            workload_identity,
            vm_identity,
            application,
            control_plane: Mutex::new(control_plane),
            nodes: Mutex::new(vec![node]),
            places,
            credentials,
            client,
        };
        cluster.node_ready("node-1").await;
        progress("containerd and the kubelet run, the node is ready");
        let authority = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": manifests::AZURE_CA},
            "data": {"ca.pem": cluster.azure.ca_pem()},
        });
        cluster.apply_all(DRIVER_NAMESPACE, &[authority]).await;
        cluster.install().await;
        cluster.driver_ready().await;
        progress("the driver's DaemonSet is ready, from the project's chart and image");
        cluster
    }

    /// Adds `node-2`, in a room of its own, and waits until the driver is there too.
    pub async fn second_node(&self) {
        let room = Room::open(&self.places, "node-2", SECOND_NODE).await;
        let node = Node::start(&self.places, &self.credentials, "node-2", SECOND_NODE, Some(room)).await;
        self.nodes.lock().await.push(node);
        self.node_ready("node-2").await;
        self.until("a second pod of the driver", || async {
            (self.driver_pods().await.len() == 2).then_some(())
        })
        .await;
        self.driver_ready().await;
    }

    /// Installs the driver as most people do: by the Helm chart, whose hook brings the CRDs.
    pub async fn install(&self) {
        self.helm_install().await.unwrap_or_else(|error| panic!("helm install: {error}"));
    }

    /// Applies the project's CRDs and manifests with kubectl, as people without Helm do and `docs/migration.md` says.
    pub async fn apply_manifests(&self) {
        let deploy = self.places.checkout.join("deploy");
        self.apply_all(DRIVER_NAMESPACE, &manifests::folder(&deploy.join("crds"))).await;
        let mut documents = manifests::folder(&deploy.join("manifests"));
        for daemon_set in documents.iter_mut().filter(|document| document["kind"] == "DaemonSet") {
            manifests::adapt(daemon_set);
        }
        documents.extend(manifests::syncing());
        let list = json!({"apiVersion": "v1", "kind": "List", "items": documents}).to_string();
        let applied = self.run("kubectl", &["apply", "--filename=-"], Some(&list)).await;
        applied.unwrap_or_else(|error| panic!("kubectl apply: {error}"));
    }

    /// Writes a class and a pod that mounts it, for people to apply in `default`.
    pub async fn example(&self) -> PathBuf {
        self.azure.vault(VAULT).set_secret("secret1", "Hello!").expect("a valid secret");
        self.trust("default", "default");
        self.until("namespace default has its service account", || async {
            self.kubectl(&["get", "serviceaccount", "default"]).await.ok()
        })
        .await;
        let objects = [self.class("example", &["secret1"]), pod("example", &["example"])];
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let file = self.places.state.join("example.json");
        let text = serde_json::to_string_pretty(&list).expect("objects are JSON");
        std::fs::write(&file, text).expect("the state folder is writable");
        file
    }

    /// Waits until the driver runs on every node in its newest form, and the kubelets know it.
    pub async fn driver_ready(&self) {
        self.until("the driver's DaemonSet is ready", || async {
            let set = self.get(Kind::DaemonSet, DRIVER_NAMESPACE, manifests::DAEMON_SET).await?;
            let status = &set["status"];
            let wanted = status["desiredNumberScheduled"].as_u64().filter(|wanted| *wanted > 0)?;
            let as_many = |field: &str| status[field].as_u64() == Some(wanted);
            let current = status["observedGeneration"] == set["metadata"]["generation"];
            (current && as_many("numberReady") && as_many("updatedNumberScheduled")).then_some(())
        })
        .await;
        self.until("every kubelet has registered the driver", || async {
            let nodes = self.list(Kind::CsiNode, "").await;
            let registered = |node: &Value| {
                let drivers = node["spec"]["drivers"].as_array();
                drivers.is_some_and(|drivers| drivers.iter().any(|driver| driver["name"] == e2e::DRIVER_NAME))
            };
            (!nodes.is_empty() && nodes.iter().all(registered)).then_some(())
        })
        .await;
    }

    /// Waits until a node is ready for pods.
    pub async fn node_ready(&self, name: &str) {
        self.until(&format!("{name} is ready"), || async {
            for node in self.nodes.lock().await.iter_mut() {
                node.assert_alive();
            }
            let node = self.get(Kind::Node, "", name).await?;
            is_true(&node, "Ready").then_some(())
        })
        .await;
    }

    /// Makes a namespace, whose service accounts of these names the workload identity trusts, and waits for its `default`
    /// account, without which no pod is made.
    pub async fn namespace(&self, name: &str, accounts: &[&str]) {
        self.apply_all("", &[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})])
            .await;
        for account in accounts {
            self.trust(name, account);
        }
        self.until(&format!("namespace {name} has its service account"), || async {
            self.kubectl(&["-n", name, "get", "serviceaccount", "default"]).await.ok()
        })
        .await;
    }

    /// Lets the workload identity trust a service account.
    pub fn trust(&self, namespace: &str, account: &str) {
        let federation = Federation::service_account(ISSUER, namespace, account);
        self.azure.entra().federate(&self.workload_identity.client_id, federation).expect("a known identity");
    }

    /// Ends all of the workload identity's trust: it takes twenty federated credentials, and the namespaces of cases that are over
    /// are gone.
    pub fn trust_nobody(&self) {
        self.azure.entra().clear_federations(&self.workload_identity.client_id).expect("a known identity");
    }

    /// An object, or nothing where there is none or no API server.
    pub async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        api::get(&self.client, kind, namespace, name).await.ok().flatten()
    }

    /// Whether an object is known not to be there.
    pub async fn gone(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        matches!(api::get(&self.client, kind, namespace, name).await, Ok(None))
    }

    /// All objects of a namespace, or of the cluster where it is empty. Empty while there is no API server.
    pub async fn list(&self, kind: Kind, namespace: &str) -> Vec<Value> {
        api::list(&self.client, kind, namespace).await.unwrap_or_default()
    }

    /// Runs kubectl as the administrator.
    ///
    /// # Errors
    /// What it says on its standard error.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.run("kubectl", arguments, None).await
    }

    /// Runs a program that takes a kubeconfig, with the administrator's and with nothing of the machine's own settings.
    ///
    /// # Errors
    /// All that it says, on both of its outputs.
    pub(crate) async fn run(
        &self,
        program: &str,
        arguments: &[&str],
        input: Option<&str>,
    ) -> Result<String, String> {
        let mut child = Command::new(self.places.program(program))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.places.run("home"))
            .env("KUBECONFIG", self.places.admin())
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} was built or is on the PATH: {error}"));
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            // One that refuses its arguments reads nothing; its own words tell more than a broken pipe.
            let _ = pipe.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await.expect("a child can be waited for");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (out, err) = (text(output.stdout), text(output.stderr));
        if output.status.success() { Ok(out) } else { Err(out + &err) }
    }

    /// Applies a manifest, which may hold several documents.
    pub async fn apply(&self, namespace: &str, manifest: &str) {
        self.apply_all(namespace, &manifests::documents(manifest)).await;
    }

    /// Applies objects. Definitions of kinds are there at once, and served a moment later; so this tries again. All that cases
    /// apply is to mount in the end, so `akv-csi validate` must not call it wrong.
    pub async fn apply_all(&self, namespace: &str, objects: &[Value]) {
        let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
        assert_eq!(e2e::faults(&texts), Vec::<String>::new(), "in {texts:#?}");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let mut arguments = vec!["apply", "--server-side", "--force-conflicts", "--filename=-"];
        if !namespace.is_empty() {
            arguments.extend(["--namespace", namespace]);
        }
        let mut outcome = Ok(String::new());
        for _ in 0..20 {
            outcome = self.run("kubectl", &arguments, Some(&list)).await;
            if outcome.is_ok() {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        panic!("kubectl apply: {}", outcome.unwrap_or_else(|error| error));
    }

    /// Deletes objects and waits until they are gone. Containers of tests sleep through SIGTERM, so pods get one second.
    pub async fn delete(&self, namespace: &str, objects: &[&str]) {
        let mut arguments = vec!["--namespace", namespace, "delete", "--timeout=60s", "--grace-period=1"];
        arguments.extend(objects);
        self.kubectl(&arguments).await.unwrap_or_else(|error| panic!("kubectl delete {objects:?}: {error}"));
    }

    /// Waits until something is so.
    pub async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut probe: impl FnMut() -> F,
    ) -> T {
        let started = Instant::now();
        loop {
            // A look that hangs, because what it looks at has gone, is a look that saw nothing.
            if let Ok(Some(found)) = tokio::time::timeout(Duration::from_secs(10), probe()).await {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "after {} s still not so: {what}", PATIENCE.as_secs());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until a pod is ready. Fails with the pod's events when it is not in time.
    pub async fn pod_ready(&self, namespace: &str, name: &str) {
        let started = Instant::now();
        loop {
            let pod = self.get(Kind::Pod, namespace, name).await.unwrap_or_default();
            if is_true(&pod, "Ready") {
                return;
            }
            let late = started.elapsed() > PATIENCE;
            let events = if late { self.events(namespace).await } else { Vec::new() };
            assert!(!late, "pod {namespace}/{name} is not ready:\n{}", events.join("\n"));
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The names of a namespace's pods that a label selects.
    pub async fn pods(&self, namespace: &str, label: &str, value: &str) -> Vec<String> {
        let pods = self.list(Kind::Pod, namespace).await;
        let chosen = pods.iter().filter(|pod| pod["metadata"]["labels"][label] == value);
        chosen.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect()
    }

    /// Each event of a namespace as a line: reason, object, message.
    pub async fn events(&self, namespace: &str) -> Vec<String> {
        let events = self.list(Kind::Event, namespace).await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let line = |event: &Value| {
            format!(
                "{} {} {}",
                text(&event["reason"]),
                text(&event["involvedObject"]["name"]),
                text(&event["message"])
            )
        };
        events.iter().map(line).collect()
    }

    /// `kubectl exec POD -- COMMAND…`: what it prints.
    ///
    /// # Errors
    /// What it says on its standard error.
    pub async fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String, String> {
        let mut arguments = vec!["--namespace", namespace, "exec", pod, "--"];
        arguments.extend(command);
        self.kubectl(&arguments).await
    }

    /// A file as a pod's first container sees it.
    pub async fn cat(&self, namespace: &str, pod: &str, path: &str) -> String {
        let output = self.exec(namespace, pod, &["cat", path]).await;
        output.unwrap_or_else(|error| panic!("kubectl exec {pod} -- cat {path}: {error}"))
    }

    /// Waits until a pod sees this content.
    pub async fn cat_until(&self, namespace: &str, pod: &str, path: &str, content: &str) {
        self.until(&format!("{path} of {pod} is {content:?}"), || async {
            self.exec(namespace, pod, &["cat", path]).await.ok().filter(|seen| seen == content)
        })
        .await;
    }

    /// The names of the driver's pods.
    pub async fn driver_pods(&self) -> Vec<String> {
        self.pods(DRIVER_NAMESPACE, "app", manifests::DAEMON_SET).await
    }

    /// The logs of the driver on all nodes.
    pub async fn driver_log(&self) -> String {
        let mut text = String::new();
        for pod in self.driver_pods().await {
            let arguments = [
                "--namespace",
                DRIVER_NAMESPACE,
                "logs",
                &pod,
                "--container",
                manifests::CONTAINER,
                "--tail=-1",
            ];
            text += &self.kubectl(&arguments).await.unwrap_or_default();
        }
        text
    }

    /// Replaces the driver's pods: they are deleted, and the DaemonSet makes new ones.
    pub async fn restart_driver(&self) {
        let label = format!("--selector=app={}", manifests::DAEMON_SET);
        self.delete(DRIVER_NAMESPACE, &["pod", &label]).await;
        self.driver_ready().await;
    }

    /// What the driver has asked of the API server, in order.
    pub fn driver_requests(&self) -> Vec<Request> {
        let mut requests = audit::requests(&self.places.log("audit"));
        requests.retain(|request| request.user == DRIVER_ACCOUNT);
        requests
    }

    /// A class that mounts secrets of the vault by workload identity.
    pub fn class(&self, name: &str, secrets: &[&str]) -> Value {
        let objects: Vec<Value> = secrets
            .iter()
            .map(|secret| {
                json!({"objectName": secret, "objectType": "secret", "objectVersion": ""}).to_string().into()
            })
            .collect();
        json!({
            "apiVersion": "secrets-store.csi.x-k8s.io/v1",
            "kind": "SecretProviderClass",
            "metadata": {"name": name},
            "spec": {
                "provider": "azure",
                "parameters": {
                    "clientID": self.workload_identity.client_id,
                    "keyvaultName": VAULT,
                    "tenantId": self.azure.tenant(),
                    "objects": json!({"array": objects}).to_string(),
                },
            },
        })
    }

    /// The end of a part's log.
    pub fn log_tail(&self, part: &str, lines: usize) -> String {
        tail(&self.places.log(part), lines)
    }
}

/// Gives Azure's names the emulator's address: for everything here, and for pods in the node's network, which have the node's
/// hosts file.
fn name_azure(places: &Places) {
    let hosts = places.run("").join("hosts");
    let text = format!("127.0.0.1 localhost\n{AZURE} login.microsoftonline.com {VAULT}.vault.azure.net\n");
    std::fs::write(&hosts, text).expect("a fresh tmpfs is writable");
    let mounted = std::process::Command::new("mount").arg("--bind").arg(&hosts).arg("/etc/hosts").status();
    let mounted = mounted.expect("every machine has mount");
    assert!(mounted.success(), "mount ends with {mounted}");
}

/// Whether a condition of an object holds.
fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == condition && one["status"] == "True"))
}

/// A pod that sleeps with volumes of these classes, each at `/mnt/CLASS`.
pub fn pod(name: &str, classes: &[&str]) -> Value {
    let volumes: Vec<Value> = classes.iter().map(|class| volume(class, class)).collect();
    let mounts: Vec<Value> = classes
        .iter()
        .map(|class| json!({"name": class, "mountPath": format!("/mnt/{class}"), "readOnly": true}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "app",
                "image": BUSYBOX,
                "imagePullPolicy": "Never",
                "command": ["sleep", "100000"],
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    })
}

/// A volume of a class.
pub fn volume(name: &str, class: &str) -> Value {
    json!({"name": name, "csi": {
        "driver": e2e::DRIVER_NAME,
        "readOnly": true,
        "volumeAttributes": {"secretProviderClass": class},
    }})
}

/// The image that stands in for the one samples use, under its name.
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-4";
