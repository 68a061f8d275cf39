//! The kubelet's periods, deadlines and back-off, all in one place and all adjustable.

use std::time::Duration;

/// How long the kubelet waits for what. [`Timings::default`] is the real kubelet's; [`Timings::fast`] suits tests.
#[derive(Clone, Debug)]
pub struct Timings {
    /// Between two looks at the registration folder.
    pub scan: Duration,
    /// To connect to a new registration socket.
    pub dial: Duration,
    /// For `GetInfo` on a registration socket.
    pub get_info: Duration,
    /// For `NotifyRegistrationStatus`.
    pub notify: Duration,
    /// For each call on the CSI socket, `NodeGetInfo` at registration included.
    pub csi_call: Duration,
    /// Between attempts at an operation that failed: a registration, a mount, an unmount.
    pub backoff: BackoffPolicy,
    /// Between two publishes of a mounted volume whose driver asked for `requiresRepublish`.
    pub republish: RepublishPeriod,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            scan: Duration::from_secs(1),
            dial: Duration::from_secs(10),
            get_info: Duration::from_secs(1),
            notify: Duration::from_secs(5),
            csi_call: Duration::from_mins(2),
            backoff: BackoffPolicy::default(),
            republish: RepublishPeriod::default(),
        }
    }
}

impl Timings {
    /// Looks at the registration folder fifty times a second and retries after 10 ms to 200 ms; deadlines and the republish
    /// period stay the real kubelet's.
    pub fn fast() -> Self {
        Self {
            scan: Duration::from_millis(20),
            backoff: BackoffPolicy { initial: Duration::from_millis(10), max: Duration::from_millis(200) },
            ..Self::default()
        }
    }
}

/// Exponential back-off: the first wait is `initial`, each further one twice the last, none longer than `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// Wait after the first failure.
    pub initial: Duration,
    /// Longest wait.
    pub max: Duration,
}

impl Default for BackoffPolicy {
    /// 500 ms doubling up to 2 min 2 s.
    fn default() -> Self {
        Self { initial: Duration::from_millis(500), max: Duration::from_secs(122) }
    }
}

/// The back-off of one operation on one thing.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    failures: u32,
}

impl Backoff {
    /// Nothing has failed yet.
    pub fn new(policy: BackoffPolicy) -> Self {
        Self { policy, failures: 0 }
    }

    /// Counts one more failure in a row and says how long to wait before the next attempt.
    pub fn failed(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        self.policy.initial.checked_mul(factor).map_or(self.policy.max, |wait| wait.min(self.policy.max))
    }

    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row so far.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

/// When a mounted volume is published again: a random time between `base` and `base` + `jitter`, drawn anew each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepublishPeriod {
    /// Shortest period.
    pub base: Duration,
    /// What may be added to it.
    pub jitter: Duration,
}

impl Default for RepublishPeriod {
    /// 60–90 s: the kubelet synchronises each pod every minute, stretched by a random half at most.
    fn default() -> Self {
        Self { base: Duration::from_mins(1), jitter: Duration::from_secs(30) }
    }
}

impl RepublishPeriod {
    pub(crate) fn draw(&self) -> Duration {
        self.drawn(rand::random::<f64>())
    }

    /// The period for a random number between 0 and 1.
    pub fn drawn(&self, random: f64) -> Duration {
        self.base + self.jitter.mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_from_half_a_second_to_two_minutes_and_two_seconds() {
        let mut backoff = Backoff::new(BackoffPolicy::default());
        let waits: Vec<u128> = (0..10).map(|_| backoff.failed().as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 122_000, 122_000]);
        for _ in 0..100 {
            assert_eq!(backoff.failed(), Duration::from_secs(122), "no overflow after many failures");
        }
        backoff.succeeded();
        assert_eq!(backoff.failed(), Duration::from_millis(500));
    }

    #[test]
    fn the_republish_period_is_drawn_anew_within_its_bounds() {
        let period = RepublishPeriod::default();
        let drawn: Vec<Duration> = (0..200).map(|_| period.draw()).collect();
        assert!(drawn.iter().all(|d| (Duration::from_mins(1)..=Duration::from_secs(90)).contains(d)));
        assert!(drawn.iter().any(|d| *d != drawn[0]));
    }
}
