//! Serves the issuer's discovery document and keys over HTTP or HTTPS, for whoever checks its tokens.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::error::Error;
use crate::issuer::{DISCOVERY_PATH, Issuer, JWKS_PATH};

/// Certificate and key to serve discovery with over HTTPS.
#[derive(Clone)]
pub struct ServerTls(TlsAcceptor);

impl ServerTls {
    /// Reads a certificate chain (leaf first) and its private key, both PEM.
    ///
    /// # Errors
    /// [`Error::Key`] if either is malformed or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let unusable = |reason: String| Error::Key { what: "TLS certificate", reason };
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unusable(error.to_string()))?;
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
                .map_err(|error| unusable(error.to_string()))?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
}

/// The routes a cluster's API server answers for its issuer.
pub(crate) fn router(issuer: &Issuer) -> Router {
    let (discovery, jwks) = (issuer.discovery(), issuer.jwks());
    Router::new().route(DISCOVERY_PATH, get(move || async move { Json(discovery) })).route(
        JWKS_PATH,
        get(move || async move {
            ([(CONTENT_TYPE, "application/jwk-set+json")], jwks.to_string()).into_response()
        }),
    )
}

/// A listener bound before the issuer is known, since a port of 0 decides the issuer's URL.
pub(crate) struct Bound {
    listener: TcpListener,
    tls: Option<ServerTls>,
    address: SocketAddr,
}

impl Bound {
    pub(crate) async fn bind(address: SocketAddr, tls: Option<ServerTls>) -> Result<Self, Error> {
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, tls, address })
    }

    /// The URL of this listener, which is the issuer's unless told otherwise.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// Serves until dropped.
    pub(crate) fn serve(self, issuer: &Issuer) -> impl Future<Output = ()> + Send + use<> {
        let router = router(issuer);
        async move {
            // axum's server never ends by itself: it outlasts the errors of single connections.
            let _ = match self.tls {
                None => axum::serve(self.listener, router).await,
                Some(ServerTls(acceptor)) => {
                    axum::serve(TlsListener { listener: self.listener, acceptor }, router).await
                }
            };
        }
    }
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    /// Shakes hands with one client at a time, which is plenty for a document fetched now and then.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
            let handshake = tokio::time::timeout(Duration::from_secs(5), self.acceptor.accept(stream));
            if let Ok(Ok(stream)) = handshake.await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
