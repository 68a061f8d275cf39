//! The mounted volumes, as of their last look at the vault.

use super::catalogue::{OLDEST_CONTENT, VOLUMES};
use super::collect::{NO_LABELS, Scrape, gauge};
use super::registry::{Registries, seconds};
use crate::volume::TargetPath;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Intervals without a look after which a volume is overdue.
const INTERVALS: u32 = 3;
/// The kubelet calls each 60 to 90 s, whatever the interval; one call may fail, and the next is soon enough.
const KUBELET: Duration = Duration::from_secs(180);

/// What is shown of one volume.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// When the oldest part of the content was asked for.
    pub checked: Instant,
    /// How often the vault is to be looked at; `None` without rotation.
    pub interval: Option<Duration>,
    /// Whether a value stands in for one that could not be had.
    pub stale: bool,
}

#[derive(Debug)]
struct Known {
    look: Look,
    kept: bool,
}

/// Keeps a few numbers for each volume, so that a scrape need not wait for calls under way.
#[derive(Debug)]
pub struct VolumeMetrics {
    known: Arc<Mutex<BTreeMap<TargetPath, Known>>>,
}

impl VolumeMetrics {
    pub(super) fn register(to: &mut Registries) -> Self {
        let known = Arc::default();
        to.collector(Scrape(Arc::clone(&known)));
        Self { known }
    }

    /// The vault was looked at for a volume.
    pub fn looked(&self, target: &TargetPath, look: Look) {
        self.known.lock().insert(target.clone(), Known { look, kept: false });
    }

    /// The last look failed.
    pub fn kept(&self, target: &TargetPath) {
        if let Some(known) = self.known.lock().get_mut(target) {
            known.kept = true;
        }
    }

    /// The volume is no longer there.
    pub fn gone(&self, target: &TargetPath) {
        self.known.lock().remove(target);
    }
}

impl Known {
    fn state(&self) -> usize {
        let patience = self.look.interval.map(|interval| interval * INTERVALS + KUBELET);
        if self.kept {
            KEPT
        } else if patience.is_some_and(|patience| self.look.checked.elapsed() > patience) {
            OVERDUE
        } else if self.look.stale {
            STALE
        } else {
            CURRENT
        }
    }
}

const STATES: [&str; 4] = ["current", "stale", "kept", "overdue"];
const CURRENT: usize = 0;
const STALE: usize = 1;
const KEPT: usize = 2;
const OVERDUE: usize = 3;

impl Collector for Scrape<Mutex<BTreeMap<TargetPath, Known>>> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut counts = [0_u32; STATES.len()];
        let mut oldest = None;
        {
            let known = self.0.lock();
            for known in known.values() {
                if let Some(count) = counts.get_mut(known.state()) {
                    *count += 1;
                }
                oldest = oldest.max(Some(known.look.checked.elapsed()));
            }
        }
        let series =
            STATES.into_iter().zip(counts).map(|(state, count)| ([("state", state)], f64::from(count)));
        gauge(&mut encoder, &VOLUMES, series)?;
        gauge(&mut encoder, &OLDEST_CONTENT, oldest.map(|age| (NO_LABELS, seconds(age))))
    }
}
