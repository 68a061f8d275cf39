//! Key Vault as its clients see it: answers after a while, and no more of them than its limits allow.

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use vault::{Transport, Unreachable};

/// Transactions that a real vault answers in [`WINDOW`]
/// (<https://learn.microsoft.com/azure/key-vault/general/service-limits>). What it throttles does not count.
pub const LIMIT: usize = 4_000;
/// The time over which they are counted.
pub const WINDOW: Duration = Duration::from_secs(10);
/// An answer takes this long, and up to half as long again.
const LATENCY: Duration = Duration::from_millis(20);

/// What arrived within one second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Second {
    /// Requests that were answered.
    pub served: u32,
    /// Requests that were answered with 429.
    pub throttled: u32,
    /// Requests that got no connection.
    pub refused: u32,
}

/// One vault.
#[derive(Debug)]
pub struct Service {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    start: Instant,
    limit: usize,
    /// When the requests of the last [`WINDOW`] were answered.
    answered: VecDeque<Instant>,
    seconds: Vec<Second>,
    down: bool,
    /// The version of every object.
    version: u32,
    random: StdRng,
}

impl Service {
    /// A vault whose objects have version 1, and that answers so many requests in [`WINDOW`].
    pub fn new(limit: usize, seed: u64) -> Self {
        let state = State {
            limit,
            start: Instant::now(),
            answered: VecDeque::new(),
            seconds: Vec::new(),
            down: false,
            version: 1,
            random: StdRng::seed_from_u64(seed),
        };
        Self { state: Mutex::new(state) }
    }

    /// Nobody gets a connection, or everybody does.
    pub fn set_down(&self, down: bool) {
        self.state.lock().down = down;
    }

    /// Every object gets a new version.
    pub fn change(&self) {
        self.state.lock().version += 1;
    }

    /// What arrived, second by second.
    pub fn seconds(&self) -> Vec<Second> {
        self.state.lock().seconds.clone()
    }

    /// The status of a request that arrives now, and the version that it sees. No status without a connection.
    fn take(&self) -> (Option<u16>, u32, Duration) {
        let mut state = self.state.lock();
        let now = Instant::now();
        while state.answered.front().is_some_and(|answered| now.duration_since(*answered) >= WINDOW) {
            state.answered.pop_front();
        }
        let status = match (state.down, state.answered.len() < state.limit) {
            (true, _) => None,
            (false, true) => Some(200),
            (false, false) => Some(429),
        };
        let second = usize::try_from(now.duration_since(state.start).as_secs()).expect("a few thousand");
        if state.seconds.len() <= second {
            state.seconds.resize(second + 1, Second::default());
        }
        let counted = &mut state.seconds[second];
        match status {
            None => counted.refused += 1,
            Some(429) => counted.throttled += 1,
            Some(_) => {
                counted.served += 1;
                state.answered.push_back(now);
            }
        }
        let latency = LATENCY.mul_f64(1.0 + 0.5 * state.random.random::<f64>());
        (status, state.version, latency)
    }
}

impl Transport for Service {
    fn execute(&self, request: reqwest::Request) -> BoxFuture<'_, Result<reqwest::Response, Unreachable>> {
        async move {
            let (status, version, latency) = self.take();
            sleep(latency).await;
            let Some(status) = status else { return Err(Unreachable::connection("connection refused")) };
            let (host, path) = (request.url().host_str().unwrap_or_default(), request.url().path());
            let body = if status == 200 {
                format!(r#"{{"id":"https://{host}{path}v{version}","value":"{}"}}"#, "s".repeat(32))
            } else {
                // As recorded: without Retry-After.
                r#"{"error":{"code":"Throttled","message":"Request was not processed because too many requests were received."}}"#.to_owned()
            };
            let answer = http::Response::builder().status(status).body(body).expect("a valid answer");
            Ok(answer.into())
        }
        .boxed()
    }
}
