//! One pod after another, with a token and a connection at hand and every value asked for anew.

use crate::Plan;
use crate::bed::Bed;
use crate::floor::{Upstream, mount_syscalls};
use crate::report::{Figure, Report, Unit, Wanted};
use crate::sample::Sample;
use e2e::Call;
use std::time::{Duration, Instant};

/// Objects of a class, and the reference's time for them in milliseconds, upstream at 0 and at 20 ms.
const SIZES: [(usize, [f64; 2]); 3] = [(1, [19.0, 124.0]), (5, [20.0, 208.0]), (20, [30.0, 527.0])];
const LATENCIES: [u64; 2] = [0, 20];
/// A mount takes milliseconds, so there is time for several in each repetition.
const MOUNTS: u32 = 5;
/// The promise for many objects: little more than one round trip, and this many milliseconds for everything else.
const ROUND_TRIPS: f64 = 1.25;
const REST: f64 = 3.0;
/// The reference's time to unpublish one volume, in milliseconds.
const REFERENCE_UNPUBLISH: f64 = 4.9;

#[derive(Default)]
struct Row {
    mounts: Sample,
    syscalls: Sample,
}

/// Mounts, and what the same costs without a driver, in turn.
pub async fn measure(plan: &Plan, report: &mut Report) {
    let mut bed = Bed::set(&plan.driver, 20).await;
    for (objects, _) in SIZES {
        bed.deploy(&format!("class-{objects}"), 0, objects);
    }
    bed.start_driver(&["--mount-freshness=0s"]).await;
    let upstream = Upstream::connect(&bed).await;
    let call = |objects: usize| Call::new(&bed.stage, &format!("pod-{objects}"), &format!("class-{objects}"));
    for _ in 0..3 {
        let warm_up = call(20);
        warm_up.send().await.expect("the bed is complete");
        warm_up.unpublish().await.expect("it was mounted");
    }

    let mut rows: [[Row; SIZES.len()]; LATENCIES.len()] = Default::default();
    let mut round_trips: [Sample; LATENCIES.len()] = Default::default();
    let mut unpublishing = Sample::default();
    for _ in 0..plan.repetitions * MOUNTS {
        for (of_latency, latency) in LATENCIES.into_iter().enumerate() {
            bed.set_latency(Duration::from_millis(latency));
            for (of_size, (objects, _)) in SIZES.into_iter().enumerate() {
                round_trips[of_latency].push_time(upstream.round_trip().await);
                let row = &mut rows[of_latency][of_size];
                row.syscalls.push_time(mount_syscalls(&bed, 1, objects).await);
                let call = call(objects);
                bed.reset_requests();
                let started = Instant::now();
                call.send().await.expect("the bed is complete");
                row.mounts.push_time(started.elapsed());
                let requests = bed.requests();
                let wanted = Wanted::Exactly(objects.try_into().expect("a few"));
                report.count(&format!("warm mount of {objects}: Key Vault"), wanted, requests.vault);
                let others = requests.tokens + requests.challenges;
                report.count("warm mounts: tokens and challenges", Wanted::Exactly(0), others);
                let started = Instant::now();
                call.unpublish().await.expect("it was mounted");
                unpublishing.push_time(started.elapsed());
            }
        }
    }
    for (of_latency, latency) in LATENCIES.into_iter().enumerate() {
        let round_trip = round_trips[of_latency].median();
        let name = format!("one round trip, upstream +{latency} ms");
        report.add(Figure::new(name, Unit::Milliseconds, round_trips[of_latency].clone()));
        for (of_size, (objects, reference)) in SIZES.into_iter().enumerate() {
            let row = &rows[of_latency][of_size];
            let name = format!("warm mount of {objects}, upstream +{latency} ms");
            let mut figure = Figure::new(name, Unit::Milliseconds, row.mounts.clone())
                .floor(round_trip + row.syscalls.median())
                .reference(reference[of_latency]);
            if latency == 20 {
                figure = figure.target(ROUND_TRIPS * round_trip + REST);
            }
            report.add(figure);
        }
    }
    for (of_size, (objects, _)) in SIZES.into_iter().enumerate() {
        let syscalls = rows.iter().flat_map(|row| row[of_size].syscalls.values().iter().copied()).collect();
        report.add(Figure::new(format!("mount calls alone, {objects} files"), Unit::Milliseconds, syscalls));
    }
    report.add(Figure::new("unpublish", Unit::Milliseconds, unpublishing).reference(REFERENCE_UNPUBLISH));
}
