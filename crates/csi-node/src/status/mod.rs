//! `akv-csi status`: what is mounted on this node, how fresh it is and what is wrong with it.
//!
//! [`Ledger`] is where the driver notes it, [`report`] makes it an answer of the operator's socket, [`table`] shows it to people.

mod ledger;
pub mod report;
pub mod table;

pub use ledger::{Content, Entry, IdentityKind, Ledger, Trouble, Working};
pub use report::{About, NodeStatus};

use crate::cli::{OutputFormat, StatusArgs, Terminal};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Clears a terminal and goes to its upper left corner.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Runs `akv-csi status`. Exit code 1 when the driver does not answer.
pub async fn run(arguments: StatusArgs) -> ExitCode {
    let terminal = Terminal::of_stdout();
    let socket = arguments.selection.socket.path();
    let wanted = arguments.selection.wanted();
    loop {
        let status = match crate::admin::status(&socket).await {
            Ok(status) => status.only(&wanted),
            Err(error) => {
                eprintln!("akv-csi: {error}");
                return ExitCode::FAILURE;
            }
        };
        let text = match (arguments.output, arguments.watch) {
            (OutputFormat::Table, _) => Ok(table::render(&status, &terminal)),
            // A stream of documents is read line by line.
            (OutputFormat::Json, Some(_)) => serde_json::to_string(&status),
            (OutputFormat::Json, None) => serde_json::to_string_pretty(&status),
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                eprintln!("akv-csi: {error}");
                return ExitCode::FAILURE;
            }
        };
        let screen = if arguments.watch.is_some() && arguments.output == OutputFormat::Table {
            if std::io::stdout().is_terminal() { CLEAR } else { "\n" }
        } else {
            ""
        };
        let mut out = std::io::stdout().lock();
        // A reader that went away, such as `head`, ends it.
        if writeln!(out, "{screen}{}", text.trim_end()).and_then(|()| out.flush()).is_err() {
            return ExitCode::SUCCESS;
        }
        drop(out);
        let Some(period) = arguments.watch else { return ExitCode::SUCCESS };
        tokio::time::sleep(period.max(Duration::from_millis(100))).await;
    }
}
