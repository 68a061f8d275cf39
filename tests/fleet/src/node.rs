//! A node: pods that are mounted, and called for again and again by their kubelet.

use crate::service::Service;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use csi_node::rotation::{Freshness, Known, Schedule};
use kubelet::{Backoff, BackoffPolicy, RepublishPeriod};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use vault::{
    Client, ClientOptions, Contents, Credential, FetchError, FetchRequest, Lease, ObjectRequest, Rendering,
    VaultEndpoint, VaultName, parse_objects,
};

/// What the driver leaves of a call's time for fetching.
const CALL: Duration = Duration::from_secs(104);
/// Pods' namespace.
const NAMESPACE: &str = "apps";

/// What is on each node. Classes differ in identity and objects.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Pods, spread over the classes.
    pub pods: usize,
    /// Classes, each with an identity of its own.
    pub classes: usize,
    /// Objects of each class.
    pub objects: usize,
    /// The rotation interval.
    pub interval: Duration,
    /// Whether nodes take a part of the interval by chance. Off only to show what it is good for.
    pub spread: bool,
}

/// What happened to pods, by the moment at which it ended.
#[derive(Debug, Default)]
pub struct Diary {
    /// From the first call for a pod to its mount.
    pub mounts: Vec<Duration>,
    /// Mount calls that failed, and were repeated by the kubelet.
    pub failed_mounts: u64,
    /// When each version was first shown by each pod.
    pub shown: Vec<(u32, Instant)>,
    /// Successful looks at Key Vault: when, and which pod.
    pub looks: Vec<(Instant, u32)>,
    /// Looks that failed.
    pub kept: u64,
}

/// One identity, whose tokens cost nothing.
#[derive(Debug)]
struct Identity(String);

#[async_trait::async_trait]
impl TokenCredential for Identity {
    async fn get_token(
        &self,
        _: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        Ok(AccessToken { token: "t".into(), expires_on: OffsetDateTime::now_utc() })
    }
}

impl Credential for Identity {
    fn key(&self) -> Option<&str> {
        Some(&self.0)
    }

    fn refused(&self, _: &str) {}

    fn describe(&self) -> String {
        self.0.clone()
    }

    fn source(&self) -> String {
        "nowhere".to_owned()
    }
}

/// A class and the identity of its pods.
struct Class {
    name: String,
    identity: Arc<Identity>,
    objects: Vec<ObjectRequest>,
}

struct Node {
    client: Client,
    schedule: Schedule,
    endpoint: VaultEndpoint,
    classes: Vec<Class>,
    diary: Arc<Mutex<Diary>>,
}

/// What a mounted pod shows.
struct Shown {
    at: Instant,
    version: u32,
    _lease: Lease,
}

/// Starts a node whose pods come one by one over `over`; returns at once.
pub fn start(
    number: u32,
    load: Load,
    seed: u64,
    over: Duration,
    service: &Arc<Service>,
    diary: &Arc<Mutex<Diary>>,
) {
    let mut random = StdRng::seed_from_u64(seed ^ (u64::from(number) << 20));
    let options = ClientOptions { seed: Some(random.random()), ..ClientOptions::default() };
    let schedule = Schedule {
        rotation: true,
        interval: load.interval,
        mount_freshness: Duration::from_secs(5),
        stale_if_error: Duration::from_secs(3600),
        seed: if load.spread { random.random() } else { 0 },
    };
    let name = VaultName::parse("fleet").expect("a valid name");
    let class = |class: usize| Class {
        name: format!("class-{class}"),
        identity: Arc::new(Identity(format!("identity-{class}"))),
        objects: objects(class, load.objects),
    };
    let node = Arc::new(Node {
        client: Client::over(Arc::clone(service) as Arc<dyn vault::Transport>, options),
        schedule,
        endpoint: VaultEndpoint::new(&name, "vault.azure.net", None).expect("a valid address"),
        classes: (0..load.classes).map(class).collect(),
        diary: Arc::clone(diary),
    });
    // A node joins at one moment, and its pods follow within ten seconds.
    let joins = Instant::now() + over.mul_f64(random.random());
    for pod in 0..load.pods {
        let starts = joins + Duration::from_secs(10).mul_f64(random.random());
        let (node, dice) = (Arc::clone(&node), StdRng::seed_from_u64(random.random()));
        let id = number * u32::try_from(load.pods).expect("a few") + u32::try_from(pod).expect("a few");
        tokio::spawn(async move {
            sleep_until(starts).await;
            node.pod(id, pod % load.classes, dice).await;
        });
    }
}

fn objects(class: usize, number: usize) -> Vec<ObjectRequest> {
    let object = |object| format!("- |\n  objectName: secret-{class}-{object}\n  objectType: secret\n");
    parse_objects(&format!("array:\n{}", (0..number).map(object).collect::<String>())).expect("valid objects")
}

impl Node {
    /// A pod's volume from its first mount on, as its kubelet looks after it.
    async fn pod(&self, id: u32, class: usize, mut dice: StdRng) {
        let class = &self.classes[class];
        let (period, started) = (RepublishPeriod::default(), Instant::now());
        let mut backoff = Backoff::new(BackoffPolicy::default());
        let mut shown: Option<Shown> = None;
        loop {
            let interval = self.schedule.interval;
            let known =
                shown.as_ref().map_or(Known::Nothing, |shown| Known::Checked { at: shown.at, interval });
            if let Some(freshness) = self.schedule.look(NAMESPACE, &class.name, known) {
                match Box::pin(self.fetch(class, freshness)).await {
                    Ok(contents) => {
                        if shown.is_none() {
                            self.diary.lock().mounts.push(started.elapsed());
                        }
                        shown = Some(self.note(id, contents, shown.as_ref()));
                    }
                    Err(_) if shown.is_some() => self.diary.lock().kept += 1,
                    Err(_) => {
                        self.diary.lock().failed_mounts += 1;
                        sleep(backoff.failed()).await;
                        continue;
                    }
                }
            }
            sleep(period.drawn(dice.random())).await;
        }
    }

    async fn fetch(&self, class: &Class, freshness: Freshness) -> Result<Contents, FetchError> {
        let request = FetchRequest {
            endpoint: &self.endpoint,
            credential: Arc::clone(&class.identity) as Arc<dyn Credential>,
            objects: &class.objects,
            rendering: Rendering::default(),
            deadline: Instant::now() + CALL,
            max_age: freshness.max_age,
            stale_if_error: freshness.stale_if_error,
            priority: freshness.priority,
        };
        self.client.fetch(request).await
    }

    fn note(&self, id: u32, contents: Contents, before: Option<&Shown>) -> Shown {
        let now = Instant::now();
        let versions = contents.versions.iter().map(|version| version.version.trim_start_matches('v'));
        let version = versions.map(|version| version.parse().expect("a number")).min().expect("an object");
        let mut diary = self.diary.lock();
        if before.is_none_or(|before| before.version < version) {
            diary.shown.push((version, now));
        }
        if contents.stale.is_empty() {
            diary.looks.push((now, id));
        } else {
            diary.kept += 1;
        }
        Shown { at: contents.asked.expect("an object"), version, _lease: contents.lease }
    }
}
