//! The JSON a token comes in.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use zeroize::Zeroizing;

use crate::token::Token;

/// No token lives this long, in seconds: ten years. Larger numbers are defects, and time arithmetic elsewhere
/// need not cope with them.
const ABSURD: u64 = 10 * 366 * 24 * 3600;

/// How long a token is used whose end is not known: `expires_in` is only recommended (RFC 6749 §5.1), and a
/// token in hand opens the vault now, whatever its end.
const UNKNOWN: Duration = Duration::from_mins(1);

/// The form of `expires_on` that App Service and what imitates it give: `06/20/2030 02:57:58 PM +00:00`.
const AMERICAN: &[BorrowedFormatItem<'_>] = format_description!(
    "[month padding:none]/[day padding:none]/[year] [hour repr:12 padding:none]:[minute]:[second] [period] \
     [offset_hour sign:mandatory]:[offset_minute]"
);

/// Reader of token answers (RFC 6749 §5.1) as Entra, AD FS, the VM metadata service and the Arc agent give
/// them.
pub(crate) struct TokenAnswer;

impl TokenAnswer {
    /// Takes `access_token` and its end: `expires_on` (seconds since 1970, or a date), else `expires_in`
    /// (seconds), each as a number or as a string: both are seen in the field. Without an end in the future a
    /// token lasts for a minute.
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
        let seconds = |name: &str| match parsed.get(name)? {
            Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
            Value::String(text) => {
                let text = text.trim();
                let date = || OffsetDateTime::parse(text, AMERICAN).ok().map(OffsetDateTime::unix_timestamp);
                text.parse::<i64>().ok().or_else(|| whole(text.parse().ok()?)).or_else(date)
            }
            _ => None,
        };
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let until_end = seconds("expires_on").and_then(|end| end.checked_sub(now));
        // A node whose clock is ahead takes every absolute end for past; the relative one still holds then.
        let left = [until_end, seconds("expires_in")]
            .into_iter()
            .flatten()
            .filter_map(|left| u64::try_from(left).ok())
            .find(|left| (1..ABSURD).contains(left))
            .map_or(UNKNOWN, Duration::from_secs);
        Ok(Token::new(text, left))
    }

    /// The answer as the Azure SDK reads it: it takes whole numbers only.
    pub(crate) fn plain(token: &Token) -> Result<Zeroizing<Vec<u8>>, String> {
        #[derive(Serialize)]
        struct Plain<'a> {
            token_type: &'static str,
            expires_in: u64,
            access_token: &'a str,
        }
        let plain = Plain {
            token_type: "Bearer",
            expires_in: token.lifetime().as_secs(),
            access_token: token.text(),
        };
        // Room for all, so that growing leaves no copies behind; JSON escapes a byte by six at most.
        let mut body = Zeroizing::new(Vec::with_capacity(token.text().len() * 6 + 100));
        serde_json::to_writer(&mut *body, &plain).map_err(|e| e.to_string())?;
        Ok(body)
    }
}

/// Seconds without their fraction.
#[allow(clippy::cast_possible_truncation, reason = "saturates, and absurd numbers are refused")]
fn whole(seconds: f64) -> Option<i64> {
    seconds.is_finite().then_some(seconds as i64)
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
            json!({"access_token": "t", "expires_in": 600.9}),
            json!({"access_token": "t", "expires_in": "600.9"}),
            json!({"access_token": "t", "expires_in": " 600 ", "ext_expires_in": "600"}),
            json!({"access_token": "t", "expires_in": "600", "expires_on": "a date"}),
            json!({"access_token": "t", "expires_in": "600", "expires_on": now - 5}),
        ] {
            let token = lifetime(&answer);
            assert!((595..=600).contains(&token), "{answer}: {token}");
        }
    }

    fn lifetime(answer: &Value) -> u64 {
        let token = TokenAnswer::read(answer.to_string().as_bytes()).unwrap();
        assert_eq!(token.text(), "t");
        token.lifetime().as_secs()
    }

    #[test]
    fn ends_as_dates() {
        let soon = OffsetDateTime::now_utc() + time::Duration::hours(30);
        let shown = soon.format(AMERICAN).unwrap();
        let left = lifetime(&json!({"access_token": "t", "expires_on": shown}));
        assert!((30 * 3600 - 5..=30 * 3600).contains(&left), "{shown}: {left}");
        let read = |text| OffsetDateTime::parse(text, AMERICAN).unwrap();
        let end = time::macros::datetime!(2030-06-20 14:57:58 UTC);
        assert_eq!(read("06/20/2030 02:57:58 PM +00:00"), end);
        assert_eq!(read("6/20/2030 2:57:58 PM +00:00"), end);
    }

    #[test]
    fn a_token_without_an_end_in_the_future_is_used_for_a_minute() {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        for answer in [
            json!({"access_token": "t"}),
            json!({"access_token": "t", "expires_on": now - 5}),
            json!({"access_token": "t", "expires_on": "06/20/2020 02:57:58 PM +00:00"}),
            json!({"access_token": "t", "expires_in": 0}),
            json!({"access_token": "t", "expires_in": -1}),
            json!({"access_token": "t", "expires_in": i64::MAX}),
            json!({"access_token": "t", "expires_in": 1e300}),
            json!({"access_token": "t", "expires_in": "inf"}),
            json!({"access_token": "t", "expires_in": [600]}),
        ] {
            assert_eq!(lifetime(&answer), 60, "{answer}");
        }
    }

    #[test]
    fn the_plain_form_is_what_the_sdk_reads() {
        let token = Token::new("t\"\u{1}".into(), Duration::from_secs(600));
        let plain: Value = serde_json::from_slice(&TokenAnswer::plain(&token).unwrap()).unwrap();
        assert_eq!(plain, json!({"token_type": "Bearer", "expires_in": 600, "access_token": "t\"\u{1}"}));
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_quoted() {
        for (answer, words) in [
            ("<html>planted", "not JSON"),
            ("\"planted\"", "no access_token"),
            (r#"{"access_token":["planted"]}"#, "no access_token"),
            (r#"{"access_token":""}"#, "empty"),
        ] {
            let error = TokenAnswer::read(answer.as_bytes()).map(|_| ()).unwrap_err();
            assert!(error.contains(words) && !error.contains("planted"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_taken(body in any::<Vec<u8>>(), text in any::<String>(), on in any::<i64>(), within in any::<f64>()) {
            let _ = TokenAnswer::read(&body);
            let odd = json!({"access_token": "t", "expires_on": text, "expires_in": text});
            let _ = TokenAnswer::read(odd.to_string().as_bytes());
            let odd = json!({"access_token": "t", "expires_on": on, "expires_in": within});
            let _ = TokenAnswer::read(odd.to_string().as_bytes());
        }
    }
}
