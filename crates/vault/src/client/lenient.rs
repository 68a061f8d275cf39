//! JSON as the Azure SDK for Go reads it, where that is less strict than serde.
//!
//! A byte order mark is skipped; invalid UTF-8 and lone surrogates are U+FFFD, as in Go's `encoding/json`; of two
//! members of one name the last counts. Key Vault sends none of these, but things that stand in for it do.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor},
};
use zeroize::Zeroizing;

/// Reads `body`, leniently only when it cannot be read strictly. Every copy made on the way is wiped.
///
/// # Errors
/// The strict reader's, whose places are those of `body`.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body).or_else(|strict| {
        serde_json::from_slice(&with_valid_text(body))
            .and_then(|Tidied(tidy)| serde_json::from_slice(&tidy))
            .map_err(|_| strict)
    })
}

/// `body` without its byte order mark, and with U+FFFD for what is no character.
fn with_valid_text(body: &[u8]) -> Zeroizing<Vec<u8>> {
    const REPLACEMENT: &str = "\u{fffd}";
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let wrong: usize = body.utf8_chunks().map(|chunk| chunk.invalid().len()).sum();
    // All of it, so that it never grows and leaves something behind.
    let mut text = Zeroizing::new(Vec::with_capacity(body.len() + wrong * REPLACEMENT.len()));
    for chunk in body.utf8_chunks() {
        text.extend_from_slice(chunk.valid().as_bytes());
        for _ in chunk.invalid() {
            text.extend_from_slice(REPLACEMENT.as_bytes());
        }
    }
    let mut at = 0;
    while let Some(escape) = text.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\\')) {
        at += escape;
        at += match utf16_escape(&text, at) {
            None => 2,
            Some(0xd800..=0xdbff) if matches!(utf16_escape(&text, at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                if let Some(digits) = text.get_mut(at + 2..at + 6) {
                    digits.copy_from_slice(b"fffd");
                }
                6
            }
            Some(_) => 6,
        };
    }
    text
}

/// The code unit of the `\uXXXX` that begins at `at`.
fn utf16_escape(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at.checked_add(6)?)?.strip_prefix(b"\\u")?;
    digits
        .iter()
        .try_fold(0, |unit, digit| Some(unit << 4 | u16::try_from(char::from(*digit).to_digit(16)?).ok()?))
}

/// The text of a JSON value in which no object has two members of one name.
struct Tidied(Zeroizing<Vec<u8>>);

/// A number, `true`, `false` or `null`.
const LONGEST_PLAIN: usize = 32;

impl Tidied {
    /// A value's text, `at_most` so long: it must not grow and leave something behind.
    fn of<E: Error>(value: impl Serialize, at_most: usize) -> Result<Self, E> {
        let mut text = Zeroizing::new(Vec::with_capacity(at_most));
        serde_json::to_writer(&mut *text, &value).map_err(E::custom)?;
        Ok(Self(text))
    }

    /// `parts`, each a member's name with its colon, or nothing, and a value, between two brackets.
    fn between(open: u8, parts: &[(Vec<u8>, Self)], close: u8) -> Self {
        let length: usize = parts.iter().map(|(name, value)| name.len() + value.0.len() + 1).sum();
        let mut text = Zeroizing::new(Vec::with_capacity(length + 2));
        text.push(open);
        for (place, (name, value)) in parts.iter().enumerate() {
            if place > 0 {
                text.push(b',');
            }
            text.extend_from_slice(name);
            text.extend_from_slice(&value.0);
        }
        text.push(close);
        Self(text)
    }
}

impl<'de> Deserialize<'de> for Tidied {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tidying;

        impl<'de> Visitor<'de> for Tidying {
            type Value = Tidied;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E: Error>(self) -> Result<Tidied, E> {
                Tidied::of((), LONGEST_PLAIN)
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Tidied, E> {
                Tidied::of(value, LONGEST_PLAIN)
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Tidied, E> {
                Tidied::of(value, LONGEST_PLAIN)
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Tidied, E> {
                Tidied::of(value, LONGEST_PLAIN)
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Tidied, E> {
                Tidied::of(value, LONGEST_PLAIN)
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Tidied, E> {
                // Six bytes are the longest escape of one.
                Tidied::of(value, 2 + 6 * value.len())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tidied, A::Error> {
                let mut parts = Vec::new();
                while let Some(item) = items.next_element()? {
                    parts.push((Vec::new(), item));
                }
                Ok(Tidied::between(b'[', &parts, b']'))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Tidied, A::Error> {
                let mut last = BTreeMap::new();
                while let Some((name, value)) = members.next_entry::<String, Tidied>()? {
                    last.insert(name, value);
                }
                let mut parts = Vec::new();
                for (name, value) in last {
                    let mut name = serde_json::to_vec(&name).map_err(A::Error::custom)?;
                    name.push(b':');
                    parts.push((name, value));
                }
                Ok(Tidied::between(b'{', &parts, b'}'))
            }
        }

        deserializer.deserialize_any(Tidying)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Bundle {
        value: Option<String>,
        attributes: Option<Attributes>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Attributes {
        enabled: Option<bool>,
        created: Option<serde_json::Number>,
    }

    fn value(body: &[u8]) -> Option<String> {
        parse::<Bundle>(body).unwrap().value
    }

    #[test]
    fn what_is_no_character_is_replaced_as_in_go() {
        for (body, read) in [
            (&b"\xef\xbb\xbf{\"value\":\"x\"}"[..], "x"),
            (b"{\"value\":\"a\xffb\"}", "a\u{fffd}b"),
            // Each byte that does not fit counts.
            (b"{\"value\":\"\xe2\x82A\xed\xa0\x80\"}", "\u{fffd}\u{fffd}A\u{fffd}\u{fffd}\u{fffd}"),
            (br#"{"value":"\ud800"}"#, "\u{fffd}"),
            (br#"{"value":"\uDC00\ud83d\ude00"}"#, "\u{fffd}\u{1f600}"),
            (br#"{"value":"\ud800\ud83d\ude00\uDBFFx"}"#, "\u{fffd}\u{1f600}\u{fffd}x"),
            (br#"{"value":"\ud800\u0041\\ud800\"\ud800"}"#, "\u{fffd}A\\ud800\"\u{fffd}"),
        ] {
            assert_eq!(value(body).as_deref(), Some(read), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn the_last_of_two_counts() {
        assert_eq!(value(br#"{"value":"a","value":"b\n\u0001"}"#).as_deref(), Some("b\n\u{1}"));
        assert_eq!(value(br#"{"value":"a","value":null}"#), None);
        assert_eq!(value(br#"{"value":"a","v\u0061lue":"b"}"#).as_deref(), Some("b"));
        let bundle: Bundle = parse(
            br#"{"attributes":{"enabled":true,"enabled":false,"created":-1.5,"x":[1,18446744073709551615,[],{}]}}"#,
        )
        .unwrap();
        let attributes = bundle.attributes.unwrap();
        assert_eq!(attributes.enabled, Some(false));
        assert_eq!(attributes.created.and_then(|created| created.as_f64()), Some(-1.5));
        // All of the last one, without what an earlier one had.
        let bundle: Bundle = parse(br#"{"attributes":{"enabled":true},"attributes":{"created":1}}"#).unwrap();
        assert_eq!(bundle.attributes.unwrap().enabled, None);
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for body in [
            &b""[..],
            b"{",
            b"\xff{}",
            b"\xef\xbb\xbf",
            b"{\"value\":\"\\",
            b"{\"value\":\"\\ud8",
            b"{\"value\":\"\\q\"}",
            b"{}{}",
        ] {
            assert!(parse::<Bundle>(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
        // Told where it is in what was sent, not in what was made of it.
        let error = parse::<Bundle>(b"\xef\xbb\xbf{").unwrap_err();
        assert_eq!(error.column(), serde_json::from_slice::<Bundle>(b"\xef\xbb\xbf{").unwrap_err().column());
        // Nested too deep is an error, not an overflow.
        assert!(parse::<Bundle>(&b"[".repeat(100_000)).is_err());
    }

    /// Any JSON, with fractions that print back exactly.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i32>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn never_panics(body in any::<Vec<u8>>(), near in r#"\{"value":"(\\u[dD]?[89abcdefABCDEF0]{0,4}|\\|x|é){0,8}"?\}?"#) {
            let _ = parse::<Bundle>(&body);
            let _ = parse::<Bundle>(near.as_bytes());
            let mut broken = near.into_bytes();
            if let Some(last) = body.first().zip(broken.get_mut(body.len() % 9)) {
                *last.1 = *last.0;
            }
            let _ = parse::<Bundle>(&broken);
        }

        /// Any bytes at all between the quotes of a string make a text.
        #[test]
        fn every_text_is_read(bytes in prop::collection::vec(any::<u8>().prop_filter("plain", |byte| *byte >= b' ' && !b"\"\\".contains(byte)), 0..64)) {
            let body = [&b"{\"value\":\""[..], &bytes, b"\"}"].concat();
            let read = value(&body).unwrap();
            let mut expected = String::new();
            for chunk in bytes.utf8_chunks() {
                expected.push_str(chunk.valid());
                expected.push_str(&"\u{fffd}".repeat(chunk.invalid().len()));
            }
            prop_assert_eq!(read, expected);
        }

        /// Code units escaped one by one are read as Go, and Rust's own lossy conversion, read them.
        #[test]
        fn every_row_of_code_units_is_read(units in prop::collection::vec(prop_oneof![any::<u16>(), 0xd7ff_u16..=0xe000], 0..32)) {
            let escaped = units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat();
            let read = value(format!("{{\"value\":\"{escaped}\"}}").as_bytes()).unwrap();
            prop_assert_eq!(read, String::from_utf16_lossy(&units));
        }

        /// Tidying changes nothing where nothing is to be tidied.
        #[test]
        fn what_is_strict_stays_what_it_is(json in json()) {
            let text = serde_json::to_vec(&json).unwrap();
            let Tidied(tidy) = serde_json::from_slice(&with_valid_text(&text)).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&tidy).unwrap(), json);
        }
    }
}
