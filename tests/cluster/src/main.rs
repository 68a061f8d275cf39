//! The program `cluster`. `hack/cluster.sh` starts it in namespaces of its own, where it may do as it likes.
#![allow(clippy::expect_used, reason = "test code: a broken assumption should end the run where it is found")]

use clap::{Args, Parser, Subcommand};
use cluster::{Cluster, Places, cases};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// A real single-node Kubernetes with the driver in it. Run `hack/cluster.sh`, which calls this where it belongs.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays every case and says how each went.
    E2e {
        #[command(flatten)]
        paths: Paths,
        /// Only cases whose name contains this; may be given several times.
        #[arg(long)]
        only: Vec<String>,
    },
    /// Leaves the cluster running until it is told to stop.
    Up {
        #[command(flatten)]
        paths: Paths,
    },
    /// Names the cases.
    List,
}

#[derive(Debug, Args)]
struct Paths {
    /// Folder for logs and the administrator's kubeconfig.
    #[arg(long)]
    state: PathBuf,
    /// Folder of Kubernetes' programs.
    #[arg(long)]
    kubernetes: PathBuf,
    /// An image to load, as a tar; may be given several times.
    #[arg(long)]
    image: Vec<PathBuf>,
    /// The project's sources.
    #[arg(long)]
    checkout: PathBuf,
    /// The cgroup below which pods are to be.
    #[arg(long)]
    cgroup: String,
}

impl From<Paths> for Places {
    fn from(paths: Paths) -> Self {
        let Paths { state, kubernetes, image: images, checkout, cgroup } = paths;
        Self { state, kubernetes, images, checkout, cgroup }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let (paths, only) = match Arguments::parse().command {
        Command::E2e { paths, only } => (paths, Some(only)),
        Command::Up { paths } => (paths, None),
        Command::List => {
            for case in cases::all().into_iter().flatten() {
                println!("{}", case.name);
            }
            return ExitCode::SUCCESS;
        }
    };
    let places = Places::from(paths);
    let logs = places.state.join("logs");
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate()).expect("signals"),
        signal(SignalKind::interrupt()).expect("signals"),
    );
    let outcome = tokio::select! {
        outcome = run(places, only) => outcome,
        _ = terminate.recv() => ExitCode::FAILURE,
        _ = interrupt.recv() => ExitCode::FAILURE,
    };
    if outcome != ExitCode::SUCCESS {
        println!("logs: {}", logs.display());
    }
    outcome
}

/// Starts the cluster, and plays the cases whose name contains one of these texts; without a list of them, it leaves it running.
async fn run(places: Places, only: Option<Vec<String>>) -> ExitCode {
    cases::quiet_panics();
    let started = Instant::now();
    let step = |text: &str| tell("ok", "\x1b[32m", started, text);
    let cluster = match cases::caught(Cluster::start(places, step)).await {
        Ok(cluster) => cluster,
        Err(why) => {
            tell("FAILED", "\x1b[31m", started, &format!("the cluster does not start: {why}"));
            return ExitCode::FAILURE;
        }
    };
    match only {
        None => {
            let example = cluster.example().await;
            let example = example.display();
            println!(
                "\nThe cluster runs until Ctrl-C. In another terminal:\n  \
                 hack/cluster.sh kubectl apply -f {example}\n  \
                 hack/cluster.sh kubectl wait --for condition=Ready pod/example\n  \
                 hack/cluster.sh kubectl exec example -- cat /mnt/example/secret1\n\
                 What the emulated Azure can be told to do:\n  \
                 hack/cluster.sh enter curl http://198.51.100.2:8078/_control"
            );
            std::future::pending::<()>().await;
            ExitCode::SUCCESS
        }
        Some(only) => {
            let mut failed = 0;
            let wanted = |name: &str| only.is_empty() || only.iter().any(|part| name.contains(part.as_str()));
            for group in cases::all() {
                let playing = group.into_iter().filter(|case| wanted(case.name)).map(|case| {
                    let cluster = &cluster;
                    async move {
                        let began = Instant::now();
                        let outcome = cases::caught((case.play)(cluster)).await;
                        let text = format!("{} ({:.0} s)", case.name, began.elapsed().as_secs_f64());
                        match outcome {
                            Ok(()) => {
                                tell("ok", "\x1b[32m", started, &text);
                                true
                            }
                            Err(why) => {
                                tell("FAILED", "\x1b[31m", started, &format!("{text}\n{why}"));
                                false
                            }
                        }
                    }
                });
                let outcomes: Vec<bool> = futures::future::join_all(playing).await;
                cluster.trust_nobody();
                let failures = outcomes.iter().filter(|passed| !**passed).count();
                if failures > 0 {
                    let log = cluster.driver_log().await;
                    let lines: Vec<&str> = log.lines().collect();
                    let last = lines[lines.len().saturating_sub(30)..].join("\n");
                    println!("the driver's log ends with\n{last}");
                }
                failed += failures;
            }
            if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

/// One line of the report.
fn tell(verdict: &str, colour: &str, started: Instant, text: &str) {
    let (on, off) = if std::io::stdout().is_terminal() { (colour, "\x1b[0m") } else { ("", "") };
    println!("{on}{verdict}{off} [{:>5.1} s] {text}", started.elapsed().as_secs_f64());
    let _ = std::io::stdout().flush();
}
