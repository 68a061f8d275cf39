//! Asking a vault: one pooled HTTP client, all objects of a volume at once, inside one deadline.

mod api;
mod auth;
mod contents;
mod error;
mod exchange;
mod lenient;
mod limits;
mod retry;
mod transport;

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, try_join_all},
    stream::FuturesUnordered,
};
use tokio::time::{Instant, sleep};
use trace::Span;
use url::Url;

pub use auth::Credential;
pub use contents::{Contents, File, Lease, ObjectVersion};
pub use error::{Failure, FailureKind, FetchError};
pub use transport::{Transport, Unreachable};

use crate::{
    ObjectKind, ObjectRequest, Rendering, VaultEndpoint, Versions,
    cache::{Cache, Failing, Key, Served, Wanted},
    convert,
    objects::cleaned,
    observe::{Lookup, Nobody, Observer},
};
use api::Answer;
use error::Cause;
use exchange::{Exchange, Learnt};
pub(crate) use limits::Urgency;
pub use limits::VaultState;
use limits::{Vault, Vaults};
use retry::Dice;

/// What was had by a call that failed all the same is kept for the kubelet's next one, two minutes later at most: where a
/// vault has an answer now and then, mounts of several objects would never have all of them.
const SECOND_TRY: Duration = Duration::from_secs(150);

/// Limits of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Requests under way to one vault at once.
    pub concurrency_per_vault: usize,
    /// The largest body accepted from a vault, in bytes. Secrets are at most 25 KB.
    pub largest_body: usize,
    /// Makes waits, which have some chance in them, the same each time.
    pub seed: Option<u64>,
    /// Is told what the client does.
    pub observer: Arc<dyn Observer>,
}

impl Default for ClientOptions {
    /// 32 requests at once, 4 MiB, waits by chance, nobody listens.
    fn default() -> Self {
        Self { concurrency_per_vault: 32, largest_body: 4 << 20, seed: None, observer: Arc::new(Nobody) }
    }
}

/// Who goes first when a vault cannot be asked for everything at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A pod waits to be started.
    Mount,
    /// A pod runs, and its volume is looked after.
    Rotation,
}

/// What one volume wants.
#[derive(Clone, Debug)]
pub struct FetchRequest<'a> {
    /// The vault.
    pub endpoint: &'a VaultEndpoint,
    /// As whom.
    pub credential: Arc<dyn Credential>,
    /// The objects, in the order of their files.
    pub objects: &'a [ObjectRequest],
    /// How certificates are written.
    pub rendering: Rendering,
    /// When the answer must be there; nothing is retried that would end later.
    pub deadline: Instant,
    /// How old a value may be that this identity fetched before; zero to ask the vault for each.
    pub max_age: Duration,
    /// How old a value may be that this identity fetched and a volume still uses, to stand in when the vault is down, slow
    /// or throttling; zero for never. A 401, 403 or 404 is an answer and ends it at once.
    pub stale_if_error: Duration,
    /// Whether a pod waits for it.
    pub priority: Priority,
}

/// Fetches objects. Cheap to clone; clones share connections, limits and cache.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    cache: Arc<Cache<Answer, Cause>>,
}

#[derive(Debug)]
struct Shared {
    transport: Arc<dyn Transport>,
    options: ClientOptions,
    vaults: Vaults,
}

impl Failing for Cause {
    fn is_transient(&self) -> bool {
        self.kind().is_transient()
    }

    fn is_definite_refusal(&self) -> bool {
        self.kind().is_definite_refusal()
    }

    fn too_late(waited: Duration) -> Self {
        Self::TooLate { waiting_for: "an answer", waited }
    }
}

/// The files of one object, and what keeps them.
#[derive(Default)]
struct Fetched {
    files: Vec<File>,
    versions: Vec<ObjectVersion>,
    held: Vec<Arc<dyn Any + Send + Sync>>,
    asked: Option<Instant>,
    /// What could not be had, where an older value stands in.
    troubles: Vec<Trouble>,
}

/// The earlier of two moments, where there are any.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// A cause, and whether it struck the list of versions.
struct Trouble {
    cause: Cause,
    listing: bool,
}

impl From<Cause> for Trouble {
    fn from(cause: Cause) -> Self {
        Self { cause, listing: false }
    }
}

impl Client {
    /// A client on `http`, whose connections, proxies and trusted CAs it uses.
    ///
    /// Build `http` with `redirect::Policy::none()`: redirects are followed here, and only to the vault they came from.
    /// It needs no total timeout: each attempt ends after a minute, and all of them with the deadline.
    pub fn new(http: reqwest::Client, options: ClientOptions) -> Self {
        Self::over(Arc::new(http), options)
    }

    /// A client that asks in another way than over the network.
    pub fn over(transport: Arc<dyn Transport>, options: ClientOptions) -> Self {
        let vaults = Vaults::new(options.concurrency_per_vault, Dice::new(options.seed));
        Self { shared: Arc::new(Shared { transport, options, vaults }), cache: Cache::new() }
    }

    /// The vaults that were asked lately, by address.
    pub fn vaults(&self) -> Vec<VaultState> {
        self.shared.vaults.states()
    }

    /// How many answers of vaults are kept for somebody, or awaited.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Fetches all objects of one volume.
    ///
    /// # Errors
    /// When any object cannot be had: every failure known by then, each with its cure. The first definite one cancels
    /// the requests still under way.
    pub async fn fetch(&self, request: FetchRequest<'_>) -> Result<Contents, FetchError> {
        let authority = request.endpoint.url().origin().ascii_serialization();
        let round = Round {
            identity: request.credential.key().map(Arc::from),
            vault: self.shared.vaults.of(&authority),
            authority: authority.into(),
            request,
            learnt: Arc::default(),
            requests: Arc::default(),
        };
        let request = &round.request;
        let mut under_way: FuturesUnordered<_> = request
            .objects
            .iter()
            .enumerate()
            .map(|(index, object)| self.object(&round, object).map(move |outcome| (index, outcome)))
            .collect();
        let mut fetched: Vec<Option<Fetched>> = request.objects.iter().map(|_| None).collect();
        let mut failures = Vec::new();
        let mut definite = false;
        loop {
            // After a definite failure only what is there already is looked at.
            let next =
                if definite { under_way.next().now_or_never().flatten() } else { under_way.next().await };
            match next {
                Some((index, Ok(files))) => fetched[index] = Some(files),
                Some((index, Err(trouble))) => {
                    let Trouble { cause, listing } = trouble;
                    definite |= !cause.kind().is_transient();
                    let identity = request.credential.describe();
                    failures.push((
                        index,
                        cause.explain(&request.objects[index], listing, request.endpoint, &identity),
                    ));
                }
                None => break,
            }
        }
        drop(under_way);
        if !failures.is_empty() {
            failures.sort_by_key(|(index, _)| *index);
            if !definite && !request.stale_if_error.is_zero() {
                let held: Vec<_> = fetched.into_iter().flatten().flat_map(|object| object.held).collect();
                tokio::spawn(async move {
                    sleep(SECOND_TRY).await;
                    drop(held);
                });
            }
            return Err(FetchError::new(failures.into_iter().map(|(_, failure)| failure).collect()));
        }
        let mut contents = Contents {
            files: Vec::new(),
            versions: Vec::new(),
            lease: Lease::default(),
            asked: None,
            stale: Vec::new(),
            requests: round.requests.load(Ordering::Relaxed),
        };
        for (object, wanted) in fetched.into_iter().flatten().zip(request.objects) {
            contents.files.extend(object.files);
            contents.versions.extend(object.versions);
            contents.lease.held.extend(object.held);
            contents.asked = earlier(contents.asked, object.asked);
            let failures = object.troubles.into_iter().map(|Trouble { cause, listing }| {
                cause.explain(wanted, listing, request.endpoint, &request.credential.describe())
            });
            contents.stale.extend(failures);
        }
        Ok(contents)
    }

    async fn object(&self, round: &Round<'_>, object: &ObjectRequest) -> Result<Fetched, Trouble> {
        let (start, most) = match &object.versions {
            Versions::Latest => return Ok(self.version(round, object, "", None).await?),
            Versions::Pinned(version) => return Ok(self.version(round, object, version, None).await?),
            Versions::History { start, most } => (start, usize::try_from(*most).unwrap_or(usize::MAX)),
        };
        let list = self
            .answer(round, object, Wish::Versions)
            .await
            .map_err(|cause| Trouble { cause, listing: true })?;
        let Answer::Versions(names) = &list.held.value else { return Ok(Fetched::default()) };
        let names =
            names.iter().skip_while(|name| start.as_ref().is_some_and(|start| start != *name)).take(most);
        let each = names.enumerate().map(|(index, name)| self.version(round, object, name, Some(index)));
        let troubles = list.stale.map(|cause| Trouble { cause, listing: true }).into_iter().collect();
        let mut fetched = Fetched { asked: Some(list.held.asked), troubles, ..Fetched::default() };
        for version in try_join_all(each).await? {
            fetched.files.extend(version.files);
            fetched.versions.extend(version.versions);
            fetched.held.extend(version.held);
            fetched.asked = earlier(fetched.asked, version.asked);
            fetched.troubles.extend(version.troubles);
        }
        fetched.held.push(list.held);
        Ok(fetched)
    }

    /// The files of one version of an object; `index` is its place in a history.
    async fn version(
        &self,
        round: &Round<'_>,
        object: &ObjectRequest,
        version: &str,
        index: Option<usize>,
    ) -> Result<Fetched, Cause> {
        let Served { held, stale } = self.answer(round, object, Wish::Version(version)).await?;
        let (kind, rendering) = (object.kind, round.request.rendering);
        let (version, parts) = if takes_long(&held.value) {
            let held = Arc::clone(&held);
            tokio::task::spawn_blocking(move || render(kind, rendering, &held.value))
                .await
                .map_err(|_| Cause::Unusable("converting it was interrupted".to_owned()))??
        } else {
            render(kind, rendering, &held.value)?
        };
        let (base, id) = match index {
            None => (object.path.clone(), format!("{}/{}", kind.as_str(), object.name)),
            Some(index) => (
                cleaned(&format!("{}/{index}", object.path)),
                format!("{}/{}/{index}", kind.as_str(), object.name),
            ),
        };
        let mode = object.mode.map(crate::FileMode::bits);
        let versions = vec![ObjectVersion { id, version }; parts.len()];
        let files = parts
            .into_iter()
            .map(|part| File { path: format!("{base}{}", part.suffix), mode, contents: part.bytes })
            .collect();
        let asked = Some(held.asked);
        let troubles = stale.map(Trouble::from).into_iter().collect();
        Ok(Fetched { files, versions, held: vec![held], asked, troubles })
    }

    /// The vault's answer, shared with whoever wants the same as the same identity.
    async fn answer(
        &self,
        round: &Round<'_>,
        object: &ObjectRequest,
        wish: Wish<'_>,
    ) -> Result<Served<Answer, Cause>, Cause> {
        let request = &round.request;
        let kind = object.kind;
        let path: Arc<str> = match wish {
            Wish::Version(version) => api::object_path(kind, &object.name, version),
            Wish::Versions => api::versions_path(kind, &object.name),
        }
        .into();
        let key = round.identity.as_ref().map(|identity| Key {
            identity: Arc::clone(identity),
            vault: Arc::clone(&round.authority),
            object: Arc::clone(&path),
        });
        let wanted = Wanted {
            max_age: request.max_age,
            stale_if_error: request.stale_if_error,
            priority: request.priority,
            deadline: request.deadline,
        };
        if let Some(key) = &key
            && let Some(cause) = round.vault.closed(request.priority)
            && let Some(served) = self.cache.instead(key, wanted, cause)
        {
            return Ok(served);
        }
        let listing = matches!(wish, Wish::Versions);
        let observer = &self.shared.options.observer;
        let asked = AtomicBool::new(false);
        let ask = |urgency: Urgency| -> BoxFuture<'static, Result<Answer, Cause>> {
            let (shared, learnt) = (Arc::clone(&self.shared), Arc::clone(&round.learnt));
            let requests = Arc::clone(&round.requests);
            // Whoever waits for it polls it; it belongs to whoever began it.
            let mut span = Span::begin("fetch from Key Vault", trace::Kind::Internal);
            span.tell("akv_csi.object.type", kind.as_str());
            span.tell("akv_csi.object.name", &object.name);
            asked.store(true, Ordering::Relaxed);
            observer.looked_up(Lookup::Miss);
            let (endpoint, credential) = (request.endpoint.clone(), Arc::clone(&request.credential));
            let (path, vault, deadline) = (Arc::clone(&path), Arc::clone(&round.vault), request.deadline);
            let work = async move {
                let url = api::address(endpoint.url(), &path);
                let url = url.ok_or_else(|| Cause::Unusable("its name makes no address".to_owned()))?;
                let exchange = Exchange {
                    transport: &*shared.transport,
                    vault: &vault,
                    urgency: &urgency,
                    endpoint: &endpoint,
                    credential: &*credential,
                    deadline,
                    largest_body: shared.options.largest_body,
                    learnt: &learnt,
                    requests: &requests,
                    observer: &*shared.options.observer,
                };
                let began = Instant::now();
                let outcome = if listing {
                    versions(&exchange, kind, url).await
                } else {
                    one(&exchange, kind, &url).await
                };
                let told = outcome.as_ref().map(|_| ()).map_err(Cause::kind);
                shared.options.observer.fetched(kind, told, began.elapsed());
                outcome
            };
            async move {
                let outcome = span.scope(work).await;
                if let Err(cause) = &outcome {
                    span.fail(cause);
                }
                outcome
            }
            .boxed()
        };
        let mut looking = std::pin::pin!(self.cache.get(key, wanted, ask));
        let at_once = looking.as_mut().now_or_never();
        if !asked.load(Ordering::Relaxed) {
            observer.looked_up(match &at_once {
                None => Lookup::Joined,
                Some(Ok(Served { stale: None, .. })) => Lookup::Hit,
                Some(_) => Lookup::Spared,
            });
        }
        let outcome = match at_once {
            Some(outcome) => outcome,
            None => looking.await,
        };
        if let Ok(Served { stale: Some(_), held }) = &outcome {
            observer.served_stale(held.asked.elapsed());
        }
        outcome
    }
}

/// One fetch, and what all its requests learn together.
struct Round<'a> {
    request: FetchRequest<'a>,
    identity: Option<Arc<str>>,
    /// Scheme, host and port of the vault.
    authority: Arc<str>,
    vault: Arc<Vault>,
    learnt: Arc<Learnt>,
    /// Sent to the vault.
    requests: Arc<AtomicU32>,
}

#[derive(Clone, Copy)]
enum Wish<'a> {
    Version(&'a str),
    Versions,
}

/// Asks for one version of an object.
async fn one(exchange: &Exchange<'_>, kind: ObjectKind, url: &Url) -> Result<Answer, Cause> {
    let body = exchange.get(url).await?;
    let parsed = match kind {
        ObjectKind::Secret { .. } => lenient::parse(&body).map(Answer::Secret),
        ObjectKind::Key => lenient::parse(&body).map(Answer::Key),
        ObjectKind::Certificate => lenient::parse(&body).map(Answer::Certificate),
    };
    parsed.map_err(|error| not_json(&error))
}

/// A parser's complaint quotes what it found, which may be a secret: only its place is told.
fn not_json(error: &serde_json::Error) -> Cause {
    Cause::Unusable(format!(
        "the answer is not what Key Vault's API promises (line {}, column {})",
        error.line(),
        error.column()
    ))
}

/// Asks for all versions of an object, page by page.
async fn versions(exchange: &Exchange<'_>, kind: ObjectKind, first: Url) -> Result<Answer, Cause> {
    /// Twenty-five versions a page: more than any object has.
    const MOST_PAGES: usize = 400;
    let mut found = Vec::new();
    let mut url = first.clone();
    for _ in 0..MOST_PAGES {
        let body = exchange.get(&url).await?;
        let page: api::Page = lenient::parse(&body).map_err(|error| not_json(&error))?;
        found.extend(page.versions(kind));
        let next = match page.next_link.as_deref().unwrap_or_default() {
            "" => return Ok(Answer::Versions(api::newest_first(found))),
            next => url.join(next).ok().and_then(|next| api::next_page(&first, next)),
        };
        url = next.ok_or(Cause::Elsewhere { what: "the next page of its versions" })?;
    }
    Err(Cause::Unusable("the list of its versions does not end".to_owned()))
}

/// Whether converting an answer derives keys, which takes too long to do between other work.
fn takes_long(answer: &Answer) -> bool {
    matches!(answer, Answer::Secret(secret) if secret.content_type.as_deref() == Some("application/x-pkcs12"))
}

/// The version an answer is of, and the files made of it.
fn render(
    kind: ObjectKind,
    rendering: Rendering,
    answer: &Answer,
) -> Result<(String, Vec<convert::Part>), Cause> {
    let nil = |what: &str| Cause::Unusable(format!("{what} is nil"));
    let unusable = |error: convert::ConvertError| Cause::Unusable(error.to_string());
    let single = |bytes| vec![convert::Part { suffix: "", bytes }];
    match (kind, answer) {
        (ObjectKind::Secret { format, encoding }, Answer::Secret(secret)) => {
            let value = secret.value.as_ref().ok_or_else(|| nil("secret value"))?;
            let id = secret.id.as_deref().ok_or_else(|| nil("secret id"))?;
            let source = convert::SecretValue {
                value,
                kid: secret.kid.as_deref(),
                content_type: secret.content_type.as_deref(),
            };
            let parts = convert::secret(&source, format, encoding, rendering).map_err(unusable)?;
            Ok((api::version_of(id), parts))
        }
        (ObjectKind::Key, Answer::Key(key)) => {
            let key = key.key.as_ref().ok_or_else(|| nil("key value"))?;
            let id = key.kid.as_deref().ok_or_else(|| nil("key id"))?;
            Ok((api::version_of(id), single(convert::public_key(key).map_err(unusable)?)))
        }
        (ObjectKind::Certificate, Answer::Certificate(certificate)) => {
            let cer = certificate.cer.as_deref().ok_or_else(|| nil("certificate value"))?;
            let id = certificate.id.as_deref().ok_or_else(|| nil("certificate id"))?;
            Ok((api::version_of(id), single(convert::certificate(cer).map_err(unusable)?)))
        }
        _ => Err(Cause::Unusable("the answer is of another kind".to_owned())),
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing {
    //! What the fuzz targets reach of this module.

    use super::{ObjectKind, api, auth::Challenge, lenient};

    pub(crate) fn bodies(bytes: &[u8]) {
        let _ = api::ServiceError::of(bytes);
        if let Ok(page) = lenient::parse::<api::Page>(bytes) {
            let _ = api::newest_first(page.versions(ObjectKind::Key).collect());
        }
        if let Ok(header) = reqwest::header::HeaderValue::from_bytes(bytes) {
            let mut headers = reqwest::header::HeaderMap::new();
            headers.insert(reqwest::header::WWW_AUTHENTICATE, header);
            let _ = Challenge::of(&headers);
        }
    }
}

#[cfg(test)]
mod tests;
