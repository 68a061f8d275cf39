//! Private keys: read as leniently as Go's `crypto/x509`, checked as strictly, and written in its one form.
//!
//! The file is not a copy of what the PFX holds: attributes are dropped, an EC key gains its public key and loses its
//! parameters, so that the same key always gives the same bytes.

use crypto_bigint::{BoxedUint, ConcatenatingMul, Resize};
use zeroize::Zeroizing;

use super::{
    asn1::{
        BIT_STRING, INTEGER, Malformed, NULL, OCTET_STRING, OID, Reader, SEQUENCE, context, dotted, unsigned,
        value,
    },
    curve::Curve,
};

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    #[error("x509: failed to parse private key: malformed ASN.1")]
    Malformed,
    #[error("x509: PKCS#8 wrapping contained private key with unknown algorithm: {0}")]
    Algorithm(String),
    #[error("x509: failed to parse RSA private key embedded in PKCS#8: {0}")]
    Rsa(&'static str),
    #[error("x509: failed to parse EC private key embedded in PKCS#8: x509: {0}")]
    Ec(&'static str),
    #[error("x509: invalid Ed25519 private key")]
    Ed25519,
}

impl From<Malformed> for KeyError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// A `PrivateKeyInfo` (RFC 5958 §2) in, the canonical one out.
///
/// # Errors
/// When it is malformed, of an unknown algorithm, or inconsistent.
pub(super) fn canonical(info: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut info = Reader::new(info).inside(SEQUENCE)?;
    // Version 1 has more fields at the end, which nothing needs.
    info.integer()?;
    let mut algorithm = info.inside(SEQUENCE)?;
    let oid = algorithm.expect(OID)?;
    let key = info.expect(OCTET_STRING)?;
    let (parameters, key) = match oid {
        RSA => (value(NULL, &[]), rsa(key)?),
        EC => {
            let curve = algorithm.optional(OID)?;
            let key = Ec::read(curve, key)?;
            (value(OID, &[key.curve.oid()]), key.write(&[]))
        }
        ED25519 => {
            let seed = Reader::new(key).expect(OCTET_STRING).map_err(|_| KeyError::Ed25519)?;
            if !algorithm.is_empty() || seed.len() != 32 {
                return Err(KeyError::Ed25519);
            }
            (Zeroizing::default(), value(OCTET_STRING, &[seed]))
        }
        _ => return Err(KeyError::Algorithm(dotted(oid))),
    };
    let algorithm = value(SEQUENCE, &[&value(OID, &[oid]), &parameters]);
    Ok(value(SEQUENCE, &[&unsigned(&[]), &algorithm, &value(OCTET_STRING, &[&key])]))
}

/// A private key in the form that is older than PKCS#8, where its kind has one.
pub(super) enum Traditional {
    /// `RSAPrivateKey` (RFC 8017 A.1.2).
    Rsa(Zeroizing<Vec<u8>>),
    /// `ECPrivateKey` with its curve (RFC 5915 §3).
    Ec(Zeroizing<Vec<u8>>),
    /// A canonical `PrivateKeyInfo` of another kind of key.
    Pkcs8(Zeroizing<Vec<u8>>),
}

/// Any of the three forms in, the oldest of the key's kind out.
///
/// # Errors
/// As [`canonical`].
pub(super) fn traditional(key: &[u8]) -> Result<Traditional, KeyError> {
    let mut fields = Reader::new(key).inside(SEQUENCE)?;
    fields.integer()?;
    // What follows the version tells the forms apart: a number of RSA, an octet string of SEC 1, an algorithm of PKCS#8.
    if fields.optional(INTEGER)?.is_some() {
        return Ok(Traditional::Rsa(rsa(key)?));
    }
    if fields.optional(OCTET_STRING)?.is_some() {
        return Ok(Traditional::Ec(Ec::read(None, key)?.write_with_curve()));
    }
    let mut algorithm = fields.inside(SEQUENCE)?;
    match algorithm.expect(OID)? {
        RSA => Ok(Traditional::Rsa(rsa(fields.expect(OCTET_STRING)?)?)),
        EC => {
            let curve = algorithm.optional(OID)?;
            Ok(Traditional::Ec(Ec::read(curve, fields.expect(OCTET_STRING)?)?.write_with_curve()))
        }
        _ => Ok(Traditional::Pkcs8(canonical(key)?)),
    }
}

/// A key on a curve, with a computed public key.
struct Ec {
    curve: Curve,
    private: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
}

impl Ec {
    /// Reads an `ECPrivateKey` (RFC 5915 §3), whose curve may be named around it.
    fn read(curve: Option<&[u8]>, key: &[u8]) -> Result<Self, KeyError> {
        let mut key = Reader::new(key).inside(SEQUENCE)?;
        if key.small()? != 1 {
            return Err(KeyError::Ec("unknown EC private key version"));
        }
        let private = key.expect(OCTET_STRING)?;
        let curve = match (curve, key.optional(context(0))?) {
            (Some(oid), _) => oid,
            (None, Some(named)) => Reader::new(named).expect(OID)?,
            (None, None) => return Err(KeyError::Ec("unknown elliptic curve")),
        };
        let curve = Curve::by_oid(curve).ok_or(KeyError::Ec("unknown elliptic curve"))?;
        let private = curve.padded(private).ok_or(KeyError::Ec("invalid private key length"))?;
        let public = curve.public_point(&private).ok_or(KeyError::Ec("invalid private key value"))?;
        Ok(Self { curve, private, public })
    }

    fn write(&self, parameters: &[u8]) -> Zeroizing<Vec<u8>> {
        let public = value(context(1), &[&value(BIT_STRING, &[&[0], &self.public])]);
        let private = value(OCTET_STRING, &[&self.private]);
        value(SEQUENCE, &[&unsigned(&[1]), &private, parameters, &public])
    }

    fn write_with_curve(&self) -> Zeroizing<Vec<u8>> {
        self.write(&value(context(0), &[&value(OID, &[self.curve.oid()])]))
    }
}

/// A number that is wiped, with just the arithmetic needed here.
#[derive(Clone)]
struct Number(Zeroizing<BoxedUint>);

impl Number {
    fn new(magnitude: &[u8]) -> Self {
        Self(Zeroizing::new(BoxedUint::from_be_slice_vartime(magnitude)))
    }

    fn is_odd(&self) -> bool {
        self.0.bit_vartime(0)
    }

    fn bits(&self) -> u32 {
        self.0.bit_width_vartime()
    }

    fn less_than(&self, other: &Self) -> bool {
        self.0.cmp_vartime(&*other.0).is_lt()
    }

    fn same_as(&self, other: &Self) -> bool {
        self.0.cmp_vartime(&*other.0).is_eq()
    }

    fn is_one(&self) -> bool {
        self.0.is_one().to_bool()
    }

    fn minus_one(&self) -> Self {
        Self(Zeroizing::new(self.0.wrapping_sub(BoxedUint::one())))
    }

    fn minus(&self, smaller: &Self) -> Self {
        Self(Zeroizing::new(self.0.wrapping_sub(&*smaller.0)))
    }

    fn times(&self, other: &Self) -> Self {
        Self(Zeroizing::new(self.0.concatenating_mul(&*other.0)))
    }

    /// `None` for a zero modulus.
    fn modulo(&self, modulus: &Self) -> Option<Self> {
        Some(Self(Zeroizing::new(self.0.rem(modulus.0.as_nz_vartime()?))))
    }

    /// The inverse below `modulus`, if there is one.
    fn inverse(&self, modulus: &Self) -> Option<Self> {
        let reduced = self.modulo(modulus)?;
        let bits = modulus.0.bits_precision().max(reduced.0.bits_precision());
        let modulus = Zeroizing::new(BoxedUint::clone(&modulus.0).resize(bits));
        let reduced = Zeroizing::new(BoxedUint::clone(&reduced.0).resize(bits));
        let inverse = Option::<BoxedUint>::from(reduced.invert_mod(modulus.as_nz_vartime()?))?;
        Some(Self(Zeroizing::new(inverse)))
    }

    fn der(&self) -> Zeroizing<Vec<u8>> {
        unsigned(&Zeroizing::new(self.0.to_be_bytes().into_vec()))
    }
}

/// The magnitude of the next integer, which must be positive.
fn positive(key: &mut Reader<'_>) -> Result<Number, KeyError> {
    match key.positive()? {
        Some(magnitude) => Ok(Number::new(magnitude)),
        None => Err(KeyError::Rsa("x509: private key contains zero or negative value")),
    }
}

/// The numbers of an `RSAPrivateKey` (RFC 8017 A.1.2) with two primes, by what they are for.
struct Rsa {
    modulus: Number,
    public: Number,
    private: Number,
    /// p and q, in the order they came in.
    primes: [Number; 2],
    /// d mod (p - 1) and d mod (q - 1).
    exponents: [Number; 2],
    /// The inverse of q mod p.
    coefficient: Number,
}

const NOT_PRIME: KeyError = KeyError::Rsa("crypto/rsa: invalid prime");
const NOT_COPRIME: KeyError = KeyError::Rsa("crypto/rsa: prime factors are not relatively prime");

/// `exponent` mod (`prime` - 1).
fn reduced(exponent: &Number, prime: &Number) -> Result<Number, KeyError> {
    exponent.modulo(&prime.minus_one()).ok_or(NOT_PRIME)
}

/// `RSAPrivateKey`: checked, then written with the values it came with.
fn rsa(key: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut outer = Reader::new(key);
    let mut key = outer.inside(SEQUENCE)?;
    outer.finish()?;
    if key.small()? > 1 {
        return Err(KeyError::Rsa("x509: unsupported private key version"));
    }
    let (modulus, public, private) = (positive(&mut key)?, positive(&mut key)?, positive(&mut key)?);
    let primes = [positive(&mut key)?, positive(&mut key)?];
    let crt = if key.is_empty() {
        None
    } else {
        Some(([positive(&mut key)?, positive(&mut key)?], positive(&mut key)?))
    };
    let mut more_primes = Vec::new();
    if let Some(others) = key.optional(SEQUENCE)? {
        let mut others = Reader::new(others);
        while !others.is_empty() {
            let prime = others.inside(SEQUENCE)?.positive()?;
            let prime = prime.ok_or(KeyError::Rsa("x509: private key contains zero or negative prime"))?;
            more_primes.push(Number::new(prime));
        }
    }

    if !modulus.is_odd() {
        return Err(KeyError::Rsa("crypto/rsa: public modulus is even"));
    }
    if public.bits() > 31 {
        return Err(KeyError::Rsa("crypto/rsa: public exponent too large"));
    }
    if public.is_one() {
        return Err(KeyError::Rsa("crypto/rsa: public exponent too small or negative"));
    }
    if !public.is_odd() {
        return Err(KeyError::Rsa("crypto/rsa: public exponent is even"));
    }
    if !private.less_than(&modulus) {
        return Err(KeyError::Rsa("bigmod: input overflows the modulus"));
    }
    if primes.iter().chain(&more_primes).any(Number::is_one) {
        return Err(KeyError::Rsa("crypto/rsa: prime factor is <= 1"));
    }

    // With more than two primes the values are computed anew, and nothing more is checked.
    let (exponents, coefficient) = match crt {
        Some(crt) if more_primes.is_empty() => crt,
        _ => {
            let [first, second] = &primes;
            let exponents = [reduced(&private, first)?, reduced(&private, second)?];
            (exponents, second.inverse(first).ok_or(NOT_COPRIME)?)
        }
    };
    let key = Rsa { modulus, public, private, primes, exponents, coefficient };
    if more_primes.is_empty() {
        key.check()?;
        Ok(key.write(&[], &[]))
    } else {
        let mut others = Zeroizing::new(Vec::new());
        let [first, second] = &key.primes;
        let mut product = first.times(second);
        for prime in &more_primes {
            let exponent = reduced(&key.private, prime)?;
            let coefficient = product.inverse(prime).ok_or(NOT_COPRIME)?;
            others.extend_from_slice(&value(SEQUENCE, &[&prime.der(), &exponent.der(), &coefficient.der()]));
            product = product.times(prime);
        }
        Ok(key.write(&[1], &value(SEQUENCE, &[&others])))
    }
}

impl Rsa {
    fn write(&self, version: &[u8], others: &[u8]) -> Zeroizing<Vec<u8>> {
        let Self { modulus, public, private, primes: [p, q], exponents: [dp, dq], coefficient } = self;
        let numbers = [modulus, public, private, p, q, dp, dq, coefficient].map(Number::der);
        let mut parts: Vec<&[u8]> = numbers.iter().map(|number| number.as_slice()).collect();
        let version = unsigned(version);
        parts.insert(0, &version);
        parts.push(others);
        value(SEQUENCE, &parts)
    }

    /// That the numbers are a key: the conditions of FIPS 186-5 and RFC 8017 §3.2 that Go checks.
    fn check(&self) -> Result<(), KeyError> {
        let [first, second] = &self.primes;
        if !first.less_than(&self.modulus) || !second.less_than(&self.modulus) {
            return Err(NOT_PRIME);
        }
        if !first.times(second).same_as(&self.modulus) {
            return Err(KeyError::Rsa("crypto/rsa: p * q != n"));
        }
        for ((prime, exponent), mismatch) in self
            .primes
            .iter()
            .zip(&self.exponents)
            .zip(["crypto/rsa: d does not match dP", "crypto/rsa: d does not match dQ"])
        {
            let order = prime.minus_one();
            let product = exponent.times(&self.public).modulo(&order).ok_or(NOT_PRIME)?;
            if !exponent.less_than(&order) || !product.is_one() {
                return Err(KeyError::Rsa("crypto/rsa: invalid CRT exponent"));
            }
            if !reduced(&self.private, prime)?.same_as(exponent) {
                return Err(KeyError::Rsa(mismatch));
            }
        }
        let product = self.coefficient.times(second).modulo(first);
        if !self.coefficient.less_than(first) || !product.is_some_and(|product| product.is_one()) {
            return Err(KeyError::Rsa("crypto/rsa: invalid CRT coefficient"));
        }
        // Primes close together are found by Fermat's method (https://eprint.iacr.org/2023/026).
        let distance = if first.less_than(second) { second.minus(first) } else { first.minus(second) };
        let half = self.modulus.bits() / 2;
        if i64::from(distance.bits()) <= i64::from(half) - 100 {
            return Err(KeyError::Rsa("crypto/rsa: |p - q| too small"));
        }
        if self.private.bits() <= half {
            return Err(KeyError::Rsa("crypto/rsa: d too small"));
        }
        Ok(())
    }
}
