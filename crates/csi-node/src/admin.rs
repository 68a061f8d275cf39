//! The operator's socket: what `akv-csi refresh` talks to. HTTP with JSON over a unix socket that only root can connect to.

use crate::driver::{Driver, Refreshed, Selection};
use crate::endpoint::BoundSocket;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const REFRESH: &str = "/v1/refresh";

/// A refresh ends with the publish timeout at the latest, which is below the kubelet's two minutes.
const PATIENCE: Duration = Duration::from_secs(150);

/// Where the operator's socket is when nothing else is said: beside the CSI socket.
pub fn default_socket(csi_socket: &Path) -> PathBuf {
    csi_socket.with_file_name("admin.sock")
}

/// Serves the operator's socket until `stop` resolves.
///
/// # Errors
/// When the socket cannot be bound or served.
pub async fn serve(
    path: &Path,
    driver: Arc<Driver>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (_socket, listener) = BoundSocket::bind(path)?;
    let router = Router::new()
        .route(
            REFRESH,
            post(|State(driver): State<Arc<Driver>>, Json(wanted): Json<Selection>| async move {
                Json(driver.refresh(&wanted).await)
            }),
        )
        .with_state(driver);
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

/// Asks the driver behind `socket` to refresh volumes.
///
/// # Errors
/// One sentence for people.
pub async fn refresh(socket: &Path, wanted: &Selection) -> Result<Vec<Refreshed>, String> {
    let failed = |error: reqwest::Error| {
        format!(
            "no answer from the driver at {}: {}; does it run on this node?",
            socket.display(),
            crate::error::chain(&error)
        )
    };
    let client = reqwest::Client::builder()
        .unix_socket(socket)
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .map_err(failed)?;
    let answer =
        client.post(format!("http://localhost{REFRESH}")).json(wanted).send().await.map_err(failed)?;
    answer.error_for_status().map_err(failed)?.json().await.map_err(failed)
}
