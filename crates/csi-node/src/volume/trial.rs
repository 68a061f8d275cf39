//! Trying out what this node can do for volumes, with the code that makes them.

use super::{Options, Payload, State, TargetPath, VolumeError, Volumes, mountinfo};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use zeroize::Zeroizing;

/// A way in which a tmpfs comes to its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Made and filled where nobody sees it, then moved to its place: the mount API of Linux 5.2.
    Detached,
    /// Mounted empty by mount(2), then filled.
    Mount2,
}

/// What came of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// The way that was gone in the end.
    pub way: Way,
    /// Whether the volume was kept from swap.
    pub noswap: bool,
}

/// Publishes a volume with one file in a new directory below `folder`, reads it back and removes it again.
///
/// # Errors
/// That of the step that failed. Nothing is left mounted then either, unless unmounting itself fails.
pub fn try_way(folder: &Path, way: Way) -> Result<Tried, VolumeError> {
    let target = TargetPath::parse(&folder.join(format!("{way:?}")).to_string_lossy())?;
    let volumes = Volumes { options: Options::default(), only_mount2: AtomicBool::new(way == Way::Mount2) };
    // Only what this has made is removed again.
    if volumes.state(&target)? != State::Absent {
        return Err(VolumeError::Locked { target });
    }
    let outcome = publish_and_read(&volumes, &target);
    let removed = volumes.unpublish(&target);
    let noswap = outcome?;
    removed?;
    let only_mount2 = volumes.only_mount2.load(Ordering::Relaxed);
    Ok(Tried { way: if only_mount2 { Way::Mount2 } else { Way::Detached }, noswap })
}

/// Whether the volume is kept from swap.
fn publish_and_read(volumes: &Volumes, target: &TargetPath) -> Result<bool, VolumeError> {
    const TEXT: &[u8] = b"nothing secret";
    let payload = Payload::new(vec![("trial".to_owned(), 0o644, Zeroizing::new(TEXT.to_vec()))])?;
    volumes.publish(target, &payload, None)?;
    let read = volumes.read(target)?;
    let whole =
        volumes.state(target)? == State::Complete && read.iter().any(|file| file.contents.as_slice() == TEXT);
    if !whole {
        return Err(VolumeError::NotPublished { target: target.clone() });
    }
    let noswap =
        mountinfo::at(target.as_path()).is_ok_and(|mount| mount.is_some_and(|mount| mount.has("noswap")));
    Ok(noswap)
}

/// System calls that the driver asks for, and does without where they are not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// openat2(2), Linux 5.6.
    pub openat2: bool,
    /// statx(2) tells mount points, Linux 5.8.
    pub mount_root: bool,
}

impl Features {
    /// Asks the kernel.
    pub fn of_kernel() -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let openat2 = rustix::fs::openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).is_ok();
        let stat = rustix::fs::statx(CWD, "/", AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
        let mount_root =
            stat.is_ok_and(|stat| stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT));
        Self { openat2, mount_root }
    }
}

/// Whether mounts below a folder are seen by others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Propagation {
    /// The mount that the folder is in.
    pub mount: PathBuf,
    /// Whether it shares what is mounted in it with its peers.
    pub shared: bool,
}

impl Propagation {
    /// Looks at the mount that a folder is in.
    ///
    /// # Errors
    /// When the folder does not exist, or the list of mounts cannot be read.
    pub fn of(folder: &Path) -> std::io::Result<Self> {
        let folder = folder.canonicalize()?;
        let holder = mountinfo::read()?
            .into_iter()
            .filter(|mount| folder.starts_with(&mount.point))
            // Of mounts on one point the last hides the others.
            .max_by_key(|mount| mount.point.components().count());
        let holder = holder.ok_or_else(|| std::io::Error::other("it is in no mount"))?;
        Ok(Self { mount: holder.point, shared: holder.shared })
    }
}

/// The kernel's lines about volumes of CSI drivers, as they are.
///
/// # Errors
/// When the list of mounts cannot be read.
pub fn mount_lines() -> std::io::Result<Vec<String>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().filter(|line| line.contains("/volumes/kubernetes.io~csi/")).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_leave_nothing_behind() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "mounting takes root");
            eprintln!("NOTICE: left out: mounting takes root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        for way in [Way::Detached, Way::Mount2] {
            let tried = try_way(folder.path(), way).unwrap();
            assert!(tried.way == way || way == Way::Detached, "{tried:?}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        // What is there already is not touched.
        std::fs::write(folder.path().join("Detached"), "precious").unwrap();
        assert!(try_way(folder.path(), Way::Detached).is_err());
        assert_eq!(std::fs::read_to_string(folder.path().join("Detached")).unwrap(), "precious");
    }

    #[test]
    fn a_folder_is_in_the_nearest_mount() {
        assert_eq!(Propagation::of(Path::new("/proc/self")).unwrap().mount, Path::new("/proc"));
        assert!(Propagation::of(Path::new("/no/such/folder")).is_err());
    }
}
