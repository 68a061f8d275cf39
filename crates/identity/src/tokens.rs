//! The node's token service: one identity, one token, however many pods ask.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use secrecy::ExposeSecret;
use time::OffsetDateTime;
use tracing::debug;

use crate::{
    AUDIENCE_IDENTITY_BINDING, Asker, Authority, ClientId, Config, Credential, Error, Flavour, Mode, Policy,
    Proof, TenantId, VmIdentity, VmIdentitySource,
    adfs::AdFs,
    arc::ArcSource,
    cache::{Counters, Identity, Source},
    cloud::FEDERATED_AUDIENCES,
    credential::Handle,
    entra::{Entra, Party, Shown, Way},
    error::chain,
    gate::Gate,
    imds::Imds,
    token_proxy::TokenProxy,
};

/// Requests to the metadata service at the same time: its limit per VM.
const AT_ONCE: usize = 5;
/// Requests to the metadata service in one second: its limit per VM.
const PER_SECOND: usize = 20;

/// The node's token service. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Tokens(Arc<Shared>);

struct Shared {
    http: reqwest::Client,
    vm_http: reqwest::Client,
    vm_identity: VmIdentitySource,
    token_proxy: Option<Arc<TokenProxy>>,
    policy: Policy,
    idle: Duration,
    gate: Arc<Gate>,
    /// Secrets enter keys only as digests under this key, which lives and dies with the process.
    salt: hmac::Key,
    identities: Mutex<HashMap<String, Arc<Identity>>>,
    sweeping: AtomicBool,
    counters: Arc<Counters>,
}

/// What the token service has done since the start, and holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Identities whose tokens are kept for sharing.
    pub identities: usize,
    /// Token requests begun, renewals included; repetitions within one request not counted.
    pub requests: u64,
    /// Token requests that brought no token.
    pub failures: u64,
    /// Tokens handed out without waiting.
    pub served: u64,
    /// How long ago the oldest of the tokens at hand was received.
    pub oldest: Option<Duration>,
}

impl Tokens {
    /// Sets the service up. Reaches out to nothing yet.
    ///
    /// # Errors
    /// [`Error::TokenProxy`] for a proxy URL that cannot be used, [`Error::Internal`] if the platform gives
    /// no randomness or no HTTP client.
    pub fn new(config: Config) -> Result<Self, Error> {
        let mut vm_http = reqwest::Client::builder()
            // The metadata service refuses what comes through a proxy, and a proxy must not see its tokens.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(2));
        if config.vm_identity.url().scheme() == "http" {
            // Without TLS no CA need be loaded and kept.
            vm_http = vm_http.tls_certs_only([]);
        }
        let vm_http = vm_http.build().map_err(|e| Error::internal(chain(&e)))?;
        let mut salt = [0; 32];
        SystemRandom::new().fill(&mut salt).map_err(|_| Error::internal("no randomness"))?;
        Ok(Self(Arc::new(Shared {
            http: config.http,
            vm_http,
            vm_identity: config.vm_identity,
            token_proxy: config.token_proxy.map(TokenProxy::new).transpose()?.map(Arc::new),
            policy: config.policy,
            idle: config.idle,
            gate: Arc::new(Gate::new(AT_ONCE, PER_SECOND)),
            salt: hmac::Key::new(hmac::HMAC_SHA256, &salt),
            identities: Mutex::default(),
            sweeping: AtomicBool::new(false),
            counters: Arc::default(),
        })))
    }

    /// The credential of an identity for a pod. No request is sent until a token is asked for.
    ///
    /// Credentials for the same identity and the same asker share their tokens, node-wide. With each call the
    /// proof in `mode` (the kubelet's newest token) becomes the one that renewals show.
    ///
    /// A service account token that does not decode, is expired, or whose subject or audience is not the
    /// asker's gets a credential that shares nothing with anyone: [`Credential::key`] is `None`. `authority`
    /// does not matter for VM identities.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] by policy, [`Error::Unsupported`] for an identity this node does not have.
    pub fn credential(&self, asker: &Asker, authority: &Authority, mode: Mode) -> Result<Credential, Error> {
        self.0.policy.admit(asker, authority, &mode)?;
        let plan = self.0.plan(asker, authority, mode)?;
        let Plan { key, proof, name, from, source } = plan;
        let key = match key {
            Ok(key) => key,
            Err(doubt) => {
                debug!(identity = name, pod = asker.pod, doubt, "nothing is shared with this pod");
                let identity = Arc::new(Identity::new(name.clone(), source, self.0.counters.clone()));
                return Ok(Credential(Arc::new(Handle { identity, key: Err(doubt), name, from })));
            }
        };
        let identity = {
            let mut identities = self.0.identities.lock();
            if let Some((known, shown)) = identities.get(&key).map(|known| (known.clone(), proof)) {
                known.renew_from(source, shown);
                known
            } else {
                let new = Arc::new(Identity::new(name.clone(), source, self.0.counters.clone()));
                identities.insert(key.clone(), new.clone());
                new
            }
        };
        self.0.sweep_in_background();
        Ok(Credential(Arc::new(Handle { identity, key: Ok(key), name, from })))
    }

    /// What was done and is held.
    pub fn stats(&self) -> Stats {
        let counters = &self.0.counters;
        let (identities, oldest) = {
            let identities = self.0.identities.lock();
            (identities.len(), identities.values().filter_map(|identity| identity.oldest()).max())
        };
        Stats {
            identities,
            oldest,
            requests: counters.requests.load(Relaxed),
            failures: counters.failures.load(Relaxed),
            served: counters.served.load(Relaxed),
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// How an identity is named, told apart and asked for.
struct Plan {
    /// What its tokens are shared under, or why they must not be shared.
    key: Result<String, String>,
    /// Whether the source brings a proof that may differ from the last one under the same key.
    proof: bool,
    name: String,
    /// Where its tokens come from, for messages.
    from: String,
    source: Arc<dyn Source>,
}

impl Shared {
    fn plan(&self, asker: &Asker, authority: &Authority, mode: Mode) -> Result<Plan, Error> {
        match mode {
            Mode::VmIdentity(identity) => self.plan_vm(identity),
            Mode::WorkloadIdentity { tenant, client_id, assertion } => {
                let way = Way::Direct(self.http.clone());
                self.plan_app(asker, authority, tenant, client_id, Shown::Assertion(assertion), way)
            }
            Mode::TokenProxy { tenant, client_id, assertion } => {
                let proxy = self.token_proxy.clone().ok_or_else(|| {
                    unsupported(
                        "proxy transport not available: identity bindings are not enabled on this node",
                    )
                })?;
                let way = Way::Proxy(proxy);
                self.plan_app(asker, authority, tenant, client_id, Shown::Assertion(assertion), way)
            }
            Mode::ServicePrincipal { tenant, client_id, proof } => {
                let shown = match proof {
                    Proof::Secret(secret) => Shown::Secret(secret),
                    Proof::Certificate(certificate) => Shown::Certificate(certificate),
                };
                let way = Way::Direct(self.http.clone());
                self.plan_app(asker, authority, tenant, client_id, shown, way)
            }
        }
    }

    fn plan_vm(&self, identity: VmIdentity) -> Result<Plan, Error> {
        let name = identity.to_string();
        // The same for all pods: policy has decided who may use it.
        let key = format!("vm {identity:?}");
        let (client, gate) = (self.vm_http.clone(), self.gate.clone());
        let from = self.vm_identity.url().as_str().trim_end_matches('/').to_owned();
        let source: Arc<dyn Source> = match &self.vm_identity {
            VmIdentitySource::Imds(endpoint) => {
                Arc::new(Imds { client, endpoint: endpoint.clone(), identity, gate })
            }
            VmIdentitySource::Arc(agent) if identity == VmIdentity::SystemAssigned => {
                Arc::new(ArcSource { client, agent: agent.clone(), gate })
            }
            VmIdentitySource::Arc(_) => {
                return Err(Error::Unsupported {
                    reason: format!(
                        "{name} was asked for, but machines of Azure Arc have a system-assigned identity only: \
                         leave userAssignedIdentityID empty, or use workload identity"
                    ),
                });
            }
        };
        Ok(Plan { key: Ok(key), proof: false, name, from, source })
    }

    fn plan_app(
        &self,
        asker: &Asker,
        authority: &Authority,
        tenant: TenantId,
        client_id: ClientId,
        shown: Shown,
        way: Way,
    ) -> Result<Plan, Error> {
        let name = format!("client id {client_id} in tenant {tenant}, for {asker}");
        let mut doubt = None;
        let proof = match &shown {
            Shown::Assertion(assertion) => {
                let (audiences, purpose) = match way {
                    Way::Direct(_) => (FEDERATED_AUDIENCES, "federated"),
                    Way::Proxy(_) => (&[AUDIENCE_IDENTITY_BINDING][..], "bound"),
                };
                doubt = assertion.doubt(asker, audiences, OffsetDateTime::now_utc());
                purpose.to_owned()
            }
            Shown::Secret(secret) => format!("secret {}", self.digest(secret.expose_secret().as_bytes())),
            Shown::Certificate(certificate) => {
                format!("certificate {}", self.digest(certificate.fingerprint()))
            }
        };
        // Debug quotes each part and escapes quotes in it, so that no two lists of parts make the same key.
        let key = doubt.map_or_else(
            || {
                Ok(format!(
                    "app {proof} {:?} {:?} {:?} {:?} {:?}",
                    authority.to_string(),
                    tenant.as_str(),
                    client_id.as_str(),
                    asker.namespace,
                    asker.service_account
                ))
            },
            Err,
        );
        let bound = matches!(way, Way::Proxy(_));
        let from = match &way {
            Way::Direct(_) => authority.to_string(),
            Way::Proxy(_) => format!("{authority} through the cluster's token proxy"),
        };
        let party =
            Party { authority: authority.clone(), tenant, client_id, description: name.clone(), bound };
        let proof = shown.assertion().is_some();
        let source: Arc<dyn Source> = match (authority.flavour(), way) {
            (Flavour::AdFs, Way::Direct(client)) => Arc::new(AdFs { party, shown, client }),
            (Flavour::AdFs, Way::Proxy(_)) => {
                return Err(unsupported("identity bindings do not work with tenant adfs"));
            }
            (Flavour::Entra, way) => Arc::new(Entra { party, shown, way }),
        };
        Ok(Plan { key, proof, name, from, source })
    }

    fn digest(&self, secret: &[u8]) -> String {
        HEXLOWER.encode(hmac::sign(&self.salt, secret).as_ref())
    }

    /// Forgets identities nobody has a credential for and nobody has asked for in a while.
    fn sweep(&self) -> usize {
        let mut identities = self.identities.lock();
        identities.retain(|_, identity| Arc::strong_count(identity) > 1 || identity.idle() < self.idle);
        identities.len()
    }

    /// Sees to it that a sweep is running as long as there is something to sweep.
    fn sweep_in_background(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.sweeping.swap(true, Relaxed) {
            return;
        }
        let (weak, pause): (Weak<Self>, _) =
            (Arc::downgrade(self), (self.idle / 2).max(Duration::from_secs(1)));
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(shared) = weak.upgrade() else { return };
                if shared.sweep() == 0 {
                    shared.sweeping.store(false, Relaxed);
                    // One that came in between found the flag set and relies on this sweep.
                    if shared.identities.lock().is_empty() || shared.sweeping.swap(true, Relaxed) {
                        return;
                    }
                }
            }
        });
    }
}

fn unsupported(reason: &str) -> Error {
    Error::Unsupported { reason: reason.to_owned() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Cloud;

    /// A client for tests that send nothing.
    pub(crate) fn client() -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::builder().tls_certs_only([]).build().unwrap()
    }

    fn machine(tokens: &Tokens) -> Credential {
        let asker = Asker { namespace: "n".into(), service_account: "s".into(), pod: "p".into() };
        let authority = Cloud::default().authority(&TenantId::parse("t").unwrap()).unwrap();
        tokens.credential(&asker, &authority, Mode::VmIdentity(VmIdentity::SystemAssigned)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn identities_are_kept_while_in_use_and_some_time_after() {
        let config = Config::new(client()).unwrap();
        let idle = config.idle;
        let tokens = Tokens::new(config).unwrap();
        let first = machine(&tokens);
        let second = first.clone();
        drop(first);
        tokio::time::sleep(idle * 3).await;
        assert_eq!(tokens.stats().identities, 1, "in use");
        drop(second);
        drop(machine(&tokens));
        tokio::time::sleep(idle / 2).await;
        assert_eq!(tokens.stats().identities, 1, "used lately");
        tokio::time::sleep(idle * 2).await;
        assert_eq!(tokens.stats().identities, 0, "forgotten");
        // The sweep has ended with the last one and begins anew with the next.
        drop(machine(&tokens));
        tokio::time::sleep(idle * 2).await;
        assert_eq!(tokens.stats().identities, 0, "forgotten again");
    }

    #[test]
    fn no_runtime_is_needed_to_make_a_credential() {
        let tokens = Tokens::new(Config::new(client()).unwrap()).unwrap();
        assert_eq!(machine(&tokens).key(), machine(&tokens).key());
    }
}
