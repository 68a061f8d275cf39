//! One GET, with everything that can come between: tokens, challenges, throttling, outages, redirects.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use azure_core::credentials::TokenCredential;
use reqwest::{Method, Request, Response, StatusCode, header};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep_until, timeout_at},
};
use trace::Span;
use url::Url;
use zeroize::Zeroizing;

use super::{
    api::ServiceError,
    auth::{Challenge, Credential},
    error::Cause,
    limits::{Urgency, Vault},
    retry::{self, Dice},
    transport::{Transport, Unreachable},
};
use crate::{Observer, VaultEndpoint};

/// One attempt that takes longer, from the first byte sent to the last received, is given up and tried again. The HTTP
/// client is not relied on for that.
pub(super) const LONGEST_ATTEMPT: Duration = Duration::from_mins(1);
const MOST_REDIRECTS: usize = 3;
/// Enough of an error's body to find its code in.
const LARGEST_ERROR: usize = 64 << 10;

/// Who asks which vault, until when.
pub(super) struct Exchange<'a> {
    pub(super) transport: &'a dyn Transport,
    pub(super) vault: &'a Vault,
    pub(super) urgency: &'a Urgency,
    pub(super) endpoint: &'a VaultEndpoint,
    pub(super) credential: &'a dyn Credential,
    pub(super) deadline: Instant,
    pub(super) largest_body: usize,
    pub(super) learnt: &'a Learnt,
    /// Counts what is sent.
    pub(super) requests: &'a AtomicU32,
    pub(super) observer: &'a dyn Observer,
}

/// The scope a vault named when asked without a token, as far as one fetch has asked; `None` when it named none.
pub(super) type Learnt = OnceCell<Option<String>>;

/// What one attempt came to.
enum Attempt {
    Done(Zeroizing<Vec<u8>>),
    /// Ask for a token for this scope and try again.
    OtherScope(String),
    /// The token was refused; another may not be.
    OtherToken {
        cause: Cause,
        /// The vault said which token it wants.
        challenged: bool,
    },
    /// Try again after a wait, which the vault may have named.
    Again {
        cause: Cause,
        asked_for: Option<Duration>,
        most: u32,
    },
    /// Try again when the vault wants to be asked at all, as long as there is time.
    Later {
        cause: Cause,
        asked_for: Option<Duration>,
    },
}

impl Exchange<'_> {
    /// The body of a 200.
    ///
    /// # Errors
    /// The last cause when nothing more can be tried before the deadline.
    pub(super) async fn get(&self, url: &Url) -> Result<Zeroizing<Vec<u8>>, Cause> {
        // The scope a vault named is right; before it has named one, its own domain's is only likely.
        let remembered = self.vault.scope();
        let mut scope = remembered.clone().unwrap_or_else(|| Challenge::scope(self.endpoint.resource()));
        let told = remembered.is_some();
        let mut rescoped = 0;
        let mut retries = 0;
        let mut sent = 0;
        let mut no_token = None;
        let mut refused = false;
        loop {
            let token = match self.token(&scope).await {
                Ok(token) => Some(token),
                // Entra may not know that resource: let the vault say what it wants, if there is time left.
                Err(cause) if !told && rescoped == 0 && !matches!(cause, Cause::NoToken { .. }) => {
                    no_token = Some(cause);
                    None
                }
                Err(cause) => return Err(cause),
            };
            let turn = self.vault.turn(self.urgency, self.deadline).await?;
            let attempt = self.attempt(url, &scope, token.as_deref().map(String::as_str), sent).await;
            sent += 1;
            match &attempt {
                Ok(Attempt::Later { cause, asked_for }) => {
                    turn.throttled(*asked_for, cause);
                    self.observer.throttled(self.endpoint.url().authority(), self.vault.pause_left());
                }
                // No answer says nothing about how much the vault can bear.
                Ok(Attempt::Again { .. }) => drop(turn),
                Ok(_) | Err(_) => turn.answered(),
            }
            let attempt = match attempt {
                // What stopped the token is what went wrong.
                Err(cause) if token.is_none() => return Err(no_token.unwrap_or(cause)),
                outcome => outcome,
            };
            // The audience was only guessed, and is not called wrong by every vault that finds it so.
            let doubtful = !told
                && rescoped == 0
                && token.is_some()
                && matches!(
                    attempt,
                    Err(Cause::Status { status: 403, .. })
                        | Ok(Attempt::OtherToken { challenged: false, .. })
                );
            let attempt =
                if doubtful && let Some(wanted) = self.learn(url).await.filter(|wanted| *wanted != scope) {
                    Attempt::OtherScope(wanted)
                } else {
                    attempt?
                };
            match attempt {
                Attempt::Done(body) => {
                    if !told && token.is_some() {
                        // A guess that was taken is one no longer.
                        self.vault.remember_scope(&scope);
                    }
                    return Ok(body);
                }
                Attempt::OtherScope(_) if rescoped == 2 => return Err(Cause::UnsteadyChallenge),
                Attempt::OtherScope(wanted) => {
                    self.vault.remember_scope(&wanted);
                    scope = wanted;
                    rescoped += 1;
                }
                Attempt::OtherToken { cause, .. } => {
                    let Some(token) = &token else { return Err(no_token.unwrap_or(cause)) };
                    self.credential.refused(token);
                    if std::mem::replace(&mut refused, true) {
                        return Err(cause);
                    }
                }
                // The next turn comes when the vault's pause is over, or not at all.
                Attempt::Later { cause, .. } => {
                    tracing::debug!(vault = %self.endpoint, %cause, "asking later");
                }
                Attempt::Again { cause, asked_for, most } => {
                    if retries >= most {
                        return Err(cause);
                    }
                    let wait = asked_for.unwrap_or_else(|| Dice::new(None).around(retry::backoff(retries)));
                    let at = Instant::now() + wait;
                    if at >= self.deadline {
                        return Err(cause);
                    }
                    retries += 1;
                    tracing::debug!(vault = %self.endpoint, retries, %cause, "asking again");
                    sleep_until(at).await;
                }
            }
        }
    }

    /// The scope the vault names to whoever comes without a token, if it names one that may be sent there. Asked once
    /// per fetch; what stands in the way of an answer is not worth another error than the one that led here.
    async fn learn(&self, url: &Url) -> Option<String> {
        let ask = || async {
            let _turn = self.vault.turn(self.urgency, self.deadline).await.ok()?;
            let until = self.deadline.min(Instant::now() + LONGEST_ATTEMPT);
            let response = timeout_at(until, self.send(url, None, 0)).await.ok()?.ok()?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return None;
            }
            let resource = Challenge::of(response.headers())?.resource?;
            self.endpoint.accepts_resource(&resource).ok()?;
            let scope = Challenge::scope(&resource);
            // Also when it is the guess: then it need not be doubted again.
            self.vault.remember_scope(&scope);
            Some(scope)
        };
        self.learnt.get_or_init(ask).await.clone()
    }

    async fn token(&self, scope: &str) -> Result<Zeroizing<String>, Cause> {
        let scopes = [scope];
        let began = Instant::now();
        let token = TokenCredential::get_token(self.credential, &scopes, None);
        match timeout_at(self.deadline, token).await {
            Ok(Ok(token)) => Ok(Zeroizing::new(token.token.secret().to_owned())),
            Ok(Err(error)) => Err(Cause::credential(&error)),
            Err(_) => Err(Cause::NoToken { from: self.credential.source(), waited: began.elapsed() }),
        }
    }

    async fn attempt(
        &self,
        url: &Url,
        scope: &str,
        token: Option<&str>,
        resent: u32,
    ) -> Result<Attempt, Cause> {
        let began = Instant::now();
        let until = self.deadline.min(began + LONGEST_ATTEMPT);
        let work = async {
            let response = match self.send(url, token, resent).await {
                Ok(response) => response,
                Err(cause) => return Err(cause),
            };
            self.understand(response, scope, token).await
        };
        match timeout_at(until, work).await {
            Ok(Err(cause)) if cause.is_worth_reconnecting() => {
                Ok(Attempt::Again { cause, asked_for: None, most: retry::MOST_RECONNECTS })
            }
            Ok(outcome) => outcome,
            Err(_) => {
                let cause = Cause::TooLate { waiting_for: "an answer", waited: began.elapsed() };
                Ok(Attempt::Again { cause, asked_for: None, most: retry::MOST_RECONNECTS })
            }
        }
    }

    /// Sends, and follows redirects as long as they stay at this vault.
    async fn send(&self, url: &Url, token: Option<&str>, resent: u32) -> Result<Response, Cause> {
        let mut url = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = Request::new(Method::GET, url.clone());
            let headers = request.headers_mut();
            headers.insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
            if let Some(token) = token {
                let mut bearer =
                    header::HeaderValue::from_maybe_shared(format!("Bearer {token}")).map_err(|_| {
                        Cause::Credential { text: "the token is not one".to_owned(), transient: false }
                    })?;
                bearer.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, bearer);
            }
            let mut span = Span::begin("GET", trace::Kind::Client);
            span.tell("http.request.method", "GET");
            span.tell("url.full", &url);
            span.tell("server.address", url.host_str().unwrap_or_default());
            span.set("server.port", url.port_or_known_default().unwrap_or_default());
            if resent > 0 {
                span.set("http.request.resend_count", resent);
            }
            // Key Vault's diagnostic logs show the second one as the correlation id.
            let ids =
                [("traceparent", span.traceparent()), ("x-ms-client-request-id", span.trace_id().to_guid())];
            for (name, value) in ids {
                if let Ok(value) = header::HeaderValue::from_maybe_shared(value) {
                    headers.insert(name, value);
                }
            }
            self.requests.fetch_add(1, Relaxed);
            span.sent();
            let response = self.transport.execute(request).await;
            self.observer.answered(response.as_ref().ok().map(|response| response.status().as_u16()));
            let response = response.map_err(|Unreachable(cause)| {
                span.tell("error.type", "unreachable");
                span.fail(&cause);
                cause
            })?;
            let status = response.status().as_u16();
            span.answered(status);
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let target = response
                .headers()
                .get(header::LOCATION)
                .and_then(|location| location.to_str().ok())
                .and_then(|location| url.join(location).ok())
                .filter(|target| target.origin() == self.endpoint.url().origin())
                .ok_or(Cause::Elsewhere { what: "a redirect" })?;
            url = target;
        }
        Err(Cause::Elsewhere { what: "one redirect after another" })
    }

    async fn understand(
        &self,
        response: Response,
        scope: &str,
        token: Option<&str>,
    ) -> Result<Attempt, Cause> {
        let status = response.status();
        if status == StatusCode::OK {
            return self.body(response).await.map(Attempt::Done);
        }
        let headers = response.headers().clone();
        let error = ServiceError::of(&excerpt(response).await);
        let asked_for = retry::asked_for(&headers, SystemTime::now());
        match status.as_u16() {
            401 => {
                let challenge = Challenge::of(&headers);
                if let Some(resource) = challenge.as_ref().and_then(|challenge| challenge.resource.as_deref())
                {
                    self.endpoint.accepts_resource(resource).map_err(Cause::Mismatch)?;
                    let wanted = Challenge::scope(resource);
                    if wanted != scope {
                        return Ok(Attempt::OtherScope(wanted));
                    }
                } else if token.is_none() {
                    return Err(Cause::Refused { error, claims: false });
                }
                let challenged = challenge
                    .as_ref()
                    .is_some_and(|challenge| challenge.resource.is_some() || challenge.claims);
                let claims = challenge.is_some_and(|challenge| challenge.claims);
                Ok(Attempt::OtherToken { cause: Cause::Refused { error, claims }, challenged })
            }
            429 => Ok(Attempt::Later { cause: Cause::Status { status: 429, error }, asked_for }),
            // Other trouble may be this object's alone.
            status @ (408 | 500 | 502 | 503 | 504) => Ok(Attempt::Again {
                cause: Cause::Status { status, error },
                asked_for,
                most: retry::MOST_RETRIES,
            }),
            status => Err(Cause::Status { status, error }),
        }
    }

    async fn body(&self, mut response: Response) -> Result<Zeroizing<Vec<u8>>, Cause> {
        let announced =
            response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let mut body = Zeroizing::new(Vec::with_capacity(announced.clamp(4 << 10, self.largest_body)));
        while let Some(chunk) = response.chunk().await.map_err(Cause::network)? {
            if body.len() + chunk.len() > self.largest_body {
                return Err(Cause::TooLarge { limit: self.largest_body });
            }
            if body.capacity() - body.len() < chunk.len() {
                // Grown by hand, so that what is left behind is wiped.
                let mut larger = Zeroizing::new(Vec::with_capacity(2 * (body.len() + chunk.len())));
                larger.extend_from_slice(&body);
                body = larger;
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// The front of an error's body; what cannot be read is not worth another error.
async fn excerpt(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(LARGEST_ERROR - body.len())]);
        if body.len() == LARGEST_ERROR {
            break;
        }
    }
    body
}
