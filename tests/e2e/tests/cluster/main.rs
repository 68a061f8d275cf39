//! The driver against a real API server, with the rights that `deploy/manifests` gives it and no others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod classes;
mod crds;
mod events;
mod faults;
mod memory;
mod relay;
mod secrets;
mod setting;
mod statuses;
mod traces;
