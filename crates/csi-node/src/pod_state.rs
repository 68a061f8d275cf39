//! The pod that a volume belongs to, as the API server knows it.

use crate::csi::request::Pod;
use crate::kubernetes::{code, lacks_right, said};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ApiResource, DynamicObject, GetParams, GroupVersionKind};

/// Whether a pod still counts.
#[derive(Debug, Clone, PartialEq)]
pub enum PodState {
    /// It runs, or is about to.
    Alive {
        /// Who owns it, with nothing but version, kind, name and UID.
        owners: Vec<OwnerReference>,
    },
    /// It has ended, or is being deleted.
    Ending,
    /// There is no such pod; one of the same name is another one.
    Gone,
}

/// Why a pod could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading pod {pod} from the API server: {cause}{cure}")]
pub struct PodError {
    pod: Pod,
    cause: String,
    /// Of the API server's answer; 0 if there was none.
    pub code: u16,
    cure: &'static str,
}

/// Reads pods.
///
/// Needs the RBAC rule `pods: [get]` in the core group.
#[derive(Clone)]
pub struct Pods(kube::Client);

/// How new an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// As it is now.
    Now,
    /// As the API server remembers it, which costs it little.
    Recent,
}

impl Pods {
    /// Reads pods through this client.
    pub fn new(client: kube::Client) -> Self {
        Self(client)
    }

    /// Whether a pod still counts.
    ///
    /// # Errors
    /// [`PodError`], when the API server does not say.
    pub async fn state(&self, pod: &Pod, age: Age) -> Result<PodState, PodError> {
        // The few fields needed, not the type: it would bring the parser of a whole pod.
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
        let pods: Api<DynamicObject> = Api::namespaced_with(self.0.clone(), &pod.namespace, &kind);
        let parameters = match age {
            Age::Now => GetParams::default(),
            Age::Recent => GetParams::any(),
        };
        let found = match pods.get_with(&pod.name, &parameters).await {
            Ok(found) => found,
            Err(kube::Error::Api(answer)) if answer.is_not_found() => return Ok(PodState::Gone),
            Err(error) => {
                let cure = if lacks_right(&error) {
                    "; the driver's ClusterRole secretproviderclasses-role needs get on pods"
                } else {
                    ""
                };
                return Err(PodError { pod: pod.clone(), cause: said(&error), code: code(&error), cure });
            }
        };
        if !pod.uid.is_empty() && found.metadata.uid.as_deref() != Some(&pod.uid) {
            return Ok(PodState::Gone);
        }
        let phase = found.data.pointer("/status/phase").and_then(|phase| phase.as_str());
        if found.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed")) {
            return Ok(PodState::Ending);
        }
        let owners = found.metadata.owner_references.unwrap_or_default();
        let owners = owners
            .into_iter()
            .map(|owner| OwnerReference { controller: None, block_owner_deletion: None, ..owner })
            .collect();
        Ok(PodState::Alive { owners })
    }
}
