//! Target paths in use: one operation for each at a time, and what is remembered about the volume there.
//!
//! CSI leaves it to the plugin to serialise calls for one volume ("Concurrency" in the specification), and the kubelet does
//! repeat a call whose deadline has passed while the first one is still at work.

use crate::volume::TargetPath;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

/// All targets that this process works on or remembers something about. `R` is what is remembered of a volume.
#[derive(Debug)]
pub struct Targets<R> {
    slots: Slots<R>,
}

type Slot<R> = Arc<tokio::sync::Mutex<Option<R>>>;
type Slots<R> = Arc<Mutex<BTreeMap<TargetPath, Slot<R>>>>;

/// The right to work on one target, and what is remembered of its volume. Others wait until it is dropped.
#[derive(Debug)]
pub struct Claim<R> {
    // Dropped before `_retire`, which then sees whether somebody else still needs the slot.
    guard: OwnedMutexGuard<Option<R>>,
    _retire: Retire<R>,
}

/// Takes a slot out of the map when nobody holds it and it remembers nothing.
#[derive(Debug)]
struct Retire<R> {
    target: TargetPath,
    slots: Slots<R>,
}

impl<R> Default for Targets<R> {
    fn default() -> Self {
        Self { slots: Arc::default() }
    }
}

impl<R> Targets<R> {
    /// Waits for the right to work on `target`. Cancel-safe.
    pub async fn claim(&self, target: &TargetPath) -> Claim<R> {
        loop {
            // Made first, so dropped last: also when this call gives up waiting below.
            let retire = Retire { target: target.clone(), slots: Arc::clone(&self.slots) };
            let slot = Arc::clone(self.slots.lock().entry(target.clone()).or_default());
            let guard = Arc::clone(&slot).lock_owned().await;
            // The slot may have been retired while this call waited for it; then a newer one rules.
            let current = self.slots.lock().get(target).is_some_and(|now| Arc::ptr_eq(now, &slot));
            if current {
                return Claim { guard, _retire: retire };
            }
        }
    }

    /// The targets that something is known about, or that are worked on.
    pub fn known(&self) -> Vec<TargetPath> {
        self.slots.lock().keys().cloned().collect()
    }

    /// How many targets something is known about.
    pub fn len(&self) -> usize {
        self.slots.lock().len()
    }

    /// Whether nothing is known about any target.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<R> Deref for Claim<R> {
    type Target = Option<R>;

    fn deref(&self) -> &Option<R> {
        &self.guard
    }
}

impl<R> DerefMut for Claim<R> {
    fn deref_mut(&mut self) -> &mut Option<R> {
        &mut self.guard
    }
}

impl<R> Drop for Retire<R> {
    fn drop(&mut self) {
        let mut slots = self.slots.lock();
        // Only the map itself can hand out the slot, and the map is locked here.
        let unused = slots.get(&self.target).is_some_and(|slot| {
            Arc::strong_count(slot) == 1 && slot.try_lock().is_ok_and(|remembered| remembered.is_none())
        });
        if unused {
            slots.remove(&self.target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn target(name: &str) -> TargetPath {
        TargetPath::parse(&format!("/var/lib/kubelet/pods/{name}/mount")).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_target_is_worked_on_by_one_call_at_a_time() {
        let targets = Arc::new(Targets::<u32>::default());
        let inside = Arc::new(AtomicU32::new(0));
        let calls = (0..200).map(|call| {
            let (targets, inside) = (Arc::clone(&targets), Arc::clone(&inside));
            tokio::spawn(async move {
                let mut claim = targets.claim(&target("a")).await;
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two calls at once");
                tokio::task::yield_now().await;
                // Every other call forgets, so that slots are retired while others wait for them.
                *claim = (call % 2 == 0).then_some(call);
                inside.fetch_sub(1, Ordering::SeqCst);
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
    }

    #[tokio::test]
    async fn different_targets_do_not_wait_for_each_other() {
        let targets = Targets::<u32>::default();
        let _a = targets.claim(&target("a")).await;
        let _b = targets.claim(&target("b")).await;
        assert_eq!(targets.len(), 2);
    }

    #[tokio::test]
    async fn what_is_remembered_stays_and_what_is_forgotten_leaves_nothing() {
        let targets = Targets::default();
        *targets.claim(&target("a")).await = Some(7);
        assert_eq!(*targets.claim(&target("a")).await, Some(7));
        assert_eq!(targets.len(), 1);
        *targets.claim(&target("a")).await = None;
        assert!(targets.is_empty());
    }

    #[tokio::test]
    async fn a_call_that_gives_up_waiting_leaves_nothing() {
        let targets = Arc::new(Targets::<u32>::default());
        let first = targets.claim(&target("a")).await;
        let waiting = tokio::spawn({
            let targets = Arc::clone(&targets);
            async move { drop(targets.claim(&target("a")).await) }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        drop(first);
        assert!(targets.is_empty());
    }
}
