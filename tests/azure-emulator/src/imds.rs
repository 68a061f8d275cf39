//! The VM's metadata service, as far as identities go.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    emulator::Shared,
    entra::{Identity, jwt},
    error::Error,
    http::{Reply, Request},
};

/// The versions of the interface that are answered.
const API_VERSIONS: [&str; 8] = [
    "2018-02-01",
    "2018-10-01",
    "2019-03-11",
    "2019-06-01",
    "2019-08-01",
    "2020-06-01",
    "2021-02-01",
    "2021-12-13",
];

/// The virtual machine the service speaks for.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    assigned: Mutex<Assigned>,
    concurrency: Mutex<Option<u64>>,
}

impl Machine {
    /// Whether a request is one too many, given how many there are with it.
    pub(crate) fn refuses(&self, in_flight: u64) -> bool {
        self.concurrency.lock().is_some_and(|limit| in_flight > limit)
    }
}

#[derive(Debug, Default, Clone)]
struct Assigned {
    system: Option<Identity>,
    user: Vec<Identity>,
}

/// The metadata service's handle: which identities the machine has.
#[derive(Clone)]
pub struct Imds {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Imds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imds").field("machine", &self.shared.machine).finish()
    }
}

impl Imds {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Makes an identity of the directory the machine's system-assigned one.
    ///
    /// # Errors
    /// [`Error::UnknownIdentity`].
    pub fn assign_system(&self, client_id: &str) -> Result<(), Error> {
        let identity = self.identity(client_id)?;
        self.shared.machine.assigned.lock().system = Some(identity);
        Ok(())
    }

    /// Assigns a user-assigned identity of the directory to the machine.
    ///
    /// # Errors
    /// [`Error::UnknownIdentity`].
    pub fn assign_user(&self, client_id: &str) -> Result<(), Error> {
        let identity = self.identity(client_id)?;
        let mut assigned = self.shared.machine.assigned.lock();
        assigned.user.retain(|other| other.client_id != identity.client_id);
        assigned.user.push(identity);
        Ok(())
    }

    /// Takes an identity from the machine, however it was assigned.
    pub fn unassign(&self, client_id: &str) {
        let mut assigned = self.shared.machine.assigned.lock();
        assigned.user.retain(|other| !other.client_id.eq_ignore_ascii_case(client_id));
        if assigned.system.as_ref().is_some_and(|other| other.client_id.eq_ignore_ascii_case(client_id)) {
            assigned.system = None;
        }
    }

    /// Answers 429 to what comes while so many requests are being answered already. The real service takes 5 for
    /// tokens; there is no limit at first.
    pub fn set_concurrency_limit(&self, limit: Option<u64>) {
        *self.shared.machine.concurrency.lock() = limit;
    }

    fn identity(&self, client_id: &str) -> Result<Identity, Error> {
        self.shared.directory.identity(client_id).ok_or_else(|| Error::UnknownIdentity(client_id.to_owned()))
    }
}

/// Answers one request to the metadata service.
pub(crate) fn respond(shared: &Shared, request: &Request) -> Reply {
    match request.segments().as_slice() {
        ["metadata", "identity", "oauth2", "token"] => token(shared, request),
        _ => refuse(StatusCode::NOT_FOUND, "not_found", "Resource not found"),
    }
}

fn token(shared: &Shared, request: &Request) -> Reply {
    if request.header("metadata").is_none_or(|value| !value.eq_ignore_ascii_case("true")) {
        return refuse(StatusCode::BAD_REQUEST, "bad_request_102", "Required metadata header not specified");
    }
    if request.header("x-forwarded-for").is_some() {
        // The real service will not speak through a proxy, or a pod could be tricked into asking for its attacker.
        return refuse(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "Requests with X-Forwarded-For are not accepted",
        );
    }
    if request.method != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Only GET is supported");
    }
    let mut names: Vec<String> = request.query.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return refuse(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "Duplicate query parameters are not allowed",
        );
    }
    if request.query("api-version").is_none_or(|version| !API_VERSIONS.contains(&version)) {
        return reply(
            StatusCode::BAD_REQUEST,
            &json!({
                "error": "Bad request. api-version is invalid or was not specified in the request.",
                "newest-versions": API_VERSIONS.iter().rev().take(3).collect::<Vec<_>>(),
            }),
        );
    }
    let Some(resource) = request.query("resource").filter(|resource| !resource.is_empty()) else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "Required query variable 'resource' is missing",
        );
    };
    let assigned = shared.machine.assigned.lock().clone();
    let selectors = ["client_id", "object_id", "msi_res_id", "mi_res_id"];
    let mut given = selectors.iter().filter_map(|name| request.query(name).map(|value| (*name, value)));
    let chosen = match (given.next(), given.next()) {
        (Some(_), Some(_)) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "Only one of client_id, object_id and msi_res_id can be specified",
            );
        }
        (Some((name, value)), None) => {
            let names_it = |identity: &&Identity| {
                let id = match name {
                    "client_id" => &identity.client_id,
                    "object_id" => &identity.object_id,
                    _ => &identity.resource_id,
                };
                id.eq_ignore_ascii_case(value)
            };
            assigned.user.iter().chain(&assigned.system).find(names_it)
        }
        (None, _) => match (&assigned.system, assigned.user.as_slice()) {
            (Some(system), _) => Some(system),
            (None, [only]) => Some(only),
            (None, []) => None,
            (None, _) => {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    "invalid_request",
                    "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request",
                );
            }
        },
    };
    let Some(identity) = chosen else {
        return refuse(StatusCode::BAD_REQUEST, "invalid_request", "Identity not found");
    };
    match jwt::access_token(shared, identity, resource) {
        Ok(issued) => {
            shared.telemetry.token_issued(&identity.client_id);
            reply(
                StatusCode::OK,
                &json!({
                    "access_token": issued.token,
                    "client_id": identity.client_id,
                    "expires_in": (issued.expires - shared.clock.now()).to_string(),
                    "expires_on": issued.expires.to_string(),
                    "ext_expires_in": (issued.expires - shared.clock.now()).to_string(),
                    "not_before": issued.not_before.to_string(),
                    "refresh_token": "",
                    "resource": resource,
                    "token_type": "Bearer",
                }),
            )
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "unknown", &error.to_string()),
    }
}

/// The metadata service's own error shape.
pub(crate) fn refuse(status: StatusCode, error: &str, description: &str) -> Reply {
    reply(status, &json!({ "error": error, "error_description": description }))
}

fn reply(status: StatusCode, body: &Value) -> Reply {
    Reply::json(status, body).with_header("server", "IMDS/150.870.65.1854")
}
