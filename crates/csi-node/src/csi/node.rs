//! CSI Node: what the kubelet asks for. Each call checks its request, hands it to the driver and answers.

use crate::csi::request::{InvalidRequest, PublishRequest, parse_target};
use crate::driver::Driver;
use crate::error::{PublishError, UnpublishError};
use crate::telemetry::Traces;
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
use tonic::{Code, Request, Response, Status};
use trace::{Context, Kind, Span};
use tracing::Instrument;

const SERVICE: &str = "csi.v1.Node";

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

/// Begins the span of a call: in the caller's trace, or a new one. The kubelet sends one when tracing is switched on in its
/// configuration.
fn begin<T>(traces: &Traces, method: &str, request: &Request<T>) -> Span {
    let mut headers = request.metadata().get_all("traceparent").iter();
    // Of two callers neither can be believed.
    let only = headers.next().filter(|_| headers.next().is_none());
    let caller = only.and_then(|header| header.to_str().ok()).and_then(Context::of_traceparent);
    let mut call = Span::below(&traces.begin(caller), format!("{SERVICE}/{method}"), Kind::Server);
    call.tell("rpc.system", "grpc");
    call.tell("rpc.service", SERVICE);
    call.tell("rpc.method", method);
    call
}

/// Ends the span of a call with its answer.
fn end<T>(mut call: Span, answer: Result<T, Status>) -> Result<Response<T>, Status> {
    call.set("rpc.grpc.status_code", i32::from(answer.as_ref().err().map_or(Code::Ok, Status::code)));
    if let Err(status) = &answer {
        call.fail(status.message());
    }
    answer.map(Response::new)
}

/// As much of a volume's id as tells it from the others of a node.
fn shortened(volume_id: &str) -> String {
    volume_id.chars().take(20).collect()
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let mut call = begin(self.driver.traces(), "NodePublishVolume", &request);
        let log = tracing::info_span!("publish", trace_id = %call.trace_id());
        let request = match PublishRequest::parse(request.into_inner()) {
            Ok(request) => request,
            Err(invalid) => {
                let error = PublishError::from(invalid);
                self.driver.metrics().calls.publish_failed(&error, Duration::ZERO);
                return end(call, Err(error.into()));
            }
        };
        call.tell("k8s.namespace.name", &request.pod.namespace);
        call.tell("k8s.pod.name", &request.pod.name);
        call.tell("k8s.pod.uid", &request.pod.uid);
        call.tell("akv_csi.class", &request.class);
        call.tell("akv_csi.volume", shortened(&request.volume_id));
        let published = call.scope(self.driver.publish(request)).instrument(log).await;
        if let Ok(outcome) = &published {
            call.tell("akv_csi.outcome", format_args!("{outcome:?}"));
        }
        end(call, published.map(|_| NodePublishVolumeResponse {}).map_err(Status::from))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let mut call = begin(self.driver.traces(), "NodeUnpublishVolume", &request);
        let log = tracing::info_span!("unpublish", trace_id = %call.trace_id());
        let request = request.into_inner();
        call.tell("akv_csi.volume", shortened(&request.volume_id));
        let removed = async {
            if request.volume_id.is_empty() {
                return Err(UnpublishError::from(InvalidRequest::NoVolumeId));
            }
            self.driver.unpublish(parse_target(&request.target_path)?).await
        };
        let removed = call.scope(removed).instrument(log).await;
        self.driver.metrics().calls.unpublished(removed.is_ok());
        end(call, removed.map(|()| NodeUnpublishVolumeResponse {}).map_err(Status::from))
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
