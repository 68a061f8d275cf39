//! What the work costs by itself, without a driver.

use crate::bed::{Bed, secret_name};
use csi_node::volume::{Options, Payload, TargetPath, Volumes};
use e2e::VAULT;
use kubelet::CsiClient;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// The mode that files have where a class says nothing.
const MODE: u32 = 0o644;

/// A client of Key Vault: the driver's HTTP library, on the driver's way through the proxy, with a connection that stays open.
pub struct Upstream {
    client: reqwest::Client,
    url: String,
    token: String,
}

impl Upstream {
    /// A client with an open connection.
    pub async fn connect(bed: &Bed) -> Self {
        let stage = &bed.stage;
        let authority =
            reqwest::Certificate::from_pem(stage.azure.ca_pem().as_bytes()).expect("the emulator's own");
        let client = reqwest::Client::builder()
            .proxy(reqwest::Proxy::https(stage.proxy.url()).expect("the proxy's own address"))
            .tls_certs_only([authority])
            .https_only(true)
            .build()
            .expect("a client of these parts");
        let token =
            stage.azure.entra().issue_token(&stage.workload_identity.client_id, "https://vault.azure.net");
        let url = format!("https://{VAULT}.vault.azure.net/secrets/{}?api-version=7.4", secret_name(0));
        let upstream = Self { client, url, token: token.expect("a known identity") };
        upstream.round_trip().await;
        upstream
    }

    /// The time of one request for one secret.
    pub async fn round_trip(&self) -> Duration {
        let started = Instant::now();
        let answer = self.client.get(&self.url).bearer_auth(&self.token).send().await;
        let answer = answer.and_then(reqwest::Response::error_for_status).expect("Key Vault answers");
        answer.bytes().await.expect("a whole answer");
        started.elapsed()
    }
}

/// The time of so many calls at once that the driver answers without any work, each over a connection of its own, as the
/// kubelet's are.
pub async fn empty_calls(bed: &Bed, calls: usize) -> Duration {
    let client = Arc::new(CsiClient::new(bed.stage.socket()));
    let started = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..calls {
        let client = Arc::clone(&client);
        running.spawn(async move { client.plugin_info().await.expect("the driver answers") });
    }
    running.join_all().await;
    started.elapsed()
}

/// The time to fill and mount so many volumes of so many files, all at once: the driver's own code for it, called directly.
pub async fn mount_syscalls(bed: &Bed, volumes: usize, files: usize) -> Duration {
    let node = Arc::new(Volumes::new(Options::default()));
    let file = |number| (secret_name(number), MODE, Zeroizing::new(vec![b's'; 64]));
    let payload = Arc::new(Payload::new((0..files).map(file).collect()).expect("valid names"));
    let targets: Vec<TargetPath> = (0..volumes)
        .map(|volume| {
            let folder = bed.stage.path(&format!("floor/{volume}"));
            std::fs::create_dir_all(&folder).expect("the stage's folder is writable");
            TargetPath::parse(&folder.join("mount").display().to_string()).expect("an absolute path")
        })
        .collect();
    let started = Instant::now();
    let mut running = JoinSet::new();
    for target in targets.clone() {
        let (node, payload) = (Arc::clone(&node), Arc::clone(&payload));
        running
            .spawn_blocking(move || node.publish(&target, &payload, None).expect("this process may mount"));
    }
    running.join_all().await;
    let took = started.elapsed();
    for target in targets {
        let node = Arc::clone(&node);
        let removal = tokio::task::spawn_blocking(move || node.unpublish(&target));
        removal.await.expect("it does not panic").expect("it was mounted");
    }
    took
}
