//! Keys and certificates as Key Vault makes, takes in and hands out.

pub(crate) mod bundle;
pub(crate) mod certificate;
pub(crate) mod material;
