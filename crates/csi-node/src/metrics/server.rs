//! `/metrics` over HTTP.

use super::{Format, Metrics};
use crate::listener::{self, Limits};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait for a port that another process holds, for instance the driver that this one replaces.
const AGAIN: Duration = Duration::from_secs(10);

/// Serves `/metrics` until `stop` resolves. A port that is taken is told once and tried again: volumes matter more.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let router = Router::new().route("/metrics", get(answer)).with_state(metrics);
    let mut stop = Box::pin(stop);
    let mut told = false;
    let listener = loop {
        match listener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !told => {
                tracing::error!(%address, %error, "metrics are not served yet; the driver runs on and tries again");
                told = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    };
    tracing::info!(%address, "serving /metrics");
    listener::serve(listener, router, Limits::PROBES, stop).await;
}

async fn answer(State(metrics): State<Arc<Metrics>>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::wanted(accept);
    ([(header::CONTENT_TYPE, format.content_type())], metrics.render(format))
}
