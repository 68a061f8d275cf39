//! What is asked of Key Vault, Entra and IMDS. The metrics listen to the two crates that ask; those know nothing of metrics.

use super::catalogue::{
    CACHE_LOOKUPS, KEYVAULT_REQUEST, STALE_SERVED, TOKEN_IDENTITIES, TOKEN_OLDEST, TOKEN_REQUESTS,
    TOKENS_SERVED, VAULT_PAUSE, VAULT_RESPONSES, VAULT_THROTTLED,
};
use super::collect::{NO_LABELS, Scrape, counter, gauge};
use super::labels::{Bounded, Cause};
use super::registry::{Registries, SECONDS_OF_PROVIDER, Seconds, seconds};
use identity::Tokens;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use vault::{FailureKind, Lookup, ObjectKind};

/// Vaults with series of their own. Their names come from classes, which is from users.
const MOST_VAULTS: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Object {
    object_type: &'static str,
    error: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Looked {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Vault {
    vault: Arc<str>,
}

/// Listens to the client of Key Vault.
#[derive(Debug)]
pub struct VaultMetrics {
    fetched: Family<Object, Seconds, fn() -> Seconds>,
    lookups: Family<Looked, Counter>,
    stale: Counter,
    responses: Family<Status, Counter>,
    throttled: Family<Vault, Counter>,
    pauses: Arc<Pauses>,
}

/// Until when vaults are left in peace.
#[derive(Debug)]
struct Pauses {
    vaults: Bounded,
    until: Mutex<HashMap<Arc<str>, Instant>>,
}

impl VaultMetrics {
    pub(super) fn register(to: &mut Registries) -> Self {
        let pauses = Arc::new(Pauses { vaults: Bounded::new(MOST_VAULTS), until: Mutex::default() });
        to.collector(Scrape(Arc::clone(&pauses)));
        let vault = Self {
            fetched: to.provider(
                &KEYVAULT_REQUEST,
                Family::new_with_constructor(|| Seconds::new(SECONDS_OF_PROVIDER)),
            ),
            lookups: to.own(&CACHE_LOOKUPS, Family::default()),
            stale: to.own(&STALE_SERVED, Counter::default()),
            responses: to.own(&VAULT_RESPONSES, Family::default()),
            throttled: to.own(&VAULT_THROTTLED, Family::default()),
            pauses,
        };
        for how in [Lookup::Hit, Lookup::Joined, Lookup::Miss, Lookup::Spared] {
            let _ = vault.lookups.get_or_create(&Looked { outcome: how.as_str() });
        }
        vault
    }
}

impl vault::Observer for VaultMetrics {
    fn looked_up(&self, how: Lookup) {
        self.lookups.get_or_create(&Looked { outcome: how.as_str() }).inc();
    }

    fn fetched(&self, kind: ObjectKind, outcome: Result<(), FailureKind>, took: Duration) {
        let error = outcome.err().map_or("", |kind| Cause::from(kind).as_str());
        self.fetched.get_or_create(&Object { object_type: kind.as_str(), error }).observe(seconds(took));
    }

    fn answered(&self, status: Option<u16>) {
        self.responses.get_or_create(&Status { status: status_label(status) }).inc();
    }

    fn throttled(&self, vault: &str, pause: Duration) {
        let vault = self.pauses.vaults.label(vault);
        self.throttled.get_or_create(&Vault { vault: Arc::clone(&vault) }).inc();
        let until = Instant::now().checked_add(pause);
        if let Some(until) = until {
            let mut pauses = self.pauses.until.lock();
            let known = pauses.entry(vault).or_insert(until);
            *known = until.max(*known);
        }
    }

    fn served_stale(&self, _age: Duration) {
        self.stale.inc();
    }
}

/// Statuses that Key Vault is known for by themselves, all others by their class.
fn status_label(status: Option<u16>) -> &'static str {
    match status {
        None => "none",
        Some(200) => "200",
        Some(400) => "400",
        Some(401) => "401",
        Some(403) => "403",
        Some(404) => "404",
        Some(429) => "429",
        Some(500) => "500",
        Some(503) => "503",
        Some(504) => "504",
        Some(200..=299) => "2xx",
        Some(300..=399) => "3xx",
        Some(400..=499) => "4xx",
        Some(500..=599) => "5xx",
        Some(_) => "other",
    }
}

impl Collector for Scrape<Pauses> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let now = Instant::now();
        let pauses: Vec<_> =
            self.0.until.lock().iter().map(|(vault, until)| (Arc::clone(vault), *until)).collect();
        // A vault that was throttling once keeps its series, at zero.
        let series = pauses
            .into_iter()
            .map(|(vault, until)| ([("vault", vault)], seconds(until.saturating_duration_since(now))));
        gauge(&mut encoder, &VAULT_PAUSE, series)
    }
}

/// Asks the token service at each scrape.
#[derive(Debug)]
pub struct TokenMetrics {
    tokens: Arc<OnceLock<Tokens>>,
}

impl TokenMetrics {
    pub(super) fn register(to: &mut Registries) -> Self {
        let tokens = Arc::new(OnceLock::new());
        to.collector(Scrape(Arc::clone(&tokens)));
        Self { tokens }
    }

    /// Says which service to ask. The first one counts.
    pub fn watch(&self, tokens: Tokens) {
        let _ = self.tokens.set(tokens);
    }
}

impl Collector for Scrape<OnceLock<Tokens>> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(stats) = self.0.get().map(Tokens::stats) else { return Ok(()) };
        let identities = u32::try_from(stats.identities).unwrap_or(u32::MAX);
        let failed = stats.failures;
        // A request under way has not failed yet.
        let ok = stats.requests.saturating_sub(failed);
        counter(
            &mut encoder,
            &TOKEN_REQUESTS,
            [([("outcome", "ok")], ok), ([("outcome", "failed")], failed)],
        )?;
        counter(&mut encoder, &TOKENS_SERVED, [(NO_LABELS, stats.served)])?;
        gauge(&mut encoder, &TOKEN_IDENTITIES, [(NO_LABELS, identities)])?;
        gauge(&mut encoder, &TOKEN_OLDEST, stats.oldest.map(|age| (NO_LABELS, seconds(age))))
    }
}
