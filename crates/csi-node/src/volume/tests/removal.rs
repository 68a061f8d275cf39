//! Unpublishing, and the list of what is published.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::symlink,
    path::PathBuf,
};

use nix::mount::{MsFlags, mount};

use super::{
    super::State,
    bed::{Bed, both, mount_plain_tmpfs, mounts_below, payload, view, volumes},
};

#[test]
fn nothing_is_left() {
    let Some(bed) = Bed::new() else { return };
    for (number, volumes) in both().iter().enumerate() {
        let target = bed.target_named(&format!("v{number} ü\n"));
        volumes.publish(&target, &payload(&[("a", 0o644, "x")]), None).unwrap();
        volumes.unpublish(&target).unwrap();
        assert!(!target.as_path().exists());
        assert!(target.as_path().parent().unwrap().exists(), "the parent is the kubelet's");
        volumes.unpublish(&target).unwrap();
        fs::remove_dir(target.as_path().parent().unwrap()).unwrap();
        volumes.unpublish(&target).unwrap();
        assert_eq!(volumes.state(&target).unwrap(), State::Absent);
    }
    assert!(mounts_below(&bed.path()).is_empty());
}

#[test]
fn stacked_mounts_all_go() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    volumes().publish(&target, &payload(&[("a", 0o644, "x")]), None).unwrap();
    for _ in 0..5 {
        mount_plain_tmpfs(&target);
    }
    assert_eq!(mounts_below(&bed.path()).len(), 6);
    volumes().unpublish(&target).unwrap();
    assert!(!target.as_path().exists());
    assert!(mounts_below(&bed.path()).is_empty());
}

#[test]
fn a_busy_mount_goes_too() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    volumes().publish(&target, &payload(&[("a", 0o644, "x")]), None).unwrap();
    let mut open = File::open(target.as_path().join("a")).unwrap();
    volumes().unpublish(&target).unwrap();
    assert!(!target.as_path().exists());
    assert!(mounts_below(&bed.path()).is_empty());
    // Who holds it may finish.
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "x");
}

#[test]
fn secrets_do_not_outlive_the_volume_in_a_leaked_mount() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    volumes().publish(&target, &payload(&[("a", 0o644, "x"), ("d/b", 0o644, "y")]), None).unwrap();
    // As another mount namespace would keep it.
    let leaked = bed.path().join("leaked");
    fs::create_dir(&leaked).unwrap();
    let none: Option<&str> = None;
    mount(Some(target.as_path()), &leaked, none, MsFlags::MS_BIND, none).unwrap();
    volumes().unpublish(&target).unwrap();
    assert_eq!(fs::read_dir(&leaked).unwrap().count(), 0);
}

#[test]
fn stray_files_go_but_nothing_behind_links_or_mounts() {
    let Some(bed) = Bed::new() else { return };
    let (target, inner) = (bed.target(), bed.target_named("inner"));
    let keep = bed.path().join("keep");
    fs::create_dir(&keep).unwrap();
    fs::write(keep.join("me"), "").unwrap();
    fs::create_dir_all(target.as_path().join("a/b")).unwrap();
    fs::write(target.as_path().join("a/b/stray"), "").unwrap();
    symlink(&keep, target.as_path().join("a/link")).unwrap();
    symlink(keep.join("me"), target.as_path().join("..data")).unwrap();
    volumes().unpublish(&target).unwrap();
    assert!(!target.as_path().exists());
    assert!(keep.join("me").exists());

    // Something mounted within: not ours to empty.
    let within = inner.as_path().join("within");
    fs::create_dir_all(&within).unwrap();
    let none: Option<&str> = None;
    mount(Some(keep.as_path()), &within, none, MsFlags::MS_BIND, none).unwrap();
    let error = volumes().unpublish(&inner).unwrap_err();
    assert!(error.is_final() && error.to_string().contains(inner.as_str()), "{error}");
    assert!(keep.join("me").exists());
}

#[test]
fn a_mount_within_a_volume_does_not_hold_it() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    volumes().publish(&target, &payload(&[("a", 0o644, "x")]), None).unwrap();
    let keep = bed.path().join("keep");
    fs::create_dir(&keep).unwrap();
    fs::write(keep.join("me"), "").unwrap();
    let within = target.as_path().join("within");
    fs::create_dir(&within).unwrap();
    let none: Option<&str> = None;
    mount(Some(keep.as_path()), &within, none, MsFlags::MS_BIND, none).unwrap();
    volumes().unpublish(&target).unwrap();
    assert!(keep.join("me").exists());
    assert!(mounts_below(&bed.path()).is_empty());
}

#[test]
fn the_list_has_volumes_only() {
    let Some(bed) = Bed::new() else { return };
    let mut published: Vec<_> = ["one", "two words", "three\nü"].map(|n| bed.target_named(n)).into();
    published.sort();
    for target in &published {
        volumes().publish(target, &payload(&[("a", 0o644, "x")]), None).unwrap();
    }
    // Stacked: once in the list. And what is not a CSI volume: not at all.
    mount_plain_tmpfs(&published[0]);
    let secret = bed.path().join("pods/uid/volumes/kubernetes.io~secret/s");
    fs::create_dir_all(&secret).unwrap();
    let none: Option<&str> = None;
    mount(Some("tmpfs"), &secret, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    fs::create_dir(bed.target_named("unmounted").as_path()).unwrap();
    let bound = bed.target_named("bound");
    fs::create_dir(bound.as_path()).unwrap();
    mount(Some(bed.path().as_path()), bound.as_path(), none, MsFlags::MS_BIND, none).unwrap();

    assert_eq!(volumes().list(&bed.path()).unwrap(), published);
    assert!(volumes().list(&bed.path().join("nowhere")).is_err());

    // Named as asked for, also through a link.
    let alias: PathBuf = bed.path().join("alias");
    symlink(bed.path(), &alias).unwrap();
    let listed = volumes().list(&alias).unwrap();
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|t| t.as_path().starts_with(&alias)));
    assert_eq!(view(&listed[0]).len(), view(&published[0]).len());
}
