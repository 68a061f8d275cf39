//! The elliptic curves a vault's keys can be on.

use elliptic_curve::{
    AffinePoint, CurveArithmetic, FieldBytesSize, PublicKey, SecretKey,
    sec1::{FromSec1Point, ModulusSize, ToSec1Point},
};
use p256::elliptic_curve;
use zeroize::Zeroizing;

/// A named curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P224,
    P256,
    P384,
    P521,
    /// `P-256K` to a vault.
    Secp256k1,
}

impl Curve {
    const ALL: [Self; 5] = [Self::P224, Self::P256, Self::P384, Self::P521, Self::Secp256k1];

    /// The curve of an object identifier's content (RFC 5480 §2.1.1.1, SEC 2).
    pub(super) fn by_oid(oid: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|curve| curve.oid() == oid)
    }

    /// The curve of a JWK's `crv`.
    pub(super) fn by_jwk(name: &str) -> Option<Self> {
        Some(match name {
            "P-256" => Self::P256,
            "P-384" => Self::P384,
            "P-521" => Self::P521,
            "P-256K" => Self::Secp256k1,
            _ => return None,
        })
    }

    pub(super) fn oid(self) -> &'static [u8] {
        match self {
            Self::P224 => &[0x2b, 0x81, 0x04, 0x00, 0x21],
            Self::P256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            Self::P384 => &[0x2b, 0x81, 0x04, 0x00, 0x22],
            Self::P521 => &[0x2b, 0x81, 0x04, 0x00, 0x23],
            Self::Secp256k1 => &[0x2b, 0x81, 0x04, 0x00, 0x0a],
        }
    }

    /// Octets of a coordinate, and of a private key.
    pub(super) fn size(self) -> usize {
        match self {
            Self::P224 => 28,
            Self::P256 | Self::Secp256k1 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// As messages name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::P224 => "P224",
            Self::P256 => "P256",
            Self::P384 => "P384",
            Self::P521 => "P521",
            Self::Secp256k1 => "P256K",
        }
    }

    /// The uncompressed public point of a private key of [`size`](Self::size) octets; `None` for zero and for what is
    /// not below the order.
    pub(super) fn public_point(self, private: &[u8]) -> Option<Vec<u8>> {
        fn point<C: CurveArithmetic>(private: &[u8]) -> Option<Vec<u8>>
        where
            AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
            FieldBytesSize<C>: ModulusSize,
        {
            let key = SecretKey::<C>::from_slice(private).ok()?;
            Some(key.public_key().as_affine().to_sec1_point(false).as_bytes().to_vec())
        }
        match self {
            Self::P224 => point::<p224::NistP224>(private),
            Self::P256 => point::<p256::NistP256>(private),
            Self::P384 => point::<p384::NistP384>(private),
            Self::P521 => point::<p521::NistP521>(private),
            Self::Secp256k1 => point::<k256::Secp256k1>(private),
        }
    }

    /// Whether an uncompressed point is on the curve.
    pub(super) fn has_point(self, point: &[u8]) -> bool {
        fn on<C: CurveArithmetic>(point: &[u8]) -> bool
        where
            AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
            FieldBytesSize<C>: ModulusSize,
        {
            PublicKey::<C>::from_sec1_bytes(point).is_ok()
        }
        match self {
            Self::P224 => on::<p224::NistP224>(point),
            Self::P256 => on::<p256::NistP256>(point),
            Self::P384 => on::<p384::NistP384>(point),
            Self::P521 => on::<p521::NistP521>(point),
            Self::Secp256k1 => on::<k256::Secp256k1>(point),
        }
    }

    /// `number` in exactly [`size`](Self::size) octets; `None` if it does not fit.
    pub(super) fn padded(self, number: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let significant = &number[number.iter().position(|&octet| octet != 0).unwrap_or(number.len())..];
        let missing = self.size().checked_sub(significant.len())?;
        let mut padded = Zeroizing::new(vec![0; self.size()]);
        padded[missing..].copy_from_slice(significant);
        Some(padded)
    }
}
