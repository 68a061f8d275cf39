//! Why a Kubernetes Secret is not what its class says.

use super::MANAGED_LABEL;
use crate::kubernetes::{lacks_right, said};
use vault::TlsError;

/// One of a class's `secretObjects` that could not be turned into a Secret. The others are not held up by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("secretObjects[{index}]{}: {fault}", in_brackets(.secret))]
pub struct SecretError {
    /// Position in the class's list.
    pub index: usize,
    /// Name of the Secret; with its namespace where that is known. Empty if the class names none.
    pub secret: String,
    /// What is wrong.
    pub fault: SecretFault,
}

fn in_brackets(secret: &str) -> String {
    if secret.is_empty() { String::new() } else { format!(" (Secret {secret})") }
}

/// What is wrong with a Secret, or with what a class says of it. The wording keeps the reference's phrases, which people
/// search for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    /// `secretName` is empty.
    #[error("secret name is empty: set secretName")]
    NoName,
    /// `type` is empty.
    #[error("secret type is empty: set type, for example to Opaque or kubernetes.io/tls")]
    NoType,
    /// `data` is empty.
    #[error("data is empty: list the files to take, each with objectName and key")]
    NoData,
    /// `secretName` cannot be the name of an object.
    #[error(
        "secretName {name:?} is no name of a Secret: use at most 253 lower case letters, digits, '-' and '.', with a letter or \
         digit at both ends"
    )]
    Name {
        /// The name as the class has it.
        name: String,
    },
    /// Two entries of the list name the same Secret.
    #[error(
        "secretName {name:?} is also that of secretObjects[{other}], which counts: put the data of both into one entry"
    )]
    SameName {
        /// The name.
        name: String,
        /// The later entry.
        other: usize,
    },
    /// A label or annotation cannot be one.
    #[error("{field} {text:?} is not valid: {cure}")]
    Metadata {
        /// `labels` or `annotations`.
        field: &'static str,
        /// The key or value in question.
        text: String,
        /// What is allowed.
        cure: &'static str,
    },
    /// An entry of `data` names no file.
    #[error("object name in secretObjects.data is empty: set objectName in data[{entry}]")]
    NoObjectName {
        /// Position in `data`.
        entry: usize,
    },
    /// An entry of `data` names no key.
    #[error("key in secretObjects.data is empty: set key in data[{entry}]")]
    NoKey {
        /// Position in `data`.
        entry: usize,
    },
    /// A key cannot be one.
    #[error("key {key:?} in data[{entry}] is not valid: use at most 253 letters, digits, '-', '_' and '.'")]
    Key {
        /// Position in `data`.
        entry: usize,
        /// The key.
        key: String,
    },
    /// Two entries of `data` have the same key.
    #[error("key {key:?} in data[{entry}] is also that of data[{other}], which counts: remove one")]
    SameKey {
        /// Position in `data`.
        entry: usize,
        /// Position of the later one.
        other: usize,
        /// The key.
        key: String,
    },
    /// A key that Secrets for TLS do not have.
    #[error(
        "key '{key}' is not supported. Only 'tls.key' and 'tls.crt' are supported, and 'ca.crt', in a Secret of type \
         kubernetes.io/tls: rename it, or set type to Opaque"
    )]
    TlsKey {
        /// The key.
        key: String,
    },
    /// Secrets of this type must have a key that the class does not list.
    #[error("a Secret of type {kind} needs the key {needed}: add it to data, or set type to Opaque")]
    Incomplete {
        /// The type.
        kind: String,
        /// The missing key, or keys of which one is needed.
        needed: &'static str,
    },
    /// A file that the volume does not have.
    #[error(
        "file matching objectName {name} not found in the pod: the volume has {files}; objectName is an object's objectAlias, or \
         its objectName where it has none"
    )]
    NoFile {
        /// What the class says.
        name: String,
        /// The files there are.
        files: String,
    },
    /// A file that is no certificate or key.
    #[error("failed to get cert data from file {file}, err: {cause}")]
    Tls {
        /// The file.
        file: String,
        /// What is wrong with it.
        cause: TlsError,
    },
    /// More than a Secret can hold.
    #[error(
        "the files have {bytes} bytes together; a Secret holds 1048576: split data over several secretObjects"
    )]
    TooLarge {
        /// The sum of the values.
        bytes: usize,
    },
    /// The Secret belongs to somebody else.
    #[error(
        "it exists and is not managed by this driver, so it stays as it is: choose another secretName, delete the Secret, or hand it \
         over with: kubectl label secret --namespace {namespace} {name} {MANAGED_LABEL}=true"
    )]
    NotOurs {
        /// Namespace of the Secret.
        namespace: String,
        /// Name of the Secret.
        name: String,
    },
    /// The Secret has another type, which cannot be changed.
    #[error(
        "it exists with type {live:?}, and Kubernetes does not let a Secret change to type {wanted:?}: delete the Secret, it will be \
         made anew; or correct type"
    )]
    OtherType {
        /// The type it has.
        live: String,
        /// The type the class says.
        wanted: String,
    },
    /// The Secret is immutable.
    #[error("it is immutable and has other content: delete the Secret, it will be made anew")]
    Immutable,
    /// The Secret is being deleted.
    #[error("it is being deleted: it will be made anew when it is gone (finalizers on it: {finalizers})")]
    BeingDeleted {
        /// What holds it.
        finalizers: String,
    },
    /// Another class writes the same Secret.
    #[error(
        "SecretProviderClass {other} writes this Secret too, with other keys, labels or annotations, and its volume is newer, so the \
         Secret is left as {other} makes it: give each class a secretName of its own"
    )]
    TwoClasses {
        /// The class that wrote last.
        other: String,
    },
    /// The driver lacks the permission.
    #[error(
        "the driver may not sync Secrets: set the Helm value syncSecret.enabled=true, which grants it, or remove secretObjects ({cause})"
    )]
    Forbidden {
        /// The API server's words.
        cause: String,
    },
    /// The API server does not accept the Secret.
    #[error("the API server refuses it: {cause}")]
    Refused {
        /// The API server's words.
        cause: String,
    },
    /// The API server could not be asked.
    #[error("no answer from the API server: {cause}")]
    Unanswered {
        /// The client's error.
        cause: String,
    },
    /// Others changed the Secret all the time.
    #[error(
        "it was changed by others each of the {attempts} times it was to be written; the next sync tries again"
    )]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
}

impl SecretFault {
    /// What the API server's answer means.
    pub(super) fn of(error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::Unanswered { cause: said(error) };
        };
        let cause = said(error);
        if lacks_right(error) {
            Self::Forbidden { cause }
        } else if status.code < 500 && status.code != 429 {
            Self::Refused { cause }
        } else {
            Self::Unanswered { cause }
        }
    }
}
