//! The reference driver's command lines are written in the Go flag style. This module turns that style into ours, so that
//! arguments copied from an existing manifest keep working.

use clap::Arg;
use std::any::TypeId;
use std::ffi::OsString;
use std::time::Duration;

/// Rewrites Go-style arguments: `-endpoint=X` becomes `--endpoint=X`.
///
/// Go's flag package takes one dash or two for every name. Short clusters do not exist there, so a single dash followed
/// by more than one letter is always a long name. `-v=5` and `-v5` are left alone: `-v` is a short flag here too.
pub fn normalise(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut only_positional = false;
    arguments
        .into_iter()
        .map(|argument| {
            if only_positional {
                return argument;
            }
            let Some(text) = argument.to_str() else { return argument };
            if text == "--" {
                only_positional = true;
                return argument;
            }
            match text.strip_prefix('-') {
                Some(rest) if is_long_name(rest) => OsString::from(format!("--{rest}")),
                _ => argument,
            }
        })
        .collect()
}

fn is_long_name(rest: &str) -> bool {
    let name = rest.split_once('=').map_or(rest, |(name, _)| name);
    name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        && !name.strip_prefix('v').is_some_and(|level| level.bytes().all(|b| b.is_ascii_digit()))
}

/// Lets a flag with a duration be negative, as Go does, though its value then begins like a flag, and names its form in `--help`.
pub(super) fn adapt(argument: Arg) -> Arg {
    if argument.get_value_parser().type_id() == TypeId::of::<Duration>() {
        argument.allow_hyphen_values(true).value_name("DURATION")
    } else {
        argument
    }
}

/// Parses a boolean as Go's `strconv.ParseBool` does, which is what flags and class parameters of the reference use.
///
/// # Errors
/// Names the offending value in the words Go uses, because people search for them.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// Parses a duration as Go's `time.ParseDuration` does: `2m`, `1h30m`, `1.5s`, `250ms`. A bare `0` is zero.
///
/// Negative durations, which the reference accepts and treats as "no interval", become zero.
///
/// # Errors
/// Says what is wrong with the text and shows an example.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let fail = || format!("{text:?} is not a duration: write a number with a unit, such as 90s, 2m or 1h30m");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(fail());
    }
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(fail)?;
        let number: f64 = rest.get(..digits).and_then(|n| n.parse().ok()).ok_or_else(fail)?;
        rest = rest.get(digits..).ok_or_else(fail)?;
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (unit, after) = rest.split_at_checked(letters).ok_or_else(fail)?;
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(fail()),
        };
        seconds += number * scale;
        rest = after;
    }
    if negative {
        return Ok(Duration::ZERO);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| fail())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(arguments: &[&str]) -> Vec<String> {
        normalise(arguments.iter().map(OsString::from))
            .into_iter()
            .map(|a| a.into_string().unwrap())
            .collect()
    }

    #[test]
    fn single_dash_long_names_get_their_second_dash() {
        assert_eq!(
            normalised(&[
                "akv-csi",
                "node",
                "-endpoint=unix:///csi/csi.sock",
                "-nodeid",
                "n1",
                "--v=5",
                "-v=5",
                "-v5",
                "-v"
            ]),
            [
                "akv-csi",
                "node",
                "--endpoint=unix:///csi/csi.sock",
                "--nodeid",
                "n1",
                "--v=5",
                "-v=5",
                "-v5",
                "-v"
            ]
        );
    }

    #[test]
    fn values_and_what_follows_a_double_dash_are_left_alone() {
        assert_eq!(normalised(&["a", "-1", "-", "--", "-endpoint"]), ["a", "-1", "-", "--", "-endpoint"]);
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("2m", Duration::from_secs(120)),
            ("1h30m", Duration::from_secs(5400)),
            ("1.5s", Duration::from_millis(1500)),
            ("250ms", Duration::from_millis(250)),
            ("0", Duration::ZERO),
            ("-5s", Duration::ZERO),
        ] {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
        for text in ["", "5", "m", "1d", "1h5", "..s", "2 m", "1e3s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_are_read_as_go_reads_them() {
        assert_eq!(parse_bool("True"), Ok(true));
        assert_eq!(parse_bool("0"), Ok(false));
        assert_eq!(parse_bool("yes").unwrap_err(), r#"strconv.ParseBool: parsing "yes": invalid syntax"#);
    }
}
