//! Where the driver is measured: emulator, proxy and kubelet in this process, the driver in its own.

use azure_emulator::Counters;
use e2e::{Call, DRIVER_NAME, DriverProcess, NODE, Stage, StageOptions, VAULT, class};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The latency of a Key Vault in the same region, as injected where a scenario does not say otherwise.
pub const UPSTREAM: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(20);
/// Secrets are as long as a usual password or key.
const SECRET_LENGTH: usize = 64;

/// Everything but the driver, which is started and stopped as a scenario needs it.
pub struct Bed {
    /// The parts.
    pub stage: Stage,
    binary: PathBuf,
}

/// Times of one start, from just before the process is made.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// Until the CSI socket took a connection.
    pub serving: Duration,
    /// Until the kubelet had registered the driver.
    pub registered: Duration,
}

/// Requests that arrived upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requests {
    /// To Key Vault, with a token.
    pub vault: u64,
    /// To Key Vault, without one.
    pub challenges: u64,
    /// To Entra's token endpoint.
    pub tokens: u64,
}

impl From<Counters> for Requests {
    fn from(counters: Counters) -> Self {
        Self {
            vault: counters.vault_requests(),
            challenges: counters.endpoint("vault.challenge"),
            tokens: counters.endpoint("entra.token"),
        }
    }
}

impl Bed {
    /// Puts everything up but the driver, with this many secrets in the vault.
    pub async fn set(binary: &Path, secrets: usize) -> Self {
        let stage = Stage::set(StageOptions::default()).await;
        let vault = stage.azure.vault(VAULT);
        for secret in 0..secrets {
            vault.set_secret(&secret_name(secret), &"s".repeat(SECRET_LENGTH)).expect("a valid secret");
        }
        Self { stage, binary: binary.to_owned() }
    }

    /// Makes a class of so many secrets, from the one with this number on.
    pub fn deploy(&self, name: &str, first: usize, secrets: usize) {
        let object = |secret| format!("objectName: {}\nobjectType: secret", secret_name(secret));
        let objects: Vec<String> = (first..first + secrets).map(object).collect();
        let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
        self.stage.deploy(name, &class(&self.stage, name, &objects, &[]));
    }

    /// Every answer of Azure comes this much later from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.stage.azure.faults().set_latency_everywhere(latency);
    }

    /// Starts the driver with these arguments besides those that every node has, and waits until it is registered.
    pub async fn start_driver(&mut self, arguments: &[&str]) -> Started {
        let stage = &self.stage;
        let mut all = vec![
            format!("--endpoint=unix://{}", stage.socket().display()),
            format!("--node-id={NODE}"),
            format!("--registration-dir={}", stage.path("kubelet/plugins_registry").display()),
            format!("--secret-provider-classes={}", stage.path("classes").display()),
        ];
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let environment = [
            ("HTTPS_PROXY".to_owned(), stage.proxy.url()),
            ("SSL_CERT_FILE".to_owned(), stage.path("ca.pem").display().to_string()),
        ];
        let log = stage.path("driver.log");
        let started = Instant::now();
        let driver =
            DriverProcess::start_binary(&self.binary, &stage.socket(), &all, &environment, &log).await;
        let driver = driver.unwrap_or_else(|error| panic!("{error}"));
        let serving = started.elapsed();
        let registered = stage.kubelet.wait_registered(DRIVER_NAME, PATIENCE).await;
        registered.unwrap_or_else(|error| panic!("{error}\n{}", stage.log()));
        let registered = started.elapsed();
        self.stage.driver = Some(driver);
        Started { serving, registered }
    }

    /// Ends the driver in order, and waits until the kubelet has noticed.
    pub async fn stop_driver(&mut self) {
        if let Some(driver) = self.stage.driver.take() {
            let status = driver.terminate().await;
            assert!(status.success(), "the driver ended with {status}:\n{}", self.stage.log());
            let gone = self.stage.kubelet.wait_deregistered(DRIVER_NAME, PATIENCE).await;
            gone.unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Time of the binary from exec to exit when there is nothing to do.
    pub async fn bare_process(&self) -> Duration {
        let binary = self.binary.clone();
        let run = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let status = std::process::Command::new(binary)
                .arg("--version")
                .env_clear()
                .stdout(Stdio::null())
                .status()
                .expect("the driver's binary can be started");
            assert!(status.success(), "--version ended with {status}");
            started.elapsed()
        });
        run.await.expect("it does not panic")
    }

    /// The driver's process id.
    pub fn pid(&self) -> u32 {
        self.stage.driver.as_ref().expect("the driver was started").pid()
    }

    /// Forgets the requests seen so far.
    pub fn reset_requests(&self) {
        self.stage.azure.telemetry().reset();
    }

    /// Requests seen since.
    pub fn requests(&self) -> Requests {
        self.stage.azure.counters().into()
    }

    /// Volumes of so many pods, all of one service account; the classes are given out in turn.
    pub fn pods(&self, prefix: &str, pods: usize, classes: &[String]) -> Vec<Arc<Call>> {
        (0..pods)
            .map(|pod| {
                let class = &classes[pod % classes.len()];
                Arc::new(Call::new(&self.stage, &format!("{prefix}-{pod}"), class))
            })
            .collect()
    }
}

/// The name of a secret in the bed's vault.
pub fn secret_name(number: usize) -> String {
    format!("secret-{number}")
}

/// Publishes all of these at once: time of each call, in milliseconds, and of all together.
pub async fn publish_all(calls: &[Arc<Call>]) -> (crate::sample::Sample, Duration) {
    let started = Instant::now();
    let mut running: JoinSet<Duration> = JoinSet::new();
    for call in calls {
        let call = Arc::clone(call);
        running.spawn(async move {
            let started = Instant::now();
            call.send().await.unwrap_or_else(|status| panic!("{}: {status}", call.target().display()));
            started.elapsed()
        });
    }
    let times = running.join_all().await;
    let all = started.elapsed();
    (times.into_iter().map(crate::sample::milliseconds).collect(), all)
}

/// Unpublishes all of these at once, and says how long that took.
pub async fn unpublish_all(calls: &[Arc<Call>]) -> Duration {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for call in calls {
        let call = Arc::clone(call);
        running.spawn(async move {
            call.unpublish().await.unwrap_or_else(|status| panic!("{}: {status}", call.target().display()));
        });
    }
    running.join_all().await;
    started.elapsed()
}
