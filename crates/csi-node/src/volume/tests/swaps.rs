//! A target, or the directory it is in, that someone replaces by a link to elsewhere while a call is at work. The call is
//! stopped in the middle by taking its steps one by one.

use std::{
    fs,
    os::{fd::AsFd, unix::fs::symlink},
    path::PathBuf,
};

use super::{
    super::{
        Options, TargetPath,
        place::{Place, Sight},
        tmpfs::{self, Needs},
        unpublish::{Patience, unmount_top},
    },
    bed::{Bed, mount_plain_tmpfs, mounts_below, payload, volumes},
};

/// A directory that is not to be touched, mounted on so that an unmount would be seen.
fn victim(bed: &Bed) -> TargetPath {
    let victim = TargetPath::parse(bed.path().join("elsewhere/mount").to_str().unwrap()).unwrap();
    fs::create_dir_all(victim.as_path()).unwrap();
    mount_plain_tmpfs(&victim);
    fs::write(victim.as_path().join("keep"), "").unwrap();
    victim
}

fn assert_untouched(victim: &TargetPath) {
    assert_eq!(mounts_below(victim.as_path()).len(), 1);
    let names: Vec<_> = fs::read_dir(victim.as_path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["keep"]);
}

/// Moves the target away and puts a link to the victim in its place; says where it went.
fn swap(bed: &Bed, target: &TargetPath, victim: &TargetPath) -> PathBuf {
    let aside = bed.path().join("aside");
    fs::rename(target.as_path(), &aside).unwrap();
    symlink(victim.as_path(), target.as_path()).unwrap();
    aside
}

#[test]
fn a_target_swapped_before_it_is_opened_is_not_opened() {
    let Some(bed) = Bed::new() else { return };
    let (target, victim) = (bed.target(), victim(&bed));
    fs::create_dir(target.as_path()).unwrap();
    let place = Place::create(&target).unwrap();
    assert!(matches!(place.look().unwrap(), Sight::Directory));
    swap(&bed, &target, &victim);
    assert!(place.open_directory().is_err());
    assert!(place.open_root().is_err());
    assert!(matches!(place.look().unwrap(), Sight::Other("a symbolic link")));
}

#[test]
fn a_target_swapped_after_it_is_opened_does_not_take_the_mount_along() {
    let Some(bed) = Bed::new() else { return };
    let victim = victim(&bed);
    let needs = Needs::of(&payload(&[("a", 0o644, "x")]));
    for by_mount2 in [false, true] {
        let target = bed.target();
        let place = Place::create(&target).unwrap();
        place.make_directory().unwrap();
        let directory = place.open_directory().unwrap();
        let aside = swap(&bed, &target, &victim);
        if by_mount2 {
            tmpfs::mount_on(directory.as_fd(), &Options::default(), needs).unwrap();
        } else {
            let mount = tmpfs::detached(&Options::default(), needs).unwrap();
            tmpfs::attach(mount.as_fd(), directory.as_fd()).unwrap();
        }
        assert_untouched(&victim);
        assert_eq!(mounts_below(&aside), std::slice::from_ref(&aside));
        nix::mount::umount(&aside).unwrap();
        fs::remove_dir(&aside).unwrap();
        fs::remove_file(target.as_path()).unwrap();
    }
}

#[test]
fn a_target_swapped_before_it_is_unmounted_unmounts_nothing_else() {
    let Some(bed) = Bed::new() else { return };
    let (target, victim) = (bed.target(), victim(&bed));
    fs::create_dir(target.as_path()).unwrap();
    let place = Place::create(&target).unwrap();
    swap(&bed, &target, &victim);
    for patience in [Patience::None, Patience::Short] {
        assert!(unmount_top(&place, patience).is_err());
        assert_untouched(&victim);
    }
}

#[test]
fn a_swapped_parent_changes_nothing_once_it_is_open() {
    let Some(bed) = Bed::new() else { return };
    let (target, victim) = (bed.target(), victim(&bed));
    volumes().publish(&target, &payload(&[("a", 0o644, "x")]), None).unwrap();
    let place = Place::create(&target).unwrap();
    let parent = target.as_path().parent().unwrap();
    fs::rename(parent, bed.path().join("aside")).unwrap();
    symlink(victim.as_path().parent().unwrap(), parent).unwrap();

    unmount_top(&place, Patience::Short).unwrap();
    assert_untouched(&victim);
    assert!(mounts_below(&bed.path().join("aside")).is_empty());
}
