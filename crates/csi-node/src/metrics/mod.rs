//! What the driver counts, and how it is scraped.
//!
//! [`catalogue`] lists every metric. Whoever has something to count calls a method of one of the groups in [`Metrics`]; label
//! values come from closed lists ([`labels`]).

pub mod calls;
pub mod catalogue;
mod collect;
mod exposition;
pub mod labels;
pub mod objects;
mod process;
mod registry;
pub mod server;
pub mod spans;
pub mod upstream;
pub mod volumes;

pub use exposition::Format;

use calls::Calls;
use catalogue::BUILD;
use collect::Scrape;
use objects::ObjectMetrics;
use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use registry::Registries;
use spans::SpanMetrics;
use std::sync::Arc;
use upstream::{TokenMetrics, VaultMetrics};
use volumes::VolumeMetrics;

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    /// The kubelet's calls.
    pub calls: Calls,
    /// The mounted volumes.
    pub volumes: VolumeMetrics,
    /// Key Vault; give it to the vault client as its observer.
    pub vault: Arc<VaultMetrics>,
    /// Tokens.
    pub tokens: TokenMetrics,
    /// The API server: Secrets, status objects, events.
    pub objects: ObjectMetrics,
    /// Spans.
    pub spans: Arc<SpanMetrics>,
    registries: [Registry; 3],
}

impl Metrics {
    /// Everything at zero. Make it once, at the start of the process.
    pub fn new() -> Self {
        let mut to = Registries::new();
        let calls = Calls::register(&mut to);
        let objects = ObjectMetrics::register(&mut to);
        let volumes = VolumeMetrics::register(&mut to);
        let vault = Arc::new(VaultMetrics::register(&mut to));
        let tokens = TokenMetrics::register(&mut to);
        let spans = Arc::new(SpanMetrics::register(&mut to));
        to.info(&BUILD, Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        to.collector(Scrape(Arc::new(process::Process::starting())));
        Self { calls, volumes, vault, tokens, objects, spans, registries: to.finish() }
    }

    /// What a scraper gets.
    pub fn render(&self, format: Format) -> String {
        let mut open_metrics = String::new();
        for registry in &self.registries {
            // Writing to a string does not fail.
            let _ = text::encode_registry(&mut open_metrics, registry);
        }
        let _ = text::encode_eof(&mut open_metrics);
        match format {
            Format::OpenMetrics => open_metrics,
            Format::Text => exposition::to_text(&open_metrics),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
