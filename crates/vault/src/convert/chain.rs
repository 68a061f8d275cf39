//! Putting the certificates of a PFX in order: server, intermediates, root.
//!
//! Only key identifiers link certificates, never names or signatures (RFC 5280 §4.2.1.1 and §4.2.1.2).

use super::asn1::{
    BIT_STRING, BOOLEAN, INTEGER, Malformed, OCTET_STRING, OID, Reader, SEQUENCE, SET, context,
};

const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];

/// Why certificates cannot be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChainError {
    #[error("no leaf found")]
    NoLeaf,
    #[error("constructing chain resulted in cycle")]
    Cycle,
    #[error("x509: {0}")]
    Certificate(&'static str),
}

/// What links a certificate to others.
#[derive(Default)]
struct Links<'a> {
    authority: &'a [u8],
    subject: &'a [u8],
}

/// The order of `certificates`, as indexes; `None` when some of them do not belong to the server's chain, which is then
/// left as it is.
///
/// # Errors
/// When a certificate cannot be read, or there is no end to begin or stop at.
pub(super) fn order<T: AsRef<[u8]>>(certificates: &[T]) -> Result<Option<Vec<usize>>, ChainError> {
    let links =
        certificates.iter().map(|certificate| links(certificate.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let mut is_parent = vec![false; links.len()];
    let parents: Vec<Option<usize>> = links
        .iter()
        .enumerate()
        .map(|(child, own)| {
            let parent = links.iter().enumerate().position(|(other, candidate)| {
                // A missing identifier equals a missing one, unless both are missing.
                other != child
                    && own.authority == candidate.subject
                    && !(own.authority.is_empty() && candidate.subject.is_empty())
            })?;
            is_parent[parent] = true;
            Some(parent)
        })
        .collect();
    let mut next = Some(is_parent.iter().position(|parent| !parent).ok_or(ChainError::NoLeaf)?);
    let mut walk = Vec::with_capacity(links.len());
    while let Some(certificate) = next {
        if walk.len() == links.len() {
            return Err(ChainError::Cycle);
        }
        walk.push(certificate);
        next = parents[certificate];
    }
    Ok((walk.len() == links.len()).then_some(walk))
}

/// Whether a certificate is there to prove others: its basic constraints say so (RFC 5280 §4.2.1.9), or it is its own
/// issuer, which only ever proves itself by being trusted.
///
/// # Errors
/// When it cannot be read that far.
pub(super) fn is_authority(certificate: &[u8]) -> Result<bool, ChainError> {
    let broken = malformed("malformed certificate");
    let mut body = Reader::new(certificate)
        .inside(SEQUENCE)
        .and_then(|mut certificate| certificate.inside(SEQUENCE))
        .map_err(&broken)?;
    let mut next = |tag| {
        body.optional(context(0))?;
        body.expect(tag)
    };
    let (Ok(_serial), Ok(_algorithm), Ok(issuer), Ok(_validity), Ok(subject), Ok(_key)) =
        (next(INTEGER), next(SEQUENCE), next(SEQUENCE), next(SEQUENCE), next(SEQUENCE), next(SEQUENCE))
    else {
        return Err(ChainError::Certificate("malformed tbs certificate"));
    };
    if issuer == subject {
        return Ok(true);
    }
    while !body.is_empty() {
        let value = body.any().map_err(&broken)?;
        if value.tag == context(3) {
            return says_authority(value.content).map_err(malformed("malformed extensions"));
        }
    }
    Ok(false)
}

fn says_authority(extensions: &[u8]) -> Result<bool, Malformed> {
    let mut extensions = Reader::new(extensions).inside(SEQUENCE)?;
    while !extensions.is_empty() {
        let mut extension = extensions.inside(SEQUENCE)?;
        if extension.expect(OID)? == BASIC_CONSTRAINTS {
            extension.optional(BOOLEAN)?;
            let mut constraints = Reader::new(extension.expect(OCTET_STRING)?).inside(SEQUENCE)?;
            return Ok(constraints.optional(BOOLEAN)? == Some(&[0xff]));
        }
    }
    Ok(false)
}

fn malformed(what: &'static str) -> impl Fn(Malformed) -> ChainError {
    move |_| ChainError::Certificate(what)
}

/// Reads a certificate (RFC 5280 §4.1) as far as its key identifiers, refusing what Go's `crypto/x509` refuses on the
/// way: such a file has never mounted, and hides a mistake at the issuer.
fn links(certificate: &[u8]) -> Result<Links<'_>, ChainError> {
    let broken = malformed("malformed certificate");
    let mut outer = Reader::new(certificate);
    let mut certificate = outer.inside(SEQUENCE).map_err(&broken)?;
    outer.finish().map_err(malformed("trailing data"))?;
    let mut body = certificate.inside(SEQUENCE).map_err(malformed("malformed tbs certificate"))?;

    let version = match body.optional(context(0)).map_err(malformed("malformed version"))? {
        Some(version) => Reader::new(version).small().map_err(malformed("malformed version"))?,
        None => 0,
    };
    if version > 2 {
        return Err(ChainError::Certificate("invalid version"));
    }
    if body.integer().map_err(malformed("malformed serial number"))?[0] & 0x80 != 0 {
        return Err(ChainError::Certificate("negative serial number"));
    }
    let inner_algorithm =
        body.expect(SEQUENCE).map_err(malformed("malformed signature algorithm identifier"))?;
    let outer_algorithm =
        certificate.expect(SEQUENCE).map_err(malformed("malformed algorithm identifier"))?;
    if inner_algorithm != outer_algorithm {
        return Err(ChainError::Certificate("inner and outer signature algorithm identifiers don't match"));
    }
    name(&mut body)?;
    let mut validity = body.inside(SEQUENCE).map_err(malformed("malformed validity"))?;
    for _ in 0..2 {
        let time = validity.any().map_err(malformed("malformed validity"))?;
        if !matches!(time.tag, 0x17 | 0x18) {
            return Err(ChainError::Certificate("unsupported time format"));
        }
    }
    name(&mut body)?;
    let mut key = body.inside(SEQUENCE).map_err(malformed("malformed spki"))?;
    key.expect(SEQUENCE).map_err(malformed("malformed public key algorithm identifier"))?;
    key.expect(BIT_STRING).map_err(malformed("malformed subjectPublicKey"))?;
    certificate.expect(BIT_STRING).map_err(malformed("malformed signature"))?;

    let mut links = Links::default();
    if version == 2 {
        for unique_id in [0x81, 0x82] {
            body.optional(unique_id).map_err(malformed("malformed issuerUniqueID"))?;
        }
        if let Some(extensions) = body.optional(context(3)).map_err(malformed("malformed extensions"))? {
            extensions_into(&mut links, extensions)?;
        }
    }
    Ok(links)
}

/// Goes over a `Name`, whose content does not matter.
fn name(body: &mut Reader<'_>) -> Result<(), ChainError> {
    let broken = malformed("invalid RDNSequence");
    let mut parts = body.inside(SEQUENCE).map_err(&broken)?;
    while !parts.is_empty() {
        let mut attributes = parts.inside(SET).map_err(&broken)?;
        while !attributes.is_empty() {
            let mut attribute = attributes.inside(SEQUENCE).map_err(&broken)?;
            attribute.expect(OID).map_err(&broken)?;
            attribute.any().map_err(&broken)?;
        }
    }
    Ok(())
}

fn extensions_into<'a>(links: &mut Links<'a>, extensions: &'a [u8]) -> Result<(), ChainError> {
    const SUBJECT_KEY: &[u8] = &[0x55, 0x1d, 14];
    const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 35];
    let broken = malformed("malformed extension");
    let mut extensions =
        Reader::new(extensions).inside(SEQUENCE).map_err(malformed("malformed extensions"))?;
    let mut seen: Vec<&[u8]> = Vec::new();
    while !extensions.is_empty() {
        let mut extension = extensions.inside(SEQUENCE).map_err(&broken)?;
        let oid = extension.expect(OID).map_err(&broken)?;
        let critical = extension.optional(BOOLEAN).map_err(&broken)? == Some(&[0xff]);
        let mut content = Reader::new(extension.expect(OCTET_STRING).map_err(&broken)?);
        if seen.contains(&oid) {
            return Err(ChainError::Certificate("certificate contains duplicate extensions"));
        }
        seen.push(oid);
        match oid {
            SUBJECT_KEY if critical => {
                return Err(ChainError::Certificate("subject key identifier incorrectly marked critical"));
            }
            SUBJECT_KEY => {
                links.subject =
                    content.expect(OCTET_STRING).map_err(malformed("invalid subject key identifier"))?;
            }
            AUTHORITY_KEY if critical => {
                return Err(ChainError::Certificate("authority key identifier incorrectly marked critical"));
            }
            AUTHORITY_KEY => {
                let broken = malformed("invalid authority key identifier");
                let mut identifier = content.inside(SEQUENCE).map_err(&broken)?;
                links.authority = identifier.optional(0x80).map_err(&broken)?.unwrap_or_default();
            }
            BASIC_CONSTRAINTS => {
                let broken = malformed("invalid basic constraints");
                let mut constraints = content.inside(SEQUENCE).map_err(&broken)?;
                constraints.optional(BOOLEAN).map_err(&broken)?;
                constraints.optional(INTEGER).map_err(&broken)?;
            }
            _ => {}
        }
    }
    Ok(())
}
