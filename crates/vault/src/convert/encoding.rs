//! Base64 and hexadecimal, as strict and as lenient as Go's `encoding` packages, and with their words.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

/// Why a value cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EncodingError {
    /// The offset of the first byte that does not fit.
    #[error("illegal base64 data at input byte {0}")]
    Base64(usize),
    #[error("encoding/hex: odd length hex string")]
    OddHex,
    #[error("encoding/hex: invalid byte: {}", unicode(*.0))]
    Hex(u8),
}

/// The way Go prints a byte as a character: `U+0067 'g'`.
fn unicode(byte: u8) -> String {
    let c = char::from(byte);
    // Go prints no glyph for what cannot be seen.
    if c.is_control() || byte == 0xad || byte == 0xa0 {
        format!("U+{byte:04X}")
    } else {
        format!("U+{byte:04X} '{c}'")
    }
}

/// Standard alphabet, padding required; CR and LF anywhere are skipped; bits left over are ignored.
const STANDARD: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Decodes standard base64.
///
/// # Errors
/// With the offset Go reports.
pub(crate) fn base64_decoded(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, EncodingError> {
    let dense: Zeroizing<Vec<u8>> =
        Zeroizing::new(text.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect());
    let mut decoded = Zeroizing::new(vec![0; base64::decoded_len_estimate(dense.len())]);
    match STANDARD.decode_slice(dense.as_slice(), &mut decoded) {
        Ok(length) => {
            decoded.truncate(length);
            Ok(decoded)
        }
        Err(_) => Err(EncodingError::Base64(offset_of_fault(text))),
    }
}

/// Decodes base64url without padding; CR and LF are skipped and bits left over ignored. `None` if it is not.
pub(crate) fn base64url_decoded(text: &[u8]) -> Option<Vec<u8>> {
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(
        &alphabet::URL_SAFE,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::RequireNone),
    );
    let dense: Vec<u8> = text.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    URL_SAFE.decode(dense).ok()
}

/// Where base64 stops being base64, given that it does.
fn offset_of_fault(text: &[u8]) -> usize {
    let significant = |from: usize| {
        text[from..]
            .iter()
            .position(|byte| !matches!(byte, b'\r' | b'\n'))
            .map_or(text.len(), |ahead| from + ahead)
    };
    let mut in_quantum = 0;
    let mut next = 0;
    loop {
        if next == text.len() {
            // Cut off: the quantum's letters are counted back, line breaks or not.
            return text.len() - in_quantum;
        }
        let byte = text[next];
        next += 1;
        match byte {
            b'\r' | b'\n' => {}
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => in_quantum = (in_quantum + 1) % 4,
            b'=' if in_quantum >= 2 => {
                if in_quantum == 2 {
                    next = significant(next);
                    if next == text.len() {
                        return text.len();
                    }
                    if text[next] != b'=' {
                        return next - 1;
                    }
                    next += 1;
                }
                return significant(next);
            }
            _ => return next - 1,
        }
    }
}

/// Decodes hexadecimal digits of either case.
///
/// # Errors
/// At the first byte that is none, else at an odd length.
pub(crate) fn hex_decoded(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, EncodingError> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
            .ok_or(EncodingError::Hex(byte))
    };
    let mut decoded = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    for pair in text.chunks(2) {
        let high = digit(pair[0])?;
        let low = digit(*pair.get(1).ok_or(EncodingError::OddHex)?)?;
        decoded.push(high << 4 | low);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn base64_as_known() {
        assert_eq!(
            base64_decoded(b"QmFzZTY0RW5jb2RlZFN0cmluZw==").unwrap().as_slice(),
            b"Base64EncodedString"
        );
        assert_eq!(base64_decoded(b"").unwrap().as_slice(), b"");
        assert_eq!(base64_decoded(b"Zm9v\r\nYmFy\n").unwrap().as_slice(), b"foobar");
        assert_eq!(base64_decoded(b"Zm8=\n").unwrap().as_slice(), b"fo");
        assert_eq!(base64_decoded(b"Zh==").unwrap().as_slice(), b"f", "bits left over are ignored");
        // The offsets come from running Go's encoding/base64.
        for (text, offset) in [
            (&b"-----BEGIN"[..], 0),
            (b"Zg", 0),
            (b"Zg=", 3),
            (b"Zm9vYg", 4),
            (b"Zm9v YmFy", 4),
            (b"Zm9_", 3),
            (b"Zg==x", 4),
            (b"Zg==\nZg==", 5),
            (b"Zg=x", 2),
            (b"=", 0),
            (b"Z===", 1),
            (b"Z", 0),
            (b"Zm9v\nZ\n", 6),
            (b"\n\nA", 2),
            (b"Zm9v\nYg\n=", 9),
            (b"Zm\n9vYmE", 5),
        ] {
            let text_shown = String::from_utf8_lossy(text);
            assert_eq!(
                base64_decoded(text).unwrap_err().to_string(),
                format!("illegal base64 data at input byte {offset}"),
                "{text_shown:?}"
            );
        }
    }

    #[test]
    fn hex_as_known() {
        assert_eq!(hex_decoded(b"48656C6c6f").unwrap().as_slice(), b"Hello");
        for (text, problem) in [
            (&b"abc"[..], "encoding/hex: odd length hex string"),
            (b"zz", "encoding/hex: invalid byte: U+007A 'z'"),
            (b"0x12", "encoding/hex: invalid byte: U+0078 'x'"),
            (b"12 ", "encoding/hex: invalid byte: U+0020 ' '"),
            (b"1\n", "encoding/hex: invalid byte: U+000A"),
            (b"123g", "encoding/hex: invalid byte: U+0067 'g'"),
        ] {
            assert_eq!(hex_decoded(text).unwrap_err().to_string(), problem);
        }
    }

    proptest! {
        #[test]
        fn base64_comes_back(bytes in any::<Vec<u8>>()) {
            let text = STANDARD.encode(&bytes);
            prop_assert_eq!(base64_decoded(text.as_bytes()).unwrap().to_vec(), bytes);
        }

        #[test]
        fn hex_comes_back(bytes in any::<Vec<u8>>()) {
            let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap();
            let text: String = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
            prop_assert_eq!(hex_decoded(text.as_bytes()).unwrap().to_vec(), bytes);
        }

        #[test]
        fn never_panics(bytes in any::<Vec<u8>>(), text in "[A-Za-z0-9+/=\r\n ]{0,24}") {
            let _ = base64_decoded(&bytes);
            let _ = hex_decoded(&bytes);
            if let Err(EncodingError::Base64(offset)) = base64_decoded(text.as_bytes()) {
                prop_assert!(offset <= text.len());
            }
        }
    }
}
