//! Many nodes on one Key Vault, on a virtual clock.
//!
//! Each node has the driver's own [`vault::Client`], with its cache, queue, pauses and retries, and the driver's own
//! [`csi_node::rotation::Schedule`]; pods are called for with the kubelet's own periods. Only what is around them is
//! simulated: the network, Key Vault with its published limits ([`service`]), tokens, and the mounts. No node is left out
//! and none stands for another.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a broken assumption should end the run where it is found"
)]

pub mod node;
pub mod plot;
pub mod report;
pub mod run;
pub mod service;
