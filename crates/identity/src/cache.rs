//! One identity's tokens: asked for once, shared, renewed ahead of time.
//!
//! A token request ("flight") runs in a task of its own. Callers wait for its outcome and may leave at any
//! time; the outcome, good or bad, goes to everyone who waits and into the cache.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::{sync::watch, time::Instant};
use trace::Span;
use tracing::{Instrument, debug, warn};

use crate::{Error, token::Token};

/// The longest a flight may take. Sources have shorter limits of their own; this one catches their defects.
const FLIGHT_LIMIT: Duration = Duration::from_secs(150);
/// A failure is remembered for this long at first, twice as long each time it repeats.
const FIRST_REST: Duration = Duration::from_secs(2);
/// The longest rest between two flights that fail, unless the service asks for more.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// The longest rest a service can ask for.
const LONGEST_WISH: Duration = Duration::from_mins(1);
/// Within this time a second refused token is not replaced: a vault that refuses all would otherwise cause
/// a token request for each of its answers.
const REFUSAL_PAUSE: Duration = Duration::from_secs(10);

/// Where an identity's tokens come from: the one small interface in front of all ways to get one.
#[async_trait]
pub(crate) trait Source: Send + Sync {
    /// Asks for a token of the scope, repeating what is worth repeating.
    async fn fetch(&self, scope: &str) -> Result<Token, Error>;
}

/// Counts of what the cache did, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) served: AtomicU64,
}

/// One identity and its tokens, by scope.
pub(crate) struct Identity {
    name: String,
    source: RwLock<Arc<dyn Source>>,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    last_used: Mutex<Instant>,
    counters: Arc<Counters>,
}

impl Identity {
    pub(crate) fn new(name: String, source: Arc<dyn Source>, counters: Arc<Counters>) -> Self {
        Self {
            name,
            source: RwLock::new(source),
            slots: Mutex::default(),
            last_used: Mutex::new(Instant::now()),
            counters,
        }
    }

    /// Renewals come from this source from now on. With a new proof in hand, failures that were about the old
    /// one are forgotten.
    pub(crate) fn renew_from(&self, source: Arc<dyn Source>, new_proof: bool) {
        *self.source.write() = source;
        *self.last_used.lock() = Instant::now();
        if new_proof {
            for slot in self.slots.lock().values() {
                let mut state = slot.state.lock();
                if state.failure.as_ref().is_some_and(|failure| failure.error.is_about_the_assertion()) {
                    state.failure = None;
                }
            }
        }
    }

    /// How long nobody has asked.
    pub(crate) fn idle(&self) -> Duration {
        self.last_used.lock().elapsed()
    }

    /// How long ago the oldest of its valid tokens was received.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        let slots = self.slots.lock();
        let ages = slots.values().filter_map(|slot| {
            let state = slot.state.lock();
            state.token.as_ref().filter(|token| token.is_valid()).map(Token::age)
        });
        ages.max()
    }

    /// A token of the scope: the one at hand, or the outcome of the flight under way, or of a new one.
    pub(crate) async fn token(&self, scope: &str) -> Result<Token, Error> {
        *self.last_used.lock() = Instant::now();
        let mut landing = match self.step(scope) {
            Step::Ready(outcome) => return outcome,
            Step::Wait(flight) => flight,
        };
        let ended = "the token request ended without an answer";
        let outcome = landing.wait_for(Option::is_some).await.map_err(|_| Error::internal(ended))?;
        outcome.clone().unwrap_or_else(|| Err(Error::internal(ended)))
    }

    fn step(&self, scope: &str) -> Step {
        let slot = self.slot(scope);
        let mut state = slot.state.lock();
        let resting = state.failure.as_ref().is_some_and(|failure| Instant::now() < failure.rest_until);
        if let Some(token) = &state.token {
            if token.is_valid() {
                let token = token.clone();
                self.counters.served.fetch_add(1, Relaxed);
                if token.is_due() && state.flight.is_none() && !resting {
                    debug!(identity = %self.name, scope, "renewing a token ahead of its end");
                    self.launch(&slot, &mut state);
                }
                return Step::Ready(Ok(token));
            }
            state.token = None;
        }
        if let Some(flight) = &state.flight {
            return Step::Wait(flight.clone());
        }
        match &state.failure {
            Some(failure) if resting => Step::Ready(Err(failure.error.clone())),
            _ => Step::Wait(self.launch(&slot, &mut state)),
        }
    }

    fn slot(&self, scope: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(scope) {
            return slot.clone();
        }
        let slot = Arc::new(Slot { scope: scope.to_owned(), state: Mutex::default() });
        slots.insert(scope.to_owned(), slot.clone());
        slot
    }

    /// Starts the one flight of a slot. Called with the slot's state locked.
    fn launch(&self, slot: &Arc<Slot>, state: &mut State) -> watch::Receiver<Landing> {
        let (announce, flight) = watch::channel(None);
        state.flight = Some(flight.clone());
        self.counters.requests.fetch_add(1, Relaxed);
        let source = self.source.read().clone();
        let mut aboard = Aboard {
            slot: slot.clone(),
            announce,
            name: self.name.clone(),
            counters: self.counters.clone(),
            landed: false,
        };
        let mut span = Span::begin("token request", trace::Kind::Internal);
        span.tell("akv_csi.identity", &self.name);
        let request = async move {
            let fetch = span.scope(source.fetch(&aboard.slot.scope));
            let outcome = tokio::time::timeout(FLIGHT_LIMIT, fetch)
                .await
                .unwrap_or_else(|_| Err(Error::internal("a token request exceeded its time")));
            if let Err(error) = &outcome {
                span.fail(error);
            }
            // Before anybody hears of it, so that it is over when what waits for it is.
            drop(span);
            aboard.land(outcome);
        };
        // All who wait for it share it; in traces and logs it belongs to the call that began it.
        tokio::spawn(request.in_current_span());
        flight
    }

    /// A service has refused this token: it is not handed out again.
    pub(crate) fn refused(&self, text: &str) {
        for slot in self.slots.lock().values() {
            let mut state = slot.state.lock();
            let paused = state.refused.is_some_and(|at| at.elapsed() < REFUSAL_PAUSE);
            if !paused && state.token.as_ref().is_some_and(|token| token.text() == text) {
                debug!(identity = %self.name, scope = slot.scope, "dropping a refused token");
                state.token = None;
                state.refused = Some(Instant::now());
            }
        }
    }
}

/// What a caller does next.
enum Step {
    Ready(Result<Token, Error>),
    Wait(watch::Receiver<Landing>),
}

/// `None` while the flight is under way.
type Landing = Option<Result<Token, Error>>;

/// The token of one identity for one scope.
struct Slot {
    scope: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    failure: Option<Failure>,
    flight: Option<watch::Receiver<Landing>>,
    refused: Option<Instant>,
}

/// The last flight failed.
struct Failure {
    error: Error,
    in_a_row: u32,
    rest_until: Instant,
}

/// A flight under way. Dropped before it landed (a panic, the runtime's end), it takes the flight off the
/// slot, so that the next caller starts another.
struct Aboard {
    slot: Arc<Slot>,
    announce: watch::Sender<Landing>,
    name: String,
    counters: Arc<Counters>,
    landed: bool,
}

impl Aboard {
    fn land(&mut self, outcome: Result<Token, Error>) {
        self.landed = true;
        let mut state = self.slot.state.lock();
        state.flight = None;
        match &outcome {
            Ok(token) => {
                state.token = Some(token.clone());
                state.failure = None;
            }
            Err(error) => {
                self.counters.failures.fetch_add(1, Relaxed);
                let in_a_row = state.failure.as_ref().map_or(0, |failure| failure.in_a_row).saturating_add(1);
                let rest = FIRST_REST.saturating_mul(1 << (in_a_row - 1).min(10)).min(LONGEST_REST);
                let wish = error.retry_after().unwrap_or_default().min(LONGEST_WISH);
                let rest_until = Instant::now() + rest.max(wish);
                let keeps_old = state.token.as_ref().is_some_and(Token::is_valid);
                if keeps_old {
                    // Nobody waits for this one, so nobody else will tell.
                    warn!(identity = %self.name, scope = self.slot.scope, in_a_row, %error, "a token is not renewed");
                } else {
                    debug!(identity = %self.name, scope = self.slot.scope, in_a_row, %error, "no token");
                }
                state.failure = Some(Failure { error: error.clone(), in_a_row, rest_until });
            }
        }
        drop(state);
        self.announce.send_replace(Some(outcome));
    }
}

impl Drop for Aboard {
    fn drop(&mut self) {
        if !self.landed {
            self.slot.state.lock().flight = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Answers each fetch after a second with what the script says.
    struct Scripted {
        fetches: AtomicUsize,
        script: fn(usize) -> Result<Token, Error>,
    }

    #[async_trait]
    impl Source for Scripted {
        async fn fetch(&self, _: &str) -> Result<Token, Error> {
            let n = self.fetches.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            (self.script)(n)
        }
    }

    fn identity(script: fn(usize) -> Result<Token, Error>) -> (Arc<Identity>, Arc<Scripted>) {
        let source = Arc::new(Scripted { fetches: AtomicUsize::new(0), script });
        (Arc::new(Identity::new("test".into(), source.clone(), Arc::default())), source)
    }

    #[allow(clippy::unnecessary_wraps, reason = "it is a script, and scripts can fail")]
    fn hour(n: usize) -> Result<Token, Error> {
        Ok(Token::new(format!("token {n}"), Duration::from_hours(1)))
    }

    fn fails(_: usize) -> Result<Token, Error> {
        Err(Error::Unsupported { reason: "no".into() })
    }

    async fn hundred(identity: &Arc<Identity>, scope: fn(usize) -> String) -> Vec<Result<String, String>> {
        let tasks: Vec<_> = (0..100)
            .map(|n| {
                let identity = identity.clone();
                tokio::spawn(async move { identity.token(&scope(n)).await })
            })
            .collect();
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(task.await.unwrap().map(|t| t.text().to_owned()).map_err(|e| e.to_string()));
        }
        outcomes
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_callers_share_one_success() {
        let (identity, source) = identity(hour);
        let outcomes = hundred(&identity, |_| "s".into()).await;
        assert!(outcomes.iter().all(|o| o.as_deref() == Ok("token 0")));
        assert_eq!(source.fetches.load(Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_callers_share_one_failure() {
        let (identity, source) = identity(fails);
        let start = Instant::now();
        let outcomes = hundred(&identity, |_| "s".into()).await;
        assert!(outcomes.iter().all(|o| o.as_ref().is_err_and(|e| e == "no")));
        assert_eq!((source.fetches.load(Relaxed), start.elapsed()), (1, Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn scopes_do_not_wait_for_one_another() {
        let (identity, source) = identity(hour);
        let start = Instant::now();
        hundred(&identity, |n| format!("s{n}")).await;
        assert_eq!((source.fetches.load(Relaxed), start.elapsed()), (100, Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_rest_longer_each_time() {
        let (identity, source) = identity(fails);
        let start = Instant::now();
        let mut starts = Vec::new();
        let mut before = 0;
        while start.elapsed() < Duration::from_secs(130) {
            let _ = identity.token("s").await;
            if source.fetches.load(Relaxed) > before {
                before = source.fetches.load(Relaxed);
                starts.push(start.elapsed().as_secs() - 1);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(starts, [0, 3, 8, 17, 34, 65, 96, 127]);
    }

    #[tokio::test(start_paused = true)]
    async fn renewal_keeps_nobody_waiting() {
        let (identity, source) = identity(hour);
        identity.token("s").await.unwrap();
        tokio::time::advance(Duration::from_secs(3301)).await;
        let start = Instant::now();
        for outcome in hundred(&identity, |_| "s".into()).await {
            assert_eq!(outcome.as_deref(), Ok("token 0"));
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(identity.token("s").await.unwrap().text(), "token 1");
        assert_eq!(source.fetches.load(Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_renewal_keeps_the_old_token_until_its_end() {
        let (identity, source) = identity(|n| if n == 0 { hour(n) } else { fails(n) });
        identity.token("s").await.unwrap();
        tokio::time::advance(Duration::from_secs(3301)).await;
        for _ in 0..280 {
            assert_eq!(identity.token("s").await.unwrap().text(), "token 0");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let tried = source.fetches.load(Relaxed);
        assert!((8..=16).contains(&tried), "backs off: {tried}");
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(identity.token("s").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_end_one_flight_for_all() {
        let (identity, source) = identity(hour);
        identity.token("s").await.unwrap();
        tokio::time::advance(Duration::from_secs(3601)).await;
        for outcome in hundred(&identity, |_| "s".into()).await {
            assert_eq!(outcome.as_deref(), Ok("token 1"));
        }
        assert_eq!(source.fetches.load(Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_leaves_takes_nobody_with_him() {
        let (identity, source) = identity(hour);
        let first = tokio::spawn({
            let identity = identity.clone();
            async move { identity.token("s").await }
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        let second = tokio::spawn({
            let identity = identity.clone();
            async move { identity.token("s").await }
        });
        tokio::task::yield_now().await;
        first.abort();
        assert_eq!(second.await.unwrap().unwrap().text(), "token 0");
        assert_eq!(source.fetches.load(Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panicking_source_is_an_error_and_leaves_no_stuck_flight() {
        let (identity, source) = identity(|n| if n == 0 { panic!("planted") } else { hour(n) });
        assert!(matches!(identity.token("s").await, Err(Error::Internal { .. })));
        assert_eq!(identity.token("s").await.unwrap().text(), "token 1");
        assert_eq!(source.fetches.load(Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_replaced_but_not_in_a_loop() {
        let (identity, source) = identity(hour);
        identity.token("s").await.unwrap();
        identity.refused("another token");
        assert_eq!(identity.token("s").await.unwrap().text(), "token 0");
        for _ in 0..50 {
            let token = identity.token("s").await.unwrap();
            identity.refused(token.text());
        }
        assert_eq!(source.fetches.load(Relaxed), 2);
        tokio::time::advance(REFUSAL_PAUSE).await;
        identity.refused("token 1");
        assert_eq!(identity.token("s").await.unwrap().text(), "token 2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_assertion_ends_the_rest_after_a_stale_one() {
        let stale = |_| Err(Error::AssertionValidity { reason: "stale".into() });
        let (identity, _) = identity(stale);
        assert!(identity.token("s").await.is_err());
        let fresh = Arc::new(Scripted { fetches: AtomicUsize::new(0), script: hour });
        identity.renew_from(fresh.clone(), false);
        assert!(identity.token("s").await.is_err());
        identity.renew_from(fresh, true);
        assert_eq!(identity.token("s").await.unwrap().text(), "token 0");
    }
}
