//! One volume's calls, made by hand: for tests that send what the kubelet would not, or look at one call alone.

use crate::prediction::Prediction;
use crate::{DRIVER_NAME, Stage, VAULT};
use kubelet::CsiClient;
use proto::csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
use proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::Status;

const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const CLASS: &str = "secretProviderClass";

/// A volume of a pod, and the request that publishes it. The request's fields may be changed between calls.
#[derive(Clone)]
pub struct Call {
    /// The request as it will be sent.
    pub request: NodePublishVolumeRequest,
    client: CsiClient,
    classes: PathBuf,
}

impl Call {
    /// The volume of pod `default/NAME` with service account `workload-identity-sa` and class `class`, as the kubelet would
    /// send it: with tokens in the secrets, read-only.
    pub fn new(stage: &Stage, pod: &str, class: &str) -> Self {
        Self::of(stage, "default", pod, "workload-identity-sa", class)
    }

    /// The same for any namespace and service account.
    pub fn of(stage: &Stage, namespace: &str, pod: &str, service_account: &str, class: &str) -> Self {
        let uid = format!("uid-{namespace}-{pod}");
        let volume = stage.path(&format!("kubelet/pods/{uid}/volumes/kubernetes.io~csi/secrets"));
        std::fs::create_dir_all(&volume).expect("the stage's folder is writable");
        let context = [
            (POD_NAME, pod),
            (POD_NAMESPACE, namespace),
            (POD_UID, &uid),
            (SERVICE_ACCOUNT, service_account),
            ("csi.storage.k8s.io/ephemeral", "true"),
            (CLASS, class),
        ];
        let mount = MountVolume::default();
        let request = NodePublishVolumeRequest {
            volume_id: format!("csi-{uid}"),
            target_path: volume.join("mount").display().to_string(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(mount)),
                access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            }),
            readonly: true,
            volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            secrets: [(kubelet::TOKENS_KEY.to_owned(), tokens(stage, namespace, service_account))].into(),
            ..NodePublishVolumeRequest::default()
        };
        let client = CsiClient::new(stage.socket()).with_deadline(Duration::from_secs(120));
        Self { request, client, classes: stage.path("classes") }
    }

    /// Sets the pod's `fsGroup`.
    #[must_use]
    pub fn with_group(mut self, group: &str) -> Self {
        if let Some(VolumeCapability { access_type: Some(AccessType::Mount(mount)), .. }) =
            self.request.volume_capability.as_mut()
        {
            group.clone_into(&mut mount.volume_mount_group);
        }
        self
    }

    /// Adds or changes a volume attribute, as a pod's author would.
    #[must_use]
    pub fn with_attribute(mut self, key: &str, value: &str) -> Self {
        self.request.volume_context.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sends the publish request, and sees that `akv-csi validate` foretells the answer.
    ///
    /// # Errors
    /// What the driver answers.
    pub async fn publish(&self) -> Result<(), Status> {
        self.publish_by(&self.client).await
    }

    /// Sends the publish request and nothing else: where time is measured, that of a prediction must not be.
    ///
    /// # Errors
    /// What the driver answers.
    pub async fn send(&self) -> Result<(), Status> {
        self.client.publish(self.request.clone()).await
    }

    /// Sends the publish request with another deadline than the kubelet's two minutes.
    ///
    /// # Errors
    /// What the driver answers, or `DeadlineExceeded`.
    pub async fn publish_within(&self, deadline: Duration) -> Result<(), Status> {
        self.publish_by(&self.client.clone().with_deadline(deadline)).await
    }

    async fn publish_by(&self, client: &CsiClient) -> Result<(), Status> {
        let prediction = Prediction::of(&self.request, &self.classes);
        let answer = client.publish(self.request.clone()).await;
        if let Some(prediction) = prediction {
            prediction.compare(&self.request, &self.classes, &answer);
        }
        answer
    }

    /// Unpublishes the volume.
    ///
    /// # Errors
    /// What the driver answers.
    pub async fn unpublish(&self) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: self.request.volume_id.clone(),
            target_path: self.request.target_path.clone(),
        };
        self.client.unpublish(request).await
    }

    /// The target path.
    pub fn target(&self) -> PathBuf {
        self.request.target_path.clone().into()
    }

    /// The volume's files below its generation folder, by relative path.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let root = self.target();
        let Ok(entries) = std::fs::read_dir(&root) else { return files };
        for entry in entries.flatten() {
            if !entry.file_name().to_string_lossy().starts_with("..") {
                collect(&entry.path(), &root, &mut files);
            }
        }
        files
    }

    /// One file as text.
    pub fn read(&self, name: &str) -> String {
        let path = self.target().join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

fn collect(path: &Path, root: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            collect(&entry.path(), root, files);
        }
    } else {
        let name = path.strip_prefix(root).expect("found below the root").display().to_string();
        files.insert(name, std::fs::read(path).expect("a file that was just listed"));
    }
}

/// What the kubelet sends for a pod of this service account: a token for each audience.
pub fn tokens(stage: &Stage, namespace: &str, service_account: &str) -> String {
    use secrecy::ExposeSecret;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let mut by_audience = serde_json::Map::new();
    for audience in ["api://AzureADTokenExchange", "api://AKSIdentityBinding"] {
        let claims = json!({
            "iss": stage.kubelet.issuer().url(), "aud": [audience],
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
            "iat": now, "nbf": now, "exp": now + 3600, "jti": format!("{namespace}-{service_account}-{audience}"),
        });
        let token = stage.kubelet.issuer().sign(&claims).expect("an issuer signs");
        let entry = json!({"token": token.expose_secret(), "expirationTimestamp": "2099-01-01T00:00:00Z"});
        by_audience.insert(audience.to_owned(), entry);
    }
    serde_json::Value::Object(by_audience).to_string()
}

/// A class of the workload identity with these `objects` items; `extra` are further parameter lines.
pub fn class(stage: &Stage, name: &str, objects: &[&str], extra: &[(&str, &str)]) -> String {
    class_of(&stage.workload_identity.client_id, stage.azure.tenant(), name, objects, extra)
}

/// The same of any client and tenant.
pub fn class_of(
    client_id: &str,
    tenant: &str,
    name: &str,
    objects: &[&str],
    extra: &[(&str, &str)],
) -> String {
    let mut text = format!(
        "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata:\n  name: {name}\nspec:\n  provider: azure\n  parameters:\n"
    );
    let mut parameters: BTreeMap<&str, &str> =
        [("keyvaultName", VAULT), ("tenantId", tenant), ("clientID", client_id)].into();
    parameters.extend(extra.iter().copied());
    for (key, value) in parameters {
        // A quoted JSON string is a YAML string whatever is in it.
        writeln!(text, "    {key}: {}", json!(value)).expect("a String takes everything");
    }
    if !objects.is_empty() {
        text.push_str("    objects: |\n      array:\n");
        for object in objects {
            text.push_str("        - |\n");
            for line in object.lines() {
                writeln!(text, "          {}", line.trim()).expect("a String takes everything");
            }
        }
    }
    text
}

/// Whether this process may mount. When it may not, that is said, and in CI it is a failure.
pub fn can_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        let notice =
            format!("tests of {DRIVER_NAME} mount for real: run them as root or with `unshare -Urm`");
        assert!(std::env::var_os("CI").is_none(), "{notice}");
        eprintln!("NOTICE: left out: {notice}");
    }
    root
}
