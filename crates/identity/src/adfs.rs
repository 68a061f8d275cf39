//! Tokens from Active Directory Federation Services.
//!
//! The Azure SDK knows Entra's token path only; AD FS has another one, which its metadata document tells.

use async_trait::async_trait;
use time::OffsetDateTime;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    Error, Flavour,
    cache::Source,
    discovery,
    entra::{PATIENCE, Party, Shown, give_up},
    retry::{self, Attempt},
    token::Token,
    token_answer::TokenAnswer,
};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Tokens of one application from AD FS.
pub(crate) struct AdFs {
    pub(crate) party: Party,
    pub(crate) shown: Shown,
    pub(crate) client: reqwest::Client,
}

#[async_trait]
impl Source for AdFs {
    async fn fetch(&self, scope: &str) -> Result<Token, Error> {
        if let Some(assertion) = self.shown.assertion() {
            assertion.check_validity(OffsetDateTime::now_utc())?;
        }
        let outcome = retry::run(&PATIENCE, || async {
            let document = format!("{}/.well-known/openid-configuration", self.party.authority.adfs_base());
            let endpoint =
                discovery::token_endpoint(&self.client, &document, &self.party, &self.shown).await?;
            self.exchange(endpoint, scope).await
        })
        .await;
        outcome.map_err(|ending| give_up(ending, &self.party, &self.shown))
    }
}

impl AdFs {
    async fn exchange(&self, endpoint: Url, scope: &str) -> Result<Token, Attempt> {
        let scope = format!("{scope} openid offline_access profile");
        let client_id = self.party.client_id.as_str();
        let mut form =
            vec![("client_id", client_id), ("grant_type", "client_credentials"), ("scope", scope.as_str())];
        let signed: Zeroizing<String>;
        match &self.shown {
            Shown::Secret(_) => form.push(("client_secret", self.shown.secret_text())),
            Shown::Assertion(_) => {
                form.push(("client_assertion_type", ASSERTION_TYPE));
                form.push(("client_assertion", self.shown.secret_text()));
            }
            Shown::Certificate(certificate) => {
                signed = certificate
                    .assertion(client_id, endpoint.as_str(), Flavour::AdFs)
                    .map_err(Attempt::Final)?;
                form.push(("client_assertion_type", ASSERTION_TYPE));
                form.push(("client_assertion", &signed));
            }
        }
        let request = self.client.post(endpoint).form(&form);
        let answer = self.party.ask(&self.client, request, &self.shown).await?;
        TokenAnswer::read(&answer.body).map_err(|reason| self.party.no_token(&reason, &self.shown))
    }
}
