//! `make fleet`: fleets of many sizes on one Key Vault, played through on a virtual clock; see docs/fleet.md.
#![allow(clippy::expect_used, reason = "a broken assumption should end the run where it is found")]

use clap::Parser;
use fleet::node::Load;
use fleet::run::Fleet;
use fleet::service::LIMIT;
use fleet::{plot, report};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A handful of nodes is no sample.
const FEWEST: u32 = 40;

/// Simulates fleets of nodes that share one Key Vault.
#[derive(Debug, Parser)]
struct Arguments {
    /// Sizes of the fleets, in nodes.
    #[arg(long, value_delimiter = ',', default_value = "10,100,500,1000,2000,5000")]
    nodes: Vec<u32>,

    /// Rotation intervals, in seconds.
    #[arg(long, value_delimiter = ',', default_value = "120,600")]
    intervals: Vec<u64>,

    /// Pods on each node.
    #[arg(long, default_value_t = 20)]
    pods: usize,

    /// Classes on each node, each with an identity of its own.
    #[arg(long, default_value_t = 4)]
    classes: usize,

    /// Objects of each class.
    #[arg(long, default_value_t = 5)]
    objects: usize,

    /// All nodes join within so many seconds.
    #[arg(long, default_value_t = 60)]
    joining: u64,

    /// Play one node in so many, on a vault with as much less of its limit: a tenth of the nodes on a tenth of the limit. The
    /// figures are for the whole fleet. Fleets too small for that are played in full.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    scale: u32,

    /// Nodes take all of their intervals, as if nothing kept them from asking in step.
    #[arg(long)]
    in_step: bool,

    /// Makes a run the same each time.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Where the figures are written as JSON; the plot goes beside it, as SVG.
    #[arg(long, value_name = "PATH", default_value = "target/fleet/fleet.json")]
    json: PathBuf,
}

fn main() {
    let arguments = Arguments::parse();
    let mut outcomes = Vec::new();
    for interval in &arguments.intervals {
        let interval = Duration::from_secs(*interval);
        for nodes in &arguments.nodes {
            let load = Load {
                pods: arguments.pods,
                classes: arguments.classes,
                objects: arguments.objects,
                interval,
                spread: !arguments.in_step,
            };
            let scale = if nodes / arguments.scale < FEWEST { 1 } else { arguments.scale };
            let fleet = Fleet {
                nodes: nodes / scale,
                scale,
                load,
                limit: LIMIT / usize::try_from(scale).expect("a small number"),
                joining: Duration::from_secs(arguments.joining),
                quiet: (interval * 4).max(Duration::from_secs(1200)),
                outage: Duration::from_secs(600),
                after: (interval * 2).max(Duration::from_secs(900)),
                seed: arguments.seed,
            };
            let started = Instant::now();
            outcomes.push(fleet.run());
            eprintln!(
                "{nodes} nodes, interval {} s: simulated in {:?}",
                interval.as_secs(),
                started.elapsed()
            );
        }
    }
    print!("{}", report::table(&outcomes));
    if let Some(folder) = arguments.json.parent() {
        std::fs::create_dir_all(folder).expect("the folder for the figures can be made");
    }
    let json = serde_json::to_string_pretty(&report::json(&outcomes)).expect("numbers and text are JSON");
    std::fs::write(&arguments.json, json + "\n").expect("the figures can be written");
    let plot = arguments.json.with_extension("svg");
    std::fs::write(&plot, plot::draw(&outcomes)).expect("the plot can be written");
    println!("\nwritten: {} and {}", arguments.json.display(), plot.display());
}
