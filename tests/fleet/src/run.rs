//! One fleet through everything that happens to it: its start, an ordinary hour, an outage and what comes after.

use crate::node::{Diary, Load, start};
use crate::service::{Second, Service, WINDOW};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A fleet and what happens to it.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    /// Nodes on the vault that are played.
    pub nodes: u32,
    /// Each stands for so many, and [`Fleet::limit`] for as much more; 1 where every node is played.
    pub scale: u32,
    /// What is on each.
    pub load: Load,
    /// Requests that the vault answers in ten seconds; [`crate::service::LIMIT`] for a real one.
    pub limit: usize,
    /// All nodes join within this time.
    pub joining: Duration,
    /// Then everything goes its way for so long; halfway through, every object gets a new version.
    pub quiet: Duration,
    /// Then nobody gets a connection for so long.
    pub outage: Duration,
    /// Then everything goes its way again.
    pub after: Duration,
    /// Makes it the same each time.
    pub seed: u64,
}

/// Times of many pods, in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// How many.
    pub number: usize,
    /// Half of them took no longer.
    pub median: f64,
    /// One in a hundred took longer.
    pub p99: f64,
    /// None took longer.
    pub longest: f64,
}

/// Requests of a stretch of time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requests {
    /// Answered.
    pub served: u64,
    /// Throttled.
    pub throttled: u64,
    /// Without a connection.
    pub refused: u64,
    /// The most that arrived in ten seconds, throttled ones included.
    pub busiest: u64,
    /// The average of ten seconds, throttled ones included.
    pub average: f64,
}

/// How a fleet fared.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The fleet.
    pub fleet: Fleet,
    /// Requests while it started.
    pub starting: Requests,
    /// From the first call for a pod to its mount.
    pub mounts: Times,
    /// Mount calls that failed and were repeated by the kubelet.
    pub failed_mounts: u64,
    /// Requests while all was quiet.
    pub quiet: Requests,
    /// From the change of all objects until a pod showed it; pods that did not in time are not among them.
    pub rotation: Times,
    /// Requests during the outage.
    pub down: Requests,
    /// Requests after it.
    pub after: Requests,
    /// From the end of the outage until Key Vault had been asked for a pod's content again.
    pub recovery: Times,
}

impl Times {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut sorted: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied().unwrap_or(f64::NAN)
        };
        Self { number: sorted.len(), median: rank(50), p99: rank(99), longest: rank(100) }
    }
}

impl Requests {
    fn of(seconds: &[Second], from: Duration, to: Duration) -> Self {
        let second = |moment: Duration| usize::try_from(moment.as_secs()).expect("a few thousand");
        let stretch = seconds.get(second(from)..second(to).min(seconds.len())).unwrap_or_default();
        let sum = |of: fn(&Second) -> u32| stretch.iter().map(|second| u64::from(of(second))).sum::<u64>();
        let all = |second: &Second| u64::from(second.served + second.throttled + second.refused);
        let window = second(WINDOW);
        let busiest = stretch.windows(window).map(|seconds| seconds.iter().map(all).sum()).max();
        let total: u64 = stretch.iter().map(all).sum();
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let average = total as f64 * WINDOW.as_secs_f64() / to.saturating_sub(from).as_secs_f64();
        Self {
            served: sum(|second| second.served),
            throttled: sum(|second| second.throttled),
            refused: sum(|second| second.refused),
            busiest: busiest.unwrap_or(total),
            average,
        }
    }
}

impl Fleet {
    /// Pods of the whole fleet.
    pub fn pods(&self) -> usize {
        self.nodes as usize * self.load.pods
    }

    /// Plays it through, on a clock of its own.
    pub fn run(self) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime without I/O").block_on(self.play())
    }

    async fn play(self) -> Outcome {
        let begin = Instant::now();
        let (service, diary) =
            (Arc::new(Service::new(self.limit, self.seed)), Arc::new(Mutex::new(Diary::default())));
        for node in 0..self.nodes {
            start(node, self.load, self.seed, self.joining, &service, &diary);
        }
        // Pods that come last have time to be mounted before the quiet is measured.
        let quiet = self.joining + Duration::from_secs(180);
        let down = quiet + self.quiet;
        let up = down + self.outage;
        let end = up + self.after;
        let change = quiet + self.quiet / 2;
        sleep_until(begin + change).await;
        service.change();
        sleep_until(begin + down).await;
        service.set_down(true);
        sleep_until(begin + up).await;
        service.set_down(false);
        sleep_until(begin + end).await;

        let (seconds, diary) = (service.seconds(), diary.lock());
        let changed = diary.shown.iter().filter(|(version, at)| *version == 2 && *at < begin + down);
        let mut recovered: BTreeMap<u32, Duration> = BTreeMap::new();
        for (at, pod) in diary.looks.iter().filter(|(at, _)| *at >= begin + up) {
            recovered.entry(*pod).or_insert(*at - (begin + up));
        }
        Outcome {
            fleet: self,
            starting: Requests::of(&seconds, Duration::ZERO, quiet),
            mounts: Times::of(diary.mounts.iter().copied()),
            failed_mounts: diary.failed_mounts,
            quiet: Requests::of(&seconds, quiet, down),
            rotation: Times::of(changed.map(|(_, at)| *at - (begin + change))),
            down: Requests::of(&seconds, down, up),
            after: Requests::of(&seconds, up, end),
            recovery: Times::of(recovered.into_values()),
        }
    }
}
