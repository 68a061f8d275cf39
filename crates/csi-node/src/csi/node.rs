//! CSI Node: what the kubelet asks for. Each call checks its request, hands it to the driver and answers.

use crate::csi::request::{InvalidRequest, PublishRequest, parse_target};
use crate::driver::Driver;
use crate::error::{PublishError, UnpublishError};
use proto::csi::node_server::Node;
use proto::csi::node_service_capability::{Rpc, Type, rpc};
use proto::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest,
    NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
    NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
    NodeUnstageVolumeRequest, NodeUnstageVolumeResponse,
};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};
use trace::Context;
use tracing::Instrument;

/// The Node service.
pub struct NodeService {
    driver: Arc<Driver>,
    node_id: String,
}

impl NodeService {
    /// Serves this driver on the node with this name.
    pub fn new(driver: Arc<Driver>, node_id: String) -> Self {
        Self { driver, node_id }
    }
}

/// The caller's trace, or a new one. The kubelet sends one when tracing is switched on in its configuration.
fn context_of<T>(request: &Request<T>) -> Context {
    let mut headers = request.metadata().get_all("traceparent").iter();
    // Of two callers neither can be believed.
    let only = headers.next().filter(|_| headers.next().is_none());
    only.and_then(|header| header.to_str().ok()).and_then(Context::of_traceparent).unwrap_or_default()
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let context = context_of(&request);
        let span = tracing::info_span!("publish", trace_id = %context.trace_id());
        let request = PublishRequest::parse(request.into_inner()).map_err(|invalid| {
            let error = PublishError::from(invalid);
            self.driver.metrics().calls.publish_failed(&error, Duration::ZERO);
            error
        })?;
        context.scope(self.driver.publish(request)).instrument(span).await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let span = tracing::info_span!("unpublish", trace_id = %context_of(&request).trace_id());
        let request = request.into_inner();
        let removed = async {
            if request.volume_id.is_empty() {
                return Err(UnpublishError::from(InvalidRequest::NoVolumeId));
            }
            self.driver.unpublish(parse_target(&request.target_path)?).await
        };
        let removed = removed.instrument(span).await;
        self.driver.metrics().calls.unpublished(removed.is_ok());
        removed?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capability =
            |kind: rpc::Type| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })) };
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: vec![capability(rpc::Type::VolumeMountGroup)],
        }))
    }

    async fn node_get_info(
        &self,
        _request: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.node_id.clone(),
            max_volumes_per_node: 0,
            accessible_topology: None,
        }))
    }

    // Inline volumes are never staged or expanded, and there is nothing about their size that a user could act on. None of
    // these capabilities is announced.

    async fn node_get_volume_stats(
        &self,
        _request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented("NodeGetVolumeStats is not implemented"))
    }

    async fn node_stage_volume(
        &self,
        _request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        Err(Status::unimplemented("NodeStageVolume is not implemented: inline volumes are not staged"))
    }

    async fn node_unstage_volume(
        &self,
        _request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        Err(Status::unimplemented("NodeUnstageVolume is not implemented: inline volumes are not staged"))
    }

    async fn node_expand_volume(
        &self,
        _request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented("NodeExpandVolume is not implemented"))
    }
}
