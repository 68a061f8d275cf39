//! Classes in use, kept until the API server says that one has changed.

use super::{ClassError, ClassName, ClassSpec};
use crate::kubernetes::Change;
use kube::api::ObjectMeta;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::time::Instant;

/// The classes that mounted volumes refer to, and no others: memory grows with what this node uses, not with the cluster.
#[derive(Debug, Default)]
pub(super) struct Known {
    classes: Mutex<HashMap<ClassName, Weak<Entry>>>,
    watch: Mutex<Watch>,
}

/// Whether changes are told. Each beginning is a new one, so that a read that began before it counts for nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Watch {
    #[default]
    Off,
    On(u64),
    Lost(u64),
}

/// One class. Kept alive by the volumes that use it.
#[derive(Debug)]
pub struct Entry {
    name: ClassName,
    state: Mutex<State>,
    /// One read at a time; who waited takes what the other has read.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// What the class said when it was last read.
    last: Option<(Arc<ClassSpec>, String)>,
    /// The watch under which it was read, if it has not changed since.
    current: Option<u64>,
    /// How many changes the watch has told, and the version after the last one; `None` when it was deleted.
    told: (u64, Option<String>),
    /// When the last read began, and why it failed.
    read: Option<(Instant, Option<ReadError>)>,
}

/// Why a class could not be read.
#[derive(Debug, Clone)]
pub(super) enum ReadError {
    /// The API server says that there is none.
    NotFound,
    /// Anything else.
    Failed(String),
}

/// A class as read: what it says and its resource version.
pub(super) type Read = Result<(ClassSpec, String), ReadError>;

/// A class, and where from.
#[derive(Debug, Clone)]
pub(super) struct Had {
    pub spec: Arc<ClassSpec>,
    /// Whether it was read after it was asked for.
    pub live: bool,
    pub entry: Arc<Entry>,
}

impl Known {
    /// What the watch says.
    pub(super) fn tell(&self, change: Change) {
        match change {
            Change::Began => {
                let mut watch = self.watch.lock();
                *watch = match *watch {
                    Watch::Off => Watch::On(0),
                    Watch::On(number) | Watch::Lost(number) => Watch::On(number + 1),
                };
            }
            Change::Lost => {
                let mut watch = self.watch.lock();
                if let Watch::On(number) = *watch {
                    *watch = Watch::Lost(number);
                }
            }
            Change::Written(object) => self.changed(&object, object.resource_version.clone()),
            Change::Deleted(object) => self.changed(&object, None),
        }
    }

    fn changed(&self, object: &ObjectMeta, version: Option<String>) {
        let (Some(namespace), Some(name)) = (&object.namespace, &object.name) else { return };
        let class = ClassName { namespace: namespace.clone(), name: name.clone() };
        let Some(entry) = self.classes.lock().get(&class).and_then(Weak::upgrade) else { return };
        let mut state = entry.state.lock();
        if version.is_none() || state.last.as_ref().map(|(_, read)| read) != version.as_ref() {
            state.current = None;
        }
        // What is deleted is known to be gone, so it is not what the volume falls back on when the API server is down.
        if version.is_none() {
            state.last = None;
        }
        state.told = (state.told.0 + 1, version);
    }

    fn watch(&self) -> Option<u64> {
        match *self.watch.lock() {
            Watch::On(number) => Some(number),
            Watch::Off | Watch::Lost(_) => None,
        }
    }

    fn entry(&self, class: &ClassName) -> Arc<Entry> {
        let mut classes = self.classes.lock();
        if let Some(entry) = classes.get(class).and_then(Weak::upgrade) {
            return entry;
        }
        // The one moment at which the table grows is the moment to drop what nobody uses any more.
        classes.retain(|_, entry| entry.strong_count() > 0);
        let entry = Arc::new(Entry {
            name: class.clone(),
            state: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        });
        classes.insert(class.clone(), Arc::downgrade(&entry));
        entry
    }

    /// The class: as known, if the watch vouches for it and `live` is not asked for; else as `read` reads it now. When reading
    /// fails, a class that was known goes on being used.
    pub(super) async fn get<F: Future<Output = Read>>(
        &self,
        class: &ClassName,
        live: bool,
        read: impl FnOnce(bool) -> F,
    ) -> Result<Had, ClassError> {
        let entry = self.entry(class);
        if !live && let Some(spec) = self.vouched(&entry) {
            return Ok(Had { spec, live: false, entry });
        }
        let asked = Instant::now();
        let _turn = entry.reading.lock().await;
        let shared = entry.state.lock().read.as_ref().is_some_and(|(began, _)| *began >= asked);
        if !shared {
            if !live && let Some(spec) = self.vouched(&entry) {
                return Ok(Had { spec, live: false, entry: Arc::clone(&entry) });
            }
            let (began, watch) = (Instant::now(), self.watch());
            let (known, changes) = {
                let state = entry.state.lock();
                (state.last.is_some(), state.told.0)
            };
            let result = read(known).await;
            let mut state = entry.state.lock();
            match result {
                Ok((spec, version)) => {
                    let changed_meanwhile =
                        state.told.0 != changes && state.told.1.as_ref() != Some(&version);
                    state.current = watch.filter(|_| !changed_meanwhile);
                    let spec = match state.last.take() {
                        Some((last, _)) if *last == spec => last,
                        _ => Arc::new(spec),
                    };
                    state.last = Some((spec, version));
                    state.read = Some((began, None));
                }
                Err(error) => {
                    state.current = None;
                    if matches!(error, ReadError::NotFound) {
                        state.last = None;
                    }
                    state.read = Some((began, Some(error)));
                }
            }
        }
        let state = entry.state.lock();
        let trouble = state.read.as_ref().and_then(|(_, error)| error.clone());
        match (&state.last, trouble) {
            (Some((spec, _)), None) => {
                Ok(Had { spec: Arc::clone(spec), live: true, entry: Arc::clone(&entry) })
            }
            (Some((spec, version)), Some(error)) => {
                let ReadError::Failed(cause) = error else { return Err(not_found(class)) };
                tracing::warn!(%class, version, error = cause, "the class cannot be read; going on with what it said last");
                Ok(Had { spec: Arc::clone(spec), live: false, entry: Arc::clone(&entry) })
            }
            (None, Some(ReadError::Failed(cause))) => {
                Err(ClassError::ApiServer { class: class.clone(), cause })
            }
            // Without an error there is none because it was deleted meanwhile.
            (None, Some(ReadError::NotFound) | None) => Err(not_found(class)),
        }
    }

    fn vouched(&self, entry: &Entry) -> Option<Arc<ClassSpec>> {
        let watch = self.watch()?;
        let state = entry.state.lock();
        state.last.as_ref().filter(|_| state.current == Some(watch)).map(|(spec, _)| Arc::clone(spec))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.classes.lock().len()
    }
}

fn not_found(class: &ClassName) -> ClassError {
    ClassError::NotFound { class: class.clone(), hint: String::new() }
}

impl Entry {
    /// Which class.
    pub fn name(&self) -> &ClassName {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class() -> ClassName {
        ClassName { namespace: "shop".into(), name: "kv".into() }
    }

    #[allow(clippy::unnecessary_wraps, reason = "the answer of an API server, which may be an error")]
    fn version(number: u32) -> Read {
        Ok((ClassSpec { provider: number.to_string(), ..ClassSpec::default() }, number.to_string()))
    }

    fn down() -> Read {
        Err(ReadError::Failed("connection refused".into()))
    }

    fn object(version: u32) -> Box<ObjectMeta> {
        Box::new(ObjectMeta {
            namespace: Some("shop".into()),
            name: Some("kv".into()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        })
    }

    /// What a use gets, and whether it was read for it.
    async fn used(known: &Known, server: Read) -> (Result<String, String>, bool, Option<Arc<Entry>>) {
        let mut asked = false;
        let had = known
            .get(&class(), false, |_| {
                asked = true;
                std::future::ready(server)
            })
            .await;
        match had {
            Ok(had) => (Ok(had.spec.provider.clone()), asked, Some(had.entry)),
            Err(error) => (Err(error.to_string()), asked, None),
        }
    }

    #[tokio::test]
    async fn a_class_is_read_once_and_again_after_each_change() {
        let known = Known::default();
        known.tell(Change::Began);
        let (value, asked, _in_use) = used(&known, version(1)).await;
        assert_eq!((value, asked), (Ok("1".into()), true));
        assert!(!used(&known, version(1)).await.1, "the watch vouches for it");
        known.tell(Change::Written(object(1)));
        assert!(!used(&known, version(1)).await.1, "that is the version that was read");
        known.tell(Change::Written(object(2)));
        let (value, asked, _) = used(&known, version(2)).await;
        assert_eq!((value, asked), (Ok("2".into()), true));
    }

    #[tokio::test]
    async fn without_a_watch_every_use_reads() {
        let known = Known::default();
        let (_, _, _in_use) = used(&known, version(1)).await;
        assert!(used(&known, version(1)).await.1);
        known.tell(Change::Began);
        assert!(used(&known, version(1)).await.1, "read before the watch began: it may have changed since");
        assert!(!used(&known, version(1)).await.1);
        known.tell(Change::Lost);
        assert!(used(&known, version(1)).await.1);
        known.tell(Change::Began);
        assert!(used(&known, version(1)).await.1, "changes may have been missed");
    }

    #[tokio::test]
    async fn a_change_while_a_class_is_read_makes_it_read_again() {
        for change in [Change::Written(object(2)), Change::Deleted(object(1)), Change::Lost] {
            let known = Known::default();
            known.tell(Change::Began);
            let (told, class) = (&known, class());
            let had = known.get(&class, false, |_| async move {
                told.tell(change);
                version(1)
            });
            let _in_use = had.await.unwrap();
            assert!(used(&known, version(2)).await.1);
        }
    }

    #[tokio::test]
    async fn a_known_class_survives_an_outage_but_not_its_deletion() {
        let known = Known::default();
        let (_, _, _in_use) = used(&known, version(1)).await;
        assert_eq!(used(&known, down()).await.0, Ok("1".into()));
        assert!(used(&known, Err(ReadError::NotFound)).await.0.unwrap_err().contains("not found"));
        let after = used(&known, down()).await.0.unwrap_err();
        assert!(after.contains("connection refused"), "{after}");

        let known = Known::default();
        known.tell(Change::Began);
        let (_, _, _in_use) = used(&known, version(1)).await;
        known.tell(Change::Deleted(object(1)));
        assert!(used(&known, down()).await.0.is_err(), "the watch has told that it is gone");
    }

    #[tokio::test]
    async fn only_classes_in_use_are_kept() {
        let known = Known::default();
        known.tell(Change::Began);
        for number in 0..100 {
            let class = ClassName { namespace: "shop".into(), name: format!("kv-{number}") };
            known.tell(Change::Written(object(number)));
            known.get(&class, false, |_| std::future::ready(version(number))).await.unwrap();
        }
        assert_eq!(known.len(), 1, "the last one");
    }

    #[tokio::test]
    async fn uses_at_the_same_time_share_a_read() {
        let known = Known::default();
        let (class, reads) = (class(), Mutex::new(0));
        let (release, wait) = tokio::sync::watch::channel(false);
        let use_it = || {
            let mut wait = wait.clone();
            let reads = &reads;
            known.get(&class, true, move |_| async move {
                *reads.lock() += 1;
                let _ = wait.wait_for(|released| *released).await;
                version(1)
            })
        };
        let release = async {
            tokio::task::yield_now().await;
            release.send(true).unwrap();
        };
        let (a, b, c, d, ()) = tokio::join!(use_it(), use_it(), use_it(), use_it(), release);
        assert!([a, b, c, d].into_iter().all(|had| had.unwrap().live));
        assert_eq!(*reads.lock(), 2, "one for the first, and one that began after the others had asked");
    }
}
