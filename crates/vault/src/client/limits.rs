//! Being a good client of a vault.
//!
//! All that is asked of one vault stands in one queue, mounts before rotations. So many requests are under way at once.
//! When the vault throttles, nobody sends anything until the pause is over that it asked for, or that grows from 1 to 16
//! seconds where it asked for none. Then requests go out one by one, at half the former number at once, and closer
//! together with every answer, so that those who have waited do not rush back in step. All waits have some chance in
//! them, because other nodes were throttled in the same moment.
//!
//! Requests that were under way when the vault throttled and are throttled too count once.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    Priority,
    error::Cause,
    retry::{self, Dice},
};

/// Vaults remembered beyond those in use.
const MOST_IDLE: usize = 64;
/// However long one answer asks to wait, after this the vault is asked again.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// The distance between two requests after a pause, at first and at most.
const SPACING: Duration = Duration::from_millis(100);
const LONGEST_SPACING: Duration = Duration::from_secs(5);
/// A distance that no longer matters.
const CLOSE: Duration = Duration::from_millis(10);
/// The time over which Key Vault counts requests
/// (<https://learn.microsoft.com/azure/key-vault/general/service-limits>).
const VAULTS_WINDOW: Duration = Duration::from_secs(10);
/// So many times as long as mounts, rotations leave a vault alone that throttles. Other nodes' mounts wait for the same
/// vault, and what they wait for is what this node does not ask.
const ROTATIONS_WAIT: u32 = 4;
/// So often in a row a vault that throttles is taken at its word; then it is asked ever more rarely.
const MOST_TRUST: u32 = 4;

/// What is known of each vault, by its host and port.
#[derive(Debug)]
pub(super) struct Vaults {
    known: Mutex<HashMap<String, Arc<Vault>>>,
    concurrency: usize,
    dice: Mutex<Dice>,
}

/// What is known of one vault.
#[derive(Debug)]
pub(super) struct Vault {
    gate: Mutex<Gate>,
    /// The scope its challenge named.
    scope: Mutex<Option<String>>,
}

/// Who waits for an answer, which may change while the request waits for its turn.
#[derive(Clone, Debug)]
pub(crate) struct Urgency(Arc<AtomicBool>);

impl Urgency {
    pub(crate) fn new(priority: Priority) -> Self {
        Self(Arc::new(AtomicBool::new(priority == Priority::Mount)))
    }

    /// Somebody with this priority waits too.
    pub(crate) fn raise(&self, priority: Priority) {
        if priority == Priority::Mount {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_high(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    urgency: Urgency,
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct Gate {
    queue: VecDeque<Waiting>,
    next_ticket: u64,
    under_way: usize,
    /// How many requests may be under way at once, now and at most.
    window: usize,
    most: usize,
    /// Answers since the window last grew.
    answers: usize,
    /// Until when nothing is sent, and what the vault said.
    paused: Option<(Instant, Cause)>,
    /// When rotations may go on, and what the vault said last.
    rotations_from: Instant,
    said: Option<Cause>,
    /// Pauses in a row.
    strikes: u32,
    /// When the last one began.
    struck: Option<Instant>,
    /// Until when the quiet since then is accounted for.
    eased: Instant,
    /// The distance between two requests, and when the next may go.
    spacing: Duration,
    next_start: Instant,
    dice: Dice,
}

/// Whether a request may go.
enum Admission {
    Now,
    At(Instant),
    /// Others go first.
    Later,
    /// The vault wants to be left alone for longer than there is time.
    Never(Cause),
}

impl Vaults {
    pub(super) fn new(concurrency: usize, dice: Dice) -> Self {
        Self { known: Mutex::new(HashMap::new()), concurrency: concurrency.max(1), dice: Mutex::new(dice) }
    }

    pub(super) fn of(&self, authority: &str) -> Arc<Vault> {
        let mut known = self.known.lock();
        if let Some(vault) = known.get(authority) {
            return Arc::clone(vault);
        }
        if known.len() >= MOST_IDLE {
            known.retain(|_, vault| Arc::strong_count(vault) > 1);
        }
        let gate = Gate::new(self.concurrency, self.dice.lock().another());
        let vault = Arc::new(Vault { gate: Mutex::new(gate), scope: Mutex::new(None) });
        known.insert(authority.to_owned(), Arc::clone(&vault));
        vault
    }
}

/// A vault as seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultState {
    /// Its address.
    pub address: String,
    /// Requests under way.
    pub requests: usize,
    /// For how long nothing is sent any more, and what the vault said.
    pub pause: Option<(Duration, String)>,
}

impl Vaults {
    /// All vaults that are known, by address.
    pub(super) fn states(&self) -> Vec<VaultState> {
        let known = self.known.lock();
        let now = Instant::now();
        let mut states: Vec<VaultState> = known
            .iter()
            .map(|(address, vault)| {
                let gate = vault.gate.lock();
                let pause = gate.paused.as_ref().filter(|(until, _)| *until > now);
                VaultState {
                    address: address.clone(),
                    requests: gate.under_way,
                    pause: pause.map(|(until, cause)| (until.duration_since(now), cause.to_string())),
                }
            })
            .collect();
        states.sort_by(|a, b| a.address.cmp(&b.address));
        states
    }
}

impl Gate {
    fn new(most: usize, dice: Dice) -> Self {
        let now = Instant::now();
        Self {
            queue: VecDeque::new(),
            next_ticket: 0,
            under_way: 0,
            window: most,
            most,
            answers: 0,
            paused: None,
            rotations_from: now,
            said: None,
            strikes: 0,
            struck: None,
            eased: now,
            spacing: Duration::ZERO,
            next_start: now,
            dice,
        }
    }

    /// Who goes next.
    fn first(&self) -> Option<&Waiting> {
        self.queue.iter().find(|waiting| waiting.urgency.is_high()).or_else(|| self.queue.front())
    }

    fn wake_first(&self) {
        if let Some(first) = self.first() {
            first.wake.notify_one();
        }
    }

    fn leave(&mut self, ticket: u64) {
        self.queue.retain(|waiting| waiting.ticket != ticket);
        self.wake_first();
    }

    fn admit(&mut self, ticket: u64, deadline: Instant) -> Admission {
        let now = Instant::now();
        if let Some((until, cause)) = &self.paused {
            if *until >= deadline {
                return Admission::Never(cause.clone());
            }
            if *until <= now {
                self.paused = None;
            }
        }
        self.ease(now);
        let Some(first) = self.first().filter(|first| first.ticket == ticket) else {
            // Whoever was first may not know that another is now.
            self.wake_first();
            return Admission::Later;
        };
        let mut start = self.next_start;
        if !first.urgency.is_high() {
            start = start.max(self.rotations_from);
        }
        if self.under_way >= self.window {
            return Admission::Later;
        }
        if let Some((until, _)) = &self.paused {
            start = start.max(*until);
        }
        if start > now {
            return Admission::At(start);
        }
        self.under_way += 1;
        self.next_start = now + self.dice.around(self.spacing);
        self.leave(ticket);
        Admission::Now
    }

    /// Time without throttling counts like answers.
    fn ease(&mut self, now: Instant) {
        while now.saturating_duration_since(self.eased) >= VAULTS_WINDOW {
            self.eased += VAULTS_WINDOW;
            self.strikes = self.strikes.saturating_sub(1);
            self.window = (self.window * 2).min(self.most);
            self.shorten(self.spacing / 2);
            if self.strikes == 0 && self.window == self.most && self.spacing.is_zero() {
                self.eased = now;
            }
        }
    }

    fn shorten(&mut self, spacing: Duration) {
        self.spacing = spacing;
        if spacing < CLOSE && !spacing.is_zero() {
            self.spacing = Duration::ZERO;
            self.strikes = 0;
        }
    }

    /// The vault has answered, whatever it said, without throttling.
    fn answered(&mut self) {
        self.shorten(self.spacing * 9 / 10);
        self.answers += 1;
        if self.answers >= self.window {
            self.answers = 0;
            self.window = (self.window + 1).min(self.most);
        }
    }

    /// The vault has throttled a request that was sent at `started`.
    fn throttled(&mut self, started: Instant, asked_for: Option<Duration>, cause: &Cause) {
        let now = Instant::now();
        let new = self.struck.is_none_or(|struck| started > struck);
        if new {
            self.struck = Some(now);
            self.strikes = self.strikes.saturating_add(1);
            self.window = (self.window / 2).max(1);
            self.answers = 0;
        }
        let growing = |strikes: u32, dice: &mut Dice| dice.around(retry::backoff(strikes.saturating_sub(1)));
        let wait = match asked_for {
            // A little later than asked for, never earlier.
            Some(asked) if self.strikes <= MOST_TRUST => {
                let asked = asked.min(LONGEST_PAUSE);
                asked + self.dice.up_to(asked / 4)
            }
            Some(asked) => asked.min(LONGEST_PAUSE).max(growing(self.strikes - MOST_TRUST, &mut self.dice)),
            None if new => growing(self.strikes, &mut self.dice),
            None => return,
        };
        let until = now + wait;
        if new {
            // Without a wait there is nobody to be spread.
            self.spacing = (self.spacing * 2).max(SPACING).min(LONGEST_SPACING).min(wait);
        }
        if self.paused.as_ref().is_none_or(|(known, _)| *known < until) {
            self.paused = Some((until, cause.clone()));
            self.rotations_from = now + wait * ROTATIONS_WAIT;
            self.said = Some(cause.clone());
            self.eased = self.eased.max(until);
            // Those whose time ends before are told at once.
            for waiting in &self.queue {
                waiting.wake.notify_one();
            }
        }
    }
}

/// The right to send one request, until it is dropped. Say what came of it.
pub(super) struct Turn<'a> {
    vault: &'a Vault,
    started: Instant,
}

impl Turn<'_> {
    /// The vault has answered.
    pub(super) fn answered(self) {
        self.vault.gate.lock().answered();
    }

    /// The vault wants to be left alone, for so long if it says so. Everyone waits, not only this request.
    pub(super) fn throttled(self, asked_for: Option<Duration>, cause: &Cause) {
        self.vault.gate.lock().throttled(self.started, asked_for, cause);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut gate = self.vault.gate.lock();
        gate.under_way = gate.under_way.saturating_sub(1);
        gate.wake_first();
    }
}

/// A place in the queue, given up when dropped.
struct Place<'a> {
    vault: &'a Vault,
    ticket: u64,
    wake: Arc<Notify>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.vault.gate.lock().leave(self.ticket);
    }
}

impl Vault {
    /// Waits for a turn.
    ///
    /// # Errors
    /// When it comes after `deadline`: at once with what the vault said if it asked for a longer pause.
    pub(super) async fn turn(&self, urgency: &Urgency, deadline: Instant) -> Result<Turn<'_>, Cause> {
        let began = Instant::now();
        let place = self.enter(urgency);
        loop {
            let admission = self.gate.lock().admit(place.ticket, deadline);
            let until = match admission {
                Admission::Now => return Ok(Turn { vault: self, started: Instant::now() }),
                Admission::Never(cause) => return Err(cause),
                Admission::At(start) => start.min(deadline),
                Admission::Later => deadline,
            };
            let woken = timeout_at(until, place.wake.notified()).await;
            if woken.is_err() && Instant::now() >= deadline {
                return Err(Cause::TooLate {
                    waiting_for: "other requests to the vault",
                    waited: began.elapsed(),
                });
            }
        }
    }

    fn enter(&self, urgency: &Urgency) -> Place<'_> {
        let mut gate = self.gate.lock();
        let ticket = gate.next_ticket;
        gate.next_ticket += 1;
        let wake = Arc::new(Notify::new());
        let waiting = Waiting { ticket, urgency: urgency.clone(), wake: Arc::clone(&wake) };
        gate.queue.push_back(waiting);
        Place { vault: self, ticket, wake }
    }

    /// How long nothing will be sent, as of now.
    pub(super) fn pause_left(&self) -> Duration {
        let paused = self.gate.lock().paused.as_ref().map(|(until, _)| *until);
        paused.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// What the vault said, if it wants to be left alone at this moment.
    pub(super) fn closed(&self, priority: Priority) -> Option<Cause> {
        let (gate, now) = (self.gate.lock(), Instant::now());
        let until = match priority {
            Priority::Mount => gate.paused.as_ref().map(|(until, _)| *until)?,
            Priority::Rotation => gate.rotations_from,
        };
        if until > now { gate.said.clone() } else { None }
    }

    pub(super) fn scope(&self) -> Option<String> {
        self.scope.lock().clone()
    }

    pub(super) fn remember_scope(&self, scope: &str) {
        *self.scope.lock() = Some(scope.to_owned());
    }
}

#[cfg(test)]
mod tests;
