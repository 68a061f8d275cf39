//! Stands in for the two programs that akv-csi replaces, as far as a successor can tell: the driver's name, its sockets, and
//! volumes in the layout that they leave on a node.

use csi_node::health::Health;
use csi_node::registration::{self, Announcement};
use e2e::DRIVER_NAME;
use proto::csi::node_server::{Node, NodeServer};
use proto::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest,
    NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse, NodeStageVolumeRequest,
    NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
    NodeUnstageVolumeRequest, NodeUnstageVolumeResponse,
};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

const SOCKET: &str = "/var/lib/kubelet/plugins/csi-secrets-store/csi.sock";
const REGISTRY: &str = "/var/lib/kubelet/plugins_registry";

/// A driver that mounts one file. Its services end with this value.
#[derive(Debug)]
pub struct OldDriver {
    services: JoinSet<()>,
}

#[derive(Clone)]
struct Service {
    node: String,
    file: String,
    content: String,
}

impl OldDriver {
    /// Registers with the kubelet of a node, and mounts volumes of this one file.
    pub fn start(node: &str, file: &str, content: &str) -> Self {
        let service = Service { node: node.to_owned(), file: file.to_owned(), content: content.to_owned() };
        let mut services = JoinSet::new();
        let csi = listen(SOCKET);
        let nodes = NodeServer::new(service.clone());
        services.spawn(async move {
            let served = Server::builder().add_service(nodes).serve_with_incoming(csi);
            served.await.expect("a socket can be served");
        });
        // How a plugin registers is the kubelet's business and the same for all of them; so ours serves for the other one.
        let announcement = Announcement { driver_name: DRIVER_NAME.to_owned(), endpoint: SOCKET.into() };
        services.spawn(async move {
            let health = Arc::new(Health::new(true));
            let folder = Path::new(REGISTRY);
            let served = registration::serve(folder, announcement, health, std::future::pending()).await;
            served.expect("a socket can be served");
        });
        Self { services }
    }
}

impl OldDriver {
    /// Ends it as the end of its pod does: the kubelet forgets the driver, the volumes stay.
    pub async fn stop(mut self) {
        self.services.shutdown().await;
        // Aborted tasks have let go of the registration socket; the other one is nobody's.
        let _ = std::fs::remove_file(SOCKET);
    }
}

/// The CSIDriver object of its chart.
pub fn csi_driver() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DRIVER_NAME},
        "spec": {
            "podInfoOnMount": true,
            "attachRequired": false,
            "volumeLifecycleModes": ["Ephemeral"],
            "requiresRepublish": false,
            "tokenRequests": [{"audience": "api://AzureADTokenExchange"}],
        },
    })
}

/// A status object as it leaves one: under the name that every version gives it, with content of its time.
pub fn status(pod: &str, namespace: &str, class: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClassPodStatus",
        "metadata": {"name": format!("{pod}-{namespace}-{class}"), "labels": labels},
        "status": {
            "podName": pod,
            "secretProviderClassName": class,
            "mounted": true,
            "targetPath": "/var/lib/kubelet/pods/of-another-time/mount",
            "objects": [{"id": "secret/forgotten", "version": "0"}, {"id": "secret/inherited", "version": "0"}],
        },
    })
}

fn listen(path: &str) -> UnixListenerStream {
    let path = Path::new(path);
    std::fs::create_dir_all(path.parent().expect("a socket is in a folder"))
        .expect("the kubelet's folder is writable");
    let _ = std::fs::remove_file(path);
    UnixListenerStream::new(UnixListener::bind(path).expect("a socket can be bound"))
}

#[tonic::async_trait]
impl Node for Service {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let target = PathBuf::from(request.into_inner().target_path);
        if e2e::mounts_below(&target).is_empty() {
            self.fill(&target).map_err(|error| Status::internal(error.to_string()))?;
        }
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        _: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        Err(Status::unimplemented("its successor does that"))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.node.clone(),
            ..NodeGetInfoResponse::default()
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(NodeGetCapabilitiesResponse::default()))
    }

    async fn node_stage_volume(
        &self,
        _: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn node_unstage_volume(
        &self,
        _: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn node_get_volume_stats(
        &self,
        _: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn node_expand_volume(
        &self,
        _: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

impl Service {
    /// A tmpfs without options, visible before it is filled; files in a folder named after the time, links to them.
    fn fill(&self, target: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(target)?;
        let mounted =
            std::process::Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(target).status()?;
        assert!(mounted.success(), "mount ends with {mounted}");
        let generation = "..2026_11_01_10_20_30.123456789";
        std::fs::create_dir(target.join(generation))?;
        std::fs::write(target.join(generation).join(&self.file), &self.content)?;
        symlink(generation, target.join("..data"))?;
        symlink(Path::new("..data").join(&self.file), target.join(&self.file))
    }
}
