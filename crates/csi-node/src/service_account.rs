//! The service account of a pod, as far as Azure is concerned: the annotations that the workload identity webhook reads, too.

use crate::manifests::{self, Wanted};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::Api;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

const CLIENT_ID: &str = "azure.workload.identity/client-id";
const TENANT_ID: &str = "azure.workload.identity/tenant-id";

/// What a service account says about its Azure identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// `azure.workload.identity/client-id`, unless blank.
    pub client_id: Option<String>,
    /// `azure.workload.identity/tenant-id`, unless blank.
    pub tenant_id: Option<String>,
}

/// Where service accounts come from.
#[derive(Clone)]
pub enum ServiceAccounts {
    /// YAML files in a folder: standalone mode.
    Folder(Arc<manifests::Folder>),
    /// The Kubernetes API server. Needs the RBAC rule `serviceaccounts: [get]`.
    ApiServer(kube::Client),
}

#[derive(Debug, Default, Deserialize)]
struct Document {
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl ServiceAccounts {
    /// Reads a service account's annotations. One that is not there has none.
    ///
    /// # Errors
    /// Why the service account could not be read, for the log: a class that says everything itself mounts all the same.
    pub async fn annotations(&self, namespace: &str, name: &str) -> Result<Annotations, String> {
        let found = match self {
            Self::Folder(folder) => {
                let seen = folder.look().await.map_err(|error| error.to_string())?;
                let found = seen.find(Wanted { group: "", kind: "ServiceAccount", namespace, name });
                let parse = |(_, document): (_, Arc<str>)| serde_saphyr::from_str::<Document>(&document);
                let document = found.documents.into_iter().next().map(parse).transpose();
                let document = document.map_err(|error| error.to_string())?;
                document.and_then(|document| document.metadata?.annotations)
            }
            Self::ApiServer(client) => {
                let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
                let account =
                    accounts.get_opt(name).await.map_err(|error| crate::kubernetes::said(&error))?;
                account.and_then(|account| account.metadata.annotations)
            }
        };
        Ok(Annotations::of(&found.unwrap_or_default()))
    }
}

impl Annotations {
    /// What these annotations say.
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let get = |key: &str| {
            annotations.get(key).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        Self { client_id: get(CLIENT_ID), tenant_id: get(TENANT_ID) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn annotations_are_found_beside_classes() {
        let folder = tempfile::tempdir().unwrap();
        let text = "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: web\n  annotations:\n    \
                    azure.workload.identity/client-id: ' c-1 '\n    azure.workload.identity/tenant-id: ''\n";
        std::fs::write(folder.path().join("sa.yaml"), text).unwrap();
        let accounts = ServiceAccounts::Folder(Arc::new(manifests::Folder::new(folder.path().to_owned())));
        let expected = Annotations { client_id: Some("c-1".into()), tenant_id: None };
        assert_eq!(accounts.annotations("default", "web").await, Ok(expected));
        assert_eq!(accounts.annotations("default", "other").await, Ok(Annotations::default()));
        assert_eq!(accounts.annotations("shop", "web").await, Ok(Annotations::default()));
    }
}
