//! What came of several fleets, as a table and as JSON.

use crate::run::{Outcome, Requests, Times};
use crate::service::LIMIT;
use serde_json::{Value, json};
use std::fmt::Write;

/// A Markdown table, a row for each fleet.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| nodes | pods | interval | start: 429s | start: mounted, median / p99 / last | start: failed calls | quiet: requests per 10 s, mean / busiest | quiet: 429s | new version shown, median / p99 / last | outage: requests per node and minute | after: 429s | after: looked again, median / p99 / last |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for outcome in outcomes {
        let fleet = &outcome.fleet;
        let scale = u64::from(fleet.scale);
        let pods = fleet.pods() * usize::try_from(fleet.scale).unwrap_or(1);
        let down = count(outcome.down.refused) / f64::from(fleet.nodes) / (fleet.outage.as_secs_f64() / 60.0);
        let _ = writeln!(
            text,
            "| {} | {} | {} s{} | {} | {} | {} | {:.0} / {} | {} | {} | {down:.1} | {} | {} |",
            u64::from(fleet.nodes) * scale,
            pods,
            fleet.load.interval.as_secs(),
            if fleet.load.spread { "" } else { ", in step" },
            share(outcome.starting, scale),
            times(outcome.mounts),
            outcome.failed_mounts * scale,
            outcome.quiet.average * count(scale),
            outcome.quiet.busiest * scale,
            share(outcome.quiet, scale),
            late(outcome.rotation, fleet.pods(), fleet.scale),
            share(outcome.after, scale),
            late(outcome.recovery, fleet.pods(), fleet.scale),
        );
    }
    text
}

/// Everything, for programs.
pub fn json(outcomes: &[Outcome]) -> Value {
    let times = |times: Times| json!({"number": times.number, "medianS": times.median, "p99S": times.p99, "longestS": times.longest});
    let requests = |requests: Requests| {
        json!({
            "served": requests.served, "throttled": requests.throttled, "refused": requests.refused,
            "busiest10s": requests.busiest, "average10s": requests.average,
        })
    };
    let outcomes = outcomes.iter().map(|outcome| {
        let (fleet, load) = (&outcome.fleet, &outcome.fleet.load);
        json!({
            "nodesPlayed": fleet.nodes, "eachStandsFor": fleet.scale, "podsPerNode": load.pods, "classesPerNode": load.classes,
            "objectsPerClass": load.objects, "intervalS": load.interval.as_secs(), "spread": load.spread,
            "joiningS": fleet.joining.as_secs(), "quietS": fleet.quiet.as_secs(),
            "outageS": fleet.outage.as_secs(), "afterS": fleet.after.as_secs(), "seed": fleet.seed,
            "starting": requests(outcome.starting), "mounts": times(outcome.mounts),
            "failedMounts": outcome.failed_mounts, "quiet": requests(outcome.quiet),
            "rotation": times(outcome.rotation), "down": requests(outcome.down),
            "after": requests(outcome.after), "recovery": times(outcome.recovery),
        })
    });
    json!({"limit10s": LIMIT, "outcomes": outcomes.collect::<Vec<_>>()})
}

/// Throttled requests, and their part of all.
fn share(requests: Requests, scale: u64) -> String {
    let all = requests.served + requests.throttled;
    if requests.throttled == 0 {
        return "0".to_owned();
    }
    format!("{} ({:.0} %)", requests.throttled * scale, 100.0 * count(requests.throttled) / count(all))
}

fn times(times: Times) -> String {
    format!("{} / {} / {}", seconds(times.median), seconds(times.p99), seconds(times.longest))
}

/// The same, and how many were not done in time.
fn late(of: Times, pods: usize, scale: u32) -> String {
    let missing = pods.saturating_sub(of.number) * usize::try_from(scale).unwrap_or(1);
    if missing == 0 { times(of) } else { format!("{}; {missing} pods not in time", times(of)) }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds.is_nan() => "–".to_owned(),
        seconds if seconds < 10.0 => format!("{seconds:.2} s"),
        seconds => format!("{seconds:.0} s"),
    }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(number: u64) -> f64 {
    number as f64
}
