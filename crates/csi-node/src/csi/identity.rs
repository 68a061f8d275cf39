//! CSI Identity: who this driver is and whether it is ready.

use proto::csi::identity_server::Identity;
use proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    ProbeRequest, ProbeResponse,
};
use std::collections::HashMap;
use std::sync::Arc;
use tonic::{Request, Response, Status};

use crate::health::Health;

/// The Identity service.
pub struct IdentityService {
    driver_name: String,
    health: Arc<Health>,
}

impl IdentityService {
    /// Serves the identity of the driver with this name.
    pub fn new(driver_name: String, health: Arc<Health>) -> Self {
        Self { driver_name, health }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.driver_name.clone(),
            vendor_version: format!("v{}", env!("CARGO_PKG_VERSION")),
            manifest: HashMap::new(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _request: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        // Inline volumes are neither created nor attached: there is no controller to announce.
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities: Vec::new() }))
    }

    async fn probe(&self, _request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        match self.health.liveness() {
            Ok(()) => Ok(Response::new(ProbeResponse { ready: Some(true) })),
            Err(reason) => Err(Status::failed_precondition(reason)),
        }
    }
}
