//! Listening to a client: for whoever counts what is asked of vaults.

use std::{fmt, time::Duration};

use crate::{FailureKind, ObjectKind};

/// How a value was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lookup {
    /// It was there, and fresh enough.
    Hit,
    /// Somebody was asking for it already.
    Joined,
    /// The vault was asked.
    Miss,
    /// It could not be had a moment ago, and the vault is not asked again so soon.
    Spared,
}

impl Lookup {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Joined => "joined",
            Self::Miss => "miss",
            Self::Spared => "spared",
        }
    }
}

/// Is told what a [`Client`](crate::Client) does. Methods are called between other work: they must not block.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A value was looked for.
    fn looked_up(&self, how: Lookup) {
        let _ = how;
    }

    /// An object or its list of versions was fetched, or not, after all repetitions.
    fn fetched(&self, kind: ObjectKind, outcome: Result<(), FailureKind>, took: Duration) {
        let _ = (kind, outcome, took);
    }

    /// One HTTP request ended: with a status, or with none when the vault was not reached.
    fn answered(&self, status: Option<u16>) {
        let _ = status;
    }

    /// A vault, named by its host, said that it is asked too much; it is left in peace for a while.
    fn throttled(&self, vault: &str, pause: Duration) {
        let _ = (vault, pause);
    }

    /// A value of this age stood in for an answer.
    fn served_stale(&self, age: Duration) {
        let _ = age;
    }
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nobody;

impl Observer for Nobody {}
