//! Who asked for what, and how often.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::Serialize;

/// How many requests the log keeps; older ones are dropped, counters are not.
const LOG_LENGTH: usize = 10_000;

/// Counts since the start or the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Requests per endpoint, whatever was answered: `vault.secrets.get`, `vault.secrets.list`,
    /// `vault.secrets.versions`, the same for `keys` and `certificates`, `vault.challenge` for requests without a
    /// token, `entra.token`, `entra.openid-configuration`, `entra.keys`, `entra.discovery`, `imds.token`, …
    pub endpoints: BTreeMap<String, u64>,
    /// Requests with a token per object, as `vault/secrets/name`, in lower case; every version counts for the object.
    pub objects: BTreeMap<String, u64>,
    /// Answers per HTTP status and service, as `vault.429`; `entra.0` counts connections dropped on purpose.
    pub statuses: BTreeMap<String, u64>,
    /// Access tokens issued per client id, by the token endpoint and IMDS together.
    pub tokens: BTreeMap<String, u64>,
    /// The most requests each service (`entra`, `vault`, `imds`) had before it at the same time.
    pub peaks: BTreeMap<String, u64>,
}

impl Counters {
    /// Requests to one endpoint, 0 when it never was asked.
    pub fn endpoint(&self, name: &str) -> u64 {
        self.endpoints.get(name).copied().unwrap_or_default()
    }

    /// Requests with a token for one object, for example `("kv1", "secrets", "db-password")`.
    pub fn object(&self, vault: &str, collection: &str, name: &str) -> u64 {
        self.objects.get(&object_key(vault, collection, name)).copied().unwrap_or_default()
    }

    /// Answers with one status, for example `("vault", 429)`.
    pub fn status(&self, service: &str, status: u16) -> u64 {
        self.statuses.get(&format!("{service}.{status}")).copied().unwrap_or_default()
    }

    /// Access tokens issued to one client id.
    pub fn tokens_for(&self, client_id: &str) -> u64 {
        self.tokens.get(&client_id.to_lowercase()).copied().unwrap_or_default()
    }

    /// The most requests a service had before it at the same time, for example `"imds"`.
    pub fn peak(&self, service: &str) -> u64 {
        self.peaks.get(service).copied().unwrap_or_default()
    }

    /// All requests to Key Vault that carried a token.
    pub fn vault_requests(&self) -> u64 {
        self.endpoints
            .iter()
            .filter(|(name, _)| name.starts_with("vault.") && *name != "vault.challenge")
            .map(|(_, count)| count)
            .sum()
    }
}

/// One request as it was answered. Bodies, tokens and other headers than those named here are never kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogEntry {
    /// Seconds since the Unix epoch by the emulated clock.
    pub at: i64,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// The HTTP method.
    pub method: String,
    /// The host asked for, with its port where the client named one.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// The counter this request went to.
    pub endpoint: String,
    /// The status answered; 0 when the connection was dropped on purpose.
    pub status: u16,
    /// The header `traceparent`.
    pub traceparent: Option<String>,
    /// What the caller calls the request: the header `client-request-id`, or else `x-ms-client-request-id`.
    pub request_id: Option<String>,
}

/// Counters and request log together. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    counters: Counters,
    log: VecDeque<LogEntry>,
    /// Requests being answered, which a reset leaves alone.
    in_flight: BTreeMap<&'static str, u64>,
}

/// A request being answered; it is over when this is dropped, answered or not.
#[derive(Debug)]
pub(crate) struct InFlight {
    telemetry: Telemetry,
    service: &'static str,
}

impl InFlight {
    /// How many requests the service has before it, this one included.
    pub(crate) fn count(&self) -> u64 {
        self.telemetry.inner.lock().in_flight.get(self.service).copied().unwrap_or_default()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(count) = self.telemetry.inner.lock().in_flight.get_mut(self.service) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Telemetry {
    /// A copy of the counts.
    pub fn counters(&self) -> Counters {
        self.inner.lock().counters.clone()
    }

    /// The last requests, oldest first.
    pub fn log(&self) -> Vec<LogEntry> {
        self.inner.lock().log.iter().cloned().collect()
    }

    /// Sets every count to zero and empties the log.
    pub fn reset(&self) {
        let mut inner = self.inner.lock();
        inner.counters = Counters::default();
        inner.log.clear();
    }

    /// Counts a request when it arrives, so that one that is never answered counts too.
    pub(crate) fn arrived(&self, service: &'static str, endpoint: &str, object: Option<&str>) -> InFlight {
        let mut inner = self.inner.lock();
        let in_flight = inner.in_flight.entry(service).or_default();
        *in_flight += 1;
        let in_flight = *in_flight;
        let counters = &mut inner.counters;
        bump(&mut counters.endpoints, endpoint);
        if let Some(object) = object {
            bump(&mut counters.objects, object);
        }
        let peak = counters.peaks.entry(service.to_owned()).or_default();
        *peak = in_flight.max(*peak);
        InFlight { telemetry: self.clone(), service }
    }

    pub(crate) fn answered(&self, service: &str, entry: LogEntry) {
        let mut inner = self.inner.lock();
        bump(&mut inner.counters.statuses, &format!("{service}.{}", entry.status));
        if inner.log.len() == LOG_LENGTH {
            inner.log.pop_front();
        }
        inner.log.push_back(entry);
    }

    pub(crate) fn token_issued(&self, client_id: &str) {
        bump(&mut self.inner.lock().counters.tokens, &client_id.to_lowercase());
    }
}

pub(crate) fn object_key(vault: &str, collection: &str, name: &str) -> String {
    format!("{vault}/{collection}/{name}").to_lowercase()
}

fn bump(counts: &mut BTreeMap<String, u64>, key: &str) {
    if let Some(count) = counts.get_mut(key) {
        *count += 1;
    } else {
        counts.insert(key.to_owned(), 1);
    }
}
