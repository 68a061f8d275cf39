//! Tokens of the virtual machine's identities, from the Azure instance metadata service
//! (<https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>).
//!
//! Not by the Azure SDK's managed identity credential: its address is fixed, its retries last as long as the
//! kubelet's patience, it takes `expires_on` only as a string, and it keeps the service's words from the
//! reader.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use url::Url;

use crate::{
    Error, VmIdentity,
    cache::Source,
    diagnosis,
    error::{Outage, Refusal, chain},
    error_answer::ErrorAnswer,
    gate::Gate,
    http,
    redact::{excerpt, scrub},
    retry::{self, Attempt, Ending, Patience},
    token::Token,
    token_answer::TokenAnswer,
};

/// Name of the SDK credential this amounts to.
pub(crate) const CREDENTIAL: &str = "ManagedIdentityCredential";

/// The first api-version with identities; all clouds have it.
const API_VERSION: &str = "2018-02-01";

/// An answer that takes longer counts as none. Waiting for a turn does not count. A metadata service that has
/// much to do takes seconds, and an attempt given up is begun from the start.
const PER_TRY: Duration = Duration::from_secs(30);

/// Microsoft's retry guidance: five tries with growing waits; a 410 means the service is being updated,
/// which takes up to 70 s. All in all below the two minutes the kubelet waits.
pub(crate) const PATIENCE: Patience = Patience {
    per_try: Duration::from_secs(100),
    total: Duration::from_secs(100),
    wait: |n, status| {
        let first = if status == Some(410) { 5 } else { 2 };
        (n < 4).then(|| Duration::from_secs(first << n))
    },
};

/// Tokens of one of the VM's identities.
pub(crate) struct Imds {
    pub(crate) client: reqwest::Client,
    pub(crate) endpoint: Url,
    pub(crate) identity: VmIdentity,
    pub(crate) gate: Arc<Gate>,
}

#[async_trait]
impl Source for Imds {
    async fn fetch(&self, scope: &str) -> Result<Token, Error> {
        let url = self.url(scope);
        repeat(&self.identity, &self.endpoint, || async {
            let _turn = self.gate.enter().await;
            let request = self
                .client
                .get(url.clone())
                .header("Metadata", "true")
                .build()
                .map_err(|e| Attempt::Final(Error::internal(chain(&e.without_url()))))?;
            let answer = ask(&self.client, request).await?;
            read(&answer, &self.identity, &self.endpoint)
        })
        .await
    }
}

impl Imds {
    fn url(&self, scope: &str) -> Url {
        let mut url = self.endpoint.clone();
        let path = format!("{}/metadata/identity/oauth2/token", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let mut query = url.query_pairs_mut();
        query.clear().append_pair("api-version", API_VERSION).append_pair("resource", resource(scope));
        // The system-assigned identity gets no parameter at all: an empty client_id is an error.
        match &self.identity {
            VmIdentity::SystemAssigned => &mut query,
            VmIdentity::ClientId(id) => query.append_pair("client_id", id.as_str()),
            VmIdentity::ResourceId(id) => query.append_pair("msi_res_id", id),
            VmIdentity::ObjectId(id) => query.append_pair("object_id", id),
        };
        drop(query);
        url
    }
}

/// The resource of a scope: the metadata service speaks the older protocol.
pub(crate) fn resource(scope: &str) -> &str {
    scope.strip_suffix("/.default").unwrap_or(scope)
}

/// Sends one request within the time for one.
pub(crate) async fn ask(
    client: &reqwest::Client,
    request: reqwest::Request,
) -> Result<http::Answer, Attempt> {
    let sent = tokio::time::timeout(PER_TRY, http::send(client, request)).await;
    sent.unwrap_or_else(|_| Err(format!("no answer within {} s", PER_TRY.as_secs())))
        .map_err(|reason| Attempt::Again { status: None, reason, retry_after: None })
}

/// Takes a token from an answer, or tells whether to ask again.
pub(crate) fn read(answer: &http::Answer, identity: &VmIdentity, endpoint: &Url) -> Result<Token, Attempt> {
    let from = endpoint.origin().ascii_serialization();
    if answer.is_success() {
        return TokenAnswer::read(&answer.body)
            .map_err(|reason| Attempt::Final(Error::Answer { credential: CREDENTIAL, from, reason }));
    }
    let said = ErrorAnswer::read(answer);
    let text = if said.description.is_empty() { &said.error } else { &said.description };
    let description = excerpt(&scrub(text, &[]), 600);
    let transient = diagnosis::is_transient(&said.codes, &said.error, said.status);
    if transient || matches!(said.status, 404 | 410) {
        return Err(Attempt::Again {
            status: Some(said.status),
            reason: format!("HTTP {} {description}", said.status).trim_end().to_owned(),
            retry_after: said.retry_after,
        });
    }
    let user_assigned = *identity != VmIdentity::SystemAssigned;
    // The metadata service passes on what Entra says of an identity it knows.
    let (kind, advice) = if said.codes.is_empty() {
        diagnosis::of_metadata_service(said.status, &description, user_assigned)
    } else {
        diagnosis::of_entra(&said.codes, &said.error, said.status, None, "")
    };
    let opening = match (said.status, user_assigned) {
        _ if !said.codes.is_empty() => "ManagedIdentityCredential authentication failed.",
        (400, true) => {
            "ManagedIdentityCredential authentication failed. the requested identity isn't assigned \
                        to this resource. The endpoint responded with"
        }
        (400, false) => {
            "ManagedIdentityCredential: failed to authenticate a system assigned identity. The \
                         endpoint responded with"
        }
        _ => "ManagedIdentityCredential authentication failed.",
    };
    Err(Attempt::Final(Error::Refused(Box::new(Refusal {
        kind,
        opening: opening.to_owned(),
        from,
        identity: identity.to_string(),
        status: said.status,
        error: said.error,
        codes: said.codes,
        description,
        advice,
        retry_after: said.retry_after,
    }))))
}

/// Runs attempts on the documented schedule.
pub(crate) async fn repeat<Future>(
    identity: &VmIdentity,
    endpoint: &Url,
    attempt: impl FnMut() -> Future,
) -> Result<Token, Error>
where
    Future: std::future::Future<Output = Result<Token, Attempt>>,
{
    retry::run(&PATIENCE, attempt).await.map_err(|ending| match ending {
        Ending::Final(error) => error,
        Ending::Exhausted(end) => Error::Unavailable(Box::new(Outage {
            credential: CREDENTIAL,
            from: endpoint.origin().ascii_serialization(),
            identity: identity.to_string(),
            attempts: end.attempts,
            elapsed: end.elapsed,
            last: end.last,
            cure: if end.status.is_some() {
                "the metadata service is being updated or throttles; wait, the request is repeated."
            } else {
                "check that this node is an Azure VM and that the driver reaches the metadata service (host \
                 networking; no network policy, firewall or proxy in between); the request is repeated."
            }
            .to_owned(),
            retry_after: end.retry_after,
        })),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::Instant;

    use super::*;
    use crate::ClientId;

    fn imds(identity: VmIdentity) -> Imds {
        Imds {
            client: crate::tokens::tests::client(),
            endpoint: Url::parse("http://127.0.0.1:1/prefix/").unwrap(),
            identity,
            gate: Arc::new(Gate::new(5, 20)),
        }
    }

    #[test]
    fn one_parameter_names_the_identity_and_none_the_machines_own() {
        let url = |identity| imds(identity).url("https://vault.azure.net/.default").to_string();
        let base = "http://127.0.0.1:1/prefix/metadata/identity/oauth2/token?api-version=2018-02-01\
                    &resource=https%3A%2F%2Fvault.azure.net";
        assert_eq!(url(VmIdentity::SystemAssigned), base);
        assert_eq!(
            url(VmIdentity::ClientId(ClientId::parse("a&b").unwrap())),
            format!("{base}&client_id=a%26b")
        );
        assert_eq!(url(VmIdentity::ResourceId("/s/r".into())), format!("{base}&msi_res_id=%2Fs%2Fr"));
        assert_eq!(url(VmIdentity::ObjectId("o".into())), format!("{base}&object_id=o"));
    }

    /// When attempts start, in seconds, if each is answered like this.
    async fn schedule(answer: fn(usize) -> Attempt, takes: Duration) -> (Vec<u64>, Result<Token, Error>) {
        let start = Instant::now();
        let starts = RefCell::new(Vec::new());
        let endpoint = Url::parse("http://169.254.169.254").unwrap();
        let outcome = repeat(&VmIdentity::SystemAssigned, &endpoint, || async {
            starts.borrow_mut().push(start.elapsed().as_secs());
            tokio::time::sleep(takes).await;
            Err(answer(starts.borrow().len()))
        })
        .await;
        assert!(start.elapsed() <= PATIENCE.total);
        (starts.into_inner(), outcome)
    }

    fn status(status: u16) -> Attempt {
        Attempt::Again { status: Some(status), reason: format!("HTTP {status}"), retry_after: None }
    }

    #[tokio::test(start_paused = true)]
    async fn the_documented_schedule() {
        assert_eq!(schedule(|_| status(429), Duration::ZERO).await.0, [0, 2, 6, 14, 30]);
        assert_eq!(schedule(|_| status(404), Duration::ZERO).await.0, [0, 2, 6, 14, 30]);
        assert_eq!(schedule(|_| status(500), Duration::ZERO).await.0, [0, 2, 6, 14, 30]);
        assert_eq!(schedule(|_| status(410), Duration::ZERO).await.0, [0, 5, 15, 35, 75]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_that_turns_into_throttling_changes_the_wait() {
        let mixed = |n| status(if n < 3 { 410 } else { 429 });
        assert_eq!(schedule(mixed, Duration::ZERO).await.0, [0, 5, 15, 23, 39]);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_answers_stay_within_the_total() {
        let (starts, outcome) = schedule(|_| status(503), PER_TRY).await;
        assert_eq!(starts, [0, 32, 66]);
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Transient);
        assert!(error.to_string().contains("after 3 attempts in 96.0 s; the last one: HTTP 503"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_wish_ends_it_at_once_and_is_passed_on() {
        let throttled = |_| Attempt::Again {
            status: Some(429),
            reason: "HTTP 429".into(),
            retry_after: Some(Duration::from_secs(200)),
        };
        let (starts, outcome) = schedule(throttled, Duration::ZERO).await;
        assert_eq!(starts, [0]);
        assert_eq!(outcome.unwrap_err().retry_after(), Some(Duration::from_secs(200)));
    }

    /// With the clock paused, time passes only while everything waits, as here for the schedule.
    #[tokio::test(start_paused = true)]
    async fn an_outage_is_told_after_the_whole_schedule() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut imds = imds(VmIdentity::SystemAssigned);
        imds.endpoint = Url::parse(&format!("http://{closed}")).unwrap();
        let start = Instant::now();
        let error = imds.fetch("https://vault.test/.default").await.unwrap_err();
        assert!(matches!(&error, Error::Unavailable(outage) if outage.attempts == 5), "{error}");
        assert!(start.elapsed() >= Duration::from_secs(30) && start.elapsed() <= PATIENCE.total);
        assert!(error.to_string().contains("check that this node is an Azure VM"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_never_answers_is_given_up_within_the_total() {
        // Connections are accepted by the kernel, and nobody reads them.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut imds = imds(VmIdentity::SystemAssigned);
        imds.endpoint = Url::parse(&format!("http://{}", silent.local_addr().unwrap())).unwrap();
        let start = Instant::now();
        let error = imds.fetch("https://vault.test/.default").await.unwrap_err();
        assert!(matches!(&error, Error::Unavailable(outage) if outage.attempts == 3), "{error}");
        assert_eq!(start.elapsed(), PER_TRY * 3 + Duration::from_secs(6));
        assert!(error.to_string().contains("the last one: no answer within 30 s"), "{error}");
    }

    #[test]
    fn which_answers_are_worth_another_try() {
        let identity = VmIdentity::SystemAssigned;
        let endpoint = Url::parse("http://169.254.169.254").unwrap();
        let again = |status| {
            let answer = http::Answer {
                status,
                headers: reqwest::header::HeaderMap::new(),
                body: zeroize::Zeroizing::new(Vec::new()),
            };
            matches!(read(&answer, &identity, &endpoint), Err(Attempt::Again { .. }))
        };
        for status in [404, 408, 410, 429, 500, 502, 503, 504, 599] {
            assert!(again(status), "{status}");
        }
        for status in [301, 400, 401, 403, 405] {
            assert!(!again(status), "{status}");
        }
    }
}
