//! What time it is for tokens and certificates; tests put their own clock here.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

/// A source of wall-clock time. Cheap to clone; clones share the source.
///
/// Periods and deadlines do not come from here but from tokio's clock, which tests pause and advance.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Arc::new(SystemTime::now))
    }

    /// A clock that reads `start` now and from then on moves as tokio's clock does, so that pausing and advancing tokio's
    /// time moves token lifetimes as well. Call it inside a runtime.
    pub fn following_tokio(start: SystemTime) -> Self {
        let origin = tokio::time::Instant::now();
        Self(Arc::new(move || start + origin.elapsed()))
    }

    /// A clock of the caller's own.
    pub fn from_fn(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The present time, in whole seconds as JSON Web Tokens count them.
    pub(crate) fn now(&self) -> OffsetDateTime {
        let since_epoch = (self.0)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        OffsetDateTime::UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}
