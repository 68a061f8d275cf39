//! How fresh a volume has to be, and when a mounted one is looked after.
//!
//! Three bounds, and nothing else decides how often Key Vault is asked:
//!
//! * a new mount takes values that another volume of the same identity fetched a moment ago ([`Schedule::mount_freshness`]);
//! * a mounted volume is looked after when its content is as old as its interval, at the next call of the kubelet;
//! * when Key Vault cannot be asked, a value may be older than that, up to [`Schedule::stale_if_error`].
//!
//! Nodes that start together must not ask together for ever: each takes a little less than the interval, another part of it
//! for each class. Volumes of one class on one node share it, and so what is fetched.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::time::Duration;
use tokio::time::Instant;
use vault::Priority;

/// The part of an interval that is given away so that nodes drift apart.
const SPREAD: f64 = 0.2;

/// The operator's choices about freshness.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Look again at Key Vault when the kubelet calls for a mounted volume.
    pub rotation: bool,
    /// How long the content of a mounted volume is fresh, where its class does not say.
    pub interval: Duration,
    /// How old a value fetched for another volume may be to serve a new mount; zero to ask for every mount.
    pub mount_freshness: Duration,
    /// How old a value may be that stands in when Key Vault cannot be asked; zero for never.
    pub stale_if_error: Duration,
    /// What makes the part of an interval that this node gives away differ from others'.
    pub seed: u64,
}

/// What is known of a volume when the kubelet calls for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It is not mounted, or not completely.
    Nothing,
    /// It was mounted before this process started.
    Mounted,
    /// Somebody has asked for a look at Key Vault.
    RefreshAsked,
    /// It shows what Key Vault held at this moment.
    Checked {
        /// When the oldest part of its content was asked for.
        at: Instant,
        /// How long that is good for by its class.
        interval: Duration,
    },
}

/// What to accept from Key Vault, or from whoever has asked it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// How old a value may be.
    pub max_age: Duration,
    /// How old a value may be when Key Vault cannot be asked.
    pub stale_if_error: Duration,
    /// Whether a pod waits for it.
    pub priority: Priority,
}

impl Freshness {
    /// What Key Vault itself says now, and nothing else.
    pub const NOW: Self =
        Self { max_age: Duration::ZERO, stale_if_error: Duration::ZERO, priority: Priority::Rotation };
}

impl Schedule {
    /// Another seed at each start.
    pub fn seed() -> u64 {
        RandomState::new().build_hasher().finish()
    }

    /// What to accept for a volume of this class that the kubelet calls for; `None` when it is fresh as it is.
    pub fn look(&self, namespace: &str, class: &str, known: Known) -> Option<Freshness> {
        let rotation = |interval: Duration| Freshness {
            max_age: self.shortened(interval, namespace, class),
            stale_if_error: self.stale_if_error,
            priority: Priority::Rotation,
        };
        match known {
            Known::Nothing => Some(Freshness {
                max_age: self.mount_freshness,
                stale_if_error: self.stale_if_error,
                priority: Priority::Mount,
            }),
            Known::RefreshAsked => Some(Freshness::NOW),
            _ if !self.rotation => None,
            Known::Mounted => Some(rotation(self.interval)),
            Known::Checked { at, interval } => {
                let wanted = rotation(interval);
                // A value exactly as old as is accepted is accepted.
                (at.elapsed() > wanted.max_age || interval.is_zero()).then_some(wanted)
            }
        }
    }

    /// This node's share of an interval, always the same for one class.
    pub fn shortened(&self, interval: Duration, namespace: &str, class: &str) -> Duration {
        let mut hasher = DefaultHasher::new();
        (self.seed, namespace, class).hash(&mut hasher);
        let part = u32::try_from(hasher.finish() >> 32).unwrap_or(u32::MAX);
        interval.mul_f64(1.0 - SPREAD * f64::from(part) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(120);

    fn schedule(seed: u64) -> Schedule {
        Schedule {
            rotation: true,
            interval: INTERVAL,
            mount_freshness: Duration::from_secs(5),
            stale_if_error: Duration::from_secs(3600),
            seed,
        }
    }

    fn checked() -> Known {
        Known::Checked { at: Instant::now(), interval: INTERVAL }
    }

    /// After how many seconds a volume is looked after that the kubelet calls for every second.
    async fn due_after(schedule: &Schedule, class: &str) -> u64 {
        let (known, start) = (checked(), Instant::now());
        while schedule.look("ns", class, known).is_none() {
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn content_is_never_older_than_its_interval_and_nodes_drift_apart() {
        let mut due = Vec::new();
        for seed in 0..200 {
            due.push(due_after(&schedule(seed), "kv").await);
        }
        assert!(due.iter().all(|seconds| (96..=120).contains(seconds)), "{due:?}");
        for early in [96..104, 104..112, 112..121] {
            let nodes = due.iter().filter(|seconds| early.contains(*seconds)).count();
            assert!((40..=90).contains(&nodes), "{nodes} of 200 nodes within {early:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn volumes_of_one_class_are_due_together_and_take_what_the_first_has_fetched() {
        let schedule = schedule(3);
        let first = due_after(&schedule, "kv").await;
        assert_eq!(first, due_after(&schedule, "kv").await);
        // What the first one fetches now is young enough for the second, which is due a little later.
        let wanted = schedule.look("ns", "kv", Known::Mounted).unwrap();
        assert!(wanted.max_age >= Duration::from_secs(first - 1));
        let classes: std::collections::BTreeSet<Duration> = (0..50)
            .map(|class| schedule.look("ns", &class.to_string(), Known::Mounted).unwrap().max_age)
            .collect();
        assert!(classes.len() > 40, "classes are apart too");
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_call_has_its_bounds() {
        let schedule = schedule(1);
        let mount = schedule.look("ns", "kv", Known::Nothing).unwrap();
        assert_eq!((mount.max_age.as_secs(), mount.priority), (5, Priority::Mount));
        assert_eq!(mount.stale_if_error.as_secs(), 3600);
        assert_eq!(schedule.look("ns", "kv", Known::RefreshAsked), Some(Freshness::NOW));
        assert_eq!(schedule.look("ns", "kv", checked()), None);
        let off = Schedule { rotation: false, ..schedule.clone() };
        tokio::time::advance(INTERVAL * 2).await;
        assert_eq!(off.look("ns", "kv", Known::Mounted), None);
        assert_eq!(off.look("ns", "kv", Known::RefreshAsked), Some(Freshness::NOW));
        assert!(off.look("ns", "kv", Known::Nothing).is_some());
        // Without an interval every call looks.
        let eager = Known::Checked { at: Instant::now(), interval: Duration::ZERO };
        assert_eq!(schedule.look("ns", "kv", eager).unwrap().max_age, Duration::ZERO);
    }
}
