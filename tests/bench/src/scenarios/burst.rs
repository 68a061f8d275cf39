//! Many pods at once on a driver that has just started: no token, no connection, no value.

use super::OBJECTS;
use crate::Plan;
use crate::bed::{Bed, UPSTREAM, publish_all, unpublish_all};
use crate::floor::{empty_calls, mount_syscalls};
use crate::process::cpu_time;
use crate::report::{Figure, Report, Unit, Wanted};
use crate::sample::Sample;

/// Pods, classes, and the reference's wall time in milliseconds where it is known.
const BURSTS: [(usize, usize, Option<f64>); 4] =
    [(100, 1, Some(3900.0)), (100, 20, Some(4000.0)), (250, 1, Some(11_500.0)), (250, 20, None)];
const CLASSES: usize = 20;
/// The promise: so many times a single mount, and the mount calls' own time.
const SINGLE_MOUNTS: f64 = 3.0;
/// The reference's CPU time for 100 mounts of 5 secrets, in milliseconds.
const REFERENCE_CPU: f64 = 1100.0;

#[derive(Default)]
struct Row {
    wall: Sample,
    p99: Sample,
    cpu: Sample,
    floor: Sample,
    empty: Sample,
    unpublish: Sample,
}

/// Bursts, each on a fresh driver, and single mounts on fresh drivers between them.
pub async fn measure(plan: &Plan, report: &mut Report) {
    let mut bed = Bed::set(&plan.driver, CLASSES * OBJECTS).await;
    // Different objects in each class: that is the most that can be asked for.
    let classes: Vec<String> = (0..CLASSES).map(|class| format!("class-{class}")).collect();
    for (number, class) in classes.iter().enumerate() {
        bed.deploy(class, number * OBJECTS, OBJECTS);
    }
    bed.set_latency(UPSTREAM);
    let mut rows: [Row; BURSTS.len()] = Default::default();
    let mut single = Sample::default();
    for _ in 0..plan.repetitions {
        for (row, (pods, of_classes, _)) in rows.iter_mut().zip(BURSTS) {
            bed.start_driver(&[]).await;
            let calls = bed.pods("single", 1, &classes);
            single.push_time(publish_all(&calls).await.1);
            unpublish_all(&calls).await;
            bed.stop_driver().await;

            row.floor.push_time(mount_syscalls(&bed, pods, OBJECTS).await);
            let calls = bed.pods("burst", pods, &classes[..of_classes]);
            bed.start_driver(&[]).await;
            bed.reset_requests();
            let cpu_before = cpu_time(bed.pid());
            let (each, wall) = publish_all(&calls).await;
            row.cpu.push_time(cpu_time(bed.pid()).saturating_sub(cpu_before));
            row.wall.push_time(wall);
            row.p99.push(each.percentile(99));
            let requests = bed.requests();
            let title = title(pods, of_classes);
            let objects = u64::try_from(of_classes * OBJECTS).expect("a few");
            report.count(&format!("{title}: Key Vault"), Wanted::Exactly(objects), requests.vault);
            report.count(&format!("{title}: tokens"), Wanted::Exactly(1), requests.tokens);
            report.count(&format!("{title}: challenges"), Wanted::AtMost(1), requests.challenges);
            row.unpublish.push_time(unpublish_all(&calls).await);
            row.empty.push_time(empty_calls(&bed, pods).await);
            bed.stop_driver().await;
        }
    }
    let single_median = single.median();
    report.add(Figure::new("first mount after the start, 5 objects", Unit::Milliseconds, single));
    for (row, (pods, of_classes, reference)) in rows.into_iter().zip(BURSTS) {
        let (title, floor) = (title(pods, of_classes), row.floor.median());
        report.add(Figure::new(format!("{title}: mount calls alone"), Unit::Milliseconds, row.floor));
        report.add(Figure::new(format!("{title}: calls without work"), Unit::Milliseconds, row.empty));
        let mut wall = Figure::new(format!("{title}: all mounted"), Unit::Milliseconds, row.wall)
            .floor(single_median + floor)
            .target(SINGLE_MOUNTS * single_median + floor);
        wall.reference = reference;
        report.add(wall);
        report.add(Figure::new(format!("{title}: p99 of a call"), Unit::Milliseconds, row.p99));
        let mut cpu = Figure::new(format!("{title}: CPU of the driver"), Unit::Milliseconds, row.cpu);
        cpu.reference = (pods == 100).then_some(REFERENCE_CPU);
        report.add(cpu);
        report.add(Figure::new(format!("{title}: all unmounted"), Unit::Milliseconds, row.unpublish));
    }
}

fn title(pods: usize, classes: usize) -> String {
    format!("{pods} pods at once, {classes} {}", if classes == 1 { "class" } else { "classes" })
}
