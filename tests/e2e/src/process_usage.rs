//! What a process uses, as the kernel counts it.

use std::path::PathBuf;

/// File descriptors, threads and memory of a process.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory that is the process's own (`RssAnon`), in KiB.
    pub memory_kib: usize,
}

impl Usage {
    /// Of the process with this id. The driver hides its memory from its own user, so this takes root.
    pub fn of(pid: u32) -> Self {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let status = std::fs::read_to_string(folder.join("status")).expect("the process lives");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            number.unwrap_or_else(|| panic!("no {name} in:\n{status}"))
        };
        let descriptors = std::fs::read_dir(folder.join("fd")).expect("root may look").count();
        Self { descriptors, threads: field("Threads"), memory_kib: field("RssAnon") }
    }
}
