//! `akv-csi doctor`: tries out, step by step, what a mount needs, and says what to do about what does not work.
//!
//! It uses the driver's own code for classes, tokens, connections, vaults and mounts, put together from the flags of the
//! driver that runs on this node, so that what it says is what the driver does. It changes nothing: what it mounts is in a
//! folder of its own and gone at the end, and of what it fetches nothing is kept.

mod bundle;
mod case;
mod cluster;
mod context;
mod crds;
mod finding;
mod network;
mod node;
mod proxy;
mod report;
mod tls;
mod tokens;
mod versions;
mod workload;

pub use finding::{Check, Finding, Verdict};
pub use report::Report;

use crate::cli::{DoctorArgs, OutputFormat, Terminal};
use context::Context;
use futures::future::BoxFuture;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Checks that are made together, because one needs what another finds.
struct Unit {
    checks: &'static [Check],
    work: fn(Arc<Context>) -> BoxFuture<'static, Vec<Finding>>,
}

const UNITS: [Unit; 5] = [
    Unit {
        checks: &[Check::Driver, Check::Registration, Check::Version],
        work: |context| Box::pin(async move { node::driver(&context) }),
    },
    Unit {
        checks: &[Check::Kernel, Check::Mount, Check::Propagation],
        work: |context| Box::pin(async move { node::mounts(&context).await }),
    },
    Unit {
        checks: &[Check::Apiserver, Check::Csidriver, Check::Version, Check::Crds, Check::Rbac, Check::Clock],
        work: |context| Box::pin(async move { cluster::examine(&context).await }),
    },
    Unit { checks: &[Check::Imds], work: |context| Box::pin(async move { network::imds(&context).await }) },
    Unit {
        checks: &[Check::Class, Check::Dns, Check::Tls, Check::Clock, Check::Token, Check::Objects],
        work: |context| Box::pin(async move { workload::examine(&context).await }),
    },
];

/// Runs `akv-csi doctor`. Exit code 1 when something failed.
pub async fn run(arguments: DoctorArgs) -> ExitCode {
    let terminal = Terminal::of_stdout();
    // A bundle on the standard output has all that would be said there.
    let silent = arguments.bundle.as_deref().is_some_and(bundle::is_stdout);
    let people = arguments.output == OutputFormat::Table && !silent;
    let progress = Progress { shown: people && std::io::stderr().is_terminal() };
    progress.show("the driver");
    let (only, bundle, output) = (arguments.only.clone(), arguments.bundle.clone(), arguments.output);
    let context = Arc::new(Context::gather(arguments).await);
    let wanted = |check: &Check| only.is_empty() || only.contains(check);
    let running: Vec<_> = UNITS
        .iter()
        .filter(|unit| unit.checks.iter().any(wanted))
        .map(|unit| (unit.checks, tokio::spawn((unit.work)(Arc::clone(&context)))))
        .collect();
    let mut findings: Vec<Finding> = Vec::new();
    for (checks, work) in running {
        let names: Vec<String> =
            checks.iter().filter(|check| wanted(check)).map(ToString::to_string).collect();
        progress.show(&names.join(", "));
        // A defect in one check must not hide what the others found.
        let mut found = work.await.unwrap_or_else(|failure| {
            let cure = "this is a defect of akv-csi: please report it";
            checks
                .first()
                .map(|check| Finding::failed(*check, failure.to_string(), cure))
                .into_iter()
                .collect()
        });
        // What failed before something that was asked for could be looked at is told instead of it.
        let told = |check: &Check| findings.iter().chain(&found).any(|finding| finding.check == *check);
        let instead = checks.iter().any(|check| wanted(check) && !told(check));
        found.retain(|finding| wanted(&finding.check) || (instead && finding.verdict == Verdict::Failed));
        progress.clear();
        if people {
            for finding in &found {
                print(&report::line(finding, &terminal));
            }
        }
        findings.extend(found);
    }
    let report = Report::new(findings);
    match output {
        _ if silent => {}
        OutputFormat::Table => print(&format!("\n{}", report.sum(&terminal))),
        OutputFormat::Json => match serde_json::to_string_pretty(&report) {
            Ok(text) => print(&text),
            Err(error) => {
                eprintln!("akv-csi: {error}");
                return ExitCode::FAILURE;
            }
        },
    }
    if let Some(path) = bundle {
        match bundle::write(&path, &report, &context) {
            Ok(files) => eprintln!("wrote {} with {}", path.display(), files.join(", ")),
            Err(error) => {
                eprintln!("akv-csi: {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
    }
    if report.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The work of one check within its time.
///
/// # Errors
/// A finding that says how long was waited.
async fn within<T>(
    time: Duration,
    check: Check,
    what: &str,
    work: impl Future<Output = T>,
) -> Result<T, Finding> {
    tokio::time::timeout(time, work).await.map_err(|_| {
        let text = format!("{what}: no answer within {} s", time.as_secs_f64());
        Finding::failed(
            check,
            text,
            "look at what lies between: firewall, network policy, proxy, DNS; --timeout waits longer",
        )
    })
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away, such as `head`, is no reason to stop looking.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// What is being looked at, on the terminal's last line.
struct Progress {
    shown: bool,
}

impl Progress {
    fn show(&self, what: &str) {
        if self.shown {
            eprint!("\r\x1b[Klooking at {what} …");
        }
    }

    fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}
