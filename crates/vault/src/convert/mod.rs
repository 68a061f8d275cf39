//! From the vault's answers to the bytes of files. Pure: no I/O, no clock.

mod asn1;
mod chain;
mod curve;
mod encoding;
mod jwk;
mod pem;
mod pfx;
mod pkcs8;
mod secret;
mod tls;

pub(crate) use encoding::{EncodingError, base64_decoded};
pub(crate) use jwk::Jwk;
pub use tls::{TlsError, TlsFile};

use zeroize::Zeroizing;

use crate::{SecretEncoding, SecretFormat};

/// How certificates are written, for the whole driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rendering {
    /// Put the certificates of a PFX in order: server, intermediates, root (`--construct-pem-chain`).
    pub construct_pem_chain: bool,
    /// Also write `<path>.crt` and `<path>.key` (`--write-cert-and-key-in-separate-files`).
    pub separate_cert_and_key_files: bool,
}

impl Default for Rendering {
    /// Chains in order, one file per object.
    fn default() -> Self {
        Self { construct_pem_chain: true, separate_cert_and_key_files: false }
    }
}

/// Why no file can be made of an object the vault returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConvertError {
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    #[error("failed to get certificate. unknown content type '{0}'")]
    ContentType(String),
    #[error("{0}")]
    Pfx(String),
    #[error("{0}")]
    Key(String),
    #[error("{0}")]
    Chain(String),
    #[error(transparent)]
    Jwk(#[from] jwk::JwkError),
}

impl From<pfx::PfxError> for ConvertError {
    fn from(error: pfx::PfxError) -> Self {
        Self::Pfx(error.to_string())
    }
}

impl From<pkcs8::KeyError> for ConvertError {
    fn from(error: pkcs8::KeyError) -> Self {
        Self::Key(format!("pkcs12: error parsing PKCS#8 private key: {error}"))
    }
}

impl From<chain::ChainError> for ConvertError {
    fn from(error: chain::ChainError) -> Self {
        Self::Chain(error.to_string())
    }
}

/// One file's bytes, and what its path gains.
pub(crate) struct Part {
    pub(crate) suffix: &'static str,
    pub(crate) bytes: Zeroizing<Vec<u8>>,
}

/// A secret's value as the vault returned it.
pub(crate) struct SecretValue<'a> {
    /// The value itself.
    pub(crate) value: &'a str,
    /// The key id, which secrets behind certificates have.
    pub(crate) kid: Option<&'a str>,
    /// The content type, if any.
    pub(crate) content_type: Option<&'a str>,
}

/// The files of a secret: `.crt`, `.key` and the whole, or the whole alone.
///
/// # Errors
/// When the value is not in the form it says, or in none that is known.
pub(crate) fn secret(
    secret: &SecretValue<'_>,
    format: SecretFormat,
    encoding: SecretEncoding,
    rendering: Rendering,
) -> Result<Vec<Part>, ConvertError> {
    let source = secret::Source {
        value: secret.value,
        behind_certificate: secret.kid.is_some_and(|kid| !kid.is_empty()),
        content_type: secret.content_type,
    };
    let parts = secret::parts(&source, format, encoding, rendering)?;
    let part = |suffix| move |bytes| Part { suffix, bytes };
    Ok(parts
        .certificates
        .map(part(".crt"))
        .into_iter()
        .chain(parts.keys.map(part(".key")))
        .chain([part("")(parts.combined)])
        .collect())
}

/// A key's public half as PEM.
///
/// # Errors
/// When its type is not supported or its members are not a key.
pub(crate) fn public_key(key: &Jwk) -> Result<Zeroizing<Vec<u8>>, ConvertError> {
    let mut out = Zeroizing::new(Vec::new());
    pem::write(&mut out, b"PUBLIC KEY", &jwk::spki(key)?);
    Ok(out)
}

/// A certificate as PEM, of the base64 the vault returns. What it says is not looked at.
///
/// # Errors
/// When it is not base64.
pub(crate) fn certificate(cer: &str) -> Result<Zeroizing<Vec<u8>>, ConvertError> {
    let mut out = Zeroizing::new(Vec::new());
    pem::write(&mut out, b"CERTIFICATE", &base64_decoded(cer.as_bytes())?);
    Ok(out)
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

#[cfg(test)]
mod tests;
