//! What `akv-csi validate` says of a volume before the driver is asked for it. Every call of the tests is predicted: what mounts
//! must not have been called wrong, and what is refused because of its manifests must have been.

use crate::DRIVER_NAME;
use csi_node::validate::finding::Severity;
use csi_node::validate::source::Source;
use proto::csi::NodePublishVolumeRequest;
use serde_json::{Value, json};
use std::path::Path;
use tonic::Status;

/// What the driver's message has where the class, or the pod's volume, is what is wrong.
const OF_MANIFESTS: [&str; 5] = [
    "error: SecretProviderClass ",
    "provider not set in ",
    "parameters not set in ",
    "secretProviderClass is not set",
    "Readonly is not true in request",
];

/// What it has where the class is named, and no file can tell: what the kubelet sent, what is on the node, what the driver's flags
/// forbid.
const OF_THE_NODE: [&str; 6] = [
    "failed to parse workload identity tokens",
    "service account tokens are required",
    "cloudName AzureStackCloud is not valid",
    "--vm-identity-namespaces is ",
    "--allowed-tenants is ",
    "--allowed-clouds is ",
];

/// A prediction of one call.
#[derive(Debug)]
pub struct Prediction {
    /// The manifests that were looked at.
    manifests: Vec<String>,
    /// What is wrong with them.
    errors: Vec<String>,
    /// Whether this is the first call for the volume: later ones keep what they have.
    is_first: bool,
}

impl Prediction {
    /// Looks at the files of the folder that the driver reads, and at the pod as the request has it. Nothing is predicted where
    /// the class is not among the files.
    pub fn of(request: &NodePublishVolumeRequest, classes: &Path) -> Option<Self> {
        let manifests = manifests(request, classes)?;
        let errors = faults(&manifests);
        let is_first = !Path::new(&request.target_path).join("..data").exists();
        Some(Self { manifests, errors, is_first })
    }

    /// Compares it with what the driver answered.
    ///
    /// # Panics
    /// When it was wrong.
    pub fn compare(&self, request: &NodePublishVolumeRequest, classes: &Path, answer: &Result<(), Status>) {
        if manifests(request, classes).as_ref() != Some(&self.manifests) {
            // Somebody has changed them meanwhile, so nobody knows which ones the driver has seen.
            return;
        }
        match answer {
            Ok(()) => assert!(
                self.errors.is_empty() || !self.is_first,
                "this mounts, and `akv-csi validate` calls it wrong: {:#?}\n{}",
                self.errors,
                self.manifests.join("---\n")
            ),
            Err(status) => {
                let has = |parts: &[&str]| parts.iter().any(|part| status.message().contains(part));
                assert!(
                    !has(&OF_MANIFESTS) || has(&OF_THE_NODE) || !self.errors.is_empty(),
                    "`akv-csi validate` does not see what the driver refuses: {}\n{}",
                    status.message(),
                    self.manifests.join("---\n")
                );
            }
        }
    }
}

/// What `akv-csi validate` calls wrong in these manifests, rule, field and problem of each.
pub fn faults<T: AsRef<str>>(manifests: &[T]) -> Vec<String> {
    let source = |text: &T| Source::new("manifest.yaml", true, text.as_ref());
    let sources: Vec<Source> = manifests.iter().map(source).collect();
    let findings = csi_node::validate::check(&sources, DRIVER_NAME).findings;
    findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| format!("{:?} {}: {}", finding.rule, finding.field, finding.problem))
        .collect()
}

/// Whether something in a manifest, as YAML or JSON, has this name.
fn is_named(text: &str, name: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    text.contains(&format!("\"name\":\"{name}\""))
        || text.split("name: ").skip(1).any(|rest| rest.strip_prefix(name).is_some_and(ends))
}

/// The class with what lies beside it, and a pod that asks as the request does.
fn manifests(request: &NodePublishVolumeRequest, classes: &Path) -> Option<Vec<String>> {
    let context = |key: &str| request.volume_context.get(key).cloned().unwrap_or_default();
    let class = context("secretProviderClass");
    let mut texts: Vec<String> = std::fs::read_dir(classes)
        .ok()?
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .filter(|text| is_named(text, &class) || text.contains("kind: ServiceAccount"))
        .collect();
    if texts.is_empty() && !class.is_empty() {
        return None;
    }
    texts.sort();
    let namespace = context("csi.storage.k8s.io/pod.namespace");
    let attributes: serde_json::Map<String, Value> = request
        .volume_context
        .iter()
        .filter(|(key, _)| !key.starts_with("csi.storage.k8s.io/"))
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    // In standalone mode, an account that no file describes has no annotations.
    let account = context("csi.storage.k8s.io/serviceAccount.name");
    if !texts.iter().any(|text| text.contains("kind: ServiceAccount") && text.contains(&account)) {
        texts.push(
            json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace},
            })
            .to_string(),
        );
    }
    let mut csi =
        json!({"driver": DRIVER_NAME, "readOnly": request.readonly, "volumeAttributes": attributes});
    let secrets: serde_json::Map<String, Value> = request
        .secrets
        .iter()
        .filter(|(key, _)| *key != kubelet::TOKENS_KEY)
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    if !secrets.is_empty() {
        csi["nodePublishSecretRef"] = json!({"name": "credentials"});
        texts.push(
            json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "credentials", "namespace": namespace},
                "stringData": secrets,
            })
            .to_string(),
        );
    }
    texts.push(
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": context("csi.storage.k8s.io/pod.name"), "namespace": namespace},
            "spec": {
                "serviceAccountName": account,
                "containers": [{"name": "c", "image": "c"}],
                "volumes": [{"name": "secrets", "csi": csi}],
            },
        })
        .to_string(),
    );
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class_of;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    const GUID: &str = "11111111-2222-3333-4444-555555555555";

    /// Whether a prediction about a class with these parameters is held to be wrong after this answer, with another class there
    /// by then if that is wanted.
    fn is_wrong(parameters: &[(&str, &str)], answer: &Result<(), Status>, changed: bool) -> bool {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |parameters: &[(&str, &str)]| {
            let text = class_of(GUID, GUID, "kv", &["objectName: a\nobjectType: secret"], parameters);
            std::fs::write(folder.path().join("kv.yaml"), text).expect("a fresh folder is writable");
        };
        write(parameters);
        let context = [("secretProviderClass", "kv"), ("csi.storage.k8s.io/pod.namespace", "default")];
        let request = NodePublishVolumeRequest {
            volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            target_path: folder.path().join("mount").display().to_string(),
            readonly: true,
            ..NodePublishVolumeRequest::default()
        };
        let prediction = Prediction::of(&request, folder.path()).expect("the class is there");
        if changed {
            write(&[("cloudName", "AzureChinaCloud")]);
        }
        catch_unwind(AssertUnwindSafe(|| prediction.compare(&request, folder.path(), answer))).is_err()
    }

    #[test]
    fn a_word_that_does_not_come_true_is_told() {
        let bad = [("cloudName", "Nope")];
        let refused = Err(Status::unknown("error: SecretProviderClass default/kv: cloudName"));
        let unreachable = Err(Status::unknown("vault demo does not answer"));
        for (parameters, answer, wrong) in [
            (&[][..], &Ok(()), false),
            (&bad, &Ok(()), true),
            (&[], &refused, true),
            (&bad, &refused, false),
            (&[], &unreachable, false),
        ] {
            assert_eq!(is_wrong(parameters, answer, false), wrong, "{parameters:?} {answer:?}");
        }
        assert!(!is_wrong(&bad, &Ok(()), true), "nobody knows which class was read");
    }

    #[test]
    fn names_are_whole() {
        assert!(is_named("metadata:\n  name: kv\n", "kv") && is_named("{\"name\":\"kv\"}", "kv"));
        assert!(!is_named("name: kv-2\n", "kv") && !is_named("name: my-kv", "kv"));
    }
}
