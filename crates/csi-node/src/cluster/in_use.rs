//! Who mounts volumes of the driver.

use super::ClusterError;
use crate::kubernetes::said;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use std::collections::BTreeMap;

/// How many pods of a class are named; the rest is counted.
pub(super) const PODS_SHOWN: usize = 3;
/// Pods of one answer of the API server, which bounds this process's memory in clusters of any size.
const PAGE: u32 = 200;

/// The classes that pods mount.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// The driver.
    pub driver: String,
    /// Classes as NAMESPACE/NAME, each with the names of its pods.
    pub classes: BTreeMap<String, Vec<String>>,
}

/// Looks through the pods of all namespaces.
///
/// Needs the RBAC rule `pods: [list]`.
///
/// # Errors
/// [`ClusterError::Pods`].
pub async fn find(client: &Client, driver: &str) -> Result<Uses, ClusterError> {
    let api: Api<Pod> = Api::all(client.clone());
    let mut uses = Uses { driver: driver.to_owned(), classes: BTreeMap::new() };
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let pods = api
            .list(&page)
            .await
            .map_err(|error| ClusterError::Pods { driver: driver.to_owned(), cause: said(&error) })?;
        for pod in &pods.items {
            uses.add(pod);
        }
        match pods.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(uses),
        }
    }
}

impl Uses {
    fn add(&mut self, pod: &Pod) {
        // The kubelet has unmounted, or will without being held up, what pods have that ended by themselves.
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        if phase == "Succeeded" || phase == "Failed" {
            return;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let Some(csi) = volume.csi.as_ref().filter(|csi| csi.driver == self.driver) else { continue };
            let class = csi.volume_attributes.as_ref().and_then(|all| all.get("secretProviderClass"));
            let class = class.map_or("(no class)", String::as_str);
            let pods = self.classes.entry(format!("{namespace}/{class}")).or_default();
            if pods.last().is_none_or(|last| last != name) {
                pods.push(name.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(namespace: &str, name: &str, phase: &str, volumes: &[(&str, Option<&str>)]) -> Pod {
        let volumes: Vec<_> = volumes
            .iter()
            .enumerate()
            .map(|(number, (driver, class))| {
                let attributes = class.map(|class| json!({ "secretProviderClass": class }));
                json!({"name": format!("v{number}"), "csi": {"driver": driver, "volumeAttributes": attributes}})
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"containers": [], "volumes": volumes},
            "status": {"phase": phase}
        }))
        .unwrap()
    }

    #[test]
    fn pods_are_counted_by_class_and_once() {
        let mut uses = Uses { driver: "d".to_owned(), ..Uses::default() };
        uses.add(&pod(
            "shop",
            "web-1",
            "Running",
            &[("d", Some("kv")), ("d", Some("kv")), ("d", Some("tls"))],
        ));
        uses.add(&pod("shop", "web-2", "Pending", &[("d", Some("kv")), ("other", Some("kv"))]));
        uses.add(&pod("bank", "old", "Succeeded", &[("d", Some("kv"))]));
        uses.add(&pod("bank", "odd", "Running", &[("d", None)]));
        let expected = [
            ("bank/(no class)", vec!["odd"]),
            ("shop/kv", vec!["web-1", "web-2"]),
            ("shop/tls", vec!["web-1"]),
        ];
        let expected = expected
            .map(|(class, pods)| (class.to_owned(), pods.into_iter().map(str::to_owned).collect::<Vec<_>>()));
        assert_eq!(uses.classes, BTreeMap::from(expected));
    }

    #[test]
    fn the_message_names_classes_and_some_pods() {
        let mut uses = Uses { driver: "d".to_owned(), ..Uses::default() };
        for number in 1..=5 {
            uses.add(&pod("shop", &format!("web-{number}"), "Running", &[("d", Some("kv"))]));
        }
        let message = ClusterError::InUse(uses).to_string();
        assert!(message.contains("\n  shop/kv: web-1, web-2, web-3 and 2 more\n"), "{message}");
        assert!(message.contains("pods mount 1 SecretProviderClass of driver d"), "{message}");
    }
}
