//! Writing files into a volume so that readers see all of the old ones or all of the new ones.
//!
//! The order of steps is the whole point; after each the process may die and the next call has to come to a good end:
//!
//! 1. Remove what a crash has left: `..data_tmp`, and generations that never were current. Of those that were, remove
//!    the ones that have not been so for long enough.
//! 2. Compare what is on disk with what should be, contents, modes, owners and names. If all is equal, go to 6.
//! 3. Write a new generation completely.
//! 4. Mark the current generation as a former one: its modification time becomes 1970, and its change time, which the
//!    kernel sets with that, says since when. Nobody is misled by the mark if the switch then does not come.
//! 5. Make `..data_tmp` point to the new one and rename that over `..data`. This is the switch; nothing else is visible of it.
//! 6. Create missing top-level links and remove those whose name is gone. After the switch, so that a name is never
//!    listed before it can be opened, and what was there before goes from old to new in the switch itself.
//!
//! A former generation stays for a while, however quickly switches follow each other: a reader that has opened `..data`
//! as a directory may read all its files in peace, and one that the kernel has just led through `..data` finds the file
//! it opens. Removing them at once would leave the one with half a set, and the other with none.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::unistd::{Gid, Uid, fchown};
use rustix::{
    fs::{self, FileType, Mode, RenameFlags, Timespec, Timestamps},
    io::Errno,
};
use zeroize::Zeroizing;

use super::{
    Change, Group,
    directory::Directory,
    error::{Step, StepError},
    fault::point,
    layout::{self, DATA, DATA_TMP},
    payload::{Payload, PayloadFile},
    tmpfs,
};

/// The mode of directories in a generation, whatever the umask.
const DIRECTORY_MODE: u32 = 0o755;

/// Who owns what is in a volume, and what that adds to modes.
#[derive(Debug, Clone, Copy)]
struct Ownership {
    gid: u32,
    on_files: u32,
    on_directories: u32,
}

impl Ownership {
    fn of(group: Option<Group>) -> Self {
        match group {
            None => Self { gid: 0, on_files: 0, on_directories: 0 },
            // What the kubelet does for read-only volumes with an fsGroup (`SetVolumeOwnership`).
            Some(Group(gid)) => Self { gid, on_files: 0o440, on_directories: 0o2550 },
        }
    }

    fn file_mode(self, file: &PayloadFile) -> u32 {
        file.mode().bits() | self.on_files
    }

    fn directory_mode(self) -> u32 {
        DIRECTORY_MODE | self.on_directories
    }

    fn root_mode(self) -> u32 {
        tmpfs::ROOT_MODE | self.on_directories
    }

    fn holds(self, stat: &fs::Stat, mode: u32) -> bool {
        stat.st_uid == 0 && stat.st_gid == self.gid && stat.st_mode & 0o7777 == mode
    }

    /// Sets owner and mode, if they are not so already.
    fn impose(self, file: impl AsFd, mode: u32) -> io::Result<()> {
        let stat = fs::fstat(&file)?;
        if stat.st_uid != 0 || stat.st_gid != self.gid {
            fchown(&file, Some(Uid::from_raw(0)), Some(Gid::from_raw(self.gid)))?;
        }
        // After the owner: changing that clears setuid and setgid.
        if !self.holds(&fs::fstat(&file)?, mode) {
            fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        }
        Ok(())
    }
}

/// Makes the volume with this root contain exactly the payload. Former generations stay for `former_for`.
pub(super) fn write(
    root: &Directory,
    payload: &Payload,
    group: Option<Group>,
    former_for: Duration,
) -> Result<Change, StepError> {
    let ownership = Ownership::of(group);
    remove_leftovers(root, former_for)?;
    point("write: root mode");
    ownership.impose(root, ownership.root_mode()).step("set owner and mode of the volume")?;

    // A generation that can not be read is not the right one.
    let is_current = layout::current(root)
        .step("open the current files")?
        .is_some_and(|generation| matches(&generation, payload, ownership).unwrap_or(false));
    if !is_current {
        let generation = write_generation(root, payload, ownership)?;
        switch(root, &generation).inspect_err(|_| abandon(root))?;
    }
    let relinked = link_names(root, &payload.top_names())?;
    Ok(if is_current && !relinked { Change::Unchanged } else { Change::Switched })
}

/// Removes `..data_tmp`, and generations other than the current one: those that never were current, and those that have
/// not been for `former_for`.
pub(super) fn remove_leftovers(root: &Directory, former_for: Duration) -> Result<(), StepError> {
    let current = layout::current_name(root).step("read ..data")?;
    for (name, kind) in root.entries().step("list the volume")? {
        let over = || {
            let stat = root.stat(&name).step_with(|| format!("look at {}", name.display()))?;
            Ok(!is_former(&stat) || age(&stat, SystemTime::now()).is_none_or(|age| age >= former_for))
        };
        if name == DATA_TMP || (layout::is_generation(&name) && Some(&name) != current.as_ref() && over()?) {
            root.remove(&name, kind)?;
        }
    }
    Ok(())
}

/// Marks the current generation as what it is about to be, a former one.
fn retire_current(root: &Directory) -> Result<(), StepError> {
    let Some(generation) = layout::current(root).step("open the current files")? else { return Ok(()) };
    point("write: mark the former files");
    let last_access = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
    let last_modification = Timespec { tv_sec: 0, tv_nsec: 0 };
    fs::futimens(&generation, &Timestamps { last_access, last_modification }).step("mark the former files")
}

/// Whether a generation has been marked by [`retire_current`]. No other ever has this modification time: entries were made in it.
fn is_former(stat: &fs::Stat) -> bool {
    stat.st_mtime == 0 && stat.st_mtime_nsec == 0
}

/// The time since the last change; `None` if that is yet to come, because the clock was set back.
fn age(stat: &fs::Stat, now: SystemTime) -> Option<Duration> {
    let changed = Duration::new(u64::try_from(stat.st_ctime).ok()?, u32::try_from(stat.st_ctime_nsec).ok()?);
    now.duration_since(SystemTime::UNIX_EPOCH.checked_add(changed)?).ok()
}

/// Whether a generation is exactly the payload: names, contents, modes and owners.
fn matches(generation: &Directory, payload: &Payload, ownership: Ownership) -> io::Result<bool> {
    let directories = payload.directories();
    let mut found = 0;
    let mut buffer = Zeroizing::new(vec![0; 16 << 10]);
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let opened;
        let directory = if path.as_os_str().is_empty() {
            generation
        } else {
            opened = generation.open(&path)?;
            &opened
        };
        if !ownership.holds(&fs::fstat(directory)?, ownership.directory_mode()) {
            return Ok(false);
        }
        for (name, kind) in directory.entries()? {
            let path = path.join(name);
            let Some(text) = path.to_str() else { return Ok(false) };
            match kind {
                FileType::Directory if directories.contains(text) => pending.push(path),
                FileType::RegularFile => {
                    let Some(wanted) = payload.file(text) else { return Ok(false) };
                    if !file_matches(generation, wanted, ownership, &mut buffer)? {
                        return Ok(false);
                    }
                    found += 1;
                }
                _ => return Ok(false),
            }
        }
    }
    // Every file found is wanted and every path is found once, so equal numbers mean equal sets.
    Ok(found == payload.files().len())
}

fn file_matches(
    generation: &Directory,
    wanted: &PayloadFile,
    ownership: Ownership,
    buffer: &mut [u8],
) -> io::Result<bool> {
    let mut file = generation.open_file(wanted.path().as_path())?;
    let stat = fs::fstat(&file)?;
    if !ownership.holds(&stat, ownership.file_mode(wanted)) {
        return Ok(false);
    }
    let mut rest = wanted.contents();
    if usize::try_from(stat.st_size) != Ok(rest.len()) {
        return Ok(false);
    }
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(rest.is_empty()),
            Ok(n) => match rest.split_at_checked(n) {
                Some((expected, after)) if *expected == buffer[..n] => rest = after,
                _ => return Ok(false),
            },
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Writes all files into a new directory, and removes it again if one can not be written.
fn write_generation(
    root: &Directory,
    payload: &Payload,
    ownership: Ownership,
) -> Result<OsString, StepError> {
    point("write: create a generation");
    let (name, generation) = loop {
        let name = OsString::from(layout::new_generation_name());
        match root.create(Path::new(&name)) {
            Ok(generation) => break (name, generation),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e).step("create a directory for the files"),
        }
    };
    fill(&generation, payload, ownership).inspect_err(|_| abandon(root))?;
    Ok(name)
}

fn fill(generation: &Directory, payload: &Payload, ownership: Ownership) -> Result<(), StepError> {
    let mode = ownership.directory_mode();
    ownership.impose(generation, mode).step("set owner and mode of the files' directory")?;
    for path in payload.directories() {
        point("write: create a directory");
        let shown = || format!("create the directory {path}");
        let directory = generation.create(Path::new(path)).step_with(shown)?;
        ownership.impose(&directory, mode).step_with(shown)?;
    }
    for file in payload.files() {
        let shown = || format!("write the file {}", file.path());
        point("write: create a file");
        let mut opened = generation.create_file(file.path().as_path()).step_with(shown)?;
        point("write: contents");
        opened.write_all(file.contents()).step_with(shown)?;
        point("write: owner and mode");
        ownership.impose(&opened, ownership.file_mode(file)).step_with(shown)?;
    }
    Ok(())
}

/// After a failure: removes what did not become the current generation. What stays, the next call removes.
fn abandon(root: &Directory) {
    if let Err(e) = remove_leftovers(root, Duration::MAX) {
        tracing::debug!(step = %e.step, error = %e.source, "an unfinished set of files stays for the next call");
    }
}

/// Makes a complete generation the current one.
fn switch(root: &Directory, generation: &OsStr) -> Result<(), StepError> {
    retire_current(root)?;
    point("write: create ..data_tmp");
    fs::symlinkat(generation, root, DATA_TMP).step("create ..data_tmp")?;
    point("write: rename to ..data");
    match fs::renameat(root, DATA_TMP, root, DATA) {
        // Something that is not a link is in the way; no driver has ever made that.
        Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
            replace(root, OsStr::new(DATA), OsStr::new(DATA_TMP))
        }
        result => result.step("rename ..data_tmp to ..data"),
    }
}

/// Makes the top-level links those of the current generation: what a process that died after the switch has left undone.
pub(super) fn relink(root: &Directory) -> Result<(), StepError> {
    let Some(generation) = layout::current(root).step("open the current files")? else { return Ok(()) };
    let entries = generation.entries().step("list the current files")?;
    let names: BTreeSet<&str> = entries.iter().filter_map(|(name, _)| name.to_str()).collect();
    link_names(root, &names).map(drop)
}

/// Makes the top-level links these; says whether any was not right.
fn link_names(root: &Directory, names: &BTreeSet<&str>) -> Result<bool, StepError> {
    let mut changed = false;
    for name in names {
        let target = layout::link_for(OsStr::new(name));
        match root.link_target(OsStr::new(name)) {
            Ok(is) if is == target => continue,
            Err(Errno::NOENT) => {
                point("write: create a link");
                fs::symlinkat(&target, root, *name).step_with(|| format!("create the link {name}"))?;
            }
            // A link to elsewhere, or a plain file or directory: early providers wrote those at the top.
            Ok(_) | Err(Errno::INVAL) => {
                let temporary = layout::new_generation_name();
                point("write: create a link to exchange");
                fs::symlinkat(&target, root, temporary.as_str())
                    .step_with(|| format!("create the link {name}"))?;
                replace(root, OsStr::new(name), OsStr::new(&temporary))?;
            }
            Err(e) => return Err(e).step_with(|| format!("look at the link {name}")),
        }
        changed = true;
    }
    for name in outdated_links(root, names)? {
        root.remove(&name, FileType::Symlink)?;
        changed = true;
    }
    Ok(changed)
}

/// Puts an entry in the place of another of any kind in one step, and removes the other.
fn replace(root: &Directory, name: &OsStr, by: &OsStr) -> Result<(), StepError> {
    point("write: exchange");
    let shown = || format!("replace {}", name.display());
    fs::renameat_with(root, by, root, name, RenameFlags::EXCHANGE).step_with(shown)?;
    let kind = FileType::from_raw_mode(root.stat(by).step_with(shown)?.st_mode);
    root.remove(by, kind)
}

/// Links of former payloads. Entries that point elsewhere are none of ours.
fn outdated_links(root: &Directory, names: &BTreeSet<&str>) -> Result<Vec<OsString>, StepError> {
    let mut outdated = Vec::new();
    for (name, kind) in root.entries().step("list the volume")? {
        let wanted = name.to_str().is_some_and(|n| names.contains(n));
        if kind == FileType::Symlink && !wanted && !layout::is_internal(&name) {
            let target = root.link_target(&name).step("read a link")?;
            if target.as_bytes().starts_with(b"..data/") {
                outdated.push(name);
            }
        }
    }
    Ok(outdated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_keeps_nothing_for_ever() {
        let stat = fs::stat("/").unwrap();
        let changed = age(&stat, SystemTime::now()).unwrap();
        let moment = SystemTime::now() - changed;
        assert!(age(&stat, moment + Duration::from_secs(10)).unwrap() >= Duration::from_secs(9));
        assert_eq!(age(&stat, moment - Duration::from_secs(10)), None);
    }
}
