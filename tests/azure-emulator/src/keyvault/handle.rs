//! The handle of one vault.

use std::sync::Arc;

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    access::{AccessModel, Network, ObjectKind, Permissions},
    api::administer,
    keys::JwkQuirks,
};
use crate::{emulator::Shared, error::Error};

/// One identity's permissions on a vault, as listed by [`Vault::grants`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VaultGrant {
    /// The identity's client id.
    pub client_id: String,
    /// What it may do.
    pub permissions: Permissions,
}

/// One vault. The methods act as its owner: no token, no permission, no injected fault, not counted.
#[derive(Clone)]
pub struct Vault {
    shared: Arc<Shared>,
    name: String,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Vault {
    pub(crate) fn open(shared: Arc<Shared>, name: &str) -> Self {
        shared.vaults.create(name, &shared.tenant);
        Self { shared, name: name.to_owned() }
    }

    /// The vault's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The vault's address, without a slash at the end: `https://kv1.vault.localhost:8443`.
    pub fn url(&self) -> String {
        format!("https://{}.{}", self.name.to_lowercase(), self.shared.names.vault_suffix)
    }

    /// Lets an identity do what `permissions` say and nothing else.
    pub fn grant(&self, client_id: &str, permissions: Permissions) {
        self.shared.vaults.edit(&self.name, |vault| {
            vault.grants.insert(client_id.to_lowercase(), permissions);
        });
    }

    /// Takes every permission from an identity; its tokens stay valid, so the next request gets a 403.
    pub fn revoke(&self, client_id: &str) {
        self.shared.vaults.edit(&self.name, |vault| {
            vault.grants.remove(&client_id.to_lowercase());
        });
    }

    /// Who may do what.
    pub fn grants(&self) -> Vec<VaultGrant> {
        self.shared
            .vaults
            .edit(&self.name, |vault| {
                let grant = |(client_id, permissions): (&String, &Permissions)| VaultGrant {
                    client_id: client_id.clone(),
                    permissions: permissions.clone(),
                };
                vault.grants.iter().map(grant).collect()
            })
            .unwrap_or_default()
    }

    /// Chooses how refusals read.
    pub fn set_access_model(&self, model: AccessModel) {
        self.shared.vaults.edit(&self.name, |vault| vault.access_model = model);
    }

    /// Chooses where the vault may be asked from.
    pub fn set_network(&self, network: Network) {
        self.shared.vaults.edit(&self.name, |vault| vault.network = network);
    }

    /// Moves the vault to another tenant: its challenge names that one and only its tokens are taken.
    pub fn set_tenant(&self, tenant: &str) {
        self.shared.vaults.edit(&self.name, |vault| tenant.clone_into(&mut vault.tenant));
    }

    /// Chooses in which of the ways the real service has been seen to write public keys they are written here.
    pub fn set_jwk_quirks(&self, quirks: JwkQuirks) {
        self.shared.vaults.edit(&self.name, |vault| vault.quirks = quirks);
    }

    /// Removes the vault with all it holds; its host name then answers as one that does not exist.
    pub fn remove(self) {
        self.shared.vaults.remove(&self.name);
    }

    /// Writes a secret and returns the new version's id (32 hexadecimal digits).
    ///
    /// # Errors
    /// [`Error::Vault`] as every method below: the name is invalid or taken by a certificate, or deleted and not purged.
    pub fn set_secret(&self, name: &str, value: &str) -> Result<String, Error> {
        self.set_secret_with(name, json!({ "value": value }))
    }

    /// Writes a secret from the request body of the REST operation: `value`, and optionally `contentType`,
    /// `attributes` (`enabled`, `nbf`, `exp`) and `tags`.
    ///
    /// # Errors
    /// [`Error::Vault`].
    pub fn set_secret_with(&self, name: &str, body: Value) -> Result<String, Error> {
        self.call(Method::PUT, &format!("/secrets/{name}"), body).map(|answer| version_of(&answer["id"]))
    }

    /// Makes a key from the request body of the REST operation, for example `{"kty":"RSA","key_size":2048}` or
    /// `{"kty":"EC","crv":"P-256"}`, and returns the version's id.
    ///
    /// # Errors
    /// [`Error::Vault`].
    pub fn create_key(&self, name: &str, body: Value) -> Result<String, Error> {
        self.call(Method::POST, &format!("/keys/{name}/create"), body)
            .map(|answer| version_of(&answer["key"]["kid"]))
    }

    /// Imports a key (JWK with its private part) and returns the version's id.
    ///
    /// # Errors
    /// [`Error::Vault`].
    pub fn import_key(&self, name: &str, jwk: Value) -> Result<String, Error> {
        self.call(Method::PUT, &format!("/keys/{name}"), wrap("key", jwk))
            .map(|answer| version_of(&answer["key"]["kid"]))
    }

    /// Makes a self-signed certificate by a policy (the `policy` of the REST operation; `{}` takes every default:
    /// RSA 2048, `CN=` the certificate's name, PFX) and returns the version's id.
    ///
    /// # Errors
    /// [`Error::Vault`].
    pub fn create_certificate(&self, name: &str, policy: Value) -> Result<String, Error> {
        self.call(Method::POST, &format!("/certificates/{name}/create"), wrap("policy", policy))?;
        self.call(Method::GET, &format!("/certificates/{name}"), Value::Null)
            .map(|answer| version_of(&answer["id"]))
    }

    /// Imports a certificate: PEM text, or a PFX in base64 with its password. Returns the version's id. The secret
    /// behind it is a PFX or PEM text as what was imported.
    ///
    /// # Errors
    /// [`Error::Vault`].
    pub fn import_certificate(
        &self,
        name: &str,
        pem_or_base64_pfx: &str,
        password: Option<&str>,
    ) -> Result<String, Error> {
        self.call(
            Method::POST,
            &format!("/certificates/{name}/import"),
            json!({ "value": pem_or_base64_pfx, "pwd": password }),
        )
        .map(|answer| version_of(&answer["id"]))
    }

    /// Changes `attributes` (`enabled`, `nbf`, `exp`) and `tags` of one version, the newest if none is named.
    ///
    /// # Errors
    /// [`Error::Vault`].
    pub fn update(
        &self,
        kind: ObjectKind,
        name: &str,
        version: Option<&str>,
        body: Value,
    ) -> Result<(), Error> {
        let version = version.unwrap_or_default();
        self.call(Method::PATCH, &format!("/{}/{name}/{version}", kind.collection()), body).map(drop)
    }

    /// Enables or disables the newest version.
    ///
    /// # Errors
    /// [`Error::Vault`].
    pub fn set_enabled(&self, kind: ObjectKind, name: &str, enabled: bool) -> Result<(), Error> {
        self.update(kind, name, None, json!({ "attributes": { "enabled": enabled } }))
    }

    /// Deletes an object, recoverably.
    ///
    /// # Errors
    /// [`Error::Vault`].
    pub fn delete(&self, kind: ObjectKind, name: &str) -> Result<(), Error> {
        self.call(Method::DELETE, &format!("/{}/{name}", kind.collection()), Value::Null).map(drop)
    }

    /// Undoes a deletion.
    ///
    /// # Errors
    /// [`Error::Vault`].
    pub fn recover(&self, kind: ObjectKind, name: &str) -> Result<(), Error> {
        self.call(Method::POST, &format!("/deleted{}/{name}/recover", kind.collection()), Value::Null)
            .map(drop)
    }

    /// Removes a deleted object for good.
    ///
    /// # Errors
    /// [`Error::Vault`].
    pub fn purge(&self, kind: ObjectKind, name: &str) -> Result<(), Error> {
        self.call(Method::DELETE, &format!("/deleted{}/{name}", kind.collection()), Value::Null).map(drop)
    }

    /// Any other operation of the data plane, path without host and api-version, for example `GET /secrets/a`.
    ///
    /// # Errors
    /// [`Error::Vault`] with what a client would have been answered.
    pub fn call(&self, method: Method, path: &str, body: Value) -> Result<Value, Error> {
        administer(&self.shared, &self.name, method, path, body)
    }
}

fn wrap(name: &str, value: Value) -> Value {
    Value::Object([(name.to_owned(), value)].into_iter().collect())
}

fn version_of(id: &Value) -> String {
    id.as_str().and_then(|id| id.rsplit('/').next()).unwrap_or_default().to_owned()
}
