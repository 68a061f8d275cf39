//! What is done at the API server for mounted volumes: synced Secrets, status objects, events.

use super::catalogue::{
    EVENTS_DROPPED, FOLLOW_UP_FAILURES, FOLLOW_UPS, POD_STATUS, SECRET_CONFLICTS, SYNC_SECRET,
    SYNC_SECRET_DURATION, SYNC_SECRET_FAILURES,
};
use super::collect::{NO_LABELS, Scrape, counter, gauge};
use super::labels::Bounded;
use super::registry::{Registries, SECONDS_OF_DRIVER, Seconds, seconds};
use crate::driver::AZURE;
use crate::reporting::Reporting;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// More providers than any cluster has.
const MOST_PROVIDERS: usize = 16;
/// More classes in conflict than anybody looks at one by one.
const MOST_CONFLICTS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Provider {
    provider: Arc<str>,
}

/// Two classes, as namespace/name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Conflict {
    class: Arc<str>,
    other: Arc<str>,
}

/// Counts what is done for synced Secrets, and asks at each scrape what else has been done.
#[derive(Debug)]
pub struct ObjectMetrics {
    providers: Bounded,
    synced: Family<Provider, Counter>,
    sync_failed: Counter,
    classes: Bounded,
    conflicts: Family<Conflict, Counter>,
    sync_took: Seconds,
    reporting: Arc<Watched>,
}

/// Who tells the cluster; nobody at first.
#[derive(Default)]
struct Watched(OnceLock<Reporting>);

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl ObjectMetrics {
    pub(super) fn register(to: &mut Registries) -> Self {
        let reporting = Arc::<Watched>::default();
        to.collector(Scrape(Arc::clone(&reporting)));
        let objects = Self {
            providers: Bounded::new(MOST_PROVIDERS),
            synced: to.driver(&SYNC_SECRET, Family::default()),
            sync_failed: to.own(&SYNC_SECRET_FAILURES, Counter::default()),
            classes: Bounded::new(MOST_CONFLICTS),
            conflicts: to.own(&SECRET_CONFLICTS, Family::default()),
            sync_took: to.driver(&SYNC_SECRET_DURATION, Seconds::new(SECONDS_OF_DRIVER)),
            reporting,
        };
        let _ = objects.synced.get_or_create(&Provider { provider: objects.providers.label(AZURE) });
        objects
    }

    /// Says whose work to show. The first one counts.
    pub fn watch(&self, reporting: Reporting) {
        let _ = self.reporting.0.set(reporting);
    }

    /// One Kubernetes Secret was created or brought up to date, which took so long, requests included.
    pub fn secret_synced(&self, provider: &str, took: Duration) {
        self.synced.get_or_create(&Provider { provider: self.providers.label(provider) }).inc();
        self.sync_took.observe(seconds(took));
    }

    /// One Kubernetes Secret of a class was left alone, because another class writes it too.
    pub fn two_classes(&self, namespace: &str, class: &str, other: &str) {
        let label = |class: &str| self.classes.label(&format!("{namespace}/{class}"));
        self.conflicts.get_or_create(&Conflict { class: label(class), other: label(other) }).inc();
    }

    /// One Kubernetes Secret could not be brought up to date.
    pub fn secret_sync_failed(&self) {
        self.sync_failed.inc();
    }
}

impl Collector for Scrape<Watched> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let (mut written, mut unchanged, mut failures, mut pending, mut dropped) = (0, 0, 0, 0, 0);
        if let Some(Reporting::ApiServer { upkeep, events }) = self.0.0.get() {
            let counts = upkeep.counts();
            written = counts.statuses_written.load(Ordering::Relaxed);
            unchanged = counts.statuses_unchanged.load(Ordering::Relaxed);
            failures = counts.failures.load(Ordering::Relaxed);
            pending = u32::try_from(upkeep.pending()).unwrap_or(u32::MAX);
            dropped = events.dropped();
        }
        let statuses = [([("outcome", "written")], written), ([("outcome", "unchanged")], unchanged)];
        counter(&mut encoder, &POD_STATUS, statuses)?;
        counter(&mut encoder, &FOLLOW_UP_FAILURES, [(NO_LABELS, failures)])?;
        gauge(&mut encoder, &FOLLOW_UPS, [(NO_LABELS, pending)])?;
        counter(&mut encoder, &EVENTS_DROPPED, [(NO_LABELS, dropped)])
    }
}
