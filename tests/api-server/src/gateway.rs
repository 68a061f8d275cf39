//! A way to the server on which requests can be made to fail.

use crate::{ApiServer, Error};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use kube::Client;
use kube::client::Body;
use kube::config::Config;
use parking_lot::Mutex;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// What happens to a request instead of what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiFault {
    /// This answer, as an API server gives it.
    Answer {
        /// Its code, such as 409.
        code: u16,
        /// Its reason, such as `Conflict`.
        reason: &'static str,
        /// The header `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// No answer, for as long as the client waits.
    Hang,
}

#[derive(Debug)]
struct Rule {
    method: &'static str,
    part: String,
    fault: ApiFault,
    left: u32,
}

/// A request that has arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// When.
    pub at: Instant,
    /// Whether it had an injected fault.
    pub failed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    arrivals: Mutex<Vec<Arrival>>,
    hanging: Mutex<usize>,
}

/// Takes requests in plain HTTP and passes them on to the server, whoever they are from.
#[derive(Debug, Clone)]
pub struct Gateway {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Gateway {
    /// A gateway on a port of its own, for as long as the process lives.
    ///
    /// # Errors
    /// When there is no port, or no client for the server.
    pub async fn start(server: &ApiServer) -> Result<Self, Error> {
        let mut config = Config::new(server.url().parse().unwrap_or_default());
        config.root_cert = server.root_certificates().await?;
        config.default_retry = false;
        let client = Client::try_from(config)?;
        let failed = |cause| Error::File { path: "127.0.0.1:0".into(), cause };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::<Shared>::default();
        let router = axum::Router::new().fallback(pass).with_state((Arc::clone(&shared), client));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on requests of this method whose path has this part in it fail.
    pub fn inject(&self, method: &'static str, part: &str, fault: ApiFault) {
        self.inject_times(method, part, fault, u32::MAX);
    }

    /// The next few requests of this method whose path has this part in it fail.
    pub fn inject_times(&self, method: &'static str, part: &str, fault: ApiFault, times: u32) {
        self.shared.rules.lock().push(Rule { method, part: part.to_owned(), fault, left: times });
    }

    /// Nothing fails any more. Requests that hang go on hanging.
    pub fn clear(&self) {
        self.shared.rules.lock().clear();
    }

    /// The requests of this method whose path has this part in it, in the order of arrival.
    pub fn arrivals(&self, method: &str, part: &str) -> Vec<Arrival> {
        let fits = |arrival: &&Arrival| arrival.method == method && arrival.path.contains(part);
        self.shared.arrivals.lock().iter().filter(fits).cloned().collect()
    }

    /// How many requests hang, whose clients are still waiting.
    pub fn hanging(&self) -> usize {
        *self.shared.hanging.lock()
    }
}

impl Shared {
    /// Notes a request, and finds its fault.
    fn judge(&self, method: &str, path: String) -> Option<ApiFault> {
        let mut rules = self.rules.lock();
        let rule =
            rules.iter_mut().find(|rule| rule.left > 0 && rule.method == method && path.contains(&rule.part));
        let fault = rule.map(|rule| {
            rule.left = rule.left.saturating_sub(1);
            rule.fault.clone()
        });
        let failed = fault.is_some();
        self.arrivals.lock().push(Arrival { method: method.to_owned(), path, at: Instant::now(), failed });
        fault
    }
}

/// Counts a request that hangs, until its client hangs up.
struct Hanging(Arc<Shared>);

impl Drop for Hanging {
    fn drop(&mut self) {
        *self.0.hanging.lock() -= 1;
    }
}

async fn pass(
    State((shared, server)): State<(Arc<Shared>, Client)>,
    request: Request,
) -> Response<axum::body::Body> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    match shared.judge(parts.method.as_str(), path.clone()) {
        None => {}
        Some(ApiFault::Hang) => {
            *shared.hanging.lock() += 1;
            let _hanging = Hanging(shared);
            return std::future::pending().await;
        }
        Some(ApiFault::Answer { code, reason, retry_after }) => {
            return answer(code, reason, &path, retry_after);
        }
    }
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    parts.headers.remove(header::HOST);
    parts.uri = path.parse::<Uri>().unwrap_or_default();
    match server.send(Request::from_parts(parts, Body::from(body.to_vec()))).await {
        Ok(answer) => answer.map(axum::body::Body::new),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

fn answer(code: u16, reason: &str, path: &str, retry_after: Option<u32>) -> Response<axum::body::Body> {
    let message = match code {
        403 => format!("{path} is forbidden: User \"driver\" cannot do that"),
        _ => format!("injected for {path}"),
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": message,
        "details": {"retryAfterSeconds": retry_after.unwrap_or_default()},
    });
    let mut answer = Json(status).into_response();
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}
