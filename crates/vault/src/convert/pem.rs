//! PEM as Go's `encoding/pem` writes and reads it: LF, 64 characters a line, and lenient about what is around.

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::encoding::base64_decoded;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"\n-----END ";
const DASHES: &[u8] = b"-----";

/// A block found in a text.
pub(super) struct Block {
    /// What stands after `BEGIN`: any bytes, mostly `CERTIFICATE`.
    pub(super) label: Vec<u8>,
    /// Names and values between `BEGIN` and the body; a later one replaces an earlier one.
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The decoded body.
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// Appends one block without headers.
pub(super) fn write(out: &mut Zeroizing<Vec<u8>>, label: &[u8], body: &[u8]) {
    Block::new(label, Zeroizing::new(body.to_vec())).write(out);
}

impl Block {
    /// A block without headers.
    pub(super) fn new(label: &[u8], body: Zeroizing<Vec<u8>>) -> Self {
        Self { label: label.to_vec(), headers: Vec::new(), body }
    }

    /// Whether the body is encrypted in the way of RFC 1421 §4.6.1.1, as older OpenSSLs write keys.
    pub(super) fn is_encrypted(&self) -> bool {
        self.headers.iter().any(|(name, value)| name == b"Proc-Type" && value.ends_with(b"ENCRYPTED"))
    }

    /// Appends the block in the one canonical form. One that cannot have it is left out, as Go does.
    pub(super) fn write(&self, out: &mut Zeroizing<Vec<u8>>) {
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(self.body.as_slice()));
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 3).sum();
        grow(out, encoded.len() / 64 + encoded.len() + headers + 2 * self.label.len() + 40);
        out.extend_from_slice(BEGIN);
        out.extend_from_slice(&self.label);
        out.extend_from_slice(b"-----\n");
        if !self.headers.is_empty() {
            // RFC 1421 §4.6.1.1: Proc-Type is first.
            let mut headers: Vec<_> = self.headers.iter().collect();
            headers.sort_by_key(|(name, _)| (name != b"Proc-Type", name));
            for (name, value) in headers {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(value);
                out.push(b'\n');
            }
            out.push(b'\n');
        }
        for line in encoded.as_bytes().chunks(64) {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        out.extend_from_slice(&END[1..]);
        out.extend_from_slice(&self.label);
        out.extend_from_slice(b"-----\n");
    }
}

/// Makes room without leaving a copy of the old bytes behind.
fn grow(out: &mut Zeroizing<Vec<u8>>, additional: usize) {
    if out.capacity() - out.len() < additional {
        let mut larger = Zeroizing::new(Vec::with_capacity((out.len() + additional).max(2 * out.capacity())));
        larger.extend_from_slice(out);
        *out = larger;
    }
}

/// All blocks of a text, in order. What is no block is skipped.
pub(super) fn blocks(mut text: &[u8]) -> Vec<Block> {
    let mut found = Vec::new();
    while let Some((block, rest)) = next_block(text) {
        found.push(block);
        text = rest;
    }
    found
}

/// A line without its end and trailing blanks, and what follows it.
fn line(text: &[u8]) -> (&[u8], &[u8]) {
    let (line, rest) = match text.iter().position(|&byte| byte == b'\n') {
        Some(end) => (text[..end].strip_suffix(b"\r").unwrap_or(&text[..end]), &text[end + 1..]),
        None => (text, &[][..]),
    };
    let length = line.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
    (&line[..length], rest)
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len()).position(|window| window == pattern)
}

fn find_last(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len()).rposition(|window| window == pattern)
}

/// The first END line that closes the last BEGIN line before it; others are passed over.
fn next_block(mut rest: &[u8]) -> Option<(Block, &[u8])> {
    loop {
        let end = find(rest, END)?;
        let after_end = &rest[end + END.len()..];
        // What the body lies in: up to the line break before END. It may be empty right behind the BEGIN line.
        let before = &rest[..=end];
        if let Some(found) = block_before(before, after_end) {
            return found.map(|block| (block, line(after_end).1));
        }
        rest = after_end;
    }
}

/// `None`: no block ends here; `Some(None)`: nor will any later.
#[expect(clippy::option_option, reason = "three outcomes: a block, none here, none at all")]
fn block_before(before: &[u8], after_end: &[u8]) -> Option<Option<Block>> {
    let end = before.len() - 1;
    let begin = find_last(&before[..end], BEGIN)?;
    if begin > 0 && before[begin - 1] != b'\n' {
        return None;
    }
    let (opening, mut rest) = line(&before[begin + BEGIN.len()..]);
    let label = opening.strip_suffix(DASHES)?;
    let mut headers: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    loop {
        if rest.is_empty() {
            // The line after BEGIN is END itself, which a colon in it would make a header.
            if label.contains(&b':') {
                return None;
            }
            break;
        }
        let (header, next) = line(rest);
        let Some(colon) = header.iter().position(|&byte| byte == b':') else { break };
        let (name, value) = (trimmed(&header[..colon]), trimmed(&header[colon + 1..]));
        match headers.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value.to_vec(),
            None => headers.push((name.to_vec(), value.to_vec())),
        }
        rest = next;
        if rest.is_empty() {
            // Headers need an empty line before END.
            return None;
        }
    }
    let closing = after_end.strip_prefix(label)?.strip_prefix(DASHES)?;
    if !line(closing).0.is_empty() {
        return None;
    }
    let dense: Zeroizing<Vec<u8>> =
        Zeroizing::new(rest.iter().copied().filter(|byte| !matches!(byte, b' ' | b'\t')).collect());
    let body = base64_decoded(&dense).ok()?;
    Some(Some(Block { label: label.to_vec(), headers, body }))
}

/// Without Unicode white space around, as Go trims header names and values.
fn trimmed(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => bytes.trim_ascii(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rewritten(text: &[u8]) -> String {
        let mut out = Zeroizing::new(Vec::new());
        for block in blocks(text) {
            block.write(&mut out);
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn writing() {
        let mut out = Zeroizing::new(Vec::new());
        write(&mut out, b"CERTIFICATE", b"test");
        assert_eq!(out.as_slice(), b"-----BEGIN CERTIFICATE-----\ndGVzdA==\n-----END CERTIFICATE-----\n");
        let mut empty = Zeroizing::new(Vec::new());
        write(&mut empty, b"X", b"");
        assert_eq!(empty.as_slice(), b"-----BEGIN X-----\n-----END X-----\n");
        let mut long = Zeroizing::new(Vec::new());
        write(&mut long, b"X", &[0; 49]);
        assert_eq!(
            long.as_slice(),
            format!("-----BEGIN X-----\n{}\nAA==\n-----END X-----\n", "A".repeat(64)).as_bytes()
        );
    }

    #[test]
    fn reading_normalises_what_it_reads() {
        for (text, canonical) in [
            (
                "-----BEGIN A-----\r\nAA\r\n==\r\n-----END A-----\r\n",
                "-----BEGIN A-----\nAA==\n-----END A-----\n",
            ),
            ("noise\n-----BEGIN A-----\nAA==\n-----END A-----", "-----BEGIN A-----\nAA==\n-----END A-----\n"),
            (
                "-----BEGIN A-----  \nA A = =\n-----END A----- \t\n",
                "-----BEGIN A-----\nAA==\n-----END A-----\n",
            ),
            ("-----BEGIN A-----\n-----END A-----\n", "-----BEGIN A-----\n-----END A-----\n"),
            ("-----BEGIN A-----\n\nAA==\n\n-----END A-----\n", "-----BEGIN A-----\nAA==\n-----END A-----\n"),
            (
                "-----BEGIN A-----\nb: 1\nProc-Type: 4\na: x\n\nAA==\n-----END A-----\n",
                "-----BEGIN A-----\nProc-Type: 4\na: x\nb: 1\n\nAA==\n-----END A-----\n",
            ),
            // A BEGIN without its END is skipped.
            (
                "-----BEGIN A-----\nAA==\n-----BEGIN B-----\nAAA=\n-----END B-----\n",
                "-----BEGIN B-----\nAAA=\n-----END B-----\n",
            ),
            ("-----BEGIN A-----\nAA==\n-----END B-----\n", ""),
            ("x-----BEGIN A-----\nAA==\n-----END A-----\n", ""),
            (
                "-----BEGIN A-----\n*\n-----END A-----\n-----BEGIN B-----\nAA==\n-----END B-----\n",
                "-----BEGIN B-----\nAA==\n-----END B-----\n",
            ),
            ("-----BEGIN A-----\nAA==\n-----END A-----x\n", ""),
            ("", ""),
        ] {
            assert_eq!(rewritten(text.as_bytes()), canonical, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bodies in prop::collection::vec(any::<Vec<u8>>(), 0..4)) {
            let mut out = Zeroizing::new(Vec::new());
            for body in &bodies {
                write(&mut out, b"CERTIFICATE", body);
            }
            let read: Vec<Vec<u8>> = blocks(&out).into_iter().map(|block| block.body.to_vec()).collect();
            prop_assert_eq!(read, bodies);
        }

        #[test]
        fn never_panics(bytes in any::<Vec<u8>>(), text in "(-----BEGIN A-----|-----END A-----|\n|a: b|AA==|\r|:| ){0,12}") {
            let _ = blocks(&bytes);
            let again = rewritten(text.as_bytes());
            // A header may hold the words of an END line, which it is then taken for.
            if !again.contains(": ") {
                prop_assert_eq!(rewritten(again.as_bytes()), again);
            }
        }
    }
}
