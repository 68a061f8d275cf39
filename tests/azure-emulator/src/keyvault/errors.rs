//! Refusals of the data plane in the service's error shape.
//!
//! <https://learn.microsoft.com/azure/key-vault/general/rest-error-codes>

use hyper::StatusCode;
use serde_json::{Value, json};

use super::access::ObjectKind;
use crate::{error::Error, http::Reply};

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub status: StatusCode,
    pub code: String,
    pub message: String,
    inner: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into(), inner: None }
    }

    fn because(mut self, inner: impl Into<String>) -> Self {
        self.inner = Some(inner.into());
        self
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    pub(super) fn forbidden(inner: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).because(inner)
    }

    pub(super) fn bad_parameter(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadParameter", message)
    }

    pub(super) fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "The requested resource does not exist.")
    }

    pub(super) fn no_such_vault() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "VaultNotFound",
            "There is no vault of this name. The real service has no DNS record for such a host.",
        )
    }

    pub(super) fn not_found(kind: ObjectKind, id: &str) -> Self {
        let what = kind.singular();
        Self::new(
            StatusCode::NOT_FOUND,
            format!("{}NotFound", kind.code()),
            format!(
                "A {what} with (name/id) {id} was not found in this key vault. If you recently deleted this {what} you may be able to recover it using the correct recovery command. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182"
            ),
        )
    }

    pub(super) fn deleted_not_found(kind: ObjectKind, name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("{}NotFound", kind.code()),
            format!("Deleted {} not found: {name}", kind.code()),
        )
    }

    pub(super) fn disabled(kind: ObjectKind) -> Self {
        let what = kind.singular();
        Self::forbidden(
            &format!("{}Disabled", kind.code()),
            format!("Operation get is not allowed on a disabled {what}."),
        )
    }

    pub(super) fn deleted_but_recoverable(kind: ObjectKind, name: &str) -> Self {
        let what = kind.code();
        Self::new(
            StatusCode::CONFLICT,
            "Conflict",
            format!(
                "{what} {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the {} can only be recovered or purged.",
                kind.singular()
            ),
        )
        .because("ObjectIsDeletedButRecoverable")
    }

    pub(super) fn managed(kind: ObjectKind, name: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "Conflict",
            format!(
                "The {} {name} belongs to the certificate of that name and is managed by it.",
                kind.singular()
            ),
        )
    }

    pub(super) fn name_taken(kind: ObjectKind, name: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "Conflict",
            format!("A {} named {name} exists and does not belong to a certificate.", kind.singular()),
        )
    }

    pub(super) fn exists(kind: ObjectKind, name: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "Conflict",
            format!("A {} named {name} exists already.", kind.singular()),
        )
    }

    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalServerError",
            "The server encountered an internal error.",
        )
    }

    pub(super) fn body(&self) -> Value {
        match &self.inner {
            None => json!({ "error": { "code": self.code, "message": self.message } }),
            Some(inner) => {
                json!({ "error": { "code": self.code, "message": self.message, "innererror": { "code": inner } } })
            }
        }
    }

    pub(super) fn into_reply(self) -> Reply {
        Reply::json(self.status, &self.body())
    }
}

/// Keys and certificates that cannot be made or read are the client's fault.
impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::bad_parameter(error.to_string())
    }
}

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        Self::Vault { status: error.status.as_u16(), code: error.code, message: error.message }
    }
}

/// The answer to an injected error.
pub(crate) fn fault(status: StatusCode) -> Reply {
    let error = match status {
        StatusCode::TOO_MANY_REQUESTS => ApiError::new(
            status,
            "Throttled",
            "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached",
        ),
        StatusCode::UNAUTHORIZED => {
            ApiError::unauthorized("AKV10046: Unable to resolve the key used for signature validation.")
        }
        StatusCode::FORBIDDEN => ApiError::forbidden("ForbiddenByPolicy", "The policy refuses the caller."),
        StatusCode::SERVICE_UNAVAILABLE => {
            ApiError::new(status, "ServiceUnavailable", "The service is temporarily unavailable.")
        }
        status if status.is_server_error() => ApiError { status, ..ApiError::internal() },
        status => ApiError::new(status, "BadParameter", "This error was asked for."),
    };
    error.into_reply()
}
