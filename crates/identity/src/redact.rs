//! Keeping secrets out of texts that people read.

use std::borrow::Cow;

/// What stands where a secret stood.
pub(crate) const REDACTED: &str = "[redacted]";

/// Cuts text of unknown origin to `most` characters on one line: control characters become blanks, runs of
/// blanks become one.
pub(crate) fn excerpt(text: &str, most: usize) -> String {
    let mut out = String::new();
    let mut blank = false;
    let mut count = 0;
    for c in text.chars() {
        if c.is_whitespace() || c.is_control() {
            blank = !out.is_empty();
            continue;
        }
        if count >= most {
            out.push('…');
            break;
        }
        if blank {
            out.push(' ');
            count += 1;
            blank = false;
        }
        out.push(c);
        count += 1;
    }
    out
}

/// As [`excerpt`], with blanks and control characters as they are: for text that is shown in quotes and escaped
/// (`{:?}`), where they are what is wrong with it.
pub(crate) fn verbatim(text: &str, most: usize) -> String {
    let mut out: String = text.chars().take(most).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

/// Takes out of an upstream's answer everything that is or looks like a token: an intermediary may echo the
/// request back, and what it says ends up in a Kubernetes event.
pub(crate) fn scrub<'a>(text: &'a str, secrets: &[&str]) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    for secret in secrets {
        if !secret.is_empty() && text.contains(secret) {
            text = Cow::Owned(text.replace(secret, REDACTED));
        }
        // A form body echoed back carries the secret percent-encoded.
        let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        if !encoded.is_empty() && encoded != *secret && text.contains(&encoded) {
            text = Cow::Owned(text.replace(&encoded, REDACTED));
        }
    }
    scrub_tokens(text)
}

/// Replaces words that begin like the base64url of a JSON object (`eyJ`) and are long enough to be a JWT.
fn scrub_tokens(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.contains("eyJ") {
        return text;
    }
    let of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some(at) = rest.find("eyJ") {
        let (before, from) = rest.split_at(at);
        let end = from.find(|c| !of_token(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        out.push_str(before);
        out.push_str(if word.len() >= 24 { REDACTED } else { word });
        rest = after;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_echoed_request_loses_its_secrets() {
        let text =
            "you sent client_secret=p%40ss+word and p@ss word, token eyJhbGciOiJub25lIn0.eyJhIjoxfQ.sig!";
        assert_eq!(
            scrub(text, &["p@ss word"]),
            "you sent client_secret=[redacted] and [redacted], token [redacted]!"
        );
    }

    #[test]
    fn one_line_and_no_longer_than_asked() {
        assert_eq!(excerpt("  a\r\n\tb\u{7}c  ", 10), "a b c");
        assert_eq!(excerpt("abcdef", 3), "abc…");
        assert_eq!(verbatim("ab\n", 3), "ab\n");
        assert_eq!(verbatim("ä\ncd", 3), "ä\nc…");
    }

    proptest! {
        #[test]
        fn a_secret_never_survives(before in ".*", secret in "[a-zA-Z0-9+/=~ ]{8,40}", after in ".*") {
            let text = format!("{before}{secret}{after}");
            prop_assert!(!scrub(&text, &[&secret]).contains(&secret));
        }

        #[test]
        fn any_text_is_taken(text in any::<String>(), most in 0usize..50) {
            prop_assert!(excerpt(&text, most).chars().count() <= most + 2);
            let _ = scrub(&text, &[]);
        }
    }
}
