use futures::future::join_all;

use super::*;
use crate::{FailureKind, client::api::ServiceError};

fn vault(most: usize) -> Arc<Vault> {
    Vaults::new(most, Dice::new(Some(1))).of("kv1")
}

fn throttling() -> Cause {
    Cause::Status { status: 429, error: ServiceError::default() }
}

fn mount() -> Urgency {
    Urgency::new(Priority::Mount)
}

fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

/// Throttles with what the vault asks for.
async fn strike(vault: &Vault, asked_for: Option<Duration>) {
    // Two requests of one moment are of one wave.
    tokio::time::advance(Duration::from_millis(1)).await;
    let turn = vault.turn(&mount(), within(600)).await.unwrap();
    turn.throttled(asked_for, &throttling());
}

#[tokio::test(start_paused = true)]
async fn one_pause_holds_everyone_back() {
    let vaults = Vaults::new(2, Dice::new(Some(1)));
    let vault = vaults.of("kv1");
    assert!(Arc::ptr_eq(&vault, &vaults.of("kv1")));
    strike(&vault, Some(Duration::from_secs(4))).await;
    let start = Instant::now();
    let told = vault.turn(&mount(), within(3)).await.map(drop).unwrap_err();
    assert_eq!(told.kind(), FailureKind::Throttled, "the pause is longer than the deadline");
    assert_eq!(Instant::now(), start, "told at once");
    let states = vaults.states();
    assert_eq!((states.len(), states[0].address.as_str(), states[0].requests), (1, "kv1", 0));
    let (left, reason) = states[0].pause.clone().unwrap();
    assert!(left >= Duration::from_secs(3) && reason == "429", "{left:?} {reason}");
    let _turn = vault.turn(&mount(), within(60)).await.unwrap();
    let waited = start.elapsed().as_secs_f64();
    assert!((4.0..=5.1).contains(&waited), "never before, little after: {waited}");
    // Another vault is not concerned.
    let free = Instant::now();
    assert!(vaults.of("kv2").turn(&mount(), within(1)).await.is_ok());
    assert_eq!(Instant::now(), free);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_already_is_told_of_a_pause_that_is_too_long() {
    let vault = vault(1);
    let turn = vault.turn(&mount(), within(9)).await.unwrap();
    let start = Instant::now();
    let urgency = mount();
    let waiting = vault.turn(&urgency, within(9));
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    turn.throttled(Some(Duration::from_secs(30)), &throttling());
    assert_eq!(waiting.await.map(drop).unwrap_err().kind(), FailureKind::Throttled);
    assert_eq!(Instant::now(), start);
}

#[tokio::test(start_paused = true)]
async fn a_pause_lasts_about_a_minute_at_most() {
    let vault = vault(1);
    strike(&vault, Some(Duration::from_hours(1))).await;
    let start = Instant::now();
    assert!(vault.turn(&mount(), within(59)).await.is_err());
    assert!(vault.turn(&mount(), within(120)).await.is_ok());
    assert!((60.0..80.0).contains(&start.elapsed().as_secs_f64()));
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_where_the_vault_does_not_say_how_long() {
    let vault = vault(32);
    for seconds in [1.0, 2.0, 4.0, 8.0, 16.0, 16.0] {
        strike(&vault, None).await;
        let start = Instant::now();
        let turn = vault.turn(&mount(), within(600)).await.unwrap();
        let waited = start.elapsed().as_secs_f64() / seconds;
        assert!((0.75..=1.26).contains(&waited), "{seconds}: {waited}");
        drop(turn);
    }
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_throttles_and_names_no_wait_is_not_asked_without_end() {
    let (vault, deadline) = (vault(32), within(100));
    let mut sent = 0;
    while let Ok(turn) = vault.turn(&mount(), deadline).await {
        sent += 1;
        tokio::time::advance(Duration::from_millis(1)).await;
        turn.throttled(Some(Duration::ZERO), &throttling());
    }
    assert!((8..=24).contains(&sent), "{sent}");
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_wave_count_once() {
    let vault = vault(8);
    let turns = join_all((0..8).map(|_| async { vault.turn(&mount(), within(60)).await.unwrap() })).await;
    tokio::time::advance(Duration::from_millis(20)).await;
    for turn in turns {
        turn.throttled(None, &throttling());
    }
    let gate = vault.gate.lock();
    assert_eq!((gate.strikes, gate.window, gate.under_way), (1, 4, 0));
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_requests_go_out_one_by_one_and_ever_closer() {
    let vault = vault(32);
    strike(&vault, Some(Duration::from_secs(1))).await;
    let all = join_all((0..200).map(|_| async {
        let turn = vault.turn(&mount(), within(60)).await.unwrap();
        let sent = Instant::now();
        tokio::time::sleep(Duration::from_millis(20)).await;
        turn.answered();
        sent
    }));
    let start = Instant::now();
    let mut sent = all.await;
    sent.sort();
    let so_far = |milliseconds: u64| {
        let until = sent[0] + Duration::from_millis(milliseconds);
        sent.iter().filter(|moment| **moment < until).count()
    };
    assert!(sent[0] - start >= Duration::from_secs(1) - Duration::from_millis(2));
    assert_eq!(so_far(50), 1, "nobody rushes");
    assert!((5..=20).contains(&so_far(500)), "{}", so_far(500));
    assert_eq!(so_far(2_000), 200, "but nobody waits for long");
    assert_eq!(vault.gate.lock().spacing, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn mounts_go_before_rotations() {
    let vault = vault(1);
    let held = vault.turn(&mount(), within(60)).await.unwrap();
    let order = Mutex::new(Vec::new());
    let become_mount = Urgency::new(Priority::Rotation);
    let wait = |name, urgency: Urgency| {
        let (vault, order) = (&vault, &order);
        async move {
            let turn = vault.turn(&urgency, within(60)).await.unwrap();
            order.lock().push(name);
            tokio::time::sleep(Duration::from_millis(5)).await;
            turn.answered();
        }
    };
    let rotation = || Urgency::new(Priority::Rotation);
    let all = join_all([
        wait("r1", rotation()),
        wait("r2", become_mount.clone()),
        wait("m1", mount()),
        wait("r3", rotation()),
        wait("m2", mount()),
    ]);
    let meanwhile = async {
        tokio::task::yield_now().await;
        become_mount.raise(Priority::Mount);
        held.answered();
    };
    tokio::join!(all, meanwhile);
    assert_eq!(*order.lock(), ["r2", "m1", "m2", "r1", "r3"]);
}

#[tokio::test(start_paused = true)]
async fn rotations_leave_a_vault_that_throttles_alone_for_longer() {
    let vault = vault(8);
    strike(&vault, Some(Duration::from_secs(2))).await;
    let start = Instant::now();
    let rotation = Urgency::new(Priority::Rotation);
    let waited = |urgency: Urgency| {
        let vault = &vault;
        async move {
            vault.turn(&urgency, within(600)).await.unwrap().answered();
            start.elapsed().as_secs_f64()
        }
    };
    let closed = |priority| vault.closed(priority).map(|cause| cause.kind());
    for priority in [Priority::Mount, Priority::Rotation] {
        assert_eq!(closed(priority), Some(FailureKind::Throttled));
    }
    // The rotation came first, and the mount does not wait for it.
    let (late, early) = tokio::join!(waited(rotation), waited(mount()));
    assert!((2.0..=2.7).contains(&early) && (8.0..=10.1).contains(&late), "{early} {late}");
    assert_eq!((closed(Priority::Mount), closed(Priority::Rotation)), (None, None));
}

#[tokio::test(start_paused = true)]
async fn so_many_at_once() {
    let vault = vault(1);
    let turn = vault.turn(&mount(), within(1)).await;
    assert!(vault.turn(&mount(), within(1)).await.is_err());
    drop(turn);
    assert!(vault.turn(&mount(), within(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_the_queue_lets_the_next_one_go() {
    let vault = vault(1);
    let held = vault.turn(&mount(), within(60)).await.unwrap();
    let urgency = mount();
    let mut first = Box::pin(vault.turn(&urgency, within(60)));
    let mut second = Box::pin(vault.turn(&urgency, within(60)));
    assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
    drop(held);
    // It was the first one's turn, which it does not take.
    drop(first);
    assert!(second.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn quiet_makes_good() {
    let vault = vault(32);
    for _ in 0..5 {
        strike(&vault, None).await;
    }
    assert_eq!(vault.gate.lock().window, 1);
    tokio::time::advance(Duration::from_mins(3)).await;
    let _turn = vault.turn(&mount(), within(60)).await;
    let gate = vault.gate.lock();
    assert_eq!((gate.strikes, gate.window, gate.spacing), (0, 32, Duration::ZERO));
}
