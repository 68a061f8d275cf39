//! Microsoft Entra: tenants, identities, their credentials, and the tokens they get.

mod assertion;
mod directory;
mod endpoint;
mod errors;
pub(crate) mod jwt;
mod trust;

pub use directory::{CertificateCredential, Entra, Federation, Identity};
pub(crate) use directory::{Directory, guid, resource_id};
pub(crate) use endpoint::{Via, classify, fault, refusal, respond};
