//! The `CSIDriver` object: how the kubelet is to treat a driver.

use serde::Deserialize;

use crate::error::Error;
use crate::manifest::{self, DriverName};

/// What the kubelet reads of a driver's `storage.k8s.io/v1` `CSIDriver` object. The field docs name the fields of its `spec`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are the API object's own fields, independent of each other"
)]
pub struct CsiDriver {
    /// `metadata.name`: the driver's name, as it registers itself and as pods write it.
    pub name: DriverName,
    /// `podInfoOnMount`: tell the driver which pod it mounts for.
    pub pod_info_on_mount: bool,
    /// `requiresRepublish`: publish mounted volumes again and again.
    pub requires_republish: bool,
    /// `tokenRequests`: service-account tokens to hand to the driver with each publish.
    pub token_requests: Vec<TokenRequest>,
    /// `serviceAccountTokenInSecrets`: hand the tokens over in the request's secrets, not in its volume context.
    pub service_account_token_in_secrets: bool,
    /// `fsGroupPolicy`.
    pub fs_group_policy: FsGroupPolicy,
    /// Whether `volumeLifecycleModes` lists `Ephemeral`: pods may use the driver inline.
    pub ephemeral: bool,
}

/// One entry of `tokenRequests`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRequest {
    /// The token's audience; empty asks for the issuer's own.
    pub audience: String,
    /// Lifetime of the token in seconds, at least 600; 3600 where not given.
    pub expiration_seconds: Option<u64>,
}

impl TokenRequest {
    /// A request for a token of the usual lifetime, one hour.
    pub fn new(audience: impl Into<String>) -> Self {
        Self { audience: audience.into(), expiration_seconds: None }
    }
}

/// When the kubelet itself gives a volume's files to the pod's `fsGroup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum FsGroupPolicy {
    /// Only for volumes with a file-system type; the default. A read-only volume is never changed.
    #[default]
    #[serde(rename = "ReadWriteOnceWithFSType")]
    ReadWriteOnceWithFsType,
    /// For every writable volume.
    File,
    /// Never.
    None,
}

impl CsiDriver {
    /// A driver for inline volumes with everything else left at the API's defaults.
    ///
    /// # Errors
    /// [`Error::InvalidName`] unless `name` is a DNS name of at most 63 characters.
    pub fn inline(name: &str) -> Result<Self, Error> {
        Ok(Self {
            name: DriverName::new(name)?,
            pod_info_on_mount: false,
            requires_republish: false,
            token_requests: Vec::new(),
            service_account_token_in_secrets: false,
            fs_group_policy: FsGroupPolicy::default(),
            ephemeral: true,
        })
    }

    /// Every `CSIDriver` of a YAML text of one or more documents; other kinds are passed over.
    ///
    /// # Errors
    /// [`Error::Manifest`] for malformed YAML and for what the API server would refuse: a lifetime below 600 s or above 2³²
    /// seconds, an audience named twice, `serviceAccountTokenInSecrets` without `tokenRequests`.
    pub fn from_yaml(yaml: &str) -> Result<Vec<Self>, Error> {
        manifest::documents(yaml)?
            .into_iter()
            .filter(|document| document.is("CSIDriver", "storage.k8s.io/"))
            .map(|document| Self::from_object(document.parse()?))
            .collect()
    }

    fn from_object(object: CsiDriverObject) -> Result<Self, Error> {
        let CsiDriverObject { metadata, spec } = object;
        let refuse = |why: String| Error::Manifest(format!("CSIDriver {}: {why}", metadata.name));
        for (i, request) in spec.token_requests.iter().enumerate() {
            if request.expiration_seconds.is_some_and(|s| !(600..=1 << 32).contains(&s)) {
                return Err(refuse(format!(
                    "spec.tokenRequests[{i}].expirationSeconds must be between 600 and 4294967296"
                )));
            }
            if spec.token_requests[..i].iter().any(|other| other.audience == request.audience) {
                return Err(refuse(format!(
                    "spec.tokenRequests[{i}].audience {:?} is listed twice",
                    request.audience
                )));
            }
        }
        if spec.service_account_token_in_secrets.is_some() && spec.token_requests.is_empty() {
            return Err(refuse("spec.serviceAccountTokenInSecrets needs spec.tokenRequests".to_owned()));
        }
        Ok(Self {
            name: DriverName::new(&metadata.name)?,
            pod_info_on_mount: spec.pod_info_on_mount,
            requires_republish: spec.requires_republish,
            token_requests: spec.token_requests,
            service_account_token_in_secrets: spec.service_account_token_in_secrets.unwrap_or(false),
            fs_group_policy: spec.fs_group_policy,
            ephemeral: spec.volume_lifecycle_modes.iter().any(|mode| mode == "Ephemeral"),
        })
    }
}

#[derive(Deserialize)]
struct CsiDriverObject {
    metadata: manifest::Metadata,
    spec: CsiDriverSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CsiDriverSpec {
    #[serde(default)]
    pod_info_on_mount: bool,
    #[serde(default)]
    requires_republish: bool,
    #[serde(default)]
    token_requests: Vec<TokenRequest>,
    service_account_token_in_secrets: Option<bool>,
    #[serde(default)]
    fs_group_policy: FsGroupPolicy,
    #[serde(default)]
    volume_lifecycle_modes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRETS_STORE: &str = "
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata:
  name: secrets-store.csi.k8s.io
spec:
  podInfoOnMount: true
  attachRequired: false
  requiresRepublish: true
  serviceAccountTokenInSecrets: true
  volumeLifecycleModes: [Ephemeral]
  tokenRequests:
    - audience: api://AzureADTokenExchange
    - audience: other
      expirationSeconds: 600
";

    #[test]
    fn reads_the_fields_the_kubelet_heeds() {
        let drivers =
            CsiDriver::from_yaml(&format!("kind: Namespace\napiVersion: v1\n---\n{SECRETS_STORE}")).unwrap();
        assert_eq!(
            drivers,
            [CsiDriver {
                pod_info_on_mount: true,
                requires_republish: true,
                token_requests: vec![
                    TokenRequest::new("api://AzureADTokenExchange"),
                    TokenRequest { audience: "other".into(), expiration_seconds: Some(600) },
                ],
                service_account_token_in_secrets: true,
                ..CsiDriver::inline("secrets-store.csi.k8s.io").unwrap()
            }]
        );
    }

    #[test]
    fn a_driver_is_persistent_only_unless_it_says_ephemeral() {
        let yaml = "{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: d.example}, spec: {}}";
        assert!(!CsiDriver::from_yaml(yaml).unwrap()[0].ephemeral);
    }

    #[test]
    fn refuses_what_the_api_server_refuses() {
        for (from, to, message) in [
            (
                "expirationSeconds: 600",
                "expirationSeconds: 599",
                "tokenRequests[1].expirationSeconds must be between 600",
            ),
            ("audience: other", "audience: api://AzureADTokenExchange", "tokenRequests[1].audience"),
            ("name: secrets-store.csi.k8s.io", "name: ../escape", "../escape"),
        ] {
            let error = CsiDriver::from_yaml(&SECRETS_STORE.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let yaml = "{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: d.example},
                     spec: {serviceAccountTokenInSecrets: true}}";
        assert!(CsiDriver::from_yaml(yaml).unwrap_err().to_string().contains("needs spec.tokenRequests"));
    }
}
