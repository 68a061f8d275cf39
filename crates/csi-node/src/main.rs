//! The binary `akv-csi`.

use csi_node::cli::{Cli, Command, NodeArgs, RefreshArgs, USAGE};
use csi_node::driver::Outcome;
use csi_node::error::StartError;
use std::fmt::Display;
use std::process::ExitCode;

/// Threads that run the driver's tasks.
const MOST_WORKERS: usize = 4;
/// Threads that mount, write and look up names.
const MOST_BLOCKED: usize = 64;

/// Prints a line for each volume. Exit code 1 when one could not be refreshed, or none was found.
async fn refresh(arguments: RefreshArgs) -> ExitCode {
    let (socket, wanted) = (arguments.selection.socket.path(), arguments.selection.wanted());
    match csi_node::admin::refresh(&socket, &wanted).await {
        Ok(volumes) if volumes.is_empty() => {
            eprintln!(
                "akv-csi: no such volume is mounted on this node, or the kubelet has not called for it since the driver started"
            );
            ExitCode::FAILURE
        }
        Ok(volumes) => {
            for volume in &volumes {
                let outcome = match (&volume.outcome, &volume.error) {
                    (Outcome::Rotated, _) => "rotated".to_owned(),
                    (_, Some(error)) => {
                        format!("kept its content; the kubelet's next call tries again: {error}")
                    }
                    _ => "unchanged".to_owned(),
                };
                println!("{} (class {}): {outcome}", volume.pod, volume.class);
            }
            if volumes.iter().any(|volume| volume.error.is_some()) {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            }
        }
        Err(error) => {
            eprintln!("akv-csi: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the node driver.
async fn node(arguments: NodeArgs) -> ExitCode {
    match csi_node::node::run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("akv-csi: {error}");
            if matches!(error, StartError::Flag { .. }) { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

/// Prints what came of a task, or why nothing did.
fn told<T: Display, E: Display>(result: Result<T, E>) -> ExitCode {
    match result {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("akv-csi: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to the standard output. A reader that has seen enough is no failure.
fn print(text: &[u8]) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let code = if error.use_stderr() { Cli::usage_code(std::env::args_os()) } else { 0 };
            return ExitCode::from(code);
        }
    };
    match cli.command {
        // These need no network, no runtime and no secrets.
        Command::Validate(arguments) => csi_node::validate::run(&arguments),
        Command::Completions { shell } => {
            let mut completions = Vec::new();
            clap_complete::generate(shell, &mut Cli::complete_command(), "akv-csi", &mut completions);
            print(&completions)
        }
        Command::Man { command } => match Cli::manual(command.as_deref()) {
            Ok(page) => print(&page),
            Err(error) => {
                eprintln!("akv-csi: {error}");
                ExitCode::from(USAGE)
            }
        },
        Command::Node(arguments) if arguments.version => {
            print(format!("{}\n", csi_node::build_info::json()).as_bytes())
        }

        Command::Node(arguments) => run(node(*arguments)),
        Command::Refresh(arguments) => run(refresh(arguments)),
        Command::LogLevel(arguments) => {
            run(async { told(csi_node::admin::verbosity(&arguments.socket.path(), arguments.level).await) })
        }
        Command::Cluster(arguments) => run(async { told(csi_node::cluster::run(arguments).await) }),
        Command::Status(arguments) => run(csi_node::status::run(arguments)),
        Command::Doctor(arguments) => run(csi_node::doctor::run(*arguments)),
    }
}

/// Prepares the process for secrets and the network, and works in it.
fn run(work: impl Future<Output = ExitCode>) -> ExitCode {
    // Two TLS libraries in one process could both offer a provider; choosing one here settles it.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("akv-csi: the TLS provider was already chosen");
        return ExitCode::FAILURE;
    }
    // Memory of this process holds secrets: no core dumps, and no reading of it by other processes of the same user.
    if let Err(error) = csi_node::hardening::apply() {
        eprintln!("akv-csi: cannot switch core dumps off: {error}");
        return ExitCode::FAILURE;
    }
    // Waiting for answers is most of the work, and nodes with a hundred cores are to be left to their pods.
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(workers).max_blocking_threads(MOST_BLOCKED);
    // For who looks at the threads of a node.
    runtime.thread_name("akv-csi").enable_all();
    let runtime = match runtime.build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("akv-csi: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(work);
    // A mount call that hangs in the kernel must not keep the process from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}
