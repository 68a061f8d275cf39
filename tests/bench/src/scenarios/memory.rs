//! Memory, threads and file descriptors: idle, with a hundred mounts, and after they are gone; and how often the process
//! wakes up when there is nothing to do.

use super::OBJECTS;
use crate::Plan;
use crate::bed::{Bed, UPSTREAM, publish_all, unpublish_all};
use crate::process::{Snapshot, wakeups};
use crate::report::{Figure, Report, Unit};
use crate::sample::Sample;
use std::time::{Duration, Instant};

const PODS: usize = 100;
/// Threads that have nothing to do end after 10 s.
const REST: Duration = Duration::from_secs(15);
/// How long wake-ups are counted.
const WATCHED: Duration = Duration::from_secs(10);
/// The promises, in MiB, and the reference's four containers together.
const MOST_IDLE: f64 = 15.0;
const MOST_MOUNTED: f64 = 25.0;
const MOST_KEPT: f64 = 2.0;
const REFERENCE: [f64; 3] = [96.0, 115.0, 116.0];

/// Each repetition on a fresh driver.
pub async fn measure(plan: &Plan, report: &mut Report) {
    let mut bed = Bed::set(&plan.driver, OBJECTS).await;
    bed.deploy("class", 0, OBJECTS);
    bed.set_latency(UPSTREAM);
    let calls = bed.pods("web", PODS, &["class".to_owned()]);
    let mut moments: Vec<(&str, Vec<Snapshot>)> =
        ["idle", "100 pods mounted", "just unmounted", "at rest again"].map(|name| (name, Vec::new())).into();
    let mut woken = Sample::default();
    for _ in 0..plan.repetitions {
        bed.start_driver(&[]).await;
        let idle = Snapshot::of(bed.pid());
        publish_all(&calls).await;
        let mounted = Snapshot::of(bed.pid());
        unpublish_all(&calls).await;
        let unmounted = Snapshot::of(bed.pid());
        let mut taken = vec![idle, mounted, unmounted];
        if !plan.quick {
            taken.push(at_rest(bed.pid(), idle).await);
            let before = wakeups(bed.pid());
            tokio::time::sleep(WATCHED).await;
            let since = wakeups(bed.pid()).saturating_sub(before);
            woken.push(f64::from(since) * 60.0 / WATCHED.as_secs_f64());
        }
        for ((_, snapshots), snapshot) in moments.iter_mut().zip(taken) {
            snapshots.push(snapshot);
        }
        bed.stop_driver().await;
    }
    if plan.quick {
        moments.pop();
    }
    let sample =
        |snapshots: &[Snapshot], of: fn(&Snapshot) -> f64| snapshots.iter().map(of).collect::<Sample>();
    let idle = sample(&moments[0].1, |snapshot| snapshot.resident).median();
    let targets = [Some(MOST_IDLE), Some(MOST_MOUNTED), None, Some(idle + MOST_KEPT)];
    let references = [Some(REFERENCE[0]), Some(REFERENCE[1]), None, Some(REFERENCE[2])];
    for (number, (name, snapshots)) in moments.iter().enumerate() {
        let resident = sample(snapshots, |snapshot| snapshot.resident);
        let mut figure = Figure::new(format!("resident memory, {name}"), Unit::Mebibytes, resident);
        (figure.target, figure.reference) = (targets[number], references[number]);
        report.add(figure);
        let anonymous = sample(snapshots, |snapshot| snapshot.anonymous);
        report.add(Figure::new(format!("  of it the process's own, {name}"), Unit::Mebibytes, anonymous));
    }
    if !plan.quick {
        report.add(Figure::new("wake-ups per minute, at rest again", Unit::Count, woken));
    }
    for (name, snapshots) in &moments {
        let threads = sample(snapshots, |snapshot| count(snapshot.threads));
        report.add(Figure::new(format!("threads, {name}"), Unit::Count, threads));
        let descriptors = sample(snapshots, |snapshot| count(snapshot.descriptors));
        report.add(Figure::new(format!("file descriptors, {name}"), Unit::Count, descriptors));
    }
}

/// The driver when threads that have nothing to do have ended, or when that has taken too long.
async fn at_rest(pid: u32, idle: Snapshot) -> Snapshot {
    let patience = Instant::now() + REST;
    loop {
        let snapshot = Snapshot::of(pid);
        if snapshot.threads <= idle.threads || Instant::now() > patience {
            return snapshot;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn count(things: usize) -> f64 {
    f64::from(u32::try_from(things).expect("fewer than four billion"))
}
