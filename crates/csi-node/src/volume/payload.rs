//! What is in a volume: validated before anything is written.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use zeroize::Zeroizing;

use super::{Group, error::VolumeError};

/// The longest path of a file, in bytes (the Kubernetes volume writers' limit).
const MAX_PATH: usize = 4096;
/// The longest component of a path, in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// The path of a file in a volume: relative, without `..`, and never one of the names the volume itself uses.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(String);

impl FilePath {
    /// Checks a path. Texts and order of the rules are those of the Secrets Store CSI Driver.
    ///
    /// # Errors
    /// [`VolumeError::InvalidFile`] with the first rule that is broken.
    pub fn parse(path: String) -> Result<Self, VolumeError> {
        let reason = if path.is_empty() {
            r#"invalid path: must not be empty: """#.to_owned()
        } else if path.starts_with('/') {
            format!("invalid path: must be relative path: {path}")
        } else if path.len() > MAX_PATH {
            "invalid path: must be less than or equal to 4096 characters".to_owned()
        } else if path.split('/').any(|c| c == "..") {
            format!("invalid path: must not contain '..': {path}")
        } else if path.split('/').any(|c| c.len() > MAX_NAME) {
            "invalid path: filenames must be less than or equal to 255 characters".to_owned()
        } else if path.starts_with("..") {
            format!("invalid path: must not start with '..': {path}")
        } else if path.split('/').any(|c| c.is_empty() || c == ".") || path.contains('\0') {
            // A lone `.` and a NUL pass the reference's check and fail when it writes.
            format!("invalid filepath: {path:?}")
        } else {
            return Ok(Self(path));
        };
        Err(VolumeError::InvalidFile { path, reason })
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The name that is visible at the top of the volume.
    pub(super) fn top(&self) -> &str {
        self.0.split_once('/').map_or(self.as_str(), |(top, _)| top)
    }

    /// The directories the file is in, outermost first.
    pub(super) fn directories(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(end, _)| &self.0[..end])
    }
}

impl Borrow<str> for FilePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The mode of a file as `chmod(2)` takes it: nine permission bits and setuid, setgid, sticky.
///
/// Mode 0 is a mode like any other: external providers that send none mean it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FileMode(u32);

impl FileMode {
    /// A mode; bits beyond `0o7777` say nothing and are dropped.
    pub fn new(bits: u32) -> Self {
        Self(bits & 0o7777)
    }

    /// The bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// A file of a volume.
#[derive(Clone)]
pub struct PayloadFile {
    pub(super) path: FilePath,
    pub(super) mode: FileMode,
    pub(super) contents: Zeroizing<Vec<u8>>,
}

impl PayloadFile {
    /// Where it is, below the volume.
    pub fn path(&self) -> &FilePath {
        &self.path
    }

    /// Its mode.
    pub fn mode(&self) -> FileMode {
        self.mode
    }

    /// The secret.
    pub fn contents(&self) -> &[u8] {
        &self.contents
    }

    /// Takes the secret out.
    pub fn into_contents(self) -> Zeroizing<Vec<u8>> {
        self.contents
    }
}

impl fmt::Debug for PayloadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadFile")
            .field("path", &self.path)
            .field("mode", &self.mode)
            .field("contents", &"[redacted]")
            .finish()
    }
}

/// Everything that is to be in a volume, sorted by path.
///
/// An empty payload is a payload: the volume is complete and has no files.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    files: Vec<PayloadFile>,
}

impl Payload {
    /// Checks all files (path, mode as of `chmod(2)`, contents). Of several files with one path the last one counts.
    ///
    /// # Errors
    /// [`VolumeError::InvalidFile`] for the first bad path, [`VolumeError::Conflict`] if one path would have to be a
    /// file and a directory.
    pub fn new(files: Vec<(String, u32, Zeroizing<Vec<u8>>)>) -> Result<Self, VolumeError> {
        let mut by_path: BTreeMap<FilePath, _> = BTreeMap::new();
        for (path, mode, contents) in files {
            by_path.insert(FilePath::parse(path)?, (FileMode::new(mode), contents));
        }
        for path in by_path.keys() {
            for directory in path.directories() {
                if by_path.contains_key(directory) {
                    return Err(VolumeError::Conflict {
                        file: directory.to_owned(),
                        beneath: path.as_str().to_owned(),
                    });
                }
            }
        }
        let files = by_path
            .into_iter()
            .map(|(path, (mode, contents))| PayloadFile { path, mode, contents })
            .collect();
        Ok(Self { files })
    }

    /// What tells this payload, for volumes of this group, from any other.
    pub fn digest(&self, group: Option<Group>) -> PayloadDigest {
        let mut sha256 = ring::digest::Context::new(&ring::digest::SHA256);
        let mut part = |bytes: &[u8]| {
            sha256.update(&bytes.len().to_le_bytes());
            sha256.update(bytes);
        };
        part(&group.map_or(Vec::new(), |Group(gid)| gid.to_le_bytes().to_vec()));
        for file in &self.files {
            part(file.path.as_str().as_bytes());
            part(&file.mode.bits().to_le_bytes());
            part(&file.contents);
        }
        PayloadDigest(sha256.finish().as_ref().to_vec())
    }

    /// The files, sorted by path.
    pub fn files(&self) -> &[PayloadFile] {
        &self.files
    }

    /// The file at a path, exactly as spelled.
    pub(super) fn file(&self, path: &str) -> Option<&PayloadFile> {
        self.files.binary_search_by(|f| f.path.as_str().cmp(path)).ok().map(|i| &self.files[i])
    }

    /// All directories the files need, each after the one it is in.
    pub(super) fn directories(&self) -> BTreeSet<&str> {
        self.files.iter().flat_map(|f| f.path.directories()).collect()
    }

    /// The names that are visible at the top of the volume.
    pub(super) fn top_names(&self) -> BTreeSet<&str> {
        self.files.iter().map(|f| f.path.top()).collect()
    }
}

/// SHA-256 of a payload. Worth as much as the secrets in it, so it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PayloadDigest(Vec<u8>);

impl fmt::Debug for PayloadDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digests_differ_when_anything_does() {
        let digest = |path: &str, mode, contents: &str, group| {
            let file = (path.to_owned(), mode, Zeroizing::new(contents.as_bytes().to_vec()));
            Payload::new(vec![file]).unwrap().digest(group)
        };
        let one = digest("a", 0o644, "x", None);
        assert_eq!(one, digest("a", 0o644, "x", None));
        for other in [
            digest("b", 0o644, "x", None),
            digest("a", 0o600, "x", None),
            digest("a", 0o644, "y", None),
            digest("a", 0o644, "x", Some(Group(0))),
            Payload::default().digest(None),
        ] {
            assert_ne!(one, other);
        }
    }

    fn payload(paths: &[&str]) -> Result<Payload, VolumeError> {
        Payload::new(paths.iter().map(|p| ((*p).to_owned(), 0o644, p.as_bytes().to_vec().into())).collect())
    }

    #[test]
    fn the_rules_in_the_known_words() {
        let name = "n".repeat(256);
        let long = vec!["d".repeat(250); 17].join("/");
        for (path, reason) in [
            ("", r#"invalid path: must not be empty: """#),
            ("/a", "invalid path: must be relative path: /a"),
            (long.as_str(), "invalid path: must be less than or equal to 4096 characters"),
            ("..", "invalid path: must not contain '..': .."),
            ("../a", "invalid path: must not contain '..': ../a"),
            ("a/../b", "invalid path: must not contain '..': a/../b"),
            (name.as_str(), "invalid path: filenames must be less than or equal to 255 characters"),
            ("..data", "invalid path: must not start with '..': ..data"),
            ("...", "invalid path: must not start with '..': ..."),
            ("a//b", r#"invalid filepath: "a//b""#),
            ("./a", r#"invalid filepath: "./a""#),
            ("a/", r#"invalid filepath: "a/""#),
            (".", r#"invalid filepath: ".""#),
            ("a\0b", r#"invalid filepath: "a\0b""#),
        ] {
            let error = payload(&["good", path]).unwrap_err();
            assert!(error.is_invalid_input());
            assert_eq!(error.to_string(), format!("{reason}; give the object another objectAlias"));
        }
        for good in ["a", ".a", ".a/..b", "a/..b/...", "a\\..\\b", "a b/ü\n", &name[..255]] {
            assert!(payload(&[good]).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn the_last_of_equal_paths_counts() {
        let file = |mode, contents: &str| ("a".to_owned(), mode, contents.as_bytes().to_vec().into());
        let payload = Payload::new(vec![file(0o600, "old"), file(0o170_4755, "new")]).unwrap();
        assert_eq!(payload.files().len(), 1);
        assert_eq!(payload.file("a").unwrap().contents(), b"new");
        assert_eq!(payload.file("a").unwrap().mode().bits(), 0o4755);
        assert!(!format!("{payload:?}").contains("110"), "contents in {payload:?}");
    }

    #[test]
    fn file_and_directory_of_one_name() {
        // `a-` sorts between `a` and `a/b`, so looking at neighbours only would miss it.
        for paths in [["a", "a-", "a/b/c"], ["a/b/c", "a", "x"]] {
            let error = payload(&paths).unwrap_err();
            assert!(
                matches!(&error, VolumeError::Conflict { file, beneath } if file == "a" && beneath == "a/b/c")
            );
        }
    }

    #[test]
    fn directories_and_top_names() {
        let payload = payload(&["x", "a/b/c/d", "a/b/e", "a/f"]).unwrap();
        assert_eq!(payload.directories().into_iter().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        assert_eq!(payload.top_names().into_iter().collect::<Vec<_>>(), ["a", "x"]);
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_inside(path in "[a./\\PC]{0,12}") {
            if let Ok(path) = FilePath::parse(path) {
                let mut depth = 0;
                for component in path.as_path().components() {
                    prop_assert!(matches!(component, std::path::Component::Normal(_)));
                    depth += 1;
                }
                prop_assert_eq!(path.directories().count() + 1, depth);
                prop_assert!(!path.top().starts_with(".."));
            }
        }

        #[test]
        fn a_payload_is_a_tree(paths in proptest::collection::vec("[ab.]{1,2}(/[ab.]{1,2}){0,3}", 0..8)) {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            if let Ok(payload) = payload(&paths) {
                for directory in payload.directories() {
                    prop_assert!(payload.file(directory).is_none());
                }
                for path in paths {
                    prop_assert_eq!(payload.file(path).unwrap().contents(), path.as_bytes());
                }
            }
        }
    }
}
