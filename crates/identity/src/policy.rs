//! What an operator allows.

use std::collections::BTreeSet;

use crate::{Asker, Authority, Error, Mode, TenantId};

/// A list of what is allowed, or everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// No restriction.
    #[default]
    All,
    /// These and nothing else. An empty set allows nothing.
    Only(BTreeSet<String>),
}

impl Allowed {
    /// Reads a comma-separated list: `*` allows all, the empty text allows nothing.
    pub fn parse(list: &str) -> Self {
        let names: BTreeSet<_> =
            list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if names.contains("*") { Self::All } else { Self::Only(names) }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }

    /// As [`Allowed::has`], for names that mean the same in any letter case.
    fn has_in_any_case(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|known| known.eq_ignore_ascii_case(name)),
        }
    }
}

impl std::fmt::Display for Allowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Only(names) => f.write_str(&names.iter().cloned().collect::<Vec<_>>().join(",")),
        }
    }
}

/// Which identities the pods of this node may use. By default all, as with the reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Namespaces whose pods may use the virtual machine's identities (`--vm-identity-namespaces`).
    pub vm_identity_namespaces: Allowed,
    /// Tenants a class may name (`--allowed-tenants`), in any letter case.
    pub tenants: Allowed,
    /// Clouds a class may name (`--allowed-clouds`), in any letter case.
    pub clouds: Allowed,
}

impl Policy {
    /// Whether the asker may use this mode at this authority.
    ///
    /// # Errors
    /// [`Error::NotAllowed`], naming the setting that forbids it.
    pub fn admit(&self, asker: &Asker, authority: &Authority, mode: &Mode) -> Result<(), Error> {
        match mode {
            Mode::VmIdentity(_) => self.admit_vm_identity(&asker.namespace),
            Mode::WorkloadIdentity { tenant, .. }
            | Mode::TokenProxy { tenant, .. }
            | Mode::ServicePrincipal { tenant, .. } => {
                self.admit_tenant(tenant)?;
                self.admit_cloud(authority.cloud())
            }
        }
    }

    /// Whether pods of the namespace may use the virtual machine's identities.
    ///
    /// # Errors
    /// [`Error::NotAllowed`].
    pub fn admit_vm_identity(&self, namespace: &str) -> Result<(), Error> {
        if self.vm_identity_namespaces.has(namespace) {
            return Ok(());
        }
        Err(Error::NotAllowed {
            reason: format!(
                "pods of namespace {namespace} may not use the identities of the VM: --vm-identity-namespaces is \
                 {}. Use workload identity (clientID with a federated credential), or ask the cluster's operator \
                 to add the namespace",
                self.vm_identity_namespaces
            ),
        })
    }

    /// Whether a class may name the tenant.
    ///
    /// # Errors
    /// [`Error::NotAllowed`].
    pub fn admit_tenant(&self, tenant: &TenantId) -> Result<(), Error> {
        if self.tenants.has_in_any_case(tenant.as_str()) {
            return Ok(());
        }
        Err(Error::NotAllowed {
            reason: format!(
                "tenant {tenant} is not among those this cluster's operator allows: --allowed-tenants is {}",
                self.tenants
            ),
        })
    }

    /// Whether a class may name the cloud.
    ///
    /// # Errors
    /// [`Error::NotAllowed`].
    pub fn admit_cloud(&self, cloud: &str) -> Result<(), Error> {
        if self.clouds.has_in_any_case(cloud) {
            return Ok(());
        }
        Err(Error::NotAllowed {
            reason: format!(
                "cloud {cloud} is not among those this cluster's operator allows: --allowed-clouds is {}",
                self.clouds
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_by_default_none_by_empty_list() {
        let policy = Policy::default();
        policy.admit_vm_identity("any").unwrap();
        policy.admit_cloud("any").unwrap();
        assert_eq!(Allowed::parse(" * "), Allowed::All);
        let policy = Policy { vm_identity_namespaces: Allowed::parse(""), ..Policy::default() };
        assert!(policy.admit_vm_identity("any").is_err());
    }

    #[test]
    fn namespaces_are_exact_tenants_and_clouds_are_not() {
        let policy = Policy {
            vm_identity_namespaces: Allowed::parse("kube-system, shop"),
            tenants: Allowed::parse("Contoso.com"),
            clouds: Allowed::parse("AzurePublicCloud"),
        };
        policy.admit_vm_identity("shop").unwrap();
        for other in ["Shop", "sho", "shop2", ""] {
            let refusal = policy.admit_vm_identity(other).unwrap_err().to_string();
            assert!(refusal.contains("--vm-identity-namespaces is kube-system,shop"), "{refusal}");
        }
        policy.admit_tenant(&TenantId::parse("contoso.COM").unwrap()).unwrap();
        assert!(policy.admit_tenant(&TenantId::parse("evil.com").unwrap()).is_err());
        policy.admit_cloud("azurepubliccloud").unwrap();
        assert!(policy.admit_cloud("AzureStackCloud").is_err());
    }
}
