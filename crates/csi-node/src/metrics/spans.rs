//! What is sent to a collector of traces.

use super::catalogue::SPANS;
use super::registry::Registries;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

/// Counts spans.
#[derive(Debug)]
pub struct SpanMetrics {
    spans: Family<Ended, Counter>,
}

impl SpanMetrics {
    pub(super) fn register(to: &mut Registries) -> Self {
        let spans = Self { spans: to.own(&SPANS, Family::default()) };
        spans.exported(0);
        spans.dropped(0);
        spans
    }

    /// A collector took so many.
    pub fn exported(&self, count: u64) {
        self.spans.get_or_create(&Ended { outcome: "exported" }).inc_by(count);
    }

    /// So many came to nothing.
    pub fn dropped(&self, count: u64) {
        self.spans.get_or_create(&Ended { outcome: "dropped" }).inc_by(count);
    }
}
