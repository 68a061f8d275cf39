//! One exchange over HTTP, with the limits every exchange has.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use trace::Span;
use url::Url;
use zeroize::Zeroizing;

use crate::error::chain;

/// Token answers are a few kilobytes; more is not read.
const LARGEST_ANSWER: usize = 256 * 1024;

/// Each source limits its own attempts. The shared client's limit, made for other services, may be shorter
/// and must not cut them off.
const LONGEST_EXCHANGE: Duration = Duration::from_mins(2);

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3).
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(text).ok()?;
        Some(date.duration_since(std::time::SystemTime::now()).unwrap_or(Duration::ZERO))
    }
}

/// Sends a request and reads the whole answer. The error is a text without secrets: addresses are cut off
/// at their query.
///
/// The request carries the trace in whose scope it is sent, and its id as `client-request-id` too, which Entra
/// and AD FS write into their logs and errors as the correlation id.
pub(crate) async fn send(client: &reqwest::Client, mut request: reqwest::Request) -> Result<Answer, String> {
    let told = |error: reqwest::Error| chain(&error.without_url());
    *request.timeout_mut() = Some(LONGEST_EXCHANGE);
    let mut span = Span::begin(request.method().to_string(), trace::Kind::Client);
    span.tell("http.request.method", request.method());
    // Without its query, which says more than the span is to say.
    span.tell("url.full", without_query(request.url()));
    span.tell("server.address", request.url().host_str().unwrap_or_default());
    span.set("server.port", request.url().port_or_known_default().unwrap_or_default());
    let ids = [
        ("traceparent", span.traceparent()),
        ("client-request-id", span.trace_id().to_guid()),
        // The SDK sends one of its own, which leads nowhere.
        ("x-ms-client-request-id", span.trace_id().to_guid()),
    ];
    for (name, value) in ids {
        if let Ok(value) = HeaderValue::from_maybe_shared(value) {
            request.headers_mut().insert(name, value);
        }
    }
    span.sent();
    let sent = client.execute(request).await.map_err(told).inspect_err(|reason| {
        span.tell("error.type", "unreachable");
        span.fail(reason);
    });
    let mut response = sent?;
    let status = response.status().as_u16();
    span.answered(status);
    let headers = response.headers().clone();
    // Room for a usual answer, so that growing leaves no copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(16 * 1024));
    while let Some(chunk) = response.chunk().await.map_err(told).inspect_err(|reason| span.fail(reason))? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            let reason = format!("the answer is longer than {LARGEST_ANSWER} bytes");
            span.fail(&reason);
            return Err(reason);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, headers, body })
}

/// An address without what may follow its path.
fn without_query(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.to_string()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use reqwest::header::HeaderValue;

    use super::*;

    fn wish(value: &[u8]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_bytes(value).unwrap());
        Answer { status: 429, headers, body: Zeroizing::default() }.retry_after()
    }

    #[test]
    fn a_wish_comes_in_seconds_or_as_a_date() {
        assert_eq!(wish(b" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(wish(b"Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_hours(1));
        assert!(wish(later.as_bytes()).unwrap() > Duration::from_mins(59));
        for garbage in [&b"soon"[..], b"-1", b"1.5", b"", b"\xff", b"99999999999999999999"] {
            assert_eq!(wish(garbage), None);
        }
    }
}
