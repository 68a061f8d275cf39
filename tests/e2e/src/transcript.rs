//! Pages of the guide whose commands are run: what stands below a command is what it prints.
//!
//! Every fenced block marked `console` is a shell session of its own. Lines that begin with `$ ` are commands, with `> ` their
//! continuations; what follows is their output, standard error included. `UPDATE_DOCS=1` writes what they print now into the
//! page.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

use crate::DriverProcess;

/// Ends the output of a command; no program prints it.
const END: char = '\u{1e}';
/// How wide the guide's blocks are.
const COLUMNS: &str = "120";

/// Where a page's commands run.
#[derive(Debug, Clone)]
pub struct Session {
    folder: PathBuf,
    environment: Vec<(String, String)>,
    words: Vec<(String, String)>,
    numbers_count: bool,
    left_out: Option<&'static str>,
}

impl Session {
    /// In this folder, with `akv-csi` on the path and an environment that is the same everywhere.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            environment: Vec::new(),
            words: Vec::new(),
            numbers_count: true,
            left_out: None,
        }
    }

    /// With these variables besides.
    #[must_use]
    pub fn with_environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// With this word of the page in the place of one that only this run has: in commands and in what they print.
    #[must_use]
    pub fn showing(mut self, own: impl Into<String>, shown: &str) -> Self {
        self.words.push((own.into(), shown.to_owned()));
        self
    }

    /// Numbers, versions, times, and where lines are broken may differ from what the page says; words may not.
    #[must_use]
    pub fn words_alone(mut self) -> Self {
        self.numbers_count = false;
        self
    }

    /// Blocks with this in a command stay as they are: something that they need is not there.
    #[must_use]
    pub fn without(mut self, words: &'static str) -> Self {
        self.left_out = Some(words);
        self
    }
}

/// Runs a page's commands and compares.
///
/// # Panics
/// When the page says something else than the commands do, or cannot be read.
pub async fn check(page: &Path, session: &Session) {
    let text = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let mut fresh = String::new();
    let mut blocks = 0;
    for part in parts(&text) {
        match part {
            Part::Text(text) => fresh.push_str(text),
            Part::Block(block) => {
                blocks += 1;
                let left_out = session
                    .left_out
                    .is_some_and(|words| block.commands.iter().any(|command| command.shown.contains(words)));
                let outputs = if left_out {
                    block.commands.iter().map(|command| command.output.clone()).collect()
                } else {
                    run(&block, session).await
                };
                block.write(&outputs, session.numbers_count, &mut fresh);
            }
        }
    }
    assert!(blocks > 0, "{} has no transcript", page.display());
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

/// A piece of a page.
enum Part<'a> {
    /// Anything else.
    Text(&'a str),
    /// A block of commands.
    Block(Block<'a>),
}

/// A shell session as the page shows it.
struct Block<'a> {
    open: &'a str,
    commands: Vec<Step>,
    close: &'a str,
}

/// A command with its continuations.
#[derive(Default)]
struct Step {
    /// With the prompts.
    shown: String,
    /// Without.
    command: String,
    /// What the page says that it prints.
    output: String,
}

/// Takes a page apart.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut lines = text.split_inclusive('\n');
    while let Some(line) = lines.next() {
        if line.trim() != "```console" {
            parts.push(Part::Text(line));
            continue;
        }
        let mut block = Block { open: line, commands: Vec::new(), close: "```\n" };
        for line in lines.by_ref() {
            if line.trim() == "```" {
                block.close = line;
                break;
            }
            if let Some(command) = line.strip_prefix("$ ") {
                block.commands.push(Step {
                    shown: line.to_owned(),
                    command: command.to_owned(),
                    output: String::new(),
                });
            } else if let Some(last) = block.commands.last_mut() {
                match line.strip_prefix("> ") {
                    Some(more) if last.output.is_empty() => {
                        last.command.push_str(more);
                        last.shown.push_str(line);
                    }
                    _ => last.output.push_str(line),
                }
            }
        }
        parts.push(Part::Block(block));
    }
    parts
}

impl Block<'_> {
    fn write(&self, outputs: &[String], numbers_count: bool, page: &mut String) {
        page.push_str(self.open);
        for (index, command) in self.commands.iter().enumerate() {
            page.push_str(&command.shown);
            let printed = outputs.get(index).map_or("", |output| output.trim_end());
            let same = !numbers_count && words_of(printed) == words_of(&command.output);
            let output = if same { command.output.trim_end() } else { printed };
            if !output.is_empty() {
                let _ = writeln!(page, "{output}");
            }
        }
        page.push_str(self.close);
    }
}

/// What each command of a block prints, all in one shell. `$?` is that of the command before.
async fn run(block: &Block<'_>, session: &Session) -> Vec<String> {
    let mut script = String::from("exec 2>&1\n");
    for command in &block.commands {
        let mut text = command.command.trim_end().to_owned();
        for (own, shown) in &session.words {
            text = text.replace(shown, own);
        }
        let _ = writeln!(script, "{text}\n__status=$?; printf '{END}'; (exit $__status)");
    }
    let binary = DriverProcess::binary();
    let beside = binary.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(&session.folder)
        .env_clear()
        .env("PATH", format!("{beside}:{path}"))
        .env("LC_ALL", "C.UTF-8")
        .env("COLUMNS", COLUMNS)
        .envs(session.environment.iter().cloned())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("bash is installed");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    for (own, shown) in &session.words {
        text = text.replace(own, shown);
    }
    text.split(END).map(str::to_owned).collect()
}

/// The words of a text: runs of digits, and of four and more hexadecimal ones, become `#`. Where lines are broken depends on
/// their lengths, so it does not count.
fn words_of(text: &str) -> String {
    let word = |word: &str| {
        let parts = word.split_inclusive(|c: char| !c.is_ascii_alphanumeric()).map(|part| {
            let core = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let hex = core.len() >= 4 && core.bytes().all(|byte| byte.is_ascii_hexdigit());
            if hex { part.replace(core, "#") } else { part.to_owned() }
        });
        let mut plain = String::new();
        for c in parts.collect::<String>().chars() {
            let c = if c.is_ascii_digit() { '#' } else { c };
            if !(c == '#' && plain.ends_with('#')) {
                plain.push(c);
            }
        }
        // Spans have one unit or two: 14s, 1m46s.
        for unit in ["#m#s", "#h#m", "#d#h", "#m", "#h", "#d"] {
            plain = plain.replace(unit, "#s");
        }
        plain
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "a\n```console\n$ x\nold 1\n$ y \\\n> z\n```\n```sh\n$ not run\n```\n";

    /// The page, as if each command printed this.
    fn with_output(page: &str, numbers_count: bool, output: &str) -> String {
        let mut fresh = String::new();
        for part in parts(page) {
            match part {
                Part::Text(text) => fresh.push_str(text),
                Part::Block(block) => {
                    let outputs: Vec<_> = block.commands.iter().map(|_| output.to_owned()).collect();
                    block.write(&outputs, numbers_count, &mut fresh);
                }
            }
        }
        fresh
    }

    #[test]
    fn blocks_get_what_is_printed_and_the_rest_is_left_alone() {
        let fresh = with_output(PAGE, true, "new 2\n");
        let expected = "a\n```console\n$ x\nnew 2\n$ y \\\n> z\nnew 2\n```\n```sh\n$ not run\n```\n";
        assert_eq!(fresh, expected);
        assert_eq!(with_output(&fresh, true, "new 2\n"), fresh);
        // Numbers alone are no reason to write.
        assert_eq!(with_output(&fresh, false, "new 3\n"), fresh);
        assert_ne!(with_output(&fresh, false, "newer 2\n"), fresh);
    }

    #[tokio::test]
    async fn a_block_is_one_shell_in_the_words_of_the_page() {
        let text = "```console\n$ echo see/this \\\n> $HERE; false\n$ echo $?\n```\n";
        let Some(Part::Block(block)) = parts(text).into_iter().next() else { panic!("no block") };
        let session = Session::in_folder(Path::new("/"))
            .with_environment([("HERE".to_owned(), "/tmp/x7".to_owned())])
            .showing("/tmp/x7", "see/this");
        assert_eq!(run(&block, &session).await, ["see/this see/this\n", "1\n", ""]);
    }

    #[test]
    fn masking_keeps_words() {
        assert_eq!(words_of("up  1m46s, 12 s ago\nx@0123abcd"), words_of("up 3s, 1 s ago\nx@fedcba98"));
        assert_ne!(words_of("2 volumes: 1 ok"), words_of("2 volumes: 1 kept"));
    }
}
