//! The keys of external issuers: given in advance or fetched from where the issuer publishes them.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use serde_json::Value;

use super::jwt::{Jwt, PublicKey};

const FETCH_LIMIT: Duration = Duration::from_secs(10);

/// Why a signature could not be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Distrust {
    /// The issuer's documents could not be read.
    Unreachable(String),
    /// No published key has the token's key id.
    UnknownKey,
    /// The key does not match the signature.
    BadSignature,
}

/// What is known of external issuers. Fetched keys are kept, and fetched anew when a token names one not among them.
#[derive(Debug, Default)]
pub(crate) struct Issuers {
    registered: Mutex<HashMap<String, Value>>,
    fetched: Mutex<HashMap<String, Value>>,
    authorities: Mutex<Vec<String>>,
}

impl Issuers {
    pub(super) fn register(&self, issuer: &str, jwks: Value) {
        self.registered.lock().insert(issuer.to_owned(), jwks);
    }

    pub(super) fn trust(&self, pem: &str) {
        self.authorities.lock().push(pem.to_owned());
    }

    pub(super) async fn verify(&self, token: &Jwt<'_>) -> Result<(), Distrust> {
        let issuer = token.text("iss");
        let registered = self.registered.lock().get(issuer).cloned();
        if let Some(jwks) = registered {
            return check(token, &jwks);
        }
        let kept = self.fetched.lock().get(issuer).cloned();
        match kept.map(|jwks| check(token, &jwks)) {
            Some(Ok(())) => return Ok(()),
            Some(Err(Distrust::BadSignature)) => return Err(Distrust::BadSignature),
            Some(Err(Distrust::UnknownKey | Distrust::Unreachable(_))) | None => {}
        }
        let jwks = self.fetch(issuer).await.map_err(Distrust::Unreachable)?;
        let verdict = check(token, &jwks);
        self.fetched.lock().insert(issuer.to_owned(), jwks);
        verdict
    }

    /// Discovery as OpenID Connect has it: the document names the keys' address and must name its own issuer.
    async fn fetch(&self, issuer: &str) -> Result<Value, String> {
        let mut builder = reqwest::Client::builder().no_proxy().timeout(FETCH_LIMIT);
        for pem in &*self.authorities.lock() {
            let certificates =
                reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| error.to_string())?;
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().map_err(|error| chain(&error))?;
        let get = async |url: &str| -> Result<Value, String> {
            let response = client.get(url).send().await.map_err(|error| chain(&error))?;
            let response = response.error_for_status().map_err(|error| chain(&error))?;
            let bytes = response.bytes().await.map_err(|error| chain(&error))?;
            serde_json::from_slice(&bytes).map_err(|error| format!("{url}: {error}"))
        };
        let document =
            get(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))).await?;
        if document["issuer"] != issuer {
            return Err(format!(
                "the discovery document of {issuer} names another issuer: {}",
                document["issuer"]
            ));
        }
        let keys = document["jwks_uri"].as_str().ok_or("the discovery document has no jwks_uri")?;
        get(keys).await
    }
}

fn check(token: &Jwt<'_>, jwks: &Value) -> Result<(), Distrust> {
    let empty = Vec::new();
    let keys = jwks["keys"].as_array().unwrap_or(&empty);
    let named: Vec<&Value> = match token.key_id() {
        Some(id) => keys.iter().filter(|key| key["kid"] == id).collect(),
        None => keys.iter().collect(),
    };
    if named.is_empty() {
        return Err(Distrust::UnknownKey);
    }
    let signed = named.into_iter().filter_map(PublicKey::from_jwk).any(|key| token.is_signed_by(&key));
    if signed { Ok(()) } else { Err(Distrust::BadSignature) }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
