//! The cluster's service-account issuer: signs tokens and publishes the key to check them with.

use std::fmt;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use rsa::traits::PublicKeyParts as _;
use rsa::{PrivateKey, PublicKey};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::error::Error;

/// An RSA key that signs service-account tokens. Entra accepts no other kind than RS256.
#[derive(Clone)]
pub struct SigningKey(Arc<KeyParts>);

struct KeyParts {
    pair: RsaKeyPair,
    id: String,
    modulus: String,
    exponent: String,
}

impl SigningKey {
    /// A new 2048-bit key. Takes up to a few seconds of processor time.
    ///
    /// # Errors
    /// [`Error::Key`] if the machine gives no randomness.
    pub fn generate() -> Result<Self, Error> {
        let key = PrivateKey::new(&mut rand::rng(), 2048).map_err(|error| unusable(&error))?;
        Self::from_rsa(&key)
    }

    /// One generated key for the whole process: many kubelets in one test program need not wait for a key each.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn of_this_process() -> Result<Self, Error> {
        static KEY: OnceLock<SigningKey> = OnceLock::new();
        if let Some(key) = KEY.get() {
            return Ok(key.clone());
        }
        let key = Self::generate()?;
        Ok(KEY.get_or_init(|| key).clone())
    }

    /// A key kept as PKCS#8 PEM (`BEGIN PRIVATE KEY`), at least 2048 bits.
    ///
    /// # Errors
    /// [`Error::Key`] if it is not one.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, Error> {
        Self::from_rsa(&PrivateKey::from_pkcs8_pem(pem).map_err(|error| unusable(&error))?)
    }

    fn from_rsa(key: &PrivateKey) -> Result<Self, Error> {
        let public = PublicKey::from(key);
        let spki = public.to_public_key_der().map_err(|error| unusable(&error))?;
        let pkcs8 = key.to_pkcs8_der().map_err(|error| unusable(&error))?;
        let pair = RsaKeyPair::from_pkcs8(pkcs8.as_bytes()).map_err(|error| unusable(&error))?;
        Ok(Self(Arc::new(KeyParts {
            pair,
            id: URL_SAFE_NO_PAD.encode(digest(&SHA256, spki.as_bytes())),
            modulus: URL_SAFE_NO_PAD.encode(public.n_bytes()),
            exponent: URL_SAFE_NO_PAD.encode(public.e_bytes()),
        })))
    }

    /// `kid` in tokens and in the published key set.
    pub fn id(&self) -> &str {
        &self.0.id
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, [redacted])", self.0.id)
    }
}

fn unusable(error: &dyn fmt::Display) -> Error {
    Error::Key { what: "signing key", reason: error.to_string() }
}

/// An issuer of service-account tokens: a URL and the key that signs for it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Issuer {
    url: String,
    key: SigningKey,
}

impl Issuer {
    /// An issuer that calls itself `url`. Relying parties compare it letter by letter and fetch
    /// `{url}/.well-known/openid-configuration`.
    pub fn new(url: impl Into<String>, key: SigningKey) -> Self {
        Self { url: url.into(), key }
    }

    /// `iss` of every token.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Signs any claims at all, for tests that need a token no cluster would mint: expired, for another audience, without
    /// a subject. `iss` is whatever `claims` says.
    ///
    /// # Errors
    /// [`Error::Key`] if the signing fails, which takes a machine without randomness.
    pub fn sign(&self, claims: &Value) -> Result<SecretString, Error> {
        // The API server writes no `typ`.
        let header = json!({ "alg": "RS256", "kid": self.key.id() });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let mut token = format!("{}.{}", encode(&header), encode(claims));
        let pair = &self.key.0.pair;
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)
            .map_err(|error| unusable(&error))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token.into())
    }

    /// The document at `/.well-known/openid-configuration`, with the fields a cluster publishes.
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": self.url,
            "jwks_uri": format!("{}{}", self.url.trim_end_matches('/'), JWKS_PATH),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })
    }

    /// The key set at `/openid/v1/jwks` (RFC 7517).
    pub fn jwks(&self) -> Value {
        let key = &self.key.0;
        json!({ "keys": [
            { "use": "sig", "kty": "RSA", "kid": key.id, "alg": "RS256", "n": key.modulus, "e": key.exponent }
        ] })
    }
}

/// Where a cluster publishes its discovery document.
pub(crate) const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
/// Where a cluster publishes its keys.
pub(crate) const JWKS_PATH: &str = "/openid/v1/jwks";

#[cfg(test)]
mod tests {
    use ring::signature::RsaPublicKeyComponents;
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_token_verifies_with_the_published_key() {
        let issuer = Issuer::new("https://issuer.example/x", SigningKey::of_this_process().unwrap());
        let token = issuer.sign(&json!({ "sub": "someone" })).unwrap();
        let parts: Vec<&str> = token.expose_secret().split('.').collect();
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let header: Value = serde_json::from_slice(&decode(parts[0])).unwrap();
        let jwks = issuer.jwks();
        let key = &jwks["keys"][0];
        assert_eq!(header, json!({ "alg": "RS256", "kid": key["kid"] }));
        let public = RsaPublicKeyComponents {
            n: decode(key["n"].as_str().unwrap()),
            e: decode(key["e"].as_str().unwrap()),
        };
        let message = format!("{}.{}", parts[0], parts[1]);
        let scheme = &ring::signature::RSA_PKCS1_2048_8192_SHA256;
        public.verify(scheme, message.as_bytes(), &decode(parts[2])).unwrap();
        assert!(public.verify(scheme, b"something else", &decode(parts[2])).is_err());
        assert_eq!(issuer.discovery()["jwks_uri"], "https://issuer.example/x/openid/v1/jwks");
    }

    #[test]
    fn a_kept_key_keeps_its_id() {
        let key = PrivateKey::new(&mut rand::rng(), 2048).unwrap();
        let pem = key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).unwrap();
        let first = SigningKey::from_pkcs8_pem(&pem).unwrap();
        assert_eq!(first.id(), SigningKey::from_pkcs8_pem(&pem).unwrap().id());
        assert!(SigningKey::from_pkcs8_pem("nonsense").is_err());
        assert!(!format!("{first:?}").contains(&pem[40..60]));
    }
}
