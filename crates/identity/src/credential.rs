//! A pod's credential, in the Azure SDK's form.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};

use crate::{Error, cache::Identity};

/// One identity's tokens, for one asker. Cheap to clone. The tokens it gets are kept while it lives.
#[derive(Clone)]
pub struct Credential(pub(crate) Arc<Handle>);

pub(crate) struct Handle {
    pub(crate) identity: Arc<Identity>,
    /// What it is shared under, or why it is not.
    pub(crate) key: Result<String, String>,
    pub(crate) name: String,
    /// Where its tokens come from.
    pub(crate) from: String,
}

impl Credential {
    /// What this identity's tokens, and things fetched with them, may be shared under on this node. `None`:
    /// nothing of it may be shared, because the pod's proof is doubtful.
    ///
    /// Holds names and salted digests, no secrets. Valid within this process only.
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref().ok()
    }

    /// Why nothing may be shared, if so: what speaks against the pod's service account token.
    pub fn doubt(&self) -> Option<&str> {
        self.0.key.as_ref().err().map(String::as_str)
    }

    /// A service answered 401 to this token: the next request gets another one. A second refusal within
    /// seconds changes nothing, since another token will not help then.
    pub fn refused(&self, token: &str) {
        self.0.identity.refused(token);
    }

    /// Whose tokens these are, for messages: `client id … in tenant …, for service account …`.
    pub fn describe(&self) -> String {
        self.0.name.clone()
    }

    /// Where its tokens come from, for messages: the address of an authority, a token proxy, a metadata service.
    pub fn source(&self) -> String {
        self.0.from.clone()
    }

    /// As [`TokenCredential::get_token`], with an error of our own.
    ///
    /// # Errors
    /// Any that asking a token service can bring.
    pub async fn token(&self, scope: &str) -> Result<AccessToken, Error> {
        Ok(self.0.identity.token(scope).await?.to_sdk())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("identity", &self.0.name)
            .field("shared", &self.0.key.is_ok())
            .finish()
    }
}

#[async_trait]
impl TokenCredential for Credential {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        if scopes.is_empty() {
            return Err(Error::internal("a token was asked for without a scope").into());
        }
        Ok(self.token(&scopes.join(" ")).await?)
    }
}
