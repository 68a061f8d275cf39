//! Refusals of the token endpoint, as Entra words and numbers them.
//!
//! <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>

use hyper::StatusCode;
use serde_json::json;
use time::macros::format_description;

use super::directory::guid;
use crate::{clock::Clock, http::Reply};

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Aadsts {
    pub code: u32,
    error: &'static str,
    status: StatusCode,
    text: String,
}

impl Aadsts {
    fn invalid_client(code: u32, text: impl Into<String>) -> Self {
        Self { code, error: "invalid_client", status: StatusCode::UNAUTHORIZED, text: text.into() }
    }

    fn bad(code: u32, error: &'static str, text: impl Into<String>) -> Self {
        Self { code, error, status: StatusCode::BAD_REQUEST, text: text.into() }
    }

    pub(super) fn missing_parameter(name: &str) -> Self {
        Self::bad(
            900_144,
            "invalid_request",
            format!("The request body must contain the following parameter: '{name}'."),
        )
    }

    pub(super) fn unsupported_grant(grant: &str) -> Self {
        Self::bad(
            70_003,
            "unsupported_grant_type",
            format!("The app requested an unsupported grant type '{grant}'."),
        )
    }

    pub(super) fn unknown_tenant(tenant: &str) -> Self {
        Self::bad(
            90_002,
            "invalid_request",
            format!(
                "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant."
            ),
        )
    }

    pub(super) fn malformed_tenant(tenant: &str) -> Self {
        Self::bad(
            900_023,
            "invalid_request",
            format!(
                "Specified tenant identifier '{tenant}' is neither a valid DNS name, nor a valid external domain."
            ),
        )
    }

    pub(super) fn unknown_application(client_id: &str, tenant: &str) -> Self {
        Self::bad(
            700_016,
            "unauthorized_client",
            format!(
                "Application with identifier '{client_id}' was not found in the directory '{tenant}'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant."
            ),
        )
    }

    pub(super) fn disabled_application(client_id: &str, name: &str) -> Self {
        Self::bad(7_000_112, "unauthorized_client", format!("Application '{client_id}'({name}) is disabled."))
    }

    pub(super) fn malformed_scope(scope: &str) -> Self {
        Self::bad(
            1_002_012,
            "invalid_scope",
            format!(
                "The provided value for scope {scope} is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI)."
            ),
        )
    }

    pub(super) fn several_resources(scope: &str) -> Self {
        Self::bad(
            70_011,
            "invalid_scope",
            format!(
                "The provided request must include a 'scope' input parameter. The provided value for the input parameter 'scope' is not valid. The scope {scope} is not valid. .default scope can't be combined with resource-specific scopes."
            ),
        )
    }

    pub(super) fn unknown_resource(resource: &str, tenant: &str) -> Self {
        Self::bad(
            500_011,
            "invalid_resource",
            format!(
                "The resource principal named {resource} was not found in the tenant named {tenant}. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You might have sent your authentication request to the wrong tenant."
            ),
        )
    }

    pub(super) fn no_credential() -> Self {
        Self::invalid_client(
            7_000_218,
            "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
        )
    }

    pub(super) fn wrong_secret(client_id: &str) -> Self {
        Self::invalid_client(
            7_000_215,
            format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '{client_id}'."
            ),
        )
    }

    pub(super) fn expired_secret(client_id: &str) -> Self {
        Self::invalid_client(
            7_000_222,
            format!(
                "The provided client secret keys for app '{client_id}' are expired. Visit the Azure portal to create new keys for your app: https://aka.ms/NewClientSecret, or consider using certificate credentials for added security: https://aka.ms/certCreds."
            ),
        )
    }

    pub(super) fn wrong_assertion_type() -> Self {
        Self::bad(
            50_027,
            "invalid_request",
            "Invalid client_assertion_type. It must be urn:ietf:params:oauth:client-assertion-type:jwt-bearer.",
        )
    }

    pub(super) fn malformed_assertion() -> Self {
        Self::bad(50_027, "invalid_request", "JWT token is invalid or malformed.")
    }

    pub(super) fn unsupported_algorithm(algorithm: &str) -> Self {
        Self::bad(
            5_002_723,
            "invalid_request",
            format!("Invalid JWT token. The signing algorithm '{algorithm}' is not supported."),
        )
    }

    pub(super) fn no_federation(client_id: &str, name: &str) -> Self {
        Self::invalid_client(
            70_025,
            format!("The client '{client_id}'({name}) has no configured federated identity credentials."),
        )
    }

    /// The presented value of `claim` is on no federated credential of the application.
    pub(super) fn no_match(claim: Claim, value: &str) -> Self {
        let (code, name) = match claim {
            Claim::Issuer => (700_211, "issuer"),
            Claim::Audience => (700_212, "audience"),
            Claim::Subject => (700_213, "subject"),
        };
        Self::invalid_client(
            code,
            format!(
                "No matching federated identity record found for presented assertion {name} '{value}'. Check your federated identity credential Subject, Audience and Issuer against the presented assertion. https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
            ),
        )
    }

    pub(super) fn case_mismatch(claim: Claim, value: &str) -> Self {
        let name = match claim {
            Claim::Issuer => "issuer",
            Claim::Audience => "audience",
            Claim::Subject => "subject",
        };
        Self::invalid_client(
            7_002_138,
            format!(
                "No matching federated identity record found for presented assertion {name} '{value}'. The matching is case-sensitive and a record that differs only in case was found. https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
            ),
        )
    }

    pub(super) fn own_token_as_assertion() -> Self {
        Self::invalid_client(700_222, "AAD-issued tokens may not be used for federated identity flows.")
    }

    pub(super) fn outside_validity(now: &str, from: &str, until: &str) -> Self {
        Self::invalid_client(
            700_024,
            format!(
                "Client assertion is not within its valid time range. Current time: {now}, assertion valid from {from}, expiry time of assertion {until}. Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials ."
            ),
        )
    }

    pub(super) fn bad_signature(reason: &str) -> Self {
        Self::invalid_client(50_013, format!("Assertion failed signature validation. [Reason - {reason}]"))
    }

    pub(super) fn issuer_unreachable(reason: &str) -> Self {
        Self::bad(90_061, "invalid_request", format!("Request to External OIDC endpoint failed. {reason}"))
    }

    pub(super) fn wrong_certificate(client_id: &str, reason: &str, thumbprint: &str) -> Self {
        Self::invalid_client(
            700_027,
            format!(
                "The certificate with identifier used to sign the client assertion is not registered on application. [Reason - {reason}, Thumbprint of key used by client: '{thumbprint}', Please visit the Azure Portal, Graph Explorer or directly use MS Graph to see configured keys for app Id '{client_id}'.]"
            ),
        )
    }

    pub(super) fn wrong_assertion_audience() -> Self {
        Self::invalid_client(
            700_023,
            "Client assertion audience claim does not match Realm issuer. Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials .",
        )
    }

    pub(super) fn injected(status: StatusCode) -> Self {
        let (code, error) = match status {
            StatusCode::TOO_MANY_REQUESTS => (90_055, "temporarily_unavailable"),
            status if status.is_server_error() => (90_033, "temporarily_unavailable"),
            _ => (90_014, "invalid_request"),
        };
        Self { code, error, status, text: "A transient error has occurred. Please try again.".to_owned() }
    }

    /// A refusal whose number is chosen; the text says nothing more.
    pub(super) fn on_demand(status: StatusCode, code: u32) -> Self {
        Self { code, error: "invalid_client", status, text: "This refusal was asked for.".to_owned() }
    }

    pub(super) fn into_reply(self, clock: &Clock) -> Reply {
        let Self { code, error, status, text } = self;
        let (trace, correlation) = (guid(), guid());
        let timestamp = clock
            .date()
            .format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z"))
            .unwrap_or_default();
        Reply::json(
            status,
            &json!({
                "error": error,
                "error_description": format!(
                    "AADSTS{code}: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}"
                ),
                "error_codes": [code],
                "timestamp": timestamp,
                "trace_id": trace,
                "correlation_id": correlation,
                "error_uri": format!("https://login.microsoftonline.com/error?code={code}"),
            }),
        )
    }
}

/// The claims a federated credential is matched by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    Issuer,
    Subject,
    Audience,
}
