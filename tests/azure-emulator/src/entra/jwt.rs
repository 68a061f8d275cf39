//! Tokens: signing ours, taking others apart.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, RsaKeyPair};
use rsa::{PrivateKey, pkcs8::EncodePrivateKey, traits::PublicKeyParts};
use serde_json::{Map, Value, json};

use super::directory::{Identity, guid};
use crate::{emulator::Shared, error::Error};

/// How far before its issue a token is valid already, as the real tokens are.
const BACKDATED: i64 = 300;
const KEY_BITS: usize = 2048;

/// The key access tokens are signed with.
#[derive(Clone)]
pub(crate) struct SigningKey {
    pair: Arc<RsaKeyPair>,
    pub(super) jwk: Arc<Value>,
    key_id: Arc<str>,
    components: Arc<PublicKey>,
}

/// An RSA public key as a JWK gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    pub modulus: Vec<u8>,
    pub exponent: Vec<u8>,
}

impl PublicKey {
    /// Reads a JWK's `n` and `e`; leading zeros are dropped, since they are no part of the number.
    pub(crate) fn from_jwk(jwk: &Value) -> Option<Self> {
        let number = |name: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(jwk[name].as_str()?.trim_end_matches('=')).ok()?;
            let start = bytes.iter().position(|byte| *byte != 0)?;
            Some(bytes[start..].to_vec())
        };
        (jwk["kty"] == "RSA").then_some(())?;
        Some(Self { modulus: number("n")?, exponent: number("e")? })
    }

    /// Checks a signature by a JWS algorithm; false for one that is not RSA.
    pub(crate) fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        let scheme = match algorithm {
            "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
            "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
            _ => return false,
        };
        signature::RsaPublicKeyComponents { n: &self.modulus, e: &self.exponent }
            .verify(scheme, message, signature)
            .is_ok()
    }
}

impl SigningKey {
    pub(crate) fn generate() -> Result<Self, Error> {
        let bad =
            |error: &dyn std::fmt::Display| Error::Crypto(format!("the directory's signing key: {error}"));
        let key = PrivateKey::new(&mut rand::rng(), KEY_BITS).map_err(|error| bad(&error))?;
        let der = key.to_pkcs8_der().map_err(|error| bad(&error))?;
        let pair = RsaKeyPair::from_pkcs8(der.as_bytes()).map_err(|error| bad(&error))?;
        let components = PublicKey {
            modulus: key.n().to_be_bytes_trimmed_vartime().into_vec(),
            exponent: key.e().to_be_bytes_trimmed_vartime().into_vec(),
        };
        let key_id = guid().replace('-', "");
        let jwk = json!({
            "kty": "RSA",
            "use": "sig",
            "kid": key_id,
            "x5t": key_id,
            "n": URL_SAFE_NO_PAD.encode(&components.modulus),
            "e": URL_SAFE_NO_PAD.encode(&components.exponent),
        });
        Ok(Self {
            pair: Arc::new(pair),
            jwk: Arc::new(jwk),
            key_id: key_id.into(),
            components: Arc::new(components),
        })
    }

    fn sign(&self, claims: &Value) -> Result<String, Error> {
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5t": &*self.key_id, "kid": &*self.key_id });
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let mut bytes = vec![0; self.pair.public().modulus_len()];
        self.pair
            .sign(
                &signature::RSA_PKCS1_SHA256,
                &ring::rand::SystemRandom::new(),
                signed.as_bytes(),
                &mut bytes,
            )
            .map_err(|_| Error::Crypto("the access token could not be signed".to_owned()))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Whether this key signed a token.
    pub(crate) fn signed(&self, token: &Jwt<'_>) -> bool {
        token.key_id() == Some(&self.key_id)
            && self.components.verifies(token.algorithm(), token.message, &token.signature)
    }
}

/// A token just issued.
pub(crate) struct Issued {
    pub token: String,
    pub not_before: i64,
    pub expires: i64,
}

/// Who a tenant's tokens say they are from.
pub(crate) fn issuer(shared: &Shared, tenant: &str) -> String {
    if tenant.eq_ignore_ascii_case("adfs") {
        format!("https://{}/adfs", shared.names.authority)
    } else {
        format!("https://sts.windows.net/{tenant}/")
    }
}

/// An app-only access token of the first version, which is what Key Vault's resource asks for.
pub(crate) fn access_token(shared: &Shared, identity: &Identity, audience: &str) -> Result<Issued, Error> {
    let now = shared.clock.now();
    let (not_before, expires) = (now - BACKDATED, now + shared.directory.lifetime());
    let issuer = issuer(shared, &identity.tenant);
    let claims = json!({
        "aud": audience,
        "iss": issuer,
        "iat": now,
        "nbf": not_before,
        "exp": expires,
        "appid": identity.client_id,
        "appidacr": "2",
        "idp": issuer,
        "idtyp": "app",
        "oid": identity.object_id,
        "sub": identity.object_id,
        "tid": identity.tenant,
        "uti": guid(),
        "ver": "1.0",
    });
    let token = shared.directory.signing_key().sign(&claims)?;
    Ok(Issued { token, not_before, expires })
}

/// A token taken apart, its signature not yet checked.
#[derive(Debug)]
pub(crate) struct Jwt<'a> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    message: &'a [u8],
    signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    /// Splits and decodes; `None` for what is not three dotted parts of base64url with two JSON objects in front.
    pub(crate) fn parse(token: &'a str) -> Option<Self> {
        let mut parts = token.split('.');
        let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let object = |part: &str| -> Option<Map<String, Value>> {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
        };
        Some(Self {
            header: object(header)?,
            claims: object(claims)?,
            message: token.as_bytes().get(..header.len() + 1 + claims.len())?,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.as_str()
    }

    pub(crate) fn algorithm(&self) -> &str {
        self.header("alg").unwrap_or_default()
    }

    pub(crate) fn key_id(&self) -> Option<&str> {
        self.header("kid")
    }

    /// A claim that is text, empty when absent.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.claims.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A claim that is a time; fractions are dropped.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "an instant too large for an i64 saturates, which is as far off"
    )]
    pub(crate) fn seconds(&self, name: &str) -> Option<i64> {
        let value = self.claims.get(name)?;
        value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
    }

    /// The audiences, one or several.
    pub(crate) fn audiences(&self) -> Vec<&str> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Checks the signature with an RSA key.
    pub(crate) fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verifies(self.algorithm(), self.message, &self.signature)
    }

    /// Checks the signature with a key as a certificate carries it (`SubjectPublicKeyInfo`, DER).
    pub(crate) fn is_signed_by_spki(&self, spki: &[u8]) -> bool {
        use rsa::pkcs8::DecodePublicKey;
        rsa::PublicKey::from_public_key_der(spki).is_ok_and(|key| {
            self.is_signed_by(&PublicKey {
                modulus: key.n().to_be_bytes_trimmed_vartime().into_vec(),
                exponent: key.e().to_be_bytes_trimmed_vartime().into_vec(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_a_token_or_not(text in ".*", parts in proptest::collection::vec("[A-Za-z0-9_-]*", 0..5)) {
            // Text of the right alphabet is not JSON, and neither may end the process.
            prop_assert!(Jwt::parse(&text).is_none());
            prop_assert!(Jwt::parse(&parts.join(".")).is_none());
        }

        #[test]
        fn claims_are_read_as_written(subject in ".*", expires in any::<i64>()) {
            let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let header = encode(json!({ "alg": "RS256", "kid": "k" }));
            let claims = encode(json!({ "sub": subject, "exp": expires, "aud": "a" }));
            let token = format!("{header}.{claims}.AAAA");
            let jwt = Jwt::parse(&token).unwrap();
            prop_assert_eq!((jwt.text("sub"), jwt.seconds("exp")), (subject.as_str(), Some(expires)));
            prop_assert_eq!((jwt.algorithm(), jwt.key_id(), jwt.audiences()), ("RS256", Some("k"), vec!["a"]));
        }
    }
}
