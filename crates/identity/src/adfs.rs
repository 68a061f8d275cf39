//! Tokens from Active Directory Federation Services.
//!
//! The Azure SDK knows Entra's token path only; AD FS has another one, which its metadata document tells.

use async_trait::async_trait;
use reqwest::header::ACCEPT;
use serde::Deserialize;
use time::OffsetDateTime;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    Error, Flavour,
    cache::Source,
    entra::{PATIENCE, Party, Shown, give_up, judge_answer},
    error::chain,
    error_answer::ErrorAnswer,
    http,
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
            let endpoint = self.token_endpoint().await?;
            self.exchange(endpoint, scope).await
        })
        .await;
        outcome.map_err(|ending| give_up(ending, &self.party, &self.shown))
    }
}

impl AdFs {
    /// Asks the metadata document (OpenID Connect Discovery 1.0 §4) where tokens are to be had.
    async fn token_endpoint(&self) -> Result<Url, Attempt> {
        #[derive(Deserialize)]
        struct Metadata {
            token_endpoint: String,
        }
        let url = format!("{}/.well-known/openid-configuration", self.party.authority.adfs_base());
        let answer = self.send(self.client.get(url).header(ACCEPT, "application/json")).await?;
        let metadata: Metadata = serde_json::from_slice(&answer.body)
            .map_err(|e| self.no_token(&format!("the metadata document has no token_endpoint: {e}")))?;
        // A secret goes where this says.
        Url::parse(&metadata.token_endpoint)
            .ok()
            .filter(|endpoint| endpoint.scheme() == "https")
            .ok_or_else(|| self.no_token("the metadata document's token_endpoint is no https URL"))
    }

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
        let answer = self.send(self.client.post(endpoint).form(&form)).await?;
        TokenAnswer::read(&answer.body).map_err(|reason| self.no_token(&reason))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<http::Answer, Attempt> {
        let request = request.build().map_err(|e| self.no_token(&chain(&e.without_url())))?;
        let sent = http::send(&self.client, request).await;
        let answer = sent.map_err(|reason| Attempt::Again { status: None, reason, retry_after: None })?;
        if answer.is_success() {
            return Ok(answer);
        }
        Err(judge_answer(&ErrorAnswer::read(&answer), &self.party, &self.shown))
    }

    fn no_token(&self, reason: &str) -> Attempt {
        self.party.no_token(reason, &self.shown)
    }
}
