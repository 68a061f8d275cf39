//! Ids of traces and of what happens in them.

use std::{fmt, num::NonZeroU64};

use ring::rand::{SecureRandom, SystemRandom};

/// A trace id. It prints as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

/// The id of one stretch of work in a trace. It prints as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

impl TraceId {
    /// A new one.
    pub fn new() -> Self {
        Self(u128::from_be_bytes(random()) | 1)
    }

    /// The id with these digits, unless it is all zeros, which stands for none.
    pub(crate) fn parse(digits: &str) -> Option<Self> {
        let id = hexadecimal(digits, 32).then(|| u128::from_str_radix(digits, 16).ok()).flatten()?;
        (id != 0).then_some(Self(id))
    }

    /// In the order of its digits.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// With hyphens, as Azure's services write ids.
    pub fn to_guid(self) -> String {
        let digits = self.to_string();
        [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits.get(part).unwrap_or_default()).join("-")
    }
}

impl SpanId {
    /// A new one.
    pub fn new() -> Self {
        Self(NonZeroU64::new(u64::from_be_bytes(random())).unwrap_or(NonZeroU64::MIN))
    }

    /// The id with these digits, unless it is all zeros, which stands for none.
    pub(crate) fn parse(digits: &str) -> Option<Self> {
        let id = hexadecimal(digits, 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()?;
        NonZeroU64::new(id).map(Self)
    }

    /// In the order of its digits.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

/// Whether a text is so many digits, in lower case, which the standard demands.
pub(crate) fn hexadecimal(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Without randomness ids are of no use, and nothing else depends on them.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}

impl Default for TraceId {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for SpanId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_they_are_written() {
        let digits = "4bf92f3577b34da6a3ce929d0e0e4736";
        let trace = TraceId::parse(digits).unwrap();
        assert_eq!(trace.to_string(), digits);
        assert_eq!(trace.to_guid(), "4bf92f35-77b3-4da6-a3ce-929d0e0e4736");
        assert_eq!(trace.to_bytes()[..2], [0x4b, 0xf9]);
        let span = SpanId::parse("00f067aa0ba902b7").unwrap();
        assert_eq!((span.to_string().as_str(), span.to_bytes()[1]), ("00f067aa0ba902b7", 0xf0));
        assert_ne!((TraceId::new(), SpanId::new()), (TraceId::new(), SpanId::new()));
    }
}
