//! How a pod proves who it is.

use std::{collections::BTreeMap, fmt};

use secrecy::{ExposeSecret, SecretString};

use crate::{Assertion, ClientCertificate, ClientId, Error, TenantId};

/// The identity a class asks for, with the proof that goes with it.
#[derive(Clone, Debug)]
pub enum Mode {
    /// A service account token shown to Entra in place of a secret (workload identity federation).
    WorkloadIdentity {
        /// Tenant of the identity.
        tenant: TenantId,
        /// The identity: a user-assigned managed identity or an app registration.
        client_id: ClientId,
        /// Token of audience `api://AzureADTokenExchange` or the cloud's own.
        assertion: Assertion,
    },
    /// A service account token shown to the cluster's token proxy (AKS identity bindings,
    /// `useAzureTokenProxy`).
    TokenProxy {
        /// Tenant of the identity.
        tenant: TenantId,
        /// The user-assigned managed identity that is bound.
        client_id: ClientId,
        /// Token of audience `api://AKSIdentityBinding`.
        assertion: Assertion,
    },
    /// An identity of the virtual machine, asked from its metadata service.
    VmIdentity(VmIdentity),
    /// An app registration with a secret or certificate of its own (`nodePublishSecretRef`).
    ServicePrincipal {
        /// Tenant of the app registration.
        tenant: TenantId,
        /// The app registration.
        client_id: ClientId,
        /// What it signs in with.
        proof: Proof,
    },
}

/// Which of the virtual machine's identities.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VmIdentity {
    /// The machine's own.
    SystemAssigned,
    /// A user-assigned one, by client id.
    ClientId(ClientId),
    /// A user-assigned one, by Azure resource id
    /// (`/subscriptions/…/providers/Microsoft.ManagedIdentity/userAssignedIdentities/…`).
    ResourceId(String),
    /// A user-assigned one, by object (principal) id.
    ObjectId(String),
}

impl VmIdentity {
    /// Reads `userAssignedIdentityID`. Blank is the system-assigned identity: the metadata service must then
    /// get no parameter at all. Text that begins with `/subscriptions/` is a resource id, everything else a
    /// client id.
    ///
    /// # Errors
    /// [`Error::ClientId`] for text that can be neither.
    pub fn from_user_assigned_id(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::SystemAssigned);
        }
        let resource = text.get(..15).is_some_and(|start| start.eq_ignore_ascii_case("/subscriptions/"));
        if resource && !text.chars().any(char::is_control) {
            return Ok(Self::ResourceId(text.to_owned()));
        }
        Ok(Self::ClientId(ClientId::parse_from("userAssignedIdentityID", text)?))
    }
}

impl fmt::Display for VmIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SystemAssigned => f.write_str("the system-assigned identity of the VM"),
            Self::ClientId(id) => write!(f, "the VM's user-assigned identity with client id {id}"),
            Self::ResourceId(id) => write!(f, "the VM's user-assigned identity {id}"),
            Self::ObjectId(id) => write!(f, "the VM's user-assigned identity with object id {id}"),
        }
    }
}

/// What a service principal signs in with.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A client secret.
    Secret(SecretString),
    /// A certificate with its private key.
    Certificate(ClientCertificate),
}

/// What the Secret named by `nodePublishSecretRef` says: who, and with which proof.
#[derive(Clone, Debug)]
pub struct ServicePrincipal {
    /// The app registration.
    pub client_id: ClientId,
    /// What it signs in with.
    pub proof: Proof,
}

/// Reads a service principal from the publish request's secrets: `clientid` with `clientsecret`, or with
/// `clientcertificate` (PEM or PFX, PFX also in base64) and `clientcertificatepassword`. Keys are found in
/// any letter case; values are not trimmed; an empty value counts as absent. A secret goes before a
/// certificate.
///
/// # Errors
/// [`Error::ServicePrincipal`] in the reference's words if something is missing, [`Error::Certificate`] for a
/// certificate that cannot be used, [`Error::ClientId`].
pub fn service_principal_from_secrets<K, V>(
    secrets: impl IntoIterator<Item = (K, V)>,
) -> Result<ServicePrincipal, Error>
where
    K: AsRef<str> + Ord,
    V: AsRef<str>,
{
    // In order of keys, so that one of several spellings is chosen the same way each time.
    let secrets: BTreeMap<_, _> = secrets.into_iter().collect();
    let missing = |reason: &str| Error::ServicePrincipal { reason: reason.to_owned() };
    if secrets.is_empty() {
        return Err(missing("failed to get credentials, nodePublishSecretRef secret is not set"));
    }
    let field = |wanted: &str| {
        let mut pairs = secrets.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
        pairs
            .find(|(key, value)| key.eq_ignore_ascii_case(wanted) && !value.is_empty())
            .map(|(_, value)| value)
    };
    let client_id = field("clientid").ok_or_else(|| missing("could not find clientid in secrets"))?;
    let client_id = ClientId::parse_from("clientid in the nodePublishSecretRef secret", client_id)?;
    if let Some(secret) = field("clientsecret") {
        return Ok(ServicePrincipal { client_id, proof: Proof::Secret(secret.to_owned().into()) });
    }
    if let Some(certificate) = field("clientcertificate") {
        let password = SecretString::from(field("clientcertificatepassword").unwrap_or_default().to_owned());
        let certificate = ClientCertificate::parse(certificate.as_bytes(), password.expose_secret())?;
        return Ok(ServicePrincipal { client_id, proof: Proof::Certificate(certificate) });
    }
    Err(missing("could not find clientsecret in secrets (nor a clientcertificate)"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<ServicePrincipal, Error> {
        let secrets: BTreeMap<_, _> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        service_principal_from_secrets(&secrets)
    }

    #[test]
    fn keys_in_any_case_and_empty_values_absent() {
        let found = read(&[("ClientID", "app"), ("CLIENTSECRET", " s3cret\n")]).unwrap();
        assert_eq!(found.client_id.as_str(), "app");
        let Proof::Secret(secret) = found.proof else { panic!("a secret was given") };
        assert_eq!(secret.expose_secret(), " s3cret\n");
        let both = read(&[("CLIENTID", ""), ("clientid", "app"), ("clientsecret", "s")]).unwrap();
        assert_eq!(both.client_id.as_str(), "app");
    }

    #[test]
    fn what_is_missing_is_told_as_the_reference_tells_it() {
        let tell = |pairs: &[(&str, &str)]| read(pairs).unwrap_err().to_string();
        assert_eq!(tell(&[]), "failed to get credentials, nodePublishSecretRef secret is not set");
        assert_eq!(tell(&[("clientsecret", "s")]), "could not find clientid in secrets");
        assert_eq!(tell(&[("clientid", ""), ("clientsecret", "s")]), "could not find clientid in secrets");
        assert!(tell(&[("clientid", "a")]).starts_with("could not find clientsecret in secrets"));
        assert!(
            tell(&[("clientid", "a"), ("clientsecret", "")])
                .starts_with("could not find clientsecret in secrets")
        );
    }

    #[test]
    fn a_client_id_that_cannot_be_one_is_told_with_its_place() {
        let error = read(&[("ClientID", "app\n"), ("clientsecret", "planted")]).unwrap_err().to_string();
        assert!(
            error.starts_with("invalid clientid in the nodePublishSecretRef secret \"app\\n\": ")
                && !error.contains("planted"),
            "{error}"
        );
        let error = VmIdentity::from_user_assigned_id("a b").unwrap_err().to_string();
        assert!(error.starts_with("invalid userAssignedIdentityID \"a b\": "), "{error}");
    }

    #[test]
    fn a_blank_id_is_the_system_assigned_identity() {
        assert_eq!(VmIdentity::from_user_assigned_id(" \t").unwrap(), VmIdentity::SystemAssigned);
        assert!(matches!(VmIdentity::from_user_assigned_id(" id ").unwrap(), VmIdentity::ClientId(_)));
        let resource = "/Subscriptions/s/resourcegroups/g/providers/x/userAssignedIdentities/i";
        assert_eq!(
            VmIdentity::from_user_assigned_id(resource).unwrap(),
            VmIdentity::ResourceId(resource.to_owned())
        );
    }

    proptest! {
        #[test]
        fn readers_take_anything(secrets in any::<BTreeMap<String, String>>(), id in any::<String>(), cert in any::<String>()) {
            let _ = service_principal_from_secrets(&secrets);
            let _ = VmIdentity::from_user_assigned_id(&id);
            let _ = read(&[("clientid", "a"), ("clientcertificate", &cert)]);
        }
    }
}
