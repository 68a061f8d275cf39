//! No volume is ever empty, torn or left behind, whatever happens to the calls and to the driver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use azure_emulator::{Fault, FaultRule, RetryAfter, Service};
use e2e::{Call, FORMER_STAYS, Stage, StageOptions, VAULT, can_mount, class};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const OBJECTS: [&str; 3] = [
    "objectName: secret1\nobjectType: secret",
    "objectName: ExampleSecret\nobjectType: secret\nobjectAlias: nested/example",
    "objectName: key1\nobjectType: key",
];

async fn stage(arguments: &[&str]) -> Stage {
    let options = StageOptions {
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        ..StageOptions::default()
    };
    let stage = Stage::start(options).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &OBJECTS, &[]));
    stage
}

fn assert_complete(call: &Call) {
    let files = call.files();
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["key1", "nested/example", "secret1"], "{} is not complete", call.target().display());
    assert_eq!(files["nested/example"], b"MyAKSExampleSecret");
}

#[tokio::test]
async fn calls_at_once_for_one_target_make_one_mount() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    let call = Call::new(&stage, "web", "kv");
    let results = tokio::join!(call.publish(), call.publish(), call.publish(), call.publish());
    assert!(results.0.is_ok() && results.1.is_ok() && results.2.is_ok() && results.3.is_ok(), "{results:?}");
    assert_complete(&call);
    assert_eq!(stage.mounts().len(), 1, "{:?}", stage.mounts());
    call.unpublish().await.unwrap();
    assert!(stage.mounts().is_empty() && !call.target().exists());
}

#[tokio::test]
async fn a_call_that_runs_into_its_deadline_is_repaired_by_the_next_one() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--enable-secret-rotation", "--rotation-poll-interval=2m"]).await;
    stage.azure.faults().inject(FaultRule::new(Service::Vault, Fault::Hang));
    let calls: Vec<Call> = (0..5).map(|number| Call::new(&stage, &format!("web-{number}"), "kv")).collect();
    for call in &calls {
        call.publish_within(Duration::from_millis(300)).await.unwrap_err();
        assert!(call.files().is_empty());
    }
    stage.azure.faults().clear();
    for call in &calls {
        call.publish().await.unwrap();
        assert_complete(call);
    }
}

#[tokio::test]
async fn a_driver_killed_while_pods_mount_leaves_nothing_half_done() {
    if !can_mount() {
        return;
    }
    for rotation in ["--enable-secret-rotation=true", "--enable-secret-rotation=false"] {
        let mut stage = stage(&[rotation]).await;
        stage.azure.faults().set_latency(Service::Vault, Duration::from_millis(10));
        let calls: Vec<Arc<Call>> =
            (0..60).map(|number| Arc::new(Call::new(&stage, &format!("web-{number}"), "kv"))).collect();
        let mut running = JoinSet::new();
        for call in &calls {
            let call = Arc::clone(call);
            running.spawn(async move { call.publish().await.is_ok() });
        }
        // When the first one is through, others are at every step of the way.
        running.join_next().await.unwrap().unwrap();
        stage.driver.take().unwrap().kill().await;
        while running.join_next().await.is_some() {}

        stage.start_driver().await;
        for call in &calls {
            call.publish().await.unwrap();
            assert_complete(call);
        }
        assert_eq!(stage.mounts().len(), calls.len());
        for call in &calls {
            call.unpublish().await.unwrap();
            assert!(!call.target().exists());
        }
        assert!(stage.mounts().is_empty(), "{:?}", stage.mounts());
    }
}

#[tokio::test]
async fn unpublish_may_be_repeated_and_needs_neither_azure_nor_a_mount() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    let never = Call::new(&stage, "never", "kv");
    never.unpublish().await.unwrap();
    let call = Call::new(&stage, "web", "kv");
    call.publish().await.unwrap();
    stage.azure.refuse_connections(Service::Vault).await;
    call.unpublish().await.unwrap();
    call.unpublish().await.unwrap();
    assert!(stage.mounts().is_empty());
}

#[tokio::test]
async fn an_outage_keeps_what_is_mounted_and_the_kubelet_hears_ok() {
    if !can_mount() {
        return;
    }
    let stage =
        stage(&["--enable-secret-rotation", "--rotation-poll-interval=0", "--publish-timeout=2s"]).await;
    let call = Call::new(&stage, "web", "kv");
    call.publish().await.unwrap();
    let before = call.files();
    stage.azure.vault(VAULT).set_secret("secret1", "new").unwrap();
    for code in [500, 403, 404, 429] {
        stage.azure.faults().inject(FaultRule::status(Service::Vault, code));
        call.publish()
            .await
            .unwrap_or_else(|status| panic!("a republish must not fail with {code}: {status}"));
        assert_eq!(call.files(), before);
        stage.azure.faults().clear();
    }
    // The class itself may go as well.
    std::fs::remove_file(stage.path("classes/kv.yaml")).unwrap();
    call.publish().await.unwrap();
    assert_eq!(call.files(), before);
    stage.deploy("kv", &class(&stage, "kv", &OBJECTS, &[]));
    let deadline = Instant::now() + Duration::from_secs(60);
    while call.read("secret1") != "new" {
        assert!(Instant::now() < deadline, "the volume does not recover:\n{}", stage.log());
        call.publish().await.unwrap();
    }
}

#[tokio::test]
async fn an_edited_class_takes_effect_and_removes_what_left_it() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--enable-secret-rotation", "--rotation-poll-interval=0"]).await;
    let call = Call::new(&stage, "web", "kv");
    call.publish().await.unwrap();
    stage.deploy(
        "kv",
        &class(&stage, "kv", &["objectName: secret1\nobjectType: secret\nobjectAlias: renamed"], &[]),
    );
    call.publish().await.unwrap();
    assert_eq!(call.files().into_keys().collect::<Vec<_>>(), ["renamed"]);
}

#[tokio::test]
async fn a_reader_never_sees_a_mixed_set_while_the_content_rotates() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--enable-secret-rotation", "--rotation-poll-interval=0"]).await;
    let vault = stage.azure.vault(VAULT);
    for name in ["secret1", "ExampleSecret"] {
        vault.set_secret(name, "0").unwrap();
    }
    let call = Call::new(&stage, "web", "kv");
    call.publish().await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (target, stop) = (call.target(), Arc::clone(&done));
    let reader = std::thread::spawn(move || {
        let mut reads = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            let look = || {
                // Who wants a consistent set opens `..data` once and reads in there.
                let set = std::fs::File::open(target.join("..data"))?;
                let inside = PathBuf::from(format!("/proc/self/fd/{}", set.as_raw_fd()));
                let first = std::fs::read_to_string(inside.join("secret1"))?;
                let second = std::fs::read_to_string(inside.join("nested/example"))?;
                // And a name that stays is there at every moment.
                std::fs::read(target.join("key1"))?;
                std::io::Result::Ok((first, second))
            };
            match look() {
                Ok((first, second)) => {
                    assert_eq!(first, second, "a mixed set");
                    reads += 1;
                }
                // Nothing is promised to a reader that was kept waiting for longer.
                Err(error) => assert!(started.elapsed() > FORMER_STAYS, "a file was missing: {error}"),
            }
        }
        reads
    });
    for value in 1..60 {
        // Both values change in the vault between two calls, so that each call fetches one consistent pair.
        for name in ["secret1", "ExampleSecret"] {
            vault.set_secret(name, &value.to_string()).unwrap();
        }
        call.publish().await.unwrap();
        assert_eq!(call.read("secret1"), value.to_string());
    }
    done.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
}

#[tokio::test]
async fn the_pods_group_owns_the_files() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    let grouped = Call::new(&stage, "grouped", "kv").with_group("2000");
    // In a user namespace only root itself is mapped, and the kernel refuses other groups.
    if std::fs::read_to_string("/proc/self/gid_map").unwrap().split_whitespace().nth(2) == Some("1") {
        return;
    }
    grouped.publish().await.unwrap();
    let file = std::fs::metadata(grouped.target().join("secret1")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (0, 2000, 0o644));
    let plain = Call::new(&stage, "plain", "kv");
    plain.publish().await.unwrap();
    assert_eq!(std::fs::metadata(plain.target().join("secret1")).unwrap().gid(), 0);
}

#[tokio::test]
async fn a_volume_of_the_reference_driver_is_taken_over() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--enable-secret-rotation", "--rotation-poll-interval=0"]).await;
    let call = Call::new(&stage, "web", "kv");
    let target = call.target();
    std::fs::create_dir(&target).unwrap();
    // A plain tmpfs without options and the layout of the reference's writer.
    nix::mount::mount(Some("tmpfs"), &target, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
        .unwrap();
    let generation = "..2026_01_02_03_04_05.1234567890";
    std::fs::create_dir(target.join(generation)).unwrap();
    std::fs::write(target.join(generation).join("secret1"), "old").unwrap();
    std::os::unix::fs::symlink(generation, target.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/secret1", target.join("secret1")).unwrap();
    let before = stage.mounts();

    call.publish().await.unwrap();
    assert_eq!(stage.mounts(), before, "the pod's mount must stay");
    assert_complete(&call);
    assert_eq!(call.read("secret1"), "Hello!");
    call.unpublish().await.unwrap();
    assert!(stage.mounts().is_empty() && !target.exists());
}

#[tokio::test]
async fn a_burst_of_pods_asks_once_for_each_object() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--mount-freshness=60s"]).await;
    let mut running = JoinSet::new();
    for number in 0..100 {
        let call = Call::new(&stage, &format!("web-{number}"), "kv");
        running.spawn(async move {
            call.publish().await.unwrap();
            assert_complete(&call);
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    let counters = stage.azure.counters();
    assert_eq!(counters.vault_requests(), 3, "{counters:?}");
    assert_eq!(counters.tokens_for(&stage.workload_identity.client_id), 1, "{counters:?}");
}

#[tokio::test]
async fn pods_start_from_what_their_node_has_while_key_vault_is_down_but_not_after_a_refusal() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--publish-timeout=5s", "--mount-freshness=0"]).await;
    let running = Call::new(&stage, "web-1", "kv");
    running.publish().await.unwrap();
    let faults = stage.azure.faults();
    faults.inject(FaultRule::status(Service::Vault, 429).retry_after(RetryAfter::Seconds(1)));
    let scaled = Call::new(&stage, "web-2", "kv");
    scaled.publish().await.unwrap();
    assert_eq!(scaled.files(), running.files());
    assert!(stage.log().contains("an older value"), "it must be told:\n{}", stage.log());
    faults.clear();
    faults.inject(FaultRule::status(Service::Vault, 403));
    // As long as the vault's pause lasts, nobody asks.
    let (call, patience) = (Call::new(&stage, "web-3", "kv"), Instant::now());
    let refused = loop {
        match call.publish().await {
            Err(refused) => break refused,
            Ok(()) => call.unpublish().await.unwrap(),
        }
        assert!(patience.elapsed() < Duration::from_secs(60), "the pause does not end:\n{}", stage.log());
    };
    assert!(refused.message().contains("403"), "{refused}");
    faults.clear();
    faults.inject(FaultRule::status(Service::Vault, 500));
    let down = Call::new(&stage, "web-4", "kv").publish().await.unwrap_err();
    assert!(down.message().contains("500"), "{down}");
}
