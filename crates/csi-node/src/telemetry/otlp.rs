//! Sends spans to a collector: OTLP over HTTP, in protobuf (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).
//!
//! Calls of the kubelet never wait for it. They put their spans into a queue with an end; what finds it full, and what the collector
//! does not take after some tries, is dropped and counted.

mod message;
mod settings;

pub use settings::Settings;

use crate::kubernetes::jittered;
use crate::metrics::spans::SpanMetrics;
use parking_lot::Mutex;
use prost::Message;
use proto::otlp::ExportResponse;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use trace::{Finished, Recorder};

/// Spans that wait to be sent, some 300 bytes each.
const QUEUE: usize = 2048;
/// Spans in one request.
const BATCH: usize = 512;
/// Tries for one batch. A collector that restarts is back by the last of them.
const TRIES: u32 = 4;
/// The wait after the first try; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// A collector that wants to be left in peace longer than this is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// What is read of an answer.
const LARGEST_ANSWER: usize = 64 << 10;

/// Sends spans in the background.
#[derive(Debug)]
pub(super) struct Exporter {
    queue: Arc<Queue>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Where spans wait.
#[derive(Debug)]
struct Queue {
    spans: mpsc::Sender<Finished>,
    metrics: Arc<SpanMetrics>,
}

impl Recorder for Queue {
    fn ended(&self, span: Finished) {
        if self.spans.try_send(span).is_err() {
            self.metrics.dropped(1);
        }
    }
}

impl Exporter {
    /// Begins to send.
    pub(super) fn start(settings: Settings, client: reqwest::Client, metrics: Arc<SpanMetrics>) -> Self {
        let (sender, spans) = mpsc::channel(QUEUE);
        let (stop, stopped) = watch::channel(false);
        let sending = Sending { settings, client, metrics: Arc::clone(&metrics), failing: false, stopped };
        let task = Mutex::new(Some(tokio::spawn(sending.run(spans))));
        Self { queue: Arc::new(Queue { spans: sender, metrics }), stop, task }
    }

    /// Where to put spans.
    pub(super) fn recorder(&self) -> Arc<dyn Recorder> {
        Arc::clone(&self.queue) as Arc<dyn Recorder>
    }

    /// Sends what is there, within this time.
    pub(super) async fn finish(&self, limit: Duration) {
        self.stop.send_replace(true);
        let task = self.task.lock().take();
        if let Some(mut task) = task
            && timeout(limit, &mut task).await.is_err()
        {
            tracing::warn!(limit_s = limit.as_secs(), "the collector did not take the last spans in time");
            task.abort();
        }
    }
}

struct Sending {
    settings: Settings,
    client: reqwest::Client,
    metrics: Arc<SpanMetrics>,
    /// The last batch was not taken. That is told once.
    failing: bool,
    stopped: watch::Receiver<bool>,
}

/// Why a batch was not taken.
struct Refused {
    reason: String,
    /// Whether it may be taken later.
    may_pass: bool,
    /// How long the collector wants to be left in peace.
    wish: Option<Duration>,
}

impl Sending {
    async fn run(mut self, mut spans: mpsc::Receiver<Finished>) {
        // An error means that the sender is gone, which is a stop too.
        let mut stop = self.stopped.clone();
        while !*stop.borrow() {
            let mut batch = Vec::new();
            tokio::select! {
                count = spans.recv_many(&mut batch, BATCH) => if count == 0 { return },
                _ = stop.wait_for(|stop| *stop) => break,
            }
            // The spans of a call end one after another, and so do those of a burst.
            let more = async { while batch.len() < BATCH && spans.recv_many(&mut batch, BATCH).await > 0 {} };
            tokio::select! {
                _ = timeout(self.settings.delay, more) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
            self.send(batch).await;
        }
        let mut batch = Vec::new();
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
        }
        if !batch.is_empty() {
            self.send(batch).await;
        }
    }

    /// Sends spans, several times if need be. When the process is to end, there is one more try, at once.
    async fn send(&mut self, spans: Vec<Finished>) {
        let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
        let body = message::encode(&self.settings.resource, spans);
        let mut tries = 1;
        let refused = loop {
            let refused = match self.post(body.clone()).await {
                Ok(rejected) => {
                    self.metrics.exported(count.saturating_sub(rejected));
                    self.metrics.dropped(rejected);
                    if std::mem::take(&mut self.failing) {
                        tracing::info!(collector = %self.settings.shown(), "spans are exported again");
                    }
                    return;
                }
                Err(refused) => refused,
            };
            let wait = refused.wish.unwrap_or_else(|| jittered(FIRST_WAIT * (1 << (tries - 1))));
            if !refused.may_pass || tries == TRIES || wait > LONGEST_WAIT || *self.stopped.borrow() {
                break refused;
            }
            tries += 1;
            let mut stopped = self.stopped.clone();
            tokio::select! {
                () = sleep(wait) => {}
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        };
        self.metrics.dropped(count);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                collector = %self.settings.shown(), reason = refused.reason, spans = count,
                "spans are not exported, and dropped while that is so; nothing else depends on them"
            );
        }
    }

    /// One request. Gives how many spans of it the collector did not want.
    async fn post(&self, body: Vec<u8>) -> Result<u64, Refused> {
        let lost = |error: reqwest::Error| {
            let reason = crate::error::chain(&error.without_url());
            Refused { reason, may_pass: true, wish: None }
        };
        let request = self
            .client
            .post(self.settings.endpoint.clone())
            .headers(self.settings.headers.clone())
            .header(reqwest::header::CONTENT_TYPE, "application/x-protobuf")
            .timeout(self.settings.timeout)
            .body(body);
        let mut response = request.send().await.map_err(lost)?;
        let status = response.status();
        if !status.is_success() {
            let wish = response.headers().get(reqwest::header::RETRY_AFTER);
            let wish = wish.and_then(|wish| wish.to_str().ok()?.parse().ok()).map(Duration::from_secs);
            // These four may be tried again, by the specification.
            let may_pass = matches!(status.as_u16(), 429 | 502 | 503 | 504);
            return Err(Refused { reason: format!("HTTP {}", status.as_u16()), may_pass, wish });
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            answer.extend_from_slice(&chunk);
            if answer.len() > LARGEST_ANSWER {
                break;
            }
        }
        // What cannot be read does not say that anything was rejected.
        let partial = ExportResponse::decode(&*answer).ok().and_then(|answer| answer.partial_success);
        Ok(partial.map_or(0, |partial| partial.rejected_spans.try_into().unwrap_or(0)))
    }
}
