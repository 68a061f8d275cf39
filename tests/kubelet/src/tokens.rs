//! Service-account tokens for pods: what is in them, how long they are kept and when they are renewed.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::Clock;
use crate::csi_driver::TokenRequest;
use crate::error::Error;
use crate::issuer::Issuer;
use crate::manifest::PodName;
use crate::volume::uuid_of;

/// Lifetime of a token whose request names none.
const DEFAULT_LIFETIME: Duration = Duration::from_hours(1);
/// A token older than this is renewed however long it lives.
const MAX_AGE: Duration = Duration::from_hours(24);
/// Renewal comes up to this much earlier, at random, so that a node's pods do not all renew at once.
const MAX_JITTER: Duration = Duration::from_secs(10);

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenSubject {
    pub pod: PodName,
    pub pod_uid: String,
    pub service_account: String,
    pub service_account_uid: String,
    pub node: String,
}

/// Mints tokens as the API server does and keeps them as the kubelet does: until 80 % of their lifetime or 24 hours.
pub(crate) struct TokenManager {
    issuer: Issuer,
    clock: Clock,
    kept: Mutex<HashMap<(TokenSubject, TokenRequest), Kept>>,
}

struct Kept {
    token: SecretString,
    expires: OffsetDateTime,
    renew: OffsetDateTime,
}

impl TokenManager {
    pub(crate) fn new(issuer: Issuer, clock: Clock) -> Self {
        Self { issuer, clock, kept: Mutex::default() }
    }

    /// The value of `csi.storage.k8s.io/serviceAccount.tokens`: a JSON object with one entry for each audience.
    pub(crate) fn tokens_json(
        &self,
        subject: &TokenSubject,
        requests: &[TokenRequest],
    ) -> Result<SecretString, Error> {
        let mut entries = serde_json::Map::new();
        for request in requests {
            let (token, expires) = self.token(subject, request)?;
            let expires = rfc3339(expires);
            entries.insert(
                request.audience.clone(),
                json!({ "token": token.expose_secret(), "expirationTimestamp": expires }),
            );
        }
        Ok(serde_json::Value::Object(entries).to_string().into())
    }

    fn token(
        &self,
        subject: &TokenSubject,
        request: &TokenRequest,
    ) -> Result<(SecretString, OffsetDateTime), Error> {
        let now = self.clock.now();
        let key = (subject.clone(), request.clone());
        // Held while signing, so that a pod's volumes share one token.
        let mut kept = self.kept.lock();
        if let Some(found) = kept.get(&key)
            && now < found.renew
        {
            return Ok((found.token.clone(), found.expires));
        }
        let lifetime = request.expiration_seconds.map_or(DEFAULT_LIFETIME, Duration::from_secs);
        let token = self.mint(subject, request, now, lifetime)?;
        let jitter = MAX_JITTER.mul_f64(rand::random::<f64>());
        let renew = now + (lifetime.mul_f64(0.8).min(MAX_AGE)).saturating_sub(jitter);
        let expires = now + lifetime;
        kept.insert(key, Kept { token: token.clone(), expires, renew });
        Ok((token, expires))
    }

    /// The claims of a bound service-account token (Kubernetes, "Service account tokens").
    fn mint(
        &self,
        subject: &TokenSubject,
        request: &TokenRequest,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<SecretString, Error> {
        // An empty audience asks for a token for the API server, whose audience here is the issuer itself.
        let audience = if request.audience.is_empty() { self.issuer.url() } else { &request.audience };
        let TokenSubject { pod, pod_uid, service_account, service_account_uid, node } = subject;
        self.issuer.sign(&json!({
            "aud": [audience],
            "exp": (now + lifetime).unix_timestamp(),
            "iat": now.unix_timestamp(),
            "iss": self.issuer.url(),
            "jti": uuid_of(&rand::random::<[u8; 16]>()),
            "kubernetes.io": {
                "namespace": pod.namespace,
                "node": { "name": node, "uid": uuid_of(node.as_bytes()) },
                "pod": { "name": pod.name, "uid": pod_uid },
                "serviceaccount": { "name": service_account, "uid": service_account_uid },
            },
            "nbf": now.unix_timestamp(),
            "sub": format!("system:serviceaccount:{}:{service_account}", pod.namespace),
        }))
    }

    /// Drops the tokens of a pod that is gone.
    pub(crate) fn forget(&self, pod_uid: &str) {
        self.kept.lock().retain(|(subject, _), _| subject.pod_uid != pod_uid);
    }
}

/// As Kubernetes writes times: UTC, whole seconds, `Z`.
fn rfc3339(moment: OffsetDateTime) -> String {
    // Only years beyond 9999 cannot be written, and lifetimes end at 2³² seconds.
    moment.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::SystemTime;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::Value;

    use super::*;
    use crate::issuer::SigningKey;

    const NOON: u64 = 1_790_000_000;

    fn manager() -> (TokenManager, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(NOON));
        let hand = Arc::clone(&now);
        let clock = Clock::from_fn(move || {
            SystemTime::UNIX_EPOCH + Duration::from_secs(hand.load(Ordering::Relaxed))
        });
        let issuer = Issuer::new("http://127.0.0.1:1", SigningKey::of_this_process().unwrap());
        (TokenManager::new(issuer, clock), now)
    }

    fn subject(pod_uid: &str) -> TokenSubject {
        TokenSubject {
            pod: "prod/web".into(),
            pod_uid: pod_uid.into(),
            service_account: "app".into(),
            service_account_uid: "5a".into(),
            node: "node-1".into(),
        }
    }

    fn tokens(manager: &TokenManager, subject: &TokenSubject, requests: &[TokenRequest]) -> Value {
        serde_json::from_str(manager.tokens_json(subject, requests).unwrap().expose_secret()).unwrap()
    }

    #[test]
    fn a_token_carries_the_claims_of_a_bound_token() {
        let (manager, _) = manager();
        let requests = [
            TokenRequest::new("api://x"),
            TokenRequest { audience: String::new(), expiration_seconds: Some(600) },
        ];
        let tokens = tokens(&manager, &subject("p1"), &requests);
        assert_eq!(tokens["api://x"]["expirationTimestamp"], "2026-09-21T15:13:20Z");
        assert_eq!(tokens[""]["expirationTimestamp"], "2026-09-21T14:23:20Z");
        let payload = tokens["api://x"]["token"].as_str().unwrap().split('.').nth(1).unwrap();
        let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        assert_eq!(claims["jti"].as_str().unwrap().len(), 36);
        claims.as_object_mut().unwrap().remove("jti");
        assert_eq!(
            claims,
            json!({
                "iss": "http://127.0.0.1:1", "sub": "system:serviceaccount:prod:app", "aud": ["api://x"],
                "iat": NOON, "nbf": NOON, "exp": NOON + 3600,
                "kubernetes.io": {
                    "namespace": "prod",
                    "node": { "name": "node-1", "uid": uuid_of(b"node-1") },
                    "pod": { "name": "web", "uid": "p1" },
                    "serviceaccount": { "name": "app", "uid": "5a" },
                },
            })
        );
    }

    #[test]
    fn a_token_is_kept_until_eighty_percent_of_its_life() {
        let (manager, now) = manager();
        let request = [TokenRequest { audience: "a".into(), expiration_seconds: Some(1000) }];
        let first = tokens(&manager, &subject("p1"), &request);
        now.store(NOON + 789, Ordering::Relaxed);
        assert_eq!(tokens(&manager, &subject("p1"), &request), first, "kept up to ten seconds before 80 %");
        assert_ne!(tokens(&manager, &subject("p2"), &request), first, "another pod has its own");
        now.store(NOON + 800, Ordering::Relaxed);
        assert_ne!(tokens(&manager, &subject("p1"), &request), first, "renewed at 80 % at the latest");
    }

    #[test]
    fn a_long_lived_token_is_renewed_after_a_day() {
        let (manager, now) = manager();
        let request = [TokenRequest { audience: "a".into(), expiration_seconds: Some(7 * 86_400) }];
        let first = tokens(&manager, &subject("p1"), &request);
        now.store(NOON + 86_389, Ordering::Relaxed);
        assert_eq!(tokens(&manager, &subject("p1"), &request), first);
        now.store(NOON + 86_400, Ordering::Relaxed);
        assert_ne!(tokens(&manager, &subject("p1"), &request), first);
    }

    #[test]
    fn a_forgotten_pod_gets_new_tokens() {
        let (manager, _) = manager();
        let request = [TokenRequest::new("a")];
        let first = tokens(&manager, &subject("p1"), &request);
        manager.forget("p1");
        assert_ne!(tokens(&manager, &subject("p1"), &request), first);
    }
}
