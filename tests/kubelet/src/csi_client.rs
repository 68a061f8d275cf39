//! Calls on a CSI driver's unix socket, each on a connection of its own as the kubelet makes them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::csi::identity_client::IdentityClient;
use proto::csi::node_client::NodeClient;
use proto::csi::node_service_capability::{Type as CapabilityType, rpc::Type as RpcType};
use proto::csi::{
    GetPluginInfoRequest, GetPluginInfoResponse, NodeGetCapabilitiesRequest, NodeGetInfoRequest,
    NodeGetInfoResponse, NodePublishVolumeRequest, NodeUnpublishVolumeRequest, ProbeRequest,
};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A client of one CSI socket. Holds no connection: each call makes its own, so that a driver may restart in between.
#[derive(Clone, Debug)]
pub struct CsiClient {
    socket: PathBuf,
    deadline: Duration,
}

/// What a driver says it can do (`NodeGetCapabilities`), as far as it changes what the kubelet sends for inline volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCapabilities {
    /// `VOLUME_MOUNT_GROUP`: the driver gives the files to the pod's `fsGroup` itself.
    pub volume_mount_group: bool,
    /// `SINGLE_NODE_MULTI_WRITER`: the driver knows the newer access modes.
    pub single_node_multi_writer: bool,
}

impl CsiClient {
    /// A client of the socket at `socket`, with the kubelet's deadline of two minutes a call.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), deadline: Duration::from_mins(2) }
    }

    /// The same with another deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The socket called.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `NodePublishVolume` with this very request, whatever is in it.
    ///
    /// # Errors
    /// What the driver answers; `Unavailable` where it cannot be reached; `DeadlineExceeded` after the deadline.
    pub async fn publish(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        self.call("NodePublishVolume", request, async |channel, request| {
            NodeClient::new(channel).node_publish_volume(request).await.map(drop)
        })
        .await
    }

    /// `NodeUnpublishVolume` with this very request.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn unpublish(&self, request: NodeUnpublishVolumeRequest) -> Result<(), Status> {
        self.call("NodeUnpublishVolume", request, async |channel, request| {
            NodeClient::new(channel).node_unpublish_volume(request).await.map(drop)
        })
        .await
    }

    /// `NodeGetCapabilities`.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn capabilities(&self) -> Result<NodeCapabilities, Status> {
        let response = self
            .call("NodeGetCapabilities", NodeGetCapabilitiesRequest {}, async |channel, request| {
                NodeClient::new(channel).node_get_capabilities(request).await
            })
            .await?
            .into_inner();
        let has = |wanted: RpcType| {
            response.capabilities.iter().any(
                |capability| matches!(&capability.r#type, Some(CapabilityType::Rpc(rpc)) if rpc.r#type() == wanted),
            )
        };
        Ok(NodeCapabilities {
            volume_mount_group: has(RpcType::VolumeMountGroup),
            single_node_multi_writer: has(RpcType::SingleNodeMultiWriter),
        })
    }

    /// `NodeGetInfo`.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn node_info(&self) -> Result<NodeGetInfoResponse, Status> {
        self.call("NodeGetInfo", NodeGetInfoRequest {}, async |channel, request| {
            Ok(NodeClient::new(channel).node_get_info(request).await?.into_inner())
        })
        .await
    }

    /// `GetPluginInfo`.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn plugin_info(&self) -> Result<GetPluginInfoResponse, Status> {
        self.call("GetPluginInfo", GetPluginInfoRequest {}, async |channel, request| {
            Ok(IdentityClient::new(channel).get_plugin_info(request).await?.into_inner())
        })
        .await
    }

    /// `Probe`: whether the driver is ready. No answer to the question counts as ready, as the CSI specification says.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn probe(&self) -> Result<bool, Status> {
        self.call("Probe", ProbeRequest {}, async |channel, request| {
            Ok(IdentityClient::new(channel).probe(request).await?.into_inner().ready.unwrap_or(true))
        })
        .await
    }

    /// A generated client of the Node service on a new connection, for calls that this type has no method for. It has no
    /// deadline.
    ///
    /// # Errors
    /// `Unavailable` where the driver cannot be reached.
    pub async fn node(&self) -> Result<NodeClient<Channel>, Status> {
        Ok(NodeClient::new(connect(&self.socket).await?))
    }

    async fn call<Q, R>(
        &self,
        method: &str,
        message: Q,
        send: impl AsyncFnOnce(Channel, tonic::Request<Q>) -> Result<R, Status>,
    ) -> Result<R, Status> {
        let give_up = Instant::now() + self.deadline;
        let exchange = async {
            let channel = connect(&self.socket).await?;
            let mut request = tonic::Request::new(message);
            request.set_timeout(give_up.saturating_duration_since(Instant::now()));
            send(channel, request).await
        };
        let late =
            || Status::deadline_exceeded(format!("{method} did not answer within {:?}", self.deadline));
        match tokio::time::timeout_at(give_up, exchange).await {
            // tonic enforces the deadline as well and calls it a cancellation.
            Ok(Err(status)) if status.code() == Code::Cancelled && Instant::now() >= give_up => Err(late()),
            Ok(answer) => answer,
            Err(_) => Err(late()),
        }
    }
}

/// Connects to a unix socket.
pub(crate) async fn connect(socket: &Path) -> Result<Channel, Status> {
    let unavailable =
        |why: String| Status::unavailable(format!("cannot connect to {}: {why}", socket.display()));
    let path = socket.to_str().ok_or_else(|| unavailable("the path is not UTF-8".to_owned()))?;
    let endpoint =
        Endpoint::from_shared(format!("unix://{path}")).map_err(|error| unavailable(error.to_string()))?;
    endpoint.connect().await.map_err(|error| unavailable(innermost(&error)))
}

/// The first cause of an error: tonic's own text says only "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
