//! Follow-up work in the cluster for mounted volumes, such as their status objects.
//!
//! It is done before the publish call returns, if it can be done in a few seconds. A volume that is mounted stays mounted whatever
//! comes of it: what fails is tried again in the background until it is done, or the volume is gone.

use crate::class::{Class, ClassError, ClassName, Classes};
use crate::csi::request::PublishRequest;
use crate::kubernetes::{Change, Followed, follow, jittered};
use crate::pod_state::{Age, PodError, PodState, Pods};
use crate::pod_status::{self, Expect, PodStatuses, Status, StatusError, Wanted, Written};
use crate::reporting::Shown;
use crate::volume::TargetPath;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use vault::ObjectVersion;

/// What follow-up work may add to a publish call. Far below the call's own time, so that an API server that hangs delays pods
/// and stops none.
const IN_CALL: Duration = Duration::from_secs(10);
/// The time for one go in the background.
const IN_BACKGROUND: Duration = Duration::from_secs(30);
/// How many volumes are worked on at once in the background: few, because all of them wait for the same API server.
const AT_ONCE: usize = 4;
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A mounted volume and what it shows.
#[derive(Debug, Clone)]
pub struct Volume {
    /// The call it came from, without tokens and secrets.
    pub request: Arc<PublishRequest>,
    /// Its class as it was when the content was fetched. Kept, so that it stays known.
    pub class: Option<Class>,
    /// What it shows; unknown for a volume that an earlier process of this driver has mounted.
    pub versions: Option<Arc<[ObjectVersion]>>,
}

/// Looks after the mounted volumes of this node. Clones look after the same ones.
#[derive(Clone)]
pub struct Upkeep(Arc<Shared>);

struct Shared {
    pods: Pods,
    statuses: PodStatuses,
    classes: Classes,
    volumes: Mutex<HashMap<TargetPath, Arc<Job>>>,
    /// Something has become due earlier than the task in the background knows.
    sooner: Notify,
    counts: Counts,
}

/// What has been done since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Status objects created or changed.
    pub statuses_written: AtomicU64,
    /// Status objects that were found to say all that they should.
    pub statuses_unchanged: AtomicU64,
    /// Tries that failed.
    pub failures: AtomicU64,
}

/// The work for one volume.
struct Job {
    /// What is mounted, by the last call.
    volume: Mutex<Volume>,
    /// When it is to be worked on in the background.
    due: Mutex<Option<Instant>>,
    /// The volume is gone.
    gone: AtomicBool,
    /// Its status object was deleted.
    deleted: AtomicBool,
    /// Tries in a row that failed.
    failures: AtomicU32,
    /// One go at a time.
    progress: tokio::sync::Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// What the status object says.
    status: Option<Wanted>,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error(transparent)]
    Class(#[from] ClassError),
    #[error("not done within {} s", .0.as_secs())]
    Late(Duration),
}

impl Upkeep {
    /// Looks after volumes on this node.
    pub fn new(client: kube::Client, node: &str, classes: Classes) -> Self {
        Self(Arc::new(Shared {
            pods: Pods::new(client.clone()),
            statuses: PodStatuses::new(client, node),
            classes,
            volumes: Mutex::default(),
            sooner: Notify::new(),
            counts: Counts::default(),
        }))
    }

    /// The work in the background, for ever.
    pub async fn run(self) {
        let statuses = Followed {
            api: self.0.statuses.everywhere(),
            labels: Some(self.0.statuses.selector()),
            fields: None,
            what: "SecretProviderClassPodStatuses of this node",
        };
        let watched = follow(statuses, |change| self.told(&change));
        tokio::join!(watched, self.work_off());
    }

    /// What has been done since the start.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// How many volumes have work waiting for them.
    pub fn pending(&self) -> usize {
        self.0.volumes.lock().values().filter(|job| job.due.lock().is_some()).count()
    }

    /// Tells the cluster about a volume, now if that does not take long.
    pub async fn published(&self, volume: Volume, shown: Shown) {
        let target = volume.request.target.clone();
        let job = {
            let mut jobs = self.0.volumes.lock();
            let job = jobs.entry(target).or_insert_with(|| Job::new(volume.clone()));
            *job.volume.lock() = volume;
            Arc::clone(job)
        };
        let expect = if shown == Shown::Mounted { Expect::None } else { Expect::One };
        self.go(&job, expect, IN_CALL).await;
    }

    /// Looks after a volume that an earlier process of this driver has mounted, and hurries what could not be done so far.
    pub fn still_there(&self, request: &PublishRequest) {
        let mut jobs = self.0.volumes.lock();
        let job = jobs.entry(request.target.clone()).or_insert_with(|| {
            let request = Arc::new(request.without_secrets());
            let job = Job::new(Volume { request, class: None, versions: None });
            *job.due.lock() = Some(Instant::now());
            self.0.sooner.notify_one();
            job
        });
        if job.failures.load(Ordering::Relaxed) > 0 {
            job.due.lock().replace(Instant::now());
            self.0.sooner.notify_one();
        }
    }

    /// Stops looking after a volume.
    pub fn forget(&self, target: &TargetPath) {
        if let Some(job) = self.0.volumes.lock().remove(target) {
            job.gone.store(true, Ordering::Relaxed);
        }
    }

    /// A status object of this node was deleted: it comes back, if its pod is still there.
    fn told(&self, change: &Change) {
        let Change::Deleted(object) = change else { return };
        let (Some(namespace), Some(name)) = (&object.namespace, &object.name) else { return };
        for job in self.0.volumes.lock().values() {
            let pod = job.volume.lock().request.pod.clone();
            let class = job.volume.lock().request.class.clone();
            if pod.namespace == *namespace && pod_status::name(&pod.name, namespace, &class) == *name {
                job.deleted.store(true, Ordering::Relaxed);
                *job.due.lock() = Some(Instant::now() + jittered(Duration::from_secs(1)));
                self.0.sooner.notify_one();
            }
        }
    }

    /// Works off what has become due.
    async fn work_off(&self) {
        let mut running = JoinSet::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(job) = self.0.take_due()
            {
                let upkeep = self.clone();
                running.spawn(async move { upkeep.go(&job, Expect::One, IN_BACKGROUND).await });
            }
            let next = self.0.next_due().filter(|_| running.len() < AT_ONCE);
            tokio::select! {
                _ = running.join_next(), if !running.is_empty() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                () = self.0.sooner.notified() => {}
            }
        }
    }

    /// One go at all that is to be done for a volume. What fails gets a time for the next one.
    async fn go(&self, job: &Job, expect: Expect, limit: Duration) {
        let done = timeout(limit, self.0.bring_up_to_date(job, expect)).await;
        let Err(error) = done.unwrap_or(Err(Failed::Late(limit))) else {
            let failures = job.failures.swap(0, Ordering::Relaxed);
            if failures > 0 {
                tracing::info!(volume = %job.name(), failures, "follow-up work is done after all");
            }
            return;
        };
        self.0.counts.failures.fetch_add(1, Ordering::Relaxed);
        let failures = job.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let wait = jittered(Duration::from_secs(1 << (failures - 1).min(9)).min(LONGEST_WAIT));
        if failures == 1 {
            tracing::warn!(
                volume = %job.name(), %error,
                "the volume is mounted, but the cluster could not be told all about it; trying on"
            );
        } else {
            tracing::debug!(volume = %job.name(), %error, failures, wait_ms = wait.as_millis(), "trying on");
        }
        *job.due.lock() = Some(Instant::now() + wait);
        self.0.sooner.notify_one();
    }
}

impl Shared {
    fn take_due(&self) -> Option<Arc<Job>> {
        let now = Instant::now();
        let jobs = self.volumes.lock();
        let job = jobs.values().find(|job| job.due.lock().is_some_and(|due| due <= now))?;
        job.due.lock().take();
        Some(Arc::clone(job))
    }

    fn next_due(&self) -> Option<Instant> {
        self.volumes.lock().values().filter_map(|job| *job.due.lock()).min()
    }

    async fn bring_up_to_date(&self, job: &Job, expect: Expect) -> Result<(), Failed> {
        let mut progress = job.progress.lock().await;
        job.due.lock().take();
        if job.gone.load(Ordering::Relaxed) {
            return Ok(());
        }
        let volume = self.volume(job).await?;
        if job.deleted.load(Ordering::Relaxed) {
            // Where the pod is gone too, its objects are being collected, and the volume is next.
            if self.pods.state(&volume.request.pod, Age::Now).await? == PodState::Gone {
                return Ok(());
            }
            progress.status = None;
            job.deleted.store(false, Ordering::Relaxed);
        }
        if let Some(wanted) = self.wanted(&volume)
            && progress.status.as_ref() != Some(&wanted)
        {
            let (written, _uid) = self.statuses.ensure(&wanted, expect).await?;
            let count = match written {
                Written::Unchanged => &self.counts.statuses_unchanged,
                Written::Created | Written::Updated => &self.counts.statuses_written,
            };
            count.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(volume = %job.name(), outcome = ?written, "status object");
            progress.status = Some(wanted);
        }
        Ok(())
    }

    /// The volume with its class, which is read for one that an earlier process has mounted.
    async fn volume(&self, job: &Job) -> Result<Volume, Failed> {
        let volume = job.volume.lock().clone();
        if volume.class.is_some() || volume.request.class.is_empty() {
            return Ok(volume);
        }
        let request = &volume.request;
        let name = ClassName { namespace: request.pod.namespace.clone(), name: request.class.clone() };
        match self.classes.get(&name).await {
            Ok(class) => {
                let mut volume = job.volume.lock();
                let class = volume.class.get_or_insert(class).clone();
                Ok(Volume { class: Some(class), ..volume.clone() })
            }
            Err(ClassError::NotFound { .. }) => Ok(volume),
            Err(error) => Err(error.into()),
        }
    }

    /// What the status object of a volume is to say: what all volumes of the pod show of the class.
    fn wanted(&self, volume: &Volume) -> Option<Wanted> {
        let status = |volume: &Volume| {
            let request = &volume.request;
            let versions = volume.versions.as_ref()?;
            Some(Status::of(&request.pod, &request.class, request.target.as_str(), versions))
        };
        let mut wanted = status(volume)?;
        let request = &volume.request;
        for job in self.volumes.lock().values() {
            let other = job.volume.lock();
            let same = other.request.pod == request.pod && other.request.class == request.class;
            if same
                && other.request.target != request.target
                && let Some(status) = status(&other)
            {
                wanted.add(status);
            }
        }
        Some(Wanted { pod: request.pod.clone(), status: wanted })
    }
}

impl Job {
    fn new(volume: Volume) -> Arc<Self> {
        Arc::new(Self {
            volume: Mutex::new(volume),
            due: Mutex::default(),
            gone: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            progress: tokio::sync::Mutex::default(),
        })
    }

    /// For the log.
    fn name(&self) -> String {
        let volume = self.volume.lock();
        format!("{} of {}", volume.request.class, volume.request.pod)
    }
}
