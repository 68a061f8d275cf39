//! A mounted file taken apart into what a TLS server wants apart: certificates and key.
//!
//! Servers of all ages read the result, so keys leave in their oldest form: PKCS#1 for RSA, SEC 1 for elliptic curves. That
//! is also what has always been in such Secrets, and a key whose bytes change looks like a new key.

use super::{
    chain,
    encoding::base64_decoded,
    pem::{self, Block},
    pfx,
    pkcs8::{self, Traditional},
};
use zeroize::Zeroizing;

const CERTIFICATE: &[u8] = b"CERTIFICATE";

/// Certificates and keys of a file: PEM, or a PFX with an empty password, raw or in base64.
pub struct TlsFile {
    blocks: Vec<Block>,
}

/// Why a file does not have what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// It is neither PEM nor a PFX.
    #[error(
        "it has no PEM block and is no PFX with an empty password ({0}): mount the certificate as objectType: secret"
    )]
    NotRead(String),
    /// It has no certificate.
    #[error("it has no certificate, only {found}: name a file with a certificate")]
    NoCertificate {
        /// The PEM labels it has.
        found: String,
    },
    /// None of its certificates is that of an authority.
    #[error(
        "none of its certificates is that of an authority: import the certificate into the vault together with its chain, or \
         leave ca.crt out"
    )]
    NoAuthority,
    /// It has no key.
    #[error(
        "it has no private key, only {found}: name a file with a key, such as a certificate with objectType: secret"
    )]
    NoKey {
        /// The PEM labels it has.
        found: String,
    },
    /// Its key is encrypted.
    #[error("its {label} is encrypted with a password: keep the key in the vault without one")]
    Encrypted {
        /// The PEM label.
        label: String,
    },
    /// Its key cannot be read.
    #[error("its last block that is no certificate, {label:?}, is no private key that can be used: {reason}")]
    Key {
        /// The PEM label.
        label: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate cannot be read.
    #[error("certificate {number} in it cannot be read: {reason}")]
    Certificate {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl std::fmt::Debug for TlsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsFile").field("blocks", &self.found()).finish()
    }
}

impl TlsFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`TlsError::NotRead`].
    pub fn read(file: &[u8]) -> Result<Self, TlsError> {
        let blocks = pem::blocks(file);
        if !blocks.is_empty() {
            return Ok(Self { blocks });
        }
        // A secret whose value is a PFX in base64 is mounted just so, unless its class asks for PEM or for decoding.
        let archive = match base64_decoded(file.trim_ascii()) {
            Ok(decoded) => pfx::open(&decoded),
            Err(_) => pfx::open(file),
        };
        let pfx::Archive { keys, certificates } =
            archive.map_err(|error| TlsError::NotRead(error.to_string()))?;
        let keys = keys.into_iter().map(|key| Block::new(b"PRIVATE KEY", key));
        let certificates = certificates.into_iter().map(|certificate| Block::new(CERTIFICATE, certificate));
        Ok(Self { blocks: keys.chain(certificates).collect() })
    }

    /// All certificates as PEM, in the order of the file.
    ///
    /// # Errors
    /// [`TlsError::NoCertificate`].
    pub fn certificates(&self) -> Result<Zeroizing<Vec<u8>>, TlsError> {
        let mut out = Zeroizing::new(Vec::new());
        for block in self.certificate_blocks() {
            block.write(&mut out);
        }
        if out.is_empty() { Err(TlsError::NoCertificate { found: self.found() }) } else { Ok(out) }
    }

    /// The certificates of authorities as PEM, in the order of the file: those whose basic constraints say so, and those
    /// that have signed themselves.
    ///
    /// # Errors
    /// When there is none, or a certificate cannot be read.
    pub fn authorities(&self) -> Result<Zeroizing<Vec<u8>>, TlsError> {
        let mut out = Zeroizing::new(Vec::new());
        for (index, block) in self.certificate_blocks().enumerate() {
            let unread = |error: chain::ChainError| TlsError::Certificate {
                number: index + 1,
                reason: error.to_string(),
            };
            if chain::is_authority(&block.body).map_err(unread)? {
                block.write(&mut out);
            }
        }
        if !out.is_empty() {
            return Ok(out);
        }
        Err(match self.certificate_blocks().next() {
            Some(_) => TlsError::NoAuthority,
            None => TlsError::NoCertificate { found: self.found() },
        })
    }

    /// The private key as PEM: the last block that is no certificate, as `RSA PRIVATE KEY`, `EC PRIVATE KEY`, or for other
    /// kinds as `PRIVATE KEY`.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn private_key(&self) -> Result<Zeroizing<Vec<u8>>, TlsError> {
        let Some(block) = self.blocks.iter().rev().find(|block| block.label != CERTIFICATE) else {
            return Err(TlsError::NoKey { found: self.found() });
        };
        let label = || String::from_utf8_lossy(&block.label).into_owned();
        let unread = |reason: String| TlsError::Key { label: label(), reason };
        if block.is_encrypted() {
            return Err(TlsError::Encrypted { label: label() });
        }
        let opened;
        let key = if block.label == b"ENCRYPTED PRIVATE KEY" {
            opened = pfx::open_key(&block.body).map_err(|error| match error {
                pfx::PfxError::Password => TlsError::Encrypted { label: label() },
                other => unread(other.to_string()),
            })?;
            &opened
        } else {
            &block.body
        };
        let (label, der): (&[u8], _) = match pkcs8::traditional(key) {
            Ok(Traditional::Rsa(der)) => (b"RSA PRIVATE KEY", der),
            Ok(Traditional::Ec(der)) => (b"EC PRIVATE KEY", der),
            Ok(Traditional::Pkcs8(der)) => (b"PRIVATE KEY", der),
            Err(error) => return Err(unread(error.to_string())),
        };
        let mut out = Zeroizing::new(Vec::new());
        Block::new(label, der).write(&mut out);
        Ok(out)
    }

    fn certificate_blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.label == CERTIFICATE)
    }

    /// The labels, for messages.
    fn found(&self) -> String {
        let labels: Vec<_> =
            self.blocks.iter().map(|block| String::from_utf8_lossy(&block.label).into_owned()).collect();
        if labels.is_empty() { "an empty PFX".to_owned() } else { labels.join(", ") }
    }
}
