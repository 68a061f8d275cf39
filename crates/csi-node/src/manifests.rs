//! A folder of Kubernetes manifests: the standalone mode's stand-in for an API server.

use serde::Deserialize;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Files larger than this are not read: a manifest is a few kilobytes.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;
/// How many seconds ago a file has to have changed for its looks to tell the next change.
const SETTLED_S: u64 = 2;

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
    pub documents: Vec<(PathBuf, Arc<str>)>,
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
    metadata: Option<ObjectMeta>,
    /// Of a list, as `kubectl get -o yaml` writes it.
    #[serde(default)]
    items: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
struct ObjectMeta {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
}

/// The YAML and JSON files of a folder. Objects of other kinds than the wanted are passed over, so a folder of a whole
/// application's manifests will do; a broken document does not hide the others.
///
/// A file is parsed once and again when it has changed: each call of the kubelet asks here.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    asked: AtomicU64,
    last: tokio::sync::Mutex<Look>,
}

/// The last look at a folder.
#[derive(Debug, Default)]
struct Look {
    /// How many had asked when it began.
    serves: u64,
    seen: Arc<Seen>,
}

/// What the files of a folder said at one moment, in the order of their names.
#[derive(Debug, Default)]
pub struct Seen(Vec<(PathBuf, Result<Arc<Parsed>, String>)>);

/// What a file says.
#[derive(Debug)]
struct Parsed {
    /// What the file looked like; nothing if it was changed so shortly before that the next change may not show.
    looks: Option<Looks>,
    /// Its documents and the items of its lists.
    objects: Vec<(Header, Arc<str>)>,
    trouble: Vec<String>,
}

/// What changes when a file does: device, inode, length, and the time of the last change, which nobody can set.
type Looks = (u64, u64, u64, i64, i64);

impl Folder {
    /// The folder with this path. Nothing is read yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, asked: AtomicU64::new(0), last: tokio::sync::Mutex::default() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its files say now. All who ask before a look begins share that one: a hundred calls at once need no hundred.
    ///
    /// # Errors
    /// When the folder itself cannot be read.
    pub async fn look(&self) -> io::Result<Arc<Seen>> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if number >= last.serves {
            let serves = self.asked.load(Ordering::SeqCst);
            let (path, before) = (self.path.clone(), Arc::clone(&last.seen));
            let seen = tokio::task::spawn_blocking(move || Seen::of(&path, &before)).await;
            *last = Look { serves, seen: Arc::new(seen.map_err(io::Error::other)??) };
        }
        Ok(Arc::clone(&last.seen))
    }
}

impl Seen {
    /// Looks at the files of a folder. What looks as it did before is not read again.
    fn of(folder: &Path, before: &Self) -> io::Result<Self> {
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
        let each = files.into_iter().map(|file| {
            let parsed = before.parsed(&file).map_err(|error| error.to_string());
            (file, parsed)
        });
        Ok(Self(each.collect()))
    }

    /// A file as it is now.
    fn parsed(&self, file: &Path) -> io::Result<Arc<Parsed>> {
        let metadata = std::fs::metadata(file)?;
        let looks = looks(&metadata);
        let known = self.0.binary_search_by(|(known, _)| known.as_path().cmp(file));
        let known = known.ok().and_then(|index| self.0.get(index)?.1.as_ref().ok());
        match known.filter(|known| known.looks == Some(looks)) {
            Some(known) => Ok(Arc::clone(known)),
            None => {
                Ok(Arc::new(Parsed::of(&read(file, metadata.len())?, settled(&metadata).then_some(looks))))
            }
        }
    }

    /// Looks for an object.
    pub fn find(&self, wanted: Wanted<'_>) -> Found {
        let mut found = Found::default();
        for (file, parsed) in &self.0 {
            let parsed = match parsed {
                Ok(parsed) => parsed,
                Err(error) => {
                    found.trouble.push(format!("{}: {error}", file.display()));
                    continue;
                }
            };
            let wanted = parsed.objects.iter().filter(|(header, _)| header.is(wanted));
            found.documents.extend(wanted.map(|(_, document)| (file.clone(), Arc::clone(document))));
            found
                .trouble
                .extend(parsed.trouble.iter().map(|trouble| format!("{}: {trouble}", file.display())));
        }
        found
    }
}

impl Parsed {
    fn of(text: &str, looks: Option<Looks>) -> Self {
        let (mut objects, mut trouble) = (Vec::new(), Vec::new());
        for (_, document) in documents(text) {
            match serde_saphyr::from_str::<Option<Header>>(document) {
                Ok(Some(Header { items: Some(serde_json::Value::Array(items)), .. })) => {
                    objects.extend(items.iter().filter_map(|item| {
                        // JSON is YAML, so an item can be read like any other document.
                        Some((Header::deserialize(item).ok()?, Arc::from(item.to_string())))
                    }));
                }
                Ok(Some(header)) => objects.push((header, Arc::from(document))),
                Ok(None) => {}
                Err(error) => trouble.push(one_line(&error.to_string())),
            }
        }
        Self { looks, objects, trouble }
    }
}

fn looks(metadata: &Metadata) -> Looks {
    (metadata.dev(), metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec())
}

/// Clocks of file systems tick: two changes within one tick leave the same time. A file that has been left alone for longer
/// cannot change without showing it.
fn settled(metadata: &Metadata) -> bool {
    let changed = u64::try_from(metadata.ctime()).unwrap_or_default();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs().checked_sub(changed).is_some_and(|age| age >= SETTLED_S)
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

fn read(file: &Path, length: u64) -> io::Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_before_a_look_begins_shares_it_and_who_asks_later_does_not() {
        let path = tempfile::tempdir().unwrap();
        let folder = Folder::new(path.path().to_owned());
        let waiting = async {
            let asking = futures::future::join_all((0..10).map(|_| folder.look()));
            let turn = folder.last.lock().await;
            let mut asking = std::pin::pin!(asking);
            // All have asked, and wait for their turn.
            assert!(futures::poll!(asking.as_mut()).is_pending());
            std::fs::write(path.path().join("pod.yaml"), "kind: Pod\nmetadata: {name: web}").unwrap();
            drop(turn);
            asking.await
        };
        let looks: Vec<Arc<Seen>> = waiting.await.into_iter().map(Result::unwrap).collect();
        assert!(looks.iter().all(|seen| Arc::ptr_eq(seen, &looks[0])));
        let web = Wanted { group: "", kind: "Pod", namespace: "default", name: "web" };
        assert_eq!(looks[0].find(web).documents.len(), 1);
        std::fs::remove_file(path.path().join("pod.yaml")).unwrap();
        assert_eq!(folder.look().await.unwrap().find(web).documents.len(), 0);
    }

    #[tokio::test]
    async fn a_look_that_failed_is_nobody_elses() {
        let path = tempfile::tempdir().unwrap();
        let folder = Folder::new(path.path().join("classes"));
        assert_eq!(folder.look().await.unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::create_dir(path.path().join("classes")).unwrap();
        folder.look().await.unwrap();
    }
}
