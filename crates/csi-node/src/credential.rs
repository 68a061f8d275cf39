//! As whom a vault is asked: brings the plan's identity together with the tokens and secrets of the request.

use crate::csi::request::PublishRequest;
use crate::plan::PlannedIdentity;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use identity::{
    Asker, Cloud, Credential, Error, Mode, ServiceAccountTokens, ServicePrincipal, TenantId, Tokens,
};
use secrecy::ExposeSecret;

/// A pod's credential as the vault client wants it.
#[derive(Debug, Clone)]
pub struct PodCredential(Credential);

/// Builds the credential of a plan. Nothing is sent.
///
/// # Errors
/// What the identity lacks, or that the operator does not allow it.
pub fn of_plan(
    tokens: &Tokens,
    identity: &PlannedIdentity,
    cloud: &Cloud,
    request: &PublishRequest,
) -> Result<PodCredential, Error> {
    let pod = &request.pod;
    let asker = Asker {
        namespace: pod.namespace.clone(),
        service_account: pod.service_account.clone(),
        pod: pod.name.clone(),
    };
    let sent = request.tokens.as_ref().map_or("", |tokens| tokens.expose_secret());
    let (authority, mode) = match identity {
        PlannedIdentity::Workload { tenant, client_id } => {
            let assertion = ServiceAccountTokens::parse(sent)?.workload_identity(cloud)?;
            let mode =
                Mode::WorkloadIdentity { tenant: tenant.clone(), client_id: client_id.clone(), assertion };
            (cloud.authority(tenant)?, mode)
        }
        PlannedIdentity::TokenProxy { tenant, client_id } => {
            let assertion = ServiceAccountTokens::parse_for_identity_binding(sent)?.identity_binding()?;
            let mode = Mode::TokenProxy { tenant: tenant.clone(), client_id: client_id.clone(), assertion };
            (cloud.authority(tenant)?, mode)
        }
        // The metadata service knows the VM's tenant by itself, so any will do for an authority that is never asked.
        PlannedIdentity::Vm(identity) => (
            Cloud::default().authority(&TenantId::parse("organizations")?)?,
            Mode::VmIdentity(identity.clone()),
        ),
        PlannedIdentity::ServicePrincipal { tenant } => {
            let secrets = request.secrets.iter().map(|(key, value)| (key.as_str(), value.expose_secret()));
            let ServicePrincipal { client_id, proof } = identity::service_principal_from_secrets(secrets)?;
            let mode = Mode::ServicePrincipal { tenant: tenant.clone(), client_id, proof };
            (cloud.authority(tenant)?, mode)
        }
    };
    tokens.credential(&asker, &authority, mode).map(PodCredential)
}

#[async_trait::async_trait]
impl TokenCredential for PodCredential {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        self.0.get_token(scopes, options).await
    }
}

impl vault::Credential for PodCredential {
    fn key(&self) -> Option<&str> {
        self.0.key()
    }

    fn refused(&self, token: &str) {
        self.0.refused(token);
    }

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn source(&self) -> String {
        self.0.source()
    }
}
