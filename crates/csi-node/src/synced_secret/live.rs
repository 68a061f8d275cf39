//! Secrets as the API server has them, and the four requests made about them.

use super::desired::{Desired, MadeFrom};
use super::{FIELD_MANAGER, MADE_FROM, MANAGED_LABEL};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{GetParams, Patch, PatchParams, PostParams};
use kube::core::Request;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// Managers under whose names the reference's writes are recorded.
const REFERENCE_MANAGERS: [&str; 3] = ["csi-secrets-store", "secrets-store-csi-driver", "secrets-store-csi"];

/// A Secret, with values in base64. Read into a type of its own, because the usual one leaves its values in memory.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Live {
    pub(super) metadata: Metadata,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(deserialize_with = "wiped")]
    pub(super) data: BTreeMap<String, Zeroizing<String>>,
    pub(super) immutable: Option<bool>,
}

fn wiped<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<String, Zeroizing<String>>, D::Error> {
    let data: Option<BTreeMap<String, String>> = Option::deserialize(input)?;
    Ok(data.unwrap_or_default().into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect())
}

/// Metadata, as far as it matters here.
#[derive(Deserialize, Default, Debug, Clone)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
    pub(super) owner_references: Option<Vec<OwnerReference>>,
    pub(super) finalizers: Option<Vec<String>>,
    pub(super) deletion_timestamp: Option<String>,
    pub(super) managed_fields: Option<Vec<Managed>>,
}

/// Which fields one manager wrote last.
#[derive(Deserialize, Default, Debug, Clone)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Managed {
    pub(super) manager: String,
    pub(super) time: Option<String>,
    #[serde(rename = "fieldsV1")]
    pub(super) fields: serde_json::Value,
}

/// A map of a Secret that is compared entry by entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Data,
    Labels,
    Annotations,
}

/// Who wrote an entry last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// This driver, on whatever node.
    Ours,
    /// The Secrets Store CSI Driver.
    Reference,
    /// Somebody else, or nobody knows.
    Other,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

impl Live {
    pub(super) fn is_managed(&self) -> bool {
        self.entries(Place::Labels).contains(&(MANAGED_LABEL, "true"))
    }

    pub(super) fn entries(&self, place: Place) -> Vec<(&str, &str)> {
        let texts = match place {
            Place::Data => {
                return self.data.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            }
            Place::Labels => &self.metadata.labels,
            Place::Annotations => &self.metadata.annotations,
        };
        texts.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    /// Which class it was made from last; `None` if the reference has made it, or an earlier version of this driver.
    pub(super) fn made_from(&self) -> Option<MadeFrom> {
        self.metadata.annotations.as_ref()?.get(MADE_FROM).and_then(|text| MadeFrom::parse(text))
    }

    pub(super) fn owners(&self) -> &[OwnerReference] {
        self.metadata.owner_references.as_deref().unwrap_or_default()
    }

    /// Who wrote an entry last. Ours, if we did and others have only written the same.
    pub(super) fn writer(&self, place: Place, key: &str) -> Writer {
        let path: &[&str] = match place {
            Place::Data => &["f:data"],
            Place::Labels => &["f:metadata", "f:labels"],
            Place::Annotations => &["f:metadata", "f:annotations"],
        };
        let key = format!("f:{key}");
        let owns = |managed: &Managed| {
            let map = path.iter().try_fold(&managed.fields, |fields, name| fields.get(name));
            map.is_some_and(|map| map.get(&key).is_some())
        };
        let mut writer = Writer::Other;
        for managed in self.metadata.managed_fields.iter().flatten().filter(|managed| owns(managed)) {
            if managed.manager == FIELD_MANAGER {
                return Writer::Ours;
            }
            if REFERENCE_MANAGERS.contains(&managed.manager.as_str()) {
                writer = Writer::Reference;
            }
        }
        writer
    }
}

impl Metadata {
    /// When this driver, on whatever node, last wrote or removed something. The API server does not count it when others
    /// take something away from us.
    pub(super) fn written(&self) -> Option<&str> {
        let ours = self.managed_fields.iter().flatten().filter(|managed| managed.manager == FIELD_MANAGER);
        ours.filter_map(|managed| managed.time.as_deref()).max()
    }
}

/// What is to be changed of a Secret; `None` takes an entry away. A JSON merge patch.
#[derive(Serialize, Default)]
pub(super) struct Change<'a> {
    pub(super) metadata: MetadataChange<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) data: BTreeMap<&'a str, Option<&'a str>>,
}

/// The part of a [`Change`] about metadata.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetadataChange<'a> {
    /// The version that was looked at: the API server refuses the change if there is a newer one.
    pub(super) resource_version: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<&'a str, Option<&'a str>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<&'a str, Option<&'a str>>,
    /// All of them: a merge patch replaces lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) owner_references: Option<Vec<&'a OwnerReference>>,
}

/// The Secrets of the API server.
///
/// Needs the RBAC rule `secrets: [get, create, patch]`.
#[derive(Clone)]
pub(super) struct Secrets {
    client: Client,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MetadataOnly {
    metadata: Metadata,
}

impl Secrets {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    fn requests(namespace: &str) -> Request {
        Request::new(format!("/api/v1/namespaces/{namespace}/secrets"))
    }

    pub(super) async fn get(&self, namespace: &str, name: &str) -> Result<Option<Live>, kube::Error> {
        let request = Self::requests(namespace).get(name, &GetParams::default());
        found(self.client.request(request.map_err(kube::Error::BuildRequest)?).await)
    }

    pub(super) async fn get_metadata(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Metadata>, kube::Error> {
        let request = Self::requests(namespace).get_metadata(name, &GetParams::default());
        let answer = self.client.request(request.map_err(kube::Error::BuildRequest)?).await;
        Ok(found::<MetadataOnly>(answer)?.map(|object| object.metadata))
    }

    /// Creates a Secret that is not there.
    pub(super) async fn create(
        &self,
        namespace: &str,
        desired: &Desired,
        made_from: &str,
        owners: &[OwnerReference],
    ) -> Result<Metadata, kube::Error> {
        #[derive(Serialize)]
        struct Secret<'a> {
            #[serde(rename = "apiVersion")]
            api_version: &'a str,
            kind: &'a str,
            metadata: SecretMetadata<'a>,
            r#type: &'a str,
            data: BTreeMap<&'a str, &'a str>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct SecretMetadata<'a> {
            name: &'a str,
            namespace: &'a str,
            labels: &'a BTreeMap<String, String>,
            annotations: BTreeMap<&'a str, &'a str>,
            owner_references: &'a [OwnerReference],
        }
        let texts = desired.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let secret = Secret {
            api_version: "v1",
            kind: "Secret",
            metadata: SecretMetadata {
                name: &desired.name,
                namespace,
                labels: &desired.labels,
                annotations: texts.chain([(MADE_FROM, made_from)]).collect(),
                owner_references: owners,
            },
            r#type: &desired.kind,
            data: desired.data.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        };
        let parameters =
            PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let body = serde_json::to_vec(&secret).map_err(kube::Error::SerdeError)?;
        let request = Self::requests(namespace).create(&parameters, body);
        let created: MetadataOnly = self.client.request(request.map_err(kube::Error::BuildRequest)?).await?;
        Ok(created.metadata)
    }

    /// Changes a Secret, unless it has changed since it was looked at.
    pub(super) async fn change(
        &self,
        namespace: &str,
        name: &str,
        change: &Change<'_>,
    ) -> Result<Metadata, kube::Error> {
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let request = Self::requests(namespace).patch_metadata(name, &parameters, &Patch::Merge(change));
        let changed: MetadataOnly = self.client.request(request.map_err(kube::Error::BuildRequest)?).await?;
        Ok(changed.metadata)
    }
}

fn found<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
