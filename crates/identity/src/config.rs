//! How the token service is set up.

use std::time::Duration;

use url::Url;

use crate::{ArcAgent, Error, Policy, TokenProxyConfig};

/// Where the VM's identities get their tokens.
#[derive(Clone, Debug)]
pub enum VmIdentitySource {
    /// The instance metadata service of an Azure VM, at this address. Another one than
    /// [`VmIdentitySource::imds`] gives comes from `AZURE_POD_IDENTITY_AUTHORITY_HOST`.
    Imds(Url),
    /// The Azure Arc agent of a machine outside Azure.
    Arc(ArcAgent),
}

impl VmIdentitySource {
    /// The metadata service at its fixed address.
    ///
    /// # Errors
    /// None in practice; the fixed address is a URL.
    pub fn imds() -> Result<Self, Error> {
        Url::parse("http://169.254.169.254").map(Self::Imds).map_err(Error::internal)
    }

    pub(crate) fn url(&self) -> &Url {
        match self {
            Self::Imds(url) => url,
            Self::Arc(agent) => &agent.endpoint,
        }
    }
}

/// How [`Tokens`](crate::Tokens) is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Client for Entra and AD FS. It must follow no redirects, or a secret would go wherever an answer
    /// points; that cannot be set here. Time limits are.
    pub http: reqwest::Client,
    /// Where the VM's identities get their tokens.
    pub vm_identity: VmIdentitySource,
    /// The token proxy of identity bindings. `None`: `useAzureTokenProxy` is refused.
    pub token_proxy: Option<TokenProxyConfig>,
    /// What the operator allows.
    pub policy: Policy,
    /// How long tokens are kept after the last [`Credential`](crate::Credential) for them is gone. The kubelet republishes each
    /// 60 to 90 s; a driver that makes its credentials anew each time keeps its tokens with the default of
    /// five minutes.
    pub idle: Duration,
}

impl Config {
    /// Settings that suit most nodes: metadata service at its fixed address, no token proxy, everything
    /// allowed.
    ///
    /// # Errors
    /// None in practice.
    pub fn new(http: reqwest::Client) -> Result<Self, Error> {
        Ok(Self {
            http,
            vm_identity: VmIdentitySource::imds()?,
            token_proxy: None,
            policy: Policy::default(),
            idle: Duration::from_mins(5),
        })
    }
}
