//! A collector of traces that keeps what it is sent: OTLP over HTTP.

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use prost::bytes::Bytes;
use proto::otlp::any_value::Value;
use proto::otlp::{ExportRequest, KeyValue, Span};
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);
/// Instead of a status: no answer at all.
const SILENCE: u16 = 0;

/// A running collector; it ends with this value.
#[derive(Debug)]
pub struct Collector {
    url: String,
    kept: Arc<Kept>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Kept {
    spans: Mutex<Vec<Recorded>>,
    requests: watch::Sender<usize>,
    headers: Mutex<Vec<String>>,
    answer: AtomicU16,
}

/// A span, and what its process says of itself.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The span as it was sent.
    pub span: Span,
    /// The attributes of its process.
    pub resource: Vec<KeyValue>,
}

impl Collector {
    /// Takes spans at an address of the loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let kept = Arc::new(Kept {
            spans: Mutex::default(),
            requests: watch::Sender::new(0),
            headers: Mutex::default(),
            answer: AtomicU16::new(200),
        });
        let keeper = Arc::clone(&kept);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&keeper);
                let service = service_fn(move |request| take(Arc::clone(&kept), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A connection that breaks is the driver's to notice.
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        Self { url, kept, task }
    }

    /// The value for `--otlp-endpoint`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Answers with this status from here on.
    pub fn answer(&self, status: u16) {
        self.kept.answer.store(status, Ordering::Relaxed);
    }

    /// Takes requests from here on and answers none.
    pub fn fall_silent(&self) {
        self.answer(SILENCE);
    }

    /// Waits until so many requests have come, answered or not.
    pub async fn wait_for_requests(&self, count: usize) {
        let mut requests = self.kept.requests.subscribe();
        let come = requests.wait_for(|requests| *requests >= count);
        timeout(PATIENCE, come).await.expect("requests come").expect("the collector lives");
    }

    /// All spans that were taken.
    pub fn spans(&self) -> Vec<Recorded> {
        self.kept.spans.lock().clone()
    }

    /// The header `authorization` of each request, empty where there is none.
    pub fn authorizations(&self) -> Vec<String> {
        self.kept.headers.lock().clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Recorded {
    /// An attribute in words.
    pub fn attribute(&self, key: &str) -> Option<String> {
        find(&self.span.attributes, key)
    }

    /// What its process says of itself.
    pub fn resource(&self, key: &str) -> Option<String> {
        find(&self.resource, key)
    }

    /// The trace id, as in logs.
    pub fn trace(&self) -> String {
        hexadecimal(&self.span.trace_id)
    }

    /// The id, as in `traceparent`.
    pub fn id(&self) -> String {
        hexadecimal(&self.span.span_id)
    }

    /// The id of what it is a part of; empty for the first of a trace.
    pub fn parent(&self) -> String {
        hexadecimal(&self.span.parent_span_id)
    }
}

fn find(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|pair| pair.key == key)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

async fn take(kept: Arc<Kept>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = |status: u16| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
        Ok(response)
    };
    if request.uri().path() != "/v1/traces"
        || request.headers().get("content-type").is_none_or(|kind| kind != "application/x-protobuf")
    {
        return answer(404);
    }
    let secret = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    kept.headers.lock().push(secret.unwrap_or_default().to_owned());
    let Ok(body) = request.into_body().collect().await else { return answer(400) };
    let Ok(export) = ExportRequest::decode(body.to_bytes()) else { return answer(400) };
    let status = kept.answer.load(Ordering::Relaxed);
    if status == 200 {
        let mut spans = kept.spans.lock();
        for process in export.resource_spans {
            let resource = process.resource.map(|resource| resource.attributes).unwrap_or_default();
            for span in process.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Recorded { span, resource: resource.clone() });
            }
        }
    }
    kept.requests.send_modify(|requests| *requests += 1);
    if status == SILENCE {
        std::future::pending::<()>().await;
    }
    answer(status)
}
