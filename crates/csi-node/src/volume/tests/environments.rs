//! Circumstances that a process has to itself: its umask, its user namespace.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd, linux::fs::MetadataExt},
    path::Path,
};

use nix::mount::{MsFlags, mount};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    super::{Change, Group, State, TargetPath},
    bed::{Bed, both, expected, mounts_below, notice, payload, respawn, view, volumes},
};

fn run(test: &str, wrapper: &[&str]) {
    let output = respawn(test, wrapper).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
}

#[test]
fn the_umask_does_not_matter() {
    if Bed::new().is_some() {
        run("environments::with_a_strict_umask", &[]);
    }
}

#[test]
#[ignore = "in a process of its own, by the test above"]
fn with_a_strict_umask() {
    let bed = Bed::new().unwrap();
    let targets = [bed.target_named("a"), bed.target_named("b")];
    let files = payload(&[("a", 0o666, "x"), ("d/e/b", 0o777, "y")]);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o777));
    for (volumes, target) in both().iter().zip(&targets) {
        volumes.publish(target, &files, None).unwrap();
        assert_eq!(view(target), expected(&files));
        for (path, mode) in [("", 0o1777), ("..data", 0o755), ("d", 0o755), ("d/e", 0o755)] {
            assert_eq!(fs::metadata(target.as_path().join(path)).unwrap().st_mode() & 0o7777, mode, "{path}");
        }
    }
}

#[test]
fn an_unprivileged_user_namespace_does() {
    let wrapper = ["unshare", "--user", "--map-root-user", "--mount"];
    let may = std::process::Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").output();
    match may {
        Ok(output) if output.status.success() => run("environments::in_a_user_namespace", &wrapper),
        _ => {
            assert!(std::env::var_os("CI").is_none(), "no user namespaces here: {may:?}");
            notice("test in a user namespace NOT RUN: no user namespaces here");
        }
    }
}

#[test]
#[ignore = "in a namespace of its own, by the test above"]
fn in_a_user_namespace() {
    let bed = Bed::new().unwrap();
    for (number, volumes) in both().iter().enumerate() {
        let target = bed.target_named(&format!("v{number}"));
        let (old, new) = (payload(&[("a", 0o644, "x")]), payload(&[("a", 0o600, "x"), ("d/b", 0o4755, "y")]));
        // A group that the namespace does not know is an error, not a volume with another owner.
        let error = volumes.publish(&target, &old, Some(Group(2000))).unwrap_err();
        assert!(error.to_string().contains("owner"), "{error}");
        assert_eq!(volumes.state(&target).unwrap(), State::Directory);
        assert_eq!(volumes.publish(&target, &old, None).unwrap(), Change::Created);
        assert_eq!(volumes.publish(&target, &new, None).unwrap(), Change::Switched);
        assert_eq!(volumes.publish(&target, &new, None).unwrap(), Change::Unchanged);
        assert_eq!(view(&target), expected(&new));
        // Raising a limit is allowed there as well.
        let large = payload(&[("a", 0o600, &"x".repeat(70 << 20))]);
        assert_eq!(volumes.publish(&target, &large, None).unwrap(), Change::Switched);
        assert!(volumes.publish(&target, &new, Some(Group(2000))).is_err());
        assert_eq!(volumes.state(&target).unwrap(), State::Complete);
        assert_eq!(view(&target), expected(&large));
        volumes.unpublish(&target).unwrap();
        assert!(!target.as_path().exists());
    }
    assert!(mounts_below(&bed.path()).is_empty());
}

/// The kubelet's directory is a shared mount, so that containers on the node see what the driver mounts.
#[test]
fn a_shared_parent_passes_volumes_on() {
    let Some(bed) = Bed::new() else { return };
    let (shared, peer) = (bed.path().join("shared"), bed.path().join("peer"));
    fs::create_dir(&shared).unwrap();
    fs::create_dir(&peer).unwrap();
    let none: Option<&str> = None;
    mount(Some(&shared), &shared, none, MsFlags::MS_BIND, none).unwrap();
    mount(none, &shared, none, MsFlags::MS_SHARED, none).unwrap();
    mount(Some(&shared), &peer, none, MsFlags::MS_BIND, none).unwrap();
    let at = |directory: &Path| TargetPath::parse(directory.join("v/mount").to_str().unwrap()).unwrap();
    for volumes in both() {
        let files = payload(&[("a", 0o644, "x")]);
        assert_eq!(volumes.publish(&at(&shared), &files, None).unwrap(), Change::Created);
        assert_eq!(view(&at(&peer)), expected(&files));
        let files = payload(&[("b", 0o644, "y")]);
        assert_eq!(volumes.publish(&at(&shared), &files, None).unwrap(), Change::Switched);
        assert_eq!(view(&at(&peer)), expected(&files));
        volumes.unpublish(&at(&shared)).unwrap();
        assert!(mounts_below(&shared.join("v")).is_empty() && mounts_below(&peer.join("v")).is_empty());
    }
}

#[test]
fn no_file_descriptor_is_left() {
    if Bed::new().is_some() {
        run("environments::counting_file_descriptors", &[]);
    }
}

#[test]
#[ignore = "in a process of its own, by the test above"]
fn counting_file_descriptors() {
    let bed = Bed::new().unwrap();
    let target = bed.target();
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    for volumes in both() {
        for text in ["x", "y", "y"] {
            volumes.publish(&target, &payload(&[("a/b", 0o644, text)]), None).unwrap();
            volumes.read(&target).unwrap();
        }
        // Fails in a user namespace, which has to leave nothing open either.
        let _ = volumes.publish(&target, &payload(&[]), Some(Group(2000)));
        volumes.tidy(&target).unwrap();
        volumes.unpublish(&target).unwrap();
        fs::write(target.as_path(), "").unwrap();
        assert!(volumes.publish(&target, &payload(&[]), None).is_err());
        volumes.unpublish(&target).unwrap();
        volumes.list(&bed.path()).unwrap();
    }
    assert_eq!(count(), before);
}

#[test]
fn running_out_of_file_descriptors_loses_nothing() {
    if Bed::new().is_some() {
        run("environments::with_few_file_descriptors", &[]);
    }
}

#[test]
#[ignore = "in a process of its own, by the test above"]
fn with_few_file_descriptors() {
    let bed = Bed::new().unwrap();
    let target = bed.target();
    let volumes = volumes();
    let old = payload(&[("a", 0o644, "old"), ("gone/x", 0o644, "old")]);
    let new = payload(&[("a", 0o644, "new"), ("d/e/b", 0o644, "new")]);
    let usual = getrlimit(Resource::Nofile);
    let mut fillers = Vec::new();
    let (mut failed, mut succeeded) = (0, 0);
    for spare in 0..12 {
        volumes.publish(&target, &old, None).unwrap();
        let limit = u64::try_from(fill_gaps(&mut fillers)).unwrap() + spare;
        setrlimit(Resource::Nofile, Rlimit { current: Some(limit), ..usual }).unwrap();
        let state = volumes.state(&target);
        let result = volumes.publish(&target, &new, None);
        setrlimit(Resource::Nofile, usual).unwrap();

        assert!(
            !matches!(state, Ok(state) if state != State::Complete),
            "{spare}: complete taken for something else"
        );
        if result.is_ok() {
            succeeded += 1;
            assert_eq!(view(&target), expected(&new), "{spare}");
        } else {
            failed += 1;
            assert_eq!(view(&target), expected(&old), "{spare}");
        }
    }
    assert!(failed > 3 && succeeded > 3, "{failed} failed, {succeeded} succeeded");
    volumes.unpublish(&target).unwrap();
}

/// Opens files until no number below the highest one in use is free; the next number.
fn fill_gaps(fillers: &mut Vec<File>) -> i32 {
    loop {
        let numbers = fs::read_dir("/proc/self/fd").unwrap();
        let highest =
            numbers.map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap()).max().unwrap();
        let filler = File::open("/dev/null").unwrap();
        if filler.as_raw_fd() >= highest {
            return filler.as_raw_fd();
        }
        fillers.push(filler);
    }
}
