//! Removing a volume and every trace of it.

use std::{thread, time::Duration};

use nix::mount::{MntFlags, umount2};
use rustix::{fs::AtFlags, io::Errno};

use super::{
    directory::Directory,
    error::{Step, StepError, VolumeError},
    fault::point,
    layout,
    place::{Place, Sight},
    target::TargetPath,
};

/// How often and how long to wait for a mount that is in use: by a process that is about to end, or by the kernel while
/// many mounts go at once.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Rounds without success before giving up. Each round looks anew, so one is enough unless others interfere.
const TRIES: u32 = 8;

/// See [`super::Volumes::unpublish`].
pub(super) fn unpublish(target: &TargetPath) -> Result<(), VolumeError> {
    let Some(place) = Place::lock(target)? else { return Ok(()) };
    let mut failed = None;
    let mut failures = 0;
    while failures < TRIES {
        let outcome = match place.look()? {
            Sight::Absent => return Ok(()),
            Sight::Tmpfs(root) => {
                if layout::current(&root).is_ok_and(|generation| generation.is_some()) {
                    wipe(&root, target);
                }
                // It would keep the mount busy.
                drop(root);
                unmount_top(&place, Patience::Short)
            }
            Sight::Foreign => unmount_top(&place, Patience::Short),
            Sight::Corrupt(errno) => unmount_dead(&place, errno),
            Sight::Directory => match remove_directory(&place) {
                Ok(()) => {
                    point("unpublish: done");
                    return Ok(());
                }
                Err(e) => Err(e),
            },
            Sight::Other(kind) => {
                tracing::warn!(volume = %target, kind, "not a directory: removing it, not what it leads to");
                point("unpublish: remove a link or file");
                place.remove_target(AtFlags::empty()).step("remove the target")
            }
        };
        if let Err(e) = outcome {
            failures += 1;
            failed = Some(e);
        }
    }
    match failed {
        Some(e) => Err(e.of(target)),
        None => Ok(()),
    }
}

/// Empties a volume of ours before it goes: if its mount has leaked into another mount namespace, the secrets do not
/// live on there. Best effort.
fn wipe(root: &Directory, target: &TargetPath) {
    if let Err(error) = root.remove_contents() {
        tracing::debug!(volume = %target, %error, "a volume could not be emptied before unmounting");
    }
}

/// Removes the directory with whatever lies in it.
fn remove_directory(place: &Place<'_>) -> Result<(), StepError> {
    point("unpublish: remove the directory");
    match place.remove_target(AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        result => return result.step("remove the target directory"),
    }
    let directory = place.open_directory()?;
    directory.remove_contents().step("remove files from the unmounted target directory")?;
    point("unpublish: remove the emptied directory");
    place.remove_target(AtFlags::REMOVEDIR).step("remove the target directory")
}

/// Whether a busy mount is given a moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Detach at once: no one can use it.
    None,
    /// Wait a little, then detach.
    Short,
}

/// Removes a mount that answers only with this error. If it is no mount, the error is that of the disk.
pub(super) fn unmount_dead(place: &Place<'_>, errno: Errno) -> Result<(), StepError> {
    match unmount_top(place, Patience::None) {
        Err(e) if Errno::from_io_error(&e.source) == Some(Errno::INVAL) => {
            Err(errno).step("look at the target")
        }
        result => result,
    }
}

/// Unmounts the topmost mount at a place. One that stays busy is detached: it is gone from all paths at once, and its
/// memory is freed when the last user closes it.
pub(super) fn unmount_top(place: &Place<'_>, patience: Patience) -> Result<(), StepError> {
    let path = place.path_through_parent();
    let unmount = |flags: MntFlags| {
        point("unpublish: unmount");
        umount2(&path, MntFlags::UMOUNT_NOFOLLOW | flags)
    };
    if patience == Patience::Short {
        for _ in 0..BUSY_TRIES {
            match unmount(MntFlags::empty()) {
                Err(nix::errno::Errno::EBUSY) => thread::sleep(BUSY_PAUSE),
                result => return result.step("unmount the target"),
            }
        }
        tracing::info!(volume = %place.target(), "the mount is still in use: detaching it");
    }
    unmount(MntFlags::MNT_DETACH).step("detach the mount at the target")
}
