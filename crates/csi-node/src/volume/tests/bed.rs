//! A directory to mount in, and eyes that do not belong to the code under test.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{LazyLock, atomic::AtomicBool},
    time::Duration,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::super::{Options, Payload, TargetPath, Volumes, mountinfo};

/// What a reader sees: path, mode and contents of every file.
pub type View = BTreeMap<String, (u32, Vec<u8>)>;

/// A temporary directory under which mounts may be made; they go with it.
pub struct Bed {
    directory: tempfile::TempDir,
}

impl Bed {
    /// A new one; `None`, said loudly, where mounting is not allowed. On a build server that is a failure.
    pub fn new() -> Option<Self> {
        static MAY_MOUNT: LazyLock<bool> = LazyLock::new(|| {
            let directory = tempfile::tempdir().unwrap();
            let none: Option<&str> = None;
            let result = mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), none);
            match result {
                Ok(()) => umount2(directory.path(), MntFlags::MNT_DETACH).unwrap(),
                Err(e) if std::env::var_os("CI").is_some() => panic!("volume tests need root to mount: {e}"),
                Err(e) => notice(&format!("volume tests NOT RUN: they need root to mount ({e})")),
            }
            result.is_ok()
        });
        MAY_MOUNT.then(|| Self { directory: tempfile::tempdir().unwrap() })
    }

    /// The directory, without links in its path.
    pub fn path(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap()
    }

    /// A target as the kubelet names them; only its parent exists.
    pub fn target(&self) -> TargetPath {
        self.target_named("volume")
    }

    pub fn target_named(&self, name: &str) -> TargetPath {
        let parent = self.path().join("pods/uid/volumes/kubernetes.io~csi").join(name);
        fs::create_dir_all(&parent).unwrap();
        TargetPath::parse(parent.join("mount").to_str().unwrap()).unwrap()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Before the directory is removed with all that is in it.
        for mount_point in mounts_below(&self.path()).into_iter().rev() {
            let _ = umount2(&mount_point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        }
        assert!(std::thread::panicking() || mounts_below(&self.path()).is_empty());
    }
}

/// Whether files may be given to other users, which a user namespace that maps only root forbids; said loudly if not.
pub fn may_chown(bed: &Bed) -> bool {
    let file = bed.path().join("chown");
    fs::write(&file, "").unwrap();
    let result = nix::unistd::chown(&file, Some(1.into()), Some(2000.into()));
    assert!(result.is_ok() || std::env::var_os("CI").is_none(), "volume tests need to chown: {result:?}");
    if let Err(e) = result {
        notice(&format!("volume tests of owners NOT RUN: they need to chown ({e})"));
    }
    result.is_ok()
}

/// A line that the test harness does not swallow.
pub fn notice(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub fn mounts_below(path: &Path) -> Vec<PathBuf> {
    mountinfo::read().unwrap().into_iter().map(|m| m.point).filter(|m| m.starts_with(path)).collect()
}

/// The options of the topmost mount at a target, of the mount and of its file system.
pub fn mount_options(target: &TargetPath) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let escaped = target.as_str().replace(' ', "\\040");
    let line = text.lines().rfind(|l| l.split(' ').nth(4) == Some(&escaped)).unwrap();
    let fields: Vec<&str> = line.split(' ').collect();
    [fields[5], fields.last().unwrap()].iter().flat_map(|f| f.split(',')).map(str::to_owned).collect()
}

/// Former generations go with the next call, so that it passes the steps that remove them.
pub fn options() -> Options {
    Options { former_for: Duration::ZERO, ..Options::default() }
}

pub fn volumes() -> Volumes {
    Volumes::new(options())
}

/// Both ways of mounting.
pub fn both() -> [Volumes; 2] {
    [volumes(), Volumes { options: options(), only_mount2: AtomicBool::new(true) }]
}

pub fn payload(files: &[(&str, u32, &str)]) -> Payload {
    Payload::new(
        files
            .iter()
            .map(|(path, mode, text)| ((*path).to_owned(), *mode, text.as_bytes().to_vec().into()))
            .collect(),
    )
    .unwrap()
}

/// This test program again, to run one test that is marked as ignored. `wrapper` is a program to start it with.
pub fn respawn(test: &str, wrapper: &[&str]) -> Command {
    let itself = std::env::current_exe().unwrap();
    let mut command = match wrapper.split_first() {
        None => Command::new(&itself),
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&itself);
            command
        }
    };
    let module = module_path!().split_once("::").unwrap().1.replace("bed", test);
    command.args(["--exact", &module, "--ignored", "--nocapture", "--test-threads=1"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a payload should look like to a reader.
pub fn expected(payload: &Payload) -> View {
    payload
        .files()
        .iter()
        .map(|f| (f.path().as_str().to_owned(), (f.mode().bits(), f.contents().to_vec())))
        .collect()
}

/// The files at a target through the visible names, by the standard library.
pub fn view(target: &TargetPath) -> View {
    let mut files = View::new();
    for entry in fs::read_dir(target.as_path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with("..") {
            collect(&target.as_path().join(&name), &name, &mut files);
        }
    }
    files
}

/// The files of the current generation, whatever the names at the top; `None` if `..data` does not resolve.
pub fn view_through_data(target: &TargetPath) -> Option<View> {
    let mut files = View::new();
    for entry in fs::read_dir(target.as_path().join("..data")).ok()? {
        let entry = entry.unwrap();
        collect(&entry.path(), &entry.file_name().into_string().unwrap(), &mut files);
    }
    Some(files)
}

fn collect(path: &Path, name: &str, files: &mut View) {
    // Follows links, as a pod does. A link that leads nowhere is no file.
    let Ok(metadata) = fs::metadata(path) else { return };
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            collect(&entry.path(), &format!("{name}/{}", entry.file_name().to_str().unwrap()), files);
        }
    } else {
        files.insert(name.to_owned(), (metadata.permissions().mode() & 0o7777, fs::read(path).unwrap()));
    }
}

/// The names at the top that are the volume's own.
pub fn internal_names(target: &TargetPath) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(target.as_path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.starts_with(".."))
        .collect();
    names.sort();
    names
}

/// Mounts a tmpfs as the reference does: no options at all.
pub fn mount_plain_tmpfs(target: &TargetPath) {
    let none: Option<&str> = None;
    mount(Some("tmpfs"), target.as_path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
}

/// Writes a version into a mounted volume in the steps the reference takes, links before the switch and the old files
/// removed right after it.
pub fn write_like_the_reference(target: &TargetPath, generation: &str, files: &[(&str, u32, &str)]) {
    use std::os::unix::fs::symlink;
    let root = target.as_path();
    let old = fs::read_link(root.join("..data")).ok();
    fs::create_dir(root.join(generation)).unwrap();
    fs::set_permissions(root.join(generation), fs::Permissions::from_mode(0o755)).unwrap();
    for (path, mode, text) in files {
        let file = root.join(generation).join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(*mode)).unwrap();
        let top = path.split('/').next().unwrap();
        if fs::symlink_metadata(root.join(top)).is_err() {
            symlink(format!("..data/{top}"), root.join(top)).unwrap();
        }
    }
    symlink(generation, root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    if let Some(old) = old {
        fs::remove_dir_all(root.join(old)).unwrap();
    }
}
