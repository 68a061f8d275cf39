//! Logs. One line per event on stderr, for people or as JSON.

use tracing_subscriber::EnvFilter;

/// Starts logging for the process.
///
/// `verbosity` counts as the reference's `-v` does. `AKV_CSI_LOG`, in the syntax of `tracing` filters
/// (`info,vault=debug`), overrides it.
pub fn start(verbosity: i32, json: bool) {
    let own = match verbosity {
        ..=1 => "info",
        2..=4 => "debug",
        _ => "trace",
    };
    // Other crates' debug lines may hold request headers, and with them tokens: they stay off at every verbosity.
    let filter = EnvFilter::try_from_env("AKV_CSI_LOG").unwrap_or_else(|_| {
        EnvFilter::new(format!("warn,akv_csi={own},csi_node={own},vault={own},identity={own}"))
    });
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start, as in tests that run the driver in process, keeps the first one's settings.
    let _ = if json {
        format.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        use std::io::IsTerminal;
        format.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
}
