//! Lines as klog writes them: `E0102 15:04:05.000000    1234 file.rs:56] "message" key="value"`. Values are quoted and their line
//! breaks escaped, so that nothing that comes from outside can forge a line.

use std::fmt::{self, Write};
use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The header and the order of a line.
#[derive(Debug)]
pub(super) struct Klog;

/// The pairs of key and value.
#[derive(Debug)]
pub(super) struct Fields;

impl<S, N> FormatEvent<S, N> for Klog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let severity = match *metadata.level() {
            Level::ERROR => 'E',
            Level::WARN => 'W',
            _ => 'I',
        };
        let now = OffsetDateTime::now_utc();
        let file = metadata.file().and_then(|path| path.rsplit('/').next()).unwrap_or("?");
        write!(
            writer,
            "{severity}{:02}{:02} {:02}:{:02}:{:02}.{:06} {:>7} {file}:{}] ",
            u8::from(now.month()),
            now.day(),
            now.hour(),
            now.minute(),
            now.second(),
            now.microsecond(),
            std::process::id(),
            metadata.line().unwrap_or_default(),
        )?;
        let mut pairs = Pairs::default();
        event.record(&mut pairs);
        write!(writer, "{:?}", pairs.message)?;
        for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                writer.write_str(&fields.fields)?;
            }
        }
        writer.write_str(&pairs.text)?;
        writeln!(writer)
    }
}

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut pairs = Pairs::default();
        fields.record(&mut pairs);
        writer.write_str(&pairs.text)
    }
}

#[derive(Default)]
struct Pairs {
    message: String,
    /// Each with a blank before it.
    text: String,
}

impl Pairs {
    fn bare(&mut self, field: &Field, value: impl fmt::Display) {
        // Writing to a string does not fail.
        let _ = write!(self.text, " {}={value}", field.name());
    }
}

impl Visit for Pairs {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.bare(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.bare(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            let _ = write!(self.text, " {}={value:?}", field.name());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Display values come this way too, and print themselves unquoted.
        self.record_str(field, &format!("{value:?}"));
    }
}
