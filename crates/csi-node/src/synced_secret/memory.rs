//! What this process remembers of the Secrets it keeps in step, so that it need not ask each time.
//!
//! Nothing here must survive a restart, and no content is kept: only fingerprints.

use super::desired::{Fingerprint, MadeFrom};
use crate::csi::request::Pod;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Volumes that nobody has spoken of for so long are gone, even if nobody said so. A mounted one is heard of every two minutes.
const FORGOTTEN: Duration = Duration::from_secs(3600);
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// A Secret's namespace and name.
type SecretKey = (String, String);

/// All Secrets.
#[derive(Default)]
pub(super) struct Memory {
    secrets: Mutex<Secrets>,
}

#[derive(Default)]
struct Secrets {
    known: HashMap<SecretKey, Arc<tokio::sync::Mutex<Known>>>,
    tidied: Option<Instant>,
}

/// A volume that a Secret is made of.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Volume {
    pod: String,
    pub(super) class: String,
}

/// One Secret. Whoever holds its lock may write it.
#[derive(Default)]
pub(super) struct Known {
    /// The Secret as it was last seen.
    pub(super) seen: Option<Seen>,
    /// The class that last put its content into it from this node.
    pub(super) made_from: Option<MadeFrom>,
    volumes: HashMap<Volume, Synced>,
}

/// A Secret as it was last seen or left.
pub(super) struct Seen {
    pub(super) uid: String,
    pub(super) resource_version: String,
    /// When this driver, on whatever node, had written it.
    pub(super) written: Option<String>,
    /// The content it has, if that is the one of a volume here.
    pub(super) content: Option<Fingerprint>,
    /// UIDs.
    pub(super) owners: HashSet<String>,
    pub(super) checked: Instant,
}

struct Synced {
    content: Fingerprint,
    spoken_of: Instant,
}

impl Volume {
    pub(super) fn new(pod: &Pod, class: &str) -> Self {
        Self { pod: format!("{}/{}", pod.name, pod.uid), class: class.to_owned() }
    }
}

impl Memory {
    /// What is known of a Secret.
    pub(super) fn of(&self, namespace: &str, name: &str) -> Arc<tokio::sync::Mutex<Known>> {
        let mut secrets = self.secrets.lock();
        let now = Instant::now();
        if secrets.tidied.is_none_or(|tidied| now.duration_since(tidied) > TIDY_EVERY) {
            secrets.tidied = Some(now);
            secrets.drop_volumes(|_, synced| now.duration_since(synced.spoken_of) > FORGOTTEN);
        }
        Arc::clone(secrets.known.entry((namespace.to_owned(), name.to_owned())).or_default())
    }

    /// What is known of a Secret, if anything.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<tokio::sync::Mutex<Known>>> {
        self.secrets.lock().known.get(&(namespace.to_owned(), name.to_owned())).map(Arc::clone)
    }

    /// Forgets a pod's volumes.
    pub(super) fn forget(&self, pod: &Pod) {
        let gone = Volume::new(pod, "").pod;
        self.secrets.lock().drop_volumes(|volume, _| volume.pod == gone);
    }

    /// How many Secrets are known.
    pub(super) fn len(&self) -> usize {
        self.secrets.lock().known.len()
    }
}

impl Secrets {
    fn drop_volumes(&mut self, gone: impl Fn(&Volume, &Synced) -> bool) {
        self.known.retain(|_, known| {
            // Somebody is at work on it: not the time to forget it.
            let Ok(mut locked) = known.try_lock() else { return true };
            locked.volumes.retain(|volume, synced| !gone(volume, synced));
            // One that somebody else holds has just been asked for.
            !locked.volumes.is_empty() || Arc::strong_count(known) > 1
        });
    }
}

impl Known {
    /// The content a volume had when it was last synced.
    pub(super) fn content_of(&self, volume: &Volume) -> Option<Fingerprint> {
        self.volumes.get(volume).map(|synced| synced.content)
    }

    /// Notes that a volume's content has been dealt with.
    pub(super) fn synced(&mut self, volume: &Volume, content: Fingerprint) {
        let spoken_of = Instant::now();
        match self.volumes.get_mut(volume) {
            Some(synced) => *synced = Synced { content, spoken_of },
            None => drop(self.volumes.insert(volume.clone(), Synced { content, spoken_of })),
        }
    }

    /// Notes that a volume is still there.
    pub(super) fn speak_of(&mut self, volume: &Volume) {
        if let Some(synced) = self.volumes.get_mut(volume) {
            synced.spoken_of = Instant::now();
        }
    }

    /// A rival that was last to write the Secret, and still has volumes here.
    pub(super) fn rival_of(&self, ours: &MadeFrom) -> Option<&str> {
        let last = self.made_from.as_ref().filter(|last| last.rivals(ours))?;
        self.volumes.keys().any(|volume| volume.class == last.class).then_some(&last.class)
    }
}

#[cfg(test)]
mod tests {
    use super::super::desired::Shape;
    use super::*;

    #[test]
    fn secrets_are_forgotten_with_their_last_pod_but_not_while_in_use() {
        let memory = Memory::default();
        let pod =
            |name: &str| Pod { namespace: "n".into(), name: name.into(), uid: "u".into(), ..Pod::default() };
        let content = Fingerprint::for_test(1);
        for name in ["a", "b"] {
            let known = memory.of("n", "s");
            known.try_lock().unwrap().synced(&Volume::new(&pod(name), "class"), content);
        }
        let other = memory.of("n", "other");
        memory.forget(&pod("a"));
        assert_eq!(memory.len(), 2, "b still has a volume, and somebody is about to use the other");
        let held = memory.of("n", "s");
        let lock = held.try_lock().unwrap();
        memory.forget(&pod("b"));
        assert_eq!(memory.len(), 2, "in use");
        drop(lock);
        drop((held, other));
        memory.forget(&pod("b"));
        assert_eq!(memory.len(), 0);
    }

    #[test]
    fn a_rival_is_another_class_that_wrote_something_else_last_and_is_still_there() {
        let from = |class: &str, shape| MadeFrom { class: class.into(), shape: Shape(shape) };
        let mut known = Known { made_from: Some(from("old", 1)), ..Known::default() };
        assert_eq!(known.rival_of(&from("new", 2)), None, "its volumes are gone");
        known.synced(&Volume::new(&Pod::default(), "old"), Fingerprint::for_test(1));
        assert_eq!(known.rival_of(&from("new", 2)), Some("old"));
        assert_eq!(known.rival_of(&from("new", 1)), None, "they agree");
        assert_eq!(known.rival_of(&from("old", 2)), None);
    }
}
