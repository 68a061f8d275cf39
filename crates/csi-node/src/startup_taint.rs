//! Removes a taint from this node once the kubelet has registered the driver.
//!
//! On a fresh node, pods can be scheduled before the driver is up; they fail with "driver name not found in the list of
//! registered CSI drivers" until it is. An operator can have nodes start with a taint that pods do not tolerate and this driver
//! does, and let the driver take it away.

use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::time::Duration;

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Removes every taint with this key from the node, trying until it is gone.
///
/// Needs the RBAC rules `nodes: [get, patch]`.
pub async fn remove(client: Client, node: &str, key: &str) {
    let mut wait = FIRST_WAIT;
    loop {
        match try_remove(&client, node, key).await {
            Ok(true) => return tracing::info!(node, taint = key, "removed the startup taint: pods may come"),
            Ok(false) => return tracing::debug!(node, taint = key, "the node has no startup taint"),
            Err(error) => {
                tracing::warn!(
                    node, taint = key, error = %crate::kubernetes::said(&error), retry_in_s = wait.as_secs(),
                    "the startup taint is still there; the driver needs get and patch on nodes"
                );
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn try_remove(client: &Client, name: &str, key: &str) -> Result<bool, kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = nodes.get(name).await?;
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let kept: Vec<_> = taints.iter().filter(|taint| taint.key != key).collect();
    if kept.len() == taints.len() {
        return Ok(false);
    }
    // A merge patch replaces the whole list. With the version it was read at, somebody else's taint cannot get lost: the
    // server answers with a conflict, and the next try reads again.
    let patch =
        json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": kept}});
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(true)
}
