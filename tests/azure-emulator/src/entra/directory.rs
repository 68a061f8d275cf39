//! What the directory holds, and the handle that edits it.

use std::{collections::BTreeMap, sync::Arc};

use der::{Decode, Encode};
use parking_lot::Mutex;
use rand::RngExt;
use ring::digest;
use serde::{Deserialize, Serialize};
use x509_cert::Certificate;

use super::{jwt::SigningKey, trust::Issuers};
use crate::{emulator::Shared, error::Error};

/// The audience a service account token carries for workload identity.
const TOKEN_EXCHANGE_AUDIENCE: &str = "api://AzureADTokenExchange";
/// The service's own bound on federated credentials of one identity.
const MAX_FEDERATIONS: usize = 20;
/// Default life of an access token in seconds; the real service draws it from 60 to 90 minutes.
const TOKEN_LIFETIME: i64 = 3600;

/// Who an identity is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Name shown in error texts.
    pub name: String,
    /// Application (client) id.
    pub client_id: String,
    /// Object id of the service principal.
    pub object_id: String,
    /// Tenant the identity lives in.
    pub tenant: String,
    /// Azure resource id, which only user-assigned managed identities are asked by.
    pub resource_id: String,
}

/// One federated credential: whose tokens an identity takes for its own proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Federation {
    /// Exact `iss` of the assertion.
    pub issuer: String,
    /// Exact `sub` of the assertion.
    pub subject: String,
    /// Exact `aud` of the assertion.
    #[serde(default = "token_exchange_audience")]
    pub audience: String,
}

fn token_exchange_audience() -> String {
    TOKEN_EXCHANGE_AUDIENCE.to_owned()
}

impl Federation {
    /// A credential for the audience of workload identity, `api://AzureADTokenExchange`.
    pub fn new(issuer: impl Into<String>, subject: impl Into<String>) -> Self {
        Self { issuer: issuer.into(), subject: subject.into(), audience: token_exchange_audience() }
    }

    /// A credential for a Kubernetes service account.
    pub fn service_account(issuer: impl Into<String>, namespace: &str, name: &str) -> Self {
        Self::new(issuer, format!("system:serviceaccount:{namespace}:{name}"))
    }
}

/// A registered certificate as client assertions name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateCredential {
    /// SHA-1 of the certificate, in upper-case hexadecimal, which the header `x5t` names.
    pub thumbprint: String,
    /// SHA-256 of the certificate, which the header `x5t#S256` names.
    pub sha256: Vec<u8>,
    /// `SubjectPublicKeyInfo`, DER.
    pub public_key: Vec<u8>,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
}

#[derive(Debug, Clone)]
pub(super) struct ClientSecret {
    pub value: String,
    pub expires: Option<i64>,
}

#[derive(Debug, Clone)]
pub(super) struct Registration {
    pub identity: Identity,
    pub secrets: Vec<ClientSecret>,
    pub certificates: Vec<CertificateCredential>,
    pub federations: Vec<Federation>,
    pub disabled: bool,
}

pub(crate) struct Directory {
    inner: Mutex<Inner>,
    pub(super) issuers: Issuers,
    signing: Mutex<SigningKey>,
}

struct Inner {
    tenants: Vec<String>,
    registrations: BTreeMap<String, Registration>,
    resources: Vec<String>,
    lifetime: i64,
}

impl Directory {
    pub(crate) fn new(tenant: &str) -> Result<Self, Error> {
        Ok(Self {
            inner: Mutex::new(Inner {
                tenants: vec![tenant.to_owned(), "adfs".to_owned()],
                registrations: BTreeMap::new(),
                resources: Vec::new(),
                lifetime: TOKEN_LIFETIME,
            }),
            issuers: Issuers::default(),
            signing: Mutex::new(SigningKey::generate()?),
        })
    }

    pub(crate) fn signing_key(&self) -> SigningKey {
        self.signing.lock().clone()
    }

    /// The tenant as it is spelt in the directory.
    pub(super) fn tenant(&self, id: &str) -> Option<String> {
        self.inner.lock().tenants.iter().find(|tenant| tenant.eq_ignore_ascii_case(id)).cloned()
    }

    pub(super) fn registration(&self, client_id: &str) -> Option<Registration> {
        self.inner.lock().registrations.get(&client_id.to_lowercase()).cloned()
    }

    pub(crate) fn identity(&self, client_id: &str) -> Option<Identity> {
        self.registration(client_id).map(|registration| registration.identity)
    }

    pub(crate) fn identities(&self) -> Vec<Identity> {
        self.inner.lock().registrations.values().map(|registration| registration.identity.clone()).collect()
    }

    pub(super) fn resources(&self) -> Vec<String> {
        self.inner.lock().resources.clone()
    }

    pub(crate) fn lifetime(&self) -> i64 {
        self.inner.lock().lifetime
    }

    fn edit<T>(
        &self,
        client_id: &str,
        change: impl FnOnce(&mut Registration) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self.inner.lock().registrations.get_mut(&client_id.to_lowercase()) {
            Some(registration) => change(registration),
            None => Err(Error::UnknownIdentity(client_id.to_owned())),
        }
    }
}

/// The directory's handle.
#[derive(Clone)]
pub struct Entra {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Entra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entra").finish_non_exhaustive()
    }
}

impl Entra {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    /// Adds a tenant, by id or domain name; nothing happens if it exists. The tenant `adfs` always exists and is
    /// served with the paths of Active Directory Federation Services.
    pub fn add_tenant(&self, tenant: &str) {
        let mut inner = self.directory().inner.lock();
        if !inner.tenants.iter().any(|known| known.eq_ignore_ascii_case(tenant)) {
            inner.tenants.push(tenant.to_owned());
        }
    }

    /// Adds an identity with fresh ids to the first tenant: application or user-assigned managed identity, which
    /// only differ in what they are given afterwards.
    pub fn add_identity(&self, name: &str) -> Identity {
        let identity = Identity {
            name: name.to_owned(),
            client_id: guid(),
            object_id: guid(),
            tenant: self.shared.tenant.clone(),
            resource_id: resource_id(name),
        };
        self.register(identity.clone());
        identity
    }

    /// Adds an identity whose ids are chosen, replacing one with the same client id, and its tenant if it is new.
    pub fn register(&self, identity: Identity) {
        self.add_tenant(&identity.tenant);
        let key = identity.client_id.to_lowercase();
        let registration = Registration {
            identity,
            secrets: Vec::new(),
            certificates: Vec::new(),
            federations: Vec::new(),
            disabled: false,
        };
        self.directory().inner.lock().registrations.insert(key, registration);
    }

    /// All identities, by client id.
    pub fn identities(&self) -> Vec<Identity> {
        self.directory().identities()
    }

    /// Removes an identity; its tokens stay valid until they expire, as with the real service.
    ///
    /// # Errors
    /// [`Error::UnknownIdentity`].
    pub fn remove_identity(&self, client_id: &str) -> Result<(), Error> {
        match self.directory().inner.lock().registrations.remove(&client_id.to_lowercase()) {
            Some(_) => Ok(()),
            None => Err(Error::UnknownIdentity(client_id.to_owned())),
        }
    }

    /// Disables an identity's sign-in, or enables it again.
    ///
    /// # Errors
    /// [`Error::UnknownIdentity`].
    pub fn set_disabled(&self, client_id: &str, disabled: bool) -> Result<(), Error> {
        self.directory().edit(client_id, |registration| {
            registration.disabled = disabled;
            Ok(())
        })
    }

    /// Adds a client secret, which ends at `expires` (seconds since the Unix epoch) or never.
    ///
    /// # Errors
    /// [`Error::UnknownIdentity`].
    pub fn add_secret(&self, client_id: &str, value: &str, expires: Option<i64>) -> Result<(), Error> {
        self.directory().edit(client_id, |registration| {
            registration.secrets.push(ClientSecret { value: value.to_owned(), expires });
            Ok(())
        })
    }

    /// Registers a certificate (PEM) for client assertions signed by its key.
    ///
    /// # Errors
    /// [`Error::UnknownIdentity`], [`Error::Crypto`] for what is no certificate.
    pub fn add_certificate(
        &self,
        client_id: &str,
        certificate_pem: &str,
    ) -> Result<CertificateCredential, Error> {
        let bad = |error: der::Error| Error::Crypto(format!("the certificate to register: {error}"));
        let (_, der) = der::pem::decode_vec(certificate_pem.as_bytes())
            .map_err(|error| Error::Crypto(format!("the certificate to register: {error}")))?;
        let certificate = Certificate::from_der(&der).map_err(bad)?;
        let tbs = certificate.tbs_certificate();
        let credential = CertificateCredential {
            thumbprint: hex_upper(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &der).as_ref()),
            sha256: digest::digest(&digest::SHA256, &der).as_ref().to_vec(),
            public_key: tbs.subject_public_key_info().to_der().map_err(bad)?,
            not_after: i64::try_from(tbs.validity().not_after.to_unix_duration().as_secs())
                .unwrap_or(i64::MAX),
        };
        self.directory().edit(client_id, |registration| {
            registration.certificates.push(credential.clone());
            Ok(credential)
        })
    }

    /// Adds a federated credential.
    ///
    /// # Errors
    /// [`Error::UnknownIdentity`]; [`Error::Federation`] for a second one with the same issuer and subject or a 21st.
    pub fn federate(&self, client_id: &str, federation: Federation) -> Result<(), Error> {
        self.directory().edit(client_id, |registration| {
            let same =
                |other: &Federation| other.issuer == federation.issuer && other.subject == federation.subject;
            let reason = if registration.federations.iter().any(same) {
                "issuer and subject together must be unique on an identity"
            } else if registration.federations.len() == MAX_FEDERATIONS {
                "an identity takes at most 20 of them"
            } else {
                registration.federations.push(federation);
                return Ok(());
            };
            Err(Error::Federation { client_id: client_id.to_owned(), reason })
        })
    }

    /// Removes every federated credential of an identity.
    ///
    /// # Errors
    /// [`Error::UnknownIdentity`].
    pub fn clear_federations(&self, client_id: &str) -> Result<(), Error> {
        self.directory().edit(client_id, |registration| {
            registration.federations.clear();
            Ok(())
        })
    }

    /// Gives the keys (a JWK set) of an issuer whose discovery document need not be reachable.
    pub fn set_issuer_keys(&self, issuer: &str, jwks: serde_json::Value) {
        self.directory().issuers.register(issuer, jwks);
    }

    /// Trusts a further authority (PEM) when an issuer's documents are fetched over HTTPS.
    pub fn trust_ca(&self, pem: &str) {
        self.directory().issuers.trust(pem);
    }

    /// Lets tokens be asked for a further resource, such as `https://management.azure.com`. Those of Key Vault are
    /// known from the start.
    pub fn add_resource(&self, resource: &str) {
        self.directory().inner.lock().resources.push(resource.trim_end_matches('/').to_owned());
    }

    /// Sets how long access tokens live from now on, in seconds. 3600 at first.
    pub fn set_token_lifetime(&self, seconds: i64) {
        self.directory().inner.lock().lifetime = seconds;
    }

    /// Replaces the signing key: tokens issued before are refused by the vaults from now on.
    ///
    /// # Errors
    /// [`Error::Crypto`] if no key can be made.
    pub fn rotate_signing_key(&self) -> Result<(), Error> {
        *self.directory().signing.lock() = SigningKey::generate()?;
        Ok(())
    }

    /// Issues an access token without asking for proof, for tests of what comes after. It is not counted.
    ///
    /// # Errors
    /// [`Error::UnknownIdentity`]; [`Error::Crypto`] if it cannot be signed.
    pub fn issue_token(&self, client_id: &str, audience: &str) -> Result<String, Error> {
        let identity = self
            .directory()
            .identity(client_id)
            .ok_or_else(|| Error::UnknownIdentity(client_id.to_owned()))?;
        super::jwt::access_token(&self.shared, &identity, audience).map(|issued| issued.token)
    }
}

/// A resource id for a user-assigned identity.
pub(crate) fn resource_id(name: &str) -> String {
    format!(
        "/subscriptions/{}/resourcegroups/emulated/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}",
        guid()
    )
}

/// A random id in the usual notation.
pub(crate) fn guid() -> String {
    let bytes: u128 = rand::rng().random();
    // Version 4, variant 1.
    let bytes = (bytes & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let text = format!("{bytes:032x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

pub(super) fn hex_upper(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}
