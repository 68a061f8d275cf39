//! The answer of the operator's socket to `GET /v1/volumes`. Its JSON is for programs, so fields are added and never renamed.

use super::ledger::{Entry, IdentityKind};
use crate::build_info::VERSION;
use crate::driver::{Driver, Selection};
use crate::health::{Health, Registration};
use crate::rotation::Schedule;
use crate::volume::TargetPath;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What the process knows about itself.
#[derive(Debug)]
pub struct About {
    /// Name of the node.
    pub node: String,
    /// Name of the driver.
    pub driver_name: String,
    /// When the process started.
    pub started: SystemTime,
    /// Its health.
    pub health: Arc<Health>,
    /// Its command line behind `akv-csi node`.
    pub arguments: Vec<String>,
    /// Version of the chart that its DaemonSet was made from.
    pub chart: Option<String>,
}

/// One node's driver and its volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Version of the driver.
    pub version: String,
    /// Version of the chart that its DaemonSet was made from, where that says it.
    #[serde(default)]
    pub chart_version: Option<String>,
    /// Name of the node.
    pub node: String,
    /// Name of the driver.
    pub driver: String,
    /// When the driver started, in RFC 3339.
    pub started_at: String,
    /// For how many seconds it has been running.
    pub uptime_seconds: u64,
    /// What the kubelet said to the driver.
    pub registration: Registration,
    /// Whether and how often Key Vault is looked at.
    pub rotation: RotationStatus,
    /// The volumes, by pod.
    pub volumes: Vec<VolumeStatus>,
    /// The vaults that were asked lately.
    pub vaults: Vec<VaultStatus>,
    /// Answers of vaults that are kept for mounted volumes.
    pub cached_values: usize,
    /// The token service.
    pub tokens: TokenStatus,
}

/// Whether and how often Key Vault is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationStatus {
    /// Whether mounted volumes are looked after at all.
    pub enabled: bool,
    /// How long their content is fresh where the class does not say.
    pub interval_seconds: u64,
}

/// How a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    /// Mounted, and the last look at the vault went well.
    Ok,
    /// Mounted, and keeps what it has: the last look at the vault failed.
    Kept,
    /// Not mounted: the last call failed.
    Failed,
    /// Not mounted yet: a call is at work.
    Mounting,
    /// Mounted before this process started, and not looked at since: the kubelet has not called for it, or rotation is off.
    Found,
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// How it is.
    pub state: VolumeState,
    /// Namespace of the pod; as long as the kubelet has not called, nobody has told it.
    pub namespace: Option<String>,
    /// Name of the pod.
    pub pod: Option<String>,
    /// UID of the pod.
    pub pod_uid: String,
    /// Service account of the pod.
    pub service_account: Option<String>,
    /// Name of the class.
    pub class: Option<String>,
    /// Where it is mounted.
    pub target: String,
    /// The provider that fetched its content: `azure`, which is built in, or another one's name.
    pub provider: Option<String>,
    /// As what kind of identity, where the provider is the one built in.
    pub identity: Option<IdentityKind>,
    /// That identity in words.
    pub as_whom: Option<String>,
    /// The vault's address.
    pub vault: Option<String>,
    /// Its objects.
    pub objects: Vec<ObjectStatus>,
    /// How many seconds ago its content was what the vault holds.
    pub age_seconds: Option<u64>,
    /// How long that is good for.
    pub interval_seconds: Option<u64>,
    /// In how many seconds the vault will be looked at; 0 with the kubelet's next call, which comes every 60 to 90 s.
    pub next_look_seconds: Option<u64>,
    /// When its files changed last since the driver started, in RFC 3339.
    pub changed_at: Option<String>,
    /// For how many seconds calls have been at work on it.
    pub working_seconds: Option<u64>,
    /// What went wrong since it last went well.
    pub error: Option<ErrorStatus>,
}

/// An object of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// `<objectType>/<objectName>`, with `/<index>` in a history.
    pub id: String,
    /// The version in the vault.
    pub version: String,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorStatus {
    /// The last error.
    pub message: String,
    /// When it was, in RFC 3339.
    pub at: String,
    /// How many seconds ago that is.
    pub age_seconds: u64,
    /// When the first of these failures was, in RFC 3339.
    pub since: String,
    /// How many there were in a row.
    pub times: u32,
}

/// A vault, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VaultStatus {
    /// Its address.
    pub vault: String,
    /// Requests under way.
    pub requests: usize,
    /// For how many more seconds nothing is sent, because it throttles.
    pub paused_seconds: Option<u64>,
    /// What it said then.
    pub reason: Option<String>,
}

/// The token service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenStatus {
    /// Identities whose tokens are kept.
    pub identities: usize,
    /// Token requests since the start.
    pub requests: u64,
    /// Those that brought no token.
    pub failures: u64,
}

/// What the kubelet notes beside a volume.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeData {
    driver_name: String,
}

impl NodeStatus {
    /// Looks at everything. Waits for no call that is at work.
    pub async fn of(driver: &Driver, about: &About) -> Self {
        let entries = driver.ledger().entries();
        let known: HashSet<&str> = entries.iter().map(|(target, _)| target.as_str()).collect();
        let name = about.driver_name.clone();
        let volumes = driver.volumes();
        let on_disk = tokio::task::spawn_blocking(move || {
            let mut found = volumes.list_all().unwrap_or_default();
            found.retain(|target| is_of(&name, target));
            found
        })
        .await
        .unwrap_or_default();
        let schedule = &driver.settings().schedule;
        let mut volumes: Vec<VolumeStatus> = on_disk
            .into_iter()
            .filter(|target| !known.contains(target.as_str()))
            .map(|target| VolumeStatus::found(&target))
            .chain(entries.iter().map(|(target, entry)| VolumeStatus::of(target, entry, schedule)))
            .collect();
        volumes.sort_by(|a, b| {
            let key = |volume: &VolumeStatus| {
                (
                    volume.namespace.is_none(),
                    volume.namespace.clone(),
                    volume.pod.clone(),
                    volume.target.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        let stats = driver.tokens().stats();
        let vault = driver.vault();
        Self {
            version: VERSION.to_owned(),
            chart_version: about.chart.clone(),
            node: about.node.clone(),
            driver: about.driver_name.clone(),
            started_at: moment(about.started),
            uptime_seconds: about.started.elapsed().unwrap_or_default().as_secs(),
            registration: about.health.registration(),
            rotation: RotationStatus {
                enabled: schedule.rotation,
                interval_seconds: schedule.interval.as_secs(),
            },
            volumes,
            vaults: vault
                .vaults()
                .into_iter()
                .map(|state| VaultStatus {
                    vault: state.address,
                    requests: state.requests,
                    paused_seconds: state.pause.as_ref().map(|(left, _)| whole(*left)),
                    reason: state.pause.map(|(_, reason)| reason),
                })
                .collect(),
            cached_values: vault.cached(),
            tokens: TokenStatus {
                identities: stats.identities,
                requests: stats.requests,
                failures: stats.failures,
            },
        }
    }

    /// The same with these volumes alone.
    #[must_use]
    pub fn only(mut self, wanted: &Selection) -> Self {
        let fits = |wanted: &Option<String>, value: &Option<String>| wanted.is_none() || wanted == value;
        self.volumes.retain(|volume| {
            fits(&wanted.namespace, &volume.namespace)
                && fits(&wanted.pod, &volume.pod)
                && fits(&wanted.class, &volume.class)
        });
        self
    }
}

impl VolumeStatus {
    fn of(target: &TargetPath, entry: &Entry, schedule: &Schedule) -> Self {
        let content = entry.content.as_ref();
        let state = match (entry.mounted, content, &entry.trouble) {
            (true, _, Some(_)) => VolumeState::Kept,
            (true, Some(_), None) => VolumeState::Ok,
            (true, None, None) => VolumeState::Found,
            (false, _, _) if entry.working.is_some() => VolumeState::Mounting,
            (false, _, _) => VolumeState::Failed,
        };
        let next = content.filter(|_| schedule.rotation).map(|content| {
            let good_for = schedule.shortened(content.interval, &entry.pod.namespace, &entry.class);
            good_for.saturating_sub(content.checked.elapsed())
        });
        Self {
            state,
            namespace: Some(entry.pod.namespace.clone()),
            pod: Some(entry.pod.name.clone()),
            pod_uid: entry.pod.uid.clone(),
            service_account: Some(entry.pod.service_account.clone()),
            class: Some(entry.class.clone()),
            target: target.to_string(),
            provider: content.map(|content| content.provider.clone()),
            identity: content.and_then(|content| content.identity),
            as_whom: content.and_then(|content| content.as_whom.clone()),
            vault: content.and_then(|content| content.vault.clone()),
            objects: content
                .iter()
                .flat_map(|content| content.versions.iter())
                .map(|object| ObjectStatus { id: object.id.clone(), version: object.version.clone() })
                .collect(),
            age_seconds: content.map(|content| content.checked.elapsed().as_secs()),
            interval_seconds: content.map(|content| content.interval.as_secs()),
            next_look_seconds: next.map(whole),
            changed_at: entry.changed.map(moment),
            working_seconds: entry.working.map(|since| since.elapsed().as_secs()),
            error: entry.trouble.as_ref().map(|trouble| ErrorStatus {
                message: trouble.error.clone(),
                at: moment(trouble.at),
                age_seconds: trouble.at.elapsed().unwrap_or_default().as_secs(),
                since: moment(trouble.since),
                times: trouble.times,
            }),
        }
    }

    /// A volume that is mounted, of which nobody has said anything yet.
    fn found(target: &TargetPath) -> Self {
        Self {
            state: VolumeState::Found,
            namespace: None,
            pod: None,
            pod_uid: pod_uid(target.as_path()).unwrap_or_default(),
            service_account: None,
            class: None,
            target: target.to_string(),
            provider: None,
            identity: None,
            as_whom: None,
            vault: None,
            objects: Vec::new(),
            age_seconds: None,
            interval_seconds: None,
            next_look_seconds: None,
            changed_at: None,
            working_seconds: None,
            error: None,
        }
    }
}

/// Whether the kubelet has noted that the volume is this driver's.
fn is_of(driver_name: &str, target: &TargetPath) -> bool {
    let data = std::fs::read(target.as_path().with_file_name("vol_data.json"));
    data.ok()
        .and_then(|text| serde_json::from_slice::<VolumeData>(&text).ok())
        .is_some_and(|data| data.driver_name == driver_name)
}

/// `…/pods/UID/volumes/kubernetes.io~csi/NAME/mount`
fn pod_uid(target: &Path) -> Option<String> {
    Some(target.ancestors().nth(4)?.file_name()?.to_string_lossy().into_owned())
}

/// In whole seconds, begun ones counted: what is still to come is not 0.
fn whole(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn moment(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_come_is_not_nothing() {
        assert_eq!([0, 1, 1000, 1001].map(|ms| whole(Duration::from_millis(ms))), [0, 1, 1, 2]);
    }

    #[test]
    fn the_kubelets_paths_and_notes_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("pods/uid-1/volumes/kubernetes.io~csi/secrets");
        std::fs::create_dir_all(&volume).unwrap();
        let target = TargetPath::parse(volume.join("mount").to_str().unwrap()).unwrap();
        assert_eq!(pod_uid(target.as_path()).as_deref(), Some("uid-1"));
        assert!(!is_of("secrets-store.csi.k8s.io", &target), "there is no note");
        std::fs::write(volume.join("vol_data.json"), r#"{"driverName": "secrets-store.csi.k8s.io", "x": 1}"#)
            .unwrap();
        assert!(is_of("secrets-store.csi.k8s.io", &target));
        assert!(!is_of("disk.csi.azure.com", &target));
    }
}
