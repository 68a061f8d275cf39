//! Being a good client of a vault: so many requests at once, and one pause for all when it throttles.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until, timeout_at},
};

use super::error::Cause;

/// Vaults remembered beyond those in use.
const MOST_IDLE: usize = 64;
/// However long one answer asks to wait, after this the vault is asked again.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What is known of each vault, by its host and port.
#[derive(Debug)]
pub(super) struct Vaults {
    known: Mutex<HashMap<String, Arc<Vault>>>,
    concurrency: usize,
}

/// What is known of one vault.
#[derive(Debug)]
pub(super) struct Vault {
    permits: Semaphore,
    /// Until when nothing is sent, and what the vault said.
    paused: Mutex<Option<(Instant, Cause)>>,
    /// The scope its challenge named.
    scope: Mutex<Option<String>>,
}

impl Vaults {
    pub(super) fn new(concurrency: usize) -> Self {
        Self { known: Mutex::new(HashMap::new()), concurrency: concurrency.max(1) }
    }

    pub(super) fn of(&self, authority: &str) -> Arc<Vault> {
        let mut known = self.known.lock();
        if let Some(vault) = known.get(authority) {
            return Arc::clone(vault);
        }
        if known.len() >= MOST_IDLE {
            known.retain(|_, vault| Arc::strong_count(vault) > 1);
        }
        let vault = Arc::new(Vault {
            permits: Semaphore::new(self.concurrency),
            paused: Mutex::new(None),
            scope: Mutex::new(None),
        });
        known.insert(authority.to_owned(), Arc::clone(&vault));
        vault
    }
}

impl Vault {
    /// Waits for a turn.
    ///
    /// # Errors
    /// When it comes after `deadline`: at once with what the vault said if it asked for a longer pause.
    pub(super) async fn turn(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, Cause> {
        let began = Instant::now();
        loop {
            if let Some((until, cause)) = self.pause() {
                if until >= deadline {
                    return Err(cause);
                }
                sleep_until(until).await;
            }
            // The semaphore is never closed.
            let Ok(Ok(permit)) = timeout_at(deadline, self.permits.acquire()).await else {
                return Err(Cause::TooLate {
                    waiting_for: "other requests to the vault",
                    waited: began.elapsed(),
                });
            };
            // The pause may have come while waiting in the queue.
            if self.pause().is_none() {
                return Ok(permit);
            }
        }
    }

    /// When requests may go on, if they may not now, and why.
    fn pause(&self) -> Option<(Instant, Cause)> {
        self.paused.lock().as_ref().filter(|(until, _)| *until > Instant::now()).cloned()
    }

    /// No request is sent before `until`, or for [`LONGEST_PAUSE`] if that is shorter, because of `cause`.
    pub(super) fn pause_until(&self, until: Instant, cause: &Cause) {
        let until = until.min(Instant::now() + LONGEST_PAUSE);
        let mut paused = self.paused.lock();
        if paused.as_ref().is_none_or(|(known, _)| *known < until) {
            *paused = Some((until, cause.clone()));
        }
    }

    pub(super) fn scope(&self) -> Option<String> {
        self.scope.lock().clone()
    }

    pub(super) fn remember_scope(&self, scope: &str) {
        *self.scope.lock() = Some(scope.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FailureKind, client::api::ServiceError};

    #[tokio::test(start_paused = true)]
    async fn one_pause_holds_everyone_back() {
        let vaults = Vaults::new(2);
        let vault = vaults.of("kv1.vault.azure.net");
        assert!(Arc::ptr_eq(&vault, &vaults.of("kv1.vault.azure.net")));
        let start = Instant::now();
        let throttled = Cause::Status { status: 429, error: ServiceError::default() };
        vault.pause_until(start + Duration::from_secs(3), &throttled);
        vault.pause_until(start + Duration::from_secs(1), &Cause::UnsteadyChallenge);
        let told = vault.turn(start + Duration::from_secs(2)).await.map(|_| ()).unwrap_err();
        assert_eq!(told.kind(), FailureKind::Throttled, "the pause is longer than the deadline");
        assert_eq!(Instant::now(), start, "told at once");
        let _turn = vault.turn(start + Duration::from_mins(1)).await.unwrap();
        assert!(Instant::now() >= start + Duration::from_secs(3));
        // Another vault is not concerned.
        let free = Instant::now();
        assert!(vaults.of("kv2.vault.azure.net").turn(free + Duration::from_secs(1)).await.is_ok());
        assert_eq!(Instant::now(), free);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_lasts_a_minute_at_most() {
        let vaults = Vaults::new(1);
        let vault = vaults.of("kv1");
        let start = Instant::now();
        vault.pause_until(start + Duration::from_hours(1), &Cause::UnsteadyChallenge);
        assert!(vault.turn(start + Duration::from_secs(59)).await.is_err());
        assert!(vault.turn(start + Duration::from_mins(2)).await.is_ok());
        assert!(start.elapsed() >= LONGEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once() {
        let vaults = Vaults::new(1);
        let vault = vaults.of("kv1");
        let soon = Instant::now() + Duration::from_secs(1);
        let turn = vault.turn(soon).await;
        assert!(vault.turn(soon).await.is_err());
        drop(turn);
        assert!(vault.turn(soon + Duration::from_secs(1)).await.is_ok());
    }
}
