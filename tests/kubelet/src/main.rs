//! `test-kubelet`: mounts the CSI volumes of pods from YAML files, one line per event, until it is told to stop.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use kubelet::{CsiDriver, EventStream, Kubelet, RepublishPeriod, ServerTls, SigningKey, Timings};
use tokio::signal::unix::{SignalKind, signal};

/// Plays the kubelet's part towards CSI node drivers.
///
/// Registers the drivers that show up in the registration folder, mounts the inline CSI volumes of the given pods, publishes
/// them again while their driver requires it, and unmounts them on SIGTERM or SIGINT.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The kubelet's root folder; volumes are mounted below DIR/pods.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Folder in which drivers put their registration sockets.
    #[arg(long, value_name = "DIR")]
    registration_dir: PathBuf,
    /// YAML files with pods, service accounts and Secrets; other kinds are passed over.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pods: Vec<PathBuf>,
    /// YAML files with CSIDriver objects.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    csi_driver: Vec<PathBuf>,
    /// Address at which the service-account issuer serves its discovery document and keys.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    issuer: SocketAddr,
    /// What the issuer calls itself in tokens, if not by its address.
    #[arg(long, value_name = "URL")]
    issuer_url: Option<String>,
    /// PEM certificate chain to serve the issuer over HTTPS with.
    #[arg(long, value_name = "FILE", requires = "issuer_tls_key")]
    issuer_tls_cert: Option<PathBuf>,
    /// PEM private key of that certificate.
    #[arg(long, value_name = "FILE", requires = "issuer_tls_cert")]
    issuer_tls_key: Option<PathBuf>,
    /// RSA key (PKCS#8 PEM) to sign service-account tokens with; a new one at each start otherwise.
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// Name of the node.
    #[arg(long, value_name = "NAME", default_value = "test-node")]
    node_name: String,
    /// Seconds between two publishes of a mounted volume; 60 to 90 at random otherwise, as the real kubelet.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    republish_period: Option<Duration>,
    /// Seconds to wait for the drivers of the CSIDriver objects to register before the pods are added.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    driver_wait: Duration,
    /// Seconds to spend on unmounting when told to stop.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    stop_timeout: Duration,
    /// Leave volumes mounted when told to stop.
    #[arg(long)]
    keep_mounted: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut timings = Timings::default();
    if let Some(base) = options.republish_period {
        timings.republish = RepublishPeriod { base, jitter: Duration::ZERO };
    }
    let mut builder = Kubelet::builder(&options.root, &options.registration_dir)
        .node_name(options.node_name)
        .timings(timings)
        .issuer_listen(options.issuer);
    let mut drivers = Vec::new();
    for file in &options.csi_driver {
        for driver in CsiDriver::from_yaml(&read(file)?).map_err(in_file(file))? {
            drivers.push(driver.name.clone());
            builder = builder.driver(driver);
        }
    }
    if let Some(url) = options.issuer_url {
        builder = builder.issuer_url(url);
    }
    if let (Some(chain), Some(key)) = (&options.issuer_tls_cert, &options.issuer_tls_key) {
        builder = builder.issuer_tls(ServerTls::from_pem(read(chain)?.as_bytes(), read(key)?.as_bytes())?);
    }
    if let Some(file) = &options.signing_key {
        builder = builder.signing_key(SigningKey::from_pkcs8_pem(&read(file)?).map_err(in_file(file))?);
    }
    // One text, so that a pod may come in an earlier file than its service account.
    let mut pods = String::new();
    for file in &options.pods {
        pods.push_str("\n---\n");
        pods.push_str(&read(file)?);
    }
    let kubelet = builder.start().await?;
    let printer = tokio::spawn(print(kubelet.events()));
    let life = async {
        // A real node gets its pods when it is ready. A driver that never registers shows in what becomes of its pods.
        let give_up = Instant::now() + options.driver_wait;
        for driver in &drivers {
            let _ = kubelet
                .wait_registered(driver.as_str(), give_up.saturating_duration_since(Instant::now()))
                .await;
        }
        kubelet.apply(&pods)?;
        std::future::pending::<Result<(), kubelet::Error>>().await
    };
    tokio::select! {
        ended = life => ended?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let outcome =
        if options.keep_mounted { None } else { Some(kubelet.delete_all(options.stop_timeout).await) };
    // With the kubelet gone the stream of events ends, and the printer with it.
    drop(kubelet);
    let _ = tokio::time::timeout(Duration::from_secs(1), printer).await;
    match outcome.transpose()? {
        Some(removal) if !removal.is_clean() => Ok(ExitCode::FAILURE),
        _ => Ok(ExitCode::SUCCESS),
    }
}

async fn print(mut events: EventStream) {
    while let Some(event) = events.next().await {
        say(&event.to_string());
    }
}

/// Writes a line. Whoever read it may be gone, which is no reason to stop.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

fn in_file(file: &Path) -> impl Fn(kubelet::Error) -> String {
    move |error| format!("{}: {error}", file.display())
}
