//! Directories held open, so that nothing outside them can be meant.
//!
//! A path given to the kernel twice may mean two things; an open directory means one. All writing, reading and removing
//! below a volume starts from the volume's open root and follows no link, does not leave it upwards and does not cross
//! into another mount.

use std::{
    ffi::{OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        self, AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, StatxAttributes, StatxFlags,
    },
    io::Errno,
};

use super::{
    error::{Step, StepError},
    fault::point,
};

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

/// Bytes of names that the kernel gives at a time; one name has 255 at most.
const LISTED_AT_ONCE: usize = 4096;

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Directory {
    /// Opens a path from outside, following links: for the directory a volume is in, which belongs to the kubelet.
    pub fn open_following(path: &Path) -> io::Result<Self> {
        Ok(Self(fs::open(path, FLAGS, Mode::empty())?))
    }

    /// Opens the root of a mount that may not be attached anywhere.
    pub fn of_mount(mount: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(fs::openat(mount, ".", FLAGS, Mode::empty())?))
    }

    /// Opens a directory in this one. It may be the root of another mount, but not a link.
    pub fn open_mounted(&self, name: &OsStr) -> rustix::io::Result<Self> {
        Ok(Self(fs::openat(&self.0, name, FLAGS | OFlags::NOFOLLOW, Mode::empty())?))
    }

    /// Opens a directory beneath this one.
    pub fn open(&self, path: &Path) -> rustix::io::Result<Self> {
        Ok(Self(open_beneath(self.0.as_fd(), path, FLAGS, Mode::empty())?))
    }

    /// Opens a file beneath this one for reading. Does not block on a pipe.
    pub fn open_file(&self, path: &Path) -> io::Result<std::fs::File> {
        Ok(open_beneath(self.0.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?.into())
    }

    /// Creates a file beneath this one, with a mode that lets no one but root in until its owner and mode are set.
    pub fn create_file(&self, path: &Path) -> io::Result<std::fs::File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        Ok(open_beneath(self.0.as_fd(), path, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Creates a directory beneath this one, closed to all but root, and opens it.
    pub fn create(&self, path: &Path) -> rustix::io::Result<Self> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        match path.parent() {
            None => fs::mkdirat(&self.0, name, Mode::RWXU)?,
            Some(parent) if parent.as_os_str().is_empty() => fs::mkdirat(&self.0, name, Mode::RWXU)?,
            Some(parent) => fs::mkdirat(self.open(parent)?.as_fd(), name, Mode::RWXU)?,
        }
        self.open(path)
    }

    /// The names in this directory and what they are, without `.` and `..`.
    pub fn entries(&self) -> rustix::io::Result<Vec<(OsString, FileType)>> {
        let mut entries = Vec::new();
        self.each(|name, kind| {
            entries.push((name.to_owned(), kind));
            Ok(())
        })?;
        Ok(entries)
    }

    /// Visits what [`Directory::entries`] lists. Nothing may be added or removed meanwhile.
    pub fn each(
        &self,
        mut visit: impl FnMut(&OsStr, FileType) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<()> {
        // From the first one on, whether or not it was read before.
        fs::seek(&self.0, SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::uninit(); LISTED_AT_ONCE];
        let mut directory = RawDir::new(&self.0, &mut buffer);
        while let Some(entry) = directory.next() {
            let entry = match entry {
                // A directory that was removed after it was opened is empty.
                Err(Errno::NOENT) => break,
                Err(Errno::INTR) => continue,
                entry => entry?,
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                kind = FileType::from_raw_mode(self.stat(name)?.st_mode);
            }
            visit(name, kind)?;
        }
        Ok(())
    }

    /// What a link in this directory says; `EINVAL` if it is not a link.
    pub fn link_target(&self, name: &OsStr) -> rustix::io::Result<OsString> {
        Ok(OsString::from_vec(fs::readlinkat(&self.0, name, Vec::new())?.into_bytes()))
    }

    /// Owner, mode and device of an entry that is not followed.
    pub fn stat(&self, name: &OsStr) -> rustix::io::Result<fs::Stat> {
        fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Removes a file, a link, or a directory with all that is in it. What is already gone is no error.
    ///
    /// Stops at a mount point with an error: what is mounted there is not ours to empty.
    pub fn remove(&self, name: &OsStr, kind: FileType) -> Result<(), StepError> {
        let shown = || format!("remove {}", name.display());
        if kind == FileType::Directory {
            let directory = self.open(Path::new(name)).step_with(shown)?;
            directory.remove_contents().step_with(shown)?;
        }
        point("remove: entry");
        let flags = if kind == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        gone(fs::unlinkat(&self.0, name, flags)).step_with(shown)
    }

    /// Removes everything in this directory.
    pub fn remove_contents(&self) -> io::Result<()> {
        // A list instead of recursion: a path of 4,096 bytes may be two thousand directories deep, and a file
        // descriptor for each would be too many.
        let mut directories = vec![PathBuf::new()];
        let mut next = 0;
        while let Some(path) = directories.get(next).cloned() {
            next += 1;
            let opened;
            let directory = if path.as_os_str().is_empty() {
                self
            } else {
                opened = self.open(&path)?;
                &opened
            };
            for (name, kind) in directory.entries()? {
                if kind == FileType::Directory {
                    directories.push(path.join(name));
                } else {
                    point("remove: file");
                    gone(fs::unlinkat(&directory.0, &name, AtFlags::empty()))?;
                }
            }
        }
        for path in directories.iter().skip(1).rev() {
            point("remove: directory");
            gone(unlink_directory(self, path))?;
        }
        Ok(())
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn unlink_directory(base: &Directory, path: &Path) -> rustix::io::Result<()> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        None => fs::unlinkat(&base.0, name, AtFlags::REMOVEDIR),
        Some(parent) => {
            let parent = open_beneath(base.0.as_fd(), parent, FLAGS, Mode::empty())?;
            fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
        }
    }
}

fn gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// Opens beneath a directory, by openat2(2) where there is one (Linux 5.6, and not hidden by a seccomp filter).
fn open_beneath(base: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    match fs::openat2(base, path, flags, mode, resolve) {
        Err(Errno::NOSYS | Errno::PERM) => walk_beneath(base, path, flags, mode),
        other => other,
    }
}

/// The same in small steps. A bind mount of the same file system goes unnoticed before Linux 5.8, where no one look at
/// it tells.
fn walk_beneath(base: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let device = fs::fstat(base)?.st_dev;
    let mut here: Option<OwnedFd> = None;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else { return Err(Errno::XDEV) };
        let (flags, mode) = if components.peek().is_some() {
            (FLAGS | OFlags::NOFOLLOW, Mode::empty())
        } else {
            (flags, mode)
        };
        let next = fs::openat(here.as_ref().map_or(base, AsFd::as_fd), name, flags, mode)?;
        let seen = fs::statx(&next, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        if seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
            || fs::makedev(seen.stx_dev_major, seen.stx_dev_minor) != device
        {
            return Err(Errno::XDEV);
        }
        here = Some(next);
    }
    here.ok_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::{super::tests::bed::Bed, *};

    #[test]
    fn a_directory_can_be_listed_again_and_after_its_removal() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..500 {
            std::fs::write(folder.path().join(format!("a-file-of-a-longer-name-{number}")), "").unwrap();
        }
        let open = Directory::open_following(folder.path()).unwrap();
        assert_eq!([(); 2].map(|()| open.entries().unwrap().len()), [500, 500]);
        drop(folder);
        assert_eq!(open.entries().unwrap(), []);
    }

    /// Everything an attacker could put in the way, for both ways of opening.
    #[test]
    fn nothing_leads_out() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        let inside = temp.path().join("inside");
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "x").unwrap();
        std::fs::write(inside.join("a/b/file"), "x").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink("../outside", inside.join("a/link")).unwrap();
        symlink(outside.join("secret"), inside.join("a/b/filelink")).unwrap();
        let base = Directory::open_following(&inside).unwrap();

        for open in [open_beneath, walk_beneath] {
            let open = |path: &str| {
                open(base.as_fd(), Path::new(path), OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())
            };
            for good in ["a", "a/b", "a/b/file"] {
                assert!(open(good).is_ok(), "{good}");
            }
            for bad in
                ["link", "link/secret", "a/link/secret", "a/b/filelink", "..", "../outside", "/etc", ""]
            {
                assert!(open(bad).is_err(), "{bad}");
            }
            // A missing name is not an escape: callers tell the two apart.
            assert_eq!(open("a/none").unwrap_err(), Errno::NOENT);
        }
    }

    #[test]
    fn nothing_leads_into_another_mount() {
        let Some(bed) = Bed::new() else { return };
        let within = bed.path().join("a/within");
        std::fs::create_dir_all(&within).unwrap();
        // Of the same file system, so that the device tells nothing.
        let none: Option<&str> = None;
        nix::mount::mount(Some(&bed.path()), &within, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
        let base = Directory::open_following(&bed.path()).unwrap();
        for open in [open_beneath, walk_beneath] {
            for path in ["a/within", "a/within/a"] {
                assert_eq!(
                    open(base.as_fd(), Path::new(path), FLAGS, Mode::empty()).unwrap_err(),
                    Errno::XDEV
                );
            }
        }
    }

    #[test]
    fn removing_does_not_follow_links() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("keep/me")).unwrap();
        let deep = temp.path().join("go").join(vec!["d"; 1500].join("/"));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(temp.path().join("go/d/file"), "x").unwrap();
        symlink(temp.path().join("keep"), temp.path().join("go/d/link")).unwrap();
        let base = Directory::open_following(temp.path()).unwrap();

        base.remove(OsStr::new("go"), FileType::Directory).unwrap();

        assert!(!temp.path().join("go").exists());
        assert!(temp.path().join("keep/me").exists());
        base.remove(OsStr::new("never"), FileType::RegularFile).unwrap();
    }
}
