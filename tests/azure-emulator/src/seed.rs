//! A document that describes what there is to be at the start.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    emulator::Shared,
    entra::{Entra, Federation, Identity, guid},
    error::Error,
    imds::Imds,
    keyvault::{AccessModel, JwkQuirks, Network, Permissions, Vault},
};

/// Tenants, identities and vaults to add. Every field may be left out; unknown ones are refused.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Seed {
    /// Further tenants.
    tenants: Vec<String>,
    /// Further resources tokens may be asked for.
    resources: Vec<String>,
    /// Life of access tokens in seconds.
    token_lifetime: Option<i64>,
    /// Issuers whose keys are given here instead of being fetched.
    issuers: Vec<IssuerKeys>,
    /// Authorities (PEM) to trust when issuers' documents are fetched.
    trusted_cas: Vec<String>,
    identities: Vec<IdentitySeed>,
    vaults: Vec<VaultSeed>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct IssuerKeys {
    pub issuer: String,
    pub jwks: Value,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct IdentitySeed {
    pub name: String,
    pub client_id: Option<String>,
    pub object_id: Option<String>,
    pub tenant: Option<String>,
    pub resource_id: Option<String>,
    pub disabled: bool,
    pub secrets: Vec<SecretSeed>,
    /// PEM.
    pub certificates: Vec<String>,
    pub federations: Vec<Federation>,
    pub system_assigned: bool,
    pub user_assigned: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SecretSeed {
    pub value: String,
    #[serde(default)]
    pub expires: Option<i64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct VaultSettings {
    pub tenant: Option<String>,
    pub access_model: Option<AccessModel>,
    pub network: Option<Network>,
    pub jwk_quirks: Option<JwkQuirks>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VaultSeed {
    name: String,
    #[serde(flatten)]
    settings: VaultSettings,
    grants: Vec<GrantSeed>,
    secrets: Vec<Map<String, Value>>,
    keys: Vec<Map<String, Value>>,
    certificates: Vec<Map<String, Value>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GrantSeed {
    client_id: String,
    permissions: PermissionsSeed,
}

/// Permissions in full or by a name for the usual sets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum PermissionsSeed {
    Named(PermissionsName),
    Full(Permissions),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PermissionsName {
    All,
    Read,
    Get,
}

impl From<PermissionsSeed> for Permissions {
    fn from(seed: PermissionsSeed) -> Self {
        match seed {
            PermissionsSeed::Named(PermissionsName::All) => Self::all(),
            PermissionsSeed::Named(PermissionsName::Read) => Self::read(),
            PermissionsSeed::Named(PermissionsName::Get) => Self::get_only(),
            PermissionsSeed::Full(permissions) => permissions,
        }
    }
}

impl Seed {
    /// Reads a seed document (JSON).
    ///
    /// # Errors
    /// [`Error::Document`] with the place and the field that is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(json).map_err(|error| Error::Document(format!("the seed document: {error}")))
    }

    pub(crate) fn apply(&self, shared: &Arc<Shared>) -> Result<(), Error> {
        let entra = Entra::new(Arc::clone(shared));
        self.tenants.iter().for_each(|tenant| entra.add_tenant(tenant));
        self.resources.iter().for_each(|resource| entra.add_resource(resource));
        if let Some(seconds) = self.token_lifetime {
            entra.set_token_lifetime(seconds);
        }
        self.issuers.iter().for_each(|keys| entra.set_issuer_keys(&keys.issuer, keys.jwks.clone()));
        self.trusted_cas.iter().for_each(|pem| entra.trust_ca(pem));
        for identity in &self.identities {
            identity.apply(shared)?;
        }
        self.vaults.iter().try_for_each(|vault| vault.apply(shared))
    }
}

impl IdentitySeed {
    /// Adds the identity and returns it with the ids that were not given.
    pub(crate) fn apply(&self, shared: &Arc<Shared>) -> Result<Identity, Error> {
        let entra = Entra::new(Arc::clone(shared));
        let identity = Identity {
            name: self.name.clone(),
            client_id: self.client_id.clone().unwrap_or_else(guid),
            object_id: self.object_id.clone().unwrap_or_else(guid),
            tenant: self.tenant.clone().unwrap_or_else(|| shared.tenant.clone()),
            resource_id: self.resource_id.clone().unwrap_or_else(|| crate::entra::resource_id(&self.name)),
        };
        let client_id = &identity.client_id;
        entra.register(identity.clone());
        entra.set_disabled(client_id, self.disabled)?;
        for secret in &self.secrets {
            entra.add_secret(client_id, &secret.value, secret.expires)?;
        }
        for pem in &self.certificates {
            entra.add_certificate(client_id, pem)?;
        }
        for federation in &self.federations {
            entra.federate(client_id, federation.clone())?;
        }
        let imds = Imds::new(Arc::clone(shared));
        if self.system_assigned {
            imds.assign_system(client_id)?;
        }
        if self.user_assigned {
            imds.assign_user(client_id)?;
        }
        Ok(identity)
    }
}

impl VaultSettings {
    pub(crate) fn apply(&self, vault: &Vault) {
        if let Some(tenant) = &self.tenant {
            vault.set_tenant(tenant);
        }
        if let Some(model) = self.access_model {
            vault.set_access_model(model);
        }
        if let Some(network) = self.network {
            vault.set_network(network);
        }
        if let Some(quirks) = self.jwk_quirks {
            vault.set_jwk_quirks(quirks);
        }
    }
}

impl VaultSeed {
    fn apply(&self, shared: &Arc<Shared>) -> Result<(), Error> {
        if self.name.is_empty() {
            return Err(Error::Document("the seed document: a vault has no name".to_owned()));
        }
        let vault = Vault::open(Arc::clone(shared), &self.name);
        self.settings.apply(&vault);
        for grant in &self.grants {
            vault.grant(&grant.client_id, grant.permissions.clone().into());
        }
        for secret in &self.secrets {
            let (name, body) = named(secret)?;
            vault.set_secret_with(&name, body)?;
        }
        for key in &self.keys {
            let (name, body) = named(key)?;
            if body["key"].is_object() {
                vault.import_key(&name, body["key"].clone())?;
            } else {
                vault.create_key(&name, body)?;
            }
        }
        for certificate in &self.certificates {
            let (name, body) = named(certificate)?;
            let operation = if body["value"].is_string() { "import" } else { "create" };
            vault.call(hyper::Method::POST, &format!("/certificates/{name}/{operation}"), body)?;
        }
        Ok(())
    }
}

/// An object's name and the rest, which is the body of the REST operation.
fn named(object: &Map<String, Value>) -> Result<(String, Value), Error> {
    let mut body = object.clone();
    match body.remove("name") {
        Some(Value::String(name)) => Ok((name, Value::Object(body))),
        _ => Err(Error::Document("the seed document: an object of a vault has no name".to_owned())),
    }
}
