//! One request to a vault: who asks, for what, may they, and then the operation.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::{
    access::{self, Network, ObjectKind},
    authentication::{authenticate, challenge},
    certificates::{self, Certificate},
    errors::ApiError,
    keys::{self, Key},
    route::{Action, Target, check_name, target},
    secrets::{self, Secret},
    store::{self, Content, VaultState},
};
use crate::{
    emulator::Shared,
    error::Error,
    http::{Reply, Request},
};

/// Every version of the interface so far; the service has no default.
const API_VERSIONS: [&str; 12] = [
    "2016-10-01",
    "7.0",
    "7.1",
    "7.2",
    "7.3",
    "7.4",
    "7.5",
    "7.6",
    "2025-06-01-preview",
    "2025-07-01",
    "2026-03-01-preview",
    "2026-04-01",
];
/// The version owner operations are answered by.
const OWNERS_VERSION: &str = "7.4";
/// One operation being carried out.
pub(super) struct Call<'a> {
    pub shared: &'a Shared,
    pub request: &'a Request,
    pub api_version: &'a str,
    vault: &'a str,
    host: String,
}

impl Call<'_> {
    pub(super) fn vault<T>(
        &self,
        work: impl FnOnce(&mut VaultState) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        self.shared.vaults.edit(self.vault, work).unwrap_or_else(|| Err(ApiError::no_such_vault()))
    }

    pub(super) fn now(&self) -> i64 {
        self.shared.clock.now()
    }

    /// `https://` and the host as asked for.
    pub(super) fn base(&self) -> String {
        format!("https://{}", self.host)
    }

    /// The same with the port always there, as the service writes the addresses of next pages.
    pub(super) fn base_with_port(&self) -> String {
        let bare =
            self.host.rsplit(':').next().is_none_or(|port| !port.bytes().all(|byte| byte.is_ascii_digit()));
        if bare { format!("https://{}:443", self.host) } else { self.base() }
    }

    pub(super) fn id(&self, kind: ObjectKind, name: &str, version: Option<&str>) -> String {
        let id = format!("{}/{}/{name}", self.base(), kind.collection());
        match version {
            Some(version) => format!("{id}/{version}"),
            None => id,
        }
    }

    /// Whether the client asked in a version that knows `previousVersion` and `outContentType`.
    pub(super) fn knows_previous_versions(&self) -> bool {
        self.api_version >= "2025" && self.api_version.len() > 4
    }

    fn body(&self) -> Result<Value, ApiError> {
        if self.request.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.request.body)
            .map_err(|error| ApiError::bad_parameter(format!("The request body is not valid JSON: {error}")))
    }
}

/// Answers one request to a vault.
pub(crate) async fn respond(shared: &Arc<Shared>, vault: Option<&str>, request: &Request) -> Reply {
    // Making a key takes a while, which other requests need not wait for.
    let outcome = if request.path.trim_end_matches('/').ends_with("/create") {
        let (shared, vault, request) = (Arc::clone(shared), vault.map(str::to_owned), request.clone());
        let work = move || answer(&shared, vault.as_deref(), &request);
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(ApiError::internal()))
    } else {
        answer(shared, vault, request)
    };
    let reply = match outcome {
        Ok(reply) => reply,
        Err(error) => {
            let challenge =
                (error.status == StatusCode::UNAUTHORIZED).then(|| challenge(shared, vault, request));
            let reply = error.into_reply();
            match challenge {
                Some(challenge) => reply.with_header("www-authenticate", challenge),
                None => reply,
            }
        }
    };
    let reply = match request.header("x-ms-client-request-id") {
        Some(id) => reply.with_header("x-ms-client-request-id", id),
        None => reply,
    };
    let family = if request.peer.is_ipv4() { "Ipv4" } else { "Ipv6" };
    let internet = if request.peer.is_ipv4() { "InterNetwork" } else { "InterNetworkV6" };
    reply
        .with_header("cache-control", "no-cache")
        .with_header("pragma", "no-cache")
        .with_header("expires", "-1")
        .with_header("x-ms-request-id", crate::entra::guid())
        .with_header("x-ms-keyvault-region", "loopback")
        .with_header("x-ms-keyvault-service-version", "1.9.2784.1")
        .with_header(
            "x-ms-keyvault-network-info",
            format!("conn_type={family};addr={};act_addr_fam={internet};", request.peer.ip()),
        )
        .with_header("x-content-type-options", "nosniff")
        .with_header("strict-transport-security", "max-age=31536000;includeSubDomains")
}

fn answer(shared: &Shared, vault: Option<&str>, request: &Request) -> Result<Reply, ApiError> {
    let name = vault.ok_or_else(ApiError::no_such_vault)?;
    let about = |vault: &mut VaultState| {
        (vault.name.clone(), vault.tenant.clone(), vault.network, vault.access_model)
    };
    let (name, tenant, network, model) =
        shared.vaults.edit(name, about).ok_or_else(ApiError::no_such_vault)?;
    // The token comes first: what else is wrong with the request is nobody's business before.
    let caller = authenticate(shared, &tenant, request)?;
    match network {
        Network::Open => {}
        Network::Firewall => {
            return Err(ApiError::forbidden(
                "ForbiddenByFirewall",
                format!(
                    "Client address is not authorized and caller is not a trusted service.\r\nClient address: {}\r\nCaller: appid={};oid={};iss={}\r\nVault: {name};location=loopback",
                    request.peer.ip(),
                    caller.app_id,
                    caller.object_id,
                    caller.issuer
                ),
            ));
        }
        Network::Private => {
            return Err(ApiError::forbidden(
                "ForbiddenByConnection",
                format!(
                    "Public network access is disabled and request is not from a trusted service nor via an approved private link.\r\nCaller: appid={};oid={};iss={}\r\nVault: {name};location=loopback",
                    caller.app_id, caller.object_id, caller.issuer
                ),
            ));
        }
    }
    let api_version = request
        .query("api-version")
        .ok_or_else(|| ApiError::bad_parameter("api-version must be specified"))?;
    if !API_VERSIONS.contains(&api_version) {
        return Err(ApiError::bad_parameter(format!(
            "The specified version ({api_version}) is not recognized. Consider using the latest supported version (7.6)."
        )));
    }
    let segments = request.segments();
    let target = target(&request.method, &segments).ok_or_else(ApiError::no_such_path)?;
    let operation = target.action.operation(target.kind);
    let allowed = shared.vaults.edit(&name, |vault| {
        vault
            .grants
            .get(&caller.app_id.to_lowercase())
            .is_some_and(|permissions| permissions.allow(target.kind, operation))
    });
    if allowed != Some(true) {
        return Err(access::refusal(model, &name, &caller, target.kind, operation, target.name));
    }
    let call = Call { shared, request, api_version, vault: &name, host: request.host.clone() };
    perform(&call, target)
}

fn perform(call: &Call<'_>, target: Target<'_>) -> Result<Reply, ApiError> {
    let Target { kind, action, name, version } = target;
    let name = name.unwrap_or_default();
    if !matches!(action, Action::List | Action::ListDeleted | Action::Restore) {
        check_name(name)?;
    }
    let body = call.body()?;
    let ok = |value: Value| Ok(Reply::json(StatusCode::OK, &value));
    match (kind, action) {
        (ObjectKind::Secrets, Action::Get) => ok(secrets::get(call, name, version)?),
        (ObjectKind::Secrets, Action::Put) => ok(secrets::set(call, name, &body)?),
        (ObjectKind::Secrets, Action::Update) => ok(secrets::update(call, name, version, &body)?),
        (ObjectKind::Secrets, Action::Backup) => ok(secrets::backup(call, name)?),
        (ObjectKind::Secrets, Action::Restore) => ok(secrets::restore(call, &body)?),
        (ObjectKind::Keys, Action::Create) => ok(keys::create(call, name, &body)?),
        (ObjectKind::Keys, Action::Put) => ok(keys::import(call, name, &body)?),
        (ObjectKind::Keys, Action::Update) => ok(keys::update(call, name, version, &body)?),
        (ObjectKind::Certificates, Action::Create) => certificates::create(call, name, &body),
        (ObjectKind::Certificates, Action::Import) => ok(certificates::import(call, name, &body)?),
        (ObjectKind::Certificates, Action::Update) => ok(certificates::update(call, name, version, &body)?),
        (ObjectKind::Certificates, Action::Pending) => ok(certificates::pending(call, name)?),
        (ObjectKind::Certificates, Action::ForgetPending) => ok(certificates::forget_pending(call, name)?),
        (ObjectKind::Certificates, Action::Policy) => ok(certificates::policy(call, name)?),
        (ObjectKind::Certificates, Action::SetPolicy) => ok(certificates::set_policy(call, name, &body)?),
        (ObjectKind::Secrets, _) => common::<Secret>(call, action, name, version),
        (ObjectKind::Keys, _) => common::<Key>(call, action, name, version),
        (ObjectKind::Certificates, _) => common::<Certificate>(call, action, name, version),
    }
}

/// What all three collections do alike.
fn common<T: Content>(
    call: &Call<'_>,
    action: Action,
    name: &str,
    version: Option<&str>,
) -> Result<Reply, ApiError> {
    let answer = match action {
        Action::Get => store::get::<T>(call, name, version)?,
        Action::List => store::list::<T>(call)?,
        Action::Versions => store::versions::<T>(call, name)?,
        Action::ListDeleted => store::list_deleted::<T>(call)?,
        Action::GetDeleted => store::get_deleted::<T>(call, name)?,
        Action::Delete => {
            let now = call.now();
            call.vault(|vault| each(vault, T::KIND, name, |vault, kind| remove(vault, kind, name, now)))?;
            store::get_deleted::<T>(call, name)?
        }
        Action::Recover => {
            call.vault(|vault| each(vault, T::KIND, name, |vault, kind| restore(vault, kind, name)))?;
            call.vault(|vault| {
                let quirks = vault.quirks;
                let (object, version) = T::collection(vault).version(name, None)?;
                Ok(T::bundle(call, quirks, object, version, false))
            })?
        }
        Action::Purge => {
            call.vault(|vault| each(vault, T::KIND, name, |vault, kind| purge(vault, kind, name)))?;
            return Ok(Reply::empty(StatusCode::NO_CONTENT));
        }
        _ => return Err(ApiError::no_such_path()),
    };
    Ok(Reply::json(StatusCode::OK, &answer))
}

/// Does something to an object, and where it is a certificate to its secret and key as well. Those cannot be
/// touched without it.
fn each(
    vault: &mut VaultState,
    kind: ObjectKind,
    name: &str,
    mut act: impl FnMut(&mut VaultState, ObjectKind) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let managed = match kind {
        ObjectKind::Secrets => vault.secrets.is_managed(name),
        ObjectKind::Keys => vault.keys.is_managed(name),
        ObjectKind::Certificates => None,
    };
    if managed == Some(true) {
        return Err(ApiError::managed(kind, name));
    }
    act(vault, kind)?;
    if kind == ObjectKind::Certificates {
        act(vault, ObjectKind::Secrets)?;
        act(vault, ObjectKind::Keys)?;
    }
    Ok(())
}

fn remove(vault: &mut VaultState, kind: ObjectKind, name: &str, now: i64) -> Result<(), ApiError> {
    match kind {
        ObjectKind::Secrets => vault.secrets.delete(name, now),
        ObjectKind::Keys => vault.keys.delete(name, now),
        ObjectKind::Certificates => vault.certificates.delete(name, now),
    }
    .ok_or_else(|| ApiError::not_found(kind, name))
}

fn restore(vault: &mut VaultState, kind: ObjectKind, name: &str) -> Result<(), ApiError> {
    match kind {
        ObjectKind::Secrets => vault.secrets.recover(name),
        ObjectKind::Keys => vault.keys.recover(name),
        ObjectKind::Certificates => vault.certificates.recover(name),
    }
    .ok_or_else(|| ApiError::deleted_not_found(kind, name))
}

fn purge(vault: &mut VaultState, kind: ObjectKind, name: &str) -> Result<(), ApiError> {
    match kind {
        ObjectKind::Secrets => vault.secrets.purge(name),
        ObjectKind::Keys => vault.keys.purge(name),
        ObjectKind::Certificates => vault.certificates.purge(name),
    }
    .ok_or_else(|| ApiError::deleted_not_found(kind, name))
}

/// Carries out an operation as the vault's owner.
pub(crate) fn administer(
    shared: &Shared,
    vault: &str,
    method: Method,
    path: &str,
    body: Value,
) -> Result<Value, Error> {
    let body = match body {
        Value::Null => Vec::new(),
        body => body.to_string().into_bytes(),
    };
    let request = Request::internal(method, path, body.into());
    let segments = request.segments();
    let target = target(&request.method, &segments).ok_or_else(ApiError::no_such_path)?;
    let host = format!("{}.{}", vault.to_lowercase(), shared.names.vault_suffix);
    let api_version = request.query("api-version").unwrap_or(OWNERS_VERSION);
    let call = Call { shared, request: &request, api_version, vault, host };
    let reply = perform(&call, target)?;
    Ok(serde_json::from_slice(&reply.body).unwrap_or(Value::Null))
}
