//! A key's public half: JSON Web Key (RFC 7517) to `SubjectPublicKeyInfo` (RFC 5280 §4.1).

use serde::Deserialize;

use super::{
    asn1::{BIT_STRING, NULL, OID, SEQUENCE, unsigned, value},
    curve::Curve,
    encoding::base64url_decoded,
};

/// The public members of the JWK in a key bundle.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Jwk {
    /// Where the key is, with its version.
    pub(crate) kid: Option<String>,
    kty: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// Why a key has no PEM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JwkError {
    #[error("failed to get key. key type '{0}' currently not supported")]
    Type(String),
    #[error("curve {0} is not supported")]
    Curve(String),
    #[error("{0} point not on curve")]
    NotOnCurve(&'static str),
    #[error("key value has no usable '{0}'")]
    Member(&'static str),
}

/// The key's `SubjectPublicKeyInfo` as DER.
///
/// # Errors
/// When its type or curve is unknown, a member is missing or not base64url, or the point is not on the curve.
pub(super) fn spki(key: &Jwk) -> Result<Vec<u8>, JwkError> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let (algorithm, public) = match key.kty.as_deref().unwrap_or_default() {
        "RSA" | "RSA-HSM" => {
            let modulus = member("n", key.n.as_deref())?;
            let exponent = member("e", key.e.as_deref())?;
            if significant(&modulus).is_empty() {
                return Err(JwkError::Member("n"));
            }
            // Beyond 63 bits it has always been cut short silently, which makes another key of it.
            let fits = match significant(&exponent) {
                [] => false,
                octets => octets.len() < 8 || (octets.len() == 8 && octets[0] < 0x80),
            };
            if !fits {
                return Err(JwkError::Member("e"));
            }
            let algorithm = value(SEQUENCE, &[&value(OID, &[RSA]), &value(NULL, &[])]);
            (algorithm, value(SEQUENCE, &[&unsigned(&modulus), &unsigned(&exponent)]))
        }
        "EC" | "EC-HSM" => {
            let name = key.crv.as_deref().unwrap_or_default();
            let curve = Curve::by_jwk(name).ok_or_else(|| JwkError::Curve(name.to_owned()))?;
            let off_curve = JwkError::NotOnCurve(curve.name());
            // A coordinate that is missing is a point that is not on the curve, as it has always been told.
            let coordinate = |name, text: Option<&str>| {
                let number = member(name, Some(text.unwrap_or_default()))?;
                curve.padded(&number).ok_or(off_curve.clone())
            };
            let mut point = vec![4];
            point.extend_from_slice(&coordinate("x", key.x.as_deref())?);
            point.extend_from_slice(&coordinate("y", key.y.as_deref())?);
            if !curve.has_point(&point) {
                return Err(off_curve);
            }
            let algorithm = value(SEQUENCE, &[&value(OID, &[EC]), &value(OID, &[curve.oid()])]);
            (algorithm, point.into())
        }
        other => return Err(JwkError::Type(other.to_owned())),
    };
    Ok(value(SEQUENCE, &[&algorithm, &value(BIT_STRING, &[&[0], &public])]).to_vec())
}

fn member(name: &'static str, text: Option<&str>) -> Result<Vec<u8>, JwkError> {
    text.and_then(|text| base64url_decoded(text.as_bytes())).ok_or(JwkError::Member(name))
}

fn significant(number: &[u8]) -> &[u8] {
    &number[number.iter().position(|&octet| octet != 0).unwrap_or(number.len())..]
}
