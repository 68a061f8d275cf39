//! PFX files with an empty password (RFC 7292), as Key Vault returns certificates.
//!
//! Key Vault itself writes the oldest algorithms; imported files carry whatever made them. Read are SHA-1 and SHA-2
//! MACs or none, 3DES and RC2 of PKCS#12, and PBES2 with AES or 3DES; keys and certificates plain or encrypted, in any
//! number of bags. Attributes are skipped.

use aes::{Aes128, Aes192, Aes256};
use cbc::{
    Decryptor,
    cipher::{BlockModeDecrypt, InnerIvInit, KeyInit, KeyIvInit, block_padding::Pkcs7},
};
use des::TdesEde3;
use rc2::Rc2;
use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

#[cfg(test)]
use super::asn1::value;
use super::asn1::{INTEGER, Malformed, OCTET_STRING, OID, Reader, SEQUENCE, context, dotted};

/// What a file holds, each in the order of its bags.
#[derive(Default)]
pub(super) struct Archive {
    /// `PrivateKeyInfo`s.
    pub(super) keys: Vec<Zeroizing<Vec<u8>>>,
    /// X.509 certificates; nothing has been checked about them.
    pub(super) certificates: Vec<Zeroizing<Vec<u8>>>,
}

/// Why a PFX cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PfxError {
    #[error("pkcs12: error reading P12 data: malformed ASN.1")]
    Malformed,
    #[error("pkcs12: can only decode v3 PFX PDU's")]
    Version,
    #[error("pkcs12: only password-protected PFX is implemented")]
    NotPasswordProtected,
    #[error("pkcs12: decryption password incorrect")]
    Password,
    #[error("pkcs12: unknown digest algorithm: {0}")]
    Digest(String),
    #[error("pkcs12: algorithm {0} is not supported")]
    Algorithm(String),
    #[error("pkcs12: key derivation asks for an unreasonable number of iterations")]
    Iterations,
    #[error("pkcs12: don't know how to convert a safe bag of type {0}")]
    Bag(String),
    #[error("pkcs12: only X509 certificates are supported")]
    CertificateType,
}

impl From<Malformed> for PfxError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x06];
/// `pkcs-12`, the arc of its algorithms (1.x) and bags (10.1.x).
const PKCS12: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c];
const X509_CERTIFICATE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01];
/// Enough for any honest file, little enough not to stall a node.
const MOST_ITERATIONS: u32 = 1_000_000;
/// A bag may hold bags (RFC 7292 §4.2.6), but not for ever.
const DEEPEST: usize = 4;

/// The two ways to write no password where PKCS#12 derives a key: a lone terminator, or nothing at all.
#[derive(Clone, Copy)]
enum Password {
    Terminator,
    Nothing,
}

impl Password {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Terminator => &[0, 0],
            Self::Nothing => &[],
        }
    }
}

/// Reads a PFX whose password is empty.
///
/// # Errors
/// When it is malformed, uses an unknown algorithm, or has another password.
pub(super) fn open(pfx: &[u8]) -> Result<Archive, PfxError> {
    let mut outer = Reader::new(pfx);
    let mut pfx = outer.inside(SEQUENCE)?;
    outer.finish()?;
    if pfx.small()? != 3 {
        return Err(PfxError::Version);
    }
    let mut info = pfx.inside(SEQUENCE)?;
    if info.expect(OID)? != DATA {
        return Err(PfxError::NotPasswordProtected);
    }
    let safe = info.inside(context(0))?.expect(OCTET_STRING)?;
    let passwords: &[Password] = match pfx.optional(SEQUENCE)? {
        Some(mac) => match password_of(mac, safe)? {
            Password::Terminator => &[Password::Terminator],
            Password::Nothing => &[Password::Nothing],
        },
        None => &[Password::Terminator, Password::Nothing],
    };
    let mut outcome = Err(PfxError::Password);
    for &password in passwords {
        outcome = authenticated_safe(safe, password);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Opens an `EncryptedPrivateKeyInfo` (RFC 5958 §3) whose password is empty.
///
/// # Errors
/// When it is malformed, uses an unknown algorithm, or has another password.
pub(super) fn open_key(key: &[u8]) -> Result<Zeroizing<Vec<u8>>, PfxError> {
    let mut shrouded = Reader::new(key).inside(SEQUENCE)?;
    let algorithm = shrouded.expect(SEQUENCE)?;
    let encrypted = shrouded.expect(OCTET_STRING)?;
    let key = decrypt(algorithm, encrypted, Password::Terminator)?;
    // A wrong password may leave something that only looks padded.
    Reader::new(&key).expect(SEQUENCE).map_err(|_| PfxError::Password)?;
    Ok(key)
}

/// Which form of the empty password a MAC was made with.
fn password_of(mac: &[u8], message: &[u8]) -> Result<Password, PfxError> {
    let mut mac = Reader::new(mac);
    let mut info = mac.inside(SEQUENCE)?;
    let mut algorithm = info.inside(SEQUENCE)?;
    let oid = algorithm.expect(OID)?;
    let expected = info.expect(OCTET_STRING)?;
    let salt = mac.expect(OCTET_STRING)?;
    let iterations = if mac.is_empty() { 1 } else { mac.small()? };
    if iterations > MOST_ITERATIONS {
        return Err(PfxError::Iterations);
    }
    let (hash, hmac) = match oid {
        [0x2b, 0x0e, 0x03, 0x02, 0x1a] => {
            (&digest::SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY)
        }
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01] => (&digest::SHA256, hmac::HMAC_SHA256),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02] => (&digest::SHA384, hmac::HMAC_SHA384),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03] => (&digest::SHA512, hmac::HMAC_SHA512),
        _ => return Err(PfxError::Digest(dotted(oid))),
    };
    for password in [Password::Terminator, Password::Nothing] {
        let key = derive(hash, password, salt, iterations, 3, hash.output_len());
        if hmac::verify(&hmac::Key::new(hmac, &key), message, expected).is_ok() {
            return Ok(password);
        }
    }
    Err(PfxError::Password)
}

fn authenticated_safe(safe: &[u8], password: Password) -> Result<Archive, PfxError> {
    let mut archive = Archive::default();
    let mut outer = Reader::new(safe);
    let mut contents = outer.inside(SEQUENCE)?;
    outer.finish()?;
    while !contents.is_empty() {
        let mut info = contents.inside(SEQUENCE)?;
        let kind = info.expect(OID)?;
        let mut content = info.inside(context(0))?;
        match kind {
            DATA => bags(content.expect(OCTET_STRING)?, password, &mut archive, 0)?,
            ENCRYPTED_DATA => {
                let mut data = content.inside(SEQUENCE)?;
                data.expect(INTEGER)?;
                let mut encrypted = data.inside(SEQUENCE)?;
                encrypted.expect(OID)?;
                let algorithm = encrypted.expect(SEQUENCE)?;
                let octets = implicit_octets(&mut encrypted)?;
                bags(&decrypt(algorithm, &octets, password)?, password, &mut archive, 0)?;
            }
            _ => return Err(PfxError::NotPasswordProtected),
        }
    }
    Ok(archive)
}

/// `[0] IMPLICIT OCTET STRING`, in one piece or in several.
fn implicit_octets(reader: &mut Reader<'_>) -> Result<Vec<u8>, PfxError> {
    let value = reader.any()?;
    match value.tag {
        0x80 => Ok(value.content.to_vec()),
        0xa0 => {
            let mut pieces = Reader::new(value.content);
            let mut octets = Vec::with_capacity(value.content.len());
            while !pieces.is_empty() {
                octets.extend_from_slice(pieces.expect(OCTET_STRING)?);
            }
            Ok(octets)
        }
        _ => Err(PfxError::Malformed),
    }
}

fn bags(contents: &[u8], password: Password, archive: &mut Archive, depth: usize) -> Result<(), PfxError> {
    let mut outer = Reader::new(contents);
    let mut bags = outer.inside(SEQUENCE)?;
    outer.finish()?;
    while !bags.is_empty() {
        let mut bag = bags.inside(SEQUENCE)?;
        let oid = bag.expect(OID)?;
        let content = bag.expect(context(0))?;
        let mut reader = Reader::new(content);
        match oid.strip_prefix(PKCS12) {
            // keyBag
            Some([10, 1, 1]) => archive.keys.push(Zeroizing::new(reader.any()?.whole.to_vec())),
            // pkcs8ShroudedKeyBag
            Some([10, 1, 2]) => {
                let mut shrouded = reader.inside(SEQUENCE)?;
                let algorithm = shrouded.expect(SEQUENCE)?;
                archive.keys.push(decrypt(algorithm, shrouded.expect(OCTET_STRING)?, password)?);
            }
            // certBag
            Some([10, 1, 3]) => {
                let mut certificate = reader.inside(SEQUENCE)?;
                if certificate.expect(OID)? != X509_CERTIFICATE {
                    return Err(PfxError::CertificateType);
                }
                let der = certificate.inside(context(0))?.expect(OCTET_STRING)?;
                archive.certificates.push(Zeroizing::new(der.to_vec()));
            }
            // crlBag and secretBag: nothing to write of them.
            Some([10, 1, 4 | 5]) => {}
            // safeContentsBag
            Some([10, 1, 6]) if depth < DEEPEST => self::bags(content, password, archive, depth + 1)?,
            _ => return Err(PfxError::Bag(dotted(oid))),
        }
    }
    Ok(())
}

/// Decrypts what `algorithm`, the content of an `AlgorithmIdentifier`, encrypted.
fn decrypt(algorithm: &[u8], encrypted: &[u8], password: Password) -> Result<Zeroizing<Vec<u8>>, PfxError> {
    const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
    let mut algorithm = Reader::new(algorithm);
    let oid = algorithm.expect(OID)?;
    if oid == PBES2 {
        return pbes2(algorithm.expect(SEQUENCE)?, encrypted);
    }
    // RFC 7292 appendix C: bits of the key, and whether it is RC2.
    let (octets, is_rc2) = match oid.strip_prefix(PKCS12) {
        Some([1, 3]) => (24, false),
        Some([1, 4]) => (16, false),
        Some([1, 5]) => (16, true),
        Some([1, 6]) => (5, true),
        _ => return Err(PfxError::Algorithm(dotted(oid))),
    };
    let mut parameters = algorithm.inside(SEQUENCE)?;
    let salt = parameters.expect(OCTET_STRING)?;
    let iterations = parameters.small()?;
    if iterations > MOST_ITERATIONS {
        return Err(PfxError::Iterations);
    }
    let derived =
        |id, octets| derive(&digest::SHA1_FOR_LEGACY_USE_ONLY, password, salt, iterations, id, octets);
    let mut key = derived(1, octets);
    let iv = derived(2, 8);
    if is_rc2 {
        let bits = key.len() * 8;
        let iv = iv.as_slice().try_into().map_err(|_| PfxError::Malformed)?;
        return unpad(Decryptor::inner_iv_init(Rc2::new_with_eff_key_len(&key, bits), iv), encrypted);
    }
    if octets == 16 {
        // Two-key 3DES: the first key again.
        let first: Vec<u8> = key[..8].to_vec();
        let mut three = Zeroizing::new(Vec::with_capacity(24));
        three.extend_from_slice(&key);
        three.extend_from_slice(&Zeroizing::new(first));
        key = three;
    }
    cbc::<TdesEde3>(&key, &iv, encrypted)
}

/// RFC 8018 §6.2 with PBKDF2, whose password is no octets at all.
fn pbes2(parameters: &[u8], encrypted: &[u8]) -> Result<Zeroizing<Vec<u8>>, PfxError> {
    const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
    const HMAC: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02];
    const AES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01];
    const DES_EDE3: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x03, 0x07];
    let mut parameters = Reader::new(parameters);
    let mut derivation = parameters.inside(SEQUENCE)?;
    let oid = derivation.expect(OID)?;
    if oid != PBKDF2 {
        return Err(PfxError::Algorithm(dotted(oid)));
    }
    let mut derivation = derivation.inside(SEQUENCE)?;
    let salt = derivation.expect(OCTET_STRING)?;
    let iterations = derivation.small()?;
    let iterations = std::num::NonZeroU32::new(iterations)
        .filter(|iterations| iterations.get() <= MOST_ITERATIONS)
        .ok_or(PfxError::Iterations)?;
    derivation.optional(INTEGER)?;
    let prf = match derivation.optional(SEQUENCE)? {
        None => pbkdf2::PBKDF2_HMAC_SHA1,
        Some(prf) => {
            let oid = Reader::new(prf).expect(OID)?;
            match oid.strip_prefix(HMAC) {
                Some([7]) => pbkdf2::PBKDF2_HMAC_SHA1,
                Some([9]) => pbkdf2::PBKDF2_HMAC_SHA256,
                Some([10]) => pbkdf2::PBKDF2_HMAC_SHA384,
                Some([11]) => pbkdf2::PBKDF2_HMAC_SHA512,
                _ => return Err(PfxError::Algorithm(dotted(oid))),
            }
        }
    };
    let mut scheme = parameters.inside(SEQUENCE)?;
    let oid = scheme.expect(OID)?;
    let iv = scheme.expect(OCTET_STRING)?;
    let derived = |octets| {
        let mut key = Zeroizing::new(vec![0; octets]);
        pbkdf2::derive(prf, iterations, salt, &[], &mut key);
        key
    };
    match oid.strip_prefix(AES) {
        Some([2]) => cbc::<Aes128>(&derived(16), iv, encrypted),
        Some([22]) => cbc::<Aes192>(&derived(24), iv, encrypted),
        Some([42]) => cbc::<Aes256>(&derived(32), iv, encrypted),
        _ if oid == DES_EDE3 => cbc::<TdesEde3>(&derived(24), iv, encrypted),
        _ => Err(PfxError::Algorithm(dotted(oid))),
    }
}

fn cbc<C>(key: &[u8], iv: &[u8], encrypted: &[u8]) -> Result<Zeroizing<Vec<u8>>, PfxError>
where
    C: cbc::cipher::BlockCipherDecrypt + KeyInit,
    Decryptor<C>: KeyIvInit + BlockModeDecrypt,
{
    unpad(Decryptor::<C>::new_from_slices(key, iv).map_err(|_| PfxError::Malformed)?, encrypted)
}

fn unpad(cipher: impl BlockModeDecrypt, encrypted: &[u8]) -> Result<Zeroizing<Vec<u8>>, PfxError> {
    let mut buffer = Zeroizing::new(encrypted.to_vec());
    let length = cipher.decrypt_padded::<Pkcs7>(&mut buffer).map_err(|_| PfxError::Password)?.len();
    buffer.truncate(length);
    Ok(buffer)
}

/// Key derivation of PKCS#12 (RFC 7292 appendix B.2) for purpose `id`.
fn derive(
    hash: &'static digest::Algorithm,
    password: Password,
    salt: &[u8],
    iterations: u32,
    id: u8,
    octets: usize,
) -> Zeroizing<Vec<u8>> {
    let block = hash.block_len();
    let filled = |pattern: &[u8]| -> Vec<u8> {
        pattern.iter().copied().cycle().take(pattern.len().div_ceil(block) * block).collect()
    };
    let mut input = [filled(salt), filled(password.bytes())].concat();
    let mut derived = Zeroizing::new(Vec::with_capacity(octets + hash.output_len()));
    loop {
        let mut context = digest::Context::new(hash);
        context.update(&vec![id; block]);
        context.update(&input);
        let mut output = context.finish();
        for _ in 1..iterations {
            output = digest::digest(hash, output.as_ref());
        }
        derived.extend_from_slice(output.as_ref());
        if derived.len() >= octets {
            derived.truncate(octets);
            return derived;
        }
        // Each block of the input becomes itself plus the output, repeated, plus one.
        let addend: Vec<u8> = output.as_ref().iter().copied().cycle().take(block).collect();
        for chunk in input.chunks_mut(block) {
            let mut carry = 1u16;
            for (octet, add) in chunk.iter_mut().zip(&addend).rev() {
                let sum = u16::from(*octet) + u16::from(*add) + carry;
                *octet = sum.to_be_bytes()[1];
                carry = sum >> 8;
            }
        }
    }
}

/// A PFX of plain bags without a MAC, for tests of what does not need encryption.
#[cfg(test)]
pub(super) fn plain(keys: &[&[u8]], certificates: &[&[u8]]) -> Vec<u8> {
    let oid = |tail: &[u8]| value(OID, &[PKCS12, tail]);
    let mut bags = Vec::new();
    for key in keys {
        bags.push(value(SEQUENCE, &[&oid(&[10, 1, 1]), &value(context(0), &[key])]));
    }
    for certificate in certificates {
        let der = value(context(0), &[&value(OCTET_STRING, &[certificate])]);
        let bag = value(SEQUENCE, &[&value(OID, &[X509_CERTIFICATE]), &der]);
        bags.push(value(SEQUENCE, &[&oid(&[10, 1, 3]), &value(context(0), &[&bag])]));
    }
    let bags: Vec<&[u8]> = bags.iter().map(|bag| bag.as_slice()).collect();
    let data = |octets: &[u8]| {
        value(SEQUENCE, &[&value(OID, &[DATA]), &value(context(0), &[&value(OCTET_STRING, &[octets])])])
    };
    let safe = value(SEQUENCE, &[&data(&value(SEQUENCE, &bags))]);
    value(SEQUENCE, &[&value(INTEGER, &[&[3]]), &data(&safe)]).to_vec()
}
