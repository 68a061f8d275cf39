//! The life of one volume: published until it works, published again while its driver wants it, unpublished in the end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Status};

use crate::csi_client::CsiClient;
use crate::csi_driver::{CsiDriver, FsGroupPolicy};
use crate::error::Error;
use crate::events::Event;
use crate::folders;
pub use crate::folders::Leftover;
use crate::manifest::{CsiVolume, Pod};
use crate::node::Node;
use crate::timing::Backoff;
use crate::tokens::TokenSubject;
use crate::volume::{Publication, VolumePlace};

/// Why a volume could not be published or unpublished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFailure {
    /// The driver's gRPC code; `None` where the driver was not asked.
    pub code: Option<Code>,
    /// The driver's message, or the kubelet's own.
    pub message: String,
    /// What the kubelet takes the failure for.
    pub kind: FailureKind,
}

/// What a failed publish means for the kubelet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The driver was never asked to publish: it is not registered, or a token, a Secret or its capabilities could not be had.
    Transient,
    /// The driver may have mounted all the same (`Canceled`, `DeadlineExceeded`, `Unavailable`, `ResourceExhausted`, `Aborted`): the
    /// folders stay, and the volume will be unpublished one day.
    Uncertain,
    /// The driver has not mounted. After a first publish the kubelet removes the volume's folders.
    Final,
}

impl fmt::Display for MountFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{code:?}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl MountFailure {
    /// The kubelet's own trouble, before the driver was asked.
    fn transient(message: impl fmt::Display) -> Self {
        Self { code: None, message: message.to_string(), kind: FailureKind::Transient }
    }

    /// An answer to NodePublishVolume or NodeUnpublishVolume.
    fn answered(status: &Status) -> Self {
        let kind = match status.code() {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted => FailureKind::Uncertain,
            _ => FailureKind::Final,
        };
        Self { code: Some(status.code()), message: status.message().to_owned(), kind }
    }
}

/// What is known of a volume from outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct VolumeStatus {
    pub phase: Phase,
    pub last_failure: Option<MountFailure>,
}

/// What the kubelet believes of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing of it is mounted.
    #[default]
    Absent,
    /// A publish ended without a clear answer.
    Uncertain,
    /// Published.
    Mounted,
    /// Unpublished for good.
    Gone(Vec<Leftover>),
}

/// What a mounter can be told.
pub(crate) enum Command {
    /// Publish now, whatever the back-off or the period say, and answer how it went.
    Publish(oneshot::Sender<Result<(), MountFailure>>),
    /// The pod is terminating: publish no more.
    Terminate,
    /// Unpublish and end.
    Delete,
}

/// One volume's task. Its operations never overlap: a command waits for the call in progress, as in the kubelet.
pub(crate) struct Mounter {
    pub(crate) node: Arc<Node>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) pod_uid: String,
    pub(crate) volume: CsiVolume,
    pub(crate) place: VolumePlace,
    pub(crate) status: watch::Sender<VolumeStatus>,
}

impl Mounter {
    /// Runs until the volume is deleted or the command channel closes; the latter leaves the volume as it is.
    pub(crate) async fn run(self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut backoff = Backoff::new(self.node.timings.backoff);
        let mut terminating = self.pod.terminating;
        // When to publish next; never again for a mounted volume that needs no republish.
        let mut due = Some(Instant::now());
        loop {
            let alarm = async {
                match due {
                    Some(due) if !terminating => sleep_until(due).await,
                    _ => std::future::pending().await,
                }
            };
            let reply = tokio::select! {
                biased;
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::Delete) => break,
                    Some(Command::Terminate) => {
                        terminating = true;
                        continue;
                    }
                    Some(Command::Publish(reply)) if terminating => {
                        let _ = reply.send(Err(MountFailure::transient("the pod is terminating")));
                        continue;
                    }
                    Some(Command::Publish(reply)) => Some(reply),
                },
                () = alarm => None,
            };
            let (result, wait) = self.publish_once(&mut backoff).await;
            due = wait.map(|wait| Instant::now() + wait);
            if let Some(reply) = reply {
                // Whoever asked may have stopped waiting.
                let _ = reply.send(result);
            }
        }
        self.unpublish().await;
    }

    /// One attempt and all its consequences; says when the next one is due.
    async fn publish_once(&self, backoff: &mut Backoff) -> (Result<(), MountFailure>, Option<Duration>) {
        let started = Instant::now();
        let before = self.status.borrow().phase.clone();
        let result = self.publish(before == Phase::Mounted).await;
        let took = started.elapsed();
        let (pod, volume) = (self.pod.name.clone(), self.volume.name.clone());
        match result {
            Ok(()) => {
                let failures = backoff.failures();
                backoff.succeeded();
                self.status.send_replace(VolumeStatus { phase: Phase::Mounted, last_failure: None });
                self.node.events.write(if before == Phase::Mounted {
                    Event::VolumeRepublished { pod, volume, took }
                } else {
                    Event::VolumeMounted { pod, volume, took, failures }
                });
                let again = self.settings().is_some_and(|driver| driver.requires_republish);
                (Ok(()), again.then(|| self.node.timings.republish.draw()))
            }
            Err(failure) => {
                let retry_in = backoff.failed();
                // A failed republish unmounts nothing and removes nothing.
                let phase = match (&before, failure.kind) {
                    (Phase::Mounted, _) | (_, FailureKind::Transient) => before.clone(),
                    (_, FailureKind::Uncertain) => Phase::Uncertain,
                    (_, FailureKind::Final) => {
                        let leftovers = self.clear().await;
                        // That the folder remains is no fault here: nothing was said of an unpublish.
                        for leftover in
                            leftovers.into_iter().filter(|l| !matches!(l, Leftover::TargetFolder(_)))
                        {
                            let (pod, volume) = (pod.clone(), volume.clone());
                            self.node.events.write(Event::LeftBehind { pod, volume, leftover });
                        }
                        Phase::Absent
                    }
                };
                self.status.send_replace(VolumeStatus { phase, last_failure: Some(failure.clone()) });
                let shown = failure.clone();
                self.node.events.write(if before == Phase::Mounted {
                    Event::RepublishFailed { pod, volume, failure: shown, retry_in }
                } else {
                    Event::MountFailed { pod, volume, failure: shown, retry_in }
                });
                (Err(failure), Some(retry_in))
            }
        }
    }

    /// Asks the driver to publish, with everything the kubelet does before and after.
    async fn publish(&self, remount: bool) -> Result<(), MountFailure> {
        let client = self.client()?;
        let driver = self.settings().ok_or_else(|| {
            let name = &self.volume.driver;
            MountFailure::transient(format!(
                "no CSIDriver object {name}; inline volumes need one that lists Ephemeral"
            ))
        })?;
        if !driver.ephemeral {
            let name = &self.volume.driver;
            return Err(MountFailure::transient(format!(
                "CSIDriver {name} does not list Ephemeral in volumeLifecycleModes, which inline volumes need"
            )));
        }
        let capabilities = client.capabilities().await.map_err(|status| MountFailure {
            code: Some(status.code()),
            message: format!("NodeGetCapabilities: {}", status.message()),
            kind: FailureKind::Transient,
        })?;
        let secrets = match &self.volume.publish_secret {
            None => BTreeMap::new(),
            Some(name) => self.node.secret(&self.pod.name.namespace, name).ok_or_else(|| {
                let namespace = &self.pod.name.namespace;
                MountFailure::transient(format!(
                    "Secret {namespace}/{name} of nodePublishSecretRef not found"
                ))
            })?,
        };
        let tokens = if driver.token_requests.is_empty() {
            None
        } else {
            let subject = self.subject()?;
            Some(
                self.node
                    .tokens
                    .tokens_json(&subject, &driver.token_requests)
                    .map_err(MountFailure::transient)?,
            )
        };
        if !remount {
            let (place, data) = (self.place.clone(), self.place.volume_data(&self.volume, &self.node.name));
            on_disk(move || folders::prepare(&place, &data)).await?;
        }
        let publication = Publication {
            pod: &self.pod,
            pod_uid: &self.pod_uid,
            volume: &self.volume,
            driver: &driver,
            capabilities,
            secrets: &secrets,
            tokens: tokens.as_ref(),
        };
        client
            .publish(publication.request(&self.place))
            .await
            .map_err(|status| MountFailure::answered(&status))?;
        if let Some(group) = self.pod.fs_group
            && !capabilities.volume_mount_group
            && kubelet_gives_to_group(&driver, &self.volume)
        {
            let target = self.place.target.clone();
            let given = on_disk(move || folders::give_to_group(&target, group)).await;
            // The volume is mounted, so it has to be unpublished one day.
            given.map_err(|failure| MountFailure { kind: FailureKind::Uncertain, ..failure })?;
        }
        Ok(())
    }

    /// Unpublishes until it works, then removes the folders.
    async fn unpublish(&self) {
        let mut backoff = Backoff::new(self.node.timings.backoff);
        let (pod, volume) = (&self.pod.name, &self.volume.name);
        // What was certainly never published is not unpublished.
        let published = self.status.borrow().phase != Phase::Absent;
        let started = Instant::now();
        if published {
            loop {
                let asked = match self.client() {
                    Ok(client) => client
                        .unpublish(self.place.unpublish_request())
                        .await
                        .map_err(|status| MountFailure::answered(&status)),
                    Err(failure) => Err(failure),
                };
                let Err(failure) = asked else { break };
                let retry_in = backoff.failed();
                self.status.send_modify(|status| status.last_failure = Some(failure.clone()));
                self.node.events.write(Event::UnmountFailed {
                    pod: pod.clone(),
                    volume: volume.clone(),
                    failure,
                    retry_in,
                });
                sleep(retry_in).await;
            }
        }
        let took = started.elapsed();
        let mut leftovers = self.clear().await;
        if !published {
            leftovers.retain(|leftover| !matches!(leftover, Leftover::TargetFolder(_)));
        }
        for leftover in leftovers.iter().cloned() {
            self.node.events.write(Event::LeftBehind { pod: pod.clone(), volume: volume.clone(), leftover });
        }
        if published {
            self.node.events.write(Event::VolumeUnmounted { pod: pod.clone(), volume: volume.clone(), took });
        }
        self.status.send_replace(VolumeStatus { phase: Phase::Gone(leftovers), last_failure: None });
    }

    fn settings(&self) -> Option<CsiDriver> {
        self.node.csi_driver(&self.volume.driver)
    }

    fn client(&self) -> Result<CsiClient, MountFailure> {
        let name = &self.volume.driver;
        let registered = self.node.registry.get(name).ok_or_else(|| {
            MountFailure::transient(format!(
                "driver name {name} not found in the list of registered CSI drivers"
            ))
        })?;
        Ok(CsiClient::new(registered.endpoint).with_deadline(self.node.timings.csi_call))
    }

    fn subject(&self) -> Result<TokenSubject, MountFailure> {
        let (namespace, account) = (&self.pod.name.namespace, &self.pod.service_account);
        let service_account_uid = self.node.service_account_uid(namespace, account).ok_or_else(|| {
            MountFailure::transient(format!("no token: service account {namespace}/{account} not found"))
        })?;
        Ok(TokenSubject {
            pod: self.pod.name.clone(),
            pod_uid: self.pod_uid.clone(),
            service_account: account.clone(),
            service_account_uid,
            node: self.node.name.clone(),
        })
    }

    async fn clear(&self) -> Vec<Leftover> {
        let place = self.place.clone();
        let path: PathBuf = place.target.clone();
        tokio::task::spawn_blocking(move || folders::clear(&place))
            .await
            .unwrap_or_else(|error| vec![Leftover::Unremovable { path, reason: error.to_string() }])
    }
}

/// Whether the kubelet gives the files of this volume to the pod's group itself. Never for a read-only volume.
fn kubelet_gives_to_group(driver: &CsiDriver, volume: &CsiVolume) -> bool {
    !volume.read_only
        && match driver.fs_group_policy {
            FsGroupPolicy::None => false,
            FsGroupPolicy::File => true,
            FsGroupPolicy::ReadWriteOnceWithFsType => !volume.fs_type.is_empty(),
        }
}

/// Runs work on the disk where it blocks nobody.
async fn on_disk(work: impl FnOnce() -> Result<(), Error> + Send + 'static) -> Result<(), MountFailure> {
    let outcome = tokio::task::spawn_blocking(work).await.map_err(MountFailure::transient)?;
    outcome.map_err(MountFailure::transient)
}
