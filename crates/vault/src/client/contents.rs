//! What a volume gets.

use std::{any::Any, fmt, sync::Arc};

use tokio::time::Instant;
use zeroize::Zeroizing;

use super::error::Failure;

/// What came of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Contents {
    /// The files, in the order of the objects; where two share a path, the later one counts.
    pub files: Vec<File>,
    /// One entry per file, in the same order; where two share an id, the later one counts.
    pub versions: Vec<ObjectVersion>,
    /// Keeps the values in the cache. Hold it as long as the volume is mounted.
    pub lease: Lease,
    /// When the oldest of the values was asked for: what is shown is at least as old as that. `None` without values.
    pub asked: Option<Instant>,
    /// What could not be had, where an older value stands in for it; empty when all are as fresh as asked.
    pub stale: Vec<Failure>,
    /// How many requests were sent to the vault for them, those of other fetches that were joined not counted.
    pub requests: u32,
}

/// A file to write.
#[derive(Clone)]
pub struct File {
    /// Relative to the mount, clean.
    pub path: String,
    /// The mode asked for, as `chmod(2)` takes it; `None` for the volume's default.
    pub mode: Option<u32>,
    /// The bytes.
    pub contents: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("path", &self.path)
            .field("mode", &self.mode)
            .field("contents", &"[redacted]")
            .finish()
    }
}

/// What a file was made of, as `SecretProviderClassPodStatus` reports it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectVersion {
    /// `<objectType>/<objectName>`, with `/<index>` in a history.
    pub id: String,
    /// The version in the vault.
    pub version: String,
}

/// Keeps values cached for a mounted volume; dropping the last one forgets and wipes them.
#[derive(Clone, Default)]
pub struct Lease {
    pub(super) held: Vec<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("values", &self.held.len()).finish()
    }
}
