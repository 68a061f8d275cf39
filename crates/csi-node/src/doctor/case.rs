//! Whose volume is examined: a pod's, as the API server or the running driver knows it, or that of a pod that could be.

use super::context::Context;
use super::finding::{Check, Finding};
use super::within;
use crate::class::ClassName;
use crate::csi::request::{CLASS, POD_NAME, POD_NAMESPACE, POD_UID, PublishRequest, SERVICE_ACCOUNT};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use proto::csi::{NodePublishVolumeRequest, VolumeCapability};
use std::collections::BTreeMap;

/// The pod's name in the words of errors, where there is no pod.
const NOBODY: &str = "akv-csi-doctor";

/// One volume to examine.
pub(super) struct Case {
    /// Its class.
    pub class: ClassName,
    /// The request by which the kubelet would ask for it, without tokens and secrets.
    pub request: PublishRequest,
    /// Whether the pod brings credentials of its own, in a Secret that is not read here.
    pub has_secret: bool,
}

/// What a pod says of one volume.
struct Volume {
    namespace: String,
    pod: String,
    service_account: String,
    attributes: BTreeMap<String, String>,
    has_secret: bool,
}

/// The volumes that the arguments mean; none when they mean none.
///
/// # Errors
/// The finding that says why there is nothing to examine.
pub(super) async fn cases(context: &Context) -> Result<Vec<Case>, Finding> {
    let arguments = &context.arguments;
    let volumes = match (&arguments.pod, &arguments.class) {
        (Some(pod), _) => of_pod(context, &pod.namespace, &pod.name).await?,
        (None, Some(class)) => vec![Volume {
            namespace: class.namespace.clone(),
            pod: NOBODY.to_owned(),
            service_account: arguments.service_account.clone().unwrap_or_else(|| "default".to_owned()),
            attributes: [(CLASS.to_owned(), class.name.clone())].into(),
            has_secret: false,
        }],
        (None, None) => Vec::new(),
    };
    volumes.into_iter().map(Volume::into_case).collect()
}

/// From the API server, which knows the pod's attributes; else from the driver, which knows what it has mounted.
async fn of_pod(context: &Context, namespace: &str, name: &str) -> Result<Vec<Volume>, Finding> {
    let driver = context.node.as_ref().map_or("", |node| node.driver_name.as_str());
    let asked = match &context.kubernetes {
        Some(Ok(client)) => {
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let time = context.arguments.timeout;
            match within(time, Check::Class, "reading the pod from the API server", pods.get(name)).await? {
                Ok(pod) => {
                    let volumes = volumes_of(&pod, namespace, driver);
                    if volumes.is_empty() {
                        let text = format!("pod {namespace}/{name} has no csi volume of {driver}");
                        let cure =
                            "give it one: driver, readOnly: true and volumeAttributes.secretProviderClass";
                        return Err(Finding::failed(Check::Class, text, cure));
                    }
                    return Ok(volumes);
                }
                Err(error) => crate::error::chain(&error),
            }
        }
        Some(Err(error)) => error.clone(),
        None => "there is no API server in standalone mode".to_owned(),
    };
    let known = context.status.as_ref().map_or(&[][..], |status| status.volumes.as_slice());
    let found: Vec<Volume> = known
        .iter()
        .filter(|volume| {
            volume.namespace.as_deref() == Some(namespace) && volume.pod.as_deref() == Some(name)
        })
        .map(|volume| Volume {
            namespace: namespace.to_owned(),
            pod: name.to_owned(),
            service_account: volume.service_account.clone().unwrap_or_default(),
            attributes: [(CLASS.to_owned(), volume.class.clone().unwrap_or_default())].into(),
            has_secret: false,
        })
        .collect();
    if found.is_empty() {
        let text = format!(
            "pod {namespace}/{name} is not known: {asked}; and the driver of this node has not been called for it"
        );
        let cure = "examine its class instead: --class NAMESPACE/NAME --service-account NAME; or run it where pods may be read \
                    (--kubeconfig)";
        return Err(Finding::failed(Check::Class, text, cure));
    }
    Ok(found)
}

fn volumes_of(pod: &Pod, namespace: &str, driver: &str) -> Vec<Volume> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sources = spec.volumes.iter().flatten().filter_map(|volume| volume.csi.as_ref());
    sources
        .filter(|source| source.driver == driver)
        .map(|source| Volume {
            namespace: namespace.to_owned(),
            pod: pod.metadata.name.clone().unwrap_or_default(),
            service_account: spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned()),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            has_secret: source.node_publish_secret_ref.is_some(),
        })
        .collect()
}

impl Volume {
    /// The kubelet's request for it, taken apart by the driver's own code.
    fn into_case(self) -> Result<Case, Finding> {
        let class = ClassName {
            namespace: self.namespace.clone(),
            name: self.attributes.get(CLASS).cloned().unwrap_or_default(),
        };
        let mut context = self.attributes;
        // The kubelet's own keys win, as they do in a real request.
        context.extend(
            [
                (POD_NAME, self.pod),
                (POD_NAMESPACE, self.namespace),
                (POD_UID, NOBODY.to_owned()),
                (SERVICE_ACCOUNT, self.service_account),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        let raw = NodePublishVolumeRequest {
            volume_id: NOBODY.to_owned(),
            target_path: format!("/{NOBODY}"),
            volume_capability: Some(VolumeCapability::default()),
            readonly: true,
            volume_context: context.into_iter().collect(),
            ..NodePublishVolumeRequest::default()
        };
        let request = PublishRequest::parse(raw)
            .map_err(|error| Finding::failed(Check::Class, error.to_string(), "correct the pod's volume"))?;
        Ok(Case { class, request, has_secret: self.has_secret })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_volumes_of_this_driver_are_examined_as_the_kubelet_asks_for_them() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web"},
            "spec": {"serviceAccountName": "shop", "containers": [], "volumes": [
                {"name": "a", "csi": {"driver": "ours", "volumeAttributes": {
                    "secretProviderClass": "kv", "keyvaultName": "other", "csi.storage.k8s.io/pod.namespace": "evil"}}},
                {"name": "b", "csi": {"driver": "theirs"}},
                {"name": "c", "emptyDir": {}},
                {"name": "d", "csi": {"driver": "ours", "nodePublishSecretRef": {"name": "s"},
                    "volumeAttributes": {"secretProviderClass": "second"}}},
            ]}
        }))
        .unwrap();
        let cases: Vec<Case> = volumes_of(&pod, "shop-ns", "ours")
            .into_iter()
            .map(|volume| volume.into_case().unwrap())
            .collect();
        assert_eq!(
            cases.iter().map(|case| case.class.to_string()).collect::<Vec<_>>(),
            ["shop-ns/kv", "shop-ns/second"]
        );
        assert_eq!(cases.iter().map(|case| case.has_secret).collect::<Vec<_>>(), [false, true]);
        let request = &cases[0].request;
        assert_eq!(
            (request.pod.namespace.as_str(), request.pod.service_account.as_str()),
            ("shop-ns", "shop")
        );
        assert_eq!(request.attributes.get("keyvaultName").map(String::as_str), Some("other"));
    }
}
