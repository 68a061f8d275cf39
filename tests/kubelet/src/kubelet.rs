//! The test kubelet as a whole: started by a builder, given pods, asked how their volumes fare.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::builder::Builder;
use crate::csi_client::CsiClient;
use crate::csi_driver::CsiDriver;
use crate::error::Error;
use crate::events::{Event, EventStream};
use crate::folders::{self, Leftover};
use crate::issuer::Issuer;
use crate::manifest::{DriverName, Manifest, Pod, PodName};
use crate::mounter::{Command, MountFailure, Mounter, Phase, VolumeStatus};
use crate::node::Node;
use crate::registration::RegisteredDriver;
use crate::volume::{VolumePlace, uuid_of};

/// A running test kubelet. Dropped, it stops at once and leaves mounted what is mounted, as a kubelet that crashes.
pub struct Kubelet {
    node: Arc<Node>,
    issuer: Issuer,
    pods: Mutex<Pods>,
    _services: JoinSet<()>,
}

#[derive(Default)]
struct Pods {
    live: BTreeMap<PodName, PodEntry>,
    /// How many pods of a name there have been, so that each has a uid of its own.
    generations: BTreeMap<PodName, u64>,
    mounters: JoinSet<()>,
}

struct PodEntry {
    uid: String,
    volumes: Vec<VolumeEntry>,
}

#[derive(Clone)]
struct VolumeEntry {
    name: String,
    place: VolumePlace,
    commands: mpsc::UnboundedSender<Command>,
    status: watch::Receiver<VolumeStatus>,
}

/// How the removal of a pod went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a volume may still be mounted"]
pub struct Removal {
    /// What was left behind, by volume.
    pub leftovers: Vec<(String, Leftover)>,
}

impl Removal {
    /// Whether every driver removed all that was its own.
    pub fn is_clean(&self) -> bool {
        self.leftovers.is_empty()
    }
}

impl Kubelet {
    /// A kubelet with `root` as its root folder (`/var/lib/kubelet` on a real node) that watches `registration_dir`.
    pub fn builder(root: impl Into<PathBuf>, registration_dir: impl Into<PathBuf>) -> Builder {
        Builder::new(root.into(), registration_dir.into())
    }

    pub(crate) fn new(node: Node, issuer: Issuer, services: JoinSet<()>) -> Self {
        Self { node: Arc::new(node), issuer, pods: Mutex::default(), _services: services }
    }

    /// The service-account issuer.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Everything that happened since the start and whatever happens from now on.
    pub fn events(&self) -> EventStream {
        self.node.events.stream()
    }

    /// The registered drivers.
    pub fn drivers(&self) -> Vec<RegisteredDriver> {
        self.node.registry.all()
    }

    /// Waits until `driver` is registered and has been told so.
    ///
    /// # Errors
    /// [`Error::NotRegistered`] after `patience`, [`Error::InvalidName`] if no driver can be named like that.
    pub async fn wait_registered(&self, driver: &str, patience: Duration) -> Result<RegisteredDriver, Error> {
        let name = DriverName::new(driver)?;
        timeout(patience, self.node.registry.wait(&name)).await.ok().flatten().ok_or_else(|| {
            Error::NotRegistered {
                driver: driver.to_owned(),
                waited: patience,
                last: self.node.events.last_about_registration(),
            }
        })
    }

    /// Waits until no driver of that name is registered; says whether that came about within `patience`.
    ///
    /// # Errors
    /// [`Error::InvalidName`] if no driver can be named like that.
    pub async fn wait_deregistered(&self, driver: &str, patience: Duration) -> Result<bool, Error> {
        let name = DriverName::new(driver)?;
        Ok(timeout(patience, self.node.registry.wait_gone(&name)).await.is_ok())
    }

    /// A client of a registered driver's CSI socket, with this kubelet's deadline.
    pub fn client(&self, driver: &str) -> Option<CsiClient> {
        let registered = self.node.registry.get(&DriverName::new(driver).ok()?)?;
        Some(CsiClient::new(registered.endpoint).with_deadline(self.node.timings.csi_call))
    }

    /// Adds a `CSIDriver` object or puts another in its place; the next publish heeds it.
    pub fn set_driver(&self, driver: CsiDriver) {
        self.node.objects.write().set_driver(driver);
    }

    /// Adds every Pod, ServiceAccount and Secret of a YAML text and begins to mount the pods' volumes. Service accounts and
    /// Secrets replace those of the same name; a mounted volume gets the new Secret at its next publish.
    ///
    /// # Errors
    /// [`Error::Manifest`] or [`Error::InvalidName`] for a text that the API server would refuse, a pod whose service account
    /// does not exist among them; [`Error::PodExists`]. No pod is added then.
    pub fn apply(&self, yaml: &str) -> Result<Vec<PodName>, Error> {
        let manifest = Manifest::from_yaml(yaml)?;
        let mut pods = self.pods.lock();
        {
            let mut objects = self.node.objects.write();
            manifest.service_accounts.into_iter().for_each(|account| objects.set_service_account(account));
            manifest.secrets.into_iter().for_each(|secret| objects.set_secret(secret));
            for (i, pod) in manifest.pods.iter().enumerate() {
                let (namespace, account) = (&pod.name.namespace, &pod.service_account);
                if objects.service_account_uid(namespace, account).is_none() {
                    return Err(Error::Manifest(format!(
                        "pod {}: service account {namespace}/{account} not found; apply its ServiceAccount first",
                        pod.name
                    )));
                }
                if pods.live.contains_key(&pod.name)
                    || manifest.pods[..i].iter().any(|other| other.name == pod.name)
                {
                    return Err(Error::PodExists(pod.name.clone()));
                }
            }
        }
        Ok(manifest.pods.into_iter().map(|pod| self.begin(&mut pods, pod)).collect())
    }

    /// As [`apply`](Self::apply), for a text with exactly one pod.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), and [`Error::Manifest`] if the text holds no pod or several.
    pub fn add_pod(&self, yaml: &str) -> Result<PodName, Error> {
        let pods = Manifest::from_yaml(yaml)?.pods.len();
        if pods != 1 {
            return Err(Error::Manifest(format!("one Pod expected, {pods} found")));
        }
        self.apply(yaml)?.pop().ok_or_else(|| Error::Manifest("one Pod expected, none found".to_owned()))
    }

    fn begin(&self, pods: &mut Pods, pod: Pod) -> PodName {
        let name = pod.name.clone();
        let generation = pods.generations.entry(name.clone()).or_default();
        *generation += 1;
        let uid = pod.uid.clone().unwrap_or_else(|| uuid_of(format!("{name}/{generation}").as_bytes()));
        self.node.events.write(Event::PodAdded { pod: name.clone(), uid: uid.clone() });
        let pod = Arc::new(pod);
        // Forgets the tasks of volumes that are gone.
        while pods.mounters.try_join_next().is_some() {}
        let volumes = pod.volumes.iter().map(|volume| {
            let place = VolumePlace::new(&self.node.root, &uid, &volume.name);
            let (commands, received) = mpsc::unbounded_channel();
            let (status, watched) = watch::channel(VolumeStatus::default());
            let mounter = Mounter {
                node: Arc::clone(&self.node),
                pod: Arc::clone(&pod),
                pod_uid: uid.clone(),
                volume: volume.clone(),
                place: place.clone(),
                status,
            };
            pods.mounters.spawn(mounter.run(received));
            VolumeEntry { name: volume.name.clone(), place, commands, status: watched }
        });
        let volumes = volumes.collect();
        pods.live.insert(name.clone(), PodEntry { uid, volumes });
        name
    }

    /// The pods that are there, terminating ones included.
    pub fn pods(&self) -> Vec<PodName> {
        self.pods.lock().live.keys().cloned().collect()
    }

    /// Waits until every CSI volume of a pod is mounted, which is when its containers would start.
    ///
    /// # Errors
    /// [`Error::NotMounted`] after `patience`, with the last failure; [`Error::PodNotFound`].
    pub async fn wait_mounted(&self, pod: impl Into<PodName>, patience: Duration) -> Result<(), Error> {
        let pod = pod.into();
        let deadline = Instant::now() + patience;
        for mut volume in self.volumes(&pod)? {
            let mounted = volume.status.wait_for(|status| status.phase == Phase::Mounted);
            // Whether time is up or the volume's task has ended: it is not mounted.
            let in_time = matches!(timeout_at(deadline, mounted).await, Ok(Ok(_)));
            if !in_time {
                let status = volume.status.borrow().clone();
                let last =
                    status.last_failure.map_or("no attempt has ended yet".to_owned(), |f| f.to_string());
                return Err(Error::NotMounted { pod, volume: volume.name, waited: patience, last });
            }
        }
        Ok(())
    }

    /// The failure of a volume's last publish or unpublish; `None` if it went well or there was none yet, and for a pod or
    /// volume that is not there.
    pub fn last_error(&self, pod: impl Into<PodName>, volume: &str) -> Option<MountFailure> {
        self.volume(&pod.into(), volume).ok()?.status.borrow().last_failure.clone()
    }

    /// Whether a volume is mounted as far as the kubelet knows: a publish of it has succeeded.
    ///
    /// # Errors
    /// [`Error::PodNotFound`], [`Error::VolumeNotFound`].
    pub fn is_mounted(&self, pod: impl Into<PodName>, volume: &str) -> Result<bool, Error> {
        Ok(self.volume(&pod.into(), volume)?.status.borrow().phase == Phase::Mounted)
    }

    /// Where a volume is mounted, as the driver is told.
    ///
    /// # Errors
    /// [`Error::PodNotFound`], [`Error::VolumeNotFound`].
    pub fn target_path(&self, pod: impl Into<PodName>, volume: &str) -> Result<PathBuf, Error> {
        Ok(self.volume(&pod.into(), volume)?.place.target)
    }

    /// The CSI volume id of a volume.
    ///
    /// # Errors
    /// [`Error::PodNotFound`], [`Error::VolumeNotFound`].
    pub fn volume_id(&self, pod: impl Into<PodName>, volume: &str) -> Result<String, Error> {
        Ok(self.volume(&pod.into(), volume)?.place.id)
    }

    /// Publishes every volume of a pod now, without regard to period or back-off, and waits for the answers. The next
    /// period begins then.
    ///
    /// # Errors
    /// [`Error::NotRepublished`] with the first volume that was refused, or if the pod is terminating; [`Error::PodNotFound`].
    pub async fn republish_now(&self, pod: impl Into<PodName>) -> Result<(), Error> {
        let pod = pod.into();
        let asked: Vec<_> = self
            .volumes(&pod)?
            .into_iter()
            .map(|volume| {
                let (reply, answer) = oneshot::channel();
                // A volume whose task has ended drops the reply, which is seen below.
                let _ = volume.commands.send(Command::Publish(reply));
                (volume.name, answer)
            })
            .collect();
        let mut outcome = Ok(());
        for (volume, answer) in asked {
            let failure = match answer.await {
                Ok(Ok(())) => continue,
                Ok(Err(failure)) => failure.to_string(),
                Err(_) => "the pod is being deleted".to_owned(),
            };
            outcome = outcome.and(Err(Error::NotRepublished { pod: pod.clone(), volume, failure }));
        }
        outcome
    }

    /// Marks a pod as terminating, as when its deletion was asked for and its containers are still stopping: its volumes
    /// stay but are not published any more.
    ///
    /// # Errors
    /// [`Error::PodNotFound`].
    pub fn terminate_pod(&self, pod: impl Into<PodName>) -> Result<(), Error> {
        for volume in self.volumes(&pod.into())? {
            // A volume whose task has ended is published no more either.
            let _ = volume.commands.send(Command::Terminate);
        }
        Ok(())
    }

    /// Deletes a pod: unpublishes its volumes and removes its folders. Calls in progress end first.
    ///
    /// # Errors
    /// [`Error::NotUnmounted`] after `patience`; the kubelet goes on trying, and calling this again waits again.
    /// [`Error::PodNotFound`].
    pub async fn delete_pod(&self, pod: impl Into<PodName>, patience: Duration) -> Result<Removal, Error> {
        let pod = pod.into();
        let deadline = Instant::now() + patience;
        let volumes = self.volumes(&pod)?;
        for volume in &volumes {
            // A volume that is already being deleted has stopped listening.
            let _ = volume.commands.send(Command::Delete);
        }
        let mut removal = Removal::default();
        let mut pod_dir = None;
        for mut volume in volumes {
            let gone = volume.status.wait_for(|status| matches!(status.phase, Phase::Gone(_)));
            let phase =
                timeout_at(deadline, gone).await.ok().and_then(Result::ok).map(|status| status.phase.clone());
            let Some(Phase::Gone(leftovers)) = phase else {
                let status = volume.status.borrow().clone();
                let last = status.last_failure.map_or("no answer yet".to_owned(), |f| f.to_string());
                return Err(Error::NotUnmounted { pod, volume: volume.name, waited: patience, last });
            };
            removal.leftovers.extend(leftovers.into_iter().map(|leftover| (volume.name.clone(), leftover)));
            pod_dir = Some(volume.place.pod_dir);
        }
        // What volumes left behind they have reported; the folders around it need no report of their own.
        if let Some(pod_dir) = pod_dir {
            let _ = tokio::task::spawn_blocking(move || folders::remove_pod(&pod_dir)).await;
        }
        let entry = self.pods.lock().live.remove(&pod);
        if let Some(PodEntry { uid, .. }) = entry {
            self.node.tokens.forget(&uid);
            self.node.events.write(Event::PodRemoved { pod });
        }
        Ok(removal)
    }

    /// Deletes every pod, all at once.
    ///
    /// # Errors
    /// The first error of a pod that could not be deleted within `patience`; the others are deleted all the same.
    pub async fn delete_all(&self, patience: Duration) -> Result<Removal, Error> {
        for pod in self.pods() {
            for volume in self.volumes(&pod).unwrap_or_default() {
                let _ = volume.commands.send(Command::Delete);
            }
        }
        let deadline = Instant::now() + patience;
        let mut outcome = Ok(Removal::default());
        for pod in self.pods() {
            match self.delete_pod(pod, deadline.saturating_duration_since(Instant::now())).await {
                Err(Error::PodNotFound(_)) => {}
                Ok(more) => {
                    if let Ok(removal) = &mut outcome {
                        removal.leftovers.extend(more.leftovers);
                    }
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// The kubelet's root folder.
    pub fn root(&self) -> &Path {
        &self.node.root
    }

    fn volumes(&self, pod: &PodName) -> Result<Vec<VolumeEntry>, Error> {
        let pods = self.pods.lock();
        pods.live.get(pod).map(|entry| entry.volumes.clone()).ok_or_else(|| Error::PodNotFound(pod.clone()))
    }

    fn volume(&self, pod: &PodName, volume: &str) -> Result<VolumeEntry, Error> {
        let found = self.volumes(pod)?.into_iter().find(|entry| entry.name == volume);
        found.ok_or_else(|| Error::VolumeNotFound { pod: pod.clone(), volume: volume.to_owned() })
    }
}
