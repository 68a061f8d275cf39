//! The way to a vault: HTTP, or something that behaves like it.

use std::fmt;

use futures::{FutureExt, future::BoxFuture};

use super::error::Cause;

/// Carries one request to a vault and brings its answer back.
///
/// [`reqwest::Client`] is the one that nodes use. Another one lets whole fleets be simulated on a clock of their own, with
/// everything else as it is.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Sends the request. Redirects must not be followed.
    fn execute(&self, request: reqwest::Request) -> BoxFuture<'_, Result<reqwest::Response, Unreachable>>;
}

/// There was no answer.
#[derive(Clone, Debug)]
pub struct Unreachable(pub(super) Cause);

impl Unreachable {
    /// No connection, or a broken one, in words.
    pub fn connection(text: impl Into<String>) -> Self {
        Self(Cause::Connection(text.into()))
    }
}

impl Transport for reqwest::Client {
    fn execute(&self, request: reqwest::Request) -> BoxFuture<'_, Result<reqwest::Response, Unreachable>> {
        let answer = Self::execute(self, request);
        async move { answer.await.map_err(|error| Unreachable(Cause::network(error))) }.boxed()
    }
}
