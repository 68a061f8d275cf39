//! Who may do what on a vault, and how a refusal reads.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::errors::ApiError;

/// The three collections of a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// `/secrets`
    Secrets,
    /// `/keys`
    Keys,
    /// `/certificates`
    Certificates,
}

impl ObjectKind {
    pub(crate) const ALL: [Self; 3] = [Self::Secrets, Self::Keys, Self::Certificates];

    /// The collection's path segment.
    pub fn collection(self) -> &'static str {
        match self {
            Self::Secrets => "secrets",
            Self::Keys => "keys",
            Self::Certificates => "certificates",
        }
    }

    /// One object's name in error texts.
    pub(super) fn singular(self) -> &'static str {
        match self {
            Self::Secrets => "secret",
            Self::Keys => "key",
            Self::Certificates => "certificate",
        }
    }

    /// The same as it begins an error code.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Secrets => "Secret",
            Self::Keys => "Key",
            Self::Certificates => "Certificate",
        }
    }
}

/// A permission, as access policies name it. Not every collection knows every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Read one version's content.
    Get,
    /// Read names, versions and attributes.
    List,
    /// Write a secret.
    Set,
    /// Make a key or certificate.
    Create,
    /// Bring a key or certificate in.
    Import,
    /// Change attributes, tags or policy.
    Update,
    /// Delete, recoverably.
    Delete,
    /// Undo a deletion.
    Recover,
    /// Delete for good.
    Purge,
    /// Take a backup.
    Backup,
    /// Restore a backup.
    Restore,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Set => "set",
            Self::Create => "create",
            Self::Import => "import",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Recover => "recover",
            Self::Purge => "purge",
            Self::Backup => "backup",
            Self::Restore => "restore",
        }
    }

    const ALL: [Self; 11] = [
        Self::Get,
        Self::List,
        Self::Set,
        Self::Create,
        Self::Import,
        Self::Update,
        Self::Delete,
        Self::Recover,
        Self::Purge,
        Self::Backup,
        Self::Restore,
    ];
}

/// What one identity may do on one vault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Permissions {
    /// On secrets, those behind certificates included.
    pub secrets: BTreeSet<Operation>,
    /// On keys, those behind certificates included.
    pub keys: BTreeSet<Operation>,
    /// On certificates.
    pub certificates: BTreeSet<Operation>,
}

impl Permissions {
    /// Nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything.
    pub fn all() -> Self {
        Self::none().on_everything(&Operation::ALL)
    }

    /// Get and list on all three collections.
    pub fn read() -> Self {
        Self::none().on_everything(&[Operation::Get, Operation::List])
    }

    /// Get on all three collections, without list.
    pub fn get_only() -> Self {
        Self::none().on_everything(&[Operation::Get])
    }

    fn on_everything(mut self, operations: &[Operation]) -> Self {
        for kind in ObjectKind::ALL {
            self = self.on(kind, operations.iter().copied());
        }
        self
    }

    /// The same with exactly these operations on one collection.
    #[must_use]
    pub fn on(mut self, kind: ObjectKind, operations: impl IntoIterator<Item = Operation>) -> Self {
        let operations = operations.into_iter().collect();
        match kind {
            ObjectKind::Secrets => self.secrets = operations,
            ObjectKind::Keys => self.keys = operations,
            ObjectKind::Certificates => self.certificates = operations,
        }
        self
    }

    /// Whether an operation is among them.
    pub fn allow(&self, kind: ObjectKind, operation: Operation) -> bool {
        match kind {
            ObjectKind::Secrets => self.secrets.contains(&operation),
            ObjectKind::Keys => self.keys.contains(&operation),
            ObjectKind::Certificates => self.certificates.contains(&operation),
        }
    }
}

/// How a vault authorises, which shows only in how it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessModel {
    /// Azure role assignments: refusals are `ForbiddenByRbac`.
    #[default]
    Rbac,
    /// Vault access policies: refusals are `AccessDenied`.
    AccessPolicy,
}

/// Where a vault may be asked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// From anywhere.
    #[default]
    Open,
    /// Not from this client's address: refusals are `ForbiddenByFirewall`.
    Firewall,
    /// From no public network at all: refusals are `ForbiddenByConnection`.
    Private,
}

/// Whose token a request carried.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub app_id: String,
    pub object_id: String,
    pub issuer: String,
}

/// The refusal of an operation, in the words of the vault's model.
pub(super) fn refusal(
    model: AccessModel,
    vault: &str,
    caller: &Caller,
    kind: ObjectKind,
    operation: Operation,
    object: Option<&str>,
) -> ApiError {
    let Caller { app_id, object_id, issuer } = caller;
    let caller = format!("appid={app_id};oid={object_id};iss={issuer}");
    match model {
        AccessModel::Rbac => {
            let collection = kind.collection();
            let resource = object.map_or_else(
                || format!("/subscriptions/0/resourcegroups/emulated/providers/microsoft.keyvault/vaults/{vault}"),
                |name| {
                    format!(
                        "/subscriptions/0/resourcegroups/emulated/providers/microsoft.keyvault/vaults/{vault}/{collection}/{name}"
                    )
                },
            );
            ApiError::forbidden(
                "ForbiddenByRbac",
                format!(
                    "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role definitions were changed recently, please observe propagation time.\r\nCaller: {caller}\r\nAction: '{}'\r\nResource: '{resource}'\r\nAssignment: (not found)\r\nDenyAssignmentId: null\r\nDecisionReason: null \r\nVault: {vault};location=loopback\r\n",
                    rbac_action(kind, operation)
                ),
            )
        }
        AccessModel::AccessPolicy => ApiError::forbidden(
            "AccessDenied",
            format!(
                "The user, group or application '{caller}' does not have {} {} permission on key vault '{vault};location=loopback'. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287",
                kind.collection(),
                operation.name()
            ),
        ),
    }
}

/// The data action of Azure's role definitions behind an operation.
fn rbac_action(kind: ObjectKind, operation: Operation) -> String {
    let verb = match (kind, operation) {
        (ObjectKind::Secrets, Operation::Get) => "getSecret/action",
        (ObjectKind::Secrets, Operation::Set) => "setSecret/action",
        (ObjectKind::Secrets, Operation::List) => "readMetadata/action",
        (_, Operation::Get | Operation::List) => "read",
        (_, Operation::Set | Operation::Create) => "create/action",
        (_, Operation::Import) => "import/action",
        (_, Operation::Update) => "update/action",
        (_, Operation::Delete) => "delete",
        (_, Operation::Recover) => "recover/action",
        (_, Operation::Purge) => "purge/action",
        (_, Operation::Backup) => "backup/action",
        (_, Operation::Restore) => "restore/action",
    };
    format!("Microsoft.KeyVault/vaults/{}/{verb}", kind.collection())
}
