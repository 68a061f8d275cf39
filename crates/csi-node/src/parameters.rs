//! The parameters of a SecretProviderClass: one list for the parser, which reads no other key, for `akv-csi validate`, and for
//! `docs/parameters.md`.

/// One key of `spec.parameters`.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Its name; letter case matters.
    pub key: &'static str,
    /// What may stand in it. All values are strings; white space around them is ignored.
    pub form: &'static str,
    /// What counts where it is absent or blank.
    pub default: &'static str,
    /// What it means.
    pub about: &'static str,
    /// Whether the reference reads it, too.
    pub reference: bool,
}

const fn known(
    key: &'static str,
    form: &'static str,
    default: &'static str,
    about: &'static str,
) -> Parameter {
    Parameter { key, form, default, about, reference: true }
}

const fn ours(
    key: &'static str,
    form: &'static str,
    default: &'static str,
    about: &'static str,
) -> Parameter {
    Parameter { key, form, default, about, reference: false }
}

const BOOL: &str = "`true` or `false`, also `1 t T TRUE True 0 f F FALSE False`";

/// All parameters, in the order of the documentation.
pub const PARAMETERS: &[Parameter] = &[
    known(
        "keyvaultName",
        "3–24 letters, digits and hyphens",
        "required",
        "Name of the vault: the first part of its host name.",
    ),
    known("objects", "YAML, see below", "required", "What to mount."),
    known(
        "tenantId",
        "GUID, domain name, or `adfs`",
        "annotation `azure.workload.identity/tenant-id` of the pod's service account",
        "The vault's tenant. An identity of the VM does not use it, but it has to be there all the same.",
    ),
    known("tenantID", "as `tenantId`", "`tenantId`", "The other spelling; it wins when both are given."),
    known(
        "clientID",
        "client id",
        "annotation `azure.workload.identity/client-id` of the pod's service account",
        "The application or managed identity that trusts the pod's service account. Makes the access workload identity, or, with \
         `useAzureTokenProxy`, an identity binding.",
    ),
    known(
        "useVMManagedIdentity",
        BOOL,
        "`false`",
        "Use a managed identity of the node's VM. Then neither `clientID` nor a token of the pod is used.",
    ),
    known(
        "userAssignedIdentityID",
        "client id or resource id",
        "the VM's system-assigned identity",
        "Which identity of the VM. Only with `useVMManagedIdentity`.",
    ),
    ours(
        "userAssignedIdentityObjectID",
        "object id",
        "not used",
        "The same by object id, which has the form of a client id and therefore a key of its own. `userAssignedIdentityID` wins.",
    ),
    known(
        "useAzureTokenProxy",
        BOOL,
        "`false`",
        "Use an AKS identity binding: `clientID` names the identity, tokens come through the cluster's token proxy.",
    ),
    known("usePodIdentity", BOOL, "`false`", "AAD Pod Identity, which was retired: `true` is refused."),
    known(
        "cloudName",
        "`AzurePublicCloud`, `AzureUSGovernmentCloud`, `AzureChinaCloud`, `AzureGermanCloud`, `AzureBleuCloud`, `AzureDelosCloud`, \
         `AzureStackCloud`, in any letter case",
        "the driver's `--cloud-name`",
        "The Azure cloud of vault and identity.",
    ),
    known(
        "cloudEnvFileName",
        "path in the driver's container",
        "the driver's `AZURE_ENVIRONMENT_FILEPATH`",
        "The file that describes an `AzureStackCloud`. Other clouds ignore it.",
    ),
    ours(
        "rotationPollInterval",
        "duration such as `90s`, `2m`, `1h30m`",
        "the driver's `--rotation-poll-interval`",
        "How long mounted content counts as fresh. A value that is no duration is ignored.",
    ),
];

/// Whether a parameter of this name is read.
pub fn is_known(key: &str) -> bool {
    PARAMETERS.iter().any(|parameter| parameter.key == key)
}
