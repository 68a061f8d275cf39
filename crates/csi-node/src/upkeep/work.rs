//! What is done in the cluster for one volume.

use super::{Counts, Volume};
use crate::class::{Class, ClassError, ClassName, Classes, SecretObject};
use crate::events::{Events, Reason};
use crate::metrics::Metrics;
use crate::pod_state::{Age, PodError, PodState, Pods};
use crate::pod_status::{self, Expect, PodStatuses, StatusError, Wanted, Written};
use crate::reporting::Shown;
use crate::synced_secret::{self, Files, SecretError, SecretFault, Source, Synced, SyncedSecrets};
use crate::volume::{PayloadFile, VolumeError, Volumes};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;
use trace::{Kind, Span};

/// Everything that the work needs.
pub(super) struct Worker {
    pub pods: Pods,
    pub statuses: PodStatuses,
    pub secrets: SyncedSecrets,
    pub classes: Classes,
    pub volumes: Arc<Volumes>,
    pub events: Events,
    pub metrics: Arc<Metrics>,
    pub counts: Counts,
}

/// How far the work for a volume has come.
#[derive(Default)]
pub(super) struct Progress {
    /// What the status object says.
    status: Option<Wanted>,
    /// The status object's UID.
    status_uid: Option<String>,
    /// The class of the last go. Kept, so that it stays known.
    class: Option<Class>,
    /// Which Secrets are in step.
    synced: Option<Vec<SecretObject>>,
    /// What the volume shows that its Secrets may not have yet.
    news: Option<Shown>,
}

/// Why there is a go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The vault was asked just now.
    Published(Shown),
    /// Something could not be done before, or it is time to see whether all is well.
    Later {
        /// The status object was deleted.
        deleted: bool,
    },
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error(transparent)]
    Class(#[from] ClassError),
    #[error("reading the volume's files for its Secrets: {0}")]
    Volume(#[from] VolumeError),
    #[error("{} of the class's Secrets could not be synced: {}", .0.len(), joined(.0))]
    Secrets(Vec<SecretError>),
    #[error("its Secrets have no owner yet: the pod has none, and the status object is not written")]
    NoOwner,
    #[error("internal error while reading the volume's files: {0}")]
    Internal(String),
    #[error("the API server has not answered within {0} s")]
    Late(u64),
}

fn joined(errors: &[SecretError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Failed {
    /// What those failures have in common of which one line in the log is enough.
    pub fn sort(&self) -> String {
        match self {
            Self::Status(error) => error.sort(),
            Self::Pod(error) => format!("pod {}", error.code),
            Self::Class(ClassError::ApiServer { .. }) => "class unanswered".to_owned(),
            Self::Class(error) => error.to_string(),
            Self::Volume(error) => error.to_string(),
            Self::Secrets(errors) => match errors.first().map(|error| &error.fault) {
                Some(SecretFault::Unanswered { .. }) => "secret unanswered".to_owned(),
                Some(SecretFault::Forbidden { .. }) => "secret forbidden".to_owned(),
                // What is wrong with a class or a Secret is wrong with this one.
                _ => joined(errors),
            },
            Self::NoOwner => "no owner".to_owned(),
            Self::Internal(_) => "internal".to_owned(),
            Self::Late(_) => "late".to_owned(),
        }
    }

    /// Whether trying again soon may help. Otherwise somebody has to do something first.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Secrets(errors) => errors.iter().any(|error| passes(&error.fault)),
            Self::Status(error) => !error.stays(),
            Self::Pod(error) => error.code != 403,
            _ => true,
        }
    }
}

/// Of two failures the one that says when to try again: the first, unless only the other may pass.
fn sooner(first: Failed, second: Failed) -> Failed {
    if second.may_pass() && !first.may_pass() { second } else { first }
}

/// What the Secrets do not have yet, when something was shown before that they do not have either: what was new stays new, and a
/// new volume stays one.
fn newer(before: Option<Shown>, shown: Shown) -> Shown {
    match (before, shown) {
        (Some(Shown::Mounted), _) => Shown::Mounted,
        (Some(before), Shown::Unchanged) => before,
        (_, shown) => shown,
    }
}

fn passes(fault: &SecretFault) -> bool {
    matches!(
        fault,
        SecretFault::Unanswered { .. } | SecretFault::Contended { .. } | SecretFault::BeingDeleted { .. }
    )
}

/// What comes after a go that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Looking again in a while.
    Check,
    /// Nothing: the pod has ended.
    Nothing,
}

impl Worker {
    /// One go at everything.
    pub async fn work(
        &self,
        volume: &Volume,
        wanted: Option<Wanted>,
        progress: &mut Progress,
        occasion: Occasion,
    ) -> Result<Next, Failed> {
        if let Occasion::Published(shown) = occasion {
            progress.news = Some(newer(progress.news, shown));
        }
        let class = self.class(volume, occasion).await?;
        progress.class.clone_from(&class);
        let objects = class.as_ref().map(|class| class.spec.secret_objects.as_slice()).unwrap_or_default();
        let (pod, name) = (&volume.request.pod, volume.request.class.as_str());
        if objects.is_empty() {
            // Secrets that the class asks for later find this content mounted, and it may be old by then.
            progress.news = None;
        }
        let news = matches!(occasion, Occasion::Published(Shown::Mounted | Shown::Rotated))
            || progress.synced.as_deref().unwrap_or_default() != objects;
        let sync = !objects.is_empty() && (news || self.secrets.is_due(pod, name, objects));
        let recreate = occasion == Occasion::Later { deleted: true };

        let state = async {
            if !sync && !recreate {
                return Ok(None);
            }
            let age =
                if matches!(occasion, Occasion::Published(_)) || recreate { Age::Now } else { Age::Recent };
            self.pods.state(pod, age).await.map(Some)
        };
        let (state, mut status) = if recreate {
            progress.status = None;
            // Where the pod is gone, too, its objects are being collected, and the volume is next.
            let state = state.await?;
            if state == Some(PodState::Gone) {
                return Ok(Next::Nothing);
            }
            (Ok(state), self.status(wanted, progress, occasion).await)
        } else {
            tokio::join!(state, self.status(wanted, progress, occasion))
        };
        if !sync {
            status?;
            return Ok(Next::Check);
        }
        let state = match (state, status) {
            (Err(pod), Err(status)) => return Err(sooner(pod.into(), status.into())),
            (state, kept) => {
                status = kept;
                state?
            }
        };
        let owners = match state {
            Some(PodState::Alive { owners }) => owners,
            // A pod that has ended needs no Secret, and would keep it alive.
            None | Some(PodState::Ending | PodState::Gone) => {
                return status.map(|()| Next::Nothing).map_err(Failed::from);
            }
        };
        let owners = self.owners(owners, volume, progress).await?;
        let synced = self.sync(volume, objects, &owners, progress).await;
        match (status, synced) {
            (Err(status), Err(synced)) => Err(sooner(synced, status.into())),
            (status, synced) => {
                status?;
                synced.map(|()| Next::Check)
            }
        }
    }

    /// The volume's class as its content was made from it, or for a look in between, as it is now. `None` when it is gone.
    async fn class(&self, volume: &Volume, occasion: Occasion) -> Result<Option<Class>, ClassError> {
        if let (Occasion::Published(_), Some(class)) = (occasion, &volume.class) {
            return Ok(Some(class.clone()));
        }
        let request = &volume.request;
        let name = ClassName { namespace: request.pod.namespace.clone(), name: request.class.clone() };
        match self.classes.get(&name).await {
            Ok(class) => Ok(Some(class)),
            Err(ClassError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn status(
        &self,
        wanted: Option<Wanted>,
        progress: &mut Progress,
        occasion: Occasion,
    ) -> Result<(), StatusError> {
        let Some(wanted) = wanted.filter(|wanted| progress.status.as_ref() != Some(wanted)) else {
            return Ok(());
        };
        let new = progress.status.is_none() && occasion == Occasion::Published(Shown::Mounted);
        let expect = if new { Expect::None } else { Expect::One };
        let mut span = Span::begin("write pod status", Kind::Internal);
        let written = span.scope(self.statuses.ensure(&wanted, expect)).await;
        let (written, uid) = written.inspect_err(|error| span.fail(error))?;
        span.tell("akv_csi.outcome", format_args!("{written:?}"));
        drop(span);
        let count = match written {
            Written::Unchanged => &self.counts.statuses_unchanged,
            Written::Created | Written::Updated => &self.counts.statuses_written,
        };
        count.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(pod = %wanted.pod, outcome = ?written, "status object");
        progress.status = Some(wanted);
        progress.status_uid = Some(uid).filter(|uid| !uid.is_empty());
        Ok(())
    }

    /// Who keeps the Secrets alive: the pod's owners, so that the Secret outlives one pod of many; else the status object.
    async fn owners(
        &self,
        owners: Vec<OwnerReference>,
        volume: &Volume,
        progress: &mut Progress,
    ) -> Result<Vec<OwnerReference>, Failed> {
        if !owners.is_empty() {
            return Ok(owners);
        }
        let (pod, class) = (&volume.request.pod, &volume.request.class);
        if progress.status_uid.is_none() {
            progress.status_uid = self.statuses.uid(pod, class).await?;
        }
        let uid = progress.status_uid.clone().ok_or(Failed::NoOwner)?;
        Ok(vec![pod_status::as_owner(pod, class, uid)])
    }

    /// Makes the Secrets of what the volume shows. It is read from the volume, where it was put a moment ago, because that is what
    /// the pod sees, and because nothing secret has to be carried about for it.
    async fn sync(
        &self,
        volume: &Volume,
        objects: &[SecretObject],
        owners: &[OwnerReference],
        progress: &mut Progress,
    ) -> Result<(), Failed> {
        let request = &volume.request;
        let (pod, class) = (&request.pod, request.class.as_str());
        let (volumes, target) = (Arc::clone(&self.volumes), request.target.clone());
        let read = tokio::task::spawn_blocking(move || volumes.read(&target)).await;
        let contents = match read.map_err(|failure| Failed::Internal(failure.to_string()))? {
            Err(VolumeError::NotPublished { .. }) => return Ok(()),
            read => read?,
        };
        let files: Files<'_> =
            contents.iter().map(|file: &PayloadFile| (file.path().as_str(), file.contents())).collect();
        let source = match progress.news {
            Some(Shown::Mounted) => Source::NewVolume,
            Some(Shown::Rotated | Shown::Unchanged) => Source::Vault,
            None => Source::Volume,
        };
        let wanted =
            synced_secret::Wanted { pod, class, secret_objects: objects, files: &files, source, owners };
        let started = Instant::now();
        let mut span = Span::begin("sync Secrets", Kind::Internal);
        span.set("akv_csi.secrets", objects.len());
        let results = span.scope(self.secrets.sync(wanted)).await;
        if let Some(error) = results.iter().find_map(|result| result.as_ref().err()) {
            span.fail(error);
        }
        drop(span);
        let took = started.elapsed();

        let rotated = progress.news == Some(Shown::Rotated);
        let mut errors = Vec::new();
        for (result, object) in results.into_iter().zip(objects) {
            match result {
                Ok(outcome) => {
                    let written = outcome != Synced::Unchanged;
                    if written {
                        let provider =
                            progress.class.as_ref().map_or("", |class| class.spec.provider.as_str());
                        self.metrics.objects.secret_synced(provider, took);
                    }
                    if written && rotated {
                        let text = format!("successfully rotated K8s secret {}", object.secret_name.trim());
                        self.events.tell(pod, Reason::SecretRotationComplete, &text);
                    }
                }
                Err(error) => {
                    self.metrics.objects.secret_sync_failed();
                    if let SecretFault::TwoClasses { other } = &error.fault {
                        self.metrics.objects.two_classes(&pod.namespace, class, other);
                    }
                    let reason =
                        if rotated { Reason::SecretRotationFailed } else { Reason::FailedToCreateSecret };
                    let text =
                        format!("failed to sync spc {}/{class} as K8s secret, err: {error}", pod.namespace);
                    self.events.tell(pod, reason, &text);
                    errors.push(error);
                }
            }
        }
        if errors.is_empty() {
            progress.news = None;
            progress.synced = Some(objects.to_vec());
            return Ok(());
        }
        Err(Failed::Secrets(errors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::request::Pod;

    #[test]
    fn what_has_not_reached_the_secrets_stays_new() {
        use Shown::{Mounted, Rotated, Unchanged};
        for (before, shown, news) in [
            (None, Mounted, Mounted),
            (None, Rotated, Rotated),
            (None, Unchanged, Unchanged),
            (Some(Mounted), Rotated, Mounted),
            (Some(Mounted), Unchanged, Mounted),
            (Some(Rotated), Unchanged, Rotated),
            (Some(Rotated), Mounted, Mounted),
            (Some(Unchanged), Rotated, Rotated),
        ] {
            assert_eq!(newer(before, shown), news, "{shown:?} after {before:?}");
        }
    }

    #[test]
    fn of_two_failures_the_one_that_may_pass_says_when_to_try_again() {
        let stays = || Failed::Status(StatusError::NoUid { pod: Pod::default() });
        let passes = |seconds| Failed::Late(seconds);
        assert!(matches!(sooner(stays(), passes(1)), Failed::Late(1)));
        assert!(matches!(sooner(passes(1), stays()), Failed::Late(1)));
        assert!(matches!(sooner(passes(1), passes(2)), Failed::Late(1)));
        assert!(matches!(sooner(stays(), stays()), Failed::Status(_)));
    }
}
