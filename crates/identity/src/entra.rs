//! Tokens from Entra, by the Azure SDK's credentials over a transport of ours.
//!
//! The SDK builds and posts the forms. Three things are ours. *The transport*: the SDK reads an error body
//! into borrowed text, so that one JSON escape (`\r\n`, which Entra sends) loses the whole explanation;
//! [`EntraHttp`] reads refusals itself and hands them through as [`Reply`]. *Repetition*: the SDK's retries
//! have no usable total and forget the last answer. *The cache*: the SDK's shares no failure and throws away
//! a valid token when an early renewal fails; so each exchange makes a fresh SDK credential, whose own cache
//! is empty and never answers.
//!
//! The SDK's own copies of assertions, secrets and tokens are plain strings: they live for one exchange and
//! are not zeroed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use azure_core::{
    cloud::{CloudConfiguration, CustomConfiguration},
    credentials::{Secret, TokenCredential},
    error::ErrorKind,
    http::{ClientMethodOptions, ClientOptions, RetryOptions, Transport},
};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions,
};
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{
    Assertion, Authority, ClientCertificate, ClientId, Error, TenantId,
    cache::Source,
    diagnosis, discovery,
    entra_http::{EntraHttp, Reply},
    error::{Outage, Refusal, chain},
    error_answer::ErrorAnswer,
    http,
    redact::{excerpt, scrub},
    retry::{self, Attempt, Ending, Exhausted, Patience},
    token::Token,
    token_proxy::TokenProxy,
};

/// Entra answers in tens of milliseconds, but a proxy or firewall on the way may hold an answer back for half
/// a minute, and one given up is begun from the start. The kubelet gives a mount two minutes in all.
pub(crate) const PATIENCE: Patience = Patience {
    per_try: Duration::from_secs(45),
    total: Duration::from_secs(95),
    wait: |n, _| (n < 4).then(|| Duration::from_millis(500 << n)),
};

/// What is shown to the token service.
#[derive(Clone)]
pub(crate) enum Shown {
    /// A service account token.
    Assertion(Assertion),
    /// A client secret.
    Secret(SecretString),
    /// An assertion signed with a certificate's key.
    Certificate(ClientCertificate),
}

impl Shown {
    /// The name of the SDK credential this amounts to, which is what people search for.
    pub(crate) fn credential_name(&self) -> &'static str {
        match self {
            Self::Assertion(_) => "ClientAssertionCredential",
            Self::Secret(_) => "ClientSecretCredential",
            Self::Certificate(_) => "ClientCertificateCredential",
        }
    }

    pub(crate) fn assertion(&self) -> Option<&Assertion> {
        match self {
            Self::Assertion(assertion) => Some(assertion),
            Self::Secret(_) | Self::Certificate(_) => None,
        }
    }

    /// What must not come back in an error.
    pub(crate) fn secret_text(&self) -> &str {
        match self {
            Self::Assertion(assertion) => assertion.jwt(),
            Self::Secret(secret) => secret.expose_secret(),
            Self::Certificate(_) => "",
        }
    }
}

/// Who asks whom for whom: what error messages name.
#[derive(Clone)]
pub(crate) struct Party {
    pub(crate) authority: Authority,
    pub(crate) tenant: TenantId,
    pub(crate) client_id: ClientId,
    /// `client id … in tenant …, for service account …`.
    pub(crate) description: String,
    /// Whether the cluster's token proxy stands in between.
    pub(crate) bound: bool,
}

impl Party {
    /// The host that is asked, for messages.
    pub(crate) fn asked(&self) -> String {
        if self.bound {
            format!("the cluster's token proxy for {}", self.authority)
        } else {
            self.authority.to_string()
        }
    }

    /// Sends a request the SDK has no part in. Refusals and outages are judged.
    pub(crate) async fn ask(
        &self,
        client: &reqwest::Client,
        request: reqwest::RequestBuilder,
        shown: &Shown,
    ) -> Result<http::Answer, Attempt> {
        let request = request.build().map_err(|e| self.no_token(&chain(&e.without_url()), shown))?;
        let sent = http::send(client, request).await;
        let answer = sent.map_err(|reason| Attempt::Again { status: None, reason, retry_after: None })?;
        if answer.is_success() {
            return Ok(answer);
        }
        Err(judge_answer(&ErrorAnswer::read(&answer), self, shown))
    }

    /// A success that is none.
    pub(crate) fn no_token(&self, reason: &str, shown: &Shown) -> Attempt {
        Attempt::Final(Error::Answer {
            credential: shown.credential_name(),
            from: self.asked(),
            reason: excerpt(&scrub(reason, &[shown.secret_text()]), 300),
        })
    }
}

/// Tokens of one application or managed identity from Entra.
pub(crate) struct Entra {
    pub(crate) party: Party,
    pub(crate) shown: Shown,
    pub(crate) way: Way,
}

/// How Entra is reached.
#[derive(Clone)]
pub(crate) enum Way {
    /// At its own address.
    Direct(reqwest::Client),
    /// Through the cluster's token proxy.
    Proxy(Arc<TokenProxy>),
}

#[async_trait]
impl Source for Entra {
    async fn fetch(&self, scope: &str) -> Result<Token, Error> {
        if let Some(assertion) = self.shown.assertion() {
            assertion.check_validity(OffsetDateTime::now_utc())?;
        }
        let outcome = retry::run(&PATIENCE, || async {
            let transport = match &self.way {
                Way::Direct(client) => EntraHttp::new(client.clone(), None),
                Way::Proxy(proxy) => {
                    let (client, route) = proxy.prepare().await.map_err(Attempt::Final)?;
                    EntraHttp::new(client, Some(route))
                }
            };
            match (self.exchange(transport, scope).await, &self.way) {
                (Ok(token), _) => Ok(token),
                (Err(error), Way::Direct(client))
                    if self.party.authority.is_custom() && is_no_endpoint(&error) =>
                {
                    let refusal = judge(&error, &self.party, &self.shown);
                    self.exchange_elsewhere(client, scope, refusal).await
                }
                (Err(error), _) => Err(judge(&error, &self.party, &self.shown)),
            }
        })
        .await;
        outcome.map_err(|ending| give_up(ending, &self.party, &self.shown))
    }
}

impl Entra {
    /// One form post to the endpoint that the metadata of a custom cloud's authority names, where the usual
    /// path answered with `refusal`. An endpoint on another host is not taken: the operator named this one.
    async fn exchange_elsewhere(
        &self,
        client: &reqwest::Client,
        scope: &str,
        refusal: Attempt,
    ) -> Result<Token, Attempt> {
        let (party, shown) = (&self.party, &self.shown);
        let document =
            format!("{}/{}/v2.0/.well-known/openid-configuration", party.authority.origin(), party.tenant);
        let endpoint = match discovery::token_endpoint(client, &document, party, shown).await {
            Ok(endpoint) if endpoint.host_str() == party.authority.host() => endpoint,
            Err(outage @ Attempt::Again { .. }) => return Err(outage),
            Ok(_) | Err(Attempt::Final(_)) => return Err(refusal),
        };
        let mut transport = EntraHttp::new(client.clone(), None);
        transport.endpoint = Some(endpoint);
        self.exchange(transport, scope).await.map_err(|error| judge(&error, party, shown))
    }

    /// One form post, built by the SDK.
    async fn exchange(&self, transport: EntraHttp, scope: &str) -> azure_core::Result<Token> {
        let endpoint = match &transport.endpoint {
            Some(endpoint) => endpoint.to_string(),
            None => format!("{}/{}/oauth2/v2.0/token", self.party.authority.origin(), self.party.tenant),
        };
        let mut cloud = CustomConfiguration::default();
        // Always set: without it the SDK takes AZURE_AUTHORITY_HOST from the environment.
        cloud.authority_host = self.party.authority.origin();
        let client_options = ClientOptions {
            cloud: Some(Arc::new(CloudConfiguration::Custom(cloud))),
            transport: Some(Transport::new(Arc::new(transport))),
            retry: RetryOptions::none(),
            ..ClientOptions::default()
        };
        let (tenant, client_id) =
            (self.party.tenant.as_str().to_owned(), self.party.client_id.as_str().to_owned());
        let scopes = [scope];
        let token = match &self.shown {
            Shown::Secret(secret) => {
                let secret = Secret::new(secret.expose_secret().to_owned());
                let options = ClientSecretCredentialOptions { client_options };
                let credential = ClientSecretCredential::new(&tenant, client_id, secret, Some(options))?;
                credential.get_token(&scopes, None).await?
            }
            Shown::Assertion(assertion) => {
                let proof = Proof(Zeroizing::new(assertion.jwt().to_owned()));
                let options = ClientAssertionCredentialOptions { client_options };
                let credential = ClientAssertionCredential::new(tenant, client_id, proof, Some(options))?;
                credential.get_token(&scopes, None).await?
            }
            Shown::Certificate(certificate) => {
                // The SDK's certificate credential needs OpenSSL; signed by us, a certificate is one more
                // assertion.
                let proof = Proof(certificate.assertion(&client_id, &endpoint, crate::Flavour::Entra)?);
                let options = ClientAssertionCredentialOptions { client_options };
                let credential = ClientAssertionCredential::new(tenant, client_id, proof, Some(options))?;
                credential.get_token(&scopes, None).await?
            }
        };
        let token = Token::until(token.token.secret().to_owned(), token.expires_on);
        if !token.is_valid() {
            return Err(azure_core::Error::with_message(
                ErrorKind::Other,
                "expires_in gives no end in the future",
            ));
        }
        Ok(token)
    }
}

/// An assertion in the form the SDK asks for it.
struct Proof(Zeroizing<String>);

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof")
    }
}

#[async_trait]
impl ClientAssertion for Proof {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.0.as_str().to_owned())
    }
}

/// Whether nothing takes token requests at the address asked.
fn is_no_endpoint(error: &azure_core::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(at) = next {
        if let Some(Reply::Said(answer)) = at.downcast_ref() {
            return matches!(answer.status, 404 | 405);
        }
        next = at.source();
    }
    false
}

/// Whether the SDK's failure is worth a repetition, and what it means.
fn judge(error: &azure_core::Error, party: &Party, shown: &Shown) -> Attempt {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(at) = next {
        if let Some(found) = at.downcast_ref::<Error>() {
            return Attempt::Final(found.clone());
        }
        if let Some(reply) = at.downcast_ref::<Reply>() {
            return match reply {
                Reply::Said(answer) => judge_answer(answer, party, shown),
                Reply::Silent(reason) => {
                    Attempt::Again { status: None, reason: reason.clone(), retry_after: None }
                }
                Reply::NoToken(reason) => party.no_token(reason, shown),
            };
        }
        next = at.source();
    }
    // The SDK could not read what we could.
    party.no_token(&chain(error), shown)
}

/// As [`judge`], for an error answer in hand.
pub(crate) fn judge_answer(answer: &ErrorAnswer, party: &Party, shown: &Shown) -> Attempt {
    let secrets = [shown.secret_text()];
    let description = scrub(&answer.description, &secrets).into_owned();
    let said = scrub(&answer.error, &secrets).into_owned();
    if diagnosis::is_transient(&answer.codes, &answer.error, answer.status) {
        let text = if description.is_empty() { &said } else { &description };
        return Attempt::Again {
            status: Some(answer.status),
            reason: format!("HTTP {} {}", answer.status, excerpt(text, 300)).trim_end().to_owned(),
            retry_after: answer.retry_after,
        };
    }
    let client_id = party.client_id.as_str();
    let (kind, advice) = if party.bound && answer.codes.is_empty() && matches!(answer.status, 401 | 403) {
        diagnosis::of_token_proxy(shown.assertion(), client_id)
    } else {
        diagnosis::of_entra(&answer.codes, &answer.error, answer.status, shown.assertion(), client_id)
    };
    Attempt::Final(Error::Refused(Box::new(Refusal {
        kind,
        opening: format!("{} authentication failed.", shown.credential_name()),
        from: party.asked(),
        identity: party.description.clone(),
        status: answer.status,
        error: said,
        codes: answer.codes.clone(),
        description,
        advice,
        retry_after: answer.retry_after,
    })))
}

/// The error when patience has ended.
pub(crate) fn give_up(ending: Ending, party: &Party, shown: &Shown) -> Error {
    match ending {
        Ending::Final(error) => error,
        Ending::Exhausted(end) => Error::Unavailable(Box::new(Outage {
            credential: shown.credential_name(),
            from: party.asked(),
            identity: party.description.clone(),
            attempts: end.attempts,
            elapsed: end.elapsed,
            last: scrub(&end.last, &[shown.secret_text()]).into_owned(),
            cure: cure_of_outage(&end, party.bound).to_owned(),
            retry_after: end.retry_after,
        })),
    }
}

fn cure_of_outage(end: &Exhausted, bound: bool) -> &'static str {
    if end.status.is_some() {
        "the service is out of order or throttles; wait, the request is repeated."
    } else if end.last.contains("certificate") {
        "trust the CA that signed the certificate (SSL_CERT_FILE of the driver, or ca.crt for the token proxy), or \
         keep the proxy that intercepts TLS away from this host."
    } else if bound {
        "check that this node reaches the cluster's API server and that identity bindings are enabled on the \
         cluster; the request is repeated."
    } else {
        "check that this node resolves and reaches the host on port 443 (DNS, firewall, proxy); the request is \
         repeated."
    }
}
