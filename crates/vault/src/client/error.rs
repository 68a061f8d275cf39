//! What went wrong, for whom, and what cures it.

use std::{fmt, time::Duration};

use super::api::ServiceError;
use crate::{
    ObjectKind, ObjectRequest, ResourceMismatch, VaultEndpoint,
    fault::{excerpt, shortened},
};

/// Why a fetch failed: at least one [`Failure`], definite ones first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError {
    failures: Vec<Failure>,
}

/// One object that could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// `<objectType>/<objectName>`.
    pub object: String,
    /// The sentence for people: which object in which vault, as whom, why, and the cure.
    pub message: String,
    /// The cure alone, which the message has too; empty when there is none, or the credential's own words have it.
    pub cure: String,
}

/// What a caller may do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// No token could be had: the identity, its federation or its tenant.
    Credential,
    /// 401: the vault does not take this identity's token.
    Unauthenticated,
    /// 403: no permission, a network rule or a disabled object.
    Forbidden,
    /// 404: no such object.
    NotFound,
    /// Another 4xx: the request itself is wrong.
    Invalid,
    /// The vault answers what no file can be made of.
    Unusable,
    /// 429: too many requests.
    Throttled,
    /// 5xx, or no connection.
    Unavailable,
    /// The deadline passed.
    DeadlineExceeded,
}

impl FailureKind {
    /// Whether the same request may succeed later with nothing changed.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable | Self::DeadlineExceeded)
    }

    /// Whether the vault has said no to this identity or object, so that nothing older may be served instead.
    pub fn is_definite_refusal(self) -> bool {
        matches!(self, Self::Unauthenticated | Self::Forbidden | Self::NotFound)
    }
}

impl FetchError {
    /// `failures` must not be empty.
    pub(super) fn new(mut failures: Vec<Failure>) -> Self {
        failures.sort_by_key(|failure| failure.kind.is_transient());
        Self { failures }
    }

    /// The failures, at least one, definite ones first.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// The kind of the first failure.
    pub fn kind(&self) -> FailureKind {
        self.failures.first().map_or(FailureKind::Unavailable, |failure| failure.kind)
    }

    /// Whether the same request may succeed later with nothing changed.
    pub fn is_transient(&self) -> bool {
        self.failures.iter().all(|failure| failure.kind.is_transient())
    }

    /// Whether the vault said no to this identity or to an object.
    pub fn is_definite_refusal(&self) -> bool {
        self.failures.iter().any(|failure| failure.kind.is_definite_refusal())
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, failure) in self.failures.iter().enumerate() {
            if i > 0 {
                f.write_str(". ")?;
            }
            f.write_str(&failure.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for FetchError {}

/// Why one request failed, before it is known what it was for.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Cause {
    /// No token.
    #[error("no token: {text}")]
    Credential { text: String, transient: bool },
    /// 401 to a token, or without a challenge to answer.
    #[error("{}", status_line(401, .error))]
    Refused { error: ServiceError, claims: bool },
    /// The challenge wants a token that must not be sent there.
    #[error("{0}")]
    Mismatch(ResourceMismatch),
    /// The vault keeps naming other resources.
    #[error("its challenge names another resource each time")]
    UnsteadyChallenge,
    /// Any other answer than 200.
    #[error("{}", status_line(*.status, .error))]
    Status { status: u16, error: ServiceError },
    /// The name does not resolve.
    #[error("no such host: {0}")]
    Dns(String),
    /// The connection is not to be trusted.
    #[error("TLS: {0}")]
    Tls(String),
    /// No connection, or a broken one.
    #[error("{0}")]
    Connection(String),
    /// The deadline came first, or one attempt took too long.
    #[error("context deadline exceeded after {:.1} s of waiting for {waiting_for}", .waited.as_secs_f64())]
    TooLate { waiting_for: &'static str, waited: Duration },
    /// The deadline came while a token was awaited.
    #[error("context deadline exceeded after {:.1} s of waiting for a token from {from}", .waited.as_secs_f64())]
    NoToken { from: String, waited: Duration },
    /// Something leads to another host.
    #[error("{what} leads away from the vault and is not followed")]
    Elsewhere { what: &'static str },
    /// More than any object can be.
    #[error("the answer is larger than the limit of {limit} bytes")]
    TooLarge { limit: usize },
    /// The answer is not what the API promises, or no file can be made of it.
    #[error("{0}")]
    Unusable(String),
}

fn status_line(status: u16, error: &ServiceError) -> String {
    let mut line = status.to_string();
    if let Some(code) = &error.code {
        line.push(' ');
        line.push_str(code);
    }
    if let Some(inner) = &error.inner {
        line.push_str(" (");
        line.push_str(inner);
        line.push(')');
    }
    line
}

/// An error and all that is behind it, without repeating what one already says of the next.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

impl Cause {
    /// A credential's error, whose text often sits deep in its chain.
    pub(super) fn credential(error: &azure_core::Error) -> Self {
        let mut transient = false;
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<azure_core::Error>() {
                transient |= match error.kind() {
                    azure_core::error::ErrorKind::Connection | azure_core::error::ErrorKind::Io => true,
                    azure_core::error::ErrorKind::HttpResponse { status, .. } => {
                        let status = u16::from(*status);
                        status == 408 || status == 429 || status >= 500
                    }
                    _ => false,
                };
            }
            next = error.source();
        }
        Self::Credential { text: chain(error), transient }
    }

    /// A transport's error, by what is at the bottom of it.
    pub(super) fn network(error: reqwest::Error) -> Self {
        // Its address is told anyway, and may hold the very words that are looked for.
        let text = chain(&error.without_url());
        let lower = text.to_ascii_lowercase();
        if lower.contains("dns error") {
            Self::Dns(text)
        } else if ["certificate", "tls", "handshake", "alert", "corrupt message"]
            .iter()
            .any(|sign| lower.contains(sign))
        {
            Self::Tls(text)
        } else {
            Self::Connection(text)
        }
    }

    pub(super) fn is_worth_reconnecting(&self) -> bool {
        matches!(self, Self::Dns(_) | Self::Connection(_))
    }

    pub(super) fn kind(&self) -> FailureKind {
        match self {
            Self::Credential { transient: true, .. } | Self::Dns(_) | Self::Tls(_) | Self::Connection(_) => {
                FailureKind::Unavailable
            }
            Self::Credential { .. } => FailureKind::Credential,
            Self::Refused { .. } | Self::Mismatch(_) | Self::UnsteadyChallenge => {
                FailureKind::Unauthenticated
            }
            Self::Status { status, .. } => match status {
                401 => FailureKind::Unauthenticated,
                403 => FailureKind::Forbidden,
                404 => FailureKind::NotFound,
                429 => FailureKind::Throttled,
                408 | 500.. => FailureKind::Unavailable,
                400..500 => FailureKind::Invalid,
                _ => FailureKind::Unusable,
            },
            Self::TooLate { .. } | Self::NoToken { .. } => FailureKind::DeadlineExceeded,
            Self::Elsewhere { .. } | Self::TooLarge { .. } | Self::Unusable(_) => FailureKind::Unusable,
        }
    }

    /// The sentence for people.
    pub(super) fn explain(
        &self,
        object: &ObjectRequest,
        listing: bool,
        endpoint: &VaultEndpoint,
        identity: &str,
    ) -> Failure {
        let service = match self {
            Self::Refused { error, .. } | Self::Status { error, .. } => error.message.as_deref(),
            _ => None,
        };
        let mut message =
            format!("failed to get {object}: vault {} ({endpoint}) as {identity}: {self}", endpoint.name());
        let cure = self.cure(object, listing, endpoint);
        if !cure.is_empty() {
            message.push_str("; ");
            message.push_str(&cure);
        }
        // Last, because it is long and an event holds no more than a kilobyte.
        if let Some(service) = service {
            message.push_str(". Key Vault says: ");
            message.push_str(&excerpt(service));
        }
        Failure {
            kind: self.kind(),
            object: format!("{}/{}", object.kind.as_str(), object.name),
            message,
            cure,
        }
    }

    fn cure(&self, object: &ObjectRequest, listing: bool, endpoint: &VaultEndpoint) -> String {
        let vault = endpoint.name();
        let host = endpoint.host();
        match self {
            Self::Refused { claims: true, .. } => "a conditional access policy asks for more than this identity can prove: exempt the workload identity".to_owned(),
            Self::Refused { error, .. } => {
                let message = error.message.as_deref().unwrap_or_default();
                if message.contains("AKV10032") {
                    "the token is of another tenant than the vault: set tenantID to the vault's tenant, which the message names".to_owned()
                } else if message.contains("AKV10022") {
                    "the token is for another cloud's vaults: check cloudName".to_owned()
                } else if message.contains("AKV10046") {
                    "the vault could not find the key that signed the token, which passes: try again".to_owned()
                } else {
                    "check tenantID and cloudName".to_owned()
                }
            }
            Self::Mismatch(_) | Self::UnsteadyChallenge | Self::Elsewhere { .. } => {
                format!("something else than Key Vault answers at {host}: check keyvaultName, cloudName, DNS and proxies")
            }
            Self::Status { status: 403, error } => forbidden(error, object, listing, endpoint),
            Self::Status { status: 404, .. } => {
                let command = match object.kind {
                    ObjectKind::Secret { .. } => "secret",
                    ObjectKind::Key => "key",
                    ObjectKind::Certificate => "certificate",
                };
                format!("check objectName, objectType, objectVersion and keyvaultName: az keyvault {command} list-versions --vault-name {vault} --name {}", shortened(&object.name))
            }
            Self::Status { status: 429, .. } => "the vault's limit is reached, by whoever asks it: lengthen the rotation interval or use several vaults".to_owned(),
            Self::Status { status: 400, .. } => "objectName takes letters, digits and hyphens, objectVersion a version's 32 characters or nothing".to_owned(),
            Self::Status { status: 408 | 500.., .. } => "the service has trouble, which passes".to_owned(),
            Self::Status { .. } => format!("check what answers at {host}"),
            Self::Dns(_) => "the vault is gone or never was, keyvaultName or cloudName is wrong, or the private DNS zone is not linked to the node's network".to_owned(),
            Self::Tls(_) => format!("the certificate of {host} is not trusted or not its own: check proxies that inspect TLS, and the CAs the driver trusts (SSL_CERT_FILE)"),
            Self::Connection(_) | Self::TooLate { .. } => format!("check that the node reaches {host} on port {}: firewall, network policy, proxy, private endpoint", endpoint.url().port_or_known_default().unwrap_or(443)),
            Self::NoToken { from, .. } => format!("check that the node reaches {from}: it is slow, throttling or down, or a firewall drops what is sent to it"),
            Self::TooLarge { .. } => format!("Key Vault's own objects are at most 25 KB: check what answers at {host}"),
            // A credential's error brings its own cure, by what it knows of the identity.
            Self::Credential { .. } | Self::Unusable(_) => String::new(),
        }
    }
}

/// What cures a 403, by its inner code.
fn forbidden(
    error: &ServiceError,
    object: &ObjectRequest,
    listing: bool,
    endpoint: &VaultEndpoint,
) -> String {
    let vault = endpoint.name();
    let (role, permissions) = match object.kind {
        ObjectKind::Secret { .. } => ("Key Vault Secrets User", "--secret-permissions"),
        ObjectKind::Key => ("Key Vault Crypto User", "--key-permissions"),
        ObjectKind::Certificate => ("Key Vault Certificate User", "--certificate-permissions"),
    };
    let caller = caller(error.message.as_deref().unwrap_or_default());
    let assign = format!(
        "az role assignment create --role \"{role}\" --assignee {caller} --scope $(az keyvault show --name {vault} --query id --output tsv), then wait some minutes"
    );
    let verbs = if listing || matches!(object.versions, crate::Versions::History { .. }) {
        "get list"
    } else {
        "get"
    };
    let policy = format!("az keyvault set-policy --name {vault} --spn {caller} {permissions} {verbs}");
    match error.inner.as_deref().or(error.code.as_deref()).unwrap_or_default() {
        "ForbiddenByRbac" => assign,
        "AccessDenied" => policy,
        "ForbiddenByPolicy" => {
            if error.message.as_deref().is_some_and(|message| message.contains("on-behalf-of")) {
                "the vault's policy admits this identity only on behalf of a user: grant it permissions of its own".to_owned()
            } else {
                policy
            }
        }
        "ForbiddenByFirewall" => format!(
            "let the node's address or subnet through: az keyvault network-rule add --name {vault} --ip-address <address>, or use a private endpoint"
        ),
        "ForbiddenByConnection" => {
            "the vault takes no public connections: give the node's network a private endpoint and its DNS zone, or enable public access".to_owned()
        }
        "SecretDisabled" | "KeyDisabled" | "CertificateDisabled" | "KeyOperationForbidden" => {
            "enable that version, or set objectVersion to one that is enabled".to_owned()
        }
        _ => format!("with role-based access: {assign}; with access policies: {policy}"),
    }
}

/// The identity as the vault saw it, for the command that admits it.
fn caller(message: &str) -> String {
    message
        .split("appid=")
        .nth(1)
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next())
        .filter(|appid| !appid.is_empty())
        .map_or_else(|| "<client id>".to_owned(), ToOwned::to_owned)
}
