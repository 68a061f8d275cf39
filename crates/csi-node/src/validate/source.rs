//! Where manifests come from: files, folders and the standard input.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Larger inputs are not read: manifests are small, and a mistake in a path should not fill the memory.
const LARGEST: u64 = 64 * 1024 * 1024;

/// A text to validate.
#[derive(Debug)]
pub struct Source {
    /// How to call it: its path as given, or `<stdin>`.
    pub name: String,
    /// Whether it was named itself, and not found in a folder.
    pub named: bool,
    /// What is in it.
    pub text: String,
    /// Index of the first character of each line.
    lines: Vec<usize>,
}

/// A place as people count it: from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// An input that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {name}: {cause}")]
pub struct Unreadable {
    /// Which.
    pub name: String,
    /// Why.
    pub cause: io::Error,
}

impl Source {
    /// A source of this text.
    pub fn new(name: impl Into<String>, named: bool, text: &str) -> Self {
        // Editors on Windows write a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        let breaks = text.chars().enumerate().filter(|(_, c)| *c == '\n').map(|(index, _)| index + 1);
        let lines = std::iter::once(0).chain(breaks).collect();
        Self { name: name.into(), named, text, lines }
    }

    /// Where a character is.
    pub fn position(&self, index: usize) -> Position {
        let line = self.lines.partition_point(|&start| start <= index);
        let start = line.checked_sub(1).and_then(|line| self.lines.get(line)).copied().unwrap_or_default();
        Position { line: line.max(1), column: index - start + 1 }
    }

    /// A line, counted from 1, without its line break.
    pub fn line(&self, number: usize) -> &str {
        self.text.split('\n').nth(number.saturating_sub(1)).unwrap_or_default().trim_end_matches('\r')
    }
}

/// Reads everything that is named: files as they are, folders with all their YAML and JSON files, `-` for the standard input.
///
/// # Errors
/// The first input that cannot be read.
pub fn read_all(names: &[PathBuf]) -> Result<Vec<Source>, Unreadable> {
    let mut sources = Vec::new();
    for name in names {
        if name.as_os_str() == "-" {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes).map(|_| bytes);
            let text = read.and_then(text).map_err(|cause| Unreadable { name: "<stdin>".into(), cause })?;
            sources.push(Source::new("<stdin>", true, &text));
        } else if name.is_dir() {
            read_folder(name, &mut sources)?;
        } else {
            sources.push(read_file(name, true)?);
        }
    }
    Ok(sources)
}

/// All YAML and JSON files below a folder, in the order of their names. Hidden ones are left alone.
fn read_folder(folder: &Path, sources: &mut Vec<Source>) -> Result<(), Unreadable> {
    let failed = |cause| Unreadable { name: folder.display().to_string(), cause };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push((entry.path(), entry.file_type().map_err(failed)?));
        }
    }
    paths.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (path, kind) in paths {
        let manifest = path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if kind.is_dir() {
            read_folder(&path, sources)?;
        } else if manifest && path.is_file() {
            sources.push(read_file(&path, false)?);
        }
    }
    Ok(())
}

fn read_file(path: &Path, named: bool) -> Result<Source, Unreadable> {
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
        text(bytes)
    };
    let name = path.display().to_string();
    let text = read().map_err(|cause| Unreadable { name: name.clone(), cause })?;
    Ok(Source::new(name, named, &text))
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LARGEST) {
        return Err(io::Error::other(format!("it has more than the {LARGEST} bytes that are read")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters() {
        let source = Source::new("a", true, "\u{feff}ä: b\r\nc: d\n");
        let at = |index| {
            let position = source.position(index);
            (position.line, position.column)
        };
        assert_eq!((at(0), at(3), at(6), at(9)), ((1, 1), (1, 4), (2, 1), (2, 4)));
        assert_eq!((source.line(1), source.line(2), source.line(9)), ("ä: b", "c: d", ""));
    }

    #[test]
    fn folders_are_walked_in_order_and_hidden_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/x.yml", "a.yaml", "c.json", "notes.txt", ".git/x.yaml"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "a: b").unwrap();
        }
        let names: Vec<_> = read_all(&[folder.path().to_owned()])
            .unwrap()
            .into_iter()
            .map(|source| source.name.rsplit('/').next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(names, ["a.yaml", "x.yml", "c.json"]);
        let error = read_all(&[folder.path().join("nope")]).unwrap_err();
        assert!(error.to_string().contains("nope"), "{error}");
    }
}
