//! Where a volume is.

use std::{ffi::OsStr, fmt, path::Path, sync::Arc};

use super::error::VolumeError;

/// The longest path the kernel takes, `PATH_MAX` without its NUL.
const MAX_PATH: usize = 4095;

/// The absolute path of a volume on the node, as the kubelet names it: `target_path` of NodePublishVolume.
///
/// Without `.` and `..`, repeated or trailing slashes, so two paths of one volume are equal. Nothing is said about what
/// is there; only the last component is protected against being a link, because the kubelet's root may be one. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetPath(Arc<str>);

impl TargetPath {
    /// Checks a path.
    ///
    /// # Errors
    /// [`VolumeError::InvalidTarget`] for a path that is relative, longer than 4,095 bytes, the root directory, or has
    /// a `.` or `..` component or a NUL byte.
    pub fn parse(path: &str) -> Result<Self, VolumeError> {
        let refuse = |reason| Err(VolumeError::InvalidTarget { path: path.to_owned(), reason });
        if !path.starts_with('/') {
            return refuse("must be an absolute path");
        }
        if path.len() > MAX_PATH {
            return refuse("must be shorter than 4096 bytes");
        }
        if path.contains('\0') {
            return refuse("must not contain a NUL byte");
        }
        let mut clean = String::with_capacity(path.len());
        for component in path.split('/').filter(|c| !c.is_empty()) {
            if component == "." || component == ".." {
                return refuse("must not contain the components . or ..");
            }
            clean.push('/');
            clean.push_str(component);
        }
        if clean.is_empty() {
            return refuse("must not be the root directory");
        }
        Ok(Self(clean.into()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path for calls into the standard library.
    pub fn as_path(&self) -> &Path {
        Path::new(&*self.0)
    }

    /// The directory the volume is in, and its name there.
    pub(super) fn split(&self) -> (&Path, &OsStr) {
        match self.0.rsplit_once('/') {
            Some(("", name)) => (Path::new("/"), OsStr::new(name)),
            Some((parent, name)) => (Path::new(parent), OsStr::new(name)),
            // Not reached: the path starts with a slash.
            None => (Path::new("/"), OsStr::new(&*self.0)),
        }
    }
}

impl fmt::Display for TargetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TargetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_and_bad_paths() {
        for (path, clean) in [
            ("/a", "/a"),
            ("/a/b c/ü\n/mount", "/a/b c/ü\n/mount"),
            ("//a//b/", "/a/b"),
            ("/..a/.b/c..", "/..a/.b/c.."),
        ] {
            assert_eq!(TargetPath::parse(path).unwrap().as_str(), clean);
        }
        let long = format!("/{}", "x".repeat(4095));
        for path in ["", "a", "a/b", "/", "//", "/a/../b", "/a/./b", "/..", "/.", "/a\0b", &long] {
            let error = TargetPath::parse(path).unwrap_err();
            assert!(error.is_invalid_input() && error.is_final(), "{path:?}");
        }
        assert!(TargetPath::parse(&long[..4095]).is_ok());
    }

    #[test]
    fn parent_and_name() {
        let split = |p: &str| {
            let target = TargetPath::parse(p).unwrap();
            let (parent, name) = target.split();
            (parent.to_path_buf(), name.to_owned())
        };
        assert_eq!(split("/a"), ("/".into(), "a".into()));
        assert_eq!(split("/a/b/"), ("/a".into(), "b".into()));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_clean(path in "[/.a\\PC]{0,24}") {
            if let Ok(target) = TargetPath::parse(&path) {
                let text = target.as_str();
                prop_assert!(text.starts_with('/') && !text.ends_with('/') && !text.contains("//"));
                prop_assert!(text.split('/').all(|c| c != "." && c != ".."));
                prop_assert_eq!(TargetPath::parse(text).unwrap(), target);
            }
        }
    }
}
