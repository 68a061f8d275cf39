//! Random tests that can be repeated.

use std::fmt;
use std::str::FromStr;

/// A number from an environment variable, or this one.
pub fn setting<T: FromStr>(variable: &str, default: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.trim().parse().unwrap_or_else(|_| panic!("{variable}={text:?} is not a number")),
        Err(_) => default,
    }
}

/// What a run of a random test is made from: `AKV_CSI_SEED`, or another one each time. When the test fails, dropping it
/// says how to repeat the run.
pub struct Seed {
    value: u64,
    runs_variable: &'static str,
}

impl Seed {
    /// The first run's seed.
    pub fn first() -> u64 {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        setting("AKV_CSI_SEED", clock.map_or(1, |now| u64::from(now.subsec_nanos())))
    }

    /// The seed of a run, by number from 0. The first run with the seed of another run is that run.
    pub fn of_run(first: u64, run: u64, runs_variable: &'static str) -> Self {
        Self { value: first.wrapping_add(run), runs_variable }
    }

    /// The numbers that follow from it.
    pub fn random(&self) -> Random {
        Random(self.value.wrapping_mul(0xD134_2543_DE82_EF95))
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AKV_CSI_SEED={} {}=1", self.value, self.runs_variable)
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat this run: {self}");
        }
    }
}

/// Numbers that look random: `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below this one, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("64 bits hold it");
        usize::try_from(self.number() % end).expect("less than a usize")
    }

    /// True so many times out of a hundred.
    pub fn percent(&mut self, times: usize) -> bool {
        self.below(100) < times
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
