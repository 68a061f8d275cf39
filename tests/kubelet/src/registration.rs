//! Plugin registration as the kubelet does it: a folder of sockets is kept equal to a set of registered drivers.
//!
//! The contract is the kubelet's plugin registration API v1; the folder is read once a second, which is also how often the
//! kubelet compares what it saw with what is registered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::registration::registration_client::RegistrationClient;
use proto::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tonic::Status;
use tonic::transport::Channel;

use crate::csi_client::{CsiClient, connect};
use crate::events::{Event, EventLog};
use crate::manifest::DriverName;
use crate::timing::{Backoff, Timings};

/// A driver that is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredDriver {
    /// The driver's name.
    pub name: DriverName,
    /// Its CSI socket.
    pub endpoint: PathBuf,
    /// Its registration socket.
    pub socket: PathBuf,
    /// The highest CSI version it supports.
    pub version: CsiVersion,
    /// What it calls this node (`NodeGetInfo`).
    pub node_id: String,
    /// Whether it was told of its registration (`NotifyRegistrationStatus`) and answered.
    pub notified: bool,
}

/// A version of the CSI specification, as a driver lists it in `supported_versions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CsiVersion {
    major: u32,
    minor: u32,
    patch: u32,
}

impl CsiVersion {
    /// Reads `1`, `1.2`, `1.2.3`, each also with a leading `v`; what follows a third number is left out of account.
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts = text.splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next().map_or(Some(0), |part| part.parse().ok())?;
        let patch = parts.next().map_or(Some(0), |part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        })?;
        Some(Self { major, minor, patch })
    }

    /// The highest of a driver's versions that this kubelet speaks: all below 2.
    fn highest_supported(versions: &[String]) -> Option<Self> {
        versions.iter().filter_map(|text| Self::parse(text)).filter(|version| version.major < 2).max()
    }
}

impl fmt::Display for CsiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The registered drivers.
#[derive(Clone)]
pub(crate) struct Registry(watch::Sender<BTreeMap<DriverName, RegisteredDriver>>);

impl Registry {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(BTreeMap::new()))
    }

    pub(crate) fn get(&self, name: &DriverName) -> Option<RegisteredDriver> {
        self.0.borrow().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<RegisteredDriver> {
        self.0.borrow().values().cloned().collect()
    }

    /// Waits until a driver is registered and knows it.
    pub(crate) async fn wait(&self, name: &DriverName) -> Option<RegisteredDriver> {
        let mut changes = self.0.subscribe();
        let drivers =
            changes.wait_for(|drivers| drivers.get(name).is_some_and(|driver| driver.notified)).await.ok()?;
        drivers.get(name).cloned()
    }

    /// Waits until no driver of that name is registered.
    pub(crate) async fn wait_gone(&self, name: &DriverName) {
        let mut changes = self.0.subscribe();
        // Fails only if the sender is gone, and this is one.
        let _ = changes.wait_for(|drivers| !drivers.contains_key(name)).await;
    }

    /// Takes a driver in unless one of that name is there with as high a version.
    fn insert(&self, driver: RegisteredDriver) -> Result<(), Refusal> {
        let mut outcome = Ok(());
        self.0.send_if_modified(|drivers| {
            outcome = check_rival(drivers.get(&driver.name), driver.version);
            if outcome.is_ok() {
                drivers.insert(driver.name.clone(), driver);
            }
            outcome.is_ok()
        });
        outcome
    }

    fn set_notified(&self, name: &DriverName) {
        self.0.send_modify(|drivers| {
            if let Some(driver) = drivers.get_mut(name) {
                driver.notified = true;
            }
        });
    }

    /// Takes out a driver, if it is this socket that it registered with.
    fn remove(&self, name: &DriverName, socket: &Path) -> bool {
        self.0.send_if_modified(|drivers| {
            let owned = drivers.get(name).is_some_and(|driver| driver.socket == socket);
            if owned {
                drivers.remove(name);
            }
            owned
        })
    }
}

fn check_rival(rival: Option<&RegisteredDriver>, version: CsiVersion) -> Result<(), Refusal> {
    match rival {
        Some(rival) if rival.version >= version => Err(Refusal::NameTaken {
            name: rival.name.clone(),
            version: rival.version,
            socket: rival.socket.clone(),
        }),
        _ => Ok(()),
    }
}

/// Why a socket did not lead to a registration.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("cannot connect within {0:?}")]
    DialTimeout(Duration),
    #[error("{0}")]
    Dial(Status),
    #[error("{method} failed: {status}")]
    Call { method: &'static str, status: Status },
    #[error("{method} did not answer within {limit:?}")]
    CallTimeout { method: &'static str, limit: Duration },
    #[error("no handler registered for plugin type {0:?}; a CSI driver says \"CSIPlugin\"")]
    PluginType(String),
    #[error("{0}")]
    Name(crate::Error),
    #[error("driver {name}: supported_versions {versions:?} has no version of CSI 1")]
    Versions { name: DriverName, versions: Vec<String> },
    #[error("driver {name} is already registered with version {version} through {}", socket.display())]
    NameTaken { name: DriverName, version: CsiVersion, socket: PathBuf },
    #[error("driver {name}: {method} at {} failed: {status}", endpoint.display())]
    Driver { name: DriverName, method: &'static str, endpoint: PathBuf, status: Box<Status> },
    #[error("driver {0}: NodeGetInfo answered without a node_id")]
    NoNodeId(DriverName),
}

/// Keeps the registry equal to a folder.
pub(crate) struct Registrar {
    pub(crate) folder: PathBuf,
    pub(crate) timings: Timings,
    pub(crate) registry: Registry,
    pub(crate) events: EventLog,
}

/// Tells a socket from a later one at the same path. A change of mode or owner makes no other socket of it, hence the
/// modification time, which for a socket is the time of `bind`, and not the change time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Incarnation {
    device: u64,
    inode: u64,
    bound: (i64, i64),
}

enum State {
    Waiting,
    InProgress,
    Registered(DriverName),
}

struct HeldBack {
    backoff: Backoff,
    until: Instant,
}

struct Outcome {
    socket: PathBuf,
    took: Duration,
    result: Result<RegisteredDriver, Refusal>,
}

impl Registrar {
    /// Runs until dropped.
    pub(crate) async fn run(self) {
        let mut sockets: BTreeMap<PathBuf, (Incarnation, State)> = BTreeMap::new();
        let mut held_back: BTreeMap<PathBuf, HeldBack> = BTreeMap::new();
        let mut attempts: JoinSet<Outcome> = JoinSet::new();
        let mut ticks = tokio::time::interval(self.timings.scan);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(Ok(outcome)) = attempts.join_next() => {
                    let Outcome { socket, took, result } = outcome;
                    let state = match result {
                        Ok(RegisteredDriver { name, endpoint, node_id, .. }) => {
                            held_back.remove(&socket);
                            self.events.write(Event::DriverRegistered { driver: name.clone(), endpoint, node_id, took });
                            // Last, so that whoever waits for the registration finds the event written.
                            self.registry.set_notified(&name);
                            State::Registered(name)
                        }
                        Err(refusal) => {
                            let held = held_back.entry(socket.clone()).or_insert_with(|| HeldBack {
                                backoff: Backoff::new(self.timings.backoff),
                                until: Instant::now(),
                            });
                            let retry_in = held.backoff.failed();
                            held.until = Instant::now() + retry_in;
                            let reason = refusal.to_string();
                            self.events.write(Event::RegistrationFailed { socket: socket.clone(), reason, retry_in });
                            State::Waiting
                        }
                    };
                    // Whether the socket is still there is for the next look at the folder to find out.
                    if let Some((_, entry)) = sockets.get_mut(&socket) {
                        *entry = state;
                    }
                }
                _ = ticks.tick() => {
                    let folder = self.folder.clone();
                    let Ok(found) = tokio::task::spawn_blocking(move || sockets_below(&folder)).await else { continue };
                    sockets.retain(|socket, (incarnation, state)| match state {
                        State::InProgress => true,
                        _ if found.get(socket) == Some(incarnation) => true,
                        State::Waiting => false,
                        State::Registered(driver) => {
                            if self.registry.remove(driver, socket) {
                                self.events.write(Event::DriverDeregistered { driver: driver.clone() });
                            }
                            false
                        }
                    });
                    for (socket, incarnation) in found {
                        let (_, state) = sockets.entry(socket.clone()).or_insert((incarnation, State::Waiting));
                        let held = held_back.get(&socket).is_some_and(|held| Instant::now() < held.until);
                        if matches!(state, State::Waiting) && !held {
                            *state = State::InProgress;
                            attempts.spawn(attempt(socket, self.timings.clone(), self.registry.clone()));
                        }
                    }
                }
            }
        }
    }
}

async fn attempt(socket: PathBuf, timings: Timings, registry: Registry) -> Outcome {
    let started = Instant::now();
    let result = register(&socket, &timings, &registry).await;
    Outcome { socket, took: started.elapsed(), result }
}

/// One registration, in the kubelet's order. A driver that is refused is told why.
async fn register(
    socket: &Path,
    timings: &Timings,
    registry: &Registry,
) -> Result<RegisteredDriver, Refusal> {
    let channel = timeout(timings.dial, connect(socket))
        .await
        .map_err(|_| Refusal::DialTimeout(timings.dial))?
        .map_err(Refusal::Dial)?;
    let mut plugin = RegistrationClient::new(channel);
    let info = timeout(timings.get_info, plugin.get_info(InfoRequest {}))
        .await
        .map_err(|_| Refusal::CallTimeout { method: "GetInfo", limit: timings.get_info })?
        .map_err(|status| Refusal::Call { method: "GetInfo", status })?
        .into_inner();
    let driver = match admit(socket, info, timings, registry).await {
        Ok(driver) => driver,
        Err(refusal) => {
            let status = RegistrationStatus { plugin_registered: false, error: refusal.to_string() };
            // The refusal is what matters, whether the driver hears of it or not.
            let _ = notify(&mut plugin, status, timings).await;
            return Err(refusal);
        }
    };
    let status = RegistrationStatus { plugin_registered: true, error: String::new() };
    if let Err(refusal) = notify(&mut plugin, status, timings).await {
        registry.remove(&driver.name, socket);
        return Err(refusal);
    }
    Ok(driver)
}

/// Validates what a plugin says of itself, makes the acquaintance of its CSI socket and takes it into the registry.
async fn admit(
    socket: &Path,
    info: PluginInfo,
    timings: &Timings,
    registry: &Registry,
) -> Result<RegisteredDriver, Refusal> {
    if info.r#type != "CSIPlugin" {
        return Err(Refusal::PluginType(info.r#type));
    }
    let name = DriverName::new(&info.name).map_err(Refusal::Name)?;
    let Some(version) = CsiVersion::highest_supported(&info.supported_versions) else {
        return Err(Refusal::Versions { name, versions: info.supported_versions });
    };
    check_rival(registry.get(&name).as_ref(), version)?;
    let endpoint = match info.endpoint.as_str() {
        "" => socket.to_owned(),
        path => PathBuf::from(path),
    };
    let node =
        CsiClient::new(&endpoint).with_deadline(timings.csi_call).node_info().await.map_err(|status| {
            let status = Box::new(status);
            Refusal::Driver { name: name.clone(), method: "NodeGetInfo", endpoint: endpoint.clone(), status }
        })?;
    if node.node_id.is_empty() {
        return Err(Refusal::NoNodeId(name));
    }
    let (socket, node_id) = (socket.to_owned(), node.node_id);
    let driver = RegisteredDriver { name, endpoint, socket, version, node_id, notified: false };
    registry.insert(driver.clone())?;
    Ok(driver)
}

async fn notify(
    plugin: &mut RegistrationClient<Channel>,
    status: RegistrationStatus,
    timings: &Timings,
) -> Result<(), Refusal> {
    const METHOD: &str = "NotifyRegistrationStatus";
    timeout(timings.notify, plugin.notify_registration_status(status))
        .await
        .map_err(|_| Refusal::CallTimeout { method: METHOD, limit: timings.notify })?
        .map_err(|status| Refusal::Call { method: METHOD, status })?;
    Ok(())
}

/// Every socket in the folder and below, but for those whose name begins with a dot.
fn sockets_below(folder: &Path) -> BTreeMap<PathBuf, Incarnation> {
    let mut found = BTreeMap::new();
    let mut folders = BTreeSet::from([folder.to_owned()]);
    while let Some(folder) = folders.pop_first() {
        // Sockets come and go while this runs; what cannot be looked at is looked at again next time.
        for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(io::Result::ok) {
            let Ok(metadata) = entry.metadata() else { continue };
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if metadata.is_dir() {
                folders.insert(entry.path());
            } else if metadata.file_type().is_socket() {
                let bound = (metadata.mtime(), metadata.mtime_nsec());
                let incarnation = Incarnation { device: metadata.dev(), inode: metadata.ino(), bound };
                found.insert(entry.path(), incarnation);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_below_two_counts() {
        let highest = |versions: &[&str]| {
            let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
            CsiVersion::highest_supported(&versions).map(|version| version.to_string())
        };
        assert_eq!(highest(&["1.0.0"]).as_deref(), Some("1.0.0"));
        assert_eq!(highest(&["v1.2", "1.10.3-rc.1", "1"]).as_deref(), Some("1.10.3"));
        assert_eq!(highest(&["2.0.0", "1.0.0"]).as_deref(), Some("1.0.0"));
        assert_eq!(highest(&["2.0.0"]), None);
        assert_eq!(highest(&["", "one", "1.x"]), None);
        assert_eq!(highest(&[]), None);
    }
}
