//! The few operations needed of Key Vault's REST API
//! (<https://learn.microsoft.com/rest/api/keyvault/>), and their answers.

use std::fmt::Write;

use serde::{Deserialize, Deserializer};
use url::Url;
use zeroize::Zeroizing;

use super::lenient;
use crate::{ObjectKind, convert::Jwk};

const API_VERSION: &str = "7.4";

/// Where an object's version is in its vault, or the current one; the path then ends with a slash.
pub(super) fn object_path(kind: ObjectKind, name: &str, version: &str) -> String {
    format!("{}/{}/{}", kind.collection(), escaped(name), escaped(version))
}

/// Where the first page of an object's versions is.
pub(super) fn versions_path(kind: ObjectKind, name: &str) -> String {
    format!("{}/{}/versions", kind.collection(), escaped(name))
}

/// Where to ask for `next`, which a page of the list at `first` names as the one after it.
///
/// An emulator behind a port mapping names its inner address. What looks like a page of the same list is therefore asked
/// of the vault itself, wherever it is said to be: the token goes nowhere else. `None` for anything else elsewhere.
pub(super) fn next_page(first: &Url, next: Url) -> Option<Url> {
    if next.origin() == first.origin() {
        return Some(next);
    }
    let (list, path) = (first.path().as_bytes(), next.path().as_bytes());
    let same = next.has_host()
        && path.get(..list.len()).is_some_and(|front| front.eq_ignore_ascii_case(list))
        && matches!(path.get(list.len()), None | Some(b'/'));
    same.then(|| {
        let mut here = first.clone();
        here.set_path(next.path());
        here.set_query(next.query());
        here
    })
}

/// The address of such a path.
pub(super) fn address(base: &Url, path: &str) -> Option<Url> {
    Url::parse(&format!("{base}{path}?api-version={API_VERSION}")).ok()
}

/// One segment of a path (RFC 3986 §3.3), with as few escapes as it needs.
fn escaped(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b'~'
            | b'$'
            | b'&'
            | b'+'
            | b'='
            | b':'
            | b'@' => {
                out.push(char::from(byte));
            }
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// What the vault answers, as far as it matters.
#[derive(Debug)]
pub(super) enum Answer {
    Secret(Secret),
    Key(Key),
    Certificate(Certificate),
    /// Newest first, enabled ones only.
    Versions(Vec<String>),
}

/// A secret bundle.
#[derive(Deserialize)]
pub(super) struct Secret {
    #[serde(default, deserialize_with = "wiped")]
    pub(super) value: Option<Zeroizing<String>>,
    pub(super) id: Option<String>,
    pub(super) kid: Option<String>,
    #[serde(rename = "contentType")]
    pub(super) content_type: Option<String>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}

fn wiped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Zeroizing::new))
}

/// A key bundle.
#[derive(Debug, Deserialize)]
pub(super) struct Key {
    pub(super) key: Option<Jwk>,
}

/// A certificate bundle.
#[derive(Debug, Deserialize)]
pub(super) struct Certificate {
    pub(super) cer: Option<String>,
    pub(super) id: Option<String>,
}

/// One page of a list of versions.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    value: Option<Vec<Option<Item>>>,
    #[serde(rename = "nextLink")]
    pub(super) next_link: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Item {
    /// Secrets and certificates have this one.
    id: Option<String>,
    /// Keys have this one, and certificates too, of something else.
    kid: Option<String>,
    attributes: Option<Attributes>,
}

#[derive(Debug, Deserialize)]
struct Attributes {
    enabled: Option<bool>,
    /// Seconds since 1970.
    created: Option<serde_json::Number>,
}

/// A version in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    created: i64,
    name: String,
}

impl Page {
    /// The versions of a page that are enabled, in its order. Items without an id cannot be fetched and are skipped.
    pub(super) fn versions(&self, kind: ObjectKind) -> impl Iterator<Item = Version> {
        self.value.iter().flatten().flatten().filter_map(move |item| {
            let attributes = item.attributes.as_ref()?;
            let id = if kind == ObjectKind::Key { &item.kid } else { &item.id };
            #[expect(clippy::cast_possible_truncation, reason = "a date with a fraction means its second")]
            let created = attributes
                .created
                .as_ref()
                .and_then(|created| {
                    created.as_i64().or_else(|| created.as_f64().map(|seconds| seconds as i64))
                })
                .unwrap_or_default();
            (attributes.enabled != Some(false))
                .then(|| Some(Version { created, name: version_of(id.as_deref()?) }))
                .flatten()
        })
    }
}

/// Newest first; what was created in the same second keeps the vault's order.
pub(super) fn newest_first(mut versions: Vec<Version>) -> Vec<String> {
    versions.sort_by_key(|version| std::cmp::Reverse(version.created));
    versions.into_iter().map(|version| version.name).collect()
}

/// The version in an object's id, its third path segment; empty when it has none.
pub(super) fn version_of(id: &str) -> String {
    let path = id.split_once("://").map_or(id, |(_, rest)| rest).split_once('/').map_or("", |(_, path)| path);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    path.split('/').nth(2).unwrap_or_default().to_owned()
}

/// The error in a body, whatever its shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceError {
    /// `error.code`.
    pub(super) code: Option<String>,
    /// `error.innererror.code`.
    pub(super) inner: Option<String>,
    /// `error.message`, on one line.
    pub(super) message: Option<String>,
}

impl ServiceError {
    pub(super) fn of(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Body {
            error: Option<Error>,
        }
        #[derive(Deserialize)]
        struct Error {
            code: Option<String>,
            message: Option<String>,
            #[serde(alias = "innerError")]
            innererror: Option<Box<Error>>,
        }
        let Ok(Body { error: Some(error) }) = lenient::parse(body) else { return Self::default() };
        // The innermost code is the most particular.
        let mut inner = None;
        let mut below = error.innererror;
        while let Some(error) = below {
            inner = error.code.or(inner);
            below = error.innererror;
        }
        let message = error.message.map(|text| {
            text.split(['\r', '\n'])
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect::<Vec<_>>()
                .join(" ")
        });
        Self { code: error.code, inner, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: ObjectKind =
        ObjectKind::Secret { format: crate::SecretFormat::Pem, encoding: crate::SecretEncoding::Utf8 };

    #[test]
    fn addresses() {
        let base = Url::parse("https://kv1.vault.local:8443/").unwrap();
        for (kind, name, version, address) in [
            (SECRET, "secret1", "", "https://kv1.vault.local:8443/secrets/secret1/?api-version=7.4"),
            (ObjectKind::Key, "k", "v1", "https://kv1.vault.local:8443/keys/k/v1?api-version=7.4"),
            (
                ObjectKind::Certificate,
                "a/b c",
                "",
                "https://kv1.vault.local:8443/certificates/a%2Fb%20c/?api-version=7.4",
            ),
            (SECRET, "ä?#%", "", "https://kv1.vault.local:8443/secrets/%C3%A4%3F%23%25/?api-version=7.4"),
        ] {
            assert_eq!(super::address(&base, &object_path(kind, name, version)).unwrap().as_str(), address);
        }
        assert_eq!(
            address(&base, &versions_path(ObjectKind::Key, "k")).unwrap().as_str(),
            "https://kv1.vault.local:8443/keys/k/versions?api-version=7.4"
        );
    }

    #[test]
    fn pages_are_asked_of_the_vault_itself() {
        let first = Url::parse("https://kv1.vault.local:8443/secrets/n/versions?api-version=7.4").unwrap();
        for (next, asked) in [
            ("https://kv1.vault.local:8443/other?x=1", Some("https://kv1.vault.local:8443/other?x=1")),
            (
                "http://u:p@10.0.0.1:4997/secrets/n/versions?api-version=7.4&$skiptoken=a%2Fb#f",
                Some("https://kv1.vault.local:8443/secrets/n/versions?api-version=7.4&$skiptoken=a%2Fb"),
            ),
            (
                "https://localhost/Secrets/N/versions/2",
                Some("https://kv1.vault.local:8443/Secrets/N/versions/2"),
            ),
            (
                "https://kv1.vault.local/secrets/n/versions",
                Some("https://kv1.vault.local:8443/secrets/n/versions"),
            ),
            ("https://localhost/secrets/n/versions2", None),
            ("https://localhost/secrets/m/versions", None),
            ("https://localhost/secrets/n/versions/../../m", None),
            ("https://localhost/secrets/n", None),
            ("https://localhost/", None),
            ("data:/secrets/n/versions", None),
            ("mailto:secrets/n/versions", None),
        ] {
            let here = next_page(&first, Url::parse(next).unwrap());
            assert_eq!(here.as_ref().map(Url::as_str), asked, "{next}");
        }
    }

    #[test]
    fn versions_in_ids() {
        for (id, version) in [
            ("https://kv1.vault.azure.net/secrets/n/abc", "abc"),
            ("https://kv1.vault.azure.net/secrets/n", ""),
            ("https://kv1.vault.azure.net/secrets/n/", ""),
            ("https://kv1.vault.azure.net/keys/n/abc?x=/y", "abc"),
            ("", ""),
            ("nonsense", ""),
        ] {
            assert_eq!(version_of(id), version, "{id}");
        }
    }

    #[test]
    fn lists_are_filtered_and_sorted() {
        let page: Page = serde_json::from_str(
            r#"{"value":[
                {"id":"https://v/secrets/n/old","attributes":{"enabled":true,"created":100}},
                {"id":"https://v/secrets/n/off","attributes":{"enabled":false,"created":900}},
                {"id":"https://v/secrets/n/new","attributes":{"created":300}},
                {"id":"https://v/secrets/n/bare"},
                null,
                {"attributes":{"created":400}},
                {"id":"https://v/secrets/n/undated","attributes":{}},
                {"id":"https://v/secrets/n/twin","attributes":{"created":300}}
            ],"nextLink":null}"#,
        )
        .unwrap();
        assert_eq!(newest_first(page.versions(SECRET).collect()), ["new", "twin", "old", "undated"]);
        let empty: Page = serde_json::from_str("{}").unwrap();
        assert_eq!(empty.versions(SECRET).count(), 0);
    }

    #[test]
    fn errors_of_all_shapes() {
        let of = |body: &str| ServiceError::of(body.as_bytes());
        let error = of(
            r#"{"error":{"code":"Forbidden","message":"a\r\nb","innererror":{"code":"ForbiddenByRbac"}}}"#,
        );
        assert_eq!(error.inner.as_deref(), Some("ForbiddenByRbac"));
        assert_eq!(error.message.as_deref(), Some("a b"));
        assert_eq!(
            of(r#"{"error":{"code":"Forbidden","innerError":{"code":"SecretDisabled"}}}"#).inner.as_deref(),
            Some("SecretDisabled")
        );
        assert_eq!(
            of(r#"{"error":{"code":"X","innererror":{"code":"A","innererror":{"code":"B","extra":[1]}}}}"#)
                .inner
                .as_deref(),
            Some("B")
        );
        assert_eq!(of("<html>").code, None);
        assert_eq!(of(r#"{"error":"text"}"#), ServiceError::default());
    }

    proptest! {
        #[test]
        fn never_panics(body in any::<Vec<u8>>(), text in any::<String>()) {
            let _ = ServiceError::of(&body);
            let _ = serde_json::from_slice::<Page>(&body);
            let _ = version_of(&text);
            let base = Url::parse("https://v/").unwrap();
            let url = address(&base, &object_path(SECRET, &format!("x{text}"), "")).unwrap();
            prop_assert!(url.path().starts_with("/secrets/x"));
            prop_assert_eq!(url.path_segments().unwrap().count(), 3);
        }
    }
}
