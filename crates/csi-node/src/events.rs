//! Events on pods: what `kubectl describe pod` shows of this driver.
//!
//! Core v1 events, because the reference's ClusterRole allows `create` and `patch` on those and not on `events.k8s.io`; the API
//! server shows either kind as the other, too. Telling an event never waits, and never fails: what cannot be told is dropped.

use crate::csi::request::Pod;
use crate::kubernetes::{code, lacks_right, said};
use crate::telemetry::Seldom;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// The API server's limit for the text of an event, in bytes.
const LONGEST_TEXT: usize = 1024;
/// What stands for the part of a text that is cut.
const GAP: &str = " … ";
/// Events that wait to be written. A burst of more than this is cut.
const QUEUE: usize = 256;
/// How long the API server may take for one.
const WRITE: Duration = Duration::from_secs(10);
/// The same event again is counted, and the count written this often at most.
const COUNTED: Duration = Duration::from_secs(60);
/// After this long without a repetition the same event is a new one.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Writes for one pod: this many at once, and one more each half minute.
const POD: Budget = Budget { burst: 10, period: Duration::from_secs(30) };
/// Writes of this node: this many at once, and two more each second.
const NODE: Budget = Budget { burst: 50, period: Duration::from_millis(500) };

/// Why an event is told. The names are the reference's, of 1.6.0 or earlier, where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A pod's volume cannot be mounted.
    FailedToMount,
    /// A mounted volume shows new content.
    MountRotationComplete,
    /// A mounted volume keeps its content because new content could not be had.
    MountRotationFailed,
    /// A Kubernetes Secret has new content.
    SecretRotationComplete,
    /// A Kubernetes Secret keeps its content, although the volume's is new.
    SecretRotationFailed,
    /// A Kubernetes Secret could not be made from a volume's files.
    FailedToCreateSecret,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::FailedToMount => "FailedToMount",
            Self::MountRotationComplete => "MountRotationComplete",
            Self::MountRotationFailed => "MountRotationFailed",
            Self::SecretRotationComplete => "SecretRotationComplete",
            Self::SecretRotationFailed => "SecretRotationFailed",
            Self::FailedToCreateSecret => "FailedToCreateSecret",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::MountRotationComplete | Self::SecretRotationComplete => "Normal",
            Self::FailedToMount
            | Self::MountRotationFailed
            | Self::SecretRotationFailed
            | Self::FailedToCreateSecret => "Warning",
        }
    }

    /// The component, as the reference calls it.
    fn component(self) -> &'static str {
        match self {
            Self::FailedToMount | Self::FailedToCreateSecret => "csi-secrets-store-controller",
            _ => "csi-secrets-store-rotation",
        }
    }
}

/// Tells events. Clones tell into the same queue.
#[derive(Debug, Clone)]
pub struct Events {
    queue: mpsc::Sender<News>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
struct News {
    pod: Pod,
    reason: Reason,
    text: String,
}

impl Events {
    /// Writes events through this client, as this node, in a task of its own that ends when the last clone is gone.
    ///
    /// Needs the RBAC rule `events: [create, patch]` in the core group.
    pub fn start(client: kube::Client, node: String) -> Self {
        let (queue, news) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        tokio::spawn(write(client, node, news, Arc::clone(&dropped)));
        Self { queue, dropped }
    }

    /// Tells an event about a pod. The text must not have anything secret in it; it is cut to what an event can hold.
    pub fn tell(&self, pod: &Pod, reason: Reason, text: &str) {
        if pod.name.is_empty() || pod.namespace.is_empty() {
            return;
        }
        let news = News { pod: pod.clone(), reason, text: cut(text) };
        if self.queue.try_send(news).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were not told, because there were too many or the API server did not take them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// At most [`LONGEST_TEXT`] bytes: of a longer text the middle goes, because who and what is said first, and the cure last.
fn cut(text: &str) -> String {
    if text.len() <= LONGEST_TEXT {
        return text.to_owned();
    }
    let (mut head, mut tail) = (LONGEST_TEXT * 2 / 3, text.len() - (LONGEST_TEXT / 3 - GAP.len() - 1));
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}{GAP}{}", text.get(..head).unwrap_or_default(), text.get(tail..).unwrap_or_default())
}

/// A number of writes that fills up again with time.
#[derive(Debug, Clone, Copy)]
struct Budget {
    burst: u32,
    period: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    budget: Budget,
    /// When the bucket will be full again.
    full: Instant,
}

impl Bucket {
    fn new(budget: Budget, now: Instant) -> Self {
        Self { budget, full: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let next = self.full.max(now) + self.budget.period;
        if next > now + self.budget.period * self.budget.burst {
            return false;
        }
        self.full = next;
        true
    }
}

type Key = (String, Reason, String);

/// What has been told lately.
#[derive(Debug)]
struct Ledger {
    told: HashMap<Key, Told>,
    pods: HashMap<String, Bucket>,
    node: Bucket,
    tidied: Instant,
}

#[derive(Debug, Clone)]
struct Told {
    /// Name of the event object, once it exists.
    name: String,
    first: Timestamp,
    count: i32,
    seen: Instant,
    written: Instant,
}

/// What to do about an event.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Create,
    /// Written again with this count.
    Count(i32),
    /// Counted, and not written now.
    Counted,
    TooMany,
}

impl Ledger {
    fn new(now: Instant) -> Self {
        Self { told: HashMap::new(), pods: HashMap::new(), node: Bucket::new(NODE, now), tidied: now }
    }

    fn judge(&mut self, key: &Key, name: impl FnOnce() -> String, now: Instant) -> Verdict {
        if now - self.tidied > FORGOTTEN / 10 {
            self.told.retain(|_, told| now - told.seen < FORGOTTEN);
            self.pods.retain(|_, bucket| bucket.full > now);
            self.tidied = now;
        }
        let known = self.told.get_mut(key).filter(|told| now - told.seen < FORGOTTEN);
        if let Some(told) = known {
            told.count = told.count.saturating_add(1);
            told.seen = now;
            if now - told.written < COUNTED || !self.node.take(now) {
                return Verdict::Counted;
            }
            told.written = now;
            return Verdict::Count(told.count);
        }
        let pod = self.pods.entry(key.0.clone()).or_insert_with(|| Bucket::new(POD, now));
        if !pod.take(now) || !self.node.take(now) {
            return Verdict::TooMany;
        }
        let told = Told { name: name(), first: Timestamp::now(), count: 1, seen: now, written: now };
        self.told.insert(key.clone(), told);
        Verdict::Create
    }
}

async fn write(client: kube::Client, node: String, mut news: mpsc::Receiver<News>, dropped: Arc<AtomicU64>) {
    let mut ledger = Ledger::new(Instant::now());
    let told_of = Seldom::default();
    while let Some(News { pod, reason, text }) = news.recv().await {
        let key = (if pod.uid.is_empty() { pod.to_string() } else { pod.uid.clone() }, reason, text);
        let verdict = ledger.judge(&key, || event_name(&pod), Instant::now());
        let text = &key.2;
        let events: Api<Event> = Api::namespaced(client.clone(), &pod.namespace);
        if verdict == Verdict::TooMany {
            dropped.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%pod, reason = reason.as_str(), text, "too many events: this one is not told");
        }
        let Some(told) = ledger.told.get(&key).cloned() else { continue };
        let written = match verdict {
            Verdict::Counted | Verdict::TooMany => continue,
            Verdict::Create => {
                let event = event(&pod, reason, text, &told, &node);
                timeout(WRITE, events.create(&PostParams::default(), &event)).await.map(|done| done.map(drop))
            }
            Verdict::Count(count) => {
                let patch = json!({"count": count, "lastTimestamp": Time(Timestamp::now())});
                let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
                let patched = events.patch(&told.name, &parameters, &patch);
                timeout(WRITE, patched).await.map(|done| done.map(drop))
            }
        };
        let failure = match written {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_) => {
                ledger.told.remove(&key);
                dropped.fetch_add(1, Ordering::Relaxed);
                if let Some(held_back) = told_of.pass("late".to_owned()) {
                    tracing::warn!(
                        %pod, held_back, "events are not told: the API server has not answered within {} s", WRITE.as_secs()
                    );
                }
                continue;
            }
        };
        // The next one of its kind is a new event.
        ledger.told.remove(&key);
        dropped.fetch_add(1, Ordering::Relaxed);
        let text = said(&failure);
        let cure = if lacks_right(&failure) {
            "; the driver's ClusterRole secretproviderclasses-role needs create and patch on events"
        } else {
            ""
        };
        let error = format!("{text}{cure}");
        if let Some(held_back) = told_of.pass(code(&failure).to_string()) {
            tracing::warn!(%pod, reason = reason.as_str(), error, held_back, "an event was not told");
        } else {
            tracing::debug!(%pod, reason = reason.as_str(), error, "an event was not told");
        }
    }
}

/// As other programs name them: the pod's name and a number that no other event has.
fn event_name(pod: &Pod) -> String {
    let kept: String = pod.name.chars().take(236).collect();
    format!("{}.{:x}", kept.trim_end_matches(['.', '-']), Timestamp::now().as_nanosecond())
}

fn event(pod: &Pod, reason: Reason, text: &str, told: &Told, node: &str) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(told.name.clone()),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(reason.as_str().to_owned()),
        message: Some(text.to_owned()),
        type_: Some(reason.kind().to_owned()),
        source: Some(EventSource {
            component: Some(reason.component().to_owned()),
            host: Some(node.to_owned()),
        }),
        first_timestamp: Some(Time(told.first)),
        last_timestamp: Some(Time(told.first)),
        count: Some(told.count),
        reporting_component: Some(reason.component().to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pod: &str, text: &str) -> Key {
        (pod.to_owned(), Reason::FailedToMount, text.to_owned())
    }

    fn name() -> String {
        "web.1".to_owned()
    }

    #[tokio::test]
    async fn the_same_event_is_counted_and_seldom_written() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let verdicts: Vec<Verdict> = (0..150)
            .map(|second| ledger.judge(&key("p", "no"), name, start + Duration::from_secs(second)))
            .collect();
        let written: Vec<&Verdict> =
            verdicts.iter().filter(|verdict| **verdict != Verdict::Counted).collect();
        assert_eq!(written, [&Verdict::Create, &Verdict::Count(61), &Verdict::Count(121)]);
        let later = start + Duration::from_secs(150) + FORGOTTEN;
        assert_eq!(ledger.judge(&key("p", "no"), name, later), Verdict::Create, "that is long ago");
    }

    #[tokio::test]
    async fn one_pod_is_cut_off_and_others_are_not() {
        let now = Instant::now();
        let mut ledger = Ledger::new(now);
        let told = (0..100).filter(|n| ledger.judge(&key("p", &n.to_string()), name, now) == Verdict::Create);
        assert_eq!(told.count(), 10);
        assert_eq!(ledger.judge(&key("q", "no"), name, now), Verdict::Create);
        let later = now + POD.period;
        assert_eq!(ledger.judge(&key("p", "new"), name, later), Verdict::Create);
        assert_eq!(ledger.judge(&key("p", "newer"), name, later), Verdict::TooMany);
    }

    #[tokio::test]
    async fn a_node_does_not_flood_the_cluster() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        // A thousand pods fail for a minute, each in a new way every second.
        let mut written = 0;
        for second in 0..60 {
            for pod in 0..1000 {
                let key = key(&format!("p{pod}"), &second.to_string());
                written += u32::from(
                    ledger.judge(&key, name, start + Duration::from_secs(second)) == Verdict::Create,
                );
            }
        }
        assert!((100..=170).contains(&written), "{written}");
    }

    #[tokio::test]
    async fn what_was_told_long_ago_is_forgotten() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        for n in 0..2000 {
            let now = start + Duration::from_secs(n * 10);
            ledger.judge(&key(&format!("p{n}"), "no"), name, now);
        }
        assert!(
            ledger.told.len() < 80 && ledger.pods.len() < 80,
            "{} {}",
            ledger.told.len(),
            ledger.pods.len()
        );
    }

    #[test]
    fn long_texts_keep_their_beginning_and_their_end() {
        let text = format!("who {}ü cure", "ä".repeat(2000));
        let short = cut(&text);
        assert!(short.len() <= LONGEST_TEXT && short.len() > LONGEST_TEXT - 8, "{}", short.len());
        assert!(short.starts_with("who ää") && short.ends_with("ü cure") && short.contains('…'));
        assert_eq!(cut("short"), "short");
    }
}
