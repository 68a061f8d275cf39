//! Private keys of every type Key Vault knows, and the forms they travel in.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::elliptic_curve::{Generate, sec1::ToSec1Point};
use pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey};
use rand::RngExt;
use rsa::{BoxedUint, PrivateKey, traits::PublicKeyParts};
use serde_json::Value;

use crate::error::Error;

/// An elliptic curve by its name in a JWK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
    P256K,
}

impl Curve {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "P-256" => Some(Self::P256),
            "P-384" => Some(Self::P384),
            "P-521" => Some(Self::P521),
            // The service's older name for the same curve.
            "P-256K" | "SECP256K1" => Some(Self::P256K),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
            Self::P256K => "P-256K",
        }
    }

    /// Length of a coordinate in bytes.
    pub(crate) fn coordinate(self) -> usize {
        match self {
            Self::P256 | Self::P256K => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// The key itself. Its debug form tells the type only.
#[derive(Clone)]
pub(crate) enum Material {
    Rsa(Box<PrivateKey>),
    P256(p256::SecretKey),
    P384(p384::SecretKey),
    P521(p521::SecretKey),
    P256K(k256::SecretKey),
    Symmetric(Vec<u8>),
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key [redacted]", self.kind())
    }
}

/// The public part as numbers, every one without leading zeros but coordinates, which are padded to their length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Ec { curve: Curve, x: Vec<u8>, y: Vec<u8> },
    None,
}

/// Runs an expression with the secret key of whichever curve; RSA and symmetric keys take the other arm.
macro_rules! on_curve {
    ($material:expr, $key:ident => $body:expr, _ => $other:expr) => {
        match $material {
            Material::P256($key) => $body,
            Material::P384($key) => $body,
            Material::P521($key) => $body,
            Material::P256K($key) => $body,
            Material::Rsa(_) | Material::Symmetric(_) => $other,
        }
    };
}

impl Material {
    pub(crate) fn generate_rsa(bits: usize) -> Result<Self, Error> {
        PrivateKey::new(&mut rand::rng(), bits)
            .map(|key| Self::Rsa(Box::new(key)))
            .map_err(|error| Error::Crypto(format!("RSA key of {bits} bits: {error}")))
    }

    pub(crate) fn generate_ec(curve: Curve) -> Self {
        let rng = &mut rand::rng();
        match curve {
            Curve::P256 => Self::P256(p256::SecretKey::generate_from_rng(rng)),
            Curve::P384 => Self::P384(p384::SecretKey::generate_from_rng(rng)),
            Curve::P521 => Self::P521(p521::SecretKey::generate_from_rng(rng)),
            Curve::P256K => Self::P256K(k256::SecretKey::generate_from_rng(rng)),
        }
    }

    pub(crate) fn generate_symmetric(bits: usize) -> Self {
        let mut bytes = vec![0; bits / 8];
        rand::rng().fill(&mut bytes[..]);
        Self::Symmetric(bytes)
    }

    /// The key type without the `-HSM` that says where it is kept.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RSA",
            Self::Symmetric(_) => "oct",
            _ => "EC",
        }
    }

    pub(crate) fn curve(&self) -> Option<Curve> {
        match self {
            Self::P256(_) => Some(Curve::P256),
            Self::P384(_) => Some(Curve::P384),
            Self::P521(_) => Some(Curve::P521),
            Self::P256K(_) => Some(Curve::P256K),
            Self::Rsa(_) | Self::Symmetric(_) => None,
        }
    }

    /// Size of an RSA modulus or symmetric key in bits.
    pub(crate) fn bits(&self) -> Option<usize> {
        match self {
            Self::Rsa(key) => Some(key.size() * 8),
            Self::Symmetric(bytes) => Some(bytes.len() * 8),
            _ => None,
        }
    }

    /// Reads a JWK with its private part.
    ///
    /// # Errors
    /// What is missing or does not fit together.
    pub(crate) fn from_jwk(jwk: &Value) -> Result<Self, Error> {
        let bytes = |name: &str| -> Result<Vec<u8>, Error> {
            let text = jwk[name].as_str().ok_or_else(|| Error::Crypto(format!("the key lacks '{name}'")))?;
            URL_SAFE_NO_PAD
                .decode(text.trim_end_matches('='))
                .map_err(|_| Error::Crypto(format!("'{name}' is not base64url")))
        };
        let number =
            |name: &str| bytes(name).map(|bytes| BoxedUint::from_be_slice_vartime(&strip_zeros(bytes)));
        let kind = jwk["kty"].as_str().unwrap_or_default();
        match kind.trim_end_matches("-HSM") {
            "RSA" => {
                let primes = if jwk["p"].is_string() { vec![number("p")?, number("q")?] } else { Vec::new() };
                PrivateKey::from_components(number("n")?, number("e")?, number("d")?, primes)
                    .map(|key| Self::Rsa(Box::new(key)))
                    .map_err(|error| Error::Crypto(format!("the RSA key does not fit together: {error}")))
            }
            "EC" => {
                let name = jwk["crv"].as_str().unwrap_or_default();
                let curve = Curve::parse(name)
                    .ok_or_else(|| Error::Crypto(format!("the curve '{name}' is not supported")))?;
                let scalar = pad(&strip_zeros(bytes("d")?), curve.coordinate());
                let material = Self::from_scalar(curve, &scalar)?;
                let Public::Ec { x, y, .. } = material.public() else {
                    return Err(Error::Crypto("the EC key has no public part".to_owned()));
                };
                for (name, computed) in [("x", x), ("y", y)] {
                    if jwk[name].is_string()
                        && pad(&strip_zeros(bytes(name)?), curve.coordinate()) != computed
                    {
                        return Err(Error::Crypto(format!("'{name}' does not belong to the private key")));
                    }
                }
                Ok(material)
            }
            "oct" => bytes("k").map(Self::Symmetric),
            _ => Err(Error::Crypto(format!("the key type '{kind}' is not supported"))),
        }
    }

    fn from_scalar(curve: Curve, scalar: &[u8]) -> Result<Self, Error> {
        let bad = |_| Error::Crypto(format!("'d' is no private key of {}", curve.name()));
        match curve {
            Curve::P256 => p256::SecretKey::from_slice(scalar).map(Self::P256).map_err(bad),
            Curve::P384 => p384::SecretKey::from_slice(scalar).map(Self::P384).map_err(bad),
            Curve::P521 => p521::SecretKey::from_slice(scalar).map(Self::P521).map_err(bad),
            Curve::P256K => k256::SecretKey::from_slice(scalar).map(Self::P256K).map_err(bad),
        }
    }

    /// Reads a private key in DER: PKCS#8, or the older forms of RSA (PKCS#1) and EC (SEC1).
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, Error> {
        use rsa::pkcs1::DecodeRsaPrivateKey;
        None.or_else(|| PrivateKey::from_pkcs8_der(der).ok().map(|key| Self::Rsa(Box::new(key))))
            .or_else(|| PrivateKey::from_pkcs1_der(der).ok().map(|key| Self::Rsa(Box::new(key))))
            .or_else(|| p256::SecretKey::from_pkcs8_der(der).ok().map(Self::P256))
            .or_else(|| p384::SecretKey::from_pkcs8_der(der).ok().map(Self::P384))
            .or_else(|| p521::SecretKey::from_pkcs8_der(der).ok().map(Self::P521))
            .or_else(|| k256::SecretKey::from_pkcs8_der(der).ok().map(Self::P256K))
            .or_else(|| p256::SecretKey::from_sec1_der(der).ok().map(Self::P256))
            .or_else(|| p384::SecretKey::from_sec1_der(der).ok().map(Self::P384))
            .or_else(|| p521::SecretKey::from_sec1_der(der).ok().map(Self::P521))
            .or_else(|| k256::SecretKey::from_sec1_der(der).ok().map(Self::P256K))
            .ok_or_else(|| Error::Crypto("the private key is of no supported kind".to_owned()))
    }

    pub(crate) fn to_pkcs8(&self) -> Result<Vec<u8>, Error> {
        let bad = |error: &dyn fmt::Display| Error::Crypto(format!("the key does not encode: {error}"));
        match self {
            Self::Rsa(key) => {
                key.to_pkcs8_der().map(|der| der.as_bytes().to_vec()).map_err(|error| bad(&error))
            }
            other => on_curve!(
                other,
                key => key.to_pkcs8_der().map(|der| der.as_bytes().to_vec()).map_err(|error| bad(&error)),
                _ => Err(Error::Crypto("a symmetric key has no PKCS#8 form".to_owned()))
            ),
        }
    }

    /// `SubjectPublicKeyInfo`, DER.
    pub(crate) fn to_spki(&self) -> Result<Vec<u8>, Error> {
        let bad =
            |error: &dyn fmt::Display| Error::Crypto(format!("the public key does not encode: {error}"));
        match self {
            Self::Rsa(key) => key
                .to_public_key()
                .to_public_key_der()
                .map(der::Document::into_vec)
                .map_err(|error| bad(&error)),
            other => on_curve!(
                other,
                key => key.public_key().to_public_key_der().map(der::Document::into_vec).map_err(|error| bad(&error)),
                _ => Err(Error::Crypto("a symmetric key has no public part".to_owned()))
            ),
        }
    }

    pub(crate) fn public(&self) -> Public {
        match self {
            Self::Rsa(key) => {
                Public::Rsa { n: strip_zeros(key.n_bytes().into()), e: strip_zeros(key.e_bytes().into()) }
            }
            Self::Symmetric(_) => Public::None,
            other => {
                let Some(curve) = other.curve() else { return Public::None };
                let point = on_curve!(other, key => key.public_key().to_sec1_point(false).to_bytes(), _ => Box::default());
                // Uncompressed: 4, then both coordinates at full length.
                let (x, y) = match point.get(1..).map(|both| both.split_at_checked(curve.coordinate())) {
                    Some(Some((x, y))) => (x.to_vec(), y.to_vec()),
                    _ => return Public::None,
                };
                Public::Ec { curve, x, y }
            }
        }
    }

    /// The private numbers of an RSA key as a JWK has them, for tests of the import.
    #[cfg(test)]
    fn rsa_jwk(&self) -> Option<Value> {
        use rsa::traits::PrivateKeyParts;
        let Self::Rsa(key) = self else { return None };
        let text = |number: &BoxedUint| URL_SAFE_NO_PAD.encode(number.to_be_bytes_trimmed_vartime());
        let primes = key.primes();
        Some(serde_json::json!({
            "kty": "RSA", "n": text(key.n()), "e": text(key.e()), "d": text(key.d()),
            "p": text(primes[0].as_ref()), "q": text(primes[1].as_ref()),
        }))
    }
}

pub(crate) fn strip_zeros(bytes: Vec<u8>) -> Vec<u8> {
    match bytes.iter().position(|byte| *byte != 0) {
        Some(0) | None => bytes,
        Some(zeros) => bytes[zeros..].to_vec(),
    }
}

fn pad(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut padded = vec![0; length.saturating_sub(bytes.len())];
    padded.extend_from_slice(bytes);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_pkcs8() {
        let keys = [Curve::P256, Curve::P384, Curve::P521, Curve::P256K].map(Material::generate_ec);
        for key in keys.into_iter().chain([Material::generate_rsa(2048).unwrap()]) {
            let again = Material::from_der(&key.to_pkcs8().unwrap()).unwrap();
            assert_eq!(again.curve(), key.curve());
            assert_eq!(again.public(), key.public());
            if let Public::Ec { curve, x, y } = key.public() {
                assert_eq!([x.len(), y.len()], [curve.coordinate(); 2]);
            }
            assert_eq!(again.to_spki().unwrap(), key.to_spki().unwrap());
        }
    }

    #[test]
    fn an_rsa_jwk_is_read_with_and_without_its_primes() {
        let key = Material::generate_rsa(2048).unwrap();
        let mut jwk = key.rsa_jwk().unwrap();
        assert_eq!(Material::from_jwk(&jwk).unwrap().public(), key.public());
        jwk["p"] = Value::Null;
        assert_eq!(Material::from_jwk(&jwk).unwrap().public(), key.public());
        jwk["d"] = serde_json::json!("AQAB");
        assert!(Material::from_jwk(&jwk).is_err());
    }

    #[test]
    fn an_ec_jwk_must_fit_its_public_part() {
        let jwk = |x: &str| {
            // The key pair of RFC 7515, appendix A.3.1.
            serde_json::json!({
                "kty": "EC", "crv": "P-256", "x": x,
                "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
                "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
            })
        };
        assert!(Material::from_jwk(&jwk("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU")).is_ok());
        assert!(Material::from_jwk(&jwk("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEA")).is_err());
    }
}
