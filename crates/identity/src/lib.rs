//! Microsoft Entra tokens for pods and VMs.
//!
//! [`Tokens`] is the node's token service. It is told who asks ([`Asker`], in the kubelet's words), where
//! ([`Authority`], from a [`Cloud`]) and how the pod proves itself ([`Mode`]), and gives a [`Credential`],
//! which is a token credential of the Azure SDK. Tokens are asked for once per identity and asker, shared,
//! and renewed ahead of time; what goes wrong is told as an [`Error`] with cause and cure.
//!
//! ```no_run
//! use identity::{Asker, ClientId, Cloud, Config, Mode, ServiceAccountTokens, TenantId, Tokens};
//!
//! # async fn mount(http: reqwest::Client, sent_by_the_kubelet: &str) -> Result<(), identity::Error> {
//! let tokens = Tokens::new(Config::new(http)?)?; // one for the node
//!
//! let asker = Asker { namespace: "shop".into(), service_account: "web".into(), pod: "web-1".into() };
//! let cloud = Cloud::default();
//! let tenant = TenantId::parse("contoso.onmicrosoft.com")?;
//! let client_id = ClientId::parse("00000000-0000-0000-0000-000000000000")?;
//! let assertion = ServiceAccountTokens::parse(sent_by_the_kubelet)?.workload_identity(&cloud)?;
//! let authority = cloud.authority(&tenant)?;
//! let mode = Mode::WorkloadIdentity { tenant, client_id, assertion };
//! let credential = tokens.credential(&asker, &authority, mode)?;
//! let token = credential.token("https://vault.azure.net/.default").await?;
//! # Ok(()) }
//! ```

mod adfs;
mod arc;
mod assertion;
mod cache;
mod certificate;
mod cloud;
mod config;
mod credential;
mod diagnosis;
mod discovery;
mod entra;
mod entra_http;
mod error;
mod error_answer;
mod gate;
mod http;
mod ids;
mod imds;
mod mode;
mod policy;
mod redact;
mod retry;
mod token;
mod token_answer;
mod token_proxy;
mod tokens;

pub use arc::ArcAgent;
pub use assertion::{Assertion, Claims, ServiceAccountTokens};
pub use certificate::ClientCertificate;
pub use cloud::{
    AUDIENCE_CHINA, AUDIENCE_IDENTITY_BINDING, AUDIENCE_PUBLIC, AUDIENCE_US_GOVERNMENT, Authority, Cloud,
    CloudChoice, Flavour,
};
pub use config::{Config, VmIdentitySource};
pub use credential::Credential;
pub use diagnosis::{KnownRefusal, known_refusals};
pub use error::{Error, Kind, Outage, Purpose, Refusal};
pub use ids::{Asker, ClientId, TenantId};
pub use mode::{Mode, Proof, ServicePrincipal, VmIdentity, service_principal_from_secrets};
pub use policy::{Allowed, Policy};
pub use token_proxy::TokenProxyConfig;
pub use tokens::{Stats, Tokens};
