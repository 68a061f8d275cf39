//! `/healthz` and `/readyz` over HTTP, for probes of the pod.

use crate::health::Health;
use crate::listener::{self, Limits};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

/// Serves the health endpoints until `stop` resolves.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    health: Arc<Health>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listener = listener::bind(address).await?;
    tracing::info!(%address, "serving /healthz and /readyz");
    let router = Router::new()
        .route("/healthz", get(|State(health): State<Arc<Health>>| async move { answer(health.liveness()) }))
        .route("/readyz", get(|State(health): State<Arc<Health>>| async move { answer(health.readiness()) }))
        .with_state(health);
    listener::serve(listener, router, Limits::PROBES, stop).await;
    Ok(())
}

fn answer(state: Result<(), String>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, "ok".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}
