//! Values of labels. All of them come from a closed list, or from [`Bounded`]: a label with free text would make a time series
//! of each error message and let memory grow without end, here and in Prometheus.

use crate::driver::Outcome;
use crate::error::{MountError, PublishError};
use crate::provider::ProviderError;
use crate::volume::VolumeError;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use vault::FailureKind;

/// Makes an enum whose variants stand for label values.
macro_rules! label_values {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// All values, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The label's value.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $value,)*
                }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
                encoder.write_str(self.as_str())
            }
        }
    };
}

label_values! {
    /// `error_type`: the reference's words for what went wrong, and two of our own.
    ErrorType {
        /// The request, the class or the mount.
        FailedToMount = "FailedToMount",
        /// Something else is where the volume should be.
        FailedToEnsureMountPoint = "FailedToEnsureMountPoint",
        /// The class could not be had.
        SecretProviderClassNotFound = "SecretProviderClassNotFound",
        /// There is no provider of that name.
        FailedToLookupProvider = "FailedToLookupProviderGRPCClient",
        /// From the class's parameters to the objects' content.
        Provider = "GRPCProviderError",
        /// The files.
        FileWrite = "FileWriteError",
        /// Another call worked on the same target for too long. Ours.
        Busy = "Busy",
        /// A defect of this driver. Ours.
        Internal = "Internal",
    }
}

impl From<&PublishError> for ErrorType {
    fn from(error: &PublishError) -> Self {
        match error {
            PublishError::Request(_)
            | PublishError::NotReadOnly { .. }
            | PublishError::NoClass { .. }
            | PublishError::NoPodInfo { .. }
            | PublishError::NoProvider { .. }
            | PublishError::NoParameters { .. } => Self::FailedToMount,
            PublishError::Class { .. } => Self::SecretProviderClassNotFound,
            PublishError::Mount { step, .. } => match step {
                MountError::Provider {
                    cause:
                        ProviderError::InvalidName { .. }
                        | ProviderError::NotFound { .. }
                        | ProviderError::Unreachable { .. },
                    ..
                } => Self::FailedToLookupProvider,
                MountError::Volume { cause } => match cause {
                    VolumeError::NotADirectory { .. } | VolumeError::Foreign { .. } => {
                        Self::FailedToEnsureMountPoint
                    }
                    _ => Self::FileWrite,
                },
                _ => Self::Provider,
            },
            PublishError::Busy { .. } => Self::Busy,
            PublishError::Internal { .. } => Self::Internal,
        }
    }
}

label_values! {
    /// `cause`: what stood in the way of a volume, fine enough to know whose task it is.
    Cause {
        /// The kubelet's call, or the pod's volume.
        Request = "request",
        /// The class is not there, or the API server does not answer.
        Class = "class",
        /// The class's content.
        Parameters = "parameters",
        /// A provider in a process of its own.
        Provider = "provider",
        /// The identity cannot be built, or is not allowed.
        Identity = "identity",
        /// No token for the identity.
        Token = "token",
        /// 401 from the vault.
        Unauthenticated = "unauthenticated",
        /// 403 from the vault.
        Forbidden = "forbidden",
        /// 404 from the vault.
        NotFound = "not_found",
        /// Another refusal of the vault.
        Invalid = "invalid",
        /// An answer that no file can be made of.
        Unusable = "unusable",
        /// 429 from the vault.
        Throttled = "throttled",
        /// 5xx from the vault, or no connection.
        Unavailable = "unavailable",
        /// No time left.
        Deadline = "deadline",
        /// The disk.
        Volume = "volume",
        /// Another call on the same target.
        Busy = "busy",
        /// A defect.
        Internal = "internal",
    }
}

impl From<&PublishError> for Cause {
    fn from(error: &PublishError) -> Self {
        match error {
            PublishError::Request(_)
            | PublishError::NotReadOnly { .. }
            | PublishError::NoClass { .. }
            | PublishError::NoPodInfo { .. } => Self::Request,
            PublishError::Class { .. } => Self::Class,
            PublishError::NoProvider { .. } | PublishError::NoParameters { .. } => Self::Parameters,
            PublishError::Mount { step, .. } => match step {
                MountError::Plan { .. }
                | MountError::Cloud { .. }
                | MountError::NoCloudFile { .. }
                | MountError::Address { .. }
                | MountError::NothingSelected { .. } => Self::Parameters,
                MountError::Identity { .. } | MountError::IdentityChanged { .. } => Self::Identity,
                MountError::Fetch { cause, .. } => cause.kind().into(),
                MountError::Provider { .. } | MountError::NeedsCall { .. } => Self::Provider,
                MountError::Volume { .. } => Self::Volume,
            },
            PublishError::Busy { .. } => Self::Busy,
            PublishError::Internal { .. } => Self::Internal,
        }
    }
}

impl From<FailureKind> for Cause {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Credential => Self::Token,
            FailureKind::Unauthenticated => Self::Unauthenticated,
            FailureKind::Forbidden => Self::Forbidden,
            FailureKind::NotFound => Self::NotFound,
            FailureKind::Invalid => Self::Invalid,
            FailureKind::Unusable => Self::Unusable,
            FailureKind::Throttled => Self::Throttled,
            FailureKind::Unavailable => Self::Unavailable,
            FailureKind::DeadlineExceeded => Self::Deadline,
            _ => Self::Internal,
        }
    }
}

label_values! {
    /// `outcome` of a publish call.
    PublishOutcome {
        /// A new volume.
        Mounted = "mounted",
        /// New content.
        Rotated = "rotated",
        /// The vault was asked and had nothing new.
        Unchanged = "unchanged",
        /// It was not yet time to look.
        Fresh = "fresh",
        /// Looking failed; the volume keeps what it has.
        Kept = "kept",
        /// No volume.
        Failed = "failed",
    }
}

impl From<Outcome> for PublishOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Mounted => Self::Mounted,
            Outcome::Rotated => Self::Rotated,
            Outcome::Unchanged => Self::Unchanged,
            Outcome::Fresh => Self::Fresh,
            Outcome::Kept => Self::Kept,
        }
    }
}

/// Names that come from outside, as label values: the first so many are themselves, all others are `other`.
#[derive(Debug)]
pub struct Bounded {
    known: Mutex<HashMap<String, Arc<str>>>,
    most: usize,
}

/// What [`Bounded`] makes of the names it has no room for.
pub const OTHER: &str = "other";

impl Bounded {
    /// Room for `most` names.
    pub fn new(most: usize) -> Self {
        Self { known: Mutex::default(), most }
    }

    /// The label value for a name.
    pub fn label(&self, name: &str) -> Arc<str> {
        let mut known = self.known.lock();
        if let Some(label) = known.get(name) {
            return Arc::clone(label);
        }
        if known.len() >= self.most {
            return OTHER.into();
        }
        let label: Arc<str> = name.into();
        known.insert(name.to_owned(), Arc::clone(&label));
        label
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_names_become_labels() {
        let bounded = Bounded::new(2);
        let labels = ["a", "b", "c", "a", "d"].map(|name| bounded.label(name).to_string());
        assert_eq!(labels, ["a", "b", "other", "a", "other"]);
    }
}
