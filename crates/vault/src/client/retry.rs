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

/// The wait before retry number `retry` (from 0): 1, 2, 4, 8, 16 seconds.
///
/// Key Vault asks for this whether or not a response carries `Retry-After`
/// (<https://learn.microsoft.com/azure/key-vault/general/overview-throttling>).
pub(super) fn backoff(retry: u32) -> Duration {
    Duration::from_secs(1 << retry.min(4))
}

/// Chance, so that nodes that failed together do not come back together.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// The same sequence for the same seed; another one at each start without.
    pub(super) fn new(seed: Option<u64>) -> Self {
        // A hasher's random seed is randomness enough, and needs no generator.
        Self(seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()))
    }

    /// Dice of another sequence.
    pub(super) fn another(&mut self) -> Self {
        Self(self.next())
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// From nothing to all of it.
    pub(super) fn up_to(&mut self, wait: Duration) -> Duration {
        let random = u32::try_from(self.next() >> 32).unwrap_or(u32::MAX / 2);
        wait.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// A quarter more or less.
    pub(super) fn around(&mut self, wait: Duration) -> Duration {
        wait * 3 / 4 + self.up_to(wait / 2)
    }
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
            let mut dice = Dice::new(None);
            for _ in 0..50 {
                let wait = dice.around(backoff(retry)).as_secs_f64();
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

    #[test]
    fn dice_fall_alike_for_one_seed_and_differ_without() {
        let throw = |seed| Dice::new(seed).another().up_to(Duration::from_secs(1_000_000));
        assert_eq!(throw(Some(7)), throw(Some(7)));
        assert_ne!(throw(Some(7)), throw(Some(8)));
        assert_ne!(throw(None), throw(None));
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
