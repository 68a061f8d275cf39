//! Pages of the guide whose commands are run: what stands below a command is what it prints.
//!
//! Every fenced block marked `console` is a shell session of its own. Lines that begin with `$ ` are commands, with `> ` their
//! continuations; what follows is their output, standard error included. `UPDATE_DOCS=1` writes what they print now into the
//! page.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::DriverProcess;

/// Ends the output of a command; no program prints it.
const END: char = '\u{1e}';

/// Runs a page's commands in `folder`, with `akv-csi` on the path, and compares. `scrub` makes output the same on each run.
///
/// # Panics
/// When the page says something else than the commands do, or cannot be read.
pub fn check(page: &Path, folder: &Path, scrub: impl Fn(&str) -> String) {
    let text = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let fresh = rewritten(&text, |commands| session(commands, folder), scrub);
    settle(page, &text, &fresh);
}

/// Writes a page if `UPDATE_DOCS` is set, and otherwise expects it to be as it should be.
///
/// # Panics
/// When it is not.
pub fn settle(page: &Path, text: &str, fresh: &str) {
    if text == fresh {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page, fresh).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        return;
    }
    let differs = text.lines().zip(fresh.lines()).position(|(old, new)| old != new);
    let line = differs.unwrap_or_else(|| text.lines().count().min(fresh.lines().count()));
    panic!(
        "{}, line {}: it says {:?}, and it should be {:?}. UPDATE_DOCS=1 rewrites it",
        page.display(),
        line + 1,
        text.lines().nth(line),
        fresh.lines().nth(line)
    );
}

/// The page with what each block's commands print.
fn rewritten(text: &str, run: impl Fn(&[String]) -> Vec<String>, scrub: impl Fn(&str) -> String) -> String {
    let mut fresh = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let _ = writeln!(fresh, "{line}");
        if line.trim() != "```console" {
            continue;
        }
        let mut commands: Vec<String> = Vec::new();
        let mut shown: Vec<String> = Vec::new();
        let mut end = "```";
        for line in lines.by_ref() {
            if line.trim() == "```" {
                end = line;
                break;
            }
            if let Some(command) = line.strip_prefix("$ ") {
                commands.push(command.to_owned());
                shown.push(line.to_owned());
            } else if let (Some(more), Some(command), Some(shown)) =
                (line.strip_prefix("> "), commands.last_mut(), shown.last_mut())
            {
                let _ = write!(command, "\n{more}");
                let _ = write!(shown, "\n{line}");
            }
        }
        for (shown, output) in shown.iter().zip(run(&commands)) {
            let output = scrub(&output);
            let _ = writeln!(fresh, "{shown}");
            if !output.trim_end().is_empty() {
                let _ = writeln!(fresh, "{}", output.trim_end());
            }
        }
        let _ = writeln!(fresh, "{end}");
    }
    fresh
}

/// What each command of one shell prints. `$?` is that of the command before.
fn session(commands: &[String], folder: &Path) -> Vec<String> {
    let mut script = String::from("exec 2>&1\n");
    for command in commands {
        let _ = writeln!(script, "{command}\n__status=$?; printf '{END}'; (exit $__status)");
    }
    let binary = DriverProcess::binary();
    let beside = binary.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder)
        .env_clear()
        .env("PATH", format!("{beside}:{path}"))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .expect("bash is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(END).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_run_and_the_rest_is_left_alone() {
        let page = "a\n```console\n$ x\nold\n$ y \\\n> z\n```\n```sh\n$ not run\n```\n";
        let fresh = rewritten(
            page,
            |commands| commands.iter().map(|c| format!("ran {c:?}\n")).collect(),
            str::to_owned,
        );
        let expected =
            "a\n```console\n$ x\nran \"x\"\n$ y \\\n> z\nran \"y \\\\\\nz\"\n```\n```sh\n$ not run\n```\n";
        assert_eq!(fresh, expected);
        let again = rewritten(
            &fresh,
            |commands| commands.iter().map(|c| format!("ran {c:?}\n")).collect(),
            str::to_owned,
        );
        assert_eq!(again, fresh);
    }
}
