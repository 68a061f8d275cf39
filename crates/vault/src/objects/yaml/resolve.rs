//! What a scalar means, by its tag or its looks.

use super::YamlError;
use crate::convert::base64_decoded;

const PREFIX: &str = "tag:yaml.org,2002:";
pub(super) const NULL: &str = "tag:yaml.org,2002:null";
pub(super) const MERGE: &str = "tag:yaml.org,2002:merge";

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Resolved {
    Null,
    Bool,
    Int(i128),
    Float(f64),
    /// Decoded from `!!binary`.
    Binary(String),
    Text,
}

/// What the scalar `text` with `tag` is.
///
/// # Errors
/// When the tag says it is something it does not look like.
pub(super) fn resolve(tag: Option<&str>, plain: bool, text: &str) -> Result<Resolved, YamlError> {
    let Some(tag) = tag else {
        return Ok(if plain { by_looks(text) } else { Resolved::Text });
    };
    let name = tag.strip_prefix(PREFIX).unwrap_or_default();
    let refused = |found: &str| YamlError::somewhere(format!("cannot decode {found} `{text}` as a !!{name}"));
    match name {
        "binary" => {
            let bytes = base64_decoded(text.as_bytes())
                .map_err(|_| YamlError::somewhere("!!binary value contains invalid base64 data"))?;
            // Names, types and versions are text; what is not, no vault has.
            Ok(Resolved::Binary(String::from_utf8_lossy(&bytes).into_owned()))
        }
        "null" | "bool" | "int" | "float" | "timestamp" => {
            let found = by_looks(text);
            match (name, found) {
                ("null", Resolved::Null)
                | ("bool", Resolved::Bool)
                | ("int", Resolved::Int(_))
                | ("float", Resolved::Float(_)) => Ok(by_looks(text)),
                #[expect(clippy::cast_precision_loss, reason = "that is what the tag asks for")]
                ("float", Resolved::Int(number)) if i64::try_from(number).is_ok() => {
                    Ok(Resolved::Float(number as f64))
                }
                ("timestamp", Resolved::Text) if looks_like_date(text) => Ok(Resolved::Text),
                (_, found) => Err(refused(found.short_tag())),
            }
        }
        // `!!str`, and tags nobody knows.
        _ => Ok(Resolved::Text),
    }
}

impl Resolved {
    fn short_tag(&self) -> &'static str {
        match self {
            Self::Null => "!!null",
            Self::Bool => "!!bool",
            Self::Int(_) => "!!int",
            Self::Float(_) => "!!float",
            Self::Binary(_) => "!!binary",
            Self::Text => "!!str",
        }
    }
}

/// The tag of a scalar as messages spell it.
pub(super) fn short_tag(tag: Option<&str>, plain: bool, text: &str) -> Result<String, YamlError> {
    Ok(match tag {
        Some(tag) => tag.strip_prefix(PREFIX).map_or_else(|| tag.to_owned(), |name| format!("!!{name}")),
        None => resolve(None, plain, text)?.short_tag().to_owned(),
    })
}

fn by_looks(text: &str) -> Resolved {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Resolved::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return Resolved::Bool,
        ".nan" | ".NaN" | ".NAN" => return Resolved::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Resolved::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Resolved::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let number = match text.as_bytes().first() {
        Some(b'.') => float(text),
        Some(b'+' | b'-' | b'0'..=b'9') if !looks_like_date(text) => {
            let digits = text.replace('_', "");
            integer(&digits).map(Resolved::Int).or_else(|| float(&digits))
        }
        _ => None,
    };
    number.unwrap_or(Resolved::Text)
}

/// Decimal, `0x`, `0o`, `0b`, or octal after a bare `0`; within 64 bits, signed or not.
fn integer(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (Some(text.starts_with('-')), digits),
        None => (None, text),
    };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
        [b'0', b'o' | b'O', ..] => (&digits[2..], 8),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    match sign {
        Some(true) => (magnitude <= 1 << 63).then_some(-magnitude),
        Some(false) => (magnitude < 1 << 63).then_some(magnitude),
        None => (magnitude < 1 << 64).then_some(magnitude),
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, and finite.
fn float(text: &str) -> Option<Resolved> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || !unsigned.chars().all(|c| matches!(c, '0'..='9' | '.' | 'e' | 'E' | '+' | '-'))
    {
        return None;
    }
    text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Resolved::Float)
}

/// Four digits and a hyphen: near enough to a date, which is text to every field there is.
fn looks_like_date(text: &str) -> bool {
    matches!(text.as_bytes(), [a, b, c, d, b'-', ..] if [a, b, c, d].iter().all(|digit| digit.is_ascii_digit()))
}
