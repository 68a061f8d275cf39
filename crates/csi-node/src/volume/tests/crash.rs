//! Death at every step, and what the next call makes of it.

use std::{env, fs, os::unix::process::ExitStatusExt, sync::atomic::AtomicBool};

use super::{
    super::{Payload, State, TargetPath, Volumes},
    bed::{
        Bed, expected, internal_names, mounts_below, options, payload, respawn, view, view_through_data,
        volumes,
    },
};

/// What a dying process was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Publish(u32),
    Unpublish,
}

/// A volume's versions: names that stay, come and go at several depths, and modes that change.
fn version(n: u32) -> Payload {
    match n {
        0 => payload(&[("a", 0o644, "0"), ("d/b", 0o600, "0"), ("d/e/c", 0o644, "0"), ("gone", 0o644, "0")]),
        1 => payload(&[("a", 0o644, "1"), ("d/b", 0o600, "1"), ("new/x", 0o440, "1"), ("newer", 0o644, "1")]),
        2 => payload(&[("a", 0o600, "1"), ("d", 0o644, "2")]),
        _ => payload(&[]),
    }
}

/// Runs a deed in a process of its own that dies at its n-th step; whether it killed.
fn dies(target: &TargetPath, deed: Deed, mount2: bool, n: u64) -> bool {
    let mut command = respawn("crash::the_deed", &[]);
    command.env("AKV_TEST_TARGET", target.as_str()).env("AKV_FAULT_ABORT_AT", n.to_string());
    if mount2 {
        command.env("AKV_TEST_MOUNT2", "1");
    }
    if let Deed::Publish(version) = deed {
        command.env("AKV_TEST_VERSION", version.to_string());
    }
    let output = command.output().unwrap();
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{output:?}");
    killed
}

#[test]
#[ignore = "in a process of its own, by the tests below"]
fn the_deed() {
    let Ok(target) = env::var("AKV_TEST_TARGET") else { return };
    let target = TargetPath::parse(&target).unwrap();
    let only_mount2 = AtomicBool::new(env::var_os("AKV_TEST_MOUNT2").is_some());
    let volumes = Volumes { options: options(), only_mount2 };
    match env::var("AKV_TEST_VERSION") {
        Ok(version) => {
            volumes.publish(&target, &self::version(version.parse().unwrap()), None).unwrap();
        }
        Err(_) => volumes.unpublish(&target).unwrap(),
    }
}

/// What every reader may count on at any moment: all of one version or nothing yet.
fn check_view(target: &TargetPath, context: &str, allowed: &[&Payload]) {
    let state = volumes().state(target).unwrap();
    if state == State::Complete {
        let view = view(target);
        assert!(allowed.iter().any(|p| expected(p) == view), "{context}: {view:?}");
    }
    if let Some(view) = view_through_data(target).filter(|_| state != State::Directory) {
        assert!(allowed.iter().any(|p| expected(p) == view), "{context}: through ..data {view:?}");
        // What is listed can be opened, unless it is about to go.
        for entry in fs::read_dir(target.as_path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !name.starts_with("..") && fs::metadata(target.as_path().join(&name)).is_err() {
                // The shown version has no such name, and one before it had.
                let dangles_rightly = allowed.iter().enumerate().any(|(shown, now)| {
                    expected(now) == view
                        && !now.top_names().contains(name.as_str())
                        && allowed[..shown].iter().any(|before| before.top_names().contains(name.as_str()))
                });
                assert!(dangles_rightly, "{context}: {name} dangles");
            }
        }
    }
}

fn check_gone(bed: &Bed, target: &TargetPath, context: &str) {
    assert!(fs::symlink_metadata(target.as_path()).is_err(), "{context}");
    assert_eq!(mounts_below(&bed.path()), Vec::<std::path::PathBuf>::new(), "{context}");
}

fn die_everywhere(before: Option<u32>, deed: Deed, mount2: bool) {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    for n in 1.. {
        let context = format!("{before:?}, then {deed:?}, mount(2) {mount2}, death at step {n}");
        if let Some(before) = before {
            volumes().publish(&target, &version(before), None).unwrap();
            volumes().tidy(&target).unwrap();
        }
        let killed = dies(&target, deed, mount2, n);
        let (old, new) = match deed {
            Deed::Publish(new) => (before.map(version), version(new)),
            Deed::Unpublish => (before.map(version), Payload::default()),
        };
        match deed {
            Deed::Publish(_) => {
                let allowed: Vec<&Payload> = old.iter().chain([&new]).collect();
                check_view(&target, &context, &allowed);
                let state = volumes().state(&target).unwrap();
                let expects_files = before.is_some() || !killed;
                let may_be_incomplete = killed && (mount2 || before.is_some());
                match state {
                    State::Complete => {}
                    State::Absent | State::Directory if !expects_files => {}
                    State::Mounted if may_be_incomplete => {}
                    state => panic!("{context}: {state:?}"),
                }
                if before.is_some() {
                    assert!(view_through_data(&target).is_some(), "{context}: the old files are gone");
                }
                // Half of the time the retry comes with yet another version.
                let retry = if n % 2 == 0 { new } else { version(2) };
                volumes().publish(&target, &retry, None).unwrap();
                volumes().tidy(&target).unwrap();
                assert_eq!(view(&target), expected(&retry), "{context}");
                assert_eq!(volumes().state(&target).unwrap(), State::Complete, "{context}");
                assert_eq!(internal_names(&target).len(), 2, "{context}");
            }
            // Whatever a dying unpublish has left, it may be asked to publish there again, if unlikely.
            Deed::Unpublish if n % 3 == 0 => {
                volumes().publish(&target, &version(1), None).unwrap();
                assert_eq!(view(&target), expected(&version(1)), "{context}");
            }
            Deed::Unpublish => {}
        }
        volumes().unpublish(&target).unwrap();
        check_gone(&bed, &target, &context);
        if !killed {
            assert!(n > 3, "{context}: too few steps to be true");
            return;
        }
    }
}

#[test]
fn death_in_a_first_publish() {
    die_everywhere(None, Deed::Publish(0), false);
}

#[test]
fn death_in_a_first_publish_by_mount2() {
    die_everywhere(None, Deed::Publish(0), true);
}

#[test]
fn death_in_a_change() {
    die_everywhere(Some(0), Deed::Publish(1), false);
}

#[test]
fn death_in_a_change_from_directory_to_file() {
    die_everywhere(Some(1), Deed::Publish(2), false);
}

#[test]
fn death_in_a_change_to_nothing() {
    die_everywhere(Some(2), Deed::Publish(3), false);
}

#[test]
fn death_in_unpublish() {
    die_everywhere(Some(0), Deed::Unpublish, false);
}

/// Deaths upon deaths: random deeds, most of which die at a random step. The same in every run, so that a failure comes
/// again; other runs with the environment variables `AKV_TEST_SEED` and `AKV_TEST_ROUNDS`.
#[test]
fn death_upon_death() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    let setting = |name: &str, usual: u64| env::var(name).map_or(usual, |v| v.parse().unwrap());
    let mut seed = setting("AKV_TEST_SEED", 20_260_101);
    let mut random = |below: u64| {
        // xorshift64
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    // Versions that `..data` may show: the last one that was completed and those whose publishing killed since.
    let mut possible: Vec<u32> = Vec::new();
    for round in 0..setting("AKV_TEST_ROUNDS", 120) {
        let version_number = u32::try_from(random(4)).unwrap();
        let deed = if random(6) == 0 { Deed::Unpublish } else { Deed::Publish(version_number) };
        let mount2 = random(3) == 0;
        let step = random(40) + 1;
        let context = format!("round {round}: {deed:?}, mount(2) {mount2}, step {step}");
        let killed = dies(&target, deed, mount2, step);
        match (deed, killed) {
            (Deed::Publish(n), false) => {
                possible = vec![n];
                assert_eq!(view(&target), expected(&version(n)), "{context}");
                assert_eq!(volumes().state(&target).unwrap(), State::Complete, "{context}");
            }
            (Deed::Publish(n), true) => possible.push(n),
            (Deed::Unpublish, false) => {
                possible.clear();
                check_gone(&bed, &target, &context);
            }
            // The pod is gone; no one looks any more, and files go one by one.
            (Deed::Unpublish, true) => {
                volumes().unpublish(&target).unwrap();
                possible.clear();
                check_gone(&bed, &target, &context);
            }
        }
        let versions: Vec<Payload> = possible.iter().map(|n| version(*n)).collect();
        check_view(&target, &context, &versions.iter().collect::<Vec<_>>());
    }
    volumes().unpublish(&target).unwrap();
    check_gone(&bed, &target, "at the end");
}
