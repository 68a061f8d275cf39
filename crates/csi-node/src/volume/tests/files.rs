//! What is written, and what it looks like.

use std::{
    fs,
    os::{
        linux::fs::MetadataExt,
        unix::{ffi::OsStrExt, fs::symlink},
    },
    time::Duration,
};

use super::{
    super::{Change, Group, Options, State, Volumes, directory::Directory, writer},
    bed::{
        Bed, both, expected, internal_names, may_chown, mount_options, mount_plain_tmpfs, payload, view,
        view_through_data, volumes,
    },
};

#[test]
fn write_matrix() {
    let Some(bed) = Bed::new() else { return };
    let first: &[(&str, u32, &str)] = &[
        ("read-only", 0o440, "a"),
        ("usual", 0o644, "b\0\u{ff}\n"),
        ("open", 0o666, ""),
        ("all", 0o777, "d"),
        ("none", 0, "e"),
        ("special", 0o7755, "f"),
        ("dir/nested/deep", 0o600, "g"),
        ("dir/nested/other", 0o644, "h"),
        ("dir/file", 0o644, "i"),
        (".dot", 0o644, "j"),
        (".dir/..file", 0o644, "k"),
        ("with space/ü\nnewline\\", 0o644, "l"),
    ];
    for (number, volumes) in both().iter().enumerate() {
        let target = bed.target_named(&format!("v {number} ü\n"));
        let without = |path: &str| first.iter().filter(|f| f.0 != path).copied().collect::<Vec<_>>();
        let with = |path, mode, text| {
            let mut files = without(path);
            files.push((path, mode, text));
            files
        };
        // Each step: the files and what publishing them over the former ones should be.
        for (step, (files, change)) in [
            (first.to_vec(), Change::Created),
            (first.to_vec(), Change::Unchanged),
            (with("usual", 0o644, "changed"), Change::Switched),
            (with("usual", 0o644, "chang!d"), Change::Switched),
            (with("usual", 0o600, "chang!d"), Change::Switched),
            (with("new/one", 0o644, "x"), Change::Switched),
            (without("read-only"), Change::Switched),
            (without("dir/file"), Change::Switched),
            (without("dir/nested/deep"), Change::Switched),
            (without("dir/nested/deep"), Change::Unchanged),
            (vec![("dir", 0o644, "a file now")], Change::Switched),
            (vec![("dir/again", 0o644, "a directory now")], Change::Switched),
            (vec![], Change::Switched),
            (vec![], Change::Unchanged),
            (first.to_vec(), Change::Switched),
        ]
        .into_iter()
        .enumerate()
        {
            let payload = payload(&files);
            assert_eq!(volumes.publish(&target, &payload, None).unwrap(), change, "step {step}");
            assert_eq!(view(&target), expected(&payload), "step {step}");
            assert_eq!(view_through_data(&target).unwrap(), expected(&payload), "step {step}");
            assert_eq!(volumes.state(&target).unwrap(), State::Complete);
            let read: Vec<_> = volumes
                .read(&target)
                .unwrap()
                .into_iter()
                .map(|f| (f.path().as_str().to_owned(), (f.mode().bits(), f.contents().to_vec())))
                .collect();
            assert_eq!(read, expected(&payload).into_iter().collect::<Vec<_>>(), "step {step}");
        }
        volumes.unpublish(&target).unwrap();
    }
}

#[test]
fn layout_modes_and_mount_options() {
    let Some(bed) = Bed::new() else { return };
    for (number, volumes) in both().iter().enumerate() {
        let target = bed.target_named(&format!("v{number}"));
        volumes.publish(&target, &payload(&[("a/b/c", 0o644, "x")]), None).unwrap();

        let root = target.as_path();
        let names = internal_names(&target);
        assert_eq!(names.len(), 2, "{names:?}");
        let generation = fs::read_link(root.join("..data")).unwrap();
        assert_eq!(names[0], generation.to_str().unwrap());
        assert_eq!(fs::read_link(root.join("a")).unwrap().as_os_str().as_bytes(), b"..data/a");
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().st_mode() & 0o7777;
        assert_eq!(mode(""), 0o1777);
        assert_eq!(mode("..data"), 0o755);
        assert_eq!(mode("a"), 0o755);
        assert_eq!(mode("a/b"), 0o755);

        let options = mount_options(&target);
        for option in ["rw", "nosuid", "nodev", "size=65536k", "nr_inodes=65536"] {
            assert!(options.iter().any(|o| o == option), "no {option} in {options:?}");
        }
        assert_eq!(options.iter().any(|o| o == "noswap"), knows_noswap(&bed), "{options:?}");
        // The kernel shows the mode only if it is not the default, which it is.
        assert!(!options.iter().any(|o| o.starts_with("mode=")), "{options:?}");
        assert!(!options.iter().any(|o| o == "noexec"), "{options:?}");
    }
}

/// Linux has it since 6.4, outside user namespaces.
fn knows_noswap(bed: &Bed) -> bool {
    let probe = bed.path().join("probe");
    fs::create_dir_all(&probe).unwrap();
    let flags = nix::mount::MsFlags::empty();
    let known = nix::mount::mount(Some("tmpfs"), &probe, Some("tmpfs"), flags, Some("noswap")).is_ok();
    if known {
        nix::mount::umount(&probe).unwrap();
    }
    known
}

#[test]
fn limits_and_noexec() {
    let Some(bed) = Bed::new() else { return };
    let options = Options { size_bytes: 1 << 20, inodes: 100, noexec: true, ..Options::default() };
    let mut second = Volumes::new(options.clone());
    *second.only_mount2.get_mut() = true;
    for (number, volumes) in [Volumes::new(options), second].iter().enumerate() {
        let small = bed.target_named(&format!("small{number}"));
        volumes.publish(&small, &payload(&[("a", 0o644, "x")]), None).unwrap();
        let options = mount_options(&small);
        for option in ["nosuid", "nodev", "noexec", "size=1024k", "nr_inodes=100"] {
            assert!(options.iter().any(|o| o == option), "no {option} in {options:?}");
        }

        // A payload that needs more gets more, at first and when it grows.
        let large = "x".repeat(3 << 20);
        let many: Vec<String> = (0..300).map(|n| format!("file{n}")).collect();
        let mut files: Vec<_> = many.iter().map(|n| (n.as_str(), 0o644, "y")).collect();
        files.push(("large", 0o644, &large));
        let files = payload(&files);
        let target = bed.target_named(&format!("large{number}"));
        volumes.publish(&target, &files, None).unwrap();
        volumes.publish(&small, &files, None).unwrap();
        assert_eq!(view(&small), expected(&files));
        let options = mount_options(&small);
        assert!(["nosuid", "nodev", "noexec"].iter().all(|f| options.iter().any(|o| o == f)), "{options:?}");
        // And two generations fit.
        let other = payload(&[("large", 0o600, &large)]);
        volumes.publish(&target, &other, None).unwrap();
        assert_eq!(view(&target), expected(&other));
    }
}

#[test]
fn unchanged_files_are_not_touched() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    let files = payload(&[("a", 0o644, "x"), ("d/b", 0o600, "y")]);
    volumes().publish(&target, &files, None).unwrap();
    let times = || {
        ["", "..data", "d", "a", "d/b"].map(|p| {
            let metadata = fs::metadata(target.as_path().join(p)).unwrap();
            let ino = metadata.st_ino();
            (
                ino,
                metadata.st_mtime(),
                metadata.st_mtime_nsec(),
                metadata.st_ctime(),
                metadata.st_ctime_nsec(),
            )
        })
    };
    let before = times();
    assert_eq!(volumes().publish(&target, &files, None).unwrap(), Change::Unchanged);
    volumes().tidy(&target).unwrap();
    assert_eq!(times(), before);
}

#[test]
fn a_change_made_by_others_is_seen() {
    let Some(bed) = Bed::new().filter(may_chown) else { return };
    let target = bed.target();
    let files = payload(&[("a", 0o644, "x"), ("d/b", 0o600, "y")]);
    let path = |p: &str| target.as_path().join(p);
    volumes().publish(&target, &files, None).unwrap();
    let spoil: [&dyn Fn(); 7] = [
        &|| fs::write(path("a"), "z").unwrap(),
        &|| nix::unistd::chown(&path("a"), Some(1.into()), None).unwrap(),
        &|| nix::unistd::chown(&path("d"), None, Some(1.into())).unwrap(),
        &|| fs::write(path("d/c"), "").unwrap(),
        &|| fs::create_dir(path("..data/empty")).unwrap(),
        &|| fs::remove_file(path("..data/d/b")).unwrap(),
        &|| fs::remove_file(path("d")).unwrap(),
    ];
    for (number, spoil) in spoil.iter().enumerate() {
        spoil();
        assert_eq!(volumes().publish(&target, &files, None).unwrap(), Change::Switched, "{number}");
        assert_eq!(volumes().publish(&target, &files, None).unwrap(), Change::Unchanged, "{number}");
        assert_eq!(view(&target), expected(&files), "{number}");
    }
}

#[test]
fn the_group_can_read() {
    let Some(bed) = Bed::new().filter(may_chown) else { return };
    let target = bed.target();
    let files = payload(&[("a", 0o600, "x"), ("d/b", 0, "y"), ("s", 0o4711, "z")]);
    let look = |path: &str| {
        let metadata = fs::metadata(target.as_path().join(path)).unwrap();
        (metadata.st_uid(), metadata.st_gid(), metadata.st_mode() & 0o7777)
    };
    assert_eq!(volumes().publish(&target, &files, Some(Group(2000))).unwrap(), Change::Created);
    assert_eq!(look(""), (0, 2000, 0o3777));
    assert_eq!(look("..data"), (0, 2000, 0o2755));
    assert_eq!(look("d"), (0, 2000, 0o2755));
    assert_eq!(look("a"), (0, 2000, 0o640));
    assert_eq!(look("d/b"), (0, 2000, 0o440));
    assert_eq!(look("s"), (0, 2000, 0o4751));
    assert_eq!(volumes().publish(&target, &files, Some(Group(2000))).unwrap(), Change::Unchanged);

    assert_eq!(volumes().publish(&target, &files, Some(Group(3000))).unwrap(), Change::Switched);
    assert_eq!(look("a"), (0, 3000, 0o640));
    assert_eq!(volumes().publish(&target, &files, None).unwrap(), Change::Switched);
    assert_eq!(look(""), (0, 0, 0o1777));
    assert_eq!(look("d"), (0, 0, 0o755));
    assert_eq!(look("a"), (0, 0, 0o600));
    assert_eq!(look("d/b"), (0, 0, 0));
    assert_eq!(volumes().publish(&target, &files, None).unwrap(), Change::Unchanged);
}

#[test]
fn a_full_volume_keeps_its_files() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    fs::create_dir(target.as_path()).unwrap();
    nix::mount::mount(
        Some("tmpfs"),
        target.as_path(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=64k"),
    )
    .unwrap();
    // Without the step that makes room.
    let write = |files| {
        let root = Directory::open_following(target.as_path()).unwrap();
        writer::write(&root, &files, None, Duration::ZERO)
    };
    let old = payload(&[("a", 0o644, "old")]);
    let names = {
        write(old.clone()).unwrap();
        internal_names(&target)
    };
    let error = write(payload(&[("a", 0o644, "new"), ("b", 0o644, &"x".repeat(100 << 10))])).unwrap_err();
    let error = error.of(&target).to_string();
    assert!(
        error.contains("no space") && error.contains("the file b") && error.contains(target.as_str()),
        "{error}"
    );
    assert_eq!(view(&target), expected(&old));
    assert_eq!(internal_names(&target), names, "the unfinished generation stayed");
    // The whole way makes room.
    volumes().publish(&target, &payload(&[("b", 0o644, &"x".repeat(100 << 10))]), None).unwrap();
}

#[test]
fn very_deep_and_very_long_names() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    let deep = vec!["d"; 1500].join("/");
    let long = format!("{}/{}", "n".repeat(255), "m".repeat(255));
    let deep_files = payload(&[(&deep, 0o644, "x"), (&long, 0o644, "y")]);
    assert_eq!(volumes().publish(&target, &deep_files, None).unwrap(), Change::Created);
    assert_eq!(volumes().publish(&target, &deep_files, None).unwrap(), Change::Unchanged);
    assert_eq!(volumes().read(&target).unwrap().len(), 2);
    // Directories that were opened would be too many by now.
    assert_eq!(volumes().publish(&target, &payload(&[("a", 0o644, "")]), None).unwrap(), Change::Switched);
    volumes().tidy(&target).unwrap();
    volumes().unpublish(&target).unwrap();
}

#[test]
fn leftovers_of_old_providers_are_replaced() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    let root = target.as_path();
    fs::create_dir(root).unwrap();
    mount_plain_tmpfs(&target);
    let outside = bed.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "keep").unwrap();
    fs::write(root.join("plain"), "old").unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("dir/file"), "old").unwrap();
    symlink(&outside, root.join("dir/link")).unwrap();
    symlink(&outside, root.join("link")).unwrap();
    fs::write(root.join("unrelated"), "kept").unwrap();
    symlink("/etc", root.join("unrelated-link")).unwrap();
    symlink("..data/dangling", root.join("dangling")).unwrap();

    let files = payload(&[
        ("plain", 0o644, "1"),
        ("dir/file", 0o644, "2"),
        ("link/file", 0o644, "3"),
        ("n", 0o644, "4"),
    ]);
    assert_eq!(volumes().state(&target).unwrap(), State::Mounted);
    assert_eq!(volumes().publish(&target, &files, None).unwrap(), Change::Created);

    fs::remove_file(root.join("unrelated-link")).unwrap();
    let mut seen = view(&target);
    assert_eq!(seen.remove("unrelated").unwrap().1, b"kept");
    assert_eq!(seen, expected(&files));
    assert!(fs::symlink_metadata(root.join("dangling")).is_err());
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"keep");
    assert_eq!(internal_names(&target).len(), 2);
}

#[test]
fn data_that_is_no_link_is_replaced() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    fs::create_dir(target.as_path()).unwrap();
    mount_plain_tmpfs(&target);
    fs::create_dir(target.as_path().join("..data")).unwrap();
    fs::write(target.as_path().join("..data/x"), "").unwrap();
    let files = payload(&[("a", 0o644, "1")]);
    assert_eq!(volumes().publish(&target, &files, None).unwrap(), Change::Created);
    assert_eq!(view(&target), expected(&files));
    assert_eq!(internal_names(&target).len(), 2);
}
