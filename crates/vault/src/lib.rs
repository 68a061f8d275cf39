//! Azure Key Vault: what to fetch, how to ask, what bytes come out.
//!
//! * [`parse_objects`] reads the `objects` parameter of a `SecretProviderClass` into [`ObjectRequest`]s; every mistake
//!   is a [`Fault`] with its field. [`VaultName`] and [`VaultEndpoint`] say where to ask.
//! * [`yaml`] shows where in a text each node stands, for whoever has to point at a mistake.
//! * [`Client::fetch`] asks the vault as a [`Credential`], in parallel and inside a deadline, and returns [`Contents`]:
//!   the files with their modes, and the versions they came from. A [`FetchError`] says what failed, for whom, and what
//!   cures it.
//! * An [`Observer`] is told what is asked, for metrics; the [`trace::Context`] in whose scope an object is asked for goes with each
//!   request.
//! * What the bytes look like is decided by [`Rendering`] and by pure conversions inside. [`TlsFile`] takes a file of
//!   certificates and a key apart again.
//!
//! The crate knows nothing of CSI or Kubernetes.

mod cache;
mod client;
mod convert;
mod endpoint;
mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod name;
mod objects;
mod observe;

pub use client::{
    Client, ClientOptions, Contents, Credential, Failure, FailureKind, FetchError, FetchRequest, File, Lease,
    ObjectVersion, Priority, Transport, Unreachable, VaultState,
};
pub use convert::{Rendering, TlsError, TlsFile};
pub use endpoint::{ResourceMismatch, VaultEndpoint};
pub use fault::{Fault, Faults};
pub use name::VaultName;
pub use objects::{
    FileMode, Misfit, OBJECT_FIELDS, ObjectField, ObjectKind, ObjectRequest, SecretEncoding, SecretFormat,
    Versions, YamlError, parse_objects, tree as yaml,
};
pub use observe::{Lookup, Observer};
