//! A seal holds as long as nothing in the volume is touched, and not a moment longer.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    super::Change,
    bed::{Bed, payload, volumes},
};

/// What is done to a volume, by its root and its current generation.
type Harm = fn(&Path, &Path);

const FILES: &[(&str, u32, &str)] = &[("a", 0o644, "one"), ("dir/b", 0o600, "two")];

/// Waits until a change gets another time than all changes so far: the kernel counts in ticks of up to 10 ms.
fn tick() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(25) {
        std::thread::yield_now();
    }
}

#[test]
fn every_kind_of_change_breaks_a_seal() {
    let Some(bed) = Bed::new() else { return };
    let harms: [(&str, Harm); 11] = [
        ("content of the same length", |_, data| fs::write(data.join("a"), "eno").unwrap()),
        ("content deep inside", |_, data| fs::write(data.join("dir/b"), "owt").unwrap()),
        ("a mode", |_, data| fs::set_permissions(data.join("a"), PermissionsExt::from_mode(0o600)).unwrap()),
        ("an owner", |_, data| chown(data.join("a"), Some(0), Some(0)).unwrap()),
        ("a file more", |_, data| fs::write(data.join("c"), "").unwrap()),
        ("a file less", |_, data| fs::remove_file(data.join("dir/b")).unwrap()),
        ("another file of the same name", |_, data| {
            fs::write(data.join("new"), "one").unwrap();
            fs::rename(data.join("new"), data.join("a")).unwrap();
        }),
        ("a link less", |root, _| fs::remove_file(root.join("a")).unwrap()),
        ("a link elsewhere", |root, _| {
            fs::remove_file(root.join("a")).unwrap();
            symlink("..data/dir/b", root.join("a")).unwrap();
        }),
        ("..data elsewhere", |root, _| {
            fs::remove_file(root.join("..data")).unwrap();
            symlink("nowhere", root.join("..data")).unwrap();
        }),
        ("the volume's mode", |root, _| {
            fs::set_permissions(root, PermissionsExt::from_mode(0o700)).unwrap();
        }),
    ];
    for (number, (harm, inflict)) in harms.into_iter().enumerate() {
        let (volumes, target) = (volumes(), bed.target_named(&number.to_string()));
        volumes.publish(&target, &payload(FILES), None).unwrap();
        let root = PathBuf::from(target.as_str());
        let data = root.join(fs::read_link(root.join("..data")).unwrap());
        tick();
        let seal = volumes.seal(&target).unwrap();
        fs::read(root.join("a")).unwrap();
        assert!(volumes.is_as_sealed(&target, &seal), "reading changes nothing");
        tick();
        let seal = volumes.seal(&target).unwrap();
        inflict(&root, &data);
        assert!(!volumes.is_as_sealed(&target, &seal), "{harm} is not seen");
    }
}

#[test]
fn a_seal_is_of_one_volume_and_one_set_of_files() {
    let Some(bed) = Bed::new() else { return };
    let (volumes, target) = (volumes(), bed.target());
    assert_eq!(volumes.seal(&target), None);
    volumes.publish(&target, &payload(FILES), None).unwrap();
    let seal = volumes.seal(&target).unwrap();
    assert_eq!(volumes.publish(&target, &payload(FILES), None).unwrap(), Change::Unchanged);
    assert!(volumes.is_as_sealed(&target, &seal), "finding everything right changes nothing");
    tick();
    let seal = volumes.seal(&target).unwrap();
    volumes.publish(&target, &payload(&[("a", 0o644, "new")]), None).unwrap();
    assert!(!volumes.is_as_sealed(&target, &seal));
    let seal = volumes.seal(&target).unwrap();
    volumes.unpublish(&target).unwrap();
    assert!(!volumes.is_as_sealed(&target, &seal));
    // The same files in a new volume.
    volumes.publish(&target, &payload(&[("a", 0o644, "new")]), None).unwrap();
    assert!(!volumes.is_as_sealed(&target, &seal));
}
