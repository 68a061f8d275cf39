//! Places where a test build can be made to die.
//!
//! The promise that a volume is never torn has to hold for a process that dies between any two system calls. Every
//! step of this module that changes something on disk therefore passes a numbered point first. With the cargo feature
//! `fault-points`, and in this crate's unit tests, environment variables act on them; otherwise [`point`] is empty
//! and nothing is left in the binary.
//!
//! * `AKV_FAULT_ABORT_AT=n` kills the process with SIGKILL when it reaches its n-th point, counted from 1 over the life
//!   of the process.
//! * `AKV_FAULT_FORMER_MS=n` is how long former generations of files stay, so that calls in quick succession pass the steps
//!   that remove them.
//! * `AKV_FAULT_COUNT_FILE=path` appends one line `number name` for each point passed, so that a test learns how many
//!   there are and, after a death, where it was.

use std::time::Duration;

/// How long former generations stay: as usual.
#[cfg(not(any(test, feature = "fault-points")))]
pub fn former_for(usual: Duration) -> Duration {
    usual
}

/// How long former generations stay: as usual, if the environment does not say otherwise.
#[cfg(any(test, feature = "fault-points"))]
pub fn former_for(usual: Duration) -> Duration {
    let given = std::env::var("AKV_FAULT_FORMER_MS").ok().and_then(|n| n.parse().ok());
    given.map_or(usual, Duration::from_millis)
}

/// Passes a fault point. `name` says which step comes next, for the count file.
#[cfg(not(any(test, feature = "fault-points")))]
#[inline]
pub fn point(_name: &'static str) {}

/// Passes a fault point. `name` says which step comes next, for the count file.
#[cfg(any(test, feature = "fault-points"))]
pub fn point(name: &'static str) {
    use std::{
        env,
        ffi::OsString,
        fs::OpenOptions,
        io::Write,
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    static PASSED: AtomicU64 = AtomicU64::new(0);
    static ORDERS: OnceLock<(Option<u64>, Option<OsString>)> = OnceLock::new();

    let (abort_at, count_file) = ORDERS.get_or_init(|| {
        let abort_at = env::var("AKV_FAULT_ABORT_AT").ok().and_then(|n| n.parse().ok());
        (abort_at, env::var_os("AKV_FAULT_COUNT_FILE"))
    });
    let number = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
    if let Some(path) = count_file
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        // One write, so that points passed by parallel calls do not mix within a line.
        let _ = file.write_all(format!("{number} {name}\n").as_bytes());
    }
    if *abort_at == Some(number) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal is delivered before the call returns; this line is for the compiler's and the reader's certainty.
        std::process::abort();
    }
}
