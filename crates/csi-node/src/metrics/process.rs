//! What the system says of this process, under the names that every program's dashboard looks for.

use super::catalogue::{
    PROCESS_CPU, PROCESS_FDS, PROCESS_MAX_FDS, PROCESS_RSS, PROCESS_START, PROCESS_VIRTUAL,
};
use super::collect::{NO_LABELS, Scrape, counter, gauge};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use rustix::process::{Resource, getrlimit};
use std::time::{SystemTime, UNIX_EPOCH};

/// The kernel counts CPU time towards programs in hundredths of a second, on every architecture that Kubernetes runs on
/// (`USER_HZ`, proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self` at each scrape.
#[derive(Debug)]
pub(super) struct Process {
    started: f64,
}

impl Process {
    /// Takes now for the start of the process.
    pub(super) fn starting() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self { started }
    }
}

impl Collector for Scrape<Process> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let one = |value: Option<f64>| value.map(|value| (NO_LABELS, value));
        counter(&mut encoder, &PROCESS_CPU, one(cpu_seconds(&read("stat"))))?;
        let status = read("status");
        gauge(&mut encoder, &PROCESS_RSS, one(bytes(&status, "VmRSS:")))?;
        gauge(&mut encoder, &PROCESS_VIRTUAL, one(bytes(&status, "VmSize:")))?;
        gauge(&mut encoder, &PROCESS_FDS, one(open_fds()))?;
        let most = getrlimit(Resource::Nofile).current.and_then(|most| u32::try_from(most).ok());
        gauge(&mut encoder, &PROCESS_MAX_FDS, one(most.map(f64::from)))?;
        gauge(&mut encoder, &PROCESS_START, one(Some(self.0.started)))
    }
}

/// User and system time from `/proc/self/stat`. The second field, the program's name in parentheses, may hold blanks.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// A line of `/proc/self/status`, which counts in KiB.
fn bytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0)
}

fn open_fds() -> Option<f64> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // The folder itself was open for that.
    u32::try_from(open.saturating_sub(1)).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 7 0 1000 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("garbage"), None);
        assert_eq!(bytes("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS:"), Some(2_097_152.0));
        assert_eq!(bytes("", "VmRSS:"), None);
    }
}
