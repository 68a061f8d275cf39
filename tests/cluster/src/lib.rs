//! A real single-node Kubernetes with the driver in it, and the tests that need one.
//!
//! `hack/cluster.sh` makes namespaces in which nothing else lives and runs the program `cluster` there. The program starts
//! * [`ControlPlane`]: etcd, the API server, the controller manager and the scheduler;
//! * [`Node`]: containerd and the kubelet, and a second one where a case wants it;
//! * the Azure emulator, under Azure's own host names,
//!
//! installs the project's own chart and image, and plays the [`cases`]. [`Cluster`] is all of it together.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "test code: a broken assumption should end the case where it is found"
)]

mod api;
mod audit;
pub mod cases;
mod cluster;
mod control_plane;
mod credentials;
mod helm;
mod manifests;
mod node;
mod old_driver;
mod places;
mod process;

pub use api::Kind;
pub use audit::Request;
pub use cluster::{Cluster, VAULT};
pub use control_plane::ControlPlane;
pub use credentials::Credentials;
pub use node::{Node, Room};
pub use places::{API_SERVER, AZURE, FIRST_NODE, Places, SECOND_NODE};
pub use process::Process;
