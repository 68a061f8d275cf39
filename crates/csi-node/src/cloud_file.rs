//! The file that describes a custom cloud (`AzureStackCloud`).

use rustix::fs::{Mode, OFlags, open};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A cloud's description is a few kilobytes.
const LARGEST: u64 = 1024 * 1024;

/// Reads the file that a class or the operator names.
///
/// A pod's author can name any path in the volume's attributes. So a file that a pod may have written is not taken: it would
/// make a server of the pod's choice the one that is sent credentials. And what is no ordinary file is not read: a device has
/// no end, and a pipe may have no other side.
///
/// # Errors
/// The system's error, or what is wrong with the file. Its content is never in the message.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // As written first: looking at a path in a pod's volume can hang, when the volume's server does.
    refuse_pods_files(path)?;
    let real = std::fs::canonicalize(path)?;
    refuse_pods_files(&real)?;
    // Opening a pipe would wait for a writer; with this flag it does not.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let file = File::from(open(&real, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not an ordinary file"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other(format!(
            "it has more than {LARGEST} bytes, too many for a cloud's description"
        )));
    }
    Ok(bytes)
}

/// The kubelet keeps pods' volumes in folders named `kubernetes.io~TYPE`.
fn refuse_pods_files(path: &Path) -> io::Result<()> {
    let is_of_a_pod = |part: &OsStr| part.as_encoded_bytes().starts_with(b"kubernetes.io~");
    if path.iter().any(is_of_a_pod) {
        return Err(io::Error::other(
            "the file lies in a pod's volume; only the node's operator can describe a cloud",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(path: &Path) -> String {
        read(path).unwrap_err().to_string()
    }

    #[test]
    fn only_ordinary_files_of_the_node_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("cloud.json"), "{}").unwrap();
        assert_eq!(read(&path("cloud.json")).unwrap(), b"{}");
        std::os::unix::fs::symlink(path("cloud.json"), path("link")).unwrap();
        assert_eq!(read(&path("link")).unwrap(), b"{}", "operators mount ConfigMaps, whose files are links");

        assert!(message(Path::new("/dev/zero")).contains("not an ordinary file"));
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(message(&path("pipe")).contains("not an ordinary file"));
        assert!(message(folder.path()).contains("not an ordinary file"));
        std::fs::write(path("large"), vec![b' '; 1024 * 1024 + 1]).unwrap();
        assert!(message(&path("large")).contains("too many"));

        let volume = path("pods/u/volumes/kubernetes.io~empty-dir/x");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("cloud.json"), "{}").unwrap();
        assert!(message(&volume.join("cloud.json")).contains("pod's volume"));
        std::os::unix::fs::symlink(volume.join("cloud.json"), path("indirect")).unwrap();
        assert!(message(&path("indirect")).contains("pod's volume"));
    }
}
