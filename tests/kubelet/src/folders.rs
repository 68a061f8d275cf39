//! The folders and files the kubelet keeps for a volume, and what is left of them after the driver had its turn.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use serde_json::Value;

use crate::error::Error;
use crate::volume::VolumePlace;

/// What was found at a volume's place after its driver had said that it is unpublished.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leftover {
    /// The target is still a mount point. The kubelet touches nothing in such a folder.
    StillMounted(PathBuf),
    /// The driver left the target folder, which it should have removed; the kubelet removed it.
    TargetFolder(PathBuf),
    /// Something that the kubelet could not remove either.
    Unremovable {
        /// What.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StillMounted(path) => write!(f, "{} is still mounted", path.display()),
            Self::TargetFolder(path) => write!(f, "target folder {} (removed now)", path.display()),
            Self::Unremovable { path, reason } => write!(f, "{} cannot be removed: {reason}", path.display()),
        }
    }
}

/// Makes the folder that the target will be in, 0750 as the kubelet does, and notes the volume's data beside the target.
pub(crate) fn prepare(place: &VolumePlace, data: &Value) -> Result<(), Error> {
    let folder = &place.volume_dir;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o750).create(folder).map_err(Error::file("create", folder))?;
    std::fs::write(&place.data_file, format!("{data}\n")).map_err(Error::file("write", &place.data_file))
}

/// Removes what belongs to a volume, unless it is mounted.
pub(crate) fn clear(place: &VolumePlace) -> Vec<Leftover> {
    let unremovable = |path: &Path, error: &io::Error| {
        vec![Leftover::Unremovable { path: path.to_owned(), reason: error.to_string() }]
    };
    let target = &place.target;
    let mut leftovers = Vec::new();
    match is_mount_point(target) {
        Ok(true) => return vec![Leftover::StillMounted(target.clone())],
        Ok(false) => match std::fs::remove_dir(target) {
            Ok(()) => leftovers.push(Leftover::TargetFolder(target.clone())),
            Err(error) => return unremovable(target, &error),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return unremovable(target, &error),
    }
    if let Err(error) = std::fs::remove_file(&place.data_file)
        && error.kind() != ErrorKind::NotFound
    {
        return unremovable(&place.data_file, &error);
    }
    match std::fs::remove_dir(&place.volume_dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => unremovable(&place.volume_dir, &error),
        _ => leftovers,
    }
}

/// Removes the folders of a pod that its volumes have left empty.
pub(crate) fn remove_pod(pod_dir: &Path) -> Vec<Leftover> {
    for folder in [pod_dir.join("volumes/kubernetes.io~csi"), pod_dir.join("volumes"), pod_dir.to_owned()] {
        match std::fs::remove_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return vec![Leftover::Unremovable { path: folder, reason: error.to_string() }];
            }
            _ => {}
        }
    }
    Vec::new()
}

/// Whether a mount begins at `path` (bind mounts included). A symlink is not followed.
fn is_mount_point(path: &Path) -> io::Result<bool> {
    let statx = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    if statx.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    // Kernels before 5.8 do not say. A tmpfs has a device number of its own.
    let parent = path.parent().unwrap_or(path).symlink_metadata()?;
    Ok(path.symlink_metadata()?.dev() != parent.dev())
}

/// Gives a volume's files to a group, as the kubelet does for a pod's `fsGroup`: group ownership, read and write for owner
/// and group, and folders whose new files inherit the group.
pub(crate) fn give_to_group(target: &Path, group: u32) -> Result<(), Error> {
    let mut pending = vec![target.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = path.symlink_metadata().map_err(Error::file("look at", &path))?;
        std::os::unix::fs::lchown(&path, None, Some(group))
            .map_err(Error::file("change the group of", &path))?;
        if metadata.is_symlink() {
            continue;
        }
        let added = if metadata.is_dir() { 0o2770 } else { 0o660 };
        let mode = std::fs::Permissions::from_mode(metadata.mode() & 0o7777 | added);
        std::fs::set_permissions(&path, mode).map_err(Error::file("change the mode of", &path))?;
        if metadata.is_dir() {
            for entry in path.read_dir().map_err(Error::file("list", &path))? {
                pending.push(entry.map_err(Error::file("list", &path))?.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place() -> (tempfile::TempDir, VolumePlace) {
        let root = tempfile::tempdir().unwrap();
        let place = VolumePlace::new(root.path(), "uid", "store");
        prepare(&place, &json!({ "driverName": "d" })).unwrap();
        (root, place)
    }

    #[test]
    fn makes_the_parent_of_the_target_only() {
        let (_root, place) = place();
        assert_eq!(std::fs::read_to_string(&place.data_file).unwrap(), "{\"driverName\":\"d\"}\n");
        assert_eq!(place.volume_dir.metadata().unwrap().mode() & 0o7777, 0o750);
        assert!(!place.target.exists());
    }

    #[test]
    fn clears_what_is_its_own_and_tells_what_the_driver_left() {
        let (_root, place) = place();
        assert_eq!(clear(&place), []);
        assert!(!place.volume_dir.exists());
        assert_eq!(clear(&place), [], "once more does no harm");
        assert_eq!(remove_pod(&place.pod_dir), []);
        assert!(!place.pod_dir.exists());

        prepare(&place, &json!({})).unwrap();
        std::fs::create_dir(&place.target).unwrap();
        assert_eq!(clear(&place), [Leftover::TargetFolder(place.target.clone())]);
        assert!(!place.volume_dir.exists());
    }

    #[test]
    fn never_removes_content() {
        let (_root, place) = place();
        std::fs::create_dir(&place.target).unwrap();
        let file = place.target.join("secret");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(&clear(&place)[..], [Leftover::Unremovable { path, .. }] if *path == place.target));
        assert!(matches!(&remove_pod(&place.pod_dir)[..], [Leftover::Unremovable { .. }]));
        assert!(file.exists() && place.data_file.exists());
    }

    #[test]
    fn touches_nothing_of_a_mounted_volume() {
        let (_root, place) = place();
        let mounted = VolumePlace { target: "/proc".into(), ..place };
        assert_eq!(clear(&mounted), [Leftover::StillMounted("/proc".into())]);
        assert!(mounted.data_file.exists());
    }

    #[test]
    fn knows_a_mount_point_when_it_sees_one() {
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        assert!(!is_mount_point(Path::new("/proc/self")).unwrap());
        assert_eq!(is_mount_point(Path::new("/proc/none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn gives_files_to_a_group() {
        let (_root, place) = place();
        std::fs::create_dir(&place.target).unwrap();
        let file = place.target.join("f");
        std::fs::write(&file, "x").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
        std::os::unix::fs::symlink("/nowhere", place.target.join("dangling")).unwrap();
        // Its own group is one that any user may give a file to.
        let group = place.target.metadata().unwrap().gid();
        give_to_group(&place.target, group).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o660);
        assert_eq!(place.target.metadata().unwrap().mode() & 0o2770, 0o2770);
    }
}
