//! Five hundred volumes on one node come and go at once, again and again, and the driver is afterwards what it was before.
//!
//! `AKV_CSI_SCALE_ROUNDS` is the number of rounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use e2e::{
    Call, Content, DriverProcess, Stage, StageOptions, Usage, VolumeView, can_mount, fill_secrets, look,
    setting,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const VOLUMES: usize = 500;
const CLASS: &str = "kv";

/// What the allocator keeps varies with how many calls happen to be at the same step at once.
const MEMORY_MARGIN_KIB: usize = 40 * 1024;
/// The same where never more than a few are at work: little more than a KiB for each volume.
const STEADY_MARGIN_KIB: usize = 768;
const STEADY_VOLUMES: usize = 600;
/// The runtime's workers, and its limit of threads for blocking work.
const MOST_THREADS: usize = 540;
/// Threads that have nothing to do end after 10 s, and take their stacks with them.
const REST: Duration = Duration::from_secs(60);

fn content(version: usize) -> Content {
    Content::new([("always", version, 0o644), ("dir/a", 2, 0o600), ("b", 3, 0o644)])
}

async fn stage(arguments: &[&str]) -> Stage {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let mut stage = Stage::set(StageOptions { arguments, ..StageOptions::default() }).await;
    // With one arena what the allocator keeps for itself does not grow with the number of threads, and a leak shows.
    let allocator = ("MALLOC_ARENA_MAX".to_owned(), "1".to_owned());
    stage.driver = Some(stage.start_unregistered(&DriverProcess::binary(), [allocator]).await);
    fill_secrets(&stage);
    content(0).deploy(&stage, CLASS);
    stage
}

/// Pods that have not been there before: what is remembered of them beyond their end adds up.
fn calls(stage: &Stage, generation: usize, number: usize) -> Vec<Arc<Call>> {
    (0..number)
        .map(|number| Arc::new(Call::new(stage, &format!("web-{generation}-{number}"), CLASS)))
        .collect()
}

/// All of these calls at once.
async fn each<F: Future<Output = Result<(), tonic::Status>> + Send + 'static>(
    calls: &[Arc<Call>],
    make: impl Fn(Arc<Call>) -> F,
) {
    let mut running: JoinSet<_> = calls.iter().map(|call| make(Arc::clone(call))).collect();
    while let Some(done) = running.join_next().await {
        done.unwrap().unwrap();
    }
}

fn assert_shows(calls: &[Arc<Call>], content: &Content) {
    let wanted = content.files();
    for call in calls {
        let verdict = match look(&call.target()) {
            e2e::Sight::Volume(view) => VolumeView::is(&view, &wanted),
            other => Err(format!("{other:?}")),
        };
        verdict.unwrap_or_else(|reason| panic!("{}: {reason}", call.target().display()));
    }
}

fn assert_gone(stage: &Stage, calls: &[Arc<Call>]) {
    let left = calls.iter().map(|call| call.target()).filter(|target| target.exists());
    assert_eq!(left.count(), 0, "folders are left");
    assert!(stage.mounts().is_empty(), "mounts are left: {:?}", stage.mounts());
}

/// What the driver uses when it has come to rest: connections are closed, and threads that have nothing to do have ended.
async fn at_rest(stage: &Stage, fresh: Usage) -> Usage {
    let pid = stage.driver.as_ref().expect("it runs").pid();
    let patience = Instant::now() + REST;
    loop {
        let usage = Usage::of(pid);
        if usage.threads <= fresh.threads + 2 && usage.descriptors <= fresh.descriptors + 10 {
            return usage;
        }
        assert!(Instant::now() < patience, "the driver does not come to rest: {fresh:?} became {usage:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_volumes_come_and_go_and_leave_nothing() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--enable-secret-rotation", "--rotation-poll-interval=1h"]).await;
    let (rounds, started) = (setting("AKV_CSI_SCALE_ROUNDS", 4_usize).max(3), Instant::now());
    let fresh = Usage::of(stage.driver.as_ref().unwrap().pid());
    let mut warm = None;
    for round in 0..rounds {
        let calls = calls(&stage, round, VOLUMES);
        each(&calls, |call| async move { call.publish().await }).await;
        assert_eq!(stage.mounts().len(), VOLUMES, "round {round}");
        assert_shows(&calls, &content(0));
        let busy = Usage::of(stage.driver.as_ref().unwrap().pid());
        assert!(busy.threads <= MOST_THREADS, "round {round}: {busy:?}");
        each(&calls, |call| async move { call.unpublish().await }).await;
        assert_gone(&stage, &calls);
        if round == 1 {
            warm = Some(at_rest(&stage, fresh).await);
        }
        eprintln!("round {round}: {busy:?}, {:?}", started.elapsed());
    }
    let (warm, last) = (warm.expect("three rounds at least"), at_rest(&stage, fresh).await);
    eprintln!("{fresh:?}, after two rounds {warm:?}, after {rounds} {last:?}, {:?}", started.elapsed());
    assert!(last.memory_kib <= warm.memory_kib + MEMORY_MARGIN_KIB, "{warm:?} became {last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_change_while_others_go() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--enable-secret-rotation", "--rotation-poll-interval=0"]).await;
    let calls = calls(&stage, 0, 250);
    let fresh = Usage::of(stage.driver.as_ref().unwrap().pid());
    each(&calls, |call| async move { call.publish().await }).await;
    let (staying, going) = calls.split_at(200);
    for version in [1, 4, 5] {
        content(version).deploy(&stage, CLASS);
        tokio::join!(
            each(staying, |call| async move { call.publish().await }),
            each(going, |call| async move { call.unpublish().await })
        );
        assert_shows(staying, &content(version));
        assert_eq!(stage.mounts().len(), staying.len());
        assert!(going.iter().all(|call| !call.target().exists()), "folders are left");
        each(going, |call| async move { call.publish().await }).await;
    }
    each(&calls, |call| async move { call.unpublish().await }).await;
    assert_gone(&stage, &calls);
    at_rest(&stage, fresh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unpublished_is_forgotten() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--enable-secret-rotation", "--rotation-poll-interval=1h"]).await;
    let pid = stage.driver.as_ref().unwrap().pid();
    let mut warm = None;
    for generation in 0..STEADY_VOLUMES * 2 / 8 {
        let calls = calls(&stage, generation, 8);
        each(&calls, |call| async move {
            call.publish().await?;
            call.unpublish().await
        })
        .await;
        if generation == STEADY_VOLUMES / 8 {
            warm = Some(Usage::of(pid));
        }
    }
    let (warm, last) = (warm.unwrap(), Usage::of(pid));
    eprintln!("after {STEADY_VOLUMES} volumes {warm:?}, after as many again {last:?}");
    assert!(last.memory_kib <= warm.memory_kib + STEADY_MARGIN_KIB, "{warm:?} became {last:?}");
    assert!(
        last.descriptors <= warm.descriptors + 8 && last.threads <= warm.threads + 8,
        "{warm:?} became {last:?}"
    );
}
