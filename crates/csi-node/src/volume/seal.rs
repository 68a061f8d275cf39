//! What a complete volume looked like when its content was last compared with what it should be.
//!
//! Reading every file of every volume in every round is most of the work of a round in which nothing has changed. The
//! kernel keeps account of changes: whatever is done to a file, a link or a directory moves its ctime, which nobody can
//! set. So a volume whose inodes are the same, with the same ctimes, shows what it showed. Only a change within the same
//! tick of the clock as this driver's own last write (a few milliseconds) goes unnoticed.

use std::{
    ffi::OsString,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use rustix::fs::{self, FileType};

use super::{directory::Directory, layout};

/// See the module. Worth something in this process only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    generation: OsString,
    looks: u64,
}

impl Seal {
    /// Of the volume with this root; `None` if it has no current generation.
    pub(super) fn of(root: &Directory) -> rustix::io::Result<Option<Self>> {
        let Some(generation) = layout::current_name(root)? else { return Ok(None) };
        let looks = looks(root, &generation)?;
        Ok(Some(Self { generation, looks }))
    }

    /// Whether the volume with this root looks the same. The root's own ctime vouches for its links.
    pub(super) fn holds(&self, root: &Directory) -> bool {
        looks(root, &self.generation).is_ok_and(|looks| looks == self.looks)
    }
}

/// Everything about a root, a generation in it and all that is in there that changes with a change.
fn looks(root: &Directory, generation: &OsString) -> rustix::io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut see = |stat: &fs::Stat| {
        (stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec).hash(&mut hasher);
        (stat.st_size, stat.st_mode, stat.st_uid, stat.st_gid).hash(&mut hasher);
    };
    see(&fs::fstat(root)?);
    let generation = root.open(Path::new(generation))?;
    see(&fs::fstat(&generation)?);
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let opened;
        let directory = if path.as_os_str().is_empty() {
            &generation
        } else {
            opened = generation.open(&path)?;
            &opened
        };
        // A directory that has not changed lists its entries in the same order.
        directory.each(|name, kind| {
            see(&directory.stat(name)?);
            if kind == FileType::Directory {
                pending.push(path.join(name));
            }
            Ok(())
        })?;
    }
    Ok(hasher.finish())
}
