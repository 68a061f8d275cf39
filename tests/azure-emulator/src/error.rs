//! What the handle's methods can fail with.

use std::{io, net::SocketAddr};

/// Why the emulator could not start or could not do as told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be listened on.
    #[error("cannot listen on {address} for {purpose}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What should have been served there.
        purpose: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate authority or a server certificate could not be made.
    #[error("cannot make the TLS certificates: {0}")]
    Tls(String),
    /// A key or certificate could not be made or read.
    #[error("cannot handle the key or certificate: {0}")]
    Crypto(String),
    /// Key Vault refused an operation; status and text are those a client would have seen.
    #[error("the vault answered {status}: {message}")]
    Vault {
        /// HTTP status of the answer.
        status: u16,
        /// `error.code` of the answer.
        code: String,
        /// `error.message` of the answer.
        message: String,
    },
    /// No identity has this client id.
    #[error("no identity has the client id {0}; add it with Entra::add_identity first")]
    UnknownIdentity(String),
    /// The identity already has a federated credential for this issuer and subject, or too many of them.
    #[error("cannot add the federated credential to {client_id}: {reason}")]
    Federation {
        /// The identity's client id.
        client_id: String,
        /// The rule that was broken.
        reason: &'static str,
    },
    /// A seed or control document does not say what it must.
    #[error("{0}")]
    Document(String),
}
