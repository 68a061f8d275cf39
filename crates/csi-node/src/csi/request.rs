//! A publish request, checked and typed. No step after this one looks at a raw CSI message.

use crate::volume::TargetPath;
use proto::csi::{NodePublishVolumeRequest, volume_capability::AccessType};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::fmt;

/// The volume-context key, and from Kubernetes 1.35 on the secrets key, under which the kubelet sends tokens.
pub const TOKENS_KEY: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// Volume-context keys that belong to the kubelet. Pod authors cannot set them, whatever they write into
/// `volumeAttributes`: the kubelet overwrites them.
pub(crate) const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
pub(crate) const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
pub(crate) const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
pub(crate) const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
pub(crate) const CLASS: &str = "secretProviderClass";

/// The pod that a volume belongs to, as the kubelet tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// Namespace of the pod, its class and its service account.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Name of the pod's service account.
    pub service_account: String,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is wrong with a request itself, in the words of the reference. All of these are `InvalidArgument`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// `volume_capability` is not set.
    #[error("Volume capability missing in request")]
    NoCapability,
    /// `volume_id` is empty.
    #[error("Volume ID missing in request")]
    NoVolumeId,
    /// `target_path` is empty.
    #[error("Target path missing in request")]
    NoTargetPath,
    /// `volume_context` is empty.
    #[error(
        "Volume attributes missing in request: the CSIDriver object needs podInfoOnMount: true, and the pod's volume needs \
         volumeAttributes.secretProviderClass"
    )]
    NoAttributes,
    /// `target_path` cannot be a mount point.
    #[error("Target path {path:?} in request is invalid: {reason}")]
    TargetPath {
        /// The path as sent.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A block device was asked for.
    #[error("Volume capability in request asks for a block device; secrets can only be mounted as files")]
    Block,
    /// `volume_mount_group` is not a group id.
    #[error(
        "Volume mount group {0:?} in request is not a group id: write the pod's securityContext.fsGroup as a number"
    )]
    Group(String),
}

/// A publish call for one volume of one pod. Prints without tokens and secrets.
#[derive(Debug)]
pub struct PublishRequest {
    /// The kubelet's id of the volume.
    pub volume_id: String,
    /// Where the volume is to appear.
    pub target: TargetPath,
    /// Whose volume it is.
    pub pod: Pod,
    /// Name of the class, as the pod gives it; empty when it gives none.
    pub class: String,
    /// Whether the pod declares the volume read-only.
    pub read_only: bool,
    /// The pod's `fsGroup`.
    pub group: Option<u32>,
    /// Volume attributes that are not the kubelet's own: they win over parameters of the class.
    pub attributes: BTreeMap<String, String>,
    /// Service-account tokens, as JSON by audience.
    pub tokens: Option<SecretString>,
    /// Whether they came in the request's secrets, as from Kubernetes 1.35 on, and not in its volume context.
    pub tokens_in_secrets: bool,
    /// Whether the pod's `nodePublishSecretRef` names an application to sign in as.
    pub names_principal: bool,
    /// Data of the pod's `nodePublishSecretRef`, tokens excepted.
    pub secrets: BTreeMap<String, SecretString>,
}

impl PublishRequest {
    /// Checks and takes apart a raw request. The order of checks is the reference's, so that the same message comes first.
    ///
    /// # Errors
    /// The first thing that is wrong with the request.
    pub fn parse(request: NodePublishVolumeRequest) -> Result<Self, InvalidRequest> {
        let capability = request.volume_capability.ok_or(InvalidRequest::NoCapability)?;
        if request.volume_id.is_empty() {
            return Err(InvalidRequest::NoVolumeId);
        }
        let target = parse_target(&request.target_path)?;
        let mut attributes: BTreeMap<String, String> = request.volume_context.into_iter().collect();
        if attributes.is_empty() {
            return Err(InvalidRequest::NoAttributes);
        }
        let group = match capability.access_type {
            Some(AccessType::Block(_)) => return Err(InvalidRequest::Block),
            Some(AccessType::Mount(mount)) if !mount.volume_mount_group.is_empty() => {
                let group = mount
                    .volume_mount_group
                    .parse()
                    .map_err(|_| InvalidRequest::Group(mount.volume_mount_group))?;
                Some(group)
            }
            Some(AccessType::Mount(_)) | None => None,
        };

        let mut take =
            |key: &str| attributes.remove(key).map(|value| value.trim().to_owned()).unwrap_or_default();
        let pod = Pod {
            namespace: take(POD_NAMESPACE),
            name: take(POD_NAME),
            uid: take(POD_UID),
            service_account: take(SERVICE_ACCOUNT),
        };
        let class = attributes.get(CLASS).cloned().unwrap_or_default();

        let mut secrets: BTreeMap<String, SecretString> =
            request.secrets.into_iter().map(|(key, value)| (key, SecretString::from(value))).collect();
        // Where tokens come in `secrets`, a pod's author can still write the same key into volumeAttributes: what the
        // kubelet put into the secrets wins, always.
        let planted = attributes.remove(TOKENS_KEY).map(SecretString::from);
        let real = secrets.remove(TOKENS_KEY);
        let tokens_in_secrets = real.is_some();
        let tokens = real.or(planted);
        let names_principal = secrets
            .iter()
            .any(|(key, value)| key.eq_ignore_ascii_case("clientid") && !value.expose_secret().is_empty());

        Ok(Self {
            volume_id: request.volume_id,
            target,
            pod,
            class,
            read_only: request.readonly,
            group,
            attributes,
            tokens,
            tokens_in_secrets,
            names_principal,
            secrets,
        })
    }

    /// The volume context as the kubelet sent it, tokens included wherever they came from: what external providers are told.
    pub fn context(&self) -> impl Iterator<Item = (&str, &str)> {
        let pod = &self.pod;
        let own = [
            (POD_NAME, &pod.name),
            (POD_NAMESPACE, &pod.namespace),
            (POD_UID, &pod.uid),
            (SERVICE_ACCOUNT, &pod.service_account),
        ];
        let own = own.into_iter().filter(|(_, value)| !value.is_empty());
        let tokens = self.tokens.iter().map(|tokens| (TOKENS_KEY, tokens.expose_secret()));
        let attributes = self.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        attributes.chain(own.map(|(key, value)| (key, value.as_str()))).chain(tokens)
    }

    /// The secrets as the kubelet sent them: what external providers are told.
    pub fn raw_secrets(&self) -> impl Iterator<Item = (&str, &str)> {
        let tokens = self.tokens.iter().filter(|_| self.tokens_in_secrets);
        let secrets = self.secrets.iter().map(|(key, value)| (key.as_str(), value.expose_secret()));
        secrets.chain(tokens.map(|tokens| (TOKENS_KEY, tokens.expose_secret())))
    }
    /// The same request without what must not be kept: tokens and secrets.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        Self {
            volume_id: self.volume_id.clone(),
            target: self.target.clone(),
            pod: self.pod.clone(),
            class: self.class.clone(),
            read_only: self.read_only,
            group: self.group,
            attributes: self.attributes.clone(),
            tokens: None,
            tokens_in_secrets: self.tokens_in_secrets,
            names_principal: self.names_principal,
            secrets: BTreeMap::new(),
        }
    }
}

/// Checks the target path of a request.
///
/// # Errors
/// [`InvalidRequest::NoTargetPath`] and [`InvalidRequest::TargetPath`].
pub fn parse_target(path: &str) -> Result<TargetPath, InvalidRequest> {
    if path.is_empty() {
        return Err(InvalidRequest::NoTargetPath);
    }
    TargetPath::parse(path)
        .map_err(|error| InvalidRequest::TargetPath { path: path.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::csi::{VolumeCapability, volume_capability::MountVolume};

    fn capability(group: &str) -> VolumeCapability {
        let mount = MountVolume { volume_mount_group: group.to_owned(), ..MountVolume::default() };
        VolumeCapability { access_type: Some(AccessType::Mount(mount)), access_mode: None }
    }

    fn request() -> NodePublishVolumeRequest {
        let context = [
            (CLASS, "kv"),
            (POD_NAME, "web"),
            (POD_NAMESPACE, "shop"),
            (POD_UID, "u1"),
            (SERVICE_ACCOUNT, "web-sa"),
            ("keyvaultName", "other"),
        ];
        NodePublishVolumeRequest {
            volume_id: "csi-1".into(),
            target_path: "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/s/mount".into(),
            volume_capability: Some(capability("")),
            readonly: true,
            volume_context: context.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..NodePublishVolumeRequest::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut NodePublishVolumeRequest)) -> String {
        let mut request = request();
        change(&mut request);
        PublishRequest::parse(request).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_request_is_taken_apart() {
        let parsed = PublishRequest::parse(request()).ok().unwrap();
        assert_eq!(parsed.pod.to_string(), "shop/web");
        assert_eq!((parsed.class.as_str(), parsed.pod.service_account.as_str()), ("kv", "web-sa"));
        assert_eq!(parsed.attributes.get("keyvaultName").map(String::as_str), Some("other"));
        assert!(parsed.secrets.is_empty() && parsed.tokens.is_none() && parsed.group.is_none());
    }

    #[test]
    fn each_missing_part_has_the_references_message() {
        assert_eq!(refusal(|r| r.volume_capability = None), "Volume capability missing in request");
        assert_eq!(refusal(|r| r.volume_id.clear()), "Volume ID missing in request");
        assert_eq!(refusal(|r| r.target_path.clear()), "Target path missing in request");
        assert!(refusal(|r| r.volume_context.clear()).starts_with("Volume attributes missing in request"));
        assert!(refusal(|r| r.target_path = "relative".into()).contains("\"relative\""));
        assert!(refusal(|r| r.volume_capability = Some(capability("staff"))).contains("\"staff\""));
    }

    #[test]
    fn tokens_in_secrets_win_over_what_a_pod_author_planted() {
        let mut raw = request();
        raw.volume_context.insert(TOKENS_KEY.into(), "planted".into());
        raw.secrets.insert(TOKENS_KEY.into(), "real".into());
        let parsed = PublishRequest::parse(raw).ok().unwrap();
        assert_eq!(parsed.tokens.as_ref().map(ExposeSecret::expose_secret), Some("real"));
        assert!(!parsed.attributes.contains_key(TOKENS_KEY));
        assert!(parsed.secrets.is_empty());
        assert!(parsed.context().any(|pair| pair == (TOKENS_KEY, "real")));
        assert!(parsed.raw_secrets().eq([(TOKENS_KEY, "real")]));
    }

    #[test]
    fn external_providers_are_told_the_context_as_it_came() {
        let mut raw = request();
        raw.volume_context.insert(TOKENS_KEY.into(), "tokens".into());
        let parsed = PublishRequest::parse(raw.clone()).ok().unwrap();
        let told: std::collections::HashMap<String, String> =
            parsed.context().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        assert_eq!(told, raw.volume_context);
        assert_eq!(parsed.raw_secrets().count(), 0);
    }
}
