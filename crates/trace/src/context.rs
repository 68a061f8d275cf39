//! A place in a trace, and the header that hands it on.

use std::{future::Future, sync::Arc};

use crate::{
    ids::{SpanId, TraceId, hexadecimal},
    span::Recorder,
};

tokio::task_local! {
    static CURRENT: Context;
}

/// A place in a trace: what is done there belongs to it.
#[derive(Clone, Debug)]
pub struct Context {
    pub(crate) trace: TraceId,
    /// What is done here is a part of this.
    pub(crate) span: Option<SpanId>,
    /// Whether that is of another process.
    pub(crate) is_remote: bool,
    /// Whether whoever began the trace records it.
    pub(crate) sampled: bool,
    pub(crate) recorder: Option<Arc<dyn Recorder>>,
}

impl Context {
    /// The beginning of a new trace.
    pub fn new() -> Self {
        Self { trace: TraceId::new(), span: None, is_remote: false, sampled: false, recorder: None }
    }

    /// The place that a `traceparent` header names, if it is a valid one of version 00 or later.
    pub fn of_traceparent(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let fits = hexadecimal(version, 2) && version != "ff" && hexadecimal(flags, 2);
        // Only later versions may have more parts.
        if !fits || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self {
            trace: TraceId::parse(trace)?,
            span: Some(SpanId::parse(parent)?),
            is_remote: true,
            sampled: flags & 1 == 1,
            recorder: None,
        })
    }

    /// Where this task works.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Runs `work` here. Tasks that it spawns are nowhere of their own accord.
    pub fn scope<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        // No async function, which would keep `work` twice.
        CURRENT.scope(self, work)
    }

    /// The trace.
    pub fn trace_id(&self) -> TraceId {
        self.trace
    }

    /// Whether it is the place of a call of another process, and whether that records it; `None` where the trace begins.
    pub fn callers_choice(&self) -> Option<bool> {
        self.is_remote.then_some(self.sampled)
    }

    /// The same place, whose spans this recorder gets.
    #[must_use]
    pub fn recorded_by(self, recorder: Arc<dyn Recorder>) -> Self {
        Self { sampled: true, recorder: Some(recorder), ..self }
    }

    /// The same place, of which nothing is recorded.
    #[must_use]
    pub fn unrecorded(self) -> Self {
        Self { sampled: false, recorder: None, ..self }
    }

    /// The header of one request, which is a span of its own.
    pub fn traceparent(&self) -> String {
        self.header(SpanId::new())
    }

    /// The header of the request that is this span.
    pub(crate) fn header(&self, span: SpanId) -> String {
        format!("00-{}-{span}-{:02x}", self.trace, u8::from(self.sampled))
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_standards_example_is_read_and_passed_on() {
        let context = Context::of_traceparent(EXAMPLE).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let passed_on = context.traceparent();
        assert_eq!((&passed_on[..36], &passed_on[52..]), (&EXAMPLE[..36], &EXAMPLE[52..]));
        assert_ne!(passed_on[36..52], EXAMPLE[36..52], "a request is a span of its own");
        assert!(Context::of_traceparent(&passed_on).is_some(), "{passed_on}");
        let unsampled = Context::of_traceparent(&EXAMPLE.replace("-01", "-fe")).unwrap();
        assert!(unsampled.traceparent().ends_with("-00"), "the caller records nothing");
    }

    #[test]
    fn what_is_not_one_is_not_taken() {
        for header in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert!(Context::of_traceparent(header).is_none(), "{header}");
        }
        assert!(Context::of_traceparent(&format!("01{}-more", &EXAMPLE[2..])).is_some(), "a later version");
    }

    #[tokio::test]
    async fn it_holds_within_its_scope_only() {
        let context = Context::new();
        let trace = context.trace_id();
        let inside = context.scope(async { Context::current() }).await;
        assert_eq!(inside.map(|context| context.trace_id()), Some(trace));
        assert!(Context::current().is_none());
    }

    proptest! {
        #[test]
        fn never_panics(header in any::<String>()) {
            let _ = Context::of_traceparent(&header);
        }
    }
}
