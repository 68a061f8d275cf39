//! The JSON, or whatever else, a refusal comes in.

use std::time::Duration;

use serde::Deserialize;

use crate::{http, redact::excerpt};

/// An OAuth error answer (RFC 6749 §5.2) with Entra's additions.
#[derive(Debug, Default)]
pub(crate) struct ErrorAnswer {
    pub(crate) status: u16,
    pub(crate) error: String,
    pub(crate) codes: Vec<u32>,
    pub(crate) description: String,
    pub(crate) retry_after: Option<Duration>,
}

impl ErrorAnswer {
    /// Reads whatever the body is: JSON of the right form, or text of some proxy on the way.
    pub(crate) fn read(answer: &http::Answer) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Wire {
            error: String,
            error_description: String,
            error_codes: Vec<u32>,
        }
        let mut read = Self { status: answer.status, retry_after: answer.retry_after(), ..Self::default() };
        match serde_json::from_slice::<Wire>(&answer.body) {
            Ok(wire) => {
                read.error = excerpt(&wire.error, 100);
                read.description = excerpt(&wire.error_description, 1000);
                read.codes = wire.error_codes;
                if read.codes.is_empty() {
                    read.codes.extend(code_in(&wire.error_description));
                }
            }
            Err(_) => read.description = excerpt(&String::from_utf8_lossy(&answer.body), 300),
        }
        read
    }
}

/// The number after `AADSTS` at the start of a description.
fn code_in(description: &str) -> Option<u32> {
    let rest = description.trim_start().strip_prefix("AADSTS")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use zeroize::Zeroizing;

    use super::*;

    fn answer(status: u16, body: &str) -> http::Answer {
        http::Answer {
            status,
            headers: reqwest::header::HeaderMap::new(),
            body: Zeroizing::new(body.as_bytes().to_vec()),
        }
    }

    #[test]
    fn escapes_in_the_description_are_read() {
        let body = r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid \"client\" secret\u0027s.\r\nTrace ID: t\r\nTimestamp: x","error_codes":[7000215]}"#;
        let read = ErrorAnswer::read(&answer(401, body));
        assert_eq!(read.description, "AADSTS7000215: Invalid \"client\" secret's. Trace ID: t Timestamp: x");
        assert_eq!((read.error.as_str(), read.codes.as_slice()), ("invalid_client", &[7_000_215][..]));
    }

    #[test]
    fn codes_are_found_in_the_text_when_the_list_is_missing() {
        let body = r#"{"error":"invalid_request","error_description":"AADSTS90002: Tenant not found."}"#;
        assert_eq!(ErrorAnswer::read(&answer(400, body)).codes, [90_002]);
    }

    #[test]
    fn a_proxys_page_is_shown_as_text() {
        let read = ErrorAnswer::read(&answer(407, "<html>\n<b>Proxy</b> says no</html>"));
        assert_eq!(read.description, "<html> <b>Proxy</b> says no</html>");
    }

    proptest! {
        #[test]
        fn any_body_is_taken(body in any::<Vec<u8>>(), text in any::<String>()) {
            let mut any = answer(400, "");
            any.body = Zeroizing::new(body);
            let _ = ErrorAnswer::read(&any);
            let _ = code_in(&text);
            let _ = code_in(&format!("AADSTS{text}"));
        }
    }
}
