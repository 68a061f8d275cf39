//! The operator's socket: what `akv-csi refresh`, `akv-csi log-level`, `akv-csi status` and `akv-csi doctor` talk to.
//! HTTP with JSON over a unix socket that only root can connect to.

use crate::driver::{Driver, Refreshed, Selection};
use crate::endpoint::BoundSocket;
use crate::status::{About, NodeStatus};
use crate::telemetry::Verbosity;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const REFRESH: &str = "/v1/refresh";
const VOLUMES: &str = "/v1/volumes";
const ARGUMENTS: &str = "/v1/arguments";
const VERBOSITY: &str = "/v1/verbosity";

/// A refresh ends with the publish timeout at the latest, which is below the kubelet's two minutes.
const PATIENCE: Duration = Duration::from_secs(150);

/// Where the operator's socket is when nothing else is said: beside the CSI socket.
pub fn default_socket(csi_socket: &Path) -> PathBuf {
    csi_socket.with_file_name("admin.sock")
}

/// What the socket's answers are made of.
#[derive(Clone)]
struct Desk {
    driver: Arc<Driver>,
    about: Arc<About>,
}

/// Serves the operator's socket until `stop` resolves.
///
/// # Errors
/// When the socket cannot be bound or served.
pub async fn serve(
    path: &Path,
    driver: Arc<Driver>,
    about: About,
    verbosity: Verbosity,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (_socket, listener) = BoundSocket::bind(path)?;
    let router =
        Router::new()
            .route(
                REFRESH,
                post(|State(desk): State<Desk>, Json(wanted): Json<Selection>| async move {
                    Json(desk.driver.refresh(&wanted).await)
                }),
            )
            .route(
                VOLUMES,
                get(|State(desk): State<Desk>| async move {
                    Json(NodeStatus::of(&desk.driver, &desk.about).await)
                }),
            )
            .route(
                ARGUMENTS,
                get(|State(desk): State<Desk>| async move { Json(desk.about.arguments.clone()) }),
            )
            .with_state(Desk { driver, about: Arc::new(about) })
            .merge(verbosity_routes(verbosity));
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

fn verbosity_routes(verbosity: Verbosity) -> Router {
    let change = |State(verbosity): State<Verbosity>, Json(level): Json<i32>| async move {
        match verbosity.set(level) {
            Ok(()) => {
                tracing::info!(level, "the verbosity was changed");
                Ok(Json(verbosity.get()))
            }
            Err(reason) => Err((StatusCode::SERVICE_UNAVAILABLE, reason)),
        }
    };
    let show = |State(verbosity): State<Verbosity>| async move { Json(verbosity.get()) };
    Router::new().route(VERBOSITY, get(show).put(change)).with_state(verbosity)
}

/// Asks the driver behind `socket` how much it logs, after changing it where a level is given.
///
/// # Errors
/// One sentence for people.
pub async fn verbosity(socket: &Path, level: Option<i32>) -> Result<i32, String> {
    let url = format!("http://localhost{VERBOSITY}");
    ask(socket, |client| match level {
        Some(level) => client.put(url).json(&level),
        None => client.get(url),
    })
    .await
}

/// Asks the driver behind `socket` to refresh volumes.
///
/// # Errors
/// One sentence for people.
pub async fn refresh(socket: &Path, wanted: &Selection) -> Result<Vec<Refreshed>, String> {
    ask(socket, |client| client.post(format!("http://localhost{REFRESH}")).json(wanted)).await
}

/// Asks the driver behind `socket` how its volumes are.
///
/// # Errors
/// One sentence for people.
pub async fn status(socket: &Path) -> Result<NodeStatus, String> {
    ask(socket, |client| client.get(format!("http://localhost{VOLUMES}"))).await
}

/// Asks the driver behind `socket` which flags it was started with.
///
/// # Errors
/// One sentence for people.
pub async fn arguments(socket: &Path) -> Result<Vec<String>, String> {
    ask(socket, |client| client.get(format!("http://localhost{ARGUMENTS}"))).await
}

async fn ask<A: DeserializeOwned>(
    socket: &Path,
    request: impl FnOnce(&reqwest::Client) -> reqwest::RequestBuilder,
) -> Result<A, String> {
    let failed = |error: reqwest::Error| {
        let cure = if error.status().is_some_and(|status| status == 404) {
            "the driver is older than this program: use the akv-csi in its own container"
        } else {
            "does it run on this node?"
        };
        format!(
            "no answer from the driver at {}: {}; {cure}",
            socket.display(),
            crate::error::chain(&error.without_url())
        )
    };
    let client = reqwest::Client::builder()
        .unix_socket(socket)
        // Without TLS no CA is needed, and a file of CAs that cannot be read must not come between.
        .tls_certs_only([])
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .map_err(failed)?;
    let answer = request(&client).send().await.map_err(failed)?;
    answer.error_for_status().map_err(failed)?.json().await.map_err(failed)
}
