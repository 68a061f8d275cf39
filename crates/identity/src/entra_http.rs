//! The transport under the Azure SDK's credentials, and what comes over it instead of a token.

use async_trait::async_trait;
use azure_core::{
    Bytes,
    error::ErrorKind,
    http::{AsyncRawResponse, Body, HttpClient, Method, Request, headers::Headers},
};
use url::Url;

use crate::{error::chain, error_answer::ErrorAnswer, http, token_answer::TokenAnswer, token_proxy::Route};

/// The SDK's transport: a reqwest client that tells refusals and outages apart and keeps what they say.
#[derive(Debug)]
pub(crate) struct EntraHttp {
    client: reqwest::Client,
    route: Option<Route>,
    /// Where to post instead of Entra's usual path.
    pub(crate) endpoint: Option<Url>,
}

impl EntraHttp {
    pub(crate) fn new(client: reqwest::Client, route: Option<Route>) -> Self {
        Self { client, route, endpoint: None }
    }

    fn request(&self, from: &Request) -> Result<reqwest::Request, String> {
        let method = match from.method() {
            Method::Post => reqwest::Method::POST,
            Method::Get => reqwest::Method::GET,
            other => return Err(format!("unexpected method {other}")),
        };
        let mut url = self.endpoint.as_ref().unwrap_or(from.url()).clone();
        let mut host = None;
        if let Some(route) = &self.route {
            host = url.host_str().map(|name| match url.port() {
                Some(port) => format!("{name}:{port}"),
                None => name.to_owned(),
            });
            url = route.through(&url);
        }
        let mut request = self.client.request(method, url);
        for (name, value) in from.headers().iter() {
            request = request.header(name.as_str(), value.as_str());
        }
        if let Some(host) = host {
            request = request.header(reqwest::header::HOST, host);
        }
        match from.body() {
            Body::Bytes(bytes) => request = request.body(bytes.clone()),
            Body::SeekableStream(_) => return Err("unexpected streaming body".to_owned()),
        }
        request.build().map_err(|e| chain(&e.without_url()))
    }
}

#[async_trait]
impl HttpClient for EntraHttp {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        // `Other` in all cases: the SDK repeats `Io` and `Connection` by itself.
        let other = ErrorKind::Other;
        let sent = match self.request(request) {
            Ok(request) => http::send(&self.client, request).await,
            Err(reason) => Err(reason),
        };
        match sent {
            Ok(answer) if answer.is_success() => {
                // The SDK takes an answer without a token for an empty token, an answer without a lifetime
                // for a token at its end, no lifetime that is not a whole number, and panics over an absurd
                // one. It gets what was read here.
                let plain = TokenAnswer::read(&answer.body)
                    .and_then(|token| TokenAnswer::plain(&token))
                    .map_err(|reason| azure_core::Error::new(other, Reply::NoToken(reason)))?;
                let status = answer.status.into();
                Ok(AsyncRawResponse::from_bytes(status, Headers::new(), Bytes::from_owner(plain)))
            }
            Ok(answer) => Err(azure_core::Error::new(other, Reply::Said(ErrorAnswer::read(&answer)))),
            Err(reason) => Err(azure_core::Error::new(other, Reply::Silent(reason))),
        }
    }
}

/// What came instead of a token; found again inside the SDK's error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Reply {
    /// A refusal.
    #[error("HTTP {}", .0.status)]
    Said(ErrorAnswer),
    /// A success without a token.
    #[error("{0}")]
    NoToken(String),
    /// No answer at all.
    #[error("{0}")]
    Silent(String),
}
