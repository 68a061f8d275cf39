//! What happened, as values for tests and as lines for people.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::manifest::{DriverName, PodName};
use crate::mounter::{Leftover, MountFailure};

/// One thing that happened. Its `Display` is a line for people.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The issuer serves its discovery document and keys.
    IssuerReady {
        /// The issuer's URL.
        url: String,
    },
    /// A driver registered itself and was told so.
    DriverRegistered {
        /// The driver.
        driver: DriverName,
        /// Its CSI socket.
        endpoint: PathBuf,
        /// `node_id` of `NodeGetInfo`.
        node_id: String,
        /// Since its registration socket was dialled.
        took: Duration,
    },
    /// A registration socket did not lead to a registration; it will be tried again.
    RegistrationFailed {
        /// The registration socket.
        socket: PathBuf,
        /// Why.
        reason: String,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// A driver's registration socket is gone, and its registration with it.
    DriverDeregistered {
        /// The driver.
        driver: DriverName,
    },
    /// A pod was added.
    PodAdded {
        /// The pod.
        pod: PodName,
        /// Its uid.
        uid: String,
    },
    /// A volume was published for the first time, or again after a failed first publish.
    VolumeMounted {
        /// The pod.
        pod: PodName,
        /// The volume.
        volume: String,
        /// Of the attempt that succeeded.
        took: Duration,
        /// The number of failures before.
        failures: u32,
    },
    /// A volume could not be published and is not mounted.
    MountFailed {
        /// The pod.
        pod: PodName,
        /// The volume.
        volume: String,
        /// What the driver answered, or why it was not asked.
        failure: MountFailure,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// A mounted volume was published again.
    VolumeRepublished {
        /// The pod.
        pod: PodName,
        /// The volume.
        volume: String,
        /// Duration of the call.
        took: Duration,
    },
    /// A republish failed; the volume stays mounted.
    RepublishFailed {
        /// The pod.
        pod: PodName,
        /// The volume.
        volume: String,
        /// What the driver answered, or why it was not asked.
        failure: MountFailure,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// A volume was unpublished and its folders removed.
    VolumeUnmounted {
        /// The pod.
        pod: PodName,
        /// The volume.
        volume: String,
        /// Duration of the call.
        took: Duration,
    },
    /// A volume could not be unpublished; it will be tried again.
    UnmountFailed {
        /// The pod.
        pod: PodName,
        /// The volume.
        volume: String,
        /// What the driver answered, or why it was not asked.
        failure: MountFailure,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// The driver said that a volume is unpublished, and yet something of it was there.
    LeftBehind {
        /// The pod.
        pod: PodName,
        /// The volume.
        volume: String,
        /// What was there.
        leftover: Leftover,
    },
    /// All volumes of a deleted pod are gone.
    PodRemoved {
        /// The pod.
        pod: PodName,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IssuerReady { url } => write!(f, "issuer {url} ready"),
            Self::DriverRegistered { driver, endpoint, node_id, took } => {
                let (endpoint, took) = (endpoint.display(), Human(*took));
                write!(f, "driver {driver} registered in {took}: node {node_id}, endpoint {endpoint}")
            }
            Self::RegistrationFailed { socket, reason, retry_in } => {
                write!(
                    f,
                    "socket {} not registered, next try in {}: {reason}",
                    socket.display(),
                    Human(*retry_in)
                )
            }
            Self::DriverDeregistered { driver } => {
                write!(f, "driver {driver} deregistered: its socket is gone")
            }
            Self::PodAdded { pod, uid } => write!(f, "pod {pod}: added, uid {uid}"),
            Self::VolumeMounted { pod, volume, took, failures } => {
                write!(f, "pod {pod}: volume {volume} mounted in {}", Human(*took))?;
                match failures {
                    0 => Ok(()),
                    1 => f.write_str(", after 1 failure"),
                    n => write!(f, ", after {n} failures"),
                }
            }
            Self::MountFailed { pod, volume, failure, retry_in } => {
                write!(
                    f,
                    "pod {pod}: volume {volume} not mounted, next try in {}: {failure}",
                    Human(*retry_in)
                )
            }
            Self::VolumeRepublished { pod, volume, took } => {
                write!(f, "pod {pod}: volume {volume} republished in {}", Human(*took))
            }
            Self::RepublishFailed { pod, volume, failure, retry_in } => {
                let retry_in = Human(*retry_in);
                write!(
                    f,
                    "pod {pod}: volume {volume} not republished, kept as it is, next try in {retry_in}: {failure}"
                )
            }
            Self::VolumeUnmounted { pod, volume, took } => {
                write!(f, "pod {pod}: volume {volume} unmounted in {}", Human(*took))
            }
            Self::UnmountFailed { pod, volume, failure, retry_in } => {
                write!(
                    f,
                    "pod {pod}: volume {volume} not unmounted, next try in {}: {failure}",
                    Human(*retry_in)
                )
            }
            Self::LeftBehind { pod, volume, leftover } => {
                write!(f, "pod {pod}: volume {volume} left behind: {leftover}")
            }
            Self::PodRemoved { pod } => write!(f, "pod {pod}: removed"),
        }
    }
}

/// A duration as people write it: `12 ms`, `2.5 s`.
struct Human(Duration);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_secs(1) {
            write!(f, "{} ms", self.0.as_millis())
        } else {
            write!(f, "{:.1} s", self.0.as_secs_f64())
        }
    }
}

/// How many events are kept for streams that begin late.
const KEPT: usize = 10_000;

/// Where events go.
#[derive(Clone)]
pub(crate) struct EventLog {
    log: Arc<Mutex<Log>>,
    written: watch::Sender<u64>,
}

#[derive(Default)]
struct Log {
    kept: VecDeque<Event>,
    dropped: u64,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self { log: Arc::default(), written: watch::Sender::new(0) }
    }

    pub(crate) fn write(&self, event: Event) {
        let mut log = self.log.lock();
        if log.kept.len() == KEPT {
            log.kept.pop_front();
            log.dropped += 1;
        }
        log.kept.push_back(event);
        self.written.send_modify(|written| *written += 1);
    }

    pub(crate) fn stream(&self) -> EventStream {
        EventStream { log: Arc::clone(&self.log), written: self.written.subscribe(), next: 0 }
    }

    /// The last line about a registration, for whoever waits for one in vain.
    pub(crate) fn last_about_registration(&self) -> Option<String> {
        let about = |event: &&Event| {
            matches!(
                event,
                Event::RegistrationFailed { .. }
                    | Event::DriverRegistered { .. }
                    | Event::DriverDeregistered { .. }
            )
        };
        self.log.lock().kept.iter().rev().find(about).map(ToString::to_string)
    }
}

/// Events in order, from the kubelet's start on (the oldest are dropped once ten thousand are kept).
pub struct EventStream {
    log: Arc<Mutex<Log>>,
    written: watch::Receiver<u64>,
    next: u64,
}

impl EventStream {
    /// The next event; `None` once the kubelet is gone and all its events were read.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            if self.written.changed().await.is_err() {
                return self.try_next();
            }
        }
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.written.mark_unchanged();
        let log = self.log.lock();
        let at = self.next.max(log.dropped);
        let event = log.kept.get(usize::try_from(at - log.dropped).ok()?)?.clone();
        self.next = at + 1;
        Some(event)
    }

    /// Passes over events until one satisfies `wanted`, and returns it; `None` once the kubelet is gone.
    pub async fn find(&mut self, mut wanted: impl FnMut(&Event) -> bool) -> Option<Event> {
        loop {
            let event = self.next().await?;
            if wanted(&event) {
                return Some(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(n: usize) -> Event {
        Event::PodAdded { pod: "busybox".into(), uid: n.to_string() }
    }

    #[tokio::test]
    async fn a_late_stream_sees_all_that_is_kept_and_then_what_comes() {
        let log = EventLog::new();
        (0..KEPT + 5).for_each(|n| log.write(added(n)));
        let mut stream = log.stream();
        assert_eq!(stream.next().await.unwrap().to_string(), "pod default/busybox: added, uid 5");
        let mut seen = 1;
        while stream.try_next().is_some() {
            seen += 1;
        }
        assert_eq!(seen, KEPT);
        let waiting = tokio::spawn(async move { (stream.next().await, stream.next().await) });
        tokio::task::yield_now().await;
        log.write(added(0));
        drop(log);
        let (event, end) = waiting.await.unwrap();
        assert!(event.is_some() && end.is_none());
    }

    #[test]
    fn lines_are_readable() {
        let (pod, volume) = (PodName::from("busybox"), "store".to_owned());
        let mounted = |ms, failures| {
            let took = Duration::from_millis(ms);
            Event::VolumeMounted { pod: pod.clone(), volume: volume.clone(), took, failures }.to_string()
        };
        assert_eq!(mounted(12, 0), "pod default/busybox: volume store mounted in 12 ms");
        assert_eq!(mounted(2540, 2), "pod default/busybox: volume store mounted in 2.5 s, after 2 failures");
    }
}
