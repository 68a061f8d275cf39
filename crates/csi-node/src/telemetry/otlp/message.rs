//! Spans as a collector reads them.

use prost::Message;
use proto::otlp::any_value::Value as Any;
use proto::otlp::{
    AnyValue, ExportRequest, KeyValue, Resource, ResourceSpans, Scope, ScopeSpans, Span, Status, span, status,
};
use std::time::UNIX_EPOCH;
use trace::{Finished, Kind, Value};

/// The flag of `traceparent`: it is recorded.
const SAMPLED: u32 = 1;
/// It is known whether the parent is of another process.
const KNOWS_REMOTE: u32 = 1 << 8;
/// The parent is of another process.
const IS_REMOTE: u32 = 1 << 9;

/// The body of a request.
pub(super) fn encode(resource: &[(String, String)], spans: Vec<Finished>) -> Vec<u8> {
    let attributes = resource.iter().map(|(key, value)| pair(key, Any::StringValue(value.clone()))).collect();
    let scope = Scope { name: "akv-csi".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = spans.into_iter().map(of).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    let resource_spans = vec![ResourceSpans { resource: Some(Resource { attributes }), scope_spans }];
    ExportRequest { resource_spans }.encode_to_vec()
}

fn of(finished: Finished) -> Span {
    let began = finished.began.duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let kind = match finished.kind {
        Kind::Internal => span::Kind::Internal,
        Kind::Server => span::Kind::Server,
        Kind::Client => span::Kind::Client,
    };
    let remote = if finished.parent_is_remote { IS_REMOTE } else { 0 };
    let attributes = finished.attributes.into_iter().map(|(key, value)| {
        pair(
            key,
            match value {
                Value::Text(text) => Any::StringValue(text),
                Value::Number(number) => Any::IntValue(number),
                Value::Flag(flag) => Any::BoolValue(flag),
            },
        )
    });
    Span {
        trace_id: finished.trace.to_bytes().to_vec(),
        span_id: finished.id.to_bytes().to_vec(),
        parent_span_id: finished.parent.map(|id| id.to_bytes().to_vec()).unwrap_or_default(),
        name: finished.name.into_owned(),
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(began),
        end_time_unix_nano: nanoseconds(began + finished.took),
        attributes: attributes.collect(),
        status: finished.failure.map(|message| Status { message, code: status::Code::Error.into() }),
        flags: SAMPLED | KNOWS_REMOTE | remote,
    }
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};
    use trace::{Context, Recorder, Span as Recorded};

    #[derive(Debug, Default)]
    struct Kept(parking_lot::Mutex<Vec<Finished>>);

    impl Recorder for Kept {
        fn ended(&self, span: Finished) {
            self.0.lock().push(span);
        }
    }

    /// The bytes were read back with the published definitions of OTLP 1.
    #[test]
    fn bytes_are_those_of_the_specification() {
        let kept = std::sync::Arc::new(Kept::default());
        let caller =
            Context::of_traceparent("00-000102030405060708090a0b0c0d0e0f-0001020304050607-01").unwrap();
        drop(Recorded::below(&caller.recorded_by(kept.clone()), "n", Kind::Client));
        let mut span = kept.0.lock().remove(0);
        span.began = SystemTime::UNIX_EPOCH + Duration::from_nanos(0x0102_0304_0506_0708);
        span.took = Duration::from_nanos(1);
        span.attributes =
            vec![("t", Value::Text("v".to_owned())), ("n", Value::Number(5)), ("f", Value::Flag(true))];
        span.failure = Some("why".to_owned());
        let id = span.id.to_bytes();
        let encoded = encode(&[], vec![span]);
        // The span alone: what is around it has the version of this program in it.
        let mut expected =
            b"\x0a\x10\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x12\x08".to_vec();
        expected.extend(id);
        expected.extend(b"\x22\x08\x00\x01\x02\x03\x04\x05\x06\x07\x2a\x01n\x30\x03");
        expected.extend(b"\x39\x08\x07\x06\x05\x04\x03\x02\x01\x41\x09\x07\x06\x05\x04\x03\x02\x01");
        expected.extend(b"\x4a\x08\x0a\x01t\x12\x03\x0a\x01v\x4a\x07\x0a\x01n\x12\x02\x18\x05\x4a\x07\x0a\x01f\x12\x02\x10\x01");
        expected.extend(b"\x7a\x07\x12\x03why\x18\x02\x85\x01\x01\x03\x00\x00");
        assert!(encoded.ends_with(&expected), "{encoded:02x?}");
    }
}
