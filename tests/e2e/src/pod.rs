//! A pod as volumes know it: calls of the kubelet, and a container's own mount of the volume.

use crate::{Call, Files, Random, Sight, Stage, VAULT, class, look};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How many secrets `secret-0`, `secret-1`, … there are for contents.
pub const SECRETS: usize = 6;

/// Puts the secrets that contents are made of into the stage's vault.
pub fn fill_secrets(stage: &Stage) {
    let vault = stage.azure.vault(VAULT);
    for secret in 0..SECRETS {
        vault.set_secret(&format!("secret-{secret}"), &value(secret)).expect("a valid secret");
    }
}

fn value(secret: usize) -> String {
    format!("value of {secret}")
}

/// What a class asks for: for each path the number of the secret and the mode. The path `always` is in every one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content(BTreeMap<&'static str, (usize, u32)>);

impl Content {
    /// The path that every content has.
    pub const ALWAYS: &'static str = "always";
    const PATHS: [&'static str; 6] = ["a", "b", "c", "dir/a", "dir/deep/b", "other/c"];
    const MODES: [u32; 4] = [0o644, 0o600, 0o400, 0o755];

    /// These paths with the numbers of their secrets and modes.
    pub fn new<const N: usize>(entries: [(&'static str, usize, u32); N]) -> Self {
        Self(entries.map(|(path, secret, mode)| (path, (secret, mode))).into())
    }

    /// Any content.
    pub fn any(random: &mut Random) -> Self {
        let mut entries = BTreeMap::new();
        for path in Self::PATHS {
            if random.percent(40) {
                entries.insert(path, (random.below(SECRETS), *random.pick(&Self::MODES)));
            }
        }
        entries.insert(Self::ALWAYS, (random.below(SECRETS), *random.pick(&Self::MODES)));
        Self(entries)
    }

    /// The files it makes.
    pub fn files(&self) -> Files {
        let file = |(path, (secret, mode)): (&&str, &(usize, u32))| {
            ((*path).to_owned(), (value(*secret).into_bytes(), *mode))
        };
        self.0.iter().map(file).collect()
    }

    /// Makes it what a class says.
    pub fn deploy(&self, stage: &Stage, name: &str) {
        let object = |(path, (secret, mode)): (&&str, &(usize, u32))| {
            format!(
                "objectName: secret-{secret}\nobjectType: secret\nobjectAlias: {path}\nfilePermission: \"{mode:04o}\""
            )
        };
        let objects: Vec<String> = self.0.iter().map(object).collect();
        let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
        // In one step: another volume's call may be reading the folder.
        let half = stage.path("classes").join(format!("{name}.half"));
        std::fs::write(&half, class(stage, name, &objects, &[])).expect("the folder is writable");
        std::fs::rename(&half, half.with_extension("yaml")).expect("the folder is writable");
    }
}

/// A pod with one volume.
pub struct Pod {
    /// Calls for its volume.
    pub call: Call,
    /// What its class is named.
    pub class: String,
    inside: PathBuf,
    running: bool,
}

impl Pod {
    /// A pod that uses the class of this name.
    pub fn new(stage: &Stage, name: &str, class: &str) -> Self {
        let inside = stage.path("containers").join(name);
        std::fs::create_dir_all(&inside).expect("the stage's folder is writable");
        Self { call: Call::new(stage, name, class), class: class.to_owned(), inside, running: false }
    }

    /// Starts the container, if it does not run: its runtime mounts what is at the target now, and that very mount is all
    /// that the container ever sees.
    pub fn start(&mut self) {
        if !self.running {
            let none: Option<&str> = None;
            mount(Some(&self.call.target()), &self.inside, none, MsFlags::MS_BIND, none)
                .expect("a bind mount");
            self.running = true;
        }
    }

    /// Stops the container, if it runs.
    pub fn stop(&mut self) {
        if self.running {
            umount2(&self.inside, MntFlags::MNT_DETACH).expect("it was mounted");
            self.running = false;
        }
    }

    /// Whether the container runs.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Where the container sees its volume.
    pub fn inside(&self) -> &Path {
        &self.inside
    }

    /// Asserts that target and container show exactly these files.
    pub fn assert_shows(&self, wanted: &Files, when: &str) {
        self.each_volume(when, |view| view.is(wanted));
    }

    /// Asserts that target and container show all of the old files or all of the new ones.
    pub fn assert_shows_either(&self, old: &Files, new: &Files, when: &str) {
        self.each_volume(when, |view| view.is_either(old, new));
    }

    /// Asserts that nothing is at the target, not even a directory.
    pub fn assert_gone(&self, when: &str) {
        let sight = look(&self.call.target());
        assert!(
            matches!(sight, Sight::Absent),
            "{when}: something is left at {}: {sight:?}",
            self.call.target().display()
        );
    }

    fn each_volume(&self, when: &str, check: impl Fn(&crate::VolumeView) -> Result<(), String>) {
        let target = self.call.target();
        for root in
            [Some(target.as_path()), self.running.then_some(self.inside.as_path())].into_iter().flatten()
        {
            let verdict = match look(root) {
                Sight::Volume(view) => check(&view),
                other => Err(format!("{other:?}")),
            };
            verdict.unwrap_or_else(|reason| panic!("{when}: {}: {reason}", root.display()));
        }
    }
}
