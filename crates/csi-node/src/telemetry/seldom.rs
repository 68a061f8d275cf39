//! Lines that would repeat each other.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// How often one sort of line may be written.
const EVERY: Duration = Duration::from_secs(300);
/// More sorts than this are not told apart for long.
const MOST: usize = 256;

/// Lets one line of each sort through, and the next one after a while.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<HashMap<String, Told>>);

#[derive(Debug, Clone, Copy)]
struct Told {
    at: Instant,
    held_back: u64,
}

impl Seldom {
    /// Whether a line of this sort may be written now; if so, how many were held back since the last one.
    pub fn pass(&self, sort: String) -> Option<u64> {
        let now = Instant::now();
        let mut told = self.0.lock();
        if told.len() >= MOST {
            told.retain(|_, told| now - told.at < EVERY);
        }
        if told.len() >= MOST {
            told.clear();
        }
        match told.get_mut(&sort) {
            Some(told) if now - told.at < EVERY => {
                told.held_back += 1;
                None
            }
            Some(told) => {
                let held_back = told.held_back;
                *told = Told { at: now, held_back: 0 };
                Some(held_back)
            }
            None => {
                told.insert(sort, Told { at: now, held_back: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_of_a_sort_comes_through_and_the_next_says_how_many_did_not() {
        let seldom = Seldom::default();
        let pass = |sort: &str| seldom.pass(sort.to_owned());
        assert_eq!((pass("a"), pass("b")), (Some(0), Some(0)));
        for _ in 0..100 {
            assert_eq!(pass("a"), None);
        }
        tokio::time::advance(EVERY).await;
        assert_eq!((pass("a"), pass("b"), pass("a")), (Some(100), Some(0), None));
    }

    #[tokio::test(start_paused = true)]
    async fn sorts_without_number_take_no_room() {
        let seldom = Seldom::default();
        for number in 0..10_000 {
            seldom.pass(number.to_string());
        }
        assert!(seldom.0.lock().len() <= MOST);
    }
}
