//! A folder of Kubernetes manifests: the standalone mode's stand-in for an API server.

use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};

/// Files larger than this are not read: a manifest is a few kilobytes.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// Which object is looked for. An empty namespace in a manifest is `default`.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// API group; empty for the core group.
    pub group: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The documents that define the object, with their files, in the order of file names. More than one is a mistake.
    pub documents: Vec<(PathBuf, String)>,
    /// Files and documents that could not be read. One of them may be what was looked for.
    pub trouble: Vec<String>,
}

/// As much of any Kubernetes document as says what it is.
#[derive(Debug, Default, Deserialize)]
struct Header {
    #[serde(default, rename = "apiVersion")]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
    /// Of a list, as `kubectl get -o yaml` writes it.
    #[serde(default)]
    items: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
}

/// Looks through the YAML and JSON files of a folder, which is read afresh each time. Objects of other kinds are passed over,
/// so a folder of a whole application's manifests will do; a broken document does not hide the others.
///
/// # Errors
/// When the folder itself cannot be read.
pub fn find(folder: &Path, wanted: Wanted<'_>) -> io::Result<Found> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
        {
            files.push(path);
        }
    }
    files.sort();

    let mut found = Found::default();
    for file in files {
        let text = match read(&file) {
            Ok(text) => text,
            Err(error) => {
                found.trouble.push(format!("{}: {error}", file.display()));
                continue;
            }
        };
        for (_, document) in documents(&text) {
            match serde_saphyr::from_str::<Option<Header>>(document) {
                Ok(Some(header)) if header.is(wanted) => {
                    found.documents.push((file.clone(), document.to_owned()));
                }
                Ok(Some(Header { items: Some(serde_json::Value::Array(items)), .. })) => {
                    let is_wanted = |item: &serde_json::Value| {
                        Header::deserialize(item).is_ok_and(|header| header.is(wanted))
                    };
                    // JSON is YAML, so an item can be read like any other document.
                    let documents = items.iter().filter(|item| is_wanted(item)).map(ToString::to_string);
                    found.documents.extend(documents.map(|document| (file.clone(), document)));
                }
                Ok(_) => {}
                Err(error) => {
                    found.trouble.push(format!("{}: {}", file.display(), one_line(&error.to_string())));
                }
            }
        }
    }
    Ok(found)
}

impl Header {
    fn is(&self, wanted: Wanted<'_>) -> bool {
        let group =
            self.api_version.as_deref().unwrap_or_default().rsplit_once('/').map_or("", |(group, _)| group);
        let Some(metadata) = &self.metadata else { return false };
        let namespace =
            metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
        group == wanted.group
            && self.kind.as_deref() == Some(wanted.kind)
            && metadata.name.as_deref() == Some(wanted.name)
            && namespace == wanted.namespace
    }
}

fn read(file: &Path) -> io::Result<String> {
    let length = std::fs::metadata(file)?.len();
    if length > LARGEST_FILE {
        return Err(io::Error::other(format!(
            "{length} bytes are more than the {LARGEST_FILE} that are read"
        )));
    }
    let text = std::fs::read_to_string(file)?;
    // Editors on Windows write a byte order mark.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Splits a file at its document markers, each document with the byte it begins at. Done by hand, so that a syntax error in
/// one document leaves the others readable.
pub fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut offset) = (0, 0);
    for line in text.split_inclusive('\n') {
        let content = line.trim_end();
        if content == "---" || content.starts_with("--- ") || content.starts_with("---\t") {
            documents.extend(text.get(start..offset).map(|document| (start, document)));
            start = offset + line.len();
        }
        offset += line.len();
    }
    documents.extend(text.get(start..).map(|document| (start, document)));
    documents
}

/// Parser messages may span lines and show the source; the kubelet's event is one line.
pub fn one_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim().to_owned()
}
