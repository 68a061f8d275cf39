//! The driver as a process, between the Azure emulator and the test kubelet, on real mounts.
//!
//! * [`Stage`] puts all parts up and takes them down again, whatever happened.
//! * [`DriverProcess`] is a running `akv-csi`; [`Call`] makes single calls to it.
//! * [`AzureProxy`] brings Azure's real host names to the emulator.
//! * [`Pod`] is a pod's volume and what its containers see of it; [`Content`] is what that should be.
//! * [`Provider`] is a provider in a process of its own, as other secret stores have.
//! * [`Seed`] and [`Random`] make random tests repeatable.
//! * [`BAD_CLASSES`] have one mistake each; [`validate`] is `akv-csi validate`, whose word
//!   every [`Call`] is held against; [`transcript`] runs the commands of the guide.
//! * [`Collector`] takes the spans of traces.
//! * [`Scrape`] is what a scraper of metrics gets.
//! * [`manifests`] are the YAML files people deploy, with their placeholders filled.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "test code: a broken assumption should end the run where it is found"
)]

mod azure_proxy;
mod bad_classes;
mod call;
mod collector;
mod driver_process;
pub mod manifests;
mod mounts;
mod pod;
mod prediction;
mod process_usage;
mod provider;
mod random;
mod scrape;
mod stage;
pub mod transcript;
mod validation;
mod volume_view;

pub use azure_proxy::AzureProxy;
pub use bad_classes::{BAD_CLASSES, BadClass};
pub use call::{Call, can_mount, class, class_of, tokens};
pub use collector::{Collector, Recorded};
pub use driver_process::DriverProcess;
pub use mounts::{MountPoint, mounts_below};
pub use pod::{Content, Pod, SECRETS, fill_secrets};
pub use prediction::faults;
pub use process_usage::Usage;
pub use provider::{Asked, Provider};
pub use random::{Random, Seed, setting};
pub use scrape::{Scrape, free_address};
pub use stage::{DRIVER_NAME, NODE, Stage, StageOptions, VAULT};
pub use validation::{Report, validate};
pub use volume_view::{FORMER_STAYS, Files, Sight, VolumeView, look};
