//! Kubernetes Secrets that are kept in step with mounted files: `spec.secretObjects` of a class.
//!
//! Many pods on many nodes ask for the same Secret. What holds then:
//!
//! * A Secret that is as it should be is not written. One of a Deployment with a hundred pods costs a GET and a POST, and
//!   after that one GET of its metadata per node and [interval](Options::check_every).
//! * What others have put into it, labels, annotations, keys, owners, finalizers, stays.
//! * A Secret that does not carry the label [`MANAGED_LABEL`] belongs to somebody else and is left alone.
//!
//! # How a Secret is written
//!
//! GET; POST where there is none (two nodes at once: one of them gets AlreadyExists and looks again); else a JSON merge patch
//! of just what differs, with the `resourceVersion` that was looked at, so that it fails if anybody wrote in between, and then
//! all starts over. The owner references go into the same write: the ones that were there, and the pod's.
//!
//! Server-side apply looks like the natural tool, and is not. The POST, which has to be one because apply would adopt a
//! Secret that somebody created meanwhile, is recorded as an *update* of our field manager. Keys recorded so are not removed by
//! a later apply, so that each Secret would need its `managedFields` rewritten first. And all nodes share one field manager,
//! so that an apply with one node's owners takes away the others'. A merge patch has one kind of record, says removal in so
//! many words, and sends nobody's content but ours.
//!
//! Which entries are ours is what `managedFields` is for: a key, label or annotation that a class no longer lists goes if our
//! name, or that of the Secrets Store CSI Driver, is on it. So Secrets made by that driver are taken over as they are.
//!
//! # Two classes, one Secret
//!
//! That is a mistake in the classes, and no node alone can see it. So each Secret says which class it was made from last
//! ([`MADE_FROM`]), and what that class makes of its files, as a hash of keys, labels and annotations. A new volume takes the
//! Secret over. Where an older volume of another class then comes to look, it finds the other's name, and as long as pods
//! somewhere mount that class it leaves the Secret alone and says so. So the Secret changes hands with a mount, and never because
//! two nodes correct each other.

mod check;
mod desired;
mod difference;
mod error;
mod live;
mod memory;

pub use check::check;
pub use error::{SecretError, SecretFault};

use crate::class::SecretObject;
use crate::csi::request::Pod;
use crate::kubernetes::said;
use crate::pod_status::PodStatuses;
use desired::{Desired, Fingerprint, MadeFrom};
use difference::{Occasion, change, differences};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use live::{Live, Metadata, Secrets};
use memory::{Known, Memory, Seen, Volume};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// Marks the Secrets this driver, or the Secrets Store CSI Driver, may write.
pub const MANAGED_LABEL: &str = "secrets-store.csi.k8s.io/managed";

/// The annotation that says which class a Secret was made from last.
pub const MADE_FROM: &str = "secrets-store.csi.k8s.io/made-from";

/// The name our writes are recorded under in `managedFields`.
pub const FIELD_MANAGER: &str = "akv-csi";

/// Each failed attempt means that somebody else has got through, so this many suffice for as many nodes at once.
const ATTEMPTS: u32 = 12;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// The files of a volume: bytes by path within the volume.
pub type Files<'a> = BTreeMap<&'a str, &'a [u8]>;

/// What Secrets are wanted, and by whom.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The pod the volume belongs to.
    pub pod: &'a Pod,
    /// Name of the class, which is in the pod's namespace.
    pub class: &'a str,
    /// The class's `secretObjects`.
    pub secret_objects: &'a [SecretObject],
    /// What is mounted.
    pub files: &'a Files<'a>,
    /// Where the files come from.
    pub source: Source,
    /// Who keeps the Secrets alive: the pod's owners, or for a pod without any its pod status object. Only their API version,
    /// kind, name and UID count.
    pub owners: &'a [OwnerReference],
}

impl fmt::Debug for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").field("pod", &self.pod).field("class", &self.class).finish_non_exhaustive()
    }
}

/// Where a volume's files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From the vault, just now, for a volume that was mounted with them. Its class takes the Secret over, whoever had it.
    NewVolume,
    /// From the vault, just now. If this is the first that is heard of the volume, its content is news.
    Vault,
    /// From the mounted volume, where they may have been for long. They are news to nobody: they are written where a Secret is
    /// missing or somebody has tampered with it.
    Volume,
}

/// What became of a Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    /// It was not there.
    Created,
    /// Content, labels, annotations or owners were not as wanted.
    Updated,
    /// Nothing was written.
    Unchanged,
}

/// The choices of the operator.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How often a Secret is looked at though nothing has changed here, for the case that it was deleted or changed.
    pub check_every: Duration,
}

impl Default for Options {
    /// Every five minutes, as the Secrets Store CSI Driver does.
    fn default() -> Self {
        Self { check_every: Duration::from_secs(300) }
    }
}

/// Keeps Secrets in step with files.
///
/// Needs the RBAC rule `secrets: [get, create, patch]`, which the Helm value `syncSecret.enabled` grants, and
/// `secretproviderclasspodstatuses: [list]` to see whether a class is in use.
pub struct SyncedSecrets {
    secrets: Secrets,
    statuses: PodStatuses,
    options: Options,
    memory: Memory,
    random: SystemRandom,
    fingerprints: hmac::Key,
}

impl fmt::Debug for SyncedSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncedSecrets").field("options", &self.options).finish_non_exhaustive()
    }
}

impl SyncedSecrets {
    /// Writes Secrets through this client.
    pub fn new(client: kube::Client, options: Options) -> Self {
        let random = SystemRandom::new();
        let mut key = [0; 32];
        // Without randomness the process could do no TLS either; an unkeyed fingerprint never leaves it.
        if random.fill(&mut key).is_err() {
            tracing::warn!("no random numbers for the fingerprints of Secrets");
        }
        let fingerprints = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let statuses = PodStatuses::new(client.clone(), "");
        let secrets = Secrets::new(client);
        Self { secrets, statuses, options, memory: Memory::default(), random, fingerprints }
    }

    /// Brings the Secrets of one volume up to date. One result for each of its `secretObjects`, in their order: one that
    /// fails does not hold up the others.
    pub async fn sync(&self, wanted: Wanted<'_>) -> Vec<Result<Synced, SecretError>> {
        let owners = stripped(wanted.owners);
        let each = wanted.secret_objects.iter().enumerate().map(|(index, object)| {
            let owners = &owners;
            async move {
                let result = match check::same_name(wanted.secret_objects, index) {
                    Some(fault) => Err(fault),
                    None => self.sync_one(&wanted, object, owners).await,
                };
                result.map_err(|fault| {
                    let name = object.secret_name.trim();
                    let secret = if name.is_empty() {
                        String::new()
                    } else {
                        format!("{}/{name}", wanted.pod.namespace)
                    };
                    SecretError { index, secret, fault }
                })
            }
        });
        futures::future::join_all(each).await
    }

    /// Whether [`sync`](Self::sync) would do more than look into memory, for a volume whose content has not changed. So a
    /// caller who would have to read the files first can leave it.
    pub fn is_due(&self, pod: &Pod, class: &str, secret_objects: &[SecretObject]) -> bool {
        let volume = Volume::new(pod, class);
        secret_objects.iter().any(|object| {
            let Some(known) = self.memory.get(&pod.namespace, object.secret_name.trim()) else { return true };
            // Whoever has the lock is at it.
            let Ok(mut known) = known.try_lock() else { return false };
            known.speak_of(&volume);
            let fresh = |seen: &Seen| seen.checked.elapsed() < self.options.check_every;
            known.content_of(&volume).is_none() || !known.seen.as_ref().is_some_and(fresh)
        })
    }

    /// Forgets what is remembered of a pod that is gone. Its Secrets stay: Kubernetes deletes them with their last owner.
    pub fn forget(&self, pod: &Pod) {
        self.memory.forget(pod);
    }

    /// How many Secrets are remembered.
    pub fn known(&self) -> usize {
        self.memory.len()
    }

    async fn sync_one(
        &self,
        wanted: &Wanted<'_>,
        object: &SecretObject,
        owners: &[OwnerReference],
    ) -> Result<Synced, SecretFault> {
        let desired = Desired::of(object, wanted.files)?;
        let content = desired.fingerprint(&self.fingerprints);
        let made_from = MadeFrom { class: wanted.class.to_owned(), shape: desired.shape() };
        let namespace = wanted.pod.namespace.as_str();
        let volume = Volume::new(wanted.pod, wanted.class);

        // One at a time in this process: the pods of a Deployment start together, and the first does the work for all.
        let known = self.memory.of(namespace, &desired.name);
        let mut known = known.lock().await;
        known.speak_of(&volume);
        let before = known.content_of(&volume);
        let in_place = known.seen.as_ref().is_some_and(|seen| seen.content == Some(content));
        if let Some(rival) = known.rival_of(&made_from)
            && before.is_some()
            && !in_place
        {
            // A new class takes a Secret over with its first volume. That the old one then takes it back, and so on for
            // ever, helps nobody.
            return Err(SecretFault::TwoClasses { other: rival.to_owned() });
        }

        if let Some(seen) = &known.seen
            && (in_place || before == Some(content))
            && !known.made_from.as_ref().is_some_and(|other| other.rivals(&made_from))
            && owners.iter().all(|owner| seen.owners.contains(&owner.uid))
        {
            let fresh = seen.checked.elapsed() < self.options.check_every;
            if fresh || self.is_still(namespace, &desired.name, seen).await? {
                if !fresh && let Some(seen) = &mut known.seen {
                    seen.checked = Instant::now();
                }
                known.synced(&volume, content);
                return Ok(Synced::Unchanged);
            }
        }

        let news = match (before, wanted.source) {
            (Some(before), _) => before != content,
            (None, Source::NewVolume | Source::Vault) => true,
            (None, Source::Volume) => false,
        };
        let takes_over = before.is_none() && wanted.source == Source::NewVolume;
        let go =
            Go { namespace, desired: &desired, content, owners, news, made_from: &made_from, takes_over };
        let outcome = self.reconcile(go, &mut known).await?;
        if outcome != Synced::Unchanged {
            tracing::info!(
                secret = %format_args!("{namespace}/{}", desired.name), pod = %wanted.pod, class = wanted.class,
                outcome = ?outcome, "synced a Kubernetes Secret"
            );
        }
        if known.seen.as_ref().is_some_and(|seen| seen.content == Some(content)) {
            if let Some(rival) = known.rival_of(&made_from) {
                tracing::warn!(
                    secret = %format_args!("{namespace}/{}", desired.name), class = wanted.class, rival,
                    "two SecretProviderClasses write one Secret; this one's volume is newer and counts"
                );
            }
            known.made_from = Some(made_from);
        }
        known.synced(&volume, content);
        Ok(outcome)
    }

    /// Whether a Secret is the one that was seen.
    async fn is_still(&self, namespace: &str, name: &str, seen: &Seen) -> Result<bool, SecretFault> {
        let found =
            self.secrets.get_metadata(namespace, name).await.map_err(|error| SecretFault::of(&error))?;
        Ok(found.is_some_and(|live| live.uid == seen.uid && live.resource_version == seen.resource_version))
    }

    /// Looks at a Secret and writes what is due, until nobody comes in between.
    async fn reconcile(&self, go: Go<'_>, known: &mut Known) -> Result<Synced, SecretFault> {
        let Go { namespace, desired, content, owners, mut news, made_from, takes_over } = go;
        let (name, origin) = (desired.name.as_str(), made_from.to_string());
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(self.pause(attempt)).await;
            }
            let live = self.secrets.get(namespace, name).await.map_err(|error| SecretFault::of(&error))?;
            let Some(live) = live else {
                match self.secrets.create(namespace, desired, &origin, owners).await {
                    Ok(created) => {
                        known.seen = Some(seen(created, Some(content)));
                        return Ok(Synced::Created);
                    }
                    Err(kube::Error::Api(status)) if status.is_already_exists() => continue,
                    Err(error) => return Err(SecretFault::of(&error)),
                }
            };
            refuse(namespace, desired, &live)?;
            if let Some(other) = live.made_from().filter(|other| other.rivals(made_from)) {
                if !takes_over && self.is_in_use(namespace, &other.class).await {
                    return Err(SecretFault::TwoClasses { other: other.class });
                }
                // What this class has written before is not there any more.
                news = true;
                tracing::debug!(
                    secret = %format_args!("{namespace}/{name}"), class = made_from.class, other = other.class,
                    "this class takes the Secret over from another"
                );
            }

            let occasion = match &known.seen {
                _ if news => Occasion::News,
                Some(seen) if seen.uid == live.metadata.uid => {
                    Occasion::Check { written: seen.written.as_deref() }
                }
                _ => Occasion::Check { written: None },
            };
            let all = differences(desired, &live);
            let count = all.len();
            let due: Vec<_> = all.into_iter().filter(|one| one.is_due(occasion, &live)).collect();
            let content = (due.len() == count).then_some(content);
            let new_owners: Vec<_> = owners
                .iter()
                .filter(|owner| live.owners().iter().all(|live| live.uid != owner.uid))
                .collect();
            let change = change(&live, &due, &new_owners, content.is_some().then_some(origin.as_str()));
            if change.is_empty() {
                known.seen = Some(seen(live.metadata, content));
                return Ok(Synced::Unchanged);
            }
            if change.is_of_content() && live.immutable == Some(true) {
                return Err(SecretFault::Immutable);
            }
            match self.secrets.change(namespace, name, &change).await {
                Ok(changed) => {
                    known.seen = Some(seen(changed, content));
                    return Ok(Synced::Updated);
                }
                // Somebody was faster, or it is gone.
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {}
                Err(error) => return Err(SecretFault::of(&error)),
            }
        }
        Err(SecretFault::Contended { attempts: ATTEMPTS })
    }

    /// Whether pods mount a class, on whatever node. If that cannot be found out they do, as far as anybody can tell.
    async fn is_in_use(&self, namespace: &str, class: &str) -> bool {
        let answer = self.statuses.any_of(namespace, class).await;
        answer.unwrap_or_else(|error| {
            tracing::debug!(
                namespace,
                class,
                error = said(&error),
                "it is not known whether pods mount a class"
            );
            true
        })
    }

    /// How long to wait before another attempt: longer each time, and not as long as the other nodes.
    fn pause(&self, attempt: u32) -> Duration {
        let longest = (FIRST_PAUSE * 2u32.saturating_pow(attempt)).min(LONGEST_PAUSE);
        let mut dice = [0];
        let _ = self.random.fill(&mut dice);
        longest / 2 + longest * u32::from(dice[0]) / 512
    }
}

/// What one go is to bring about.
#[derive(Clone, Copy)]
struct Go<'a> {
    namespace: &'a str,
    desired: &'a Desired,
    content: Fingerprint,
    owners: &'a [OwnerReference],
    /// The content is new, so it is written over what there is.
    news: bool,
    made_from: &'a MadeFrom,
    /// It may be written over what another class has made.
    takes_over: bool,
}

/// The owners as they go into a Secret: each once, and none of them in control of it.
fn stripped(owners: &[OwnerReference]) -> Vec<OwnerReference> {
    let mut stripped: Vec<OwnerReference> = Vec::with_capacity(owners.len());
    for owner in owners {
        if stripped.iter().all(|other| other.uid != owner.uid) {
            stripped.push(OwnerReference { controller: None, block_owner_deletion: None, ..owner.clone() });
        }
    }
    stripped
}

fn seen(live: Metadata, content: Option<Fingerprint>) -> Seen {
    let written = live.written().map(str::to_owned);
    Seen {
        uid: live.uid,
        resource_version: live.resource_version,
        written,
        content,
        owners: live.owner_references.into_iter().flatten().map(|owner| owner.uid).collect(),
        checked: Instant::now(),
    }
}

/// Reasons to leave a Secret alone that is there.
fn refuse(namespace: &str, desired: &Desired, live: &Live) -> Result<(), SecretFault> {
    if !live.is_managed() {
        return Err(SecretFault::NotOurs { namespace: namespace.to_owned(), name: desired.name.clone() });
    }
    if live.metadata.deletion_timestamp.is_some() {
        let finalizers = live.metadata.finalizers.as_deref().unwrap_or_default().join(", ");
        return Err(SecretFault::BeingDeleted { finalizers });
    }
    // A Secret without a type has this one.
    let kind = if live.kind.is_empty() { "Opaque" } else { &live.kind };
    if kind != desired.kind {
        return Err(SecretFault::OtherType { live: kind.to_owned(), wanted: desired.kind.clone() });
    }
    Ok(())
}
