//! DER, as far as keys, certificates and PFX files need it (ITU-T X.690).
//!
//! Reading is as strict about lengths as Go's parsers and as relaxed about what follows the fields one asks for: a
//! reader takes what it knows from the front of a value. The usual derive macros insist on the whole shape, and so
//! refuse keys and PFX files that have always mounted (PKCS#8 version 1, unsorted attribute sets, odd certificates).

use zeroize::Zeroizing;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// `[n]`, constructed.
pub(super) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed ASN.1")]
pub(super) struct Malformed;

/// Reads values one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

/// One value: its tag, its content, and both with the length between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    pub(super) whole: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may follow.
    pub(super) fn finish(self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// The next value, whatever it is.
    pub(super) fn any(&mut self) -> Result<Value<'a>, Malformed> {
        let (&tag, rest) = self.0.split_first().ok_or(Malformed)?;
        if tag & 0x1f == 0x1f {
            // Tags above 30 occur in none of these formats.
            return Err(Malformed);
        }
        let (&first, mut rest) = rest.split_first().ok_or(Malformed)?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let octets = usize::from(first & 0x7f);
            if octets == 0 || octets > 4 || rest.len() < octets || rest[0] == 0 {
                return Err(Malformed);
            }
            let length = rest[..octets].iter().fold(0, |length, &octet| length << 8 | usize::from(octet));
            if length < 0x80 {
                return Err(Malformed);
            }
            rest = &rest[octets..];
            length
        };
        if rest.len() < length {
            return Err(Malformed);
        }
        let whole = &self.0[..self.0.len() - rest.len() + length];
        let content = &rest[..length];
        self.0 = &rest[length..];
        Ok(Value { tag, content, whole })
    }

    /// The next value's content, if it has this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, Malformed> {
        if self.0.first() == Some(&tag) { self.any().map(|value| Some(value.content)) } else { Ok(None) }
    }

    /// The next value's content; it must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        self.optional(tag)?.ok_or(Malformed)
    }

    /// A reader of the next value's content; it must have this tag.
    pub(super) fn inside(&mut self, tag: u8) -> Result<Self, Malformed> {
        self.expect(tag).map(Self)
    }

    /// An integer's two's complement octets, in their shortest form.
    pub(super) fn integer(&mut self) -> Result<&'a [u8], Malformed> {
        match self.expect(INTEGER)? {
            [] | [0, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..] => Err(Malformed),
            octets => Ok(octets),
        }
    }

    /// The magnitude of a positive integer; `None` for zero and below.
    pub(super) fn positive(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        Ok(match self.integer()? {
            [0] | [0x80..=0xff, ..] => None,
            [0, magnitude @ ..] | magnitude => Some(magnitude),
        })
    }

    /// A small non-negative integer.
    pub(super) fn small(&mut self) -> Result<u32, Malformed> {
        match self.integer()? {
            [0x80..=0xff, ..] => Err(Malformed),
            octets if octets.len() <= 5 => {
                let number = octets.iter().fold(0u64, |number, &octet| number << 8 | u64::from(octet));
                u32::try_from(number).map_err(|_| Malformed)
            }
            _ => Err(Malformed),
        }
    }
}

/// One value around `parts`.
pub(super) fn value(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let octets = length.to_be_bytes();
    let significant = &octets[octets.iter().position(|&octet| octet != 0).unwrap_or(octets.len() - 1)..];
    let mut out = Zeroizing::new(Vec::with_capacity(length + 2 + significant.len()));
    out.push(tag);
    if length < 0x80 {
        out.extend_from_slice(significant);
    } else {
        // A length has at most eight octets.
        out.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
        out.extend_from_slice(significant);
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A non-negative integer of its magnitude, which may have zeros in front.
pub(super) fn unsigned(magnitude: &[u8]) -> Zeroizing<Vec<u8>> {
    let first = magnitude.iter().position(|&octet| octet != 0).unwrap_or(magnitude.len());
    match &magnitude[first..] {
        [] => value(INTEGER, &[&[0]]),
        shortest @ [0x80..=0xff, ..] => value(INTEGER, &[&[0], shortest]),
        shortest => value(INTEGER, &[shortest]),
    }
}

/// An object identifier in dotted form, for messages.
pub(super) fn dotted(oid: &[u8]) -> String {
    let mut arcs = Vec::new();
    let mut arc = 0u128;
    for &octet in oid {
        arc = arc.wrapping_shl(7) | u128::from(octet & 0x7f);
        if octet & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.push(first.to_string());
                arc -= first * 40;
            }
            arcs.push(arc.to_string());
            arc = 0;
        }
    }
    arcs.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_the_shortest() {
        assert_eq!(value(OCTET_STRING, &[&[0; 127]])[..2], [4, 127]);
        assert_eq!(value(OCTET_STRING, &[&[0; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(value(OCTET_STRING, &[&[0; 256]])[..4], [4, 0x82, 1, 0]);
        for bad in [
            &[4, 0x81, 5, 0, 0, 0, 0, 0][..],
            &[4, 0x80, 0, 0],
            &[4, 0x82, 0, 1, 0],
            &[4, 2, 0],
            &[4],
            &[],
            &[0x1f, 1, 0],
        ] {
            assert!(Reader::new(bad).any().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn integers() {
        assert_eq!(unsigned(&[]).as_slice(), [2, 1, 0]);
        assert_eq!(unsigned(&[0, 0, 0x80]).as_slice(), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[0x7f]).as_slice(), [2, 1, 0x7f]);
        assert_eq!(Reader::new(&[2, 1, 0xff]).positive(), Ok(None));
        assert_eq!(Reader::new(&[2, 2, 0, 0x7f]).positive(), Err(Malformed));
        assert_eq!(Reader::new(&[2, 3, 1, 0, 1]).small(), Ok(65537));
    }

    #[test]
    fn identifiers() {
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]), "1.2.840.113549.1.1.1");
        assert_eq!(dotted(&[0x88, 0x37]), "2.999");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(tag in 0u8..0x1f, content in prop::collection::vec(any::<u8>(), 0..400)) {
            let written = value(tag, &[&content]);
            let mut reader = Reader::new(&written);
            let read = reader.any().unwrap();
            prop_assert_eq!((read.tag, read.content, read.whole), (tag, &content[..], &written[..]));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn never_panics(bytes in any::<Vec<u8>>()) {
            let mut reader = Reader::new(&bytes);
            while reader.any().is_ok() {}
            let _ = dotted(&bytes);
        }
    }
}
