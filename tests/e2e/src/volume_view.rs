//! What a pod sees of its volume, and whether it may be so.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// How long after a switch a reader is promised to find the set of files that it was led to (docs/freshness.md).
pub const FORMER_STAYS: Duration = Duration::from_secs(5);

/// Files by relative path: contents and permission bits.
pub type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// What is at a path.
#[derive(Debug)]
pub enum Sight {
    /// Nothing, not even a directory.
    Absent,
    /// An empty directory on which nothing is mounted.
    Bare,
    /// A volume.
    Volume(VolumeView),
    /// Anything else.
    Torn(String),
}

/// A volume with a current set of files.
#[derive(Debug)]
pub struct VolumeView {
    /// What `..data` leads to.
    pub files: Files,
    /// The names that applications use.
    pub names: BTreeSet<String>,
    /// Former sets of files, which stay for a while for readers that have opened them.
    pub former: Vec<String>,
    /// What else is in the volume: traces of interrupted calls.
    pub leftovers: Vec<String>,
}

/// Looks at a path without changing anything.
pub fn look(root: &Path) -> Sight {
    let Ok(own) = std::fs::symlink_metadata(root) else { return Sight::Absent };
    let parent =
        root.parent().and_then(|parent| std::fs::metadata(parent).ok()).expect("the volume's folder exists");
    if own.dev() == parent.dev() {
        let empty = std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none());
        return if empty { Sight::Bare } else { Sight::Torn(format!("{own:?}: something unmounted")) };
    }
    match read(root) {
        Ok(view) => Sight::Volume(view),
        Err(reason) => Sight::Torn(reason),
    }
}

fn read(root: &Path) -> Result<VolumeView, String> {
    let data = std::fs::read_link(root.join("..data"))
        .map_err(|error| format!("..data: {error}; {}", listing(root)))?;
    let current = data.to_str().expect("names of generations are ASCII").to_owned();
    let mut files = Files::new();
    collect(&root.join(&data), "", &mut files)
        .map_err(|error| format!("{current}: {error}; {}", listing(root)))?;
    let (mut names, mut former, mut leftovers) = (BTreeSet::new(), Vec::new(), Vec::new());
    for entry in std::fs::read_dir(root).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        let name = entry.file_name().into_string().expect("names in the test are UTF-8");
        if name == "..data" || name == current {
            continue;
        }
        if name.starts_with("..") {
            // A set that has been current is marked.
            let marked = entry.metadata().is_ok_and(|entry| entry.is_dir() && entry.mtime() == 0);
            let list = if marked { &mut former } else { &mut leftovers };
            list.push(name);
            continue;
        }
        let link = std::fs::read_link(entry.path());
        if !link.as_ref().is_ok_and(|link| link == &Path::new("..data").join(&name)) {
            return Err(format!("{name} is no link to ..data/{name}: {link:?}"));
        }
        names.insert(name);
    }
    Ok(VolumeView { files, names, former, leftovers })
}

fn collect(folder: &Path, below: &str, files: &mut Files) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{below}{}", entry.file_name().to_string_lossy());
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            collect(&entry.path(), &format!("{path}/"), files)?;
        } else {
            files.insert(path, (std::fs::read(entry.path())?, metadata.permissions().mode() & 0o7777));
        }
    }
    Ok(())
}

fn listing(root: &Path) -> String {
    let names = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.file_name());
    format!("in the volume: {:?}", names.collect::<Vec<_>>())
}

fn tops(files: &Files) -> BTreeSet<String> {
    files.keys().map(|path| path.split('/').next().unwrap_or_default().to_owned()).collect()
}

impl VolumeView {
    /// Whether it is exactly this, as it must be after a call that was answered.
    ///
    /// # Errors
    /// What is wrong.
    pub fn is(&self, wanted: &Files) -> Result<(), String> {
        if &self.files != wanted {
            return Err(format!("files are\n{}instead of\n{}", describe(&self.files), describe(wanted)));
        }
        if self.names != tops(wanted) {
            return Err(format!("names are {:?} for the files\n{}", self.names, describe(wanted)));
        }
        if !self.leftovers.is_empty() {
            return Err(format!("leftovers: {:?}", self.leftovers));
        }
        Ok(())
    }

    /// Whether it is one of these as a whole, as it must be at any moment of a change from the first to the second.
    ///
    /// Names that only one of the two has may be missing from the volume's top, or lead nowhere, until the call is
    /// repeated: they are made and removed after the switch.
    ///
    /// # Errors
    /// What is wrong.
    pub fn is_either(&self, old: &Files, new: &Files) -> Result<(), String> {
        let (before, after) = (tops(old), tops(new));
        let needed: BTreeSet<String> = if &self.files == old && old != new {
            before.clone()
        } else if &self.files == new {
            before.intersection(&after).cloned().collect()
        } else {
            let (is, old, new) = (describe(&self.files), describe(old), describe(new));
            return Err(format!("files are\n{is}neither\n{old}nor\n{new}"));
        };
        let possible: BTreeSet<String> = before.union(&after).cloned().collect();
        if !self.names.is_superset(&needed) || !self.names.is_subset(&possible) {
            return Err(format!("names are {:?}, needed {needed:?}, possible {possible:?}", self.names));
        }
        Ok(())
    }
}

fn describe(files: &Files) -> String {
    if files.is_empty() {
        return "  nothing\n".to_owned();
    }
    let line = |(path, (contents, mode)): (&String, &(Vec<u8>, u32))| {
        format!("  {mode:04o} {path} {:?}\n", String::from_utf8_lossy(contents))
    };
    files.iter().map(line).collect()
}
