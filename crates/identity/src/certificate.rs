//! Signing in with a certificate: the assertion an application signs with its own key
//! (<https://learn.microsoft.com/entra/identity-platform/certificate-credentials>).

use std::{fmt, sync::Arc};

use data_encoding::{BASE64_MIME_PERMISSIVE, BASE64URL_NOPAD, HEXLOWER};
use p12_keystore::Pkcs12Archive;
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
    signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use time::OffsetDateTime;
use x509_cert::{Certificate, der::Decode};
use zeroize::Zeroizing;

use crate::{Error, Flavour};

/// How long a signed assertion is good for; it is used at once.
const LIFETIME_SECONDS: i64 = 600;

/// A client certificate and its RSA key. Cheap to clone.
///
/// The key is kept in the crypto library's own form, which is not zeroed when dropped.
#[derive(Clone)]
pub struct ClientCertificate(Arc<Inner>);

struct Inner {
    key: RsaKeyPair,
    sha1: String,
    sha256: String,
    fingerprint: [u8; 32],
}

impl ClientCertificate {
    /// Reads PEM (certificate and unencrypted RSA key, in any order), or PFX, as it is or in base64.
    /// `password` is the PFX's; empty if it has none.
    ///
    /// # Errors
    /// [`Error::Certificate`], saying what is missing or cannot be read.
    pub fn parse(bytes: &[u8], password: &str) -> Result<Self, Error> {
        let (key, certificates) =
            if bytes.windows(10).any(|w| w == b"-----BEGIN") { pem(bytes)? } else { pfx(bytes, password)? };
        let key_pair = RsaKeyPair::from_pkcs8(&key).or_else(|_| RsaKeyPair::from_der(&key)).map_err(|e| {
            bad(format!("its private key is no RSA key of 2048 to 8192 bits, which Entra asks for ({e})"))
        })?;
        // Of a chain, the certificate that belongs to the key is the one to name.
        let own = certificates.iter().find(|der| belongs_to(der, &key_pair)).ok_or_else(|| {
            bad(format!("none of its {} certificates belongs to its private key", certificates.len()))
        })?;
        let thumbprint = |algorithm| BASE64URL_NOPAD.encode(digest::digest(algorithm, own).as_ref());
        let mut whole = digest::Context::new(&digest::SHA256);
        whole.update(&key);
        whole.update(own);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(whole.finish().as_ref());
        Ok(Self(Arc::new(Inner {
            sha1: thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY),
            sha256: thumbprint(&digest::SHA256),
            key: key_pair,
            fingerprint,
        })))
    }

    /// A digest over key and certificate: who holds the same one holds the same key.
    pub(crate) fn fingerprint(&self) -> &[u8; 32] {
        &self.0.fingerprint
    }

    /// The signed assertion for a token endpoint. Entra gets PS256 and a SHA-256 thumbprint, as it
    /// recommends; AD FS knows only RS256 and SHA-1.
    pub(crate) fn assertion(
        &self,
        client_id: &str,
        token_endpoint: &str,
        flavour: Flavour,
    ) -> Result<Zeroizing<String>, Error> {
        let (header, encoding): (_, &'static dyn RsaEncoding) = match flavour {
            Flavour::Entra => (json!({"alg":"PS256","typ":"JWT","x5t#S256":self.0.sha256}), &RSA_PSS_SHA256),
            Flavour::AdFs => (json!({"alg":"RS256","typ":"JWT","x5t":self.0.sha1}), &RSA_PKCS1_SHA256),
        };
        let random = SystemRandom::new();
        let mut id = [0; 16];
        random.fill(&mut id).map_err(|_| Error::internal("no randomness"))?;
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let claims = json!({
            "aud": token_endpoint, "iss": client_id, "sub": client_id, "jti": HEXLOWER.encode(&id),
            "nbf": now, "iat": now, "exp": now + LIFETIME_SECONDS,
        });
        let part = |json: serde_json::Value| BASE64URL_NOPAD.encode(json.to_string().as_bytes());
        let mut jwt = Zeroizing::new(String::with_capacity(2048));
        jwt.push_str(&part(header));
        jwt.push('.');
        jwt.push_str(&part(claims));
        let mut signature = vec![0; self.0.key.public().modulus_len()];
        self.0
            .key
            .sign(encoding, &random, jwt.as_bytes(), &mut signature)
            .map_err(|_| bad("its private key does not sign".to_owned()))?;
        jwt.push('.');
        jwt.push_str(&BASE64URL_NOPAD.encode(&signature));
        Ok(jwt)
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("x5t#S256", &self.0.sha256).finish_non_exhaustive()
    }
}

fn bad(reason: String) -> Error {
    Error::Certificate { reason }
}

type KeyAndCertificates = (Zeroizing<Vec<u8>>, Vec<Vec<u8>>);

fn pem(bytes: &[u8]) -> Result<KeyAndCertificates, Error> {
    let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| {
        let encrypted = bytes.windows(21).any(|w| w == b"ENCRYPTED PRIVATE KEY");
        bad(if encrypted {
            "its private key is encrypted; store it unencrypted, or as PFX with clientcertificatepassword"
        } else {
            "its PEM text holds no private key"
        }
        .to_owned())
    })?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let certificates = certificates.map_err(|_| bad("its PEM text is damaged".to_owned()))?;
    let certificates = certificates.into_iter().map(|der| der.to_vec()).collect();
    Ok((Zeroizing::new(key.secret_der().to_vec()), certificates))
}

fn pfx(bytes: &[u8], password: &str) -> Result<KeyAndCertificates, Error> {
    // DER of a PFX begins with a SEQUENCE; anything else is taken for base64.
    let decoded = if bytes.first() == Some(&0x30) {
        Zeroizing::new(bytes.to_vec())
    } else {
        let decoded = BASE64_MIME_PERMISSIVE.decode(bytes.trim_ascii());
        Zeroizing::new(decoded.map_err(|_| bad("it is neither PEM, nor PFX, nor PFX in base64".to_owned()))?)
    };
    let archive = Pkcs12Archive::from_pkcs12(&decoded, password).map_err(|e| {
        bad(format!("its PFX cannot be opened ({e}); is clientcertificatepassword the one it was made with?"))
    })?;
    let key = archive.keys.first().ok_or_else(|| bad("its PFX holds no private key".to_owned()))?;
    let certificates = archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect();
    Ok((Zeroizing::new(key.key.as_der().to_vec()), certificates))
}

/// Whether the certificate's public key is the key pair's: both are an `RSAPublicKey` (RFC 8017 A.1.1).
fn belongs_to(certificate: &[u8], key: &RsaKeyPair) -> bool {
    let Ok(certificate) = Certificate::from_der(certificate) else { return false };
    let public = certificate.tbs_certificate().subject_public_key_info().subject_public_key.as_bytes();
    public.is_some_and(|public| public == key.public().as_ref())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::signature::{
        RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaParameters, UnparsedPublicKey,
    };
    use serde_json::Value;

    use super::*;

    const PEM: &[u8] = include_bytes!("../tests/data/client.pem");
    const PFX: &[u8] = include_bytes!("../tests/data/client.pfx.base64");
    /// Thumbprints of the certificate in both, as OpenSSL computes them.
    const SHA256: &str = "19iCcht0WgagZFeP2NWlGA-Ft-2pSCGtdWQ4PiyjGGM";
    const SHA1: &str = "1UHkwWdb9bqfaoenN2UZe-vbfY8";

    fn parts(
        jwt: &str,
        certificate: &ClientCertificate,
        algorithm: &'static RsaParameters,
    ) -> (Value, Value) {
        let (signed, signature) = jwt.rsplit_once('.').unwrap();
        let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
        UnparsedPublicKey::new(algorithm, certificate.0.key.public().as_ref())
            .verify(signed.as_bytes(), &decode(signature))
            .unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        (serde_json::from_slice(&decode(header)).unwrap(), serde_json::from_slice(&decode(claims)).unwrap())
    }

    #[test]
    fn pem_and_pfx_give_the_same_certificate() {
        let pem = ClientCertificate::parse(PEM, "").unwrap();
        let pfx = ClientCertificate::parse(PFX, "pfx-password").unwrap();
        let binary = BASE64_MIME_PERMISSIVE.decode(PFX).unwrap();
        let binary = ClientCertificate::parse(&binary, "pfx-password").unwrap();
        let traditional =
            ClientCertificate::parse(include_bytes!("../tests/data/pkcs1-last.pem"), "").unwrap();
        for certificate in [&pem, &pfx, &binary, &traditional] {
            assert_eq!((certificate.0.sha256.as_str(), certificate.0.sha1.as_str()), (SHA256, SHA1));
        }
        assert_eq!(pem.fingerprint(), pfx.fingerprint());
    }

    #[test]
    fn entra_gets_ps256_and_adfs_rs256() {
        let certificate = ClientCertificate::parse(PEM, "").unwrap();
        let jwt = certificate.assertion("app", "https://login.test/t/token", Flavour::Entra).unwrap();
        let (header, claims) = parts(&jwt, &certificate, &RSA_PSS_2048_8192_SHA256);
        assert_eq!(header, json!({"alg":"PS256","typ":"JWT","x5t#S256":SHA256}));
        assert_eq!(
            (&claims["aud"], &claims["iss"], &claims["sub"]),
            (&json!("https://login.test/t/token"), &json!("app"), &json!("app"))
        );
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap(), LIFETIME_SECONDS);
        let jwt = certificate.assertion("app", "https://adfs.test/token", Flavour::AdFs).unwrap();
        let (header, again) = parts(&jwt, &certificate, &RSA_PKCS1_2048_8192_SHA256);
        assert_eq!(header, json!({"alg":"RS256","typ":"JWT","x5t":SHA1}));
        assert_ne!(claims["jti"], again["jti"]);
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let tell =
            |bytes: &[u8], password| ClientCertificate::parse(bytes, password).unwrap_err().to_string();
        assert!(tell(PFX, "wrong").contains("clientcertificatepassword"));
        assert!(tell(b"!", "").contains("neither PEM, nor PFX"));
        assert!(
            tell(include_bytes!("../tests/data/mismatched.pem"), "").contains("belongs to its private key")
        );
        assert!(tell(include_bytes!("../tests/data/encrypted.pem"), "").contains("is encrypted"));
        assert!(tell(include_bytes!("../tests/data/elliptic.pem"), "").contains("no RSA key"));
        let text = String::from_utf8_lossy(PEM);
        let certificate_only = &text[text.find("-----BEGIN CERT").unwrap()..];
        assert!(tell(certificate_only.as_bytes(), "").contains("no private key"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in any::<Vec<u8>>(), cut in 0usize..2800) {
            let _ = ClientCertificate::parse(&bytes, "");
            let _ = ClientCertificate::parse(&PEM[..cut.min(PEM.len())], "");
            let mut der = vec![0x30];
            der.extend(&bytes);
            let _ = ClientCertificate::parse(&der, "p");
        }
    }
}
