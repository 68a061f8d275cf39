//! A secret's value as bytes of files: plain, or the private side of a certificate.

use zeroize::Zeroizing;

use super::{
    ConvertError, Rendering, chain,
    encoding::{base64_decoded, hex_decoded},
    pem, pfx, pkcs8,
};
use crate::{SecretEncoding, SecretFormat};

/// The one file of a secret, or three: certificates, keys, everything.
pub(super) struct Parts {
    pub(super) certificates: Option<Zeroizing<Vec<u8>>>,
    pub(super) keys: Option<Zeroizing<Vec<u8>>>,
    pub(super) combined: Zeroizing<Vec<u8>>,
}

/// What a secret's value is behind: a certificate, by its key id, and then in which form.
pub(super) struct Source<'a> {
    pub(super) value: &'a str,
    pub(super) behind_certificate: bool,
    pub(super) content_type: Option<&'a str>,
}

/// Makes the files of a secret.
///
/// # Errors
/// When the value is not in the form it says, or in none that is known.
pub(super) fn parts(
    source: &Source<'_>,
    format: SecretFormat,
    encoding: SecretEncoding,
    rendering: Rendering,
) -> Result<Parts, ConvertError> {
    let combined = if source.behind_certificate {
        match source.content_type {
            Some("application/x-pkcs12") if format == SecretFormat::Pem => {
                pfx_to_pem(source.value, rendering.construct_pem_chain)?
            }
            Some("application/x-pkcs12" | "application/x-pem-file") => verbatim(source.value),
            other => return Err(ConvertError::ContentType(other.unwrap_or_default().to_owned())),
        }
    } else {
        verbatim(source.value)
    };
    let (certificates, keys) = if source.behind_certificate && rendering.separate_cert_and_key_files {
        let mut certificates = Zeroizing::new(Vec::new());
        let mut keys = Zeroizing::new(Vec::new());
        for block in pem::blocks(&combined) {
            block.write(if block.label == b"CERTIFICATE" { &mut certificates } else { &mut keys });
        }
        (Some(decoded(certificates, encoding)?), Some(decoded(keys, encoding)?))
    } else {
        (None, None)
    };
    Ok(Parts { certificates, keys, combined: decoded(combined, encoding)? })
}

fn verbatim(value: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(value.as_bytes().to_vec())
}

/// Every file of a secret goes through its encoding, PEM included.
fn decoded(bytes: Zeroizing<Vec<u8>>, encoding: SecretEncoding) -> Result<Zeroizing<Vec<u8>>, ConvertError> {
    Ok(match encoding {
        SecretEncoding::Utf8 => bytes,
        SecretEncoding::Base64 => base64_decoded(&bytes)?,
        SecretEncoding::Hex => hex_decoded(&bytes)?,
    })
}

/// Keys first, then certificates, each in the order of the file or of the chain.
fn pfx_to_pem(value: &str, construct_chain: bool) -> Result<Zeroizing<Vec<u8>>, ConvertError> {
    let archive = pfx::open(&base64_decoded(value.as_bytes())?)?;
    let mut out = Zeroizing::new(Vec::new());
    for key in &archive.keys {
        pem::write(&mut out, b"PRIVATE KEY", &pkcs8::canonical(key)?);
    }
    let order = if construct_chain { chain::order(&archive.certificates)? } else { None };
    if construct_chain && order.is_none() {
        tracing::warn!(
            "certificate chain is not complete due to missing intermediate/root certificates in the cert from key vault"
        );
    }
    for index in order.unwrap_or_else(|| (0..archive.certificates.len()).collect()) {
        pem::write(&mut out, b"CERTIFICATE", &archive.certificates[index]);
    }
    Ok(out)
}
