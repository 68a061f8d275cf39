//! Classes from the Kubernetes API server, read at each use.

use super::{ClassError, ClassName, ClassSpec, GROUP};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};

/// Reads classes with a live GET.
///
/// Needs the RBAC rule `secretproviderclasses: [get]` in group `secrets-store.csi.x-k8s.io`.
#[derive(Clone)]
pub struct ApiServer {
    client: kube::Client,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiServer")
    }
}

impl ApiServer {
    /// Reads classes through this client.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    pub(super) async fn get(&self, class: &ClassName) -> Result<ClassSpec, ClassError> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", "SecretProviderClass"));
        let classes: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &class.namespace, &kind);
        let failed = |cause: String| ClassError::ApiServer { class: class.clone(), cause };
        match classes.get_opt(&class.name).await {
            Ok(Some(object)) => {
                let spec = object.data.get("spec").cloned().unwrap_or_default();
                if spec.is_null() {
                    return Ok(ClassSpec::default());
                }
                serde_json::from_value(spec).map_err(|error| failed(format!("spec: {error}")))
            }
            Ok(None) => Err(ClassError::NotFound { class: class.clone(), hint: String::new() }),
            Err(error) => Err(failed(crate::error::chain(&error))),
        }
    }
}
