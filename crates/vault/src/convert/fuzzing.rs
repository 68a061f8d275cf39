//! What the fuzz targets reach of this module.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    Jwk, Part, Rendering, SecretEncoding, SecretFormat, SecretValue, TlsFile, chain, pkcs8, public_key,
    secret,
};

fn split(text: &str) -> Option<Vec<Part>> {
    let value = SecretValue { value: text, kid: Some("k"), content_type: Some("application/x-pem-file") };
    let rendering = Rendering { separate_cert_and_key_files: true, ..Rendering::default() };
    secret(&value, SecretFormat::Pem, SecretEncoding::Utf8, rendering).ok()
}

/// Takes a file apart; a key that comes out is one that goes in again.
fn take_apart(file: &[u8]) {
    let Ok(file) = TlsFile::read(file) else { return };
    let _ = (file.certificates(), file.authorities());
    if let Ok(key) = file.private_key() {
        let again = TlsFile::read(&key).and_then(|file| file.private_key());
        assert_eq!(again, Ok(key));
    }
}

pub(crate) fn pfx(bytes: &[u8], rendering: Rendering) {
    take_apart(bytes);
    let text = BASE64_STANDARD.encode(bytes);
    let value = SecretValue { value: &text, kid: Some("k"), content_type: Some("application/x-pkcs12") };
    let _ = secret(&value, SecretFormat::Pem, SecretEncoding::Utf8, rendering);
    let _ = pkcs8::canonical(bytes).map(|key| assert_eq!(pkcs8::canonical(&key), Ok(key)));
}

pub(crate) fn jwk(bytes: &[u8]) {
    if let Ok(key) = serde_json::from_slice::<Jwk>(bytes) {
        let _ = public_key(&key);
    }
}

pub(crate) fn pem(bytes: &[u8]) {
    take_apart(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for part in split(text).into_iter().flatten().take(2) {
        let Ok(once) = std::str::from_utf8(&part.bytes) else { continue };
        // A header may hold the words of an END line, which it is then taken for: Go writes it so, too.
        if once.contains(": ") {
            continue;
        }
        let again: Vec<u8> =
            split(once).into_iter().flatten().take(2).flat_map(|part| part.bytes.to_vec()).collect();
        assert_eq!(again, once.as_bytes());
    }
}

pub(crate) fn chain(mut bytes: &[u8]) {
    let mut certificates = Vec::new();
    while let Some((&length, rest)) = bytes.split_first() {
        let (certificate, rest) = rest.split_at(rest.len().min(usize::from(length) * 8));
        certificates.push(certificate);
        bytes = rest;
    }
    if let Ok(Some(mut order)) = chain::order(&certificates) {
        order.sort_unstable();
        assert!(order.into_iter().eq(0..certificates.len()));
    }
}
