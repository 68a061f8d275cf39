//! Makes requests acceptable to an HTTP/2 server that is strict about names.
//!
//! Many gRPC clients send the path of a unix socket, percent-encoded, as the request's `:authority`: the kubelet's on plugins'
//! registration sockets, and others on any. RFC 3986 has no such host, and the server resets the stream with PROTOCOL_ERROR
//! before any code of ours sees it: <https://github.com/kubernetes/kubernetes/issues/109081>. On a socket that serves nothing
//! else the name means nothing, so it is replaced by `localhost` on its way in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::{Connected, UdsConnectInfo};

/// Length of the text with which a client begins (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Length of what is before a frame's payload: length, type, flags, stream (RFC 9113 §4.1).
const FRAME_HEAD: usize = 9;
/// The longest payload a client may send unless it was told otherwise, and the server here tells nobody.
const MAX_PAYLOAD: usize = 16_384;
const HEADERS: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Bytes of a stream dependency and its weight.
const PRIORITY_FIELDS: usize = 5;
/// Where HPACK's static table has `:authority` (RFC 7541, appendix A).
const AUTHORITY: usize = 1;
/// The same as a string: gRPC's C core, and with it Python's and Ruby's clients, do not use the table for it.
const AUTHORITY_SPELLED: &[u8] = b"\x0a:authority";

/// A connection whose requests are all for `localhost`.
#[derive(Debug)]
pub struct ForLocalhost<S> {
    stream: S,
    rewriter: Rewriter,
    /// Rewritten and not read yet.
    ready: Vec<u8>,
}

impl<S> ForLocalhost<S> {
    /// Wraps a connection from which nothing was read.
    pub fn new(stream: S) -> Self {
        Self { stream, rewriter: Rewriter::default(), ready: Vec::new() }
    }
}

impl<S: Connected<ConnectInfo = UdsConnectInfo>> Connected for ForLocalhost<S> {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ForLocalhost<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ready.is_empty() {
            let mut space = [0; 4096];
            let mut chunk = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                // The end. What is left of a frame that was not finished is of no use to anybody.
                return Poll::Ready(Ok(()));
            }
            this.rewriter.take(chunk.filled(), &mut this.ready);
        }
        let rest = this.ready.split_off(this.ready.len().min(buffer.remaining()));
        buffer.put_slice(&this.ready);
        this.ready = rest;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ForLocalhost<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Follows a client's bytes from frame to frame.
#[derive(Debug)]
struct Rewriter {
    /// Bytes that go through as they are before the next frame begins.
    through: usize,
    /// A frame of headers, as far as it has come.
    partial: Vec<u8>,
}

impl Default for Rewriter {
    fn default() -> Self {
        Self { through: PREFACE, partial: Vec::new() }
    }
}

impl Rewriter {
    /// Takes bytes and appends what can be said of them to `out`.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.through > 0 {
                let (now, later) = rest.split_at(self.through.min(rest.len()));
                out.extend_from_slice(now);
                self.through -= now.len();
                rest = later;
                continue;
            }
            let wanted = match frame(&self.partial) {
                None => FRAME_HEAD,
                Some((payload, kind, _)) if kind != HEADERS || payload > MAX_PAYLOAD => {
                    // Not ours to judge, and too long ones the server refuses.
                    out.append(&mut self.partial);
                    self.through = payload;
                    continue;
                }
                Some((payload, ..)) => FRAME_HEAD + payload,
            };
            let (now, later) = rest.split_at((wanted - self.partial.len()).min(rest.len()));
            self.partial.extend_from_slice(now);
            rest = later;
            if let Some((payload, kind, flags)) = frame(&self.partial) {
                if kind == HEADERS && self.partial.len() == FRAME_HEAD + payload {
                    // What cannot be read goes to the server as it is, which says what is wrong with it.
                    let rewritten = rewrite_frame(&self.partial, flags);
                    out.extend_from_slice(rewritten.as_deref().unwrap_or(&self.partial));
                    self.partial.clear();
                } else if kind != HEADERS {
                    out.append(&mut self.partial);
                    self.through = payload;
                }
            }
        }
    }
}

/// Length of the payload, type and flags, once the head of a frame is complete.
fn frame(bytes: &[u8]) -> Option<(usize, u8, u8)> {
    let head: &[u8; FRAME_HEAD] = bytes.first_chunk()?;
    let [high, middle, low, kind, flags, ..] = *head;
    let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    Some((length, kind, flags))
}

/// A whole HEADERS frame with another authority. Nothing, when it is continued in other frames or is no such frame.
fn rewrite_frame(bytes: &[u8], flags: u8) -> Option<Vec<u8>> {
    if flags & END_HEADERS == 0 {
        return None;
    }
    let (head, payload) = bytes.split_at_checked(FRAME_HEAD)?;
    let mut before = 0;
    let mut padding = 0;
    if flags & PADDED != 0 {
        padding = usize::from(*payload.first()?);
        before += 1;
    }
    if flags & PRIORITY != 0 {
        before += PRIORITY_FIELDS;
    }
    let (fields, rest) = payload.split_at_checked(before)?;
    let (block, padding) = rest.split_at_checked(rest.len().checked_sub(padding)?)?;
    let block = rewrite_block(block)?;
    let length = u32::try_from(fields.len() + block.len() + padding.len()).ok()?;
    let [_, high, middle, low] = length.to_be_bytes();
    Some([&[high, middle, low], head.get(3..)?, fields, &block, padding].concat())
}

/// A block of header fields (RFC 7541 §6) in which the value that belongs to `:authority` is `localhost`.
///
/// Nothing is decoded: a field that goes into the client's table goes into the server's at the same place, with the other value.
fn rewrite_block(block: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(block.len());
    let mut rest = block;
    while let Some(first) = rest.first() {
        let field = rest;
        let (prefix, literal) = match first {
            0x80.. => (7, false),
            0x40..0x80 => (6, true),
            // A new size of the table.
            0x20..0x40 => (5, false),
            ..0x20 => (4, true),
        };
        let (name, after) = integer(rest, prefix)?;
        rest = after;
        if literal {
            let mut spelled: &[u8] = &[];
            if name == 0 {
                spelled = rest;
                rest = after_string(rest)?;
                spelled = spelled.get(..spelled.len() - rest.len())?;
            }
            let value = rest;
            rest = after_string(rest)?;
            if name == AUTHORITY || spelled == AUTHORITY_SPELLED {
                out.extend_from_slice(field.get(..field.len() - value.len())?);
                out.extend_from_slice(b"\x09localhost");
                continue;
            }
        }
        out.extend_from_slice(field.get(..field.len() - rest.len())?);
    }
    Some(out)
}

/// An integer that begins in the last `prefix` bits of the first byte (RFC 7541 §5.1), and what follows it.
fn integer(bytes: &[u8], prefix: u32) -> Option<(usize, &[u8])> {
    let (first, mut rest) = bytes.split_first()?;
    let full = (1_usize << prefix) - 1;
    let mut value = usize::from(*first) & full;
    if value < full {
        return Some((value, rest));
    }
    // Nothing in a frame is longer than three of these can say.
    for shift in [0, 7, 14] {
        let (byte, after) = rest.split_first()?;
        rest = after;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// What follows a string (RFC 7541 §5.2).
fn after_string(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = integer(bytes, 7)?;
    rest.get(length..)
}

#[cfg(test)]
pub use tests::request as get_info;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the kubelet's client sends first: the preface, empty SETTINGS, and a call of GetInfo.
    pub fn request(authority: &str) -> Vec<u8> {
        let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
        let literal = |block: &mut Vec<u8>, index: u8, value: &str| {
            block.push(0x40 | index);
            block.push(u8::try_from(value.len()).unwrap());
            block.extend_from_slice(value.as_bytes());
        };
        literal(&mut block, 4, "/pluginregistration.Registration/GetInfo"); // :path
        literal(&mut block, 1, authority);
        literal(&mut block, 31, "application/grpc"); // content-type
        block.extend_from_slice(b"\x40\x02te\x08trailers");
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[
            0,
            0,
            u8::try_from(block.len()).unwrap(),
            HEADERS,
            END_HEADERS,
            0,
            0,
            0,
            1,
        ]);
        bytes.extend_from_slice(&block);
        // DATA of an empty message, and the end of the stream.
        bytes.extend_from_slice(&[0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        bytes
    }

    fn rewritten(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut rewriter, mut out) = (Rewriter::default(), Vec::new());
        for piece in pieces {
            rewriter.take(piece, &mut out);
        }
        out
    }

    const KUBELET: &str = "%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fdriver-reg.sock";

    #[test]
    fn the_authority_becomes_localhost_and_nothing_else_changes() {
        assert_eq!(rewritten(&[&request(KUBELET)]), request("localhost"));
    }

    #[test]
    fn the_name_may_be_spelled_out() {
        let block = |value: &str| {
            let length = u8::try_from(value.len()).unwrap();
            [b"\x83\x40\x0a:authority".as_slice(), &[length], value.as_bytes(), b"\x40\x02te\x08trailers"]
                .concat()
        };
        assert_eq!(rewrite_block(&block("tmp%2Fcsi.sock")), Some(block("localhost")));
        // A value that happens to be the name is a value.
        let other = b"\x40\x01x\x0a:authority".as_slice();
        assert_eq!(rewrite_block(other), Some(other.to_vec()));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_arrive(cuts in prop::collection::vec(0..200_usize, 0..8)) {
            let bytes = request(KUBELET);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(rewritten(&pieces), request("localhost"));
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            rewritten(&[&request(KUBELET)[..PREFACE], &bytes]);
        }

        #[test]
        fn padding_and_priority_stay(padding in 0..20_u8, priority in any::<bool>()) {
            let block = b"\x41\x03%2Fxyz".get(..5).unwrap();
            let frame = |block: &[u8]| {
                let mut payload = vec![padding];
                if priority {
                    payload.extend_from_slice(&[0, 0, 0, 0, 16]);
                }
                payload.extend_from_slice(block);
                payload.resize(payload.len() + usize::from(padding), 0);
                let flags = END_HEADERS | PADDED | if priority { PRIORITY } else { 0 };
                let mut bytes = vec![0, 0, u8::try_from(payload.len()).unwrap(), HEADERS, flags, 0, 0, 0, 1];
                bytes.append(&mut payload);
                bytes
            };
            let flags = frame(block)[4];
            prop_assert_eq!(rewrite_frame(&frame(block), flags), Some(frame(b"\x41\x09localhost")));
        }
    }
}
