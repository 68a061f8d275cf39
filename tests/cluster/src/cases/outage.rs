//! The API server goes away and comes back.

use super::volumes::pod_folder;
use crate::api::Kind;
use crate::cluster::{Cluster, VAULT, pod};
use e2e::mounts_below;
use kubelet::{CsiClient, TOKENS_KEY};
use proto::csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
use proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use serde_json::json;
use std::time::Duration;

/// While there is no API server, mounted volumes rotate, a pod that was being deleted loses its volume, and a publish call for
/// a class that the driver knows is answered. When it is back, all goes on without a restart of anything.
pub async fn api_server(cluster: &Cluster) {
    let vault = cluster.azure.vault(VAULT);
    vault.set_secret("offline", "before").expect("a valid secret");
    cluster.namespace("outage", &["default"]).await;
    let mut leaving = pod("leaving", &["offline-class"]);
    // Long enough for the kubelet to learn of the deletion before the API server is gone.
    leaving["spec"]["terminationGracePeriodSeconds"] = 5.into();
    let objects = [cluster.class("offline-class", &["offline"]), pod("staying", &["offline-class"]), leaving];
    cluster.apply_all("outage", &objects).await;
    cluster.pod_ready("outage", "staying").await;
    cluster.pod_ready("outage", "leaving").await;
    let staying = pod_folder(cluster, "outage", "staying").await;
    let leaving = pod_folder(cluster, "outage", "leaving").await;
    let token = cluster
        .kubectl(&["-n", "outage", "create", "token", "default", "--audience", "api://AzureADTokenExchange"])
        .await
        .expect("the administrator may ask for tokens");

    cluster
        .kubectl(&["-n", "outage", "delete", "pod", "leaving", "--wait=false"])
        .await
        .expect("a pod can be deleted");
    cluster.control_plane.lock().await.kill_api_server().await;

    vault.set_secret("offline", "during").expect("a valid secret");
    // There is no `kubectl exec` now; the node's own view has the same files.
    let file = staying.join("volumes/kubernetes.io~csi/offline-class/mount/offline");
    cluster
        .until("a mounted volume rotates without an API server", || async {
            std::fs::read_to_string(&file).ok().filter(|content| content == "during")
        })
        .await;
    cluster
        .until("a deleted pod's volume is gone without an API server", || async {
            mounts_below(&leaving).is_empty().then_some(())
        })
        .await;

    let target =
        "/var/lib/kubelet/pods/00000000-0000-4000-8000-000000000001/volumes/kubernetes.io~csi/v/mount";
    let client = CsiClient::new("/var/lib/kubelet/plugins/csi-secrets-store/csi.sock")
        .with_deadline(Duration::from_secs(60));
    let published = client.publish(publish_request(target, token.trim())).await;
    published.unwrap_or_else(|status| panic!("without an API server a known class is not mounted: {status}"));
    let content = std::fs::read_to_string(format!("{target}/offline")).expect("a published volume");
    assert_eq!(content, "during");
    let request =
        NodeUnpublishVolumeRequest { volume_id: "csi-outage".to_owned(), target_path: target.to_owned() };
    client.unpublish(request).await.expect("a volume can be unpublished without an API server");

    cluster.control_plane.lock().await.start_api_server();
    cluster.node_ready("node-1").await;
    let version = vault.set_secret("offline", "after").expect("a valid secret");
    cluster.cat_until("outage", "staying", "/mnt/offline-class/offline", "after").await;
    cluster
        .until("the status object says what is mounted now", || async {
            let kind = Kind::SecretProviderClassPodStatus;
            let status = cluster.get(kind, "outage", "staying-outage-offline-class").await?;
            (status["status"]["objects"][0]["version"] == version.as_str()).then_some(())
        })
        .await;
    cluster.apply_all("outage", &[pod("next", &["offline-class"])]).await;
    cluster.pod_ready("outage", "next").await;
    cluster.delete("", &["namespace", "outage"]).await;
}

/// What the kubelet sends for a volume of a pod of this namespace.
fn publish_request(target: &str, token: &str) -> NodePublishVolumeRequest {
    let tokens = json!({"api://AzureADTokenExchange": {"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}});
    let context = [
        ("csi.storage.k8s.io/pod.name", "unborn"),
        ("csi.storage.k8s.io/pod.namespace", "outage"),
        ("csi.storage.k8s.io/pod.uid", "00000000-0000-4000-8000-000000000001"),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("secretProviderClass", "offline-class"),
        (TOKENS_KEY, &tokens.to_string()),
    ];
    std::fs::create_dir_all(target.trim_end_matches("/mount")).expect("the kubelet's folder is writable");
    NodePublishVolumeRequest {
        volume_id: "csi-outage".to_owned(),
        target_path: target.to_owned(),
        volume_capability: Some(VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        }),
        readonly: true,
        volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..NodePublishVolumeRequest::default()
    }
}
