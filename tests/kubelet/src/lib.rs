//! Plays the kubelet's part towards a CSI node driver, from plain Pod YAML.
//!
//! [`Kubelet`] watches a registration folder, publishes the inline CSI volumes of the pods it is given, with service-account
//! tokens from an issuer of its own, publishes them again while the driver wants it, and unpublishes them when their pod is
//! deleted. What it sends, in which order, with which deadlines and after which waits follows the kubelet of Kubernetes 1.36.
//! There are no containers: a pod is its volumes.
//!
//! [`CsiClient`] sends single requests, for tests of what no kubelet would ask.

mod builder;
mod clock;
mod csi_client;
mod csi_driver;
mod discovery;
mod error;
mod events;
mod folders;
mod issuer;
mod kubelet;
mod manifest;
mod mounter;
mod node;
mod registration;
mod timing;
mod tokens;
mod volume;

pub use builder::Builder;
pub use clock::Clock;
pub use csi_client::{CsiClient, NodeCapabilities};
pub use csi_driver::{CsiDriver, FsGroupPolicy, TokenRequest};
pub use discovery::ServerTls;
pub use error::Error;
pub use events::{Event, EventStream};
pub use folders::Leftover;
pub use issuer::{Issuer, SigningKey};
pub use kubelet::{Kubelet, Removal};
pub use manifest::{CsiVolume, DriverName, Pod, PodName};
pub use mounter::{FailureKind, MountFailure};
pub use registration::{CsiVersion, RegisteredDriver};
pub use timing::{Backoff, BackoffPolicy, RepublishPeriod, Timings};
pub use volume::TOKENS_KEY;
