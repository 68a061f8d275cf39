//! The certificate authority and a certificate for whatever name a client asks for.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    ServerConfig,
    crypto::ring::sign::any_ecdsa_type,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::{CertifiedKey, SigningKey},
};
use time::{Duration, OffsetDateTime};

use crate::error::Error;

/// Certificates begin a day early and last a year, so that a moved clock on either side does no harm.
const BACKDATED: Duration = Duration::days(1);
const LIFETIME: Duration = Duration::days(365);

/// A certificate authority that lives as long as the emulator.
pub(crate) struct Authority {
    pem: String,
    minter: Arc<Minter>,
}

struct Minter {
    issuer: Issuer<'static, KeyPair>,
    /// One key for all server certificates.
    key: KeyPair,
    signing: Arc<dyn SigningKey>,
    addresses: Vec<IpAddr>,
    /// The AKS cluster whose API server the certificates for `kubernetes.…` are of.
    cluster_id: Mutex<Option<String>>,
    minted: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl std::fmt::Debug for Minter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minter").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authority whose nameless certificate is good for the given addresses, the loopback's and `localhost`.
    pub(crate) fn new(addresses: &[IpAddr]) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(tls)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Azure emulator test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = validity();
        let certificate = params.self_signed(&key).map_err(tls)?;
        let pem = certificate.pem();

        let leaf = KeyPair::generate().map_err(tls)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.serialize_der()));
        let signing = any_ecdsa_type(&der).map_err(tls)?;
        let mut addresses = addresses.to_vec();
        for loopback in ["127.0.0.1", "::1"].iter().filter_map(|address| address.parse().ok()) {
            if !addresses.contains(&loopback) {
                addresses.push(loopback);
            }
        }
        let minter = Minter {
            issuer: Issuer::new(params, key),
            key: leaf,
            signing,
            addresses,
            cluster_id: Mutex::default(),
            minted: Mutex::default(),
        };
        Ok(Self { pem, minter: Arc::new(minter) })
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn set_cluster_id(&self, id: &str) {
        *self.minter.cluster_id.lock() = Some(id.to_owned());
        self.minter.minted.lock().clear();
    }

    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(tls)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.minter) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Minter {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        let mut minted = self.minted.lock();
        if let Some(known) = minted.get(&name) {
            return Some(Arc::clone(known));
        }
        let fresh = Arc::new(self.mint(&name).ok()?);
        minted.insert(name, Arc::clone(&fresh));
        Some(fresh)
    }
}

impl Minter {
    /// A certificate for a server name, or for the addresses when there is none (a client that asks by address
    /// sends no name).
    fn mint(&self, name: &str) -> Result<CertifiedKey, rcgen::Error> {
        let mut names = if name.is_empty() { vec!["localhost".to_owned()] } else { vec![name.to_owned()] };
        if name.starts_with("kubernetes.") {
            let cluster = self.cluster_id.lock();
            names.extend(cluster.as_ref().map(|id| format!("hcp-kubernetes.{id}.svc.cluster.local")));
        }
        let mut params = CertificateParams::new(names)?;
        // A common name takes 64 characters at most; clients look at the alternative names anyway.
        let common: String = if name.is_empty() { "localhost" } else { name }.chars().take(64).collect();
        params.distinguished_name.push(DnType::CommonName, common);
        if name.is_empty() || name == "localhost" {
            params.subject_alt_names.extend(self.addresses.iter().copied().map(SanType::IpAddress));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity();
        let certificate = params.signed_by(&self.key, &self.issuer)?;
        Ok(CertifiedKey::new(vec![certificate.der().clone()], Arc::clone(&self.signing)))
    }
}

fn validity() -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - BACKDATED, now + LIFETIME)
}

fn tls(error: impl std::fmt::Display) -> Error {
    Error::Tls(error.to_string())
}
