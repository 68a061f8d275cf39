//! When to ask again.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::{Duration, SystemTime},
};

use reqwest::header::HeaderMap;

/// How often one request is tried again.
pub(super) const MOST_RETRIES: u32 = 5;
/// How often a connection that failed is tried again: a wrong name should not take a minute to be told.
pub(super) const MOST_RECONNECTS: u32 = 2;

/// The wait before retry number `retry` (from 0): 1, 2, 4, 8, 16 seconds, a quarter more or less.
///
/// Key Vault asks for this whether or not a response carries `Retry-After`
/// (<https://learn.microsoft.com/azure/key-vault/general/overview-throttling>).
pub(super) fn backoff(retry: u32) -> Duration {
    jittered(Duration::from_secs(1 << retry.min(4)))
}

/// `wait`, a quarter more or less, so that nodes that failed together do not come back together.
fn jittered(wait: Duration) -> Duration {
    // A hasher's random seed is randomness enough, and needs no generator.
    let random = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(u32::MAX / 2);
    wait.mul_f64(0.75 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

/// What the vault asks for: `retry-after-ms`, `x-ms-retry-after-ms`, or `Retry-After` in seconds or as a date.
pub(super) fn asked_for(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let header = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    for name in ["retry-after-ms", "x-ms-retry-after-ms"] {
        if let Some(milliseconds) = header(name).and_then(|text| text.parse().ok()) {
            return Some(Duration::from_millis(milliseconds));
        }
    }
    let text = header("retry-after")?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_and_stay_near_their_mark() {
        for (retry, seconds) in [(0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0), (9, 16.0)] {
            for _ in 0..50 {
                let wait = backoff(retry).as_secs_f64();
                assert!((seconds * 0.75..=seconds * 1.25).contains(&wait), "{retry}: {wait}");
            }
        }
    }

    #[test]
    fn headers() {
        let now = httpdate::parse_http_date("Tue, 15 Nov 1994 08:12:31 GMT").unwrap();
        for (name, text, wait) in [
            ("retry-after", "7", Some(Duration::from_secs(7))),
            ("retry-after", "Tue, 15 Nov 1994 08:12:41 GMT", Some(Duration::from_secs(10))),
            ("retry-after", "Tue, 15 Nov 1994 08:00:00 GMT", Some(Duration::ZERO)),
            ("retry-after", "soon", None),
            ("retry-after", "-1", None),
            ("retry-after-ms", "250", Some(Duration::from_millis(250))),
            ("x-ms-retry-after-ms", "250", Some(Duration::from_millis(250))),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, text.parse().unwrap());
            assert_eq!(asked_for(&headers, now), wait, "{name}: {text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[ -~]{0,40}") {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", text.parse().unwrap());
            let _ = asked_for(&headers, SystemTime::UNIX_EPOCH);
        }
    }
}
