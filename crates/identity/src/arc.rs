//! The identity of a machine outside Azure, from the Azure Arc agent
//! (<https://learn.microsoft.com/azure/azure-arc/servers/managed-identity-authentication>).
//!
//! The agent answers the first request with the path of a file only privileged processes can read; sending
//! its content back proves that one is such a process. The Azure SDK for Rust has no such credential yet.

use std::{
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use tokio::io::AsyncReadExt;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    Error, VmIdentity,
    cache::Source,
    error::chain,
    gate::Gate,
    http,
    imds::{CREDENTIAL, ask, read, repeat, resource},
    redact::excerpt,
    retry::Attempt,
    token::Token,
};

const API_VERSION: &str = "2019-11-01";

/// Longest key file that is read; the agent's are a few hundred bytes.
const LONGEST_KEY: u64 = 4096;

/// Where the Arc agent is.
#[derive(Clone, Debug)]
pub struct ArcAgent {
    /// The agent's token address, as `IDENTITY_ENDPOINT` gives it.
    pub endpoint: Url,
    /// The folder the agent puts its key files in. Files elsewhere are never read, whatever the challenge
    /// says.
    pub key_folder: PathBuf,
}

impl ArcAgent {
    /// The agent at the given `IDENTITY_ENDPOINT`, with its key files where it keeps them on Linux.
    pub fn new(endpoint: Url) -> Self {
        Self { endpoint, key_folder: PathBuf::from("/var/opt/azcmagent/tokens") }
    }
}

/// Tokens of the machine's identity.
pub(crate) struct ArcSource {
    pub(crate) client: reqwest::Client,
    pub(crate) agent: ArcAgent,
    pub(crate) gate: Arc<Gate>,
}

#[async_trait]
impl Source for ArcSource {
    async fn fetch(&self, scope: &str) -> Result<Token, Error> {
        let mut url = self.agent.endpoint.clone();
        url.query_pairs_mut()
            .clear()
            .append_pair("api-version", API_VERSION)
            .append_pair("resource", resource(scope));
        let identity = VmIdentity::SystemAssigned;
        repeat(&identity, &self.agent.endpoint, || async {
            let _turn = self.gate.enter().await;
            let challenge = self.send(&url, None).await?;
            if challenge.status != 401 {
                return read(&challenge, &identity, &self.agent.endpoint);
            }
            let key = self.key(&challenge).await.map_err(|reason| self.no_token(reason))?;
            let answer = self.send(&url, Some(&key)).await?;
            read(&answer, &identity, &self.agent.endpoint)
        })
        .await
    }
}

impl ArcSource {
    async fn send(&self, url: &Url, key: Option<&str>) -> Result<http::Answer, Attempt> {
        let mut request = self.client.get(url.clone()).header("Metadata", "true");
        if let Some(key) = key {
            let mut value = reqwest::header::HeaderValue::from_str(&format!("Basic {key}"))
                .map_err(|_| self.no_token("the agent's key file holds control characters".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request =
            request.build().map_err(|e| Attempt::Final(Error::internal(chain(&e.without_url()))))?;
        ask(&self.client, request).await
    }

    /// Reads the key file the challenge names, if it is one of the agent's.
    async fn key(&self, challenge: &http::Answer) -> Result<Zeroizing<String>, String> {
        let header = challenge.headers.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let path =
            header.and_then(realm).ok_or("the agent's 401 has no WWW-Authenticate: Basic realm=FILE")?;
        let path = key_path(path, &self.agent.key_folder)?;
        let shown = excerpt(&path.display().to_string(), 200);
        let failed = |e: io::Error| {
            format!(
                "the agent's key file {shown} cannot be read ({e}); mount {} into the driver's container and \
                 let it read as a member of group himds",
                self.agent.key_folder.display()
            )
        };
        let found = tokio::fs::symlink_metadata(&path).await.map_err(failed)?;
        if !found.is_file() || found.len() > LONGEST_KEY {
            return Err(format!("the agent's key file {shown} is no file of at most {LONGEST_KEY} bytes"));
        }
        let file = tokio::fs::File::open(&path).await.map_err(failed)?;
        let mut key = Zeroizing::new(String::with_capacity(4096));
        file.take(LONGEST_KEY).read_to_string(&mut key).await.map_err(failed)?;
        Ok(key)
    }

    fn no_token(&self, reason: String) -> Attempt {
        Attempt::Final(Error::Answer {
            credential: CREDENTIAL,
            from: format!("the Arc agent at {}", self.agent.endpoint.origin().ascii_serialization()),
            reason,
        })
    }
}

/// The realm of a Basic challenge, quoted or not.
fn realm(header: &str) -> Option<&str> {
    let (scheme, rest) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let (name, value) = rest.split_once('=')?;
    name.trim().eq_ignore_ascii_case("realm").then(|| value.trim().trim_matches('"'))
}

/// Accepts `FOLDER/NAME.key` and nothing that leads elsewhere: whoever answers on the agent's port could
/// otherwise have any file of the node sent to him.
fn key_path(path: &str, folder: &Path) -> Result<PathBuf, String> {
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if plain && path.parent() == Some(folder) && path.extension().is_some_and(|end| end == "key") {
        return Ok(path.to_owned());
    }
    Err(format!(
        "the agent's 401 names {:?}, which is no .key file in {}",
        excerpt(&path.display().to_string(), 200),
        folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn realms() {
        assert_eq!(realm("Basic realm=/a/b.key"), Some("/a/b.key"));
        assert_eq!(realm(" basic Realm=\"/a/b.key\""), Some("/a/b.key"));
        for other in ["", "Basic", "Bearer realm=/a", "Basic nonce=1"] {
            assert_eq!(realm(other), None, "{other}");
        }
    }

    #[test]
    fn only_the_agents_own_files() {
        let folder = Path::new("/var/opt/azcmagent/tokens");
        let good = "/var/opt/azcmagent/tokens/0a-1.key";
        assert_eq!(key_path(good, folder).unwrap(), Path::new(good));
        for bad in [
            "/etc/shadow",
            "/var/opt/azcmagent/tokens/x",
            "/var/opt/azcmagent/tokens/../x.key",
            "/var/opt/azcmagent/tokens/sub/x.key",
            "/var/opt/azcmagent/tokens/../../../../etc/x.key",
            "x.key",
            "",
        ] {
            assert!(key_path(bad, folder).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_taken(header in any::<String>()) {
            if let Some(path) = realm(&header) {
                let _ = key_path(path, Path::new("/k"));
            }
        }
    }
}
