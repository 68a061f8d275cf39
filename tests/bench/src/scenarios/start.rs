//! From exec to a socket that takes connections, and to a driver that the kubelet has registered.

use crate::Plan;
use crate::bed::Bed;
use crate::report::{Figure, Report, Unit};
use crate::sample::Sample;

/// A start takes a moment, so there is time for several in each repetition.
const STARTS: u32 = 3;
/// The promise, in milliseconds, from exec to registered without an API server.
const MOST: f64 = 100.0;
/// The reference's time until its socket answers: the middle of 46–84 ms.
const REFERENCE: f64 = 65.0;

/// Starts, and runs of the same binary that end at once, in turn.
pub async fn measure(plan: &Plan, report: &mut Report) {
    let mut bed = Bed::set(&plan.driver, 0).await;
    let (mut bare, mut serving, mut registered) = (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..plan.repetitions * STARTS {
        bare.push_time(bed.bare_process().await);
        let started = bed.start_driver(&[]).await;
        serving.push_time(started.serving);
        registered.push_time(started.registered);
        bed.stop_driver().await;
    }
    let floor = bare.median();
    report.add(Figure::new("the bare process, from exec to exit", Unit::Milliseconds, bare));
    report
        .add(Figure::new("start to serving", Unit::Milliseconds, serving).floor(floor).reference(REFERENCE));
    report.add(Figure::new("start to registered", Unit::Milliseconds, registered).floor(floor).target(MOST));
}
