//! What the driver knows about its own health. Liveness and readiness are apart: a driver that waits for the kubelet is
//! alive, and restarting it would not help.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A runtime that has not come round to a trivial task for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Shared between the CSI services, registration and the health endpoints.
#[derive(Debug)]
pub struct Health {
    last_beat: Mutex<Instant>,
    registration: watch::Sender<Registration>,
}

/// What the kubelet has said to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// No registration folder was given: somebody else registers the driver, or nobody has to.
    #[serde(rename = "external")]
    NotOurs,
    /// Nothing yet.
    Awaited,
    /// Yes.
    #[serde(rename = "registered")]
    Done,
    /// No.
    Refused,
}

impl Health {
    /// The state at start. `registers` says whether this process registers itself with the kubelet.
    pub fn new(registers: bool) -> Self {
        Self {
            last_beat: Mutex::new(Instant::now()),
            registration: watch::Sender::new(if registers {
                Registration::Awaited
            } else {
                Registration::NotOurs
            }),
        }
    }

    /// Notes what the kubelet said to the registration.
    pub fn registered(&self, accepted: bool) {
        self.registration.send_replace(if accepted { Registration::Done } else { Registration::Refused });
    }

    /// What the kubelet has said.
    pub fn registration(&self) -> Registration {
        *self.registration.borrow()
    }

    /// Waits until the kubelet has registered the driver.
    pub async fn wait_registered(&self) {
        // The sender lives as long as `self`, so this cannot end early.
        let _ = self.registration.subscribe().wait_for(|state| *state == Registration::Done).await;
    }

    /// Beats for ever. Run it as a task of the runtime whose life it shows.
    pub async fn beat(&self) {
        loop {
            *self.last_beat.lock() = Instant::now();
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    /// Whether the process works.
    ///
    /// # Errors
    /// Says what is stuck; restarting the process is the cure.
    pub fn liveness(&self) -> Result<(), String> {
        let silent = self.last_beat.lock().elapsed();
        if silent > STUCK_AFTER {
            return Err(format!("the driver's runtime has not run a task for {} s", silent.as_secs()));
        }
        Ok(())
    }

    /// Whether pods can be mounted on this node.
    ///
    /// # Errors
    /// Says what is still missing; waiting, or looking at the kubelet, is the cure.
    pub fn readiness(&self) -> Result<(), String> {
        self.liveness()?;
        match *self.registration.borrow() {
            Registration::NotOurs | Registration::Done => Ok(()),
            Registration::Awaited => Err("the kubelet has not registered the driver yet".to_owned()),
            Registration::Refused => {
                Err("the kubelet refused the driver; its log and ours say why".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_the_kubelets_word_and_liveness_does_not() {
        let health = Health::new(true);
        assert!(health.readiness().is_err());
        health.registered(true);
        assert_eq!(health.readiness(), Ok(()));
        health.registered(false);
        assert!(health.readiness().is_err());
        assert_eq!(health.liveness(), Ok(()));
        assert_eq!(Health::new(false).readiness(), Ok(()));
    }

    #[test]
    fn a_runtime_that_stands_still_is_not_alive() {
        let health = Health::new(false);
        if let Some(long_ago) = Instant::now().checked_sub(STUCK_AFTER * 2) {
            *health.last_beat.lock() = long_ago;
            assert!(health.liveness().is_err());
        }
    }
}
