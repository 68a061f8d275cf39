//! The token service over real sockets, against small hand-made servers that count what they are asked.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests stop at the first surprise"
)]

mod attacks;
mod entra;
mod redaction;
mod server;
mod token_proxy;
mod traces;
mod vm;
