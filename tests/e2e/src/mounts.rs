//! What is mounted, as the kernel says it.

use std::path::{Path, PathBuf};

/// One line of `/proc/self/mountinfo`, as far as tests ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Where.
    pub path: PathBuf,
    /// Flags of the mount: `rw,nosuid,nodev`.
    pub flags: String,
    /// `tmpfs`.
    pub filesystem: String,
    /// Options of the file system: `rw,size=65536k`.
    pub options: String,
}

/// All mounts at or below a path, in the order in which they were made.
pub fn mounts_below(path: &Path) -> Vec<MountPoint> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs is mounted");
    table.lines().filter_map(parse).filter(|mount| mount.path.starts_with(path)).collect()
}

fn parse(line: &str) -> Option<MountPoint> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mount: Vec<&str> = mount.split(' ').collect();
    let filesystem: Vec<&str> = filesystem.split(' ').collect();
    Some(MountPoint {
        path: mount.get(4)?.replace("\\040", " ").into(),
        flags: (*mount.get(5)?).to_owned(),
        filesystem: (*filesystem.first()?).to_owned(),
        options: (*filesystem.get(2)?).to_owned(),
    })
}
