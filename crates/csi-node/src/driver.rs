//! The way of one mount, from a checked request to files in a tmpfs. A republish takes the same way; only the freshness asked
//! for differs, and what happens when something fails.

use crate::class::{Class, ClassError, ClassName, Classes};
use crate::cloud_file;
use crate::credential::{self, PodCredential};
use crate::csi::request::PublishRequest;
use crate::error::{MountError, PublishError, UnpublishError};
use crate::metrics::{Metrics, volumes::Look};
use crate::plan::{MountPlan, PlannedIdentity};
use crate::provider::{ExternalProviders, ProviderName};
use crate::reporting::{Reporting, Shown};
use crate::rotation::{Freshness, Known, Schedule};
use crate::service_account::{Annotations, ServiceAccounts};
use crate::status::{Content, IdentityKind, Ledger};
use crate::targets::Targets;
use crate::volume::{Change, Group, Payload, PayloadDigest, Seal, State, TargetPath, VolumeError, Volumes};
use identity::{Cloud, CloudChoice, Policy, Tokens};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;
use vault::{Credential, FetchRequest, Lease, ObjectVersion, Rendering, TraceId, VaultEndpoint};
use zeroize::Zeroizing;

/// The provider that is built in.
pub const AZURE: &str = "azure";

/// The mode of files whose object has no `filePermission`.
const DEFAULT_MODE: u32 = 0o644;

/// Mounting takes the kernel a fraction of a millisecond; more threads than this only cost memory.
const MOUNTS_AT_ONCE: usize = 16;

/// What fetching leaves of a call's time for writing, answering and telling what went wrong.
const MARGIN: Duration = Duration::from_secs(1);

/// How long the former generation of files stays after a switch, for readers that have already looked up `..data`.
const TIDY_AFTER: Duration = Duration::from_secs(5);

/// The choices of the operator.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How fresh volumes have to be.
    pub schedule: Schedule,
    /// Time for one call.
    pub timeout: Duration,
    /// How certificates are written.
    pub rendering: Rendering,
    /// The cloud of classes that name none.
    pub default_cloud: String,
    /// The file of `AzureStackCloud` for classes that do not name one (`AZURE_ENVIRONMENT_FILEPATH`).
    pub default_cloud_file: Option<PathBuf>,
    /// The authority of custom clouds whose file names none (`AZURE_AUTHORITY_HOST`).
    pub default_authority: Option<String>,
    /// Which identities, tenants and clouds may be used by whom.
    pub policy: Policy,
}

/// What a driver is made of.
pub struct Parts {
    /// Where classes come from.
    pub classes: Classes,
    /// Where service accounts come from.
    pub accounts: ServiceAccounts,
    /// Who is told what happens.
    pub reporting: Reporting,
    /// Tokens for pods and VMs.
    pub tokens: Tokens,
    /// Key Vault.
    pub vault: vault::Client,
    /// Providers in processes of their own.
    pub providers: ExternalProviders,
    /// What happens on disk.
    pub volumes: Arc<Volumes>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The driver behind the CSI services.
pub struct Driver {
    settings: Settings,
    classes: Classes,
    accounts: ServiceAccounts,
    reporting: Reporting,
    tokens: Tokens,
    vault: vault::Client,
    providers: ExternalProviders,
    volumes: Arc<Volumes>,
    /// Bounds the threads that mount and write at once.
    disk: Arc<Semaphore>,
    targets: Targets<Mounted>,
    metrics: Arc<Metrics>,
    /// For people to look at.
    ledger: Arc<Ledger>,
}

/// What is remembered of a mounted volume. Nothing here must survive a restart: the kubelet's next republish brings it back.
#[derive(Debug)]
struct Mounted {
    /// When the oldest part of its content was what the vault holds. `None` when somebody asked for a refresh.
    checked: Option<Instant>,
    /// How long that is good for.
    interval: Duration,
    /// The request it came from, without tokens and secrets.
    request: Arc<PublishRequest>,
    /// The class as it was then; it stays known while the volume is mounted.
    class: Class,
    source: Source,
    versions: Arc<[ObjectVersion]>,
    /// How many requests to Key Vault the last look took.
    requests: u32,
    /// Why Key Vault could not be asked for all of it, so that older values stand in.
    stale: Vec<String>,
    /// What is on disk, if that was compared with what should be there.
    proven: Option<Proven>,
}

/// That a volume shows what it should.
#[derive(Debug, Clone)]
struct Proven {
    /// What it looks like on disk.
    seal: Seal,
    /// What was written.
    digest: PayloadDigest,
}

impl Mounted {
    /// What is told of it. Something asked for a moment ago counts as of now.
    fn content(&self) -> Content {
        let (provider, identity, as_whom, vault) = match &self.source {
            Source::KeyVault { held, vault, .. } => (
                AZURE,
                Some(IdentityKind::from(&held.identity)),
                Some(held.credential.describe()),
                Some(vault.clone()),
            ),
            Source::Provider(name) => (name.as_str(), None, None, None),
        };
        Content {
            provider: provider.to_owned(),
            identity,
            as_whom,
            vault,
            versions: Arc::clone(&self.versions),
            checked: self.checked.unwrap_or_else(Instant::now),
            interval: self.interval,
        }
    }
}

/// Where a volume's content came from.
#[derive(Debug)]
enum Source {
    /// The provider that is built in.
    KeyVault {
        /// As whom it was fetched, for a refresh between two calls of the kubelet.
        held: Box<Held>,
        /// The vault's address.
        vault: String,
        /// Keeps the values it came from in the cache.
        _lease: Lease,
    },
    /// A provider in a process of its own.
    Provider(ProviderName),
}

impl Source {
    /// As what kind of identity it was fetched.
    fn identity(&self) -> Option<IdentityKind> {
        match self {
            Self::KeyVault { held, .. } => Some(IdentityKind::from(&held.identity)),
            Self::Provider(_) => None,
        }
    }

    /// The provider's name, as classes give it.
    fn provider(&self) -> &str {
        match self {
            Self::KeyVault { .. } => AZURE,
            Self::Provider(name) => name.as_str(),
        }
    }
}

/// Everything a volume is to show, and what is remembered of it.
struct Fetched {
    /// Path, mode and bytes. Only an external provider can have none, which means that nothing changes.
    files: Vec<(String, u32, Zeroizing<Vec<u8>>)>,
    versions: Arc<[ObjectVersion]>,
    /// How many requests to Key Vault it took.
    requests: u32,
    /// Why Key Vault could not be asked for all of it, so that older values stand in.
    stale: Vec<String>,
    source: Source,
    /// When the oldest part of it was what its source holds.
    checked: Instant,
    interval: Duration,
}

/// A credential and what it was made from.
#[derive(Debug, Clone)]
struct Held {
    credential: PodCredential,
    identity: PlannedIdentity,
    cloud: Cloud,
}

/// How fresh the content of a volume has to be, and how its identity is proven.
enum Demand<'a> {
    /// A call of the kubelet, with tokens and secrets, that takes values as fresh as this. The first one for a volume has no
    /// content to fall back on; what one that has content was proven to show may spare it the writing.
    Call { freshness: Freshness, first: bool, proven: Option<Proven> },
    /// A refresh in between, with the credential of the last call.
    Refresh { source: &'a Source },
}

/// How a publish call or a refresh ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The volume was mounted.
    Mounted,
    /// New content was put into the mounted volume.
    Rotated,
    /// The vault holds what the volume shows.
    Unchanged,
    /// The volume is mounted, and it is not yet time to look again.
    Fresh,
    /// Looking again failed; the volume keeps what it has.
    Kept,
}

/// Which mounted volumes are meant; what is not given picks all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Namespace of the pods.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Name of the pod.
    #[serde(default)]
    pub pod: Option<String>,
    /// Name of the class.
    #[serde(default)]
    pub class: Option<String>,
}

/// What a refresh did to one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// The pod, as namespace/name.
    pub pod: String,
    /// The class.
    pub class: String,
    /// The target path.
    pub target: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Why the content was kept.
    pub error: Option<String>,
}

impl Selection {
    fn picks(&self, request: &PublishRequest) -> bool {
        let fits =
            |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        fits(&self.namespace, &request.pod.namespace)
            && fits(&self.pod, &request.pod.name)
            && fits(&self.class, &request.class)
    }
}

impl Driver {
    /// Puts the parts together.
    pub fn new(settings: Settings, parts: Parts) -> Self {
        let Parts { classes, accounts, reporting, tokens, vault, providers, volumes, metrics } = parts;
        let disk = Arc::new(Semaphore::new(MOUNTS_AT_ONCE));
        let (targets, ledger) = (Targets::default(), Arc::default());
        Self {
            settings,
            classes,
            accounts,
            reporting,
            tokens,
            vault,
            providers,
            volumes,
            disk,
            targets,
            metrics,
            ledger,
        }
    }

    /// Mounts a volume, or looks after one that is mounted.
    ///
    /// The work runs in a task of its own: a kubelet that hangs up must not stop it halfway.
    ///
    /// # Errors
    /// [`PublishError`]. Nothing is mounted then that was not mounted before.
    pub async fn publish(self: &Arc<Self>, request: PublishRequest) -> Result<Outcome, PublishError> {
        let (driver, target) = (Arc::clone(self), request.target.clone());
        let (started, trace) = (Instant::now(), TraceId::current().unwrap_or_default());
        let work = async move {
            let target = request.target.clone();
            let _working = driver.ledger.begin(&request);
            let outcome = driver.publish_claimed(request).await;
            match &outcome {
                Ok(Outcome::Fresh) => driver.ledger.saw(&target, true),
                Ok(_) => {}
                Err(error) => {
                    driver.metrics.calls.publish_failed(error, started.elapsed());
                    driver.ledger.failed(&target, error);
                }
            }
            if matches!(outcome, Ok(Outcome::Rotated)) {
                driver.tidy_later(target);
            }
            outcome
        };
        let work = tokio::spawn(trace.scope(work).in_current_span());
        work.await.unwrap_or_else(|failure| {
            let error =
                PublishError::Internal { target: target.to_string(), cause: crate::error::ended(&failure) };
            self.metrics.calls.publish_failed(&error, started.elapsed());
            Err(error)
        })
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Removes what a switch has left, when nobody can be on the way to it any more. If this process ends before, the next
    /// publish does it.
    fn tidy_later(self: &Arc<Self>, target: TargetPath) {
        let driver = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(TIDY_AFTER).await;
            let Some(driver) = driver.upgrade() else { return };
            let _claim = driver.targets.claim(&target).await;
            if let Ok(Err(error)) = driver.on_disk(&target, Volumes::tidy).await {
                tracing::warn!(%target, %error, "the former generation of a volume stays until the next publish");
            }
        });
    }

    async fn publish_claimed(&self, request: PublishRequest) -> Result<Outcome, PublishError> {
        let started = Instant::now();
        let deadline = started + self.settings.timeout;
        let target = request.target.clone();
        let Ok(mut claim) = timeout_at(deadline, self.targets.claim(&target)).await else {
            return Err(PublishError::Busy { target: target.to_string(), waited: self.settings.timeout });
        };

        // What is on disk decides, not what is remembered: only a mount whose `..data` resolves is a published volume.
        let mount_failed = |step| PublishError::Mount { pod: request.pod.clone(), step };
        let proven = claim.as_ref().and_then(|mounted| mounted.proven.clone());
        let look = move |volumes: &Volumes, target: &TargetPath| match proven {
            Some(proven) if volumes.is_as_sealed(target, &proven.seal) => Ok((State::Complete, Some(proven))),
            _ => volumes.recover(target).map(|state| (state, None)),
        };
        let (state, proven) =
            self.on_disk(&target, look).await?.map_err(|error: VolumeError| mount_failed(error.into()))?;
        let complete = matches!(state, State::Complete);
        let known = match claim.as_ref() {
            _ if !complete => Known::Nothing,
            None => Known::Mounted,
            Some(Mounted { checked: None, .. }) => Known::RefreshAsked,
            Some(Mounted { checked: Some(at), interval, .. }) => {
                Known::Checked { at: *at, interval: *interval }
            }
        };
        let schedule = &self.settings.schedule;
        let Some(freshness) = schedule.look(&request.pod.namespace, &request.class, known) else {
            self.reporting.still_there(&request);
            let provider = claim.as_ref().map_or(AZURE, |mounted| mounted.source.provider());
            self.metrics.calls.published(provider, Outcome::Fresh, started.elapsed());
            return Ok(Outcome::Fresh);
        };
        let demand = Demand::Call { freshness, first: !complete, proven };
        match self.bring_up_to_date(&request, &demand, deadline).await {
            Ok((change, mounted)) => {
                let (objects, requests, stood_in) =
                    (mounted.versions.len(), mounted.requests, !mounted.stale.is_empty());
                let identity = mounted.source.identity().map(tracing::field::display);
                self.note(&target, &mounted, change);
                let (outcome, shown) = match change {
                    Change::Switched if complete => (Outcome::Rotated, Shown::Rotated),
                    Change::Created | Change::Switched => (Outcome::Mounted, Shown::Mounted),
                    Change::Unchanged if stood_in => (Outcome::Kept, Shown::Unchanged),
                    Change::Unchanged => (Outcome::Unchanged, Shown::Unchanged),
                };
                self.reporting.published(&mounted.request, &mounted.class, &mounted.versions, shown).await;
                self.metrics.calls.published(mounted.source.provider(), outcome, started.elapsed());
                *claim = Some(mounted);
                tracing::info!(
                    pod = %request.pod, class = %request.class, target = %target, outcome = ?outcome, identity, objects, requests,
                    stale = stood_in,
                    duration_ms = started.elapsed().as_millis(), "published"
                );
                Ok(outcome)
            }
            Err(error @ PublishError::NotReadOnly { .. }) => Err(error),
            // Older kubelets remove a volume whose republish fails, so a mounted one keeps what it has, and the call is OK.
            Err(error) if complete => {
                self.metrics.calls.publish_kept(&error, started.elapsed());
                self.metrics.volumes.kept(&target);
                self.ledger.saw(&target, true);
                self.ledger.failed(&target, &error);
                tracing::error!(
                    pod = %request.pod, class = %request.class, target = %target,
                    error = %error, "keeping the volume's content: it could not be brought up to date"
                );
                self.reporting.kept(&request, &error);
                Ok(Outcome::Kept)
            }
            Err(error) => {
                if !matches!(state, State::Absent | State::Directory) {
                    // Something incomplete was mounted here before; the pod must not start on it.
                    let cleaned = self.on_disk(&target, Volumes::unpublish).await?;
                    if let Err(cause) = cleaned {
                        tracing::error!(target = %target, error = %cause, "an incomplete volume could not be removed");
                    }
                }
                *claim = None;
                self.reporting.not_mounted(&request.pod, &error);
                self.metrics.volumes.gone(&target);
                self.ledger.saw(&target, false);
                tracing::error!(
                    pod = %request.pod, class = %request.class, target = %target, error = %error,
                    duration_ms = started.elapsed().as_millis(), "publish failed"
                );
                Err(error)
            }
        }
    }

    /// Class → plan → token → objects → files.
    async fn bring_up_to_date(
        &self,
        request: &PublishRequest,
        demand: &Demand<'_>,
        deadline: Instant,
    ) -> Result<(Change, Mounted), PublishError> {
        let pod = &request.pod;
        for (missing, value) in [("name", &pod.name), ("namespace", &pod.namespace)] {
            if value.is_empty() {
                return Err(PublishError::NoPodInfo { missing, volume: request.volume_id.clone() });
            }
        }
        if request.class.is_empty() {
            return Err(PublishError::NoClass { pod: pod.clone() });
        }
        let name = ClassName { namespace: pod.namespace.clone(), name: request.class.clone() };
        let refused = |cause| PublishError::Class { pod: pod.clone(), class: name.clone(), cause };
        let class = timeout_at(deadline, self.classes.get(&name)).await.unwrap_or_else(|_| {
            let cause = format!("no answer within {} s", self.settings.timeout.as_secs());
            Err(ClassError::ApiServer { class: name.clone(), cause })
        });
        let class = class.map_err(refused)?;
        let done = self.bring_in_line(&name, &class, request, demand, deadline).await;
        if done.is_ok() || class.live || matches!(demand, Demand::Call { first: false, .. }) {
            return done;
        }
        // It may have been corrected a moment ago. A volume that has content waits for the next call instead: when the vault is
        // down, all of them would ask the API server.
        match timeout_at(deadline, self.classes.get_live(&name)).await {
            Ok(Ok(now)) if now.spec != class.spec => {
                self.bring_in_line(&name, &now, request, demand, deadline).await
            }
            Ok(Err(cause @ ClassError::NotFound { .. })) => Err(refused(cause)),
            _ => done,
        }
    }

    /// The way of one mount, for what a class says.
    async fn bring_in_line(
        &self,
        class: &ClassName,
        read: &Class,
        request: &PublishRequest,
        demand: &Demand<'_>,
        deadline: Instant,
    ) -> Result<(Change, Mounted), PublishError> {
        let (pod, class, spec) = (&request.pod, class.clone(), &*read.spec);
        if spec.provider.is_empty() {
            return Err(PublishError::NoProvider { pod: pod.clone(), class });
        }
        if spec.parameters.is_empty() {
            return Err(PublishError::NoParameters { pod: pod.clone(), class });
        }
        if !request.read_only {
            return Err(PublishError::NotReadOnly { pod: pod.clone() });
        }
        let failed = |step| PublishError::Mount { pod: pod.clone(), step };
        let parameters = &spec.parameters;
        let fetched = if spec.provider == AZURE {
            self.fetch_from_key_vault(&class, parameters, request, demand, deadline).await
        } else {
            self.fetch_from_provider(&class, &spec.provider, parameters, request, demand, deadline).await
        };
        let Fetched { files, versions, requests, stale, source, checked, interval } =
            fetched.map_err(failed)?;

        let nothing_new = files.is_empty();
        let payload = Payload::new(files).map_err(|error| failed(error.into()))?;
        let group = request.group.map(Group);
        let digest = payload.digest(group);
        let (change, proven) = match demand {
            // Neither what is to be shown nor what is on disk has changed since the two were compared.
            Demand::Call { proven: Some(proven), .. } if proven.digest == digest => {
                (Change::Unchanged, Some(proven.clone()))
            }
            _ => {
                let write = move |volumes: &Volumes, target: &TargetPath| {
                    if nothing_new && volumes.state(target)? == State::Complete {
                        return Ok((Change::Unchanged, None));
                    }
                    let change = volumes.publish(target, &payload, group)?;
                    Ok((change, volumes.seal(target).map(|seal| Proven { seal, digest })))
                };
                let written = self.on_disk(&request.target, write).await?;
                written.map_err(|error: VolumeError| failed(error.into()))?
            }
        };
        let expected = self.settings.schedule.rotation.then_some(interval);
        self.metrics
            .volumes
            .looked(&request.target, Look { checked, interval: expected, stale: !stale.is_empty() });
        let request = Arc::new(request.without_secrets());
        let class = read.clone();
        let checked = Some(checked);
        let mounted =
            Mounted { checked, interval, request, class, source, versions, requests, stale, proven };
        Ok((change, mounted))
    }

    /// Plan → token → objects.
    async fn fetch_from_key_vault(
        &self,
        class: &ClassName,
        parameters: &BTreeMap<String, String>,
        request: &PublishRequest,
        demand: &Demand<'_>,
        deadline: Instant,
    ) -> Result<Fetched, MountError> {
        let account = if MountPlan::leaves_identity_open(parameters, request) {
            self.annotations(request, deadline).await
        } else {
            Annotations::default()
        };
        let plan = MountPlan::parse(parameters, request, &self.settings.default_cloud, &account)
            .map_err(|faults| MountError::Plan { class: class.clone(), faults })?;
        let interval = plan.rotation_interval.unwrap_or(self.settings.schedule.interval);
        let cloud = self.cloud(class, &plan).await?;
        let (held, freshness) = match demand {
            Demand::Call { freshness, .. } => {
                let credential = self.credential(class, parameters, &plan, &cloud, request)?;
                (
                    Box::new(Held { credential, identity: plan.identity.clone(), cloud: cloud.clone() }),
                    *freshness,
                )
            }
            Demand::Refresh { source: Source::KeyVault { held, .. } }
                if held.identity == plan.identity && held.cloud == cloud =>
            {
                (held.clone(), Freshness::NOW)
            }
            Demand::Refresh { .. } => return Err(MountError::IdentityChanged { class: class.clone() }),
        };
        let endpoint =
            VaultEndpoint::new(&plan.vault, cloud.vault_dns_suffix(), Some(cloud.vault_endpoint()))
                .map_err(|fault| MountError::Address { class: class.clone(), fault })?;

        let asked = Instant::now();
        let fetch = FetchRequest {
            endpoint: &endpoint,
            credential: Arc::new(held.credential.clone()),
            objects: &plan.objects,
            rendering: self.settings.rendering,
            deadline: self.fetched_by(deadline),
            max_age: freshness.max_age,
            stale_if_error: freshness.stale_if_error,
            priority: freshness.priority,
        };
        let contents =
            self.vault.fetch(fetch).await.map_err(|cause| MountError::Fetch { class: class.clone(), cause });
        self.metrics.calls.contents(contents.is_ok(), asked.elapsed());
        let contents = contents?;
        for failure in &contents.stale {
            let age_s = contents.asked.map(|asked| asked.elapsed().as_secs());
            tracing::warn!(
                pod = %request.pod, %class, age_s, object = failure.object, cause = failure.message,
                "Key Vault could not be asked: an older value, which this identity has fetched before, stands in"
            );
        }
        if contents.files.is_empty() {
            return Err(MountError::NothingSelected { class: class.clone() });
        }
        let files = contents.files.into_iter();
        Ok(Fetched {
            files: files.map(|file| (file.path, file.mode.unwrap_or(DEFAULT_MODE), file.contents)).collect(),
            versions: contents.versions.into(),
            requests: contents.requests,
            stale: contents.stale.into_iter().map(|failure| failure.message).collect(),
            source: Source::KeyVault { held, vault: endpoint.to_string(), _lease: contents.lease },
            // A value that another volume had fetched is as old here as it is there.
            checked: contents.asked.unwrap_or(asked),
            interval,
        })
    }

    /// Hands the whole job of fetching to a provider in a process of its own.
    async fn fetch_from_provider(
        &self,
        class: &ClassName,
        name: &str,
        parameters: &BTreeMap<String, String>,
        request: &PublishRequest,
        demand: &Demand<'_>,
        deadline: Instant,
    ) -> Result<Fetched, MountError> {
        if let Demand::Refresh { .. } = demand {
            // It needs the pod's tokens and secrets, which are not kept.
            return Err(MountError::NeedsCall { class: class.clone(), provider: name.to_owned() });
        }
        let failed = |cause| MountError::Provider { class: class.clone(), cause };
        let provider = ProviderName::parse(name).map_err(failed)?;
        let asked = Instant::now();
        let delivered = self
            .providers
            .mount(&provider, parameters, request, self.fetched_by(deadline))
            .await
            .map_err(failed)?;
        Ok(Fetched {
            files: delivered.files,
            versions: delivered.versions.into(),
            requests: 0,
            stale: Vec::new(),
            source: Source::Provider(provider),
            checked: asked,
            interval: self.settings.schedule.interval,
        })
    }

    /// By when content has to be there: a call that waits for this one has to get its turn, and say what is wrong, before its
    /// own time ends.
    fn fetched_by(&self, deadline: Instant) -> Instant {
        deadline - (self.settings.timeout / 5).min(MARGIN)
    }

    /// What the pod's service account says about its identity. One that cannot be read says nothing: what is missing then is
    /// told as a fault of the class.
    pub(crate) async fn annotations(&self, request: &PublishRequest, deadline: Instant) -> Annotations {
        let pod = &request.pod;
        let read =
            timeout_at(deadline, self.accounts.annotations(&pod.namespace, &pod.service_account)).await;
        read.unwrap_or_else(|_| Err("no answer in time".to_owned())).unwrap_or_else(|error| {
            tracing::warn!(%pod, service_account = %pod.service_account, error, "the service account cannot be read");
            Annotations::default()
        })
    }

    /// The cloud of a plan; a custom one's file is read at each use, so that two classes never share a file by accident.
    pub(crate) async fn cloud(&self, class: &ClassName, plan: &MountPlan) -> Result<Cloud, MountError> {
        let cloud = match &plan.cloud.choice {
            CloudChoice::Known(cloud) => cloud.clone(),
            CloudChoice::File => {
                let Some(path) = plan.cloud.file.as_ref().or(self.settings.default_cloud_file.as_ref())
                else {
                    return Err(MountError::NoCloudFile { class: class.clone() });
                };
                let wrong = |cause| MountError::Cloud { class: class.clone(), cause };
                let file = path.clone();
                let bytes = tokio::task::spawn_blocking(move || cloud_file::read(&file))
                    .await
                    .unwrap_or_else(|failure| Err(std::io::Error::other(failure)))
                    .map_err(|error| wrong(Cloud::unreadable_file(path, &error)))?;
                Cloud::from_file(&bytes, self.settings.default_authority.as_deref()).map_err(wrong)?
            }
        };
        Ok(cloud)
    }

    /// As whom the vault is asked. Nothing is sent yet.
    pub(crate) fn credential(
        &self,
        class: &ClassName,
        parameters: &BTreeMap<String, String>,
        plan: &MountPlan,
        cloud: &Cloud,
        request: &PublishRequest,
    ) -> Result<PodCredential, MountError> {
        let refused = |cause: identity::Error| {
            let mode = match plan.identity {
                PlannedIdentity::Workload { .. } | PlannedIdentity::ServicePrincipal { .. } => "None",
                PlannedIdentity::TokenProxy { .. } => "AzureTokenProxy",
                PlannedIdentity::Vm(_) => "VMManagedIdentity",
            };
            let cure = match plan.identity {
                PlannedIdentity::ServicePrincipal { .. } if !request.names_principal => {
                    format!("; {}", MountPlan::identity_cure(parameters, request))
                }
                _ => String::new(),
            };
            MountError::Identity { class: class.clone(), mode, cause, cure }
        };
        self.settings.policy.admit_cloud(cloud.name()).map_err(refused)?;
        credential::of_plan(&self.tokens, &plan.identity, cloud, request).map_err(refused)
    }

    /// Unmounts a volume. Needs neither Azure nor the API server, and a volume that is not there is no error.
    ///
    /// # Errors
    /// [`UnpublishError`], when the mount or its folder cannot be removed.
    pub async fn unpublish(self: &Arc<Self>, target: TargetPath) -> Result<(), UnpublishError> {
        let (driver, path) = (Arc::clone(self), target.clone());
        let work = async move {
            let deadline = Instant::now() + driver.settings.timeout;
            let Ok(mut claim) = timeout_at(deadline, driver.targets.claim(&target)).await else {
                return Err(UnpublishError::Busy {
                    target: target.to_string(),
                    waited: driver.settings.timeout,
                });
            };
            *claim = None;
            driver.reporting.unpublished(&target);
            driver.metrics.volumes.gone(&target);
            let removed = driver.on_disk(&target, Volumes::unpublish).await;
            removed.map_err(|error| UnpublishError::Internal {
                target: target.to_string(),
                cause: error.to_string(),
            })??;
            driver.ledger.forget(&target);
            tracing::info!(target = %target, "unpublished");
            Ok(())
        };
        let removed = tokio::spawn(work.in_current_span()).await.unwrap_or_else(|failure| {
            Err(UnpublishError::Internal { target: path.to_string(), cause: crate::error::ended(&failure) })
        });
        if let Err(error) = &removed {
            tracing::error!(target = %path, %error, "unpublish failed");
        }
        removed
    }

    /// Looks at once at Key Vault for the mounted volumes that `wanted` picks, whatever their interval says, as the identity of
    /// the kubelet's last call. Where that cannot be done, the kubelet's next call does it.
    ///
    /// Volumes that this process has not been called for since it started are not known yet and not in the answer.
    pub async fn refresh(self: &Arc<Self>, wanted: &Selection) -> Vec<Refreshed> {
        let mut work = tokio::task::JoinSet::new();
        for target in self.targets.known() {
            let (driver, wanted, trace) = (Arc::clone(self), wanted.clone(), TraceId::new());
            let span = tracing::info_span!("refresh", trace_id = %trace);
            let one = async move { driver.refresh_one(target, &wanted).await };
            work.spawn(trace.scope(one).instrument(span));
        }
        let mut done: Vec<Refreshed> = work.join_all().await.into_iter().flatten().collect();
        done.sort_by(|a, b| (&a.pod, &a.target).cmp(&(&b.pod, &b.target)));
        done
    }

    async fn refresh_one(self: &Arc<Self>, target: TargetPath, wanted: &Selection) -> Option<Refreshed> {
        let started = Instant::now();
        let deadline = started + self.settings.timeout;
        let mut claim = timeout_at(deadline, self.targets.claim(&target)).await.ok()?;
        let mounted = claim.as_mut()?;
        if !wanted.picks(&mounted.request) {
            return None;
        }
        mounted.checked = None;
        let request = Arc::clone(&mounted.request);
        let demand = Demand::Refresh { source: &mounted.source };
        let result = match self.on_disk(&target, Volumes::state).await {
            Ok(Ok(State::Complete)) => self.bring_up_to_date(&request, &demand, deadline).await,
            // The kubelet's next call repairs it.
            Ok(Ok(_)) => Err(PublishError::Internal {
                target: target.to_string(),
                cause: "it is not mounted".to_owned(),
            }),
            Ok(Err(cause)) => Err(PublishError::Mount { pod: request.pod.clone(), step: cause.into() }),
            Err(error) => Err(error),
        };
        let (outcome, error) = match result {
            Ok((Change::Unchanged, mounted)) => {
                self.metrics.calls.looked(mounted.source.provider(), false, started.elapsed());
                self.note(&target, &mounted, Change::Unchanged);
                *claim = Some(mounted);
                (Outcome::Unchanged, None)
            }
            Ok((Change::Created | Change::Switched, mounted)) => {
                self.note(&target, &mounted, Change::Switched);
                let Mounted { request, class, versions, .. } = &mounted;
                self.reporting.published(request, class, versions, Shown::Rotated).await;
                self.metrics.calls.looked(mounted.source.provider(), true, started.elapsed());
                *claim = Some(mounted);
                self.tidy_later(target.clone());
                (Outcome::Rotated, None)
            }
            Err(error) => {
                self.metrics.calls.look_failed(&error);
                self.metrics.volumes.kept(&target);
                self.ledger.failed(&target, &error);
                (Outcome::Kept, Some(error.to_string()))
            }
        };
        tracing::info!(pod = %request.pod, target = %target, outcome = ?outcome, error, "refreshed on demand");
        Some(Refreshed {
            pod: request.pod.to_string(),
            class: request.class.clone(),
            target: target.to_string(),
            outcome,
            error,
        })
    }

    /// Notes what came of looking at a volume's source.
    fn note(&self, target: &TargetPath, mounted: &Mounted, change: Change) {
        self.ledger.succeeded(target, mounted.content(), change != Change::Unchanged);
        if !mounted.stale.is_empty() {
            self.ledger.failed(target, &format!("older values stand in: {}", mounted.stale.join(". ")));
        }
    }

    /// What is noted of each volume.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Where classes come from.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// The choices of the operator.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The token service.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The client of all vaults.
    pub fn vault(&self) -> &vault::Client {
        &self.vault
    }

    /// What is on disk.
    pub fn volumes(&self) -> Arc<Volumes> {
        Arc::clone(&self.volumes)
    }

    /// How many targets are mounted or worked on, as far as this process knows.
    pub fn known_targets(&self) -> usize {
        self.targets.len()
    }

    /// The mount work on a thread that may block.
    async fn on_disk<T: Send + 'static>(
        &self,
        target: &TargetPath,
        work: impl FnOnce(&Volumes, &TargetPath) -> T + Send + 'static,
    ) -> Result<T, PublishError> {
        let (volumes, target) = (Arc::clone(&self.volumes), target.clone());
        let name = target.to_string();
        // The semaphore is never closed; without a permit the work is done all the same.
        let permit = Arc::clone(&self.disk).acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&volumes, &target)
        });
        done.await
            .map_err(|failure| PublishError::Internal { target: name, cause: crate::error::ended(&failure) })
    }
}
