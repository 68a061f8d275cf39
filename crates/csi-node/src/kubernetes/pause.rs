//! Leaving the API server alone when it asks for that.
//!
//! An API server that has too much to do answers 429, or 503, and says in `Retry-After` when to come back. It means whoever asked,
//! and all of this node's requests count as one asker. So there is one pause for all of them: a short one is waited for, and
//! during a long one requests are answered here, with what the API server has said, so that whoever needs an answer can tell why
//! there is none, and try later as after any failure.

use super::{backoff, jittered};
use axum::http::{Request, Response, StatusCode, header};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Sends of one request, if it is only put off each time.
const SENDS: u32 = 4;
/// The longest pause that is waited for. All calls have more time than this.
const WAITED_FOR: Duration = Duration::from_secs(2);
/// The longest pause that is believed.
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Instant,
    code: StatusCode,
}

/// The same client, for requests that keep to the API server's pauses.
pub(super) fn heeding(client: Client, namespace: String) -> Client {
    let pause = Arc::<Mutex<Option<Pause>>>::default();
    let service =
        tower::service_fn(move |request: Request<Body>| send(client.clone(), Arc::clone(&pause), request));
    Client::new(service, namespace)
}

async fn send(
    client: Client,
    pause: Arc<Mutex<Option<Pause>>>,
    request: Request<Body>,
) -> Result<Response<Body>, kube::Error> {
    let (parts, body) = request.into_parts();
    for attempt in 1..SENDS {
        // A body that comes in pieces can be sent once only.
        let Some(copy) = body.try_clone() else { break };
        if let Some(answer) = heed(&pause).await {
            return Ok(answer);
        }
        let answer = client.send(Request::from_parts(parts.clone(), copy)).await?;
        match put_off(&answer, &pause) {
            None => return Ok(answer),
            Some(PutOff::ForAWhile) => {}
            Some(PutOff::NotSaid) => sleep(backoff(attempt) / 4).await,
        }
    }
    if let Some(answer) = heed(&pause).await {
        return Ok(answer);
    }
    let answer = client.send(Request::from_parts(parts, body)).await?;
    put_off(&answer, &pause);
    Ok(answer)
}

/// Waits for the end of a pause; the answer to give instead where that is too far away.
async fn heed(pause: &Mutex<Option<Pause>>) -> Option<Response<Body>> {
    let (left, code) = loop {
        let Pause { until, code } = (*pause.lock())?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        if left > WAITED_FOR {
            break (left.as_secs() + 1, code);
        }
        // Another answer may make it longer meanwhile.
        sleep_until(until).await;
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "TooManyRequests", "code": 429,
        "message": format!(
            "not sent: the API server has answered {} and wants to be left alone for {left} s more", code.as_u16()
        ),
    });
    let mut answer = Response::new(Body::from(status.to_string().into_bytes()));
    *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    Some(answer)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PutOff {
    /// Until a time that the API server has said.
    ForAWhile,
    /// It has not said until when.
    NotSaid,
}

/// Whether an answer is that the request is to be sent again, and for all: when.
fn put_off(answer: &Response<Body>, pause: &Mutex<Option<Pause>>) -> Option<PutOff> {
    let code = answer.status();
    if !matches!(
        code,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    ) {
        return None;
    }
    let said = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = said.and_then(|text| text.trim().parse().ok());
    let Some(asked) = seconds.map(Duration::from_secs).filter(|asked| !asked.is_zero()) else {
        return Some(PutOff::NotSaid);
    };
    let asked = asked.min(LONGEST);
    // Up to a quarter more, so that those who were sent away together do not come back together.
    let until = Instant::now() + asked + jittered(asked / 8);
    let mut pause = pause.lock();
    if pause.is_none_or(|pause| pause.until < until) {
        if asked > WAITED_FOR {
            tracing::warn!(
                code = code.as_u16(),
                retry_after_s = asked.as_secs(),
                "the API server wants to be left alone: nothing is asked of it until then"
            );
        }
        *pause = Some(Pause { until, code });
    }
    Some(PutOff::ForAWhile)
}
