//! Metrics that are looked up when somebody scrapes.

use super::catalogue::{Entry, Kind};
use super::registry::family_name;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabel, EncodeMetric,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::sync::Arc;

/// What a collector looks at. The registry owns its collectors, so it is shared.
#[derive(Debug)]
pub(super) struct Scrape<T>(pub(super) Arc<T>);

/// Labels of a series without any.
pub(super) const NO_LABELS: [(&str, &str); 0] = [];

/// Encodes a gauge; without series, nothing.
pub(super) fn gauge<L: EncodeLabel, V: EncodeGaugeValue, const N: usize>(
    encoder: &mut DescriptorEncoder,
    entry: &Entry,
    series: impl IntoIterator<Item = ([L; N], V)>,
) -> Result<(), std::fmt::Error> {
    debug_assert_eq!(entry.kind, Kind::Gauge);
    let series = series.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
    encode(encoder, entry, MetricType::Gauge, series)
}

/// Encodes a counter; without series, nothing.
pub(super) fn counter<L: EncodeLabel, V: EncodeCounterValue, const N: usize>(
    encoder: &mut DescriptorEncoder,
    entry: &Entry,
    series: impl IntoIterator<Item = ([L; N], V)>,
) -> Result<(), std::fmt::Error> {
    debug_assert_eq!(entry.kind, Kind::Counter);
    let series = series.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
    encode(encoder, entry, MetricType::Counter, series)
}

fn encode<L: EncodeLabel, M: EncodeMetric, const N: usize>(
    encoder: &mut DescriptorEncoder,
    entry: &Entry,
    kind: MetricType,
    series: impl Iterator<Item = ([L; N], M)>,
) -> Result<(), std::fmt::Error> {
    let mut series = series.peekable();
    if series.peek().is_none() {
        return Ok(());
    }
    let help = format!("{}.", entry.help);
    let mut encoder = encoder.encode_descriptor(family_name(entry), &help, None, kind)?;
    if N == 0 {
        // Without labels there is one series, and no braces.
        return series.next().map_or(Ok(()), |(_, value)| value.encode(encoder));
    }
    for (labels, value) in series {
        value.encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}
