//! Every state a volume can be found in, and what publishing makes of it.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::symlink},
    path::Path,
};

use nix::mount::{MsFlags, mount};

use super::{
    super::{Change, State, TargetPath, VolumeError},
    bed::{
        Bed, expected, internal_names, mount_plain_tmpfs, mounts_below, notice, payload, view, volumes,
        write_like_the_reference,
    },
};

/// Brings a target into a state.
type Make<'a> = &'a dyn Fn(&TargetPath);

fn bind(from: &Path, to: &TargetPath) {
    let none: Option<&str> = None;
    mount(Some(from), to.as_path(), none, MsFlags::MS_BIND, none).unwrap();
}

#[test]
fn found_states_are_named_and_repaired() {
    let Some(bed) = Bed::new() else { return };
    let files = payload(&[("a", 0o644, "new"), ("d/b", 0o644, "new")]);
    let complete = |target: &TargetPath| {
        volumes().publish(target, &payload(&[("a", 0o644, "old"), ("gone", 0o644, "old")]), None).unwrap();
    };
    let mounted = |target: &TargetPath| {
        fs::create_dir(target.as_path()).unwrap();
        mount_plain_tmpfs(target);
    };
    let in_volume = |target: &TargetPath, name: &str| target.as_path().join(name);
    let cases: &[(&str, Make<'_>, State, Change)] = &[
        ("absent", &|_| {}, State::Absent, Change::Created),
        (
            "no parents",
            &|t| fs::remove_dir(t.as_path().parent().unwrap()).unwrap(),
            State::Absent,
            Change::Created,
        ),
        ("directory", &|t| fs::create_dir(t.as_path()).unwrap(), State::Directory, Change::Created),
        (
            "directory with files",
            &|t| {
                fs::create_dir_all(in_volume(t, "..data")).unwrap();
                fs::write(in_volume(t, "a"), "stray").unwrap();
            },
            State::Directory,
            Change::Created,
        ),
        ("mounted", &mounted, State::Mounted, Change::Created),
        (
            "generation half written",
            &|t| {
                mounted(t);
                fs::create_dir(in_volume(t, "..2026_01_02_03_04_05.1")).unwrap();
                fs::write(in_volume(t, "..2026_01_02_03_04_05.1/a"), "ha").unwrap();
            },
            State::Mounted,
            Change::Created,
        ),
        (
            "links before the switch",
            &|t| {
                mounted(t);
                fs::create_dir(in_volume(t, "..2026_01_02_03_04_05.1")).unwrap();
                symlink("..data/a", in_volume(t, "a")).unwrap();
                symlink("..2026_01_02_03_04_05.1", in_volume(t, "..data_tmp")).unwrap();
            },
            State::Mounted,
            Change::Created,
        ),
        (
            "dangling ..data",
            &|t| {
                mounted(t);
                symlink("..2026_01_02_03_04_05.1", in_volume(t, "..data")).unwrap();
            },
            State::Mounted,
            Change::Created,
        ),
        (
            "..data leads out",
            &|t| {
                mounted(t);
                symlink("/etc", in_volume(t, "..data")).unwrap();
            },
            State::Mounted,
            Change::Created,
        ),
        (
            "..data leads to no generation",
            &|t| {
                mounted(t);
                fs::create_dir(in_volume(t, "d")).unwrap();
                fs::write(in_volume(t, "d/a"), "stray").unwrap();
                symlink("d", in_volume(t, "..data")).unwrap();
                symlink("..data/a", in_volume(t, "a")).unwrap();
            },
            State::Mounted,
            Change::Created,
        ),
        ("complete", &complete, State::Complete, Change::Switched),
        (
            "stale ..data_tmp",
            &|t| {
                complete(t);
                symlink("nowhere", in_volume(t, "..data_tmp")).unwrap();
                fs::create_dir(in_volume(t, "..2026_01_02_03_04_05.1")).unwrap();
            },
            State::Complete,
            Change::Switched,
        ),
        (
            "..data_tmp is a directory",
            &|t| {
                complete(t);
                fs::create_dir_all(in_volume(t, "..data_tmp/x/y")).unwrap();
            },
            State::Complete,
            Change::Switched,
        ),
        (
            "link missing",
            &|t| {
                complete(t);
                fs::remove_file(in_volume(t, "gone")).unwrap();
            },
            State::Mounted,
            Change::Switched,
        ),
        (
            "stacked: complete on mounted",
            &|t| {
                mounted(t);
                mount_plain_tmpfs(t);
                write_like_the_reference(t, "..2026_01_02_03_04_05.1", &[("a", 0o644, "old")]);
            },
            State::Complete,
            Change::Switched,
        ),
        (
            "stacked: mounted on complete",
            &|t| {
                complete(t);
                mount_plain_tmpfs(t);
                mount_plain_tmpfs(t);
            },
            State::Mounted,
            Change::Created,
        ),
    ];
    for (number, (name, make, state, change)) in cases.iter().enumerate() {
        let target = bed.target_named(&format!("v{number}"));
        make(&target);
        assert_eq!(volumes().state(&target).unwrap(), *state, "{name}");
        assert_eq!(volumes().publish(&target, &files, None).unwrap(), *change, "{name}");
        assert_eq!(volumes().state(&target).unwrap(), State::Complete, "{name}");
        assert_eq!(volumes().publish(&target, &files, None).unwrap(), Change::Unchanged, "{name}");
        assert_eq!(view(&target), expected(&files), "{name}");
        assert_eq!(internal_names(&target).len(), 2, "{name}: {:?}", internal_names(&target));
        assert!(fs::symlink_metadata(in_volume(&target, "gone")).is_err(), "{name}");

        volumes().unpublish(&target).unwrap();
        assert_eq!(volumes().state(&target).unwrap(), State::Absent, "{name}");
        assert_eq!(mounts_below(target.as_path()), Vec::<std::path::PathBuf>::new(), "{name}");
    }
}

#[test]
fn mounts_of_others_are_refused_and_never_emptied() {
    let Some(bed) = Bed::new() else { return };
    let files = payload(&[("a", 0o644, "new")]);
    let theirs = bed.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("keep"), "").unwrap();
    // A directory in a tmpfs, which looks like a volume at first sight.
    let memory = bed.target_named("memory");
    fs::create_dir(memory.as_path()).unwrap();
    mount_plain_tmpfs(&memory);
    let in_memory = memory.as_path().join("theirs");
    fs::create_dir(&in_memory).unwrap();
    fs::write(in_memory.join("keep"), "").unwrap();

    for (name, source) in [("disk", &theirs), ("tmpfs", &in_memory)] {
        let target = bed.target_named(name);
        fs::create_dir(target.as_path()).unwrap();
        bind(source, &target);
        let State::Foreign { filesystem } = volumes().state(&target).unwrap() else { panic!("{name}") };
        assert!(filesystem.contains("/theirs"), "{filesystem}");
        let error = volumes().publish(&target, &files, None).unwrap_err();
        assert!(matches!(&error, VolumeError::Foreign { .. }) && error.is_final(), "{error}");
        assert!(matches!(volumes().read(&target), Err(VolumeError::NotPublished { .. })));

        volumes().unpublish(&target).unwrap();
        assert!(!target.as_path().exists());
        assert!(source.join("keep").exists(), "{name}");
    }
}

#[test]
fn a_link_or_file_at_the_target_is_refused() {
    let Some(bed) = Bed::new() else { return };
    let files = payload(&[("a", 0o644, "new")]);
    let victim = bed.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("keep"), "").unwrap();
    for (name, kind) in [("link", "a symbolic link"), ("dangling", "a symbolic link"), ("file", "a file")] {
        let target = bed.target_named(name);
        match name {
            "link" => symlink(&victim, target.as_path()).unwrap(),
            "dangling" => symlink("nowhere", target.as_path()).unwrap(),
            _ => fs::write(target.as_path(), "").unwrap(),
        }
        for error in [
            volumes().state(&target).unwrap_err(),
            volumes().publish(&target, &files, None).unwrap_err(),
            volumes().read(&target).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains(kind) || text.contains("no volume is published"), "{text}");
        }
        assert!(fs::symlink_metadata(target.as_path()).is_ok());
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);

        volumes().unpublish(&target).unwrap();
        assert!(fs::symlink_metadata(target.as_path()).is_err());
        assert!(victim.join("keep").exists());
    }
    assert!(mounts_below(&bed.path()).is_empty());
}

#[test]
fn a_linked_kubelet_root_is_followed() {
    let Some(bed) = Bed::new() else { return };
    let files = payload(&[("a", 0o644, "new")]);
    let real = bed.target();
    let alias = bed.path().join("alias");
    symlink(bed.path().join("pods"), &alias).unwrap();
    let below = real.as_path().strip_prefix(bed.path().join("pods")).unwrap();
    let target = TargetPath::parse(alias.join(below).to_str().unwrap()).unwrap();
    volumes().publish(&target, &files, None).unwrap();
    assert_eq!(view(&real), expected(&files));
    volumes().unpublish(&target).unwrap();
    assert!(!real.as_path().exists());
}

#[test]
fn a_dead_mount_is_replaced_and_removed() {
    let Some(bed) = Bed::new() else { return };
    let files = payload(&[("a", 0o644, "new")]);
    // A FUSE file system whose daemon is gone answers ENOTCONN to everything.
    let kill = |target: &TargetPath| {
        let Ok(device) = File::options().read(true).write(true).open("/dev/fuse") else { return false };
        fs::create_dir_all(target.as_path()).unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("dead"), target.as_path(), Some("fuse"), MsFlags::empty(), Some(data.as_str())).is_ok()
    };
    let (target, other) = (bed.target(), bed.target_named("other"));
    if !kill(&target) || !kill(&other) {
        notice("test of dead mounts NOT RUN: no FUSE here");
        return;
    }
    assert_eq!(volumes().state(&target).unwrap(), State::Corrupt);
    assert_eq!(volumes().publish(&target, &files, None).unwrap(), Change::Created);
    assert_eq!(view(&target), expected(&files));
    volumes().unpublish(&target).unwrap();
    volumes().unpublish(&other).unwrap();
    assert!(!target.as_path().exists() && !other.as_path().exists());
    assert!(mounts_below(&bed.path()).is_empty());
}

#[test]
fn volumes_of_the_reference_are_ours_and_ours_are_its() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    let old: &[(&str, u32, &str)] = &[("a", 0o644, "1"), ("d/b", 0o600, "2"), ("gone/c", 0o644, "3")];
    fs::create_dir(target.as_path()).unwrap();
    mount_plain_tmpfs(&target);
    write_like_the_reference(&target, "..2026_01_02_03_04_05.123", old);
    assert_eq!(volumes().state(&target).unwrap(), State::Complete);
    assert_eq!(volumes().list(&bed.path()).unwrap(), std::slice::from_ref(&target));
    // The same contents: recognised, not rewritten.
    assert_eq!(volumes().publish(&target, &payload(old), None).unwrap(), Change::Unchanged);

    let new: &[(&str, u32, &str)] = &[("a", 0o644, "1"), ("d/b", 0o600, "rotated")];
    assert_eq!(volumes().publish(&target, &payload(new), None).unwrap(), Change::Switched);
    assert_eq!(view(&target), expected(&payload(new)));

    // And back.
    let newer: &[(&str, u32, &str)] = &[("a", 0o644, "4"), ("d/b", 0o600, "5"), ("e", 0o440, "6")];
    write_like_the_reference(&target, "..2026_01_02_03_04_06.123", newer);
    assert_eq!(volumes().state(&target).unwrap(), State::Complete);
    assert_eq!(volumes().publish(&target, &payload(newer), None).unwrap(), Change::Unchanged);
    assert_eq!(view(&target), expected(&payload(newer)));
    volumes().unpublish(&target).unwrap();
    assert!(!target.as_path().exists());
}
