//! Making tmpfs instances and attaching them.
//!
//! With the mount API of Linux 5.2 a file system is made, filled through its file descriptor and only then attached.
//! Where the kernel or a seccomp filter withholds it, mount(2) does, and the file system is empty when it appears; the
//! kubelet starts no pod before the call has returned, and the next call repairs what an interrupted one has left.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::StatVfsMountFlags,
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
        fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, move_mount,
    },
};
use sys_mount::{Mount, MountFlags};

use super::{
    Options,
    directory::Directory,
    error::{Step, StepError},
    fault::point,
    payload::Payload,
};

const PAGE: u64 = 4096;
/// The longest link that a tmpfs keeps in the inode; a longer one takes a page.
const INLINE_LINK: usize = 127;
/// Open to all and sticky, the default of the kernel and therefore of the reference; users see it.
pub(super) const ROOT_MODE: u32 = 0o1777;
/// The name by which every tool and the reference know a plain tmpfs.
const SOURCE: &str = "tmpfs";

/// What one generation of files takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    bytes: u64,
    inodes: u64,
}

impl Needs {
    pub fn of(payload: &Payload) -> Self {
        let mut bytes = 0;
        for file in payload.files() {
            let length = u64::try_from(file.contents().len()).unwrap_or(u64::MAX);
            bytes = length.div_ceil(PAGE).saturating_mul(PAGE).saturating_add(bytes);
        }
        let links = payload.top_names();
        let long = links.iter().filter(|name| name.len() + "..data/".len() > INLINE_LINK).count();
        let inodes = payload.files().len() + payload.directories().len() + links.len();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        // A few pages and inodes for the root, the generation's directory and the two links of the switch.
        Self { bytes: bytes.saturating_add((count(long) + 16) * PAGE), inodes: count(inodes) + 16 }
    }

    /// The limits of a new volume: two generations at the time of a switch.
    fn limits(self, options: &Options) -> Self {
        Self {
            bytes: self.bytes.saturating_mul(2).max(options.size_bytes),
            inodes: self.inodes.saturating_mul(2).max(options.inodes),
        }
    }
}

/// Makes a tmpfs that is attached nowhere and vanishes with its file descriptor.
pub(super) fn detached(options: &Options, needs: Needs) -> Result<OwnedFd, StepError> {
    let limits = needs.limits(options);
    point("tmpfs: create");
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).step("fsopen tmpfs")?;
    for (key, value) in [
        ("source", SOURCE.to_owned()),
        ("size", limits.bytes.to_string()),
        ("nr_inodes", limits.inodes.to_string()),
        ("mode", format!("{ROOT_MODE:o}")),
    ] {
        fsconfig_set_string(context.as_fd(), key, value.as_str())
            .step_with(|| format!("set the tmpfs option {key}={value}"))?;
    }
    // Linux 6.4, and only outside user namespaces; without it secrets stay in memory as long as the node has no swap.
    match fsconfig_set_flag(context.as_fd(), "noswap") {
        Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
        Err(e) => return Err(e).step("set the tmpfs option noswap"),
    }
    fsconfig_create(context.as_fd()).step("create the tmpfs")?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, options.noexec);
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).step("fsmount the tmpfs")
}

/// Attaches a detached tmpfs to a directory: the one step in which a whole volume appears, in all peers of the mount
/// the directory is in.
pub(super) fn attach(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>) -> Result<(), StepError> {
    point("tmpfs: attach");
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", directory, "", flags).step("move the tmpfs onto the target")
}

/// Mounts an empty tmpfs on a directory by mount(2).
pub(super) fn mount_on(directory: BorrowedFd<'_>, options: &Options, needs: Needs) -> Result<(), StepError> {
    let limits = needs.limits(options);
    let data = format!("size={},nr_inodes={},mode={ROOT_MODE:o}", limits.bytes, limits.inodes);
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::NOEXEC, options.noexec);
    point("tmpfs: mount");
    let mount = |data: &str| {
        Mount::builder().fstype("tmpfs").flags(flags).data(data).mount(SOURCE, through_proc(directory))
    };
    // One unknown option spoils all of them here.
    let result = match mount(&format!("{data},noswap")) {
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::INVAL | Errno::PERM)) => mount(&data),
        result => result,
    };
    result.map(drop).step("mount the tmpfs")
}

/// Raises the limits of a mounted volume if another generation of files would not fit.
///
/// Best effort: if the limits can not be changed and do matter, writing says so.
pub(super) fn make_room(root: &Directory, needs: Needs) {
    let Ok(now) = rustix::fs::fstatfs(root) else { return };
    let block = u64::try_from(now.f_bsize).unwrap_or(PAGE);
    let mut wanted = Vec::new();
    // Zero blocks or inodes in all means no limit.
    if now.f_blocks > 0 && now.f_bfree.saturating_mul(block) < needs.bytes {
        let used = (now.f_blocks - now.f_bfree).saturating_mul(block);
        wanted.push(("size", used.saturating_add(needs.bytes.saturating_mul(2))));
    }
    if now.f_files > 0 && now.f_ffree < needs.inodes {
        let used = now.f_files - now.f_ffree;
        wanted.push(("nr_inodes", used.saturating_add(needs.inodes.saturating_mul(2))));
    }
    if wanted.is_empty() {
        return;
    }
    let result = match reconfigure(root, &wanted) {
        Err(e) if e.is_unavailable() => remount(root, &wanted),
        result => result,
    };
    if let Err(e) = result {
        tracing::debug!(step = %e.step, error = %e.source, "the limits of a volume can not be raised");
    }
}

fn reconfigure(root: &Directory, options: &[(&str, u64)]) -> Result<(), StepError> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let context = fspick(root.as_fd(), "", flags).step("fspick the tmpfs")?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, value.to_string())
            .step_with(|| format!("set the tmpfs option {key}={value}"))?;
    }
    fsconfig_reconfigure(context.as_fd()).step("reconfigure the tmpfs")
}

fn remount(root: &Directory, options: &[(&str, u64)]) -> Result<(), StepError> {
    // A remount clears the flags it does not repeat.
    let now = rustix::fs::fstatvfs(root).step("look at the mount's flags")?.f_flag;
    let mut flags = MountFlags::REMOUNT;
    flags.set(MountFlags::NOSUID, now.contains(StatVfsMountFlags::NOSUID));
    flags.set(MountFlags::NODEV, now.contains(StatVfsMountFlags::NODEV));
    flags.set(MountFlags::NOEXEC, now.contains(StatVfsMountFlags::NOEXEC));
    let data: Vec<String> = options.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Mount::builder()
        .fstype("tmpfs")
        .flags(flags)
        .data(&data.join(","))
        .mount(SOURCE, through_proc(root.as_fd()))
        .map(drop)
        .step("remount the tmpfs")
}

/// A path that means exactly this open directory.
fn through_proc(directory: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}
