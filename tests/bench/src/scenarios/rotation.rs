//! A round of the kubelet's republish calls over mounted volumes whose content has become too old.

use super::OBJECTS;
use crate::Plan;
use crate::bed::{Bed, UPSTREAM, publish_all, secret_name, unpublish_all};
use crate::floor::Upstream;
use crate::process::cpu_time;
use crate::report::{Figure, Report, Unit, Wanted};
use crate::sample::Sample;
use e2e::VAULT;
use std::time::Duration;

const PODS: usize = 100;
/// Long enough that one round is over before the next begins, short enough to wait for.
const INTERVAL: Duration = Duration::from_secs(3);
/// The promise for a round in which nothing has changed, in milliseconds of the driver's CPU.
const MOST_CPU: f64 = 50.0;
/// The reference's wall and CPU times in milliseconds: nothing changed, one secret changed.
const REFERENCE: [(f64, f64); 2] = [(8500.0, 1000.0), (8600.0, 1100.0)];

#[derive(Default)]
struct Row {
    wall: Sample,
    cpu: Sample,
}

/// Rounds in which nothing has changed and rounds in which one secret has, in turn.
pub async fn measure(plan: &Plan, report: &mut Report) {
    let mut bed = Bed::set(&plan.driver, OBJECTS).await;
    bed.deploy("class", 0, OBJECTS);
    bed.set_latency(UPSTREAM);
    let interval = format!("--rotation-poll-interval={}s", INTERVAL.as_secs());
    bed.start_driver(&["--enable-secret-rotation=true", &interval]).await;
    let upstream = Upstream::connect(&bed).await;
    let calls = bed.pods("web", PODS, &["class".to_owned()]);
    publish_all(&calls).await;

    let mut rows: [Row; 2] = Default::default();
    let mut round_trip = Sample::default();
    for repetition in 0..plan.repetitions {
        for (row, title) in rows.iter_mut().zip(TITLES) {
            let changed = title == TITLES[1];
            let value = format!("changed {repetition}");
            if changed {
                bed.stage.azure.vault(VAULT).set_secret(&secret_name(0), &value).expect("a valid secret");
            }
            // Not for order's sake: the content has to grow as old as the interval.
            tokio::time::sleep(INTERVAL + Duration::from_millis(100)).await;
            round_trip.push_time(upstream.round_trip().await);
            bed.reset_requests();
            let cpu_before = cpu_time(bed.pid());
            let (_, wall) = publish_all(&calls).await;
            row.cpu.push_time(cpu_time(bed.pid()).saturating_sub(cpu_before));
            row.wall.push_time(wall);
            let (requests, objects) = (bed.requests(), u64::try_from(OBJECTS).expect("a few"));
            report.count(&format!("{title}: Key Vault"), Wanted::AtMost(objects), requests.vault);
            let others = requests.tokens + requests.challenges;
            report.count(&format!("{title}: tokens and challenges"), Wanted::Exactly(0), others);
            if changed {
                let behind = calls.iter().filter(|call| call.read(&secret_name(0)) != value).count();
                let behind = u64::try_from(behind).expect("a few");
                report.count(&format!("{title}: pods with the old value"), Wanted::Exactly(0), behind);
            } else {
                // A round that asks nothing is no round.
                report.count(
                    &format!("{title}: Key Vault, left out"),
                    Wanted::Exactly(0),
                    objects - requests.vault.min(objects),
                );
            }
        }
    }
    unpublish_all(&calls).await;
    bed.stop_driver().await;
    for (number, (row, title)) in rows.into_iter().zip(TITLES).enumerate() {
        let (wall, cpu) = REFERENCE[number];
        report.add(
            Figure::new(format!("{title}: wall"), Unit::Milliseconds, row.wall)
                .floor(round_trip.median())
                .reference(wall),
        );
        let mut figure =
            Figure::new(format!("{title}: CPU of the driver"), Unit::Milliseconds, row.cpu).reference(cpu);
        if number == 0 {
            figure = figure.target(MOST_CPU);
        }
        report.add(figure);
    }
}

const TITLES: [&str; 2] = ["round over 100 pods, nothing changed", "round over 100 pods, one changed"];
