//! `/proc/self/mountinfo`, read when one look at a path does not tell enough.
//!
//! It costs milliseconds on a node with many mounts, where one statx(2) costs microseconds, so it is read only for lists
//! and in rare states.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// One mount, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Which directory of the file system is mounted; `/` for the whole of it.
    pub root: PathBuf,
    pub point: PathBuf,
    pub filesystem: String,
    pub source: String,
    /// Whether it shares what is mounted in it with its peers.
    pub shared: bool,
    /// Options of the file system.
    pub options: String,
}

impl Mount {
    /// Whether the file system has this option.
    pub fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|own| own == option)
    }

    /// A whole tmpfs, as opposed to a bind mount of some directory in one.
    pub fn is_whole_tmpfs(&self) -> bool {
        self.filesystem == "tmpfs" && self.root == Path::new("/")
    }
}

/// All mounts this process sees, in the order in which they were mounted on each other.
pub(super) fn read() -> io::Result<Vec<Mount>> {
    // In bytes: a mount point may be in any encoding.
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse_line).collect())
}

/// The topmost mount at a path without links.
pub(super) fn at(path: &Path) -> io::Result<Option<Mount>> {
    Ok(read()?.into_iter().rfind(|m| m.point == path))
}

/// A line as described in proc(5): six fields, any number of optional ones, a dash, and three more.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let root = fields.nth(3)?;
    let point = fields.next()?;
    let _flags = fields.next()?;
    let mut shared = false;
    loop {
        match fields.next()? {
            b"-" => break,
            field => shared |= field.starts_with(b"shared:"),
        }
    }
    let filesystem = fields.next()?;
    let source = fields.next()?;
    let options = fields.next().unwrap_or_default();
    let text = |field: &[u8]| String::from_utf8_lossy(unescape(field).as_bytes()).into_owned();
    Some(Mount {
        root: unescape(root).into(),
        point: unescape(point).into(),
        filesystem: text(filesystem),
        source: text(source),
        shared,
        options: text(options),
    })
}

/// Undoes the kernel's octal escapes of space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'\\'
            && let Some((&[a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7'], after)) =
                after.split_first_chunk()
        {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            out.push(byte);
            rest = after;
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines() {
        let mount = parse_line(
            br"36 35 98:0 /mnt1 /mnt\0402\134\012x rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue",
        )
        .unwrap();
        assert_eq!(mount.root, Path::new("/mnt1"));
        assert_eq!(mount.point, Path::new("/mnt 2\\\nx"));
        assert_eq!((mount.filesystem.as_str(), mount.source.as_str()), ("ext3", "/dev/root"));
        assert!(!mount.is_whole_tmpfs() && !mount.shared);
        assert!(mount.has("errors=continue") && mount.has("rw") && !mount.has("errors"));

        let mount = parse_line(b"40 35 0:44 / /x rw,nosuid,nodev,relatime - tmpfs tmpfs rw,size=4k").unwrap();
        assert!(mount.is_whole_tmpfs());
        let mount = parse_line(b"40 35 0:44 / /x rw shared:7 master:1 - tmpfs tmpfs rw").unwrap();
        assert!(mount.shared);
        for broken in ["", "36 35 98:0 /mnt1", "36 35 98:0 /mnt1 /mnt2 rw noatime", "a b c d e f - tmpfs"] {
            assert_eq!(parse_line(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn our_own_mounts() {
        let root = read().unwrap().into_iter().find(|m| m.point == Path::new("/proc"));
        assert_eq!(root.unwrap().filesystem, "proc");
    }

    proptest! {
        #[test]
        fn any_bytes(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse_line(&line);
        }

        #[test]
        fn escapes(path in "[a\\\\ \t\n#0]{0,12}") {
            let escaped: String = path
                .chars()
                .map(|c| if "\\ \t\n#".contains(c) { format!("\\{:03o}", c as u32) } else { c.to_string() })
                .collect();
            prop_assert_eq!(unescape(escaped.as_bytes()), OsString::from(path));
        }
    }
}
