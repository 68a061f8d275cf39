//! Where an authority says that its tokens are to be had.

use reqwest::header::ACCEPT;
use serde::Deserialize;
use url::Url;

use crate::{
    entra::{Party, Shown},
    retry::Attempt,
};

/// Asks a metadata document (OpenID Connect Discovery 1.0 §4) for its `token_endpoint`, which is always https:
/// a secret goes there.
pub(crate) async fn token_endpoint(
    client: &reqwest::Client,
    document: &str,
    party: &Party,
    shown: &Shown,
) -> Result<Url, Attempt> {
    #[derive(Deserialize)]
    struct Metadata {
        token_endpoint: String,
    }
    let request = client.get(document).header(ACCEPT, "application/json");
    let answer = party.ask(client, request, shown).await?;
    let metadata: Metadata = serde_json::from_slice(&answer.body)
        .map_err(|e| party.no_token(&format!("the metadata document has no token_endpoint: {e}"), shown))?;
    Url::parse(&metadata.token_endpoint)
        .ok()
        .filter(|endpoint| endpoint.scheme() == "https")
        .ok_or_else(|| party.no_token("the metadata document's token_endpoint is no https URL", shown))
}
