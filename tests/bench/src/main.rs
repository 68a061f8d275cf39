//! `make bench`: what the driver costs, measured on this machine beside what the work itself costs.
//!
//! Every scenario measures its own floor in the same run: one round trip to Key Vault with the driver's HTTP stack, and the
//! mount system calls by themselves. Times are reported and never decide the exit code; numbers of upstream requests are
//! exact on any machine, so a wrong one does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a broken assumption should end the run where it is found"
)]

mod bed;
mod floor;
mod plot;
mod process;
mod report;
mod sample;
mod scenarios;

use crate::report::Report;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures the driver: mount latency, bursts, rotation rounds, memory, start-up.
#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds instead of minutes: one repetition, and no waiting for the driver to come to rest.
    #[arg(long)]
    quick: bool,

    /// Only this scenario; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<Scenario>,

    /// How often each figure is measured. Default: 5, with --quick 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: Option<u32>,

    /// The driver's binary. Default: AKV_CSI_BIN, then akv-csi beside this program.
    #[arg(long, value_name = "PATH")]
    driver: Option<PathBuf>,

    /// Where the figures are written as JSON; the plot goes beside it, as SVG.
    #[arg(long, value_name = "PATH", default_value = "target/bench/bench.json")]
    json: PathBuf,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// One pod after another: 1, 5 and 20 objects, an upstream at 0 and 20 ms.
    Mount,
    /// 100 and 250 pods at once, of one class and of twenty.
    Burst,
    /// 100 mounted pods whose content has become too old.
    Rotation,
    /// Resident memory, threads and file descriptors.
    Memory,
    /// From exec to serving and to registered.
    Start,
}

/// What every scenario needs to know.
#[derive(Debug, Clone)]
struct Plan {
    driver: PathBuf,
    repetitions: u32,
    quick: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !e2e::can_mount() {
        return ExitCode::FAILURE;
    }
    let plan = Plan {
        driver: arguments.driver.unwrap_or_else(e2e::DriverProcess::binary),
        repetitions: arguments.repetitions.unwrap_or(if arguments.quick { 1 } else { 5 }),
        quick: arguments.quick,
    };
    let mut report = Report::new(&plan);
    let wanted = |scenario| arguments.only.is_empty() || arguments.only.contains(&scenario);
    for scenario in Scenario::value_variants().iter().copied().filter(|scenario| wanted(*scenario)) {
        eprintln!(
            "measuring: {}",
            scenario.to_possible_value().map_or_else(String::new, |v| v.get_name().into())
        );
        match scenario {
            Scenario::Mount => scenarios::mount::measure(&plan, &mut report).await,
            Scenario::Burst => scenarios::burst::measure(&plan, &mut report).await,
            Scenario::Rotation => scenarios::rotation::measure(&plan, &mut report).await,
            Scenario::Memory => scenarios::memory::measure(&plan, &mut report).await,
            Scenario::Start => scenarios::start::measure(&plan, &mut report).await,
        }
    }
    print!("{}", report.table());
    if let Some(folder) = arguments.json.parent() {
        std::fs::create_dir_all(folder).expect("the folder for the figures can be made");
    }
    let plot = arguments.json.with_extension("svg");
    let json = serde_json::to_string_pretty(&report.json()).expect("numbers and text are JSON");
    std::fs::write(&arguments.json, json + "\n").expect("the figures can be written");
    std::fs::write(&plot, plot::draw(&report)).expect("the plot can be written");
    println!("\nwritten: {} and {}", arguments.json.display(), plot.display());
    if report.counts_are_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
