//! Tokens for a vault, and the challenges by which it asks for them.

use azure_core::credentials::TokenCredential;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// How a vault asks for tokens.
///
/// The token itself comes from [`TokenCredential::get_token`], with the scope the vault wants.
pub trait Credential: TokenCredential {
    /// Who this is, as the kubelet vouches for it. Equal keys are the same identity and may share what was fetched;
    /// `None` shares with nobody.
    fn key(&self) -> Option<&str>;

    /// The vault answered 401 to this token: it must not be handed out again.
    fn refused(&self, token: &str);

    /// Who this is in words, for messages: `workload identity <client id> of <namespace>/<service account> in tenant <t>`.
    fn describe(&self) -> String;

    /// Where its tokens come from, for messages: the address of a token authority or metadata service.
    fn source(&self) -> String;
}

/// What a 401 says about the token wanted (RFC 6750 §3, and the Azure SDKs' reading of it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    /// `scope`, else `resource`: the audience.
    pub(super) resource: Option<String>,
    /// The token lacks claims: another one is needed, of the same audience.
    pub(super) claims: bool,
}

impl Challenge {
    /// The Bearer challenge among `headers`; `None` when there is none.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        headers.get_all(WWW_AUTHENTICATE).iter().find_map(|header| Self::parse(header.to_str().ok()?))
    }

    fn parse(header: &str) -> Option<Self> {
        let header = header.trim_start();
        let (scheme, mut rest) = header.split_once(|c: char| c.is_whitespace()).unwrap_or((header, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut scope, mut resource, mut claims) = (None, None, false);
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            let Some((name, after)) = rest.split_once('=') else { break };
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => {
                    after.split_at(after.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(after.len()))
                }
            };
            rest = after;
            let slot = match name.trim().to_ascii_lowercase().as_str() {
                "scope" => &mut scope,
                "resource" => &mut resource,
                "claims" => {
                    claims = true;
                    continue;
                }
                "error" => {
                    claims |= value == "insufficient_claims";
                    continue;
                }
                _ => continue,
            };
            if !value.is_empty() {
                *slot = Some(value.to_owned());
            }
        }
        Some(Self { resource: scope.or(resource), claims })
    }

    /// The scope to ask a token for.
    pub(super) fn scope(resource: &str) -> String {
        if resource.ends_with("/.default") { resource.to_owned() } else { format!("{resource}/.default") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges() {
        let challenge = |resource: Option<&str>, claims| {
            Some(Challenge { resource: resource.map(str::to_owned), claims })
        };
        let vault = Some("https://vault.azure.net");
        for (header, expected) in [
            (
                r#"Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net""#,
                challenge(vault, false),
            ),
            (
                "Bearer authorization=https://login/t, resource=https://vault.azure.net",
                challenge(vault, false),
            ),
            ("bearer resource=https://vault.azure.net", challenge(vault, false)),
            (
                r#"Bearer authorization="https://login/t" resource="https://a" scope="https://vault.azure.net""#,
                challenge(vault, false),
            ),
            (
                r#"Bearer error="insufficient_claims", claims="e30=", resource="https://vault.azure.net""#,
                challenge(vault, true),
            ),
            ("Bearer", challenge(None, false)),
            (r#"Bearer resource="""#, challenge(None, false)),
            (r#"Bearer resource="https://unclosed"#, challenge(Some("https://unclosed"), false)),
            ("Basic realm=x", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    #[test]
    fn scopes() {
        assert_eq!(Challenge::scope("https://vault.azure.net"), "https://vault.azure.net/.default");
        assert_eq!(Challenge::scope("https://vault.azure.net/.default"), "https://vault.azure.net/.default");
    }

    proptest! {
        #[test]
        fn never_panics(header in any::<String>(), near in "Bearer( |,|=|\"|scope|x){0,20}") {
            let _ = Challenge::parse(&header);
            let _ = Challenge::parse(&near);
        }
    }
}
