//! Follow-up work in the cluster for mounted volumes, such as their status objects.
//!
//! It is done before the publish call returns, if it can be done in a few seconds. A volume that is mounted stays mounted whatever
//! comes of it: what fails is tried again in the background until it is done, or the volume is gone.

mod work;

use crate::class::{Class, Classes};
use crate::csi::request::PublishRequest;
use crate::events::Events;
use crate::kubernetes::{Change, Followed, follow, jittered};
use crate::metrics::Metrics;
use crate::pod_state::Pods;
use crate::pod_status::{self, PodStatuses, Status, Wanted};
use crate::reporting::Shown;
use crate::synced_secret::{self, SyncedSecrets};
use crate::telemetry::Seldom;
use crate::volume::{TargetPath, Volumes};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use vault::ObjectVersion;
use work::{Failed, Next, Occasion, Progress, Worker};

/// What follow-up work may add to a publish call. Far below the call's own time, so that an API server that hangs delays pods
/// and stops none.
const IN_CALL: Duration = Duration::from_secs(10);
/// The time for one go in the background.
const IN_BACKGROUND: Duration = Duration::from_secs(30);
/// How many volumes are worked on at once in the background: few, because all of them wait for the same API server.
const AT_ONCE: usize = 4;
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(200);
/// How often all volumes are looked at, a quarter more or less: Secrets that somebody has deleted come back, and what a class says
/// of Secrets is followed, within five minutes, as with the reference.
pub const CHECK: Duration = Duration::from_secs(220);

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
    worker: Worker,
    volumes: Mutex<BTreeMap<TargetPath, Arc<Job>>>,
    /// Something has become due earlier than the task in the background knows.
    sooner: Notify,
    /// When all volumes are looked at next, together, so that the process wakes up once for it.
    check: Mutex<Instant>,
    check_every: Duration,
    /// An API server that is down has as many failures as there are volumes.
    failures_told: Seldom,
}

/// What has been done since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Status objects created or changed.
    pub statuses_written: AtomicU64,
    /// Status objects that were found to say all that they should.
    pub statuses_unchanged: AtomicU64,
    /// Goes at a volume's work that did not do all of it.
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

impl Upkeep {
    /// Looks after volumes on this node, and at all of them about this often ([`CHECK`]).
    pub fn new(
        client: kube::Client,
        node: &str,
        classes: Classes,
        volumes: Arc<Volumes>,
        events: Events,
        metrics: Arc<Metrics>,
        check_every: Duration,
    ) -> Self {
        // What was looked at for another volume a moment ago is not looked at again. Shorter than the shortest wait between two
        // checks, or every other check would do nothing.
        let options = synced_secret::Options { check_every: check_every.mul_f64(0.6) };
        let worker = Worker {
            pods: Pods::new(client.clone()),
            statuses: PodStatuses::new(client.clone(), node),
            secrets: SyncedSecrets::new(client, options),
            classes,
            volumes,
            events,
            metrics,
            counts: Counts::default(),
        };
        let check = Mutex::new(Instant::now() + jittered(check_every));
        Self(Arc::new(Shared {
            worker,
            volumes: Mutex::default(),
            sooner: Notify::new(),
            check,
            check_every,
            failures_told: Seldom::default(),
        }))
    }

    /// The work in the background, for ever.
    pub async fn run(self) {
        let statuses = Followed {
            api: self.0.worker.statuses.everywhere(),
            labels: Some(self.0.worker.statuses.selector()),
            fields: None,
            what: "SecretProviderClassPodStatuses of this node",
        };
        let watched = follow(statuses, |change| self.told(&change));
        tokio::join!(watched, self.work_off());
    }

    /// What has been done since the start.
    pub fn counts(&self) -> &Counts {
        &self.0.worker.counts
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
        self.go(&job, Some(shown), IN_CALL).await;
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
        let mut jobs = self.0.volumes.lock();
        let Some(job) = jobs.remove(target) else { return };
        job.gone.store(true, Ordering::Relaxed);
        let pod = job.volume.lock().request.pod.clone();
        if jobs.values().all(|job| job.volume.lock().request.pod != pod) {
            self.0.worker.secrets.forget(&pod);
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
                running.spawn(async move { upkeep.go(&job, None, IN_BACKGROUND).await });
            }
            let next = self.0.next_due().filter(|_| running.len() < AT_ONCE);
            tokio::select! {
                _ = running.join_next(), if !running.is_empty() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                () = self.0.sooner.notified() => {}
            }
        }
    }

    /// One go at all that is to be done for a volume. It gets a time for the next one.
    async fn go(&self, job: &Job, shown: Option<Shown>, limit: Duration) {
        let done = timeout(limit, self.0.work(job, shown)).await;
        let now = Instant::now();
        let error = match done.unwrap_or(Err(Failed::Late(limit.as_secs()))) {
            Ok(next) => {
                let failures = job.failures.swap(0, Ordering::Relaxed);
                if failures > 0 {
                    tracing::debug!(volume = %job.name(), failures, "follow-up work is done after all");
                }
                if next == Next::Check {
                    job.due.lock().replace(self.0.next_check(now));
                    self.0.sooner.notify_one();
                }
                return;
            }
            Err(error) => error,
        };
        self.0.worker.counts.failures.fetch_add(1, Ordering::Relaxed);
        let failures = job.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let wait = jittered(Duration::from_secs(1 << (failures - 1).min(9)).min(LONGEST_WAIT));
        if let Some(held_back) = self.0.failures_told.pass(error.sort()) {
            tracing::warn!(
                volume = %job.name(), %error, held_back,
                "the volume is mounted, but not all was done for it in the cluster; trying on"
            );
        } else {
            tracing::debug!(volume = %job.name(), %error, failures, wait_ms = wait.as_millis(), "trying on");
        }
        *job.due.lock() = Some(if error.may_pass() { now + wait } else { self.0.next_check(now) });
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

    /// When all volumes are looked at next.
    fn next_check(&self, now: Instant) -> Instant {
        let mut check = self.check.lock();
        if *check <= now {
            *check = now + jittered(self.check_every);
        }
        *check
    }

    async fn work(&self, job: &Job, shown: Option<Shown>) -> Result<Next, Failed> {
        let mut progress = job.progress.lock().await;
        job.due.lock().take();
        if job.gone.load(Ordering::Relaxed) {
            return Ok(Next::Nothing);
        }
        let volume = job.volume.lock().clone();
        let deleted = job.deleted.load(Ordering::Relaxed);
        let occasion = shown.map_or(Occasion::Later { deleted }, Occasion::Published);
        let next = self.worker.work(&volume, self.wanted(&volume), &mut progress, occasion).await?;
        if deleted && shown.is_none() {
            job.deleted.store(false, Ordering::Relaxed);
        }
        Ok(next)
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
