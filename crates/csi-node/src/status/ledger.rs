//! What the driver has noted of each volume for people to look at. Written along the way of a mount and never read there: what
//! is on disk decides, not what stands here.

use crate::csi::request::{Pod, PublishRequest};
use crate::plan::PlannedIdentity;
use crate::volume::TargetPath;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use vault::ObjectVersion;

/// Volumes that never mounted are remembered up to this number. Mounted ones are bounded by the node itself.
const MOST_UNMOUNTED: usize = 256;
/// The kubelet tries again after two minutes at most. A pod that it has not called for in this time is gone: after a first
/// publish that failed it makes no unpublish call.
const FORGET_UNMOUNTED: Duration = Duration::from_mins(10);
/// Errors are sentences; what is longer is cut.
const LONGEST_ERROR: usize = 4096;

/// What kind of identity a vault is asked as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityKind {
    /// The pod's service account, federated with an application or managed identity.
    Workload,
    /// The pod's service account, through an AKS identity binding.
    IdentityBinding,
    /// A managed identity of the virtual machine.
    Vm,
    /// An application's own secret or certificate.
    ServicePrincipal,
}

impl From<&PlannedIdentity> for IdentityKind {
    fn from(identity: &PlannedIdentity) -> Self {
        match identity {
            PlannedIdentity::Workload { .. } => Self::Workload,
            PlannedIdentity::TokenProxy { .. } => Self::IdentityBinding,
            PlannedIdentity::Vm(_) => Self::Vm,
            PlannedIdentity::ServicePrincipal { .. } => Self::ServicePrincipal,
        }
    }
}

impl fmt::Display for IdentityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workload => "workload",
            Self::IdentityBinding => "identity-binding",
            Self::Vm => "vm",
            Self::ServicePrincipal => "service-principal",
        })
    }
}

/// What a mounted volume holds and where it came from.
#[derive(Debug, Clone)]
pub struct Content {
    /// The provider that fetched it: `azure`, which is built in, or another one's name.
    pub provider: String,
    /// As what kind of identity, where the provider is the one built in.
    pub identity: Option<IdentityKind>,
    /// That identity in words.
    pub as_whom: Option<String>,
    /// The vault's address.
    pub vault: Option<String>,
    /// The versions of its objects.
    pub versions: Arc<[ObjectVersion]>,
    /// When the oldest part of it was what the vault holds.
    pub checked: Instant,
    /// How long that is good for.
    pub interval: Duration,
}

/// The last thing that went wrong with a volume, and since when it has.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// The error's whole text, which never has secrets.
    pub error: String,
    /// When the first of these failures was.
    pub since: SystemTime,
    /// When the last one was.
    pub at: SystemTime,
    /// How many in a row.
    pub times: u32,
}

/// One volume.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Whose it is.
    pub pod: Pod,
    /// Name of its class.
    pub class: String,
    /// Whether it is mounted, as far as the last call saw.
    pub mounted: bool,
    /// What it holds; `None` as long as this process has not fetched it.
    pub content: Option<Content>,
    /// When its files changed last.
    pub changed: Option<SystemTime>,
    /// What went wrong with it since it last went well.
    pub trouble: Option<Trouble>,
    /// Since when calls are at work on it.
    pub working: Option<Instant>,
    calls: u32,
    touched: Instant,
}

/// All volumes this process has been called for.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Trees give memory back as they shrink.
    entries: Mutex<BTreeMap<TargetPath, Entry>>,
}

/// A call at work on a volume, as long as this lives.
#[derive(Debug)]
pub struct Working {
    ledger: Arc<Ledger>,
    target: TargetPath,
}

impl Ledger {
    /// Notes that a call for a volume has begun.
    pub fn begin(self: &Arc<Self>, request: &PublishRequest) -> Working {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        let entry = entries.entry(request.target.clone()).or_insert_with(|| Entry {
            pod: request.pod.clone(),
            class: request.class.clone(),
            mounted: false,
            content: None,
            changed: None,
            trouble: None,
            working: None,
            calls: 0,
            touched: now,
        });
        entry.calls += 1;
        entry.working = entry.working.or(Some(now));
        entry.touched = now;
        Working { ledger: Arc::clone(self), target: request.target.clone() }
    }

    /// Notes whether a volume is mounted. One that is not holds nothing.
    pub fn saw(&self, target: &TargetPath, mounted: bool) {
        if let Some(entry) = self.entries.lock().get_mut(target) {
            entry.mounted = mounted;
            if !mounted {
                entry.content = None;
            }
        }
    }

    /// Notes what a volume holds now, and whether its files are other ones than before.
    pub fn succeeded(&self, target: &TargetPath, content: Content, changed: bool) {
        if let Some(entry) = self.entries.lock().get_mut(target) {
            entry.mounted = true;
            entry.content = Some(content);
            entry.trouble = None;
            if changed {
                entry.changed = Some(SystemTime::now());
            }
        }
    }

    /// Notes what went wrong. Whether the volume is mounted is another question.
    pub fn failed(&self, target: &TargetPath, error: &dyn fmt::Display) {
        let mut error = error.to_string();
        if error.len() > LONGEST_ERROR {
            error.truncate(error.floor_char_boundary(LONGEST_ERROR));
            error.push('…');
        }
        let now = SystemTime::now();
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(target) {
            let (since, times) = entry.trouble.as_ref().map_or((now, 0), |known| (known.since, known.times));
            entry.trouble = Some(Trouble { error, since, at: now, times: times.saturating_add(1) });
        }
        forget_unmounted(&mut entries, Instant::now());
    }

    /// Forgets a volume that was unmounted.
    pub fn forget(&self, target: &TargetPath) {
        self.entries.lock().remove(target);
    }

    /// All that is noted, by target path.
    pub fn entries(&self) -> Vec<(TargetPath, Entry)> {
        let mut entries = self.entries.lock();
        forget_unmounted(&mut entries, Instant::now());
        entries.iter().map(|(target, entry)| (target.clone(), entry.clone())).collect()
    }
}

fn forget_unmounted(entries: &mut BTreeMap<TargetPath, Entry>, now: Instant) {
    let is_idle = |entry: &Entry| !entry.mounted && entry.calls == 0;
    entries.retain(|_, entry| !is_idle(entry) || now.duration_since(entry.touched) < FORGET_UNMOUNTED);
    let mut idle: Vec<(Instant, TargetPath)> = entries
        .iter()
        .filter(|(_, entry)| is_idle(entry))
        .map(|(target, entry)| (entry.touched, target.clone()))
        .collect();
    if let Some(surplus) = idle.len().checked_sub(MOST_UNMOUNTED) {
        idle.sort_unstable();
        for (_, target) in idle.into_iter().take(surplus) {
            entries.remove(&target);
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(entry) = self.ledger.entries.lock().get_mut(&self.target) {
            entry.calls = entry.calls.saturating_sub(1);
            if entry.calls == 0 {
                entry.working = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::csi::{NodePublishVolumeRequest, VolumeCapability};

    fn request(pod: &str) -> PublishRequest {
        let context = [
            ("csi.storage.k8s.io/pod.name", pod),
            ("csi.storage.k8s.io/pod.namespace", "shop"),
            ("secretProviderClass", "kv"),
        ];
        let raw = NodePublishVolumeRequest {
            volume_id: "v".into(),
            target_path: format!("/var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~csi/v/mount"),
            volume_capability: Some(VolumeCapability::default()),
            volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..NodePublishVolumeRequest::default()
        };
        PublishRequest::parse(raw).ok().unwrap()
    }

    fn content() -> Content {
        Content {
            provider: "azure".into(),
            identity: Some(IdentityKind::Vm),
            as_whom: Some("the VM".into()),
            vault: Some("https://kv.vault.azure.net".into()),
            versions: Arc::new([]),
            checked: Instant::now(),
            interval: Duration::from_secs(60),
        }
    }

    fn one(ledger: &Ledger) -> Entry {
        let mut entries = ledger.entries();
        assert_eq!(entries.len(), 1);
        entries.remove(0).1
    }

    #[test]
    fn failures_are_counted_until_one_call_goes_well() {
        let ledger = Arc::new(Ledger::default());
        let request = request("web");
        let target = &request.target;
        let working = ledger.begin(&request);
        let second = ledger.begin(&request);
        ledger.failed(target, &"first");
        ledger.failed(target, &"second");
        drop(working);
        assert!(one(&ledger).working.is_some(), "another call is at work");
        drop(second);
        let entry = one(&ledger);
        assert!(entry.working.is_none() && !entry.mounted);
        let trouble = entry.trouble.unwrap();
        assert_eq!((trouble.error.as_str(), trouble.times), ("second", 2));
        assert!(trouble.since <= trouble.at);
        ledger.saw(target, true);
        assert!(one(&ledger).trouble.is_some(), "nothing was tried, so nothing is better");
        ledger.succeeded(target, content(), false);
        let entry = one(&ledger);
        assert!(entry.trouble.is_none() && entry.changed.is_none() && entry.content.is_some());
        ledger.saw(target, false);
        assert!(one(&ledger).content.is_none());
        ledger.forget(target);
        assert!(ledger.entries().is_empty());
    }

    #[test]
    fn pods_that_never_mounted_are_forgotten_and_mounted_ones_are_not() {
        let ledger = Arc::new(Ledger::default());
        let mounted = request("mounted");
        drop(ledger.begin(&mounted));
        ledger.saw(&mounted.target, true);
        for pod in 0..MOST_UNMOUNTED * 2 {
            let request = request(&format!("pod-{pod}"));
            let _working = ledger.begin(&request);
            ledger.failed(&request.target, &"no");
        }
        assert_eq!(ledger.entries().len(), MOST_UNMOUNTED + 1);
        forget_unmounted(&mut ledger.entries.lock(), Instant::now() + FORGET_UNMOUNTED);
        assert_eq!(one(&ledger).pod.name, "mounted");
    }

    #[test]
    fn a_long_error_is_cut_between_letters() {
        let ledger = Arc::new(Ledger::default());
        let request = request("web");
        let _working = ledger.begin(&request);
        ledger.failed(&request.target, &"ä".repeat(LONGEST_ERROR));
        let error = one(&ledger).trouble.unwrap().error;
        assert!(error.len() <= LONGEST_ERROR + '…'.len_utf8() && error.ends_with("ä…"));
    }
}
