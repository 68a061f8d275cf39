//! Key Vault's data plane: secrets, keys and certificates behind the real service's shapes.

mod access;
mod api;
mod authentication;
mod certificates;
mod errors;
mod handle;
mod keys;
mod paging;
mod route;
mod secrets;
mod store;

pub use access::{AccessModel, Network, ObjectKind, Operation, Permissions};
pub(crate) use api::respond;
pub(crate) use errors::fault;
pub use handle::{Vault, VaultGrant};
pub use keys::JwkQuirks;
pub(crate) use route::classify;
pub(crate) use store::Vaults;
