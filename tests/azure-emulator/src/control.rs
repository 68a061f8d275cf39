//! The control interface: everything the handle can do, over plain HTTP and JSON.
//!
//! | request | effect |
//! |---|---|
//! | `GET /_control` | this list |
//! | `GET /_control/info` | names, tenant and certificate authority |
//! | `GET /_control/ca.pem` | the certificate authority alone |
//! | `POST /_control/seed` | add what a seed document describes |
//! | `GET`, `DELETE /_control/counters` | counters; set to zero, log included |
//! | `GET /_control/log` | the last requests |
//! | `GET`, `POST`, `DELETE /_control/faults` | rules in force; add one: `{"service":"vault","fault":{"status":{"code":429,"retryAfter":1}},"extent":{"count":3}}`; clear all, latency included. Faults: `status`, `"reset"`, `"hang"`. Extents: `"always"`, `count`, `everyNth`, `forMs`. `path` and `authorized` narrow a rule. |
//! | `PUT /_control/latency` | `{"service":"vault","milliseconds":20}`, all services if none is named |
//! | `PUT /_control/outage` | `{"service":"vault","refuse":true}`: connections are refused until `false` |
//! | `GET`, `PUT /_control/clock` | `{"offset":3600}` or `{"advance":3600}`, seconds |
//! | `GET`, `POST /_control/identities` | list; add one as in a seed document, answered with its ids |
//! | `DELETE /_control/identities/{clientId}` | remove |
//! | `PUT /_control/identities/{clientId}/disabled` | `true` or `false` |
//! | `POST /_control/identities/{clientId}/secrets` | `{"value":"…","expires":1800000000}` |
//! | `POST /_control/identities/{clientId}/certificates` | `{"pem":"…"}` |
//! | `POST`, `DELETE /_control/identities/{clientId}/federations` | `{"issuer":"…","subject":"…","audience":"…"}`; remove all |
//! | `PUT /_control/issuers` | `{"issuer":"…","jwks":{…}}` |
//! | `POST /_control/trusted-cas` | `{"pem":"…"}`: trust this authority when issuers' documents are fetched |
//! | `POST /_control/tokens` | `{"clientId":"…","audience":"…"}`: a token without proof |
//! | `POST /_control/signing-key` | make a new one |
//! | `PUT /_control/token-lifetime` | seconds |
//! | `PUT`, `DELETE /_control/imds/{clientId}` | `{"assigned":"user"}` or `"system"`; take away |
//! | `PUT /_control/imds-concurrency` | the number of requests IMDS takes at the same time, or `null` |
//! | `GET /_control/vaults` | names |
//! | `PUT`, `DELETE /_control/vaults/{vault}` | make or change: `tenant`, `accessModel` (`rbac`, `accessPolicy`), `network` (`open`, `firewall`, `private`), `jwkQuirks`; remove |
//! | `GET /_control/vaults/{vault}/grants` | who may do what |
//! | `PUT`, `DELETE /_control/vaults/{vault}/grants/{clientId}` | `"all"`, `"read"`, `"get"` or `{"secrets":["get","list"],…}`; revoke |
//! | any `/_control/vaults/{vault}/secrets/…`, `keys`, `certificates`, `deletedsecrets`, … | the data plane's operation, without token or permission |

use std::{sync::Arc, time::Duration};

use hyper::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    emulator::Shared,
    entra::{Entra, Federation},
    error::Error,
    faults::{FaultRule, Service},
    http::{Reply, Request},
    imds::Imds,
    keyvault::Vault,
    seed::{IdentitySeed, IssuerKeys, PermissionsSeed, SecretSeed, Seed, VaultSettings},
    server::Door,
};

/// The list above, for those who ask the interface itself.
const HELP: &str = include_str!("control.rs");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    #[serde(default)]
    service: Option<Service>,
    milliseconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outage {
    service: Service,
    refuse: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum ClockChange {
    Offset(i64),
    Advance(u64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TokenFor {
    client_id: String,
    audience: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pem {
    pem: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Assignment {
    assigned: Assigned,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Assigned {
    User,
    System,
}

/// Answers one request to the control interface.
pub(crate) async fn respond(shared: &Arc<Shared>, doors: &[(Service, Door)], request: &Request) -> Reply {
    match act(shared, doors, request).await {
        Ok(Some(reply)) => reply,
        Ok(None) => Reply::json(
            StatusCode::NOT_FOUND,
            &json!({ "error": format!("no such operation: {} {}; GET /_control lists them", request.method, request.path) }),
        ),
        Err(error) => {
            let status = match &error {
                Error::Vault { status, .. } => {
                    StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST)
                }
                Error::UnknownIdentity(_) => StatusCode::NOT_FOUND,
                Error::Federation { .. } => StatusCode::CONFLICT,
                Error::Document(_) => StatusCode::BAD_REQUEST,
                Error::Listen { .. } | Error::Tls(_) | Error::Crypto(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Reply::json(status, &json!({ "error": error.to_string() }))
        }
    }
}

async fn act(
    shared: &Arc<Shared>,
    doors: &[(Service, Door)],
    request: &Request,
) -> Result<Option<Reply>, Error> {
    let segments = request.segments();
    let Some((&"_control", path)) = segments.split_first() else { return Ok(None) };
    let entra = Entra::new(Arc::clone(shared));
    let imds = Imds::new(Arc::clone(shared));
    let answer = match (request.method.as_str(), path) {
        ("GET", []) => return Ok(Some(Reply::text(StatusCode::OK, "text/markdown; charset=utf-8", help()))),
        ("GET", ["info"]) => json!({
            "tenant": shared.tenant,
            "authority": format!("https://{}/", shared.names.authority),
            "vaultSuffix": shared.names.vault_suffix,
            "vaultResource": format!("https://{}", shared.names.vault_suffix),
            "vaults": shared.vaults.names(),
            "ca": shared.ca.pem(),
        }),
        ("GET", ["ca.pem"]) => {
            return Ok(Some(Reply::text(StatusCode::OK, "application/x-pem-file", shared.ca.pem())));
        }
        ("POST", ["seed"]) => {
            Seed::parse(&request.body)?.apply(shared)?;
            Value::Null
        }
        ("GET", ["counters"]) => json!(shared.telemetry.counters()),
        ("DELETE", ["counters"]) => {
            shared.telemetry.reset();
            Value::Null
        }
        ("GET", ["log"]) => json!(shared.telemetry.log()),
        ("GET", ["faults"]) => json!(shared.faults.rules()),
        ("POST", ["faults"]) => {
            shared.faults.inject(body::<FaultRule>(request)?);
            Value::Null
        }
        ("DELETE", ["faults"]) => {
            shared.faults.clear();
            Value::Null
        }
        ("PUT", ["latency"]) => {
            let Latency { service, milliseconds } = body(request)?;
            let latency = Duration::from_millis(milliseconds);
            match service {
                Some(service) => shared.faults.set_latency(service, latency),
                None => shared.faults.set_latency_everywhere(latency),
            }
            Value::Null
        }
        ("PUT", ["outage"]) => {
            let Outage { service, refuse } = body(request)?;
            for (_, door) in doors.iter().filter(|(other, _)| *other == service) {
                if refuse {
                    door.close().await;
                } else {
                    door.open().await?;
                }
            }
            Value::Null
        }
        ("GET", ["clock"]) => json!({ "now": shared.clock.now(), "offset": shared.clock.offset() }),
        ("PUT", ["clock"]) => {
            match body(request)? {
                ClockChange::Offset(seconds) => shared.clock.set_offset(seconds),
                ClockChange::Advance(seconds) => shared.clock.advance(Duration::from_secs(seconds)),
            }
            json!({ "now": shared.clock.now(), "offset": shared.clock.offset() })
        }
        ("GET", ["identities"]) => json!(entra.identities()),
        ("POST", ["identities"]) => json!(body::<IdentitySeed>(request)?.apply(shared)?),
        ("DELETE", ["identities", client_id]) => {
            entra.remove_identity(client_id)?;
            imds.unassign(client_id);
            Value::Null
        }
        ("PUT", ["identities", client_id, "disabled"]) => {
            entra.set_disabled(client_id, body(request)?)?;
            Value::Null
        }
        ("POST", ["identities", client_id, "secrets"]) => {
            let secret: SecretSeed = body(request)?;
            entra.add_secret(client_id, &secret.value, secret.expires)?;
            Value::Null
        }
        ("POST", ["identities", client_id, "certificates"]) => {
            let credential = entra.add_certificate(client_id, &body::<Pem>(request)?.pem)?;
            json!({ "thumbprint": credential.thumbprint })
        }
        ("POST", ["identities", client_id, "federations"]) => {
            entra.federate(client_id, body::<Federation>(request)?)?;
            Value::Null
        }
        ("DELETE", ["identities", client_id, "federations"]) => {
            entra.clear_federations(client_id)?;
            Value::Null
        }
        ("PUT", ["issuers"]) => {
            let keys: IssuerKeys = body(request)?;
            entra.set_issuer_keys(&keys.issuer, keys.jwks);
            Value::Null
        }
        ("POST", ["trusted-cas"]) => {
            entra.trust_ca(&body::<Pem>(request)?.pem);
            Value::Null
        }
        ("POST", ["tokens"]) => {
            let TokenFor { client_id, audience } = body(request)?;
            json!({ "token": entra.issue_token(&client_id, &audience)? })
        }
        ("POST", ["signing-key"]) => {
            entra.rotate_signing_key()?;
            Value::Null
        }
        ("PUT", ["token-lifetime"]) => {
            entra.set_token_lifetime(body(request)?);
            Value::Null
        }
        ("PUT", ["imds", client_id]) => {
            match body::<Assignment>(request)?.assigned {
                Assigned::User => imds.assign_user(client_id)?,
                Assigned::System => imds.assign_system(client_id)?,
            }
            Value::Null
        }
        ("PUT", ["imds-concurrency"]) => {
            imds.set_concurrency_limit(body(request)?);
            Value::Null
        }
        ("DELETE", ["imds", client_id]) => {
            imds.unassign(client_id);
            Value::Null
        }
        ("GET", ["vaults"]) => json!(shared.vaults.names()),
        ("PUT", ["vaults", name]) => {
            let settings: VaultSettings =
                if request.body.is_empty() { VaultSettings::default() } else { body(request)? };
            let vault = Vault::open(Arc::clone(shared), name);
            settings.apply(&vault);
            json!({ "name": vault.name(), "url": vault.url() })
        }
        (_, ["vaults", name, ..])
            if !shared.vaults.names().iter().any(|known| known.eq_ignore_ascii_case(name)) =>
        {
            return Err(Error::Vault {
                status: 404,
                code: "VaultNotFound".to_owned(),
                message: format!("there is no vault {name}; PUT /_control/vaults/{name} makes it"),
            });
        }
        ("DELETE", ["vaults", name]) => {
            Vault::open(Arc::clone(shared), name).remove();
            Value::Null
        }
        ("GET", ["vaults", name, "grants"]) => json!(Vault::open(Arc::clone(shared), name).grants()),
        ("PUT", ["vaults", name, "grants", client_id]) => {
            let permissions: PermissionsSeed = body(request)?;
            Vault::open(Arc::clone(shared), name).grant(client_id, permissions.into());
            Value::Null
        }
        ("DELETE", ["vaults", name, "grants", client_id]) => {
            Vault::open(Arc::clone(shared), name).revoke(client_id);
            Value::Null
        }
        (_, ["vaults", name, _, ..]) => {
            return operate(&Vault::open(Arc::clone(shared), name), request, name).map(Some);
        }
        _ => return Ok(None),
    };
    Ok(Some(if answer.is_null() {
        Reply::empty(StatusCode::NO_CONTENT)
    } else {
        Reply::json(StatusCode::OK, &answer)
    }))
}

/// A data plane operation as the vault's owner.
fn operate(vault: &Vault, request: &Request, name: &str) -> Result<Reply, Error> {
    let method = Method::from_bytes(request.method.as_str().as_bytes()).unwrap_or_default();
    let path = request.path.strip_prefix("/_control/vaults/").and_then(|path| path.strip_prefix(name));
    let mut path = path.unwrap_or_default().to_owned();
    if let Some(query) = &request.raw_query {
        path = format!("{path}?{query}");
    }
    let body = if request.body.is_empty() { Value::Null } else { body(request)? };
    let answer = vault.call(method, &path, body)?;
    Ok(if answer.is_null() {
        Reply::empty(StatusCode::NO_CONTENT)
    } else {
        Reply::json(StatusCode::OK, &answer)
    })
}

fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Error> {
    serde_json::from_slice(&request.body)
        .map_err(|error| Error::Document(format!("the body of {} {}: {error}", request.method, request.path)))
}

/// The table at the top of this file.
fn help() -> String {
    let mut table = String::new();
    for line in HELP.lines().map_while(|line| line.strip_prefix("//!")) {
        table.push_str(line.trim_start());
        table.push('\n');
    }
    table
}
