//! Kubernetes objects read from plain YAML: pods with their inline CSI volumes, service accounts and Secrets.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Namespace and name of a pod; `"busybox"` means `default/busybox`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
}

impl From<&str> for PodName {
    fn from(text: &str) -> Self {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl From<&PodName> for PodName {
    fn from(name: &PodName) -> Self {
        name.clone()
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A CSI driver's name: a DNS name, at most 63 characters (CSI specification, `GetPluginInfo`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriverName(String);

impl DriverName {
    /// # Errors
    /// [`Error::InvalidName`] if `name` is not a DNS name of at most 63 characters.
    pub fn new(name: &str) -> Result<Self, Error> {
        let cure = "letters, digits, '-' and '.', at most 63";
        checked("CSI driver", name, 63, &['-', '.'], true, cure).map(Self)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pod as far as the kubelet's volume manager knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: PodName,
    /// `metadata.uid`, where the manifest gives one. It becomes part of paths, so it holds letters, digits and `-` only.
    pub uid: Option<String>,
    /// `spec.serviceAccountName`, `default` where not given.
    pub service_account: String,
    /// `spec.securityContext.fsGroup`.
    pub fs_group: Option<u32>,
    /// Whether the manifest carries a `deletionTimestamp`: such a pod's volumes are not published any more.
    pub terminating: bool,
    /// The inline CSI volumes, in the manifest's order. Volumes of other kinds are left out.
    pub volumes: Vec<CsiVolume>,
}

/// One inline CSI volume of a pod (`spec.volumes[].csi`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsiVolume {
    /// The volume's name within the pod, a DNS label.
    pub name: String,
    /// `driver`.
    pub driver: DriverName,
    /// `readOnly`, false where not given.
    pub read_only: bool,
    /// `fsType`, empty where not given.
    pub fs_type: String,
    /// `volumeAttributes`.
    pub attributes: BTreeMap<String, String>,
    /// `nodePublishSecretRef.name`: a Secret in the pod's namespace.
    pub publish_secret: Option<String>,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    pub namespace: String,
    pub name: String,
    pub uid: Option<String>,
}

/// A Secret's data.
pub(crate) struct Secret {
    pub namespace: String,
    pub name: String,
    pub data: BTreeMap<String, SecretString>,
}

/// Everything of one YAML text that concerns the kubelet.
#[derive(Default)]
pub(crate) struct Manifest {
    pub pods: Vec<Pod>,
    pub service_accounts: Vec<ServiceAccount>,
    pub secrets: Vec<Secret>,
}

impl Manifest {
    /// Reads pods, service accounts and Secrets; other kinds are passed over.
    pub(crate) fn from_yaml(yaml: &str) -> Result<Self, Error> {
        let mut manifest = Self::default();
        for document in documents(yaml)? {
            if document.is("Pod", "v1") {
                manifest.pods.push(pod(document.parse()?)?);
            } else if document.is("ServiceAccount", "v1") {
                let ServiceAccountObject { metadata } = document.parse()?;
                let name = dns_name("service account", &metadata.name)?;
                let namespace = metadata.namespace()?;
                manifest.service_accounts.push(ServiceAccount { namespace, name, uid: metadata.uid()? });
            } else if document.is("Secret", "v1") {
                manifest.secrets.push(secret(document.parse()?)?);
            }
        }
        Ok(manifest)
    }
}

fn pod(object: PodObject) -> Result<Pod, Error> {
    let PodObject { metadata, spec } = object;
    let name = PodName { namespace: metadata.namespace()?, name: dns_name("pod", &metadata.name)? };
    let mut volumes: Vec<CsiVolume> = Vec::new();
    for volume in spec.volumes {
        let volume_name = dns_label("volume", &volume.name)?;
        let Some(csi) = volume.csi else { continue };
        if volumes.iter().any(|other| other.name == volume_name) {
            return Err(Error::Manifest(format!("pod {name}: two volumes are named {volume_name:?}")));
        }
        volumes.push(CsiVolume {
            name: volume_name,
            driver: DriverName::new(&csi.driver)?,
            read_only: csi.read_only.unwrap_or(false),
            fs_type: csi.fs_type.unwrap_or_default(),
            attributes: csi.volume_attributes.unwrap_or_default(),
            publish_secret: csi.node_publish_secret_ref.map(|reference| reference.name),
        });
    }
    let service_account = spec
        .service_account_name
        .or(spec.service_account)
        .filter(|s| !s.is_empty())
        .unwrap_or_else(|| "default".into());
    Ok(Pod {
        name,
        uid: metadata.uid()?,
        service_account: dns_name("service account", &service_account)?,
        fs_group: spec.security_context.and_then(|context| context.fs_group),
        terminating: metadata.deletion_timestamp.is_some(),
        volumes,
    })
}

fn secret(object: SecretObject) -> Result<Secret, Error> {
    let SecretObject { metadata, data, string_data } = object;
    let (namespace, name) = (metadata.namespace()?, dns_name("Secret", &metadata.name)?);
    let refuse = |key: &str, why| Error::Manifest(format!("Secret {namespace}/{name}: data[{key:?}] {why}"));
    let mut decoded = BTreeMap::new();
    for (key, value) in data.unwrap_or_default() {
        // Line breaks come from block scalars and are no part of the encoding.
        let compact: String = value.split_whitespace().collect();
        let bytes = STANDARD.decode(compact).map_err(|_| refuse(&key, "is not base64"))?;
        // The kubelet passes Secret values in a protobuf string, which has to be UTF-8.
        let text = String::from_utf8(bytes)
            .map_err(|_| refuse(&key, "is not UTF-8 and cannot be passed to a driver"))?;
        decoded.insert(key, SecretString::from(text));
    }
    decoded.extend(
        string_data.unwrap_or_default().into_iter().map(|(key, value)| (key, SecretString::from(value))),
    );
    Ok(Secret { namespace, name, data: decoded })
}

/// One document of a YAML text.
pub(crate) struct Document(serde_json::Value);

impl Document {
    /// Whether it is of this kind and of an API version that begins with `api_version`.
    pub(crate) fn is(&self, kind: &str, api_version: &str) -> bool {
        self.0["kind"] == kind
            && self.0["apiVersion"].as_str().is_some_and(|version| version.starts_with(api_version))
    }

    pub(crate) fn parse<T: DeserializeOwned>(self) -> Result<T, Error> {
        let kind = self.0["kind"].as_str().unwrap_or("object").to_owned();
        let name = self.0["metadata"]["name"].as_str().unwrap_or("without a name").to_owned();
        serde_json::from_value(self.0).map_err(|error| {
            // serde_json quotes offending values in its message, and a Secret's values are not for anyone's eyes.
            let reason = if kind == "Secret" {
                Cow::from("data and stringData must map keys to text")
            } else {
                Cow::from(error.to_string())
            };
            Error::Manifest(format!("{kind} {name}: {reason}"))
        })
    }
}

/// The documents of a YAML text; empty ones are passed over.
pub(crate) fn documents(yaml: &str) -> Result<Vec<Document>, Error> {
    let values: Vec<serde_json::Value> = serde_saphyr::from_multiple(yaml)
        .map_err(|error| Error::Manifest(format!("malformed YAML: {error}")))?;
    Ok(values.into_iter().filter(|value| !value.is_null()).map(Document).collect())
}

/// A DNS subdomain name, as most objects are named.
fn dns_name(what: &'static str, name: &str) -> Result<String, Error> {
    checked(what, name, 253, &['-', '.'], false, "lower-case letters, digits, '-' and '.', at most 253")
}

/// A DNS label, as namespaces and volumes are named.
fn dns_label(what: &'static str, name: &str) -> Result<String, Error> {
    checked(what, name, 63, &['-'], false, "lower-case letters, digits and '-', at most 63")
}

fn checked(
    what: &'static str,
    name: &str,
    longest: usize,
    inner: &[char],
    upper_case: bool,
    cure: &'static str,
) -> Result<String, Error> {
    let alphanumeric =
        |c: char| c.is_ascii_digit() || c.is_ascii_lowercase() || (upper_case && c.is_ascii_uppercase());
    let valid = (1..=longest).contains(&name.len())
        && name.chars().all(|c| alphanumeric(c) || inner.contains(&c))
        && name.starts_with(alphanumeric)
        && name.ends_with(alphanumeric);
    if valid { Ok(name.to_owned()) } else { Err(Error::InvalidName { what, name: name.to_owned(), cure }) }
}

/// `metadata`, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) name: String,
    namespace: Option<String>,
    uid: Option<String>,
    deletion_timestamp: Option<String>,
}

impl Metadata {
    fn namespace(&self) -> Result<String, Error> {
        self.namespace
            .as_deref()
            .map_or(Ok("default".to_owned()), |namespace| dns_label("namespace", namespace))
    }

    fn uid(&self) -> Result<Option<String>, Error> {
        let cure = "letters, digits and '-', at most 63";
        self.uid.as_deref().map(|uid| checked("uid", uid, 63, &['-'], true, cure)).transpose()
    }
}

#[derive(Deserialize)]
struct PodObject {
    metadata: Metadata,
    spec: PodSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    service_account_name: Option<String>,
    service_account: Option<String>,
    security_context: Option<PodSecurityContext>,
    #[serde(default)]
    volumes: Vec<VolumeSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSecurityContext {
    fs_group: Option<u32>,
}

#[derive(Deserialize)]
struct VolumeSpec {
    name: String,
    csi: Option<CsiVolumeSource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CsiVolumeSource {
    driver: String,
    read_only: Option<bool>,
    fs_type: Option<String>,
    volume_attributes: Option<BTreeMap<String, String>>,
    node_publish_secret_ref: Option<LocalObjectReference>,
}

#[derive(Deserialize)]
struct LocalObjectReference {
    name: String,
}

#[derive(Deserialize)]
struct ServiceAccountObject {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretObject {
    metadata: Metadata,
    data: Option<BTreeMap<String, String>>,
    string_data: Option<BTreeMap<String, String>>,
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::*;

    const BUSYBOX: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: busybox
  labels: {azure.workload.identity/use: "true"}
spec:
  serviceAccountName: workload-identity-sa
  securityContext: {fsGroup: 2000}
  containers:
    - {name: busybox, image: "busybox:1.29", command: ["/bin/sleep", "10000"]}
  volumes:
    - name: scratch
      emptyDir: {}
    - name: secrets-store01-inline
      csi:
        driver: secrets-store.csi.k8s.io
        readOnly: true
        volumeAttributes: {secretProviderClass: azure-kvname-wi, quoted: "true"}
        nodePublishSecretRef: {name: creds}
"#;

    #[test]
    fn reads_the_csi_volumes_of_a_pod() {
        let manifest = Manifest::from_yaml(BUSYBOX).unwrap();
        let attributes = [("secretProviderClass", "azure-kvname-wi"), ("quoted", "true")];
        assert_eq!(
            manifest.pods,
            [Pod {
                name: "default/busybox".into(),
                uid: None,
                service_account: "workload-identity-sa".into(),
                fs_group: Some(2000),
                terminating: false,
                volumes: vec![CsiVolume {
                    name: "secrets-store01-inline".into(),
                    driver: DriverName::new("secrets-store.csi.k8s.io").unwrap(),
                    read_only: true,
                    fs_type: String::new(),
                    attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
                    publish_secret: Some("creds".into()),
                }],
            }]
        );
    }

    #[test]
    fn reads_several_documents_and_passes_over_other_kinds() {
        let yaml = "
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: app, namespace: prod, uid: 5ee1}
---
# nothing here
---
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: x}
---
apiVersion: v1
kind: Secret
metadata: {name: creds}
data:
  clientid: |
    YWJj
    ZGVm
stringData: {clientsecret: s3cret}
";
        let manifest = Manifest::from_yaml(yaml).unwrap();
        assert!(manifest.pods.is_empty());
        let account =
            ServiceAccount { namespace: "prod".into(), name: "app".into(), uid: Some("5ee1".into()) };
        assert_eq!(manifest.service_accounts, [account]);
        let data = &manifest.secrets[0].data;
        assert_eq!(data["clientid"].expose_secret(), "abcdef");
        assert_eq!(data["clientsecret"].expose_secret(), "s3cret");
    }

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for (from, to) in [
            ("name: busybox\n", "name: ../busybox\n"),
            ("name: busybox\n", "name: busybox\n  uid: ../../etc\n"),
            ("name: busybox\n", "name: busybox\n  namespace: a/b\n"),
            ("name: secrets-store01-inline", "name: .."),
            ("driver: secrets-store.csi.k8s.io", "driver: a/b"),
            ("serviceAccountName: workload-identity-sa", "serviceAccountName: a:b"),
        ] {
            let yaml = BUSYBOX.replace(from, to);
            assert_ne!(yaml, BUSYBOX);
            assert!(matches!(Manifest::from_yaml(&yaml), Err(Error::InvalidName { .. })), "{to}");
        }
    }

    #[test]
    fn malformed_manifests_are_refused_without_showing_secrets() {
        for yaml in [
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: hush-not-base64!}",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: [hush]}",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: hush",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: /w==}",
        ] {
            let error = Manifest::from_yaml(yaml).err().unwrap().to_string();
            assert!(error.contains("Secret ") && !error.contains("hush"), "{error}");
        }
        assert!(Manifest::from_yaml("a: [").is_err());
        let twice = BUSYBOX.replace(
            "name: scratch\n      emptyDir: {}",
            "name: secrets-store01-inline\n      csi: {driver: d.x}",
        );
        assert!(Manifest::from_yaml(&twice).err().unwrap().to_string().contains("two volumes"));
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_one_component_of_a_path(name in ".{0,70}|[a-z./-]{1,70}") {
            let accepted = [
                dns_name("pod", &name).ok(),
                dns_label("volume", &name).ok(),
                DriverName::new(&name).ok().map(|name| name.as_str().to_owned()),
            ];
            for accepted in accepted.into_iter().flatten() {
                let components: Vec<_> = Path::new(&accepted).components().collect();
                prop_assert_eq!(components, [Component::Normal(name.as_ref())]);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}", key in "[a-z]{1,8}", value in ".{0,20}") {
            let _ = Manifest::from_yaml(&text);
            let _ = Manifest::from_yaml(&BUSYBOX.replace("name: busybox\n", &format!("{key}: {value}\n")));
        }
    }
}
