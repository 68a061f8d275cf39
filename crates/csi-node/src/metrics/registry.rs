//! Putting metrics into the registry under the names of the catalogue.

use super::catalogue::{Entry, Kind, Origin};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use std::borrow::Cow;
use std::time::Duration;

/// A histogram of seconds.
pub(super) type Seconds = Histogram;

/// The reference driver's buckets: from 0.1 to 2 s, growing by a tenth part of twenty's power.
pub(super) const SECONDS_OF_DRIVER: [f64; 11] =
    [0.1, 0.1349, 0.1821, 0.2456, 0.3314, 0.4472, 0.6034, 0.8142, 1.0986, 1.4823, 2.0];

/// The reference provider's buckets, with three below them: answers of Key Vault within one region take some 20 ms.
pub(super) const SECONDS_OF_PROVIDER: [f64; 17] =
    [0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 10.0, 15.0, 30.0];

/// As Prometheus wants it.
pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// The registry under construction, with the labels that all metrics of one origin have.
pub(super) struct Registries {
    driver: Registry,
    provider: Registry,
    own: Registry,
}

const OS: (Cow<'static, str>, Cow<'static, str>) = (Cow::Borrowed("os_type"), Cow::Borrowed("linux"));

impl Registries {
    pub(super) fn new() -> Self {
        let provider = [
            (Cow::Borrowed("provider"), Cow::Borrowed(crate::driver::AZURE)),
            OS,
            (Cow::Borrowed("service_name"), Cow::Borrowed("csi-secrets-store-provider-azure")),
        ];
        Self {
            driver: Registry::with_labels([OS].into_iter()),
            provider: Registry::with_labels(provider.into_iter()),
            own: Registry::default(),
        }
    }

    pub(super) fn driver<M: Metric + Clone>(&mut self, entry: &Entry, metric: M) -> M {
        debug_assert_eq!(entry.origin, Origin::Driver);
        put(&mut self.driver, entry, metric)
    }

    pub(super) fn provider<M: Metric + Clone>(&mut self, entry: &Entry, metric: M) -> M {
        debug_assert_eq!(entry.origin, Origin::Provider);
        put(&mut self.provider, entry, metric)
    }

    pub(super) fn own<M: Metric + Clone>(&mut self, entry: &Entry, metric: M) -> M {
        debug_assert_eq!(entry.origin, Origin::Own);
        put(&mut self.own, entry, metric)
    }

    pub(super) fn info(&mut self, entry: &Entry, info: impl Metric) {
        self.own.register(family_name(entry), entry.help, info);
    }

    /// For what is looked up at each scrape.
    pub(super) fn collector(&mut self, collector: impl prometheus_client::collector::Collector) {
        self.own.register_collector(Box::new(collector));
    }

    pub(super) fn finish(self) -> [Registry; 3] {
        [self.driver, self.provider, self.own]
    }
}

fn put<M: Metric + Clone>(registry: &mut Registry, entry: &Entry, metric: M) -> M {
    registry.register(family_name(entry), entry.help, metric.clone());
    metric
}

/// The name without the suffix that the encoder adds.
pub(super) fn family_name(entry: &Entry) -> &'static str {
    let suffix = match entry.kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge | Kind::Histogram => "",
    };
    entry.name.strip_suffix(suffix).unwrap_or(entry.name)
}
