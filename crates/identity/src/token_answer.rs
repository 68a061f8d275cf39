//! The JSON a token comes in.

use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;

use crate::token::Token;

/// No token lives this long, in seconds: ten years. Larger numbers are defects, and time arithmetic elsewhere
/// need not cope with them.
const ABSURD: u64 = 10 * 366 * 24 * 3600;

/// Reader of token answers (RFC 6749 §5.1) as AD FS, the VM metadata service and the Arc agent give them.
pub(crate) struct TokenAnswer;

impl TokenAnswer {
    /// Takes `access_token` and its end: `expires_on` (seconds since 1970), else `expires_in` (seconds),
    /// each as a number or as a string of digits: both are seen in the field.
    ///
    /// The error names what is missing and quotes nothing of the answer, which may hold a token.
    pub(crate) fn read(body: &[u8]) -> Result<Token, String> {
        let mut parsed: Value = serde_json::from_slice(body)
            .map_err(|e| format!("not JSON (line {}, column {})", e.line(), e.column()))?;
        // Taken out, not copied: what stays behind is not zeroed.
        let Some(Value::String(text)) = parsed.get_mut("access_token").map(Value::take) else {
            return Err("there is no access_token".to_owned());
        };
        if text.is_empty() {
            return Err("access_token is empty".to_owned());
        }
        let seconds = |name: &str| match parsed.get(name) {
            Some(Value::Number(number)) => number.as_i64(),
            Some(Value::String(digits)) => digits.trim().parse::<i64>().ok(),
            _ => None,
        };
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let until_end = seconds("expires_on").and_then(|end| end.checked_sub(now));
        // A node whose clock is ahead takes every absolute end for past; the relative one still holds then.
        [until_end, seconds("expires_in")]
            .into_iter()
            .flatten()
            .filter_map(|left| u64::try_from(left).ok())
            .find(|left| (1..ABSURD).contains(left))
            .map(|left| Token::new(text, Duration::from_secs(left)))
            .ok_or_else(|| "neither expires_on nor expires_in gives an end in the future".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn ends_as_string_or_number() {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        for answer in [
            json!({"access_token": "t", "expires_on": (now + 600).to_string(), "expires_in": "599"}),
            json!({"access_token": "t", "expires_on": now + 600}),
            json!({"access_token": "t", "expires_in": 600}),
            json!({"access_token": "t", "expires_in": "600", "expires_on": "a date"}),
            json!({"access_token": "t", "expires_in": "600", "expires_on": now - 5}),
        ] {
            let token =
                TokenAnswer::read(answer.to_string().as_bytes()).map_err(|e| format!("{answer}: {e}"));
            assert_eq!(token.unwrap().text(), "t");
        }
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_quoted() {
        for (answer, words) in [
            ("<html>planted", "not JSON"),
            ("\"planted\"", "no access_token"),
            (r#"{"access_token":["planted"]}"#, "no access_token"),
            (r#"{"access_token":""}"#, "empty"),
            (r#"{"access_token":"planted"}"#, "neither"),
            (r#"{"access_token":"planted","expires_in":-1}"#, "neither"),
            (r#"{"access_token":"planted","expires_in":9223372036854775807}"#, "neither"),
        ] {
            let error = TokenAnswer::read(answer.as_bytes()).map(|_| ()).unwrap_err();
            assert!(error.contains(words) && !error.contains("planted"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_taken(body in any::<Vec<u8>>(), on in any::<i64>(), within in any::<i64>()) {
            let _ = TokenAnswer::read(&body);
            let odd = json!({"access_token": "t", "expires_on": on, "expires_in": within});
            let _ = TokenAnswer::read(odd.to_string().as_bytes());
        }
    }
}
