//! The way of one mount, from a checked request to files in a tmpfs. A republish takes the same way; only the freshness asked
//! for differs, and what happens when something fails.

mod fetch;
mod refresh;
mod witnesses;

pub use refresh::{Refreshed, Selection};

use crate::class::{Class, ClassError, ClassName, Classes};
use crate::csi::request::PublishRequest;
use crate::error::{PublishError, UnpublishError};
use crate::metrics::Metrics;
use crate::provider::ExternalProviders;
use crate::reporting::Reporting;
use crate::rotation::{Known, Schedule};
use crate::service_account::ServiceAccounts;
use crate::status::Ledger;
use crate::targets::Targets;
use crate::telemetry::Traces;
use crate::volume::{
    Change, FORMER_FOR, Group, Payload, PayloadDigest, Seal, State, TargetPath, VolumeError, Volumes,
};
use fetch::{Demand, Fetched, Source};
use identity::{Policy, Tokens};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use trace::{Context, Kind, Span};
use tracing::Instrument;
use vault::{ObjectVersion, Rendering};
use witnesses::Witnesses;

/// The provider that is built in.
pub const AZURE: &str = "azure";

/// Mounting takes the kernel a fraction of a millisecond: more threads than this only cost memory and time, and fewer would let
/// a few volumes that are slow to unmount hold up all others.
const MOUNTS_AT_ONCE: usize = 8;

/// When former generations of files are removed: when they have stayed long enough, by whichever clock.
const TIDY_AFTER: Duration = FORMER_FOR.saturating_add(Duration::from_secs(1));

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
    /// What is recorded of calls.
    pub traces: Traces,
}

/// The driver behind the CSI services.
pub struct Driver {
    settings: Settings,
    classes: Classes,
    accounts: ServiceAccounts,
    tokens: Tokens,
    vault: vault::Client,
    providers: ExternalProviders,
    volumes: Arc<Volumes>,
    /// Bounds the threads that mount and write at once.
    disk: Arc<Semaphore>,
    targets: Targets<Mounted>,
    witnesses: Witnesses,
    traces: Traces,
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

impl Driver {
    /// Puts the parts together.
    pub fn new(settings: Settings, parts: Parts) -> Self {
        let Parts { classes, accounts, reporting, tokens, vault, providers, volumes, metrics, traces } =
            parts;
        let disk = Arc::new(Semaphore::new(MOUNTS_AT_ONCE));
        let (targets, rotation) = (Targets::default(), settings.schedule.rotation);
        let witnesses = Witnesses { reporting, metrics, ledger: Arc::default(), rotation };
        Self {
            settings,
            classes,
            accounts,
            tokens,
            vault,
            providers,
            volumes,
            disk,
            targets,
            witnesses,
            traces,
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
        let (started, context) = (Instant::now(), Context::current().unwrap_or_default());
        let work = async move {
            let target = request.target.clone();
            let _working = driver.witnesses.began(&request);
            let outcome = driver.publish_claimed(request).await;
            if let Err(error) = &outcome {
                driver.witnesses.refused(&target, error, started.elapsed());
            }
            outcome
        };
        let work = tokio::spawn(context.scope(work).in_current_span());
        work.await.unwrap_or_else(|failure| {
            let error =
                PublishError::Internal { target: target.to_string(), cause: crate::error::ended(&failure) };
            self.witnesses.refused(&target, &error, started.elapsed());
            Err(error)
        })
    }

    /// What is recorded of calls.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.witnesses.metrics
    }

    /// Removes what switches have left, when nobody can be on the way to it any more. If this process ends before, the next one
    /// does it.
    fn tidy_later(self: &Arc<Self>, target: TargetPath) {
        let driver = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(TIDY_AFTER).await;
            let Some(driver) = driver.upgrade() else { return };
            let _claim = driver.targets.claim(&target).await;
            if let Ok(Err(error)) = driver.on_disk(&target, Volumes::tidy).await {
                tracing::warn!(%target, %error, "the former generation of a volume stays until the next change");
            }
        });
    }

    async fn publish_claimed(self: &Arc<Self>, request: PublishRequest) -> Result<Outcome, PublishError> {
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
        if matches!(known, Known::Mounted) {
            // The process that mounted it may have ended before it had tidied up.
            self.tidy_later(target.clone());
        }
        let schedule = &self.settings.schedule;
        let Some(freshness) = schedule.look(&request.pod.namespace, &request.class, known) else {
            let provider = claim.as_ref().map_or(AZURE, |mounted| mounted.source.provider());
            self.witnesses.fresh(&request, provider, started.elapsed());
            return Ok(Outcome::Fresh);
        };
        let demand = Demand::Call { freshness, first: !complete, proven };
        match self.bring_up_to_date(&request, &demand, deadline).await {
            Ok((change, mounted)) => {
                if change == Change::Switched {
                    self.tidy_later(target.clone());
                }
                let outcome = match change {
                    Change::Switched if complete => Outcome::Rotated,
                    Change::Created | Change::Switched => Outcome::Mounted,
                    Change::Unchanged if !mounted.stale.is_empty() => Outcome::Kept,
                    Change::Unchanged => Outcome::Unchanged,
                };
                self.witnesses.published(&mounted, outcome, started.elapsed()).await;
                *claim = Some(mounted);
                Ok(outcome)
            }
            Err(error @ PublishError::NotReadOnly { .. }) => Err(error),
            // Older kubelets remove a volume whose republish fails, so a mounted one keeps what it has, and the call is OK.
            Err(error) if complete => {
                self.witnesses.kept(&request, &error, started.elapsed());
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
                self.witnesses.not_mounted(&request, &error, started.elapsed());
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
                let mut span = Span::begin("write volume", Kind::Internal);
                let written = span.scope(self.on_disk(&request.target, write)).await?;
                match &written {
                    Ok((change, _)) => span.tell("akv_csi.change", format_args!("{change:?}")),
                    Err(error) => span.fail(error),
                }
                written.map_err(|error: VolumeError| failed(error.into()))?
            }
        };
        let request = Arc::new(request.without_secrets());
        let class = read.clone();
        let checked = Some(checked);
        let mounted =
            Mounted { checked, interval, request, class, source, versions, requests, stale, proven };
        Ok((change, mounted))
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
            driver.witnesses.leaving(&target);
            let mut span = Span::begin("unmount volume", Kind::Internal);
            let removed = span.scope(driver.on_disk(&target, Volumes::unpublish)).await;
            let removed = removed.map_err(|error| UnpublishError::Internal {
                target: target.to_string(),
                cause: error.to_string(),
            });
            let removed = removed.and_then(|removed| removed.map_err(UnpublishError::from));
            removed.inspect_err(|error| span.fail(error))?;
            drop(span);
            driver.witnesses.gone(&target);
            Ok(())
        };
        let context = Context::current().unwrap_or_default();
        let removed = tokio::spawn(context.scope(work).in_current_span()).await.unwrap_or_else(|failure| {
            Err(UnpublishError::Internal { target: path.to_string(), cause: crate::error::ended(&failure) })
        });
        if let Err(error) = &removed {
            tracing::error!(target = %path, %error, "unpublish failed");
        }
        removed
    }

    /// What is noted of each volume.
    pub fn ledger(&self) -> &Ledger {
        &self.witnesses.ledger
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
        let (volumes, own) = (Arc::clone(&self.volumes), target.clone());
        // The semaphore is never closed; without a permit the work is done all the same.
        let permit = Arc::clone(&self.disk).acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&volumes, &own)
        });
        done.await.map_err(|failure| PublishError::Internal {
            target: target.to_string(),
            cause: crate::error::ended(&failure),
        })
    }
}
