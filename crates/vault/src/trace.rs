//! One id for everything that is done for one call, from the caller's log to Key Vault's.
//!
//! Requests that are sent within [`TraceId::scope`] carry it: as `traceparent` (<https://www.w3.org/TR/trace-context/>), and
//! as `x-ms-client-request-id`, which Key Vault writes into its diagnostic logs as the correlation id.

use std::{fmt, future::Future};

use reqwest::header::{HeaderMap, HeaderValue};
use ring::rand::{SecureRandom, SystemRandom};

tokio::task_local! {
    static CURRENT: TraceId;
}

/// A trace id. It prints as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceId {
    /// A new one.
    pub fn new() -> Self {
        let mut bytes = [0; 16];
        // Without randomness ids are of no use, and nothing else depends on them.
        let _ = SystemRandom::new().fill(&mut bytes);
        Self(u128::from_be_bytes(bytes))
    }

    /// The id of a `traceparent` header, if it is one of version 00 or later.
    pub fn of_traceparent(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let fits = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && version != "ff";
        // Only later versions may have more parts.
        if !fits || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let id = u128::from_str_radix(trace, 16).ok()?;
        (id != 0 && parent.bytes().any(|byte| byte != b'0')).then_some(Self(id))
    }

    /// The id in whose scope this task runs.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|id| *id).ok()
    }

    /// Runs `work` under this id. Tasks that it spawns have none of their own accord.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// The headers of one request.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        let mut span = [0; 8];
        let _ = SystemRandom::new().fill(&mut span);
        let traceparent = format!("00-{self}-{:016x}-00", u64::from_be_bytes(span) | 1);
        let digits = self.to_string();
        let guid =
            [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits.get(part).unwrap_or_default()).join("-");
        for (name, value) in [("traceparent", traceparent), ("x-ms-client-request-id", guid)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

impl Default for TraceId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_standards_example_is_read_and_passed_on() {
        let id = TraceId::of_traceparent(EXAMPLE).unwrap();
        assert_eq!(id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let mut headers = HeaderMap::new();
        id.write(&mut headers);
        let passed_on = headers["traceparent"].to_str().unwrap();
        assert_eq!(TraceId::of_traceparent(passed_on), Some(id));
        assert_ne!(passed_on.get(36..52), EXAMPLE.get(36..52), "a request is a span of its own");
        assert_eq!(headers["x-ms-client-request-id"], "4bf92f35-77b3-4da6-a3ce-929d0e0e4736");
    }

    #[test]
    fn what_is_not_one_is_not_taken() {
        for header in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceId::of_traceparent(header), None, "{header}");
        }
        assert!(TraceId::of_traceparent(&format!("01{}-more", &EXAMPLE[2..])).is_some(), "a later version");
    }

    #[tokio::test]
    async fn it_holds_within_its_scope_only() {
        let id = TraceId::new();
        assert_eq!(id.scope(async { TraceId::current() }).await, Some(id));
        assert_eq!(TraceId::current(), None);
        assert_ne!(TraceId::new(), id);
    }

    proptest! {
        #[test]
        fn never_panics(header in any::<String>()) {
            let _ = TraceId::of_traceparent(&header);
        }
    }
}
