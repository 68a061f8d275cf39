//! Trouble on demand: latency, throttling, server errors and outages.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// One of the services a fault can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Microsoft Entra: metadata, keys and the token endpoint; also the AKS token proxy.
    Entra,
    /// Key Vault's data plane, all vaults.
    Vault,
    /// The VM's metadata service.
    Imds,
}

/// What the `Retry-After` header of an injected answer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RetryAfter {
    /// A number of seconds.
    Seconds(u64),
    /// The header's text as given, for dates and nonsense.
    Text(String),
}

impl RetryAfter {
    pub(crate) fn header(&self) -> String {
        match self {
            Self::Seconds(seconds) => seconds.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// What happens instead of the service's own answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Fault {
    /// An HTTP error with the service's own error shape for it (429 is Key Vault's "Throttled").
    Status {
        /// The HTTP status.
        code: u16,
        /// The `Retry-After` header, absent when `None` as in Key Vault's recorded answers.
        #[serde(default)]
        retry_after: Option<RetryAfter>,
    },
    /// A refusal of Entra by its number, for those the emulator has no rules for, such as Conditional Access. From the
    /// other services the plain HTTP error.
    Refusal {
        /// The HTTP status.
        code: u16,
        /// The number after `AADSTS`.
        aadsts: u32,
    },
    /// The connection is closed without an answer (with HTTP/2: the stream is reset).
    Reset,
    /// No answer ever comes; the request ends when the fault is cleared, and then as a [`Fault::Reset`].
    Hang,
}

/// How many requests a rule hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub enum Extent {
    /// Every request until the rule is cleared.
    #[default]
    Always,
    /// The next so many requests.
    Count(u32),
    /// One request in so many: the n-th, the 2n-th and so on. 0 hits none.
    EveryNth(u32),
    /// Every request for so many milliseconds of the machine's (not the emulated) time.
    ForMs(u64),
}

/// One injected fault and the requests it hits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRule {
    /// The service hit.
    pub service: Service,
    /// Only requests whose path contains this text, for example `/secrets/db-password` or `/oauth2/v2.0/token`.
    #[serde(default)]
    pub path: Option<String>,
    /// Only requests that carry a token, so that Key Vault's challenge is still answered.
    #[serde(default)]
    pub authorized: bool,
    /// What happens.
    pub fault: Fault,
    /// How often.
    #[serde(default)]
    pub extent: Extent,
}

impl FaultRule {
    /// A rule for every request to `service`.
    pub fn new(service: Service, fault: Fault) -> Self {
        Self { service, path: None, authorized: false, fault, extent: Extent::Always }
    }

    /// An HTTP error without `Retry-After` for every request to `service`.
    pub fn status(service: Service, code: u16) -> Self {
        Self::new(service, Fault::Status { code, retry_after: None })
    }

    /// A refusal of Entra by its AADSTS number, with status 400.
    pub fn refusal(aadsts: u32) -> Self {
        Self::new(Service::Entra, Fault::Refusal { code: 400, aadsts })
    }

    /// The same with `Retry-After`. No effect on faults that are not an HTTP error.
    #[must_use]
    pub fn retry_after(mut self, after: RetryAfter) -> Self {
        if let Fault::Status { retry_after, .. } = &mut self.fault {
            *retry_after = Some(after);
        }
        self
    }

    /// The same for paths containing `text` only.
    #[must_use]
    pub fn on_path(mut self, text: impl Into<String>) -> Self {
        self.path = Some(text.into());
        self
    }

    /// The same for requests that carry a token only.
    #[must_use]
    pub fn authorized_only(mut self) -> Self {
        self.authorized = true;
        self
    }

    /// The same with another extent.
    #[must_use]
    pub fn extent(mut self, extent: Extent) -> Self {
        self.extent = extent;
        self
    }
}

struct Armed {
    rule: FaultRule,
    seen: u32,
    since: Instant,
}

/// The rules in force. Clones share them.
#[derive(Clone)]
pub struct Faults {
    inner: Arc<Mutex<Inner>>,
    cleared: Arc<tokio::sync::Notify>,
}

#[derive(Default)]
struct Inner {
    rules: Vec<Armed>,
    latency: BTreeMap<Service, Duration>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::default(), cleared: Arc::default() }
    }

    /// Adds a rule; where several match a request the first added wins.
    pub fn inject(&self, rule: FaultRule) {
        self.inner.lock().rules.push(Armed { rule, seen: 0, since: Instant::now() });
    }

    /// Every answer of `service` comes this much later; zero ends it.
    pub fn set_latency(&self, service: Service, latency: Duration) {
        self.inner.lock().latency.insert(service, latency);
    }

    /// The same for all services.
    pub fn set_latency_everywhere(&self, latency: Duration) {
        for service in [Service::Entra, Service::Vault, Service::Imds] {
            self.set_latency(service, latency);
        }
    }

    /// Ends every rule and latency; hanging requests are dropped. Closed listeners stay closed.
    pub fn clear(&self) {
        *self.inner.lock() = Inner::default();
        self.cleared.notify_waiters();
    }

    /// The rules in force, used-up ones left out.
    pub fn rules(&self) -> Vec<FaultRule> {
        self.inner
            .lock()
            .rules
            .iter()
            .filter(|armed| !armed.is_spent())
            .map(|armed| armed.rule.clone())
            .collect()
    }

    pub(crate) fn latency(&self, service: Service) -> Duration {
        self.inner.lock().latency.get(&service).copied().unwrap_or_default()
    }

    /// The fault for one request, which counts as seen by every rule that names it.
    pub(crate) fn strike(&self, service: Service, path: &str, authorized: bool) -> Option<Fault> {
        let mut inner = self.inner.lock();
        let mut hit = None;
        for armed in &mut inner.rules {
            let rule = &armed.rule;
            if rule.service != service
                || (rule.authorized && !authorized)
                || rule.path.as_ref().is_some_and(|text| !path.contains(text.as_str()))
                || armed.is_spent()
            {
                continue;
            }
            // A request already taken by an earlier rule must not use up this one's count.
            if hit.is_some() && matches!(rule.extent, Extent::Count(_)) {
                continue;
            }
            armed.seen = armed.seen.saturating_add(1);
            let strikes = match rule.extent {
                Extent::EveryNth(n) => n != 0 && armed.seen.is_multiple_of(n),
                Extent::Always | Extent::Count(_) | Extent::ForMs(_) => true,
            };
            if strikes && hit.is_none() {
                hit = Some(rule.fault.clone());
            }
        }
        hit
    }

    /// Waits until [`Faults::clear`] is called.
    pub(crate) async fn until_cleared(&self) {
        self.cleared.notified().await;
    }
}

impl Armed {
    fn is_spent(&self) -> bool {
        match self.rule.extent {
            Extent::Count(count) => self.seen >= count,
            Extent::ForMs(milliseconds) => self.since.elapsed() >= Duration::from_millis(milliseconds),
            Extent::Always | Extent::EveryNth(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(faults: &Faults, requests: usize) -> Vec<bool> {
        (0..requests).map(|_| faults.strike(Service::Vault, "/secrets/a", true).is_some()).collect()
    }

    #[test]
    fn a_counted_rule_ends_by_itself() {
        let faults = Faults::new();
        faults.inject(FaultRule::status(Service::Vault, 429).extent(Extent::Count(2)));
        assert_eq!(hits(&faults, 4), [true, true, false, false]);
        assert!(faults.rules().is_empty());
    }

    #[test]
    fn every_nth_request_is_hit() {
        let faults = Faults::new();
        faults.inject(FaultRule::status(Service::Vault, 500).extent(Extent::EveryNth(3)));
        assert_eq!(hits(&faults, 6), [false, false, true, false, false, true]);
    }

    #[test]
    fn rules_hit_only_the_requests_they_name() {
        let faults = Faults::new();
        faults.inject(FaultRule::status(Service::Vault, 500).on_path("/keys/").authorized_only());
        assert_eq!(faults.strike(Service::Vault, "/secrets/a", true), None);
        assert_eq!(faults.strike(Service::Entra, "/keys/a", true), None);
        assert_eq!(faults.strike(Service::Vault, "/keys/a", false), None);
        assert!(faults.strike(Service::Vault, "/keys/a", true).is_some());
        faults.clear();
        assert_eq!(faults.strike(Service::Vault, "/keys/a", true), None);
    }

    #[test]
    fn a_count_is_not_used_up_by_requests_another_rule_took() {
        let faults = Faults::new();
        faults.inject(FaultRule::status(Service::Vault, 429).extent(Extent::Count(1)));
        faults.inject(FaultRule::status(Service::Vault, 500).extent(Extent::Count(1)));
        let codes: Vec<_> = (0..3).map(|_| faults.strike(Service::Vault, "/secrets/a", true)).collect();
        let status = |code| Some(Fault::Status { code, retry_after: None });
        assert_eq!(codes, [status(429), status(500), None]);
    }
}
