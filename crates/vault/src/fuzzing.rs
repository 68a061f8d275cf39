//! Entry points for the fuzz targets: each takes arbitrary bytes and checks what must hold whatever they are.
//!
//! Not part of the API; behind a feature that nothing else turns on.

use crate::{Rendering, client::fuzzing as client, convert::fuzzing as convert, parse_objects};

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The `objects` parameter.
///
/// # Panics
/// When a path that comes out could leave the mount.
pub fn objects(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(requests) = parse_objects(text) {
        for request in requests {
            assert!(!request.name.is_empty());
            assert!(!request.path.starts_with('/') && !request.path.contains(".."));
        }
    }
}

/// A PFX, raw and with its chain put in order.
pub fn pfx(bytes: &[u8]) {
    convert::pfx(bytes, Rendering::default());
    convert::pfx(bytes, Rendering { construct_pem_chain: false, separate_cert_and_key_files: true });
}

/// A key bundle's JWK.
pub fn jwk(bytes: &[u8]) {
    convert::jwk(bytes);
}

/// A PEM secret to be split; splitting what came of it changes nothing more.
pub fn pem(bytes: &[u8]) {
    convert::pem(bytes);
}

/// Certificates, each after its length in one byte.
pub fn chain(bytes: &[u8]) {
    convert::chain(bytes);
}

/// A failed request's body, a page of versions, a challenge.
pub fn error(bytes: &[u8]) {
    client::bodies(bytes);
}
