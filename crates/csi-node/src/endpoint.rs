//! The socket on which the kubelet calls the driver.

use std::fmt;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A unix socket address in the form `unix:///PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

impl Endpoint {
    /// The socket's path, always absolute.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

impl FromStr for Endpoint {
    type Err = String;

    /// Reads `unix://PATH`. As with the reference, the scheme's case does not matter, and a path without a leading slash
    /// gets one.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("invalid endpoint: {text}: write it as unix:///PATH"));
        };
        if scheme.eq_ignore_ascii_case("tcp") {
            return Err(format!(
                "invalid endpoint: {text}: a TCP port would let every process of the network ask for secrets; write unix:///PATH"
            ));
        }
        if !scheme.eq_ignore_ascii_case("unix") || rest.trim_matches('/').is_empty() {
            return Err(format!("invalid endpoint: {text}: write it as unix:///PATH"));
        }
        Ok(Self(Path::new("/").join(rest)))
    }
}

/// A bound unix socket, whose file goes when this is dropped.
#[derive(Debug)]
pub struct BoundSocket {
    path: PathBuf,
    inode: u64,
}

impl BoundSocket {
    /// Binds a listening socket at `path` that only this user may connect to, replacing a socket that an earlier process
    /// left there.
    ///
    /// # Errors
    /// When something that is not a socket lies at the path, or the folder does not exist or may not be written.
    pub fn bind(path: &Path) -> io::Result<(Self, tokio::net::UnixListener)> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!(
                        "{} exists and is not a socket: it was not made by this driver, remove it by hand",
                        path.display()
                    ),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The mode of a socket's file is taken from the socket when it is bound, so there is no moment at which another
        // user could connect.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600))?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 1024)?;
        let listener = tokio::net::UnixListener::from_std(socket.into())?;
        Ok((Self { path: path.to_owned(), inode: inode(path)? }, listener))
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // A successor that was started before this process ended has bound its own socket at the same path: leave that.
        if inode(&self.path).is_ok_and(|now| now == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::symlink_metadata(path)?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_the_reference_reads_them() {
        for (text, path) in [
            ("unix:///csi/csi.sock", "/csi/csi.sock"),
            ("unix://tmp/csi.sock", "/tmp/csi.sock"),
            ("UNIX:///csi/csi.sock", "/csi/csi.sock"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().path(), Path::new(path), "{text}");
        }
        for text in ["", "unix://", "unix:///", "unix:/x", "x.sock", "http://x", "tcp://127.0.0.1:1"] {
            let message = text.parse::<Endpoint>().unwrap_err();
            assert!(message.starts_with(&format!("invalid endpoint: {text}")), "{message}");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_only_the_own_one_removed() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (first, _listener) = BoundSocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (second, _listener) = BoundSocket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists(), "the successor's socket must stay");
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(BoundSocket::bind(&path).unwrap_err().to_string().contains("not a socket"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
