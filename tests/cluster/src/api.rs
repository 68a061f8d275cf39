//! Objects of the API, read as they are on the wire.

use kube::Client;
use serde_json::Value;

/// Kinds that cases look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in Kubernetes")]
pub enum Kind {
    Pod,
    Secret,
    Event,
    Node,
    CsiNode,
    CsiDriver,
    Deployment,
    DaemonSet,
    ClusterRole,
    ClusterRoleBinding,
    CustomResourceDefinition,
    SecretProviderClass,
    SecretProviderClassPodStatus,
}

impl Kind {
    /// Where its group is served, and its plural.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Pod => ("/api/v1", "pods"),
            Self::Secret => ("/api/v1", "secrets"),
            Self::Event => ("/api/v1", "events"),
            Self::Node => ("/api/v1", "nodes"),
            Self::CsiNode => ("/apis/storage.k8s.io/v1", "csinodes"),
            Self::CsiDriver => ("/apis/storage.k8s.io/v1", "csidrivers"),
            Self::Deployment => ("/apis/apps/v1", "deployments"),
            Self::DaemonSet => ("/apis/apps/v1", "daemonsets"),
            Self::ClusterRole => ("/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
            Self::ClusterRoleBinding => ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
            Self::CustomResourceDefinition => ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
            Self::SecretProviderClass => ("/apis/secrets-store.csi.x-k8s.io/v1", "secretproviderclasses"),
            Self::SecretProviderClassPodStatus => {
                ("/apis/secrets-store.csi.x-k8s.io/v1", "secretproviderclasspodstatuses")
            }
        }
    }

    fn collection(self, namespace: &str) -> String {
        let (group, plural) = self.names();
        if namespace.is_empty() {
            format!("{group}/{plural}")
        } else {
            format!("{group}/namespaces/{namespace}/{plural}")
        }
    }
}

/// An object, or nothing where there is none. The namespace is empty for kinds that have none.
pub async fn get(
    client: &Client,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<Option<Value>, kube::Error> {
    let path = format!("{}/{name}", kind.collection(namespace));
    let request = hyper::Request::get(path).body(Vec::new()).expect("names need no escapes");
    match client.request::<Value>(request).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// All objects of a namespace, or of the cluster where it is empty.
pub async fn list(client: &Client, kind: Kind, namespace: &str) -> Result<Vec<Value>, kube::Error> {
    let request =
        hyper::Request::get(kind.collection(namespace)).body(Vec::new()).expect("names need no escapes");
    let mut answer = client.request::<Value>(request).await?;
    Ok(answer["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}
