//! The metadata service's limits, kept on our side.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

/// Lets through so many at once and so many in each second. Microsoft documents 5 and 20 per VM for
/// identity requests; beyond them the metadata service answers 429.
pub(crate) struct Gate {
    at_once: Semaphore,
    per_second: usize,
    starts: Mutex<VecDeque<Instant>>,
}

impl Gate {
    pub(crate) fn new(at_once: usize, per_second: usize) -> Self {
        Self { at_once: Semaphore::new(at_once), per_second, starts: Mutex::new(VecDeque::new()) }
    }

    /// Waits for a turn; the turn ends when the permit is dropped.
    pub(crate) async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed; without a permit nobody is limited, which is the lesser harm.
        let permit = self.at_once.acquire().await.ok();
        loop {
            let Some(wait) = self.start_or_wait() else { return permit };
            tokio::time::sleep(wait).await;
        }
    }

    /// Books a start now, or tells how long there is none to be had.
    fn start_or_wait(&self) -> Option<Duration> {
        let mut starts = self.starts.lock();
        let now = Instant::now();
        while starts.front().is_some_and(|start| now - *start >= Duration::from_secs(1)) {
            starts.pop_front();
        }
        if starts.len() < self.per_second {
            starts.push_back(now);
            return None;
        }
        let oldest = starts.front().copied().unwrap_or(now);
        Some(Duration::from_secs(1).saturating_sub(now - oldest))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn five_at_once() {
        let gate = Arc::new(Gate::new(5, 1000));
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (gate, inside, most) = (gate.clone(), inside.clone(), most.clone());
                tokio::spawn(async move {
                    let _turn = gate.enter().await;
                    most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    inside.fetch_sub(1, SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(most.load(SeqCst), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn twenty_in_any_second() {
        let gate = Gate::new(5, 20);
        let mut starts = Vec::new();
        for _ in 0..70 {
            drop(gate.enter().await);
            starts.push(Instant::now());
        }
        for window in starts.windows(21) {
            assert!(window[20] - window[0] >= Duration::from_secs(1));
        }
        assert!(starts[69] - starts[0] < Duration::from_secs(4));
    }
}
