//! Which proxy a host is reached through, decided by the very code that the HTTP client decides with.

use hyper_util::client::proxy::matcher::Matcher;
use std::fmt;
use url::Url;

/// The variables that say it, in either letter case.
const VARIABLES: [&str; 3] = ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Path {
    /// Straight.
    Direct,
    /// Through a proxy at this address, without its user name and password.
    Proxy(String),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("directly"),
            Self::Proxy(address) => write!(f, "through the proxy {address}"),
        }
    }
}

/// How `url` is reached, by the environment.
pub(super) fn path_to(url: &Url) -> Path {
    let Ok(target) = url.as_str().parse() else { return Path::Direct };
    match Matcher::from_env().intercept(&target) {
        None => Path::Direct,
        Some(proxy) => Path::Proxy(address(&proxy.uri().to_string())),
    }
}

/// The variables that are set, with the user names and passwords of proxies taken out.
pub(super) fn variables() -> Vec<String> {
    let mut set = Vec::new();
    for name in VARIABLES {
        for name in [name.to_owned(), name.to_ascii_lowercase()] {
            if let Some(value) = std::env::var(&name).ok().filter(|value| !value.is_empty()) {
                let shown = if name.eq_ignore_ascii_case("NO_PROXY") { value } else { address(&value) };
                set.push(format!("{name}={shown}"));
            }
        }
    }
    set
}

/// A proxy's address without what is secret in it.
pub(super) fn address(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_in_an_address_is_not_shown() {
        for (given, shown) in [
            ("http://proxy:3128/", "http://proxy:3128"),
            ("http://me:pass%40word@proxy:3128/x?y", "http://proxy:3128"),
            ("me:p@ss@proxy:3128", "http://proxy:3128"),
            ("https://[::1]:3128", "https://[::1]:3128"),
        ] {
            assert_eq!(address(given), shown);
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_before_an_at_sign_is_shown(user in "[a-z]{1,9}", password in "[A-Z0-9:@]{8,20}") {
            let shown = address(&format!("http://{user}:{password}@host:1"));
            proptest::prop_assert_eq!(shown, "http://host:1");
        }
    }
}
