//! Asking once: values shared by age, requests shared while under way.
//!
//! A value is found again only under the identity that fetched it. It lives as long as somebody holds it, that is while
//! a volume is mounted or a request waits; the cache itself holds nothing but weak references.
//!
//! A request under way is polled by all who wait for it and dropped with the last of them. Its failure is shared like
//! its value.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::{Priority, client::Urgency};

/// Deadlines this near to each other count as the same.
const LITTLE: Duration = Duration::from_secs(1);
/// What is asked for has the same deadline and knows better what it was waiting for: it gets the time to say so.
const LAST_WORD: Duration = Duration::from_millis(200);
/// With an older value at hand, an answer is waited for no longer than this: retries of a vault that is down take longer
/// than pods should.
const PATIENCE: Duration = Duration::from_secs(10);
/// A failure that may pass is not looked for again in a rotation for so long, or for half the age asked for if that is
/// shorter: a hundred volumes must not ask a vault in trouble more often than one.
const TROUBLE: Duration = Duration::from_secs(30);

/// What a value is found under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Who fetched it.
    pub(crate) identity: Arc<str>,
    /// The vault, by scheme, host and port.
    pub(crate) vault: Arc<str>,
    /// The object and its version, by path.
    pub(crate) object: Arc<str>,
}

/// How a failure bears on what is cached.
pub(crate) trait Failing: Clone + Send + Sync + 'static {
    /// It may pass, so that an older value may stand in.
    fn is_transient(&self) -> bool;
    /// It ends the use of older values.
    fn is_definite_refusal(&self) -> bool;
    /// The time of whoever asks is up, having `waited` so long.
    fn too_late(waited: Duration) -> Self;
}

/// Where a value is to be forgotten.
#[derive(Debug)]
struct Home<V: Send + Sync + 'static, E: Failing> {
    cache: Weak<Cache<V, E>>,
    key: Key,
    id: u64,
}

/// A value somebody holds.
#[derive(Debug)]
pub(crate) struct Held<V: Send + Sync + 'static, E: Failing> {
    pub(crate) value: V,
    /// When its request began.
    pub(crate) asked: Instant,
    home: Option<Home<V, E>>,
}

impl<V: Send + Sync + 'static, E: Failing> Drop for Held<V, E> {
    fn drop(&mut self) {
        if let Some(home) = self.home.take()
            && let Some(cache) = home.cache.upgrade()
        {
            cache.forget(&home.key, home.id);
        }
    }
}

/// A value, and for what failure it stands in if it is older than was asked for.
pub(crate) struct Served<V: Send + Sync + 'static, E: Failing> {
    pub(crate) held: Arc<Held<V, E>>,
    pub(crate) stale: Option<E>,
}

type Outcome<V, E> = Result<Arc<Held<V, E>>, E>;
type Flight<V, E> = Shared<BoxFuture<'static, Outcome<V, E>>>;

struct Slot<V: Send + Sync + 'static, E: Failing> {
    held: Weak<Held<V, E>>,
    /// Number of the value, to tell it from its successor.
    held_id: u64,
    flight: Option<Flying<V, E>>,
    /// The last failure that may pass, if nothing came after it.
    failed: Option<(Instant, E)>,
}

struct Flying<V: Send + Sync + 'static, E: Failing> {
    id: u64,
    began: Instant,
    /// The deadline of whoever began it.
    until: Instant,
    urgency: Urgency,
    request: WeakShared<BoxFuture<'static, Outcome<V, E>>>,
}

/// See the module.
pub(crate) struct Cache<V: Send + Sync + 'static, E: Failing> {
    slots: Mutex<HashMap<Key, Slot<V, E>>>,
    next: AtomicU64,
}

impl<V: Send + Sync + 'static, E: Failing> std::fmt::Debug for Cache<V, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

/// What a caller is after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// A value or a request that began longer ago will not do; zero: only a request of one's own.
    pub(crate) max_age: Duration,
    /// How old a value may be that stands in when there is no answer.
    pub(crate) stale_if_error: Duration,
    /// Whether a pod waits for it.
    pub(crate) priority: Priority,
    /// When the caller's time is up.
    pub(crate) deadline: Instant,
}

impl<V: Send + Sync + 'static, E: Failing> Cache<V, E> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { slots: Mutex::new(HashMap::new()), next: AtomicU64::new(1) })
    }

    /// The value under `key`, from whoever has it, or by `ask`; without a key always by `ask`.
    ///
    /// # Errors
    /// What `ask` fails with, own or shared, unless an older value may stand in.
    pub(crate) async fn get(
        self: &Arc<Self>,
        key: Option<Key>,
        wanted: Wanted,
        ask: impl Fn(Urgency) -> BoxFuture<'static, Result<V, E>>,
    ) -> Result<Served<V, E>, E> {
        let Some(key) = key else {
            let asked = Instant::now();
            let value = timeout_at(wanted.deadline + LAST_WORD, ask(Urgency::new(wanted.priority)))
                .await
                .map_err(|_| E::too_late(asked.elapsed()))??;
            return Ok(Served { held: Arc::new(Held { value, asked, home: None }), stale: None });
        };
        let began = Instant::now();
        loop {
            let (flight, joined) = match self.find_or_begin(&key, wanted, &ask) {
                Found::Value(held) => return Ok(Served { held, stale: None }),
                Found::Trouble(error) => return self.stand_in(&key, wanted, error),
                Found::Flight { flight, joined } => (flight, joined),
            };
            let hurry = self.may_stand_in(&key, wanted).is_some() && began + PATIENCE < wanted.deadline;
            let until = if hurry { began + PATIENCE } else { wanted.deadline + LAST_WORD };
            let (error, in_time) = match timeout_at(until, flight).await {
                Ok(Ok(held)) => return Ok(Served { held, stale: None }),
                Ok(Err(error)) => (error, true),
                Err(_) => {
                    let error = E::too_late(began.elapsed());
                    self.remember(&key, &error);
                    (error, false)
                }
            };
            // Whoever began it may have given up for want of time that is left here.
            if in_time
                && joined.is_some_and(|until| until + LITTLE < wanted.deadline)
                && error.is_transient()
                && Instant::now() < wanted.deadline
            {
                continue;
            }
            return if error.is_transient() { self.stand_in(&key, wanted, error) } else { Err(error) };
        }
    }

    /// The value that may be served if there is no answer.
    fn may_stand_in(&self, key: &Key, wanted: Wanted) -> Option<Arc<Held<V, E>>> {
        if wanted.stale_if_error.is_zero() {
            return None;
        }
        self.last(key).filter(|held| held.asked.elapsed() <= wanted.stale_if_error)
    }

    /// The older value that is served at once, because it is known that nobody can be asked now for a fresh one: `error`.
    pub(crate) fn instead(&self, key: &Key, wanted: Wanted, error: E) -> Option<Served<V, E>> {
        let held = self.may_stand_in(key, wanted)?;
        let fresh = !wanted.max_age.is_zero() && held.asked.elapsed() <= wanted.max_age;
        (!fresh).then_some(Served { held, stale: Some(error) })
    }

    fn stand_in(&self, key: &Key, wanted: Wanted, error: E) -> Result<Served<V, E>, E> {
        match self.may_stand_in(key, wanted) {
            Some(held) => Ok(Served { held, stale: Some(error) }),
            None => Err(error),
        }
    }

    /// Remembers a failure as long as its slot is there for other reasons.
    fn remember(&self, key: &Key, error: &E) {
        if let Some(slot) = self.slots.lock().get_mut(key) {
            slot.failed = Some((Instant::now(), error.clone()));
        }
    }

    fn last(&self, key: &Key) -> Option<Arc<Held<V, E>>> {
        self.slots.lock().get(key).and_then(|slot| slot.held.upgrade())
    }

    fn find_or_begin(
        self: &Arc<Self>,
        key: &Key,
        wanted: Wanted,
        ask: &impl Fn(Urgency) -> BoxFuture<'static, Result<V, E>>,
    ) -> Found<V, E> {
        let now = Instant::now();
        let Wanted { max_age, deadline, priority, .. } = wanted;
        let recent = |began: Instant| !max_age.is_zero() && now.duration_since(began) <= max_age;
        // Dropping the last reference to either takes the lock, so both outlive the guard.
        let (held, flight);
        let mut slots = self.slots.lock();
        let slot = slots.entry(key.clone()).or_insert_with(|| Slot {
            held: Weak::new(),
            held_id: 0,
            flight: None,
            failed: None,
        });
        held = slot.held.upgrade();
        if held.as_ref().is_some_and(|held| recent(held.asked)) {
            drop(slots);
            return held.map_or_else(|| self.find_or_begin(key, wanted, ask), Found::Value);
        }
        flight = slot
            .flight
            .as_ref()
            .and_then(|flying| Some((flying.began, flying.until, &flying.urgency, flying.request.upgrade()?)))
            .map(|(began, until, urgency, request)| (began, until, urgency.clone(), request));
        if let Some((began, until, urgency, flight)) = &flight
            && recent(*began)
        {
            urgency.raise(priority);
            let (flight, until) = (flight.clone(), *until);
            drop(slots);
            return Found::Flight { flight, joined: Some(until) };
        }
        if priority == Priority::Rotation
            && let Some((failed, error)) = &slot.failed
            && now.duration_since(*failed) < TROUBLE.min(max_age / 2)
        {
            let error = error.clone();
            drop(slots);
            return Found::Trouble(error);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let landing = Landing { cache: Arc::clone(self), key: key.clone(), id };
        let urgency = Urgency::new(priority);
        let asking = ask(urgency.clone());
        let fresh = async move { landing.land(now, asking.await) }.boxed().shared();
        slot.flight =
            fresh.downgrade().map(|request| Flying { id, began: now, until: deadline, urgency, request });
        drop(slots);
        drop((held, flight));
        Found::Flight { flight: fresh, joined: None }
    }

    /// The value numbered `id` is held by nobody any more.
    fn forget(&self, key: &Key, id: u64) {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get_mut(key)
            && slot.held_id == id
        {
            slot.held = Weak::new();
            if slot.flight.is_none() {
                slots.remove(key);
            }
        }
    }

    /// How many values are held or asked for.
    pub(crate) fn len(&self) -> usize {
        self.slots.lock().len()
    }
}

enum Found<V: Send + Sync + 'static, E: Failing> {
    Value(Arc<Held<V, E>>),
    /// It failed not long ago.
    Trouble(E),
    /// When joined, with the deadline of whoever began it.
    Flight {
        flight: Flight<V, E>,
        joined: Option<Instant>,
    },
}

/// Takes a request out of its slot when it ends or is dropped.
struct Landing<V: Send + Sync + 'static, E: Failing> {
    cache: Arc<Cache<V, E>>,
    key: Key,
    id: u64,
}

impl<V: Send + Sync + 'static, E: Failing> Landing<V, E> {
    fn land(&self, asked: Instant, outcome: Result<V, E>) -> Outcome<V, E> {
        match outcome {
            Ok(value) => {
                let home = Home { cache: Arc::downgrade(&self.cache), key: self.key.clone(), id: self.id };
                let held = Arc::new(Held { value, asked, home: Some(home) });
                if let Some(slot) = self.cache.slots.lock().get_mut(&self.key) {
                    // Of two requests the later one counts, in whatever order they end.
                    if slot.held_id < self.id {
                        slot.held_id = self.id;
                        slot.held = Arc::downgrade(&held);
                        slot.failed = None;
                    }
                }
                Ok(held)
            }
            Err(error) => {
                if let Some(slot) = self.cache.slots.lock().get_mut(&self.key) {
                    if error.is_definite_refusal() {
                        slot.held = Weak::new();
                    }
                    slot.failed = error.is_transient().then(|| (Instant::now(), error.clone()));
                }
                Err(error)
            }
        }
    }
}

impl<V: Send + Sync + 'static, E: Failing> Drop for Landing<V, E> {
    fn drop(&mut self) {
        let mut slots = self.cache.slots.lock();
        if let Some(slot) = slots.get_mut(&self.key) {
            if slot.flight.as_ref().is_some_and(|flying| flying.id == self.id) {
                slot.flight = None;
            }
            if slot.flight.is_none() && slot.held.strong_count() == 0 {
                slots.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
