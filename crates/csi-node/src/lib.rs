//! `akv-csi`, a CSI node driver with Azure Key Vault built in.
//!
//! Where to look:
//!
//! * [`driver`] is the way of one mount, top to bottom; start reading there.
//! * [`csi`] holds the services the kubelet calls, [`registration`] how the kubelet learns of them, [`endpoint`] the socket,
//!   `authority` what makes its clients' requests acceptable.
//! * [`class`] finds the SecretProviderClass, [`service_account`] the pod's service account (both in a cluster or, in
//!   standalone mode, in a folder of [`manifests`]), [`plan`] works out what it asks for, [`cloud_file`] reads a custom cloud, [`credential`] as whom to ask.
//! * [`provider`] hands classes of other providers to their sockets.
//! * [`rotation`] says how fresh a volume has to be and when it is looked after.
//! * [`reporting`] is what the cluster learns of a mount: [`upkeep`] keeps [`pod_status`] objects in step and tries again what fails,
//!   [`events`] shows on the pod what happened, [`pod_state`] knows whether the pod still counts.
//! * [`volume`] is everything that happens on disk: the tmpfs, the atomic writer, unmounting.
//! * [`synced_secret`] keeps Kubernetes Secrets in step with the mounted files.
//! * [`targets`] lets one call at a time work on a target path.
//! * [`node`] puts the process together from the flags in [`cli`]; [`http`], [`kubernetes`], [`health`], [`health_server`], [`hardening`] and [`telemetry`] are
//!   its parts.
//! * [`metrics`] counts and is scraped, on a port that [`listener`] keeps within bounds.
//! * [`admin`] is the operator's socket, [`status`] what it tells of the volumes, [`doctor`] tries out what a mount needs;
//!   [`startup_taint`] lets pods onto a fresh node when it is ready.
//!   its parts. [`build_info`] says which build it is.
//! * [`admin`] is the operator's socket, [`startup_taint`] lets pods onto a fresh node when it is ready.
//! * [`cluster`] is what is done once for a cluster, before an upgrade and before the driver is removed.
//! * [`validate`] checks manifests without a cluster, by the driver's own rules; [`parameters`] lists what a class may say.
//! * [`error`] has every way to fail, the words for it and the gRPC code.

pub mod admin;
mod authority;
pub mod build_info;
pub mod class;
pub mod cli;
pub mod cloud_file;
pub mod cluster;
pub mod credential;
pub mod csi;
pub mod doctor;
pub mod driver;
pub mod endpoint;
pub mod error;
pub mod events;
pub mod hardening;
pub mod health;
pub mod health_server;
pub mod http;
pub mod kubernetes;
pub mod listener;
pub mod manifests;
pub mod metrics;
pub mod node;
pub mod parameters;
pub mod plan;
pub mod pod_state;
pub mod pod_status;
pub mod provider;
pub mod registration;
pub mod reporting;
pub mod rotation;
pub mod service_account;
pub mod startup_taint;
pub mod status;
pub mod synced_secret;
pub mod targets;
pub mod telemetry;
pub mod upkeep;
pub mod validate;
pub mod volume;
