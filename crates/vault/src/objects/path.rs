//! Where an object's file goes, below the mount.

/// Why `name` cannot be the name of an object's file; `None` when it can.
///
/// The first three rules hold for what the user wrote, the rest for each file that comes of it.
pub(super) fn refused(name: &str, produced: &str) -> Option<String> {
    if name.is_empty() {
        return Some("file name must not be empty".to_owned());
    }
    if name.starts_with('/') {
        return Some("file name must be a relative path".to_owned());
    }
    if name.contains("..") {
        return Some("file name must not contain '..'".to_owned());
    }
    let usable = cleaned(produced) == produced
        && produced != "."
        && !produced.contains('\0')
        && produced.len() <= 4096
        && produced.split('/').all(|element| element.len() <= 255);
    (!usable).then(|| format!("invalid filepath: \"{name}\""))
}

/// The shortest path that means the same: no empty and no `.` elements, no slash at the end.
pub(crate) fn cleaned(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_what_is_said_of_them() {
        for good in ["a", "dir/sub/file", ".hidden", "a.b", "a b", "ä", "-x"] {
            assert_eq!(refused(good, good), None, "{good}");
        }
        for (bad, why) in [
            ("", "file name must not be empty"),
            ("/etc/passwd", "file name must be a relative path"),
            ("../x", "file name must not contain '..'"),
            ("a..b", "file name must not contain '..'"),
            ("./x", "invalid filepath: \"./x\""),
            ("a//b", "invalid filepath: \"a//b\""),
            ("a/", "invalid filepath: \"a/\""),
            (".", "invalid filepath: \".\""),
        ] {
            assert_eq!(refused(bad, bad).as_deref(), Some(why));
        }
        assert!(refused("a\0b", "a\0b").is_some());
        assert!(refused("long", &"x".repeat(256)).is_some());
        assert!(refused("deep", &vec!["x".repeat(200); 21].join("/")).is_some());
    }

    #[test]
    fn cleaning() {
        for (path, clean) in [("a//b/./c/", "a/b/c"), ("./x", "x"), (".", "."), ("./0", "0")] {
            assert_eq!(cleaned(path), clean);
        }
    }
}
