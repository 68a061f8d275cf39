//! What is recorded of a stretch of work, where somebody records it.

use std::{
    borrow::Cow,
    fmt::{Debug, Display},
    future::Future,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    context::Context,
    ids::{SpanId, TraceId},
};

/// Takes finished spans. It must not block.
pub trait Recorder: Debug + Send + Sync {
    /// A stretch of work is over.
    fn ended(&self, span: Finished);
}

/// Whose work a span is, in the words of OpenTelemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The process's own.
    Internal,
    /// A call that it answers.
    Server,
    /// A call that it makes.
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(number.try_into().unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// A stretch of work that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The trace.
    pub trace: TraceId,
    /// Its own id.
    pub id: SpanId,
    /// What it is a part of.
    pub parent: Option<SpanId>,
    /// Whether that is of another process.
    pub parent_is_remote: bool,
    /// What was done.
    pub name: Cow<'static, str>,
    /// Whose work it is.
    pub kind: Kind,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What is to be known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// A stretch of work. It is over when this is dropped.
///
/// Where nobody records, it costs nothing but the id of a request that it is made for, and what it is told is not even put
/// into words. Whoever tells it something must not tell it secrets: it is sent to another machine.
#[derive(Debug)]
pub struct Span {
    /// Where its parts are done.
    context: Context,
    record: Option<Box<Record>>,
}

#[derive(Debug)]
struct Record {
    recorder: Arc<dyn Recorder>,
    /// All but how long it took, which is not known yet.
    span: Finished,
    began: Instant,
}

impl Span {
    /// Begins a part of what this task is doing.
    pub fn begin(name: impl Into<Cow<'static, str>>, kind: Kind) -> Self {
        Self::below(&Context::current().unwrap_or_default(), name, kind)
    }

    /// Begins a part of what is done there.
    pub fn below(context: &Context, name: impl Into<Cow<'static, str>>, kind: Kind) -> Self {
        let Some(recorder) = context.recorder.clone() else {
            return Self { context: context.clone(), record: None };
        };
        let id = SpanId::new();
        let span = Finished {
            trace: context.trace_id(),
            id,
            parent: context.span,
            parent_is_remote: context.is_remote,
            name: name.into(),
            kind,
            began: SystemTime::now(),
            took: Duration::ZERO,
            attributes: Vec::new(),
            failure: None,
        };
        let inside = Context { span: Some(id), is_remote: false, ..context.clone() };
        let record = Some(Box::new(Record { recorder, span, began: Instant::now() }));
        Self { context: inside, record }
    }

    /// Notes a number or a yes or no.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(record) = &mut self.record {
            record.span.attributes.push((key, value.into()));
        }
    }

    /// Notes a text.
    pub fn tell(&mut self, key: &'static str, value: impl Display) {
        if let Some(record) = &mut self.record {
            record.span.attributes.push((key, Value::Text(value.to_string())));
        }
    }

    /// Notes that it failed, and why.
    pub fn fail(&mut self, why: impl Display) {
        if let Some(record) = &mut self.record {
            record.span.failure = Some(why.to_string());
        }
    }

    /// Runs `work` as a part of this.
    pub fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        self.context.clone().scope(work)
    }

    /// The header of the request that this is; where nobody records, of another request each time.
    pub fn traceparent(&self) -> String {
        match (&self.record, self.context.span) {
            (Some(_), Some(id)) => self.context.header(id),
            _ => self.context.header(SpanId::new()),
        }
    }

    /// A request goes out. Until [`Span::answered`] it counts as one that was given up.
    pub fn sent(&mut self) {
        self.fail("given up before an answer came");
    }

    /// Notes the status of an HTTP answer. From 400 on it is a failure.
    pub fn answered(&mut self, status: u16) {
        self.set("http.response.status_code", status);
        if let Some(record) = &mut self.record {
            record.span.failure = None;
        }
        if status >= 400 {
            self.tell("error.type", status);
            self.fail(format_args!("HTTP {status}"));
        }
    }

    /// Leaves it unrecorded: there was nothing to do.
    pub fn discard(mut self) {
        self.record = None;
    }

    /// The trace.
    pub fn trace_id(&self) -> TraceId {
        self.context.trace_id()
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            let Record { recorder, mut span, began } = *record;
            span.took = began.elapsed();
            recorder.ended(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<Finished>>);

    impl Recorder for Kept {
        fn ended(&self, span: Finished) {
            self.0.lock().unwrap().push(span);
        }
    }

    #[tokio::test]
    async fn spans_are_of_one_tree_and_requests_carry_their_ids() {
        let kept = Arc::new(Kept::default());
        let caller =
            Context::of_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        let root = Span::below(&caller.recorded_by(kept.clone()), "call", Kind::Server);
        let mut header = String::new();
        root.scope(async {
            let step = Span::begin("step", Kind::Internal);
            step.scope(async {
                let mut request = Span::begin("GET", Kind::Client);
                request.set("http.response.status_code", 503_u16);
                request.tell("server.address", "localhost");
                request.fail("HTTP 503");
                header = request.traceparent();
                assert_eq!(header, request.traceparent(), "it is one request");
            })
            .await;
        })
        .await;
        drop(root);
        let spans = kept.0.lock().unwrap();
        let [request, step, call] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!(call.parent.map(|id| id.to_string()).as_deref(), Some("00f067aa0ba902b7"));
        assert!(call.parent_is_remote && !step.parent_is_remote);
        assert_eq!((step.parent, request.parent), (Some(call.id), Some(step.id)));
        assert!(spans.iter().all(|span| span.trace.to_string() == "4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(header, format!("00-{}-{}-01", request.trace, request.id));
        assert_eq!(request.failure.as_deref(), Some("HTTP 503"));
        assert_eq!(request.attributes[0], ("http.response.status_code", Value::Number(503)));
        assert!(request.began >= call.began && request.took <= call.took);
    }

    #[tokio::test]
    async fn where_nobody_records_nothing_is_put_into_words() {
        struct Dear;
        impl Display for Dear {
            fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                panic!("it was put into words")
            }
        }
        let context = Context::new();
        let mut span = Span::below(&context, "call", Kind::Server);
        span.tell("key", Dear);
        span.fail(Dear);
        assert_eq!(span.trace_id(), context.trace_id());
        let (first, second) = (span.traceparent(), span.traceparent());
        assert!(first != second && first[..36] == second[..36] && first.ends_with("-00"), "{first} {second}");
    }
}
