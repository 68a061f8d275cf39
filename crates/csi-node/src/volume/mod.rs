//! Volumes on the node: what is on disk for NodePublishVolume and NodeUnpublishVolume.
//!
//! A volume is a tmpfs of its own. It is filled while it is attached nowhere and then moved onto the target in one step,
//! so there is no moment at which a pod could see it empty or half full; later versions are switched atomically inside
//! it. Nothing is remembered between calls: each looks at what is there and makes it right, whatever crashed before it
//! and whoever mounted it, this driver or the one it replaces.
//!
//! ```text
//! absent ──mkdir──▶ directory ──fill a detached tmpfs, move it here──▶ complete ──switch──▶ complete
//!                                         mounted, not complete ──write into it──▶ complete
//! ```
//!
//! All functions block, for microseconds as a rule and up to seconds when another process holds the volume: call them
//! where blocking is allowed. Calls for one target exclude each other, also between processes.

mod directory;
mod error;
pub mod fault;
mod layout;
mod mountinfo;
mod payload;
mod place;
mod seal;
mod target;
mod tmpfs;
mod trial;
mod unpublish;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    ffi::OsStr,
    io::Read,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::{fs::FileType, io::Errno};
use zeroize::Zeroizing;

use self::{
    directory::Directory,
    error::{Step, StepError},
    fault::point,
    place::{Place, Sight},
    tmpfs::Needs,
};
pub use self::{
    error::VolumeError,
    payload::{FileMode, FilePath, Payload, PayloadDigest, PayloadFile},
    seal::Seal,
    target::TargetPath,
    trial::{Features, Propagation, Tried, Way, mount_lines, try_way},
};

/// What is at a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Absent,
    /// A directory on which nothing is mounted, empty or not.
    Directory,
    /// A tmpfs without a complete set of files: a publish was interrupted. [`Volumes::publish`] repairs it.
    Mounted,
    /// A tmpfs with a complete set of files, by this driver or the reference.
    Complete,
    /// Another file system. [`Volumes::publish`] refuses it; [`Volumes::unpublish`] unmounts it, unemptied.
    Foreign {
        /// Its type and source.
        filesystem: String,
    },
    /// A mount that does not answer. [`Volumes::publish`] replaces it.
    Corrupt,
}

/// What [`Volumes::publish`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There was no complete volume, and now there is.
    Created,
    /// Files, modes or owners differed and were switched, or links were missing or too many.
    ///
    /// The former generation stays readable for those who have opened it, for [`Options::former_for`]: the first publish
    /// after that removes it, or [`Volumes::tidy`].
    Switched,
    /// Everything was as it should be.
    Unchanged,
}

/// The group that a pod's volumes belong to: `fsGroup`, handed over by the kubelet as `volume_mount_group`.
///
/// Files and directories are owned by root and this group, and the group can read what root can read, as the kubelet
/// does it for Secret volumes: `0440` is added to the mode of files, `2550` to that of directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group(pub u32);

/// What all volumes have in common.
#[derive(Debug, Clone)]
pub struct Options {
    /// The size limit of a volume in bytes; what is not used costs nothing. A volume that needs more, because two
    /// generations of its files have to fit, gets more.
    pub size_bytes: u64,
    /// The limit on the number of files, directories and links of a volume. A volume that needs more gets more.
    pub inodes: u64,
    /// Whether to forbid executing files. The reference does not.
    pub noexec: bool,
    /// How long a former generation of files stays after a switch.
    pub former_for: Duration,
}

/// What readers are promised is five seconds (docs/freshness.md). It is counted from a moment before the switch, so one
/// more for a process that is kept waiting in between.
pub const FORMER_FOR: Duration = Duration::from_secs(6);

impl Default for Options {
    fn default() -> Self {
        // A vault's secret is at most 25 KiB, so this is enough for a thousand large ones, twice.
        Self {
            size_bytes: 64 << 20,
            inodes: 65_536,
            noexec: false,
            former_for: fault::former_for(FORMER_FOR),
        }
    }
}

/// The volumes of this node.
#[derive(Debug)]
pub struct Volumes {
    options: Options,
    /// Whether the mount API of Linux 5.2 was found missing, in the kernel or behind a seccomp filter. Then a tmpfs is
    /// attached first and filled afterwards.
    only_mount2: AtomicBool,
}

impl Volumes {
    /// Volumes that are mounted with these options.
    pub fn new(options: Options) -> Self {
        Self { options, only_mount2: AtomicBool::new(false) }
    }

    /// Looks at a target without changing anything. One look, no lock: it may be outdated when it returns.
    ///
    /// # Errors
    /// [`VolumeError::NotADirectory`] if a link or a file is there; [`VolumeError::Io`].
    pub fn state(&self, target: &TargetPath) -> Result<State, VolumeError> {
        let Some(place) = Place::find(target)? else { return Ok(State::Absent) };
        Ok(match place.look()? {
            Sight::Absent => State::Absent,
            Sight::Directory => State::Directory,
            Sight::Tmpfs(root) if is_complete(&root, target)? => State::Complete,
            Sight::Tmpfs(_) => match place.foreign_tmpfs() {
                None => State::Mounted,
                Some(filesystem) => State::Foreign { filesystem },
            },
            Sight::Foreign => State::Foreign { filesystem: place.filesystem() },
            Sight::Corrupt(_) => State::Corrupt,
            Sight::Other(kind) => return Err(place.not_a_directory(kind)),
        })
    }

    /// Makes a target a complete volume with exactly these files.
    ///
    /// Whatever happens meanwhile, a pod sees all of the former files or all of the new ones, and when it returns an
    /// error, what was complete before still is.
    ///
    /// # Errors
    /// [`VolumeError::NotADirectory`], [`VolumeError::Foreign`], [`VolumeError::Locked`], [`VolumeError::NoSpace`],
    /// [`VolumeError::Io`].
    pub fn publish(
        &self,
        target: &TargetPath,
        payload: &Payload,
        group: Option<Group>,
    ) -> Result<Change, VolumeError> {
        let place = Place::create(target)?;
        // Each turn but the last removes one obstacle. More than a few mean that someone works against us.
        for _ in 0..16 {
            match place.look()? {
                Sight::Absent => place.make_directory().map_err(|e| e.of(target))?,
                Sight::Directory => {
                    self.mount(&place, payload, group).map_err(|e| e.of(target))?;
                    point("publish: done");
                    return Ok(Change::Created);
                }
                Sight::Tmpfs(root) => {
                    // Written into, not replaced: a pod that the reference has let start on an empty volume sees the
                    // files come, where a new mount would not reach it.
                    if !is_complete(&root, target)?
                        && let Some(filesystem) = place.foreign_tmpfs()
                    {
                        return Err(VolumeError::Foreign { target: target.clone(), filesystem });
                    }
                    let had_files = current(&root, target)?.is_some();
                    tmpfs::make_room(&root, Needs::of(payload));
                    let change = writer::write(&root, payload, group, self.options.former_for)
                        .map_err(|e| e.of(target))?;
                    point("publish: done");
                    return Ok(if had_files { change } else { Change::Created });
                }
                Sight::Corrupt(errno) => {
                    tracing::warn!(volume = %target, %errno, "replacing a mount that does not answer");
                    unpublish::unmount_dead(&place, errno).map_err(|e| e.of(target))?;
                }
                Sight::Foreign => {
                    let filesystem = place.filesystem();
                    return Err(VolumeError::Foreign { target: target.clone(), filesystem });
                }
                Sight::Other(kind) => return Err(place.not_a_directory(kind)),
            }
        }
        Err(VolumeError::Locked { target: target.clone() })
    }

    /// Mounts a new tmpfs with the files of the payload on a directory.
    fn mount(&self, place: &Place<'_>, payload: &Payload, group: Option<Group>) -> Result<(), StepError> {
        let directory = place.open_directory()?;
        let needs = Needs::of(payload);
        if !self.only_mount2.load(Ordering::Relaxed) {
            match tmpfs::detached(&self.options, needs) {
                Ok(mount) => {
                    let root = Directory::of_mount(mount.as_fd()).step("open the new tmpfs")?;
                    writer::write(&root, payload, group, self.options.former_for)?;
                    match tmpfs::attach(mount.as_fd(), directory.as_fd()) {
                        Err(e) if e.is_unavailable() => {}
                        result => return result,
                    }
                }
                Err(e) if e.is_unavailable() => {}
                Err(e) => return Err(e),
            }
            self.only_mount2.store(true, Ordering::Relaxed);
            tracing::info!("no mount API in this kernel, or none allowed by seccomp: using mount(2)");
        }
        tmpfs::mount_on(directory.as_fd(), &self.options, needs)?;
        let root = place.open_root().step("open the new tmpfs")?;
        writer::write(&root, payload, group, self.options.former_for).map(drop).inspect_err(|_| {
            drop(root);
            if let Err(e) = unpublish::unmount_top(place, unpublish::Patience::None) {
                tracing::warn!(volume = %place.target(), error = %e.source, "an unfilled tmpfs stays mounted");
            }
        })
    }

    /// Looks at a target, and finishes what a process that died in the middle of a republish has left undone there: after the
    /// switch to new files their links may be missing, and can be made from what is on disk. So a volume that has content
    /// to keep is [`State::Complete`] afterwards, without asking anybody for the content.
    ///
    /// # Errors
    /// As [`Volumes::state`]; [`VolumeError::Locked`].
    pub fn recover(&self, target: &TargetPath) -> Result<State, VolumeError> {
        let state = self.state(target)?;
        if state != State::Mounted {
            return Ok(state);
        }
        let Some(place) = Place::lock(target)? else { return Ok(State::Absent) };
        if let Sight::Tmpfs(root) = place.look()? {
            writer::relink(&root).map_err(|e| e.of(target))?;
        }
        drop(place);
        self.state(target)
    }

    /// What a complete volume looks like now, to be held against it later. One look, no lock; `None` if nothing is complete.
    pub fn seal(&self, target: &TargetPath) -> Option<Seal> {
        let place = Place::find(target).ok()??;
        let Ok(Sight::Tmpfs(root)) = place.look() else { return None };
        Seal::of(&root).ok()?
    }

    /// Whether nothing in a volume has changed since it was sealed, which also means that it is complete.
    pub fn is_as_sealed(&self, target: &TargetPath, seal: &Seal) -> bool {
        let Ok(Some(place)) = Place::find(target) else { return false };
        matches!(place.look(), Ok(Sight::Tmpfs(root)) if seal.holds(&root))
    }

    /// Removes what switches have left: former generations of files that have stayed for [`Options::former_for`], as
    /// [`Volumes::publish`] does it, too.
    ///
    /// # Errors
    /// [`VolumeError::Locked`], [`VolumeError::Io`]; nothing to tidy is no error.
    pub fn tidy(&self, target: &TargetPath) -> Result<(), VolumeError> {
        let Some(place) = Place::lock(target)? else { return Ok(()) };
        match place.look()? {
            Sight::Tmpfs(root) if current(&root, target)?.is_some() => {
                writer::remove_leftovers(&root, self.options.former_for).map_err(|e| e.of(target))
            }
            _ => Ok(()),
        }
    }

    /// Removes a volume: every mount at the target, however many are stacked, and the directory. Done already is done.
    ///
    /// Needs nothing but the node. Links are not followed, a mount that is busy is detached, and files in a directory on
    /// which nothing is mounted are removed with it (old providers wrote some).
    ///
    /// # Errors
    /// [`VolumeError::Locked`], [`VolumeError::Io`].
    pub fn unpublish(&self, target: &TargetPath) -> Result<(), VolumeError> {
        unpublish::unpublish(target)
    }

    /// The volumes below a kubelet's root directory: every tmpfs at `pods/<uid>/volumes/kubernetes.io~csi/<name>/mount`.
    ///
    /// Other CSI drivers' tmpfs volumes are in the list too: only the `vol_data.json` beside a volume, which the kubelet
    /// writes, names its driver.
    ///
    /// # Errors
    /// [`std::io::Error`] if the root directory or the list of mounts can not be read.
    pub fn list(&self, root: &Path) -> std::io::Result<Vec<TargetPath>> {
        let resolved = root.canonicalize()?;
        let mut found: Vec<TargetPath> = mountinfo::read()?
            .iter()
            .filter(|m| m.is_whole_tmpfs())
            .filter_map(|m| m.point.strip_prefix(&resolved).ok())
            .filter(|below| is_csi_volume(below))
            .filter_map(|below| TargetPath::parse(root.join(below).to_str()?).ok())
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// The volumes below any kubelet's root directory, as [`Volumes::list`] finds them below one.
    ///
    /// # Errors
    /// [`std::io::Error`] if the list of mounts can not be read.
    pub fn list_all(&self) -> std::io::Result<Vec<TargetPath>> {
        let mut found: Vec<TargetPath> = mountinfo::read()?
            .iter()
            .filter(|m| m.is_whole_tmpfs())
            .filter(|m| {
                let parts = m.point.components().count();
                is_csi_volume(&m.point.components().skip(parts.saturating_sub(6)).collect::<PathBuf>())
            })
            .filter_map(|m| TargetPath::parse(m.point.to_str()?).ok())
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// The files of a volume as its readers see them, all of one generation.
    ///
    /// # Errors
    /// [`VolumeError::NotPublished`] if there is no complete volume; [`VolumeError::Io`].
    pub fn read(&self, target: &TargetPath) -> Result<Vec<PayloadFile>, VolumeError> {
        let not_published = || VolumeError::NotPublished { target: target.clone() };
        let place = Place::find(target)?.ok_or_else(not_published)?;
        let Sight::Tmpfs(root) = place.look()? else { return Err(not_published()) };
        let generation = current(&root, target)?.ok_or_else(not_published)?;
        read_files(&root, &generation).map_err(|e| e.of(target))
    }
}

fn is_complete(root: &Directory, target: &TargetPath) -> Result<bool, VolumeError> {
    layout::is_complete(root).step("look into the volume").map_err(|e| e.of(target))
}

fn current(root: &Directory, target: &TargetPath) -> Result<Option<Directory>, VolumeError> {
    layout::current(root).step("open the current files").map_err(|e| e.of(target))
}

fn is_csi_volume(below_root: &Path) -> bool {
    let parts: Vec<&OsStr> = below_root.iter().collect();
    matches!(parts.as_slice(), [pods, _uid, volumes, csi, _name, mount]
        if *pods == "pods" && *volumes == "volumes" && *csi == "kubernetes.io~csi" && *mount == "mount")
}

/// All visible files: those behind the top-level links, and plain ones as old providers wrote them.
fn read_files(root: &Directory, generation: &Directory) -> Result<Vec<PayloadFile>, StepError> {
    let mut files = Vec::new();
    for (name, kind) in root.entries().step("list the volume")? {
        if layout::is_internal(&name) {
            continue;
        }
        let (base, kind) = match kind {
            FileType::Symlink => {
                if root.link_target(&name).step("read a link")? != layout::link_for(&name) {
                    continue;
                }
                match generation.stat(&name) {
                    Ok(stat) => (generation, FileType::from_raw_mode(stat.st_mode)),
                    // A link that outlived its file: not visible to readers either.
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(e).step("look at a file"),
                }
            }
            kind => (root, kind),
        };
        let mut pending = vec![(PathBuf::from(&name), kind)];
        while let Some((path, kind)) = pending.pop() {
            match kind {
                FileType::Directory => {
                    let directory = base.open(&path).step_with(|| format!("open {}", path.display()))?;
                    for (name, kind) in
                        directory.entries().step_with(|| format!("list {}", path.display()))?
                    {
                        pending.push((path.join(name), kind));
                    }
                }
                FileType::RegularFile => {
                    // A name that is not UTF-8 came from no payload.
                    let Ok(valid) = str::from_utf8(path.as_os_str().as_bytes()) else { continue };
                    let Ok(valid) = FilePath::parse(valid.to_owned()) else { continue };
                    let (mode, contents) =
                        read_file(base, &path).step_with(|| format!("read {}", path.display()))?;
                    files.push(PayloadFile { path: valid, mode, contents });
                }
                _ => {}
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read_file(base: &Directory, path: &Path) -> std::io::Result<(FileMode, Zeroizing<Vec<u8>>)> {
    let mut file = base.open_file(path)?;
    let stat = rustix::fs::fstat(&file)?;
    // One byte more than needed, so that the end is seen without growing, which would leave a copy behind.
    let size = usize::try_from(stat.st_size).unwrap_or_default() + 1;
    let mut contents = Zeroizing::new(Vec::with_capacity(size));
    file.read_to_end(&mut contents)?;
    Ok((FileMode::new(stat.st_mode), contents))
}
