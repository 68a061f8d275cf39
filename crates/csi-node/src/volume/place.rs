//! The place of one volume: the directory the target is in, held open and locked, and what is at the target now.

use std::{
    ffi::OsStr,
    fmt::Write,
    fs::DirBuilder,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{self, AtFlags, FileType, FlockOperation, Mode, StatxAttributes, StatxFlags},
    io::Errno,
};

use super::{
    directory::Directory,
    error::{Step, StepError, VolumeError},
    fault::point,
    mountinfo,
    target::TargetPath,
};

/// The mode of a target directory that we create, as the reference's.
const TARGET_MODE: u32 = 0o750;
/// How long to wait for another process. Its operation takes milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// `f_type` of a tmpfs, from `linux/magic.h`.
const TMPFS_MAGIC: u32 = 0x0102_1994;

/// The directory a target is in, and the target's name in it.
pub(super) struct Place<'a> {
    target: &'a TargetPath,
    parent: Directory,
    name: &'a OsStr,
}

/// What one look at a target has shown.
pub(super) enum Sight {
    Absent,
    /// A directory that is not a mount.
    Directory,
    /// A tmpfs, its root open.
    Tmpfs(Directory),
    /// Another file system.
    Foreign,
    /// A mount that answers with an error only.
    Corrupt(Errno),
    /// No directory and no mount.
    Other(&'static str),
}

impl<'a> Place<'a> {
    /// The place as it is, without the lock: for looking only. `None` if not even the parent exists.
    pub fn find(target: &'a TargetPath) -> Result<Option<Self>, VolumeError> {
        let (parent, name) = target.split();
        match Directory::open_following(parent) {
            Ok(parent) => Ok(Some(Self { target, parent, name })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).step("open the parent directory").map_err(|e| e.of(target)),
        }
    }

    /// The place, locked. `None` if not even the parent exists.
    pub fn lock(target: &'a TargetPath) -> Result<Option<Self>, VolumeError> {
        let Some(place) = Self::find(target)? else { return Ok(None) };
        place.wait_for_lock(LOCK_PATIENCE)?;
        Ok(Some(place))
    }

    /// The place, locked, its parents created if need be.
    pub fn create(target: &'a TargetPath) -> Result<Self, VolumeError> {
        if let Some(place) = Self::lock(target)? {
            return Ok(place);
        }
        point("place: create parents");
        DirBuilder::new()
            .recursive(true)
            .mode(TARGET_MODE)
            .create(target.split().0)
            .step("create the parent directory")
            .map_err(|e| e.of(target))?;
        match Self::lock(target)? {
            Some(place) => Ok(place),
            None => Err(Errno::NOENT).step("create the parent directory").map_err(|e| e.of(target)),
        }
    }

    /// Takes the lock, an flock(2) on the parent directory: the kernel releases it when the process dies, and during an
    /// update of the driver the old and the new process exclude each other by it.
    fn wait_for_lock(&self, patience: Duration) -> Result<(), VolumeError> {
        let deadline = Instant::now() + patience;
        loop {
            match fs::flock(&self.parent, FlockOperation::NonBlockingLockExclusive) {
                // A file system that has no locks must not cost us the volume.
                Ok(()) | Err(Errno::NOTSUP | Errno::NOLCK | Errno::NOSYS | Errno::INVAL) => return Ok(()),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    thread::sleep(LOCK_PAUSE);
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(VolumeError::Locked { target: self.target.clone() });
                }
                Err(e) => return Err(e).step("lock the volume").map_err(|e| e.of(self.target)),
            }
        }
    }

    pub fn target(&self) -> &TargetPath {
        self.target
    }

    /// Looks at what is there now; of stacked mounts at the topmost.
    pub fn look(&self) -> Result<Sight, VolumeError> {
        self.try_look().step("look at the target").map_err(|e| e.of(self.target))
    }

    fn try_look(&self) -> rustix::io::Result<Sight> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        loop {
            let seen = match fs::statx(&self.parent, self.name, flags, StatxFlags::BASIC_STATS) {
                Ok(seen) => seen,
                Err(Errno::NOENT) => return Ok(Sight::Absent),
                Err(e) if is_corruption(e) => return Ok(Sight::Corrupt(e)),
                Err(e) => return Err(e),
            };
            let device = fs::makedev(seen.stx_dev_major, seen.stx_dev_minor);
            let is_mount = if seen.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
                seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
            } else {
                // Before Linux 5.8: another device than its parent's.
                fs::fstat(&self.parent)?.st_dev != device
            };
            match (FileType::from_raw_mode(seen.stx_mode.into()), is_mount) {
                (FileType::Directory, false) => return Ok(Sight::Directory),
                (FileType::Directory, true) => match self.open_root() {
                    // Between the two looks something was mounted or unmounted.
                    Ok(root) if fs::fstat(&root)?.st_dev != device => {}
                    Ok(root) => {
                        let is_tmpfs = u32::try_from(fs::fstatfs(&root)?.f_type) == Ok(TMPFS_MAGIC);
                        return Ok(if is_tmpfs { Sight::Tmpfs(root) } else { Sight::Foreign });
                    }
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(e) if is_corruption(e) => return Ok(Sight::Corrupt(e)),
                    Err(e) => return Err(e),
                },
                (_, true) => return Ok(Sight::Foreign),
                (FileType::Symlink, false) => return Ok(Sight::Other("a symbolic link")),
                (FileType::RegularFile, false) => return Ok(Sight::Other("a file")),
                (_, false) => return Ok(Sight::Other("a special file")),
            }
        }
    }

    /// Opens the root of the topmost mount at the target.
    pub fn open_root(&self) -> rustix::io::Result<Directory> {
        self.parent.open_mounted(self.name)
    }

    /// Creates the target directory.
    pub fn make_directory(&self) -> Result<(), StepError> {
        point("place: create the target directory");
        match fs::mkdirat(&self.parent, self.name, Mode::from_raw_mode(TARGET_MODE)) {
            Err(Errno::EXIST) => Ok(()),
            other => other.step("create the target directory"),
        }
    }

    /// Opens the target directory itself, with nothing mounted on it and no link in its place: what is done with it then
    /// happens to this very directory, whatever its path leads to by then.
    pub fn open_directory(&self) -> Result<Directory, StepError> {
        self.parent.open(Path::new(self.name)).step("open the target directory")
    }

    /// Removes the target itself, a file or link, or an empty directory.
    pub fn remove_target(&self, flags: AtFlags) -> rustix::io::Result<()> {
        match fs::unlinkat(&self.parent, self.name, flags) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// The target as a path through the open parent, for system calls that know only paths. No other process can make
    /// it mean another parent.
    pub fn path_through_parent(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.parent.as_fd().as_raw_fd().to_string()).join(self.name)
    }

    /// The topmost mount at the target, as `/proc/self/mountinfo` has it.
    fn mount(&self) -> io::Result<Option<mountinfo::Mount>> {
        // The list has paths without links.
        let parent = std::fs::read_link(format!("/proc/self/fd/{}", self.parent.as_fd().as_raw_fd()))?;
        mountinfo::at(&parent.join(self.name))
    }

    /// If the tmpfs at the target is one that nobody mounted as a volume, its description: a bind mount of a directory
    /// somewhere in a tmpfs.
    pub fn foreign_tmpfs(&self) -> Option<String> {
        match self.mount() {
            Ok(Some(mount)) if !mount.is_whole_tmpfs() => Some(describe(&mount)),
            _ => None,
        }
    }

    /// Type and source of what is mounted at the target, for people.
    pub fn filesystem(&self) -> String {
        match self.mount() {
            Ok(Some(mount)) => describe(&mount),
            _ => "unknown file system".to_owned(),
        }
    }

    pub fn not_a_directory(&self, kind: &'static str) -> VolumeError {
        VolumeError::NotADirectory { target: self.target.clone(), kind }
    }
}

fn describe(mount: &mountinfo::Mount) -> String {
    let mut text = format!("{} from {}", mount.filesystem, mount.source);
    if mount.root != Path::new("/") {
        let written = write!(text, ", its directory {}", mount.root.display());
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }
    text
}

/// What a mount answers whose server, daemon or device is gone; `EACCES` is a FUSE mount of another user.
fn is_corruption(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOTCONN
            | Errno::STALE
            | Errno::IO
            | Errno::ACCESS
            | Errno::HOSTDOWN
            | Errno::NODEV
            | Errno::NXIO
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hold_the_same_place_never() {
        let temp = tempfile::tempdir().unwrap();
        let target = TargetPath::parse(temp.path().join("v").to_str().unwrap()).unwrap();
        let first = Place::create(&target).unwrap();
        let second = Place::find(&target).unwrap().unwrap();
        let error = second.wait_for_lock(Duration::ZERO).unwrap_err();
        assert!(matches!(error, VolumeError::Locked { .. }) && !error.is_final());
        drop(first);
        second.wait_for_lock(Duration::ZERO).unwrap();
    }
}
