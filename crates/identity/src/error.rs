//! What can go wrong on the way to a token, in words an operator can act on.

use std::time::Duration;

use crate::{diagnosis::Advice, redact::excerpt};

/// Why there is no token. Cheap to clone: one failure is handed to everyone who waited for it.
///
/// No variant ever holds a token, an assertion or a secret.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tenant has characters that cannot stand in a token URL.
    #[error(
        "invalid tenantID. You can locate your tenantID by following the instructions listed here: \
         https://learn.microsoft.com/partner-center/find-ids-and-domain-names (the tenantID given is {given:?})"
    )]
    TenantId {
        /// The tenant, cut to a readable length.
        given: String,
    },
    /// The client id is empty or has blanks.
    #[error(
        "invalid {place} {given:?}: give the client (application) id of the managed identity or app \
         registration, without blanks and line breaks, a GUID such as 00000000-0000-0000-0000-000000000000"
    )]
    ClientId {
        /// Where it was given: `clientID`, or what stands in its place.
        place: &'static str,
        /// The client id, cut to a readable length.
        given: String,
    },
    /// There is no cloud of that name.
    #[error(
        "cloudName {given} is not valid, error: autorest/azure: There is no cloud environment matching the \
         name \"{}\"", .given.to_uppercase()
    )]
    UnknownCloud {
        /// The name, cut to a readable length.
        given: String,
    },
    /// A custom cloud's file is missing or does not describe a cloud.
    #[error("cloudName AzureStackCloud is not valid, error: {reason}")]
    CloudFile {
        /// What is wrong with the file.
        reason: String,
    },
    /// The authority host of a custom cloud cannot be used.
    #[error("{reason} (activeDirectoryEndpoint is {given:?})")]
    Authority {
        /// What is wrong with it.
        reason: String,
        /// The host, cut to a readable length.
        given: String,
    },
    /// The service account tokens in the publish request are missing or unreadable.
    #[error("{}{reason}", .purpose.prefix())]
    ServiceAccountTokens {
        /// What they were wanted for.
        purpose: Purpose,
        /// What is wrong with them.
        reason: String,
    },
    /// An identity binding was asked for without what it needs.
    #[error("{what} for identity binding")]
    IdentityBinding {
        /// `clientID is required` or `service account tokens are required`.
        what: &'static str,
    },
    /// The Secret named by `nodePublishSecretRef` is missing or lacks a field.
    #[error("{reason}")]
    ServicePrincipal {
        /// What is missing, in the reference's words where it has them.
        reason: String,
    },
    /// The client certificate cannot be used to sign in.
    #[error("the client certificate in the nodePublishSecretRef secret cannot be used: {reason}")]
    Certificate {
        /// What is wrong with it. Never its bytes.
        reason: String,
    },
    /// The kind of identity is not to be had on this node.
    #[error("{reason}")]
    Unsupported {
        /// What was asked for, why it cannot be, and what can.
        reason: String,
    },
    /// The operator's policy does not allow it.
    #[error("{reason}")]
    NotAllowed {
        /// Who asked for what, and which setting forbids it.
        reason: String,
    },
    /// The service account token is outside its validity; it was not sent.
    #[error("{reason}")]
    AssertionValidity {
        /// Which bound is passed by how much, and what to do.
        reason: String,
    },
    /// The token service answered no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The token service could not be reached, or answered that it is out of order, until patience ended.
    #[error("{0}")]
    Unavailable(Box<Outage>),
    /// The token service answered something that is no token.
    #[error(
        "{credential} authentication failed. {from} answered with something that is no token: {reason}. Cure: \
         check what answers at this address; it may be a proxy with a page of its own."
    )]
    Answer {
        /// Name of the credential in the Azure SDKs, which is what people search for.
        credential: &'static str,
        /// Host that answered.
        from: String,
        /// What was expected and not found.
        reason: String,
    },
    /// The way to the token proxy of identity bindings could not be prepared.
    #[error("proxy transport not available: {reason}")]
    TokenProxy {
        /// Which step failed and why.
        reason: String,
    },
    /// A defect of this program.
    #[error("internal error: {reason}")]
    Internal {
        /// What should not have happened.
        reason: String,
    },
}

/// What service account tokens are wanted for; decides how an error about them begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Workload identity federation.
    WorkloadIdentity,
    /// An AKS identity binding (`useAzureTokenProxy`).
    IdentityBinding,
}

impl Purpose {
    fn prefix(self) -> &'static str {
        match self {
            Self::WorkloadIdentity => "failed to parse workload identity tokens, error: ",
            Self::IdentityBinding => "failed to parse service account token for identity binding, error: ",
        }
    }
}

/// A token service's no.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) opening: String,
    pub(crate) from: String,
    pub(crate) identity: String,
    pub(crate) status: u16,
    pub(crate) error: String,
    pub(crate) codes: Vec<u32>,
    pub(crate) description: String,
    pub(crate) advice: Advice,
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// HTTP status of the answer.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The answer's `error` word: `invalid_client`.
    pub fn error(&self) -> &str {
        &self.error
    }

    /// The numbers behind `AADSTS`, as hints. Empty for the metadata service.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// What the service said, on one line.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Why it said so, in our words.
    pub fn cause(&self) -> &str {
        &self.advice.cause
    }

    /// What to do about it.
    pub fn cure(&self) -> &str {
        &self.advice.cure
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = if self.description.is_empty() { &self.error } else { &self.description };
        // An event has room for a kilobyte: the cure goes before what only a support engineer needs.
        let (said, trace) = match said.find(" Trace ID: ") {
            Some(at) => (&said[..at], &said[at..]),
            None => (said.as_str(), ""),
        };
        let stop = if said.is_empty() || said.ends_with('.') { "" } else { "." };
        write!(
            f,
            "{} {said}{stop} Cause: {} Cure: {} [HTTP {} from {}, asked for {}.{trace}]",
            self.opening, self.advice.cause, self.advice.cure, self.status, self.from, self.identity
        )
    }
}

/// A token service out of reach or out of order.
#[derive(Clone, Debug)]
pub struct Outage {
    pub(crate) credential: &'static str,
    pub(crate) from: String,
    pub(crate) identity: String,
    pub(crate) attempts: u32,
    pub(crate) elapsed: Duration,
    pub(crate) last: String,
    pub(crate) cure: String,
    pub(crate) retry_after: Option<Duration>,
}

impl std::fmt::Display for Outage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let times = if self.attempts == 1 { "attempt" } else { "attempts" };
        write!(
            f,
            "{} authentication failed. No token for {} from {} after {} {times} in {:.1} s; the last one: {}. \
             Cure: {}",
            self.credential,
            self.identity,
            self.from,
            self.attempts,
            self.elapsed.as_secs_f64(),
            self.last,
            self.cure
        )
    }
}

/// What sort of failure it is: decides the answer's code and whether asking again soon makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The class, the Secret or the driver's settings are wrong; the same request fails for ever.
    Misconfiguration,
    /// The operator's policy forbids it.
    NotAllowed,
    /// The token service refused; a change in Entra or Azure cures it, and may take minutes to arrive.
    Refused,
    /// An outage or throttling; the same request may succeed later.
    Transient,
    /// A defect of this program.
    Internal,
}

impl Error {
    /// The sort of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::TenantId { .. }
            | Self::ClientId { .. }
            | Self::UnknownCloud { .. }
            | Self::CloudFile { .. }
            | Self::Authority { .. }
            | Self::ServiceAccountTokens { .. }
            | Self::IdentityBinding { .. }
            | Self::ServicePrincipal { .. }
            | Self::Certificate { .. }
            | Self::Unsupported { .. } => Kind::Misconfiguration,
            Self::NotAllowed { .. } => Kind::NotAllowed,
            Self::Refused(refusal) => refusal.kind,
            // A stale service account token is replaced by the kubelet's next call.
            Self::AssertionValidity { .. }
            | Self::Unavailable(_)
            | Self::Answer { .. }
            | Self::TokenProxy { .. } => Kind::Transient,
            Self::Internal { .. } => Kind::Internal,
        }
    }

    /// How long the token service asked to be left alone, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::Unavailable(outage) => outage.retry_after,
            _ => None,
        }
    }

    /// Finds our error inside an error of the Azure SDK, however deep other crates have wrapped it.
    pub fn find(error: &azure_core::Error) -> Option<&Self> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            // An I/O error's `source` passes over the error it wraps.
            next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(wrapped) => Some(wrapped),
                None => error.source(),
            };
        }
        None
    }

    /// Whether another service account token may change the outcome.
    pub(crate) fn is_about_the_assertion(&self) -> bool {
        match self {
            Self::AssertionValidity { .. } => true,
            Self::Refused(refusal) => refusal.codes.iter().any(|code| crate::diagnosis::STALE.contains(code)),
            _ => false,
        }
    }

    /// The error for `usePodIdentity: "true"`: names what replaces it.
    pub fn pod_identity() -> Self {
        Self::Unsupported {
            reason: "usePodIdentity is no longer possible: AAD Pod Identity, whose agent handed out the tokens, has \
                     been retired. Use workload identity (clientID and a federated credential for the pod's service \
                     account; no usePodIdentity), or useVMManagedIdentity with userAssignedIdentityID"
                .to_owned(),
        }
    }

    pub(crate) fn internal(reason: impl std::fmt::Display) -> Self {
        Self::Internal { reason: excerpt(&reason.to_string(), 300) }
    }
}

impl From<Error> for azure_core::Error {
    /// Wraps our error for the SDK's credential trait: the text stays whole, and [`Error::find`] finds it
    /// again.
    fn from(error: Error) -> Self {
        let text = error.to_string();
        Self::with_error(azure_core::error::ErrorKind::Credential, error, text)
    }
}

/// An error with all that caused it, in one line: reqwest's own text stops at "error sending request".
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    excerpt(&crate::redact::scrub(&text, &[]), 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_again_under_wrappings_with_its_whole_text() {
        let error = Error::IdentityBinding { what: "clientID is required" };
        let text = error.to_string();
        let sdk = azure_core::Error::from(error);
        assert_eq!(sdk.to_string(), text);
        let bare = std::io::Error::other(Error::IdentityBinding { what: "clientID is required" });
        let bare = azure_core::Error::new(azure_core::error::ErrorKind::Io, bare);
        assert_eq!(Error::find(&bare).map(ToString::to_string).as_ref(), Some(&text));
        let deeper = azure_core::Error::with_error(
            azure_core::error::ErrorKind::Other,
            std::io::Error::other(sdk.with_context("outer")),
            "outermost",
        );
        assert_eq!(Error::find(&deeper).map(ToString::to_string), Some(text));
        assert!(
            Error::find(&azure_core::Error::with_message(azure_core::error::ErrorKind::Other, "x")).is_none()
        );
    }
}
