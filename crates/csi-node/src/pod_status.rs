//! SecretProviderClassPodStatus: what a pod has mounted, for people and tools to read.
//!
//! One object for each pod and class, named and labelled as the reference does it, so that its objects are taken over in place.
//! The pod owns it: it goes when the pod goes, and nobody has to delete it.

use crate::class::GROUP;
use crate::csi::request::Pod;
use crate::kubernetes::{code, lacks_right, said};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, ObjectMeta, PostParams};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use vault::ObjectVersion;

/// The label with the node's name.
pub const NODE_LABEL: &str = "internal.secrets-store.csi.k8s.io/node-name";

/// The longest name of an object (RFC 1123 subdomain).
const LONGEST_NAME: usize = 253;
/// The longest value of a label.
const LONGEST_LABEL: usize = 63;
/// How often a write is repeated at once because somebody else has written meanwhile.
const TRIES: usize = 4;

/// The object itself. It has no `spec`, and its `status` is an ordinary field: there is no status subresource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Name of the pod.
    pub pod_name: String,
    /// Name of the class.
    pub secret_provider_class_name: String,
    /// Whether the volume is mounted. The object goes with the pod, so this is always true.
    pub mounted: bool,
    /// Where the volume is mounted on the node.
    pub target_path: String,
    /// What is mounted, sorted by id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<Object>,
}

/// One mounted object.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Object {
    /// What it is, such as `secret/db-password`.
    pub id: String,
    /// Its version in the vault.
    pub version: String,
}

/// What a status object is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The pod that owns it.
    pub pod: Pod,
    /// Everything else.
    pub status: Status,
}

/// What writing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// There was none.
    Created,
    /// There was one that said something else.
    Updated,
    /// It said all that already, and was not written.
    Unchanged,
}

/// Whether there may be a status object already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The volume is new, so probably not: one call that creates it.
    None,
    /// Probably: one call that reads it.
    One,
}

/// Why a status object could not be written. The volume is mounted all the same.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The kubelet does not say the pod's UID.
    #[error(
        "no status object for pod {pod}: its UID is not in the volume attributes: the CSIDriver object needs podInfoOnMount: true"
    )]
    NoUid {
        /// Whose volume.
        pod: Pod,
    },
    /// The API server refused, or did not answer.
    #[error("SecretProviderClassPodStatus {namespace}/{name}: {step}: {cause}{cure}")]
    Call {
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// `read`, `create` or `update`.
        step: &'static str,
        /// What the API server says.
        cause: String,
        /// The code of its answer; 0 if there was none.
        code: u16,
        /// What to do about it; empty or starts with a separator.
        cure: &'static str,
    },
    /// Others write the same object all the time.
    #[error(
        "SecretProviderClassPodStatus {namespace}/{name}: written by somebody else {TRIES} times in a row"
    )]
    Contended {
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
    },
}

/// Writes status objects.
///
/// Needs the RBAC rule `secretproviderclasspodstatuses: [get, create, update]` in group `secrets-store.csi.x-k8s.io`, and
/// `list, watch` for noticing that one was deleted.
#[derive(Clone)]
pub struct PodStatuses {
    client: kube::Client,
    node: String,
}

impl PodStatuses {
    /// Status objects of pods on this node.
    pub fn new(client: kube::Client, node: &str) -> Self {
        Self { client, node: fitting(node, LONGEST_LABEL) }
    }

    /// The label selector of this node's status objects.
    pub fn selector(&self) -> String {
        format!("{NODE_LABEL}={}", self.node)
    }

    /// All status objects of the cluster, for following them.
    pub fn everywhere(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &kind())
    }

    /// Makes the status object say what is wanted, and writes only if it does not. Tells its UID, too.
    ///
    /// # Errors
    /// [`StatusError`].
    pub async fn ensure(&self, wanted: &Wanted, expect: Expect) -> Result<(Written, String), StatusError> {
        let pod = &wanted.pod;
        if pod.uid.is_empty() {
            return Err(StatusError::NoUid { pod: pod.clone() });
        }
        let name = name(&pod.name, &pod.namespace, &wanted.status.secret_provider_class_name);
        let statuses: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &pod.namespace, &kind());
        let failed = |step: &'static str, error: &kube::Error| StatusError::Call {
            namespace: pod.namespace.clone(),
            name: name.clone(),
            step,
            cause: said(error),
            code: code(error),
            cure: cure(error),
        };
        let mut expect = expect;
        for _ in 0..TRIES {
            let found = match expect {
                Expect::None => None,
                Expect::One => statuses.get_opt(&name).await.map_err(|error| failed("read", &error))?,
            };
            let Some(mut object) = found else {
                match statuses.create(&PostParams::default(), &self.object(&name, wanted)).await {
                    Ok(object) => return Ok((Written::Created, object.metadata.uid.unwrap_or_default())),
                    Err(kube::Error::Api(answer)) if answer.is_already_exists() => {
                        expect = Expect::One;
                        continue;
                    }
                    Err(error) => return Err(failed("create", &error)),
                }
            };
            if !self.bring_in_line(&mut object, wanted) {
                return Ok((Written::Unchanged, object.metadata.uid.unwrap_or_default()));
            }
            match statuses.replace(&name, &PostParams::default(), &object).await {
                Ok(object) => return Ok((Written::Updated, object.metadata.uid.unwrap_or_default())),
                // Somebody has written or deleted it since it was read.
                Err(kube::Error::Api(answer)) if answer.is_conflict() || answer.is_not_found() => {}
                Err(error) => return Err(failed("update", &error)),
            }
        }
        Err(StatusError::Contended { namespace: pod.namespace.clone(), name })
    }

    fn object(&self, name: &str, wanted: &Wanted) -> DynamicObject {
        let mut object = DynamicObject::new(name, &kind()).within(&wanted.pod.namespace);
        self.bring_in_line(&mut object, wanted);
        object
    }

    /// Whether anything had to be changed. What others have added to the object stays.
    fn bring_in_line(&self, object: &mut DynamicObject, wanted: &Wanted) -> bool {
        let ObjectMeta { labels, owner_references, managed_fields, .. } = &mut object.metadata;
        // Sent back, they would only be compared.
        *managed_fields = None;
        let mut changed = false;
        let labels = labels.get_or_insert_default();
        if labels.get(NODE_LABEL) != Some(&self.node) {
            // The pod of a StatefulSet may have been on another node before.
            labels.insert(NODE_LABEL.to_owned(), self.node.clone());
            changed = true;
        }
        let owner = owner(&wanted.pod);
        if owner_references.as_deref() != Some(std::slice::from_ref(&owner)) {
            *owner_references = Some(vec![owner]);
            changed = true;
        }
        let status = object.data.get("status").and_then(|status| Status::deserialize(status).ok());
        if status.as_ref() != Some(&wanted.status)
            && let Ok(status) = serde_json::to_value(&wanted.status)
        {
            if !object.data.is_object() {
                object.data = serde_json::json!({});
            }
            if let Some(data) = object.data.as_object_mut() {
                data.insert("status".to_owned(), status);
            }
            changed = true;
        }
        changed
    }
}

/// What makes a Secret of a pod without owners go with it: the status object, as the reference does it.
pub fn as_owner(pod: &Pod, class: &str, uid: String) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GROUP}/v1"),
        kind: "SecretProviderClassPodStatus".to_owned(),
        name: name(&pod.name, &pod.namespace, class),
        uid,
        ..OwnerReference::default()
    }
}

impl PodStatuses {
    /// Whether any pod of a namespace, on whatever node, mounts a class.
    ///
    /// # Errors
    /// [`kube::Error`]; then nobody knows.
    pub async fn any_of(&self, namespace: &str, class: &str) -> Result<bool, kube::Error> {
        let statuses: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind());
        let ending = format!("-{namespace}-{class}");
        let mut page = ListParams { limit: Some(500), ..ListParams::default() };
        loop {
            let list = statuses.list_metadata(&page).await?;
            // Of a name that was too long the end is not known.
            let counts = |name: &str| name.ends_with(&ending) || name.len() > LONGEST_NAME - 5;
            if list.items.iter().any(|status| status.metadata.name.as_deref().is_some_and(counts)) {
                return Ok(true);
            }
            page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if page.continue_token.is_none() {
                return Ok(false);
            }
        }
    }

    /// The UID of a status object, if there is one.
    ///
    /// # Errors
    /// [`StatusError::Call`].
    pub async fn uid(&self, pod: &Pod, class: &str) -> Result<Option<String>, StatusError> {
        let name = name(&pod.name, &pod.namespace, class);
        let statuses: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &pod.namespace, &kind());
        let found = statuses.get_metadata_opt(&name).await.map_err(|error| StatusError::Call {
            namespace: pod.namespace.clone(),
            name,
            step: "read",
            cause: said(&error),
            code: code(&error),
            cure: cure(&error),
        })?;
        Ok(found.and_then(|object| object.metadata.uid))
    }
}

impl StatusError {
    /// What those errors have in common that are about different objects and have one cause.
    pub fn sort(&self) -> String {
        match self {
            Self::NoUid { .. } => "no uid".to_owned(),
            Self::Call { step, code, .. } => format!("status {step} {code}"),
            Self::Contended { .. } => "status contended".to_owned(),
        }
    }

    /// Whether somebody has to do something before trying again can help: grant a right, install the CRD.
    pub fn stays(&self) -> bool {
        matches!(self, Self::NoUid { .. } | Self::Call { code: 403 | 404, .. })
    }
}

fn cure(error: &kube::Error) -> &'static str {
    match error {
        error if lacks_right(error) => {
            "; the driver's ClusterRole secretproviderclasses-role needs get, list, watch, create and update on \
             secretproviderclasspodstatuses"
        }
        kube::Error::Api(answer) if answer.is_not_found() => {
            "; is the CustomResourceDefinition secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io installed?"
        }
        _ => "",
    }
}

fn owner(pod: &Pod) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        ..OwnerReference::default()
    }
}

impl Status {
    /// The status of a mounted volume.
    pub fn of(pod: &Pod, class: &str, target: &str, objects: &[ObjectVersion]) -> Self {
        let mut objects: Vec<Object> = objects
            .iter()
            .map(|object| Object { id: object.id.clone(), version: object.version.clone() })
            .collect();
        objects.sort();
        Self {
            pod_name: pod.name.clone(),
            secret_provider_class_name: class.to_owned(),
            mounted: true,
            target_path: target.to_owned(),
            objects,
        }
    }

    /// Adds what another volume of the same pod shows of the same class: there is one object for both.
    pub fn add(&mut self, other: Self) {
        // The same one of the two each time, whoever is first.
        if other.target_path < self.target_path {
            self.target_path = other.target_path;
        }
        self.objects.extend(other.objects);
        self.objects.sort();
        self.objects.dedup();
    }
}

/// The name of a status object: `<pod>-<namespace>-<class>`, cut where that is longer than a name may be.
pub fn name(pod: &str, namespace: &str, class: &str) -> String {
    fitting(&format!("{pod}-{namespace}-{class}"), LONGEST_NAME)
}

/// `text`, or what fits of it with 32 hexadecimal digits of its SHA-256, so that two long ones stay different.
fn fitting(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let hash: String =
        digest(&SHA256, text.as_bytes()).as_ref().iter().take(16).fold(String::new(), |mut hex, byte| {
            use std::fmt::Write;
            let _ = write!(hex, "{byte:02x}");
            hex
        });
    let kept: String = text.chars().filter(char::is_ascii).take(longest - hash.len() - 1).collect();
    // A name's labels must not end with a dash, nor may a dash follow a dot.
    format!("{}-{hash}", kept.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()))
}

fn kind() -> ApiResource {
    ApiResource {
        plural: "secretproviderclasspodstatuses".to_owned(),
        ..ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", "SecretProviderClassPodStatus"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_the_references_as_long_as_they_fit() {
        assert_eq!(name("web-0", "shop", "kv"), "web-0-shop-kv");
        let (pod, namespace) = ("p".repeat(100), "n".repeat(51));
        assert_eq!(
            name(&pod, &namespace, &"c".repeat(100)),
            format!("{pod}-{namespace}-{}", "c".repeat(100))
        );
        let (long, other) =
            (name(&pod, &namespace, &"c".repeat(101)), name(&pod, &namespace, &"d".repeat(101)));
        assert_eq!(long.len(), LONGEST_NAME);
        assert_ne!(long, other);
        // Written down: a status object must be found again by the next version of the driver.
        assert_eq!(
            fitting(&"a".repeat(64), 63),
            format!("{}-ffe054fe7ae0cb6dc65c3af9b61d5209", "a".repeat(30))
        );
    }

    proptest! {
        #[test]
        fn every_name_and_label_is_valid(
            pod in "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?",
            namespace in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
            class in "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?",
        ) {
            let pod = pod.replace("..", ".a").replace(".-", "-").replace("-.", "-");
            let name = name(&pod, &namespace, &class);
            prop_assert!(name.len() <= LONGEST_NAME);
            prop_assert!(name.ends_with(|c: char| c.is_ascii_alphanumeric()));
            prop_assert!(!name.contains(".-") || pod.contains(".-") || class.contains(".-"));
            let label = fitting(&pod, LONGEST_LABEL);
            prop_assert!(label.len() <= LONGEST_LABEL && label.ends_with(|c: char| c.is_ascii_alphanumeric()));
        }
    }

    #[test]
    fn two_volumes_of_one_class_say_the_same_whoever_is_first() {
        let pod = Pod { name: "web".into(), ..Pod::default() };
        let object = |id: &str| ObjectVersion { id: id.into(), version: "1".into() };
        let a = Status::of(&pod, "kv", "/a", &[object("secret/y"), object("secret/x")]);
        let b = Status::of(&pod, "kv", "/b", &[object("secret/z"), object("secret/x")]);
        let (mut first, mut second) = (a.clone(), b.clone());
        first.add(b);
        second.add(a);
        assert_eq!(first, second);
        assert_eq!(first.target_path, "/a");
        assert_eq!(
            first.objects.iter().map(|object| object.id.as_str()).collect::<Vec<_>>(),
            ["secret/x", "secret/y", "secret/z"]
        );
    }
}
