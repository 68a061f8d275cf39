//! A program that ends when this process does, however that ends.

use crate::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Runs the program and kills it at the end of standard input: the pipe closes with this process, even when it is killed.
const KEEPER: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
{ read -r _ <&3; kill -9 "$child" 2>/dev/null; } &
wait "$child"
"#;

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    keeper: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` in `folder`, its output in a file there.
    pub(crate) fn start(
        program: &Path,
        arguments: &[String],
        folder: &Path,
        log: &str,
    ) -> Result<Self, Error> {
        let log = folder.join(log);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |cause| Error::File { path, cause }
        };
        let output = File::create(&log).map_err(failed(&log))?;
        let errors = output.try_clone().map_err(failed(&log))?;
        let keeper = Command::new("/bin/sh")
            .args(["-c", KEEPER, "sh"])
            .arg(program)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(failed(program))?;
        Ok(Self { keeper, log })
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.keeper.try_wait(), Ok(None))
    }

    /// The last lines of its output.
    pub(crate) fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
