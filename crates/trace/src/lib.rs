//! One id for everything that is done for one call, from the caller's log to those of Entra and Key Vault.
//!
//! A [`Context`] holds for the work inside its [`scope`](Context::scope). Requests that are sent there carry it, each as a
//! span of its own: [`Context::traceparent`] is the header of the W3C (<https://www.w3.org/TR/trace-context/>), and
//! [`TraceId::to_guid`] is the id in the form in which Azure's services take an id from their caller.
//!
//! Where a [`Recorder`] is set ([`Context::recorded_by`]), it gets every [`Span`] of the work when it is over.

mod context;
mod ids;
mod span;

pub use context::Context;
pub use ids::{SpanId, TraceId};
pub use span::{Finished, Kind, Recorder, Span, Value};
