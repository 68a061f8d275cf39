//! What can go wrong with a volume, in words for the event that the kubelet shows.

use std::{borrow::Cow, io};

use super::target::TargetPath;

/// An operation on a volume failed.
///
/// No variant ever carries file contents.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The target path of the request can not be the place of a volume. The request has to change.
    #[error("invalid target path {path:?}: {reason}")]
    InvalidTarget {
        /// The path as it was given.
        path: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// An object's file name can not be written into a volume. Nothing was written; the class has to change.
    #[error("{reason}; give the object another objectAlias")]
    InvalidFile {
        /// The path as it was given.
        path: String,
        /// The rule it breaks, with the path, in the reference's words.
        reason: String,
    },
    /// Two objects can not be in one volume. Nothing was written; the class has to change.
    #[error(
        "{file:?} is the file of one object and {beneath:?}, of another, needs a directory of that name; \
         give one of them another objectAlias"
    )]
    Conflict {
        /// The path that would have to be a file.
        file: String,
        /// The path that would have to lie beneath it.
        beneath: String,
    },
    /// Something that is not a directory is in the place of the volume. It is not followed and not touched.
    #[error("{target} is {kind}, not a directory; remove it on the node")]
    NotADirectory {
        /// The volume.
        target: TargetPath,
        /// What is there instead.
        kind: &'static str,
    },
    /// A file system that no secrets driver has mounted is in the place of the volume. It is not touched.
    #[error("{target} is taken by another mount ({filesystem}); unmount it on the node")]
    Foreign {
        /// The volume.
        target: TargetPath,
        /// Its type and source.
        filesystem: String,
    },
    /// Another process, for instance the old driver during an update, works on the same volume. Try again.
    #[error("another process works on {target}")]
    Locked {
        /// The volume.
        target: TargetPath,
    },
    /// There is no complete volume to read.
    #[error("no volume is published at {target}")]
    NotPublished {
        /// The volume.
        target: TargetPath,
    },
    /// The volume, or the node's memory, is full. What was published before is still there, unchanged.
    #[error("{target}: {step}: no space: the volume or the memory of the node is used up")]
    NoSpace {
        /// The volume.
        target: TargetPath,
        /// What was being done.
        step: Cow<'static, str>,
    },
    /// The system refused a step. What was published before is still there, or the next call repairs it.
    #[error("{target}: {step}: {source}")]
    Io {
        /// The volume.
        target: TargetPath,
        /// What was being done.
        step: Cow<'static, str>,
        /// What the system said.
        source: io::Error,
    },
}

impl VolumeError {
    /// Whether the operation has definitely ended.
    ///
    /// All operations here are synchronous and leave nothing running, so only one that met another process at work has
    /// an open end; it deserves a gRPC code that the kubelet takes as "may still be going on" (`ABORTED`).
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Locked { .. })
    }

    /// Whether the request or the class has to change before the call can succeed, as opposed to the node.
    pub fn is_invalid_input(&self) -> bool {
        matches!(self, Self::InvalidTarget { .. } | Self::InvalidFile { .. } | Self::Conflict { .. })
    }
}

/// A refused step, before it is known of which volume.
#[derive(Debug)]
pub(super) struct StepError {
    pub step: Cow<'static, str>,
    pub source: io::Error,
}

impl StepError {
    /// Names the volume.
    pub fn of(self, target: &TargetPath) -> VolumeError {
        let Self { step, source } = self;
        let target = target.clone();
        if source.kind() == io::ErrorKind::StorageFull {
            return VolumeError::NoSpace { target, step };
        }
        VolumeError::Io { target, step, source }
    }

    /// Whether the kernel lacks the call, or a seccomp filter hides it (older container runtimes answer `EPERM` where
    /// newer ones answer `ENOSYS`).
    pub fn is_unavailable(&self) -> bool {
        let errno = rustix::io::Errno::from_io_error(&self.source);
        matches!(errno, Some(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM))
    }
}

/// Says which step a system call belonged to.
pub(super) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, StepError>;
    /// For a step whose description has to be put together.
    fn step_with(self, step: impl FnOnce() -> String) -> Result<T, StepError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, StepError> {
        self.map_err(|e| StepError { step: Cow::Borrowed(step), source: e.into() })
    }

    fn step_with(self, step: impl FnOnce() -> String) -> Result<T, StepError> {
        self.map_err(|e| StepError { step: Cow::Owned(step()), source: e.into() })
    }
}
