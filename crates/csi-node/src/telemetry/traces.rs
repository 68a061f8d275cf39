//! Which calls are recorded as traces, and by whom.

use super::otlp::{Exporter, Settings};
use crate::metrics::spans::SpanMetrics;
use std::sync::Arc;
use std::time::Duration;
use trace::Context;

/// The traces of a process. Clones are one. By default nothing is recorded.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Recording>>);

#[derive(Debug)]
struct Recording {
    sampler: Sampler,
    exporter: Exporter,
}

impl Traces {
    /// Records and exports from here on, until [`finish`](Self::finish).
    pub fn export(settings: Settings, client: reqwest::Client, metrics: Arc<SpanMetrics>) -> Self {
        let sampler = settings.sampler;
        Self(Some(Arc::new(Recording { sampler, exporter: Exporter::start(settings, client, metrics) })))
    }

    /// The place of a call in a trace: where its caller says, or at the beginning of a new one.
    pub fn begin(&self, caller: Option<Context>) -> Context {
        let context = caller.unwrap_or_default();
        match &self.0 {
            None => context,
            Some(recording) if recording.sampler.takes(&context) => {
                context.recorded_by(recording.exporter.recorder())
            }
            Some(_) => context.unrecorded(),
        }
    }

    /// Sends what is still waiting to be sent, within this time at most. Nothing is exported after it.
    pub async fn finish(&self, limit: Duration) {
        if let Some(recording) = &self.0 {
            recording.exporter.finish(limit).await;
        }
    }
}

/// Which traces are recorded (<https://opentelemetry.io/docs/specs/otel/trace/sdk/#sampling>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sampler {
    /// Whether a caller that says so decides.
    asks_caller: bool,
    /// Traces are taken whose number is below this, of 2^63 numbers.
    below: u64,
}

impl Sampler {
    const ALL: u64 = 1 << 63;

    /// As `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` say it.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub(super) fn parse(name: &str, argument: Option<&str>) -> Result<Self, (&'static str, String)> {
        let (asks_caller, base) = match name.strip_prefix("parentbased_") {
            Some(base) => (true, base),
            None => (false, name),
        };
        let below = match base {
            "always_on" => Self::ALL,
            "always_off" => 0,
            "traceidratio" => Self::ratio(argument.unwrap_or("1"))?,
            _ => {
                return Err((
                    "OTEL_TRACES_SAMPLER",
                    format!(
                        "{name:?} is no sampler known here: write always_on, always_off or traceidratio, or one of these after \
                         parentbased_"
                    ),
                ));
            }
        };
        Ok(Self { asks_caller, below })
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a share between 0 and 1, of which the last bits do not matter"
    )]
    fn ratio(text: &str) -> Result<u64, (&'static str, String)> {
        match text.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok((share * Self::ALL as f64) as u64),
            _ => Err(("OTEL_TRACES_SAMPLER_ARG", format!("{text:?} is not a number from 0 to 1"))),
        }
    }

    fn takes(self, context: &Context) -> bool {
        if let Some(choice) = context.callers_choice().filter(|_| self.asks_caller) {
            return choice;
        }
        // The last half, as the SDKs of OpenTelemetry do, so that all processes of a trace take the same ones.
        let number = u128::from_be_bytes(context.trace_id().to_bytes()) & u128::from(u64::MAX);
        number >> 1 < u128::from(self.below)
    }
}

impl Default for Sampler {
    /// The caller decides, and all of those are taken that begin here.
    fn default() -> Self {
        Self { asks_caller: true, below: Self::ALL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(name: &str, argument: Option<&str>) -> Sampler {
        Sampler::parse(name, argument).unwrap()
    }

    #[test]
    fn a_caller_decides_where_it_is_asked() {
        let called = |flags: &str| {
            Context::of_traceparent(&format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}"))
                .unwrap()
        };
        let takes = |sampler: Sampler| {
            [sampler.takes(&called("01")), sampler.takes(&called("00")), sampler.takes(&Context::new())]
        };
        assert_eq!(takes(Sampler::default()), [true, false, true]);
        assert_eq!(takes(sampler("parentbased_always_on", None)), [true, false, true]);
        assert_eq!(takes(sampler("parentbased_always_off", None)), [true, false, false]);
        assert_eq!(takes(sampler("always_on", None)), [true; 3]);
        assert_eq!(takes(sampler("always_off", None)), [false; 3]);
        assert_eq!(takes(sampler("traceidratio", Some("0"))), [false; 3]);
        assert_eq!(takes(sampler("traceidratio", None)), [true; 3]);
    }

    #[test]
    fn a_share_is_taken_by_the_ids_last_half() {
        let of = |last: &str| {
            Context::of_traceparent(&format!("00-4bf92f3577b34da6{last}-00f067aa0ba902b7-01")).unwrap()
        };
        let quarter = sampler("traceidratio", Some("0.25"));
        assert!(quarter.takes(&of("3fffffffffffffff")) && !quarter.takes(&of("4000000000000000")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, argument, variable) in [
            ("sometimes", None, "OTEL_TRACES_SAMPLER"),
            ("parentbased_traceidratio", Some("2"), "OTEL_TRACES_SAMPLER_ARG"),
            ("traceidratio", Some("NaN"), "OTEL_TRACES_SAMPLER_ARG"),
            ("traceidratio", Some("half"), "OTEL_TRACES_SAMPLER_ARG"),
        ] {
            let (named, reason) = Sampler::parse(name, argument).unwrap_err();
            assert!(named == variable && reason.contains(argument.unwrap_or(name)), "{named}: {reason}");
        }
    }
}
