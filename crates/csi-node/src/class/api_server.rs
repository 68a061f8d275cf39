//! Classes from the Kubernetes API server.

use super::watched::{Had, Known, Read, ReadError};
use super::{ClassError, ClassName, ClassSpec, GROUP};
use crate::kubernetes::{Followed, code, follow, said};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use std::sync::Arc;
use std::time::Duration;

/// How long the API server may take to tell a class.
const READ: Duration = Duration::from_secs(10);
/// The same where there is something to fall back on.
const READ_AGAIN: Duration = Duration::from_secs(3);

/// Reads classes, and keeps those in use until they change. Clones share what they keep.
///
/// Needs the RBAC rule `secretproviderclasses: [get, list, watch]` in group `secrets-store.csi.x-k8s.io`. With `get` alone every
/// use reads the class.
#[derive(Clone)]
pub struct ApiServer {
    client: kube::Client,
    known: Arc<Known>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiServer")
    }
}

impl ApiServer {
    /// Reads classes through this client.
    pub fn new(client: kube::Client) -> Self {
        Self { client, known: Arc::default() }
    }

    /// Follows the classes of the cluster, for ever. While this runs, a class in use is read again only after a change.
    pub async fn follow(self) {
        let kind = kind();
        let followed = Followed {
            api: Api::all_with(self.client.clone(), &kind),
            labels: None,
            fields: None,
            what: "SecretProviderClasses",
        };
        follow(followed, |change| self.known.tell(change)).await;
    }

    pub(super) async fn get(&self, class: &ClassName, live: bool) -> Result<Had, ClassError> {
        self.known
            .get(class, live, |known| async move {
                let limit = if known { READ_AGAIN } else { READ };
                let read = tokio::time::timeout(limit, self.read(class)).await;
                read.unwrap_or_else(|_| {
                    Err(ReadError::Failed(format!("no answer within {} s", limit.as_secs())))
                })
            })
            .await
    }

    async fn read(&self, class: &ClassName) -> Read {
        let classes: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &class.namespace, &kind());
        match classes.get_opt(&class.name).await {
            Ok(Some(object)) => {
                let version = object.metadata.resource_version.unwrap_or_default();
                let mut data = object.data;
                let spec = data.get_mut("spec").map(serde_json::Value::take).unwrap_or_default();
                if spec.is_null() {
                    return Ok((ClassSpec::default(), version));
                }
                let spec = serde_json::from_value(spec)
                    .map_err(|error| ReadError::Failed(format!("spec: {error}")))?;
                Ok((spec, version))
            }
            Ok(None) => Err(ReadError::NotFound),
            Err(error) => {
                let cure = match code(&error) {
                    403 => {
                        "; the driver's ClusterRole secretproviderclasses-role needs get, list and watch on \
                         secretproviderclasses"
                    }
                    _ => "",
                };
                Err(ReadError::Failed(format!("{}{cure}", said(&error))))
            }
        }
    }
}

fn kind() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", "SecretProviderClass"))
}
