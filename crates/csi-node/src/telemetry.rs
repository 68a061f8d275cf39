//! Logs and, where somebody wants them, traces ([`Traces`]). Logs are one line per event on stderr: in the format of klog,
//! which is what people of Kubernetes and their tools read, or as JSON.

mod klog;
mod otlp;
mod seldom;
mod traces;

pub use otlp::Settings as OtlpSettings;
pub use seldom::Seldom;
pub use traces::Traces;

use klog::Klog;
use std::io::Write;
use std::panic::{Location, PanicHookInfo};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The verbosity of a running process. Clones are one.
#[derive(Debug, Clone)]
pub struct Verbosity {
    level: Arc<AtomicI32>,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Verbosity {
    /// As the reference's `-v` counts.
    pub fn get(&self) -> i32 {
        self.level.load(Ordering::Relaxed)
    }

    /// Changes it for the rest of the process's life.
    ///
    /// # Errors
    /// When this process does not log.
    pub fn set(&self, level: i32) -> Result<(), String> {
        let changed = self.filter.reload(filter(level));
        changed.map_err(|_| "this process does not log".to_owned())?;
        self.level.store(level, Ordering::Relaxed);
        Ok(())
    }
}

/// Starts logging for the process.
///
/// `verbosity` counts as the reference's `-v` does. `AKV_CSI_LOG`, in the syntax of `tracing` filters
/// (`info,vault=debug`), overrides it until somebody changes the verbosity.
///
/// From here on panics are logged too. What a panic says is shown only where it is a literal of the source: a text that was
/// put together may quote what was being worked on.
pub fn start(verbosity: i32, json: bool) -> Verbosity {
    let first = EnvFilter::try_from_env("AKV_CSI_LOG").unwrap_or_else(|_| filter(verbosity));
    let (subscriber, filter) = subscriber(first, json, std::io::stderr);
    // A second start, as in tests that run the driver in process, keeps the first one's settings.
    let _ = subscriber.try_init();
    std::panic::set_hook(Box::new(log_panic));
    Verbosity { level: Arc::new(AtomicI32::new(verbosity)), filter }
}

/// Our own crates by verbosity, others' warnings. What the libraries below say of each request that failed is in our own lines,
/// with what it was for and what to do: so it comes with the verbosity that shows how things happen.
fn filter(verbosity: i32) -> EnvFilter {
    let (own, clients) = match verbosity {
        ..=1 => ("info", "off"),
        2..=4 => ("debug", "warn"),
        _ => ("trace", "warn"),
    };
    let clients = CLIENTS.map(|module| format!("{module}={clients}")).join(",");
    EnvFilter::new(format!("warn,{clients},akv_csi={own},csi_node={own},vault={own},identity={own}"))
}

/// The libraries that carry requests.
const CLIENTS: [&str; 8] =
    ["kube", "kube_client", "kube_core", "hyper", "hyper_util", "tower", "tower_http", "h2"];

/// Other crates' debug lines may hold requests, and with them tokens and secrets: no verbosity and no filter brings them out. Nor
/// the warning of an answer that could not be read, which quotes all of it, and it may be a Secret.
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    if metadata.target() == "kube_client::client" {
        return false;
    }
    let own = ["akv_csi", "csi_node", "vault", "identity"];
    let module = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= Level::INFO || own.contains(&module)
}

fn subscriber<W>(
    first: EnvFilter,
    json: bool,
    writer: W,
) -> (Box<dyn tracing::Subscriber + Send + Sync>, reload::Handle<EnvFilter, Registry>)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(first);
    let base = tracing_subscriber::registry().with(filter).with(filter_fn(is_harmless));
    if json {
        let lines = fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(writer);
        (Box::new(base.with(lines)), handle)
    } else {
        let lines = fmt::layer().event_format(Klog).fmt_fields(klog::Fields).with_writer(writer);
        (Box::new(base.with(lines)), handle)
    }
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let said = info.payload().downcast_ref::<&'static str>().copied();
    let said = said.unwrap_or("[withheld: the text was put together and may quote data]");
    let place = info.location().map(Location::to_string).unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(place, thread = thread.name().unwrap_or_default(), said, "a task of the driver panicked");
    if !tracing::enabled!(Level::ERROR) {
        let _ = writeln!(std::io::stderr(), "panic at {place}: {said}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[derive(Debug, Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap()
        }
    }

    fn logged(verbosity: EnvFilter, json: bool, work: impl FnOnce(&Verbosity)) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, filter) = subscriber(verbosity, json, move || writer.clone());
        let verbosity = Verbosity { level: Arc::default(), filter };
        tracing::subscriber::with_default(subscriber, || work(&verbosity));
        lines.take()
    }

    #[test]
    fn lines_are_klogs() {
        let text = logged(filter(0), false, |_| {
            let _span = tracing::info_span!("publish", trace_id = "4bf9").entered();
            tracing::info!(pod = %"ns/web-0", objects = 3, note = "two words", "published");
            tracing::error!(error = %"line one\nline two \"quoted\"", "failed to clean and unmount target path");
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "a line break in a value must not begin a line: {text}");
        let (head, rest) = lines[0].split_once("] ").unwrap();
        assert_eq!(rest, r#""published" trace_id="4bf9" pod="ns/web-0" objects=3 note="two words""#);
        let parts: Vec<&str> = head.split_whitespace().collect();
        assert!(parts[0].starts_with('I') && parts[0].len() == 5 && parts[1].len() == 15, "{head}");
        assert!(parts[2].parse::<u32>().is_ok() && parts[3].starts_with("telemetry.rs:"), "{head}");
        assert!(lines[1].starts_with('E'), "{text}");
        assert!(
            lines[1].ends_with(
                r#"] "failed to clean and unmount target path" trace_id="4bf9" error="line one\nline two \"quoted\"""#
            ),
            "{text}"
        );
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(filter(0), true, |_| {
            let _span = tracing::info_span!("publish", trace_id = "4bf9").entered();
            tracing::info!(pod = "ns/web-0", objects = 3, "published");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "published");
        assert_eq!(line["objects"], 3);
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["span"]["trace_id"], "4bf9");
    }

    #[test]
    fn the_verbosity_can_be_changed_while_running() {
        let text = logged(filter(0), false, |verbosity| {
            tracing::debug!("first");
            verbosity.set(4).unwrap();
            tracing::debug!("second");
            tracing::trace!("third");
            verbosity.set(0).unwrap();
            tracing::debug!("fourth");
        });
        assert!(text.contains("second") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn what_libraries_say_of_requests_comes_with_verbosity() {
        let text = logged(filter(0), false, |verbosity| {
            let fail = |number| {
                tracing::error!(target: "kube_client::client::builder", number, "failed");
                tracing::warn!(target: "hyper_util::client", number, "failed");
                tracing::warn!(target: "reqwest", number, "another library");
            };
            fail(1);
            verbosity.set(2).unwrap();
            fail(2);
        });
        assert_eq!(text.matches("number=1").count(), 1, "{text}");
        assert_eq!(text.matches("number=2").count(), 3, "{text}");
    }

    #[test]
    fn no_filter_brings_out_other_crates_debug_lines() {
        let text = logged(EnvFilter::new("trace"), false, |_| {
            tracing::debug!(target: "hyper::proto", "Authorization: Bearer planted");
            tracing::debug!(target: "vaultless", "planted");
            tracing::warn!(target: "kube_client::client", "{{\"data\": \"planted\"}}");
            tracing::warn!(target: "hyper::proto", "a warning");
            tracing::trace!(target: "vault::client", "own");
        });
        assert!(!text.contains("planted") && text.contains("a warning") && text.contains("own"), "{text}");
    }
}
