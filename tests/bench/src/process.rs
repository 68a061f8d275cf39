//! What a process uses, as the kernel counts it.

use nix::time::ClockId;
use nix::unistd::Pid;
use std::time::Duration;

/// Memory, threads and file descriptors at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    /// Resident memory, shared pages of the program's file included (`VmRSS`), in MiB.
    pub resident: f64,
    /// Its part that is the process's own (`RssAnon`), in MiB.
    pub anonymous: f64,
    /// Threads.
    pub threads: usize,
    /// Open file descriptors.
    pub descriptors: usize,
}

impl Snapshot {
    /// Of the process with this id. The driver hides its memory from its own user, so this takes root.
    pub fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the driver lives");
        let field = |name| number(&status, name).unwrap_or_else(|| panic!("no {name} in:\n{status}"));
        let mebibytes = |name| f64::from(field(name)) / 1024.0;
        Self {
            resident: mebibytes("VmRSS"),
            anonymous: mebibytes("RssAnon"),
            threads: field("Threads") as usize,
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).expect("root may look").count(),
        }
    }
}

/// How often the threads of a process have been woken so far, those that have ended left out: each time the kernel takes
/// a thread off its processor, it has to be woken to go on.
pub fn wakeups(pid: u32) -> u32 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the driver lives");
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        // A thread may end meanwhile.
        let status = std::fs::read_to_string(thread.ok()?.path().join("status")).ok()?;
        number(&status, "voluntary_ctxt_switches")
    };
    threads.filter_map(of_thread).sum()
}

/// A field of a `status` file below `/proc`, without its unit.
fn number(status: &str, name: &str) -> Option<u32> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// CPU time that a process has used so far, user and system, threads that have ended included.
///
/// The process's CPU clock counts nanoseconds, where `/proc/PID/stat` counts ticks of 10 ms, too coarse for a round that
/// takes a few of them.
pub fn cpu_time(pid: u32) -> Duration {
    let pid = Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
    let clock = ClockId::pid_cpu_clock_id(pid).expect("the driver lives");
    clock.now().expect("any process may read it").into()
}
