//! The paths of the authority: metadata, keys, instance discovery, and the token endpoint.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::{assertion, directory::Registration, errors::Aadsts, jwt};
use crate::{
    emulator::Shared,
    http::{Reply, Request},
};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Scopes of sign-in that some clients add to every request and that mean nothing here.
const SIGN_IN_SCOPES: [&str; 4] = ["openid", "offline_access", "profile", "email"];

/// How a request came to the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// Straight.
    Authority,
    /// Through the API server's token proxy of AKS identity bindings.
    TokenProxy,
}

/// The name a request to the authority is counted under.
pub(crate) fn classify(request: &Request) -> &'static str {
    match request.segments().as_slice() {
        [.., "oauth2", "token"] | [.., "oauth2", "v2.0", "token"] => "entra.token",
        [.., ".well-known", "openid-configuration"] => "entra.openid-configuration",
        [.., "discovery", "keys"] | [.., "discovery", "v2.0", "keys"] => "entra.keys",
        [.., "discovery", "instance"] => "entra.discovery",
        _ => "entra.other",
    }
}

/// The answer to an injected error.
pub(crate) fn fault(shared: &Shared, status: StatusCode) -> Reply {
    Aadsts::injected(status).into_reply(&shared.clock)
}

/// The answer to an injected refusal.
pub(crate) fn refusal(shared: &Shared, status: StatusCode, code: u32) -> Reply {
    Aadsts::on_demand(status, code).into_reply(&shared.clock)
}

/// Answers one request to the authority.
pub(crate) async fn respond(shared: &Shared, request: &Request, via: Via) -> Reply {
    let reply = match (&request.method, request.segments().as_slice()) {
        (&Method::GET, ["common", "discovery", "instance"]) => instance_discovery(request),
        (
            &Method::GET,
            [tenant, ".well-known", "openid-configuration"]
            | [tenant, "v2.0", ".well-known", "openid-configuration"],
        ) => metadata(shared, request, tenant),
        (&Method::GET, [_, "discovery", "v2.0", "keys"] | [_, "discovery", "keys"]) => {
            Reply::json(StatusCode::OK, &json!({ "keys": [&*shared.directory.signing_key().jwk] }))
        }
        (&Method::POST, [tenant, "oauth2", "v2.0", "token"] | [tenant, "oauth2", "token"]) => {
            match token(shared, request, tenant, via).await {
                Ok(body) => Reply::json(StatusCode::OK, &body)
                    .with_header("cache-control", "no-store, no-cache")
                    .with_header("pragma", "no-cache"),
                Err(refusal) => refusal.into_reply(&shared.clock),
            }
        }
        (_, [_, "oauth2", ..]) => Reply::empty(StatusCode::METHOD_NOT_ALLOWED),
        _ => Reply::text(
            StatusCode::NOT_FOUND,
            "text/html; charset=utf-8",
            "<html><body>Not Found</body></html>",
        ),
    };
    match request.header("client-request-id") {
        Some(id) => reply.with_header("client-request-id", id),
        None => reply,
    }
    .with_header("strict-transport-security", "max-age=31536000; includeSubDomains")
    .with_header("x-content-type-options", "nosniff")
}

fn metadata(shared: &Shared, request: &Request, tenant: &str) -> Reply {
    let Some(tenant) = shared.directory.tenant(tenant) else {
        return unknown_tenant(tenant).into_reply(&shared.clock);
    };
    // The document names the host it was asked by, so that a client under another name stays there.
    let base = format!("https://{}/{tenant}", request.host);
    let common = json!({
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
    });
    let own = if tenant == "adfs" {
        json!({
            "issuer": base,
            "authorization_endpoint": format!("{base}/oauth2/authorize/"),
            "token_endpoint": format!("{base}/oauth2/token/"),
            "device_authorization_endpoint": format!("{base}/oauth2/devicecode"),
            "jwks_uri": format!("{base}/discovery/keys"),
            "access_token_issuer": base,
        })
    } else {
        json!({
            "issuer": format!("{base}/v2.0"),
            "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
            "token_endpoint": format!("{base}/oauth2/v2.0/token"),
            "device_authorization_endpoint": format!("{base}/oauth2/v2.0/devicecode"),
            "jwks_uri": format!("{base}/discovery/v2.0/keys"),
            "tenant_region_scope": "WW",
            "cloud_instance_name": "microsoftonline.com",
            "cloud_graph_host_name": "graph.windows.net",
            "msgraph_host": "graph.microsoft.com",
        })
    };
    let mut document = common;
    if let (Value::Object(document), Value::Object(own)) = (&mut document, own) {
        document.extend(own);
    }
    Reply::json(StatusCode::OK, &document)
}

fn instance_discovery(request: &Request) -> Reply {
    let endpoint = request.query("authorization_endpoint").unwrap_or_default();
    let Some(tenant) = endpoint
        .strip_prefix("https://")
        .and_then(|rest| rest.split('/').nth(1))
        .filter(|tenant| !tenant.is_empty())
    else {
        return Reply::json(
            StatusCode::BAD_REQUEST,
            &json!({ "error": "invalid_instance", "error_description": "AADSTS50049: Unknown or invalid instance.", "error_codes": [50049] }),
        );
    };
    let host = &request.host;
    Reply::json(
        StatusCode::OK,
        &json!({
            "tenant_discovery_endpoint": format!("https://{host}/{tenant}/v2.0/.well-known/openid-configuration"),
            "api-version": "1.1",
            "metadata": [{ "preferred_network": host, "preferred_cache": host, "aliases": [host] }],
        }),
    )
}

fn unknown_tenant(tenant: &str) -> Aadsts {
    let plausible = tenant.len() <= 253
        && tenant.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        && (tenant.contains('.') || tenant.len() == 36);
    if plausible { Aadsts::unknown_tenant(tenant) } else { Aadsts::malformed_tenant(tenant) }
}

async fn token(shared: &Shared, request: &Request, tenant: &str, via: Via) -> Result<Value, Aadsts> {
    let tenant = shared.directory.tenant(tenant).ok_or_else(|| unknown_tenant(tenant))?;
    let form = request.form();
    let field = |name: &str| {
        form.iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    };
    let required = |name: &str| field(name).ok_or_else(|| Aadsts::missing_parameter(name));

    let grant = required("grant_type")?;
    if grant != "client_credentials" {
        return Err(Aadsts::unsupported_grant(grant));
    }
    let client_id = required("client_id")?;
    let resource = match (field("scope"), field("resource")) {
        (Some(scope), _) => resource_of(scope)?,
        // AD FS and the first version of the endpoint name the resource itself.
        (None, Some(resource)) => resource.to_owned(),
        (None, None) => return Err(Aadsts::missing_parameter("scope")),
    };
    let registration = shared
        .directory
        .registration(client_id)
        .filter(|registration| registration.identity.tenant.eq_ignore_ascii_case(&tenant))
        .ok_or_else(|| Aadsts::unknown_application(client_id, &tenant))?;
    if registration.disabled {
        return Err(Aadsts::disabled_application(client_id, &registration.identity.name));
    }
    if !is_known_resource(shared, &resource) {
        return Err(Aadsts::unknown_resource(&resource, &tenant));
    }
    match (field("client_assertion"), field("client_secret")) {
        (Some(assertion), _) => {
            if field("client_assertion_type") != Some(ASSERTION_TYPE) {
                return Err(Aadsts::wrong_assertion_type());
            }
            let endpoints = audiences(request, &tenant);
            assertion::check(shared, &registration, assertion, &endpoints, via).await?;
        }
        (None, Some(secret)) if via == Via::Authority => check_secret(shared, &registration, secret)?,
        _ => return Err(Aadsts::no_credential()),
    }
    let issued = jwt::access_token(shared, &registration.identity, &resource)
        .map_err(|_| Aadsts::injected(StatusCode::INTERNAL_SERVER_ERROR))?;
    shared.telemetry.token_issued(&registration.identity.client_id);
    let lifetime = issued.expires - shared.clock.now();
    Ok(json!({
        "token_type": "Bearer",
        "expires_in": lifetime,
        "ext_expires_in": lifetime,
        "access_token": issued.token,
    }))
}

/// What an assertion signed by a certificate may name as its audience.
fn audiences(request: &Request, tenant: &str) -> Vec<String> {
    let host = &request.host;
    [
        format!("https://{host}/{tenant}/oauth2/v2.0/token"),
        format!("https://{host}/{tenant}/oauth2/token"),
        format!("https://{host}/{tenant}/oauth2/token/"),
        format!("https://{host}/{tenant}/v2.0"),
        format!("https://{host}/{tenant}"),
    ]
    .into()
}

fn check_secret(shared: &Shared, registration: &Registration, secret: &str) -> Result<(), Aadsts> {
    let client_id = &registration.identity.client_id;
    let now = shared.clock.now();
    let mut matching = registration.secrets.iter().filter(|known| known.value == secret).peekable();
    if matching.peek().is_none() {
        return Err(Aadsts::wrong_secret(client_id));
    }
    if matching.any(|known| known.expires.is_none_or(|expires| expires > now)) {
        Ok(())
    } else {
        Err(Aadsts::expired_secret(client_id))
    }
}

/// The one resource of a scope.
fn resource_of(scope: &str) -> Result<String, Aadsts> {
    let mut resources = scope.split_ascii_whitespace().filter(|part| !SIGN_IN_SCOPES.contains(part));
    let (Some(first), rest) = (resources.next(), resources.next()) else {
        return Err(Aadsts::malformed_scope(scope));
    };
    if rest.is_some() {
        return Err(Aadsts::several_resources(scope));
    }
    // What stands before "/.default" becomes the audience as it is, so one slash too many shows up in the token.
    match first.strip_suffix("/.default") {
        Some(resource) if !resource.is_empty() => Ok(resource.to_owned()),
        _ => Err(Aadsts::malformed_scope(scope)),
    }
}

fn is_known_resource(shared: &Shared, resource: &str) -> bool {
    let resource = resource.trim_end_matches('/');
    let built_in = [
        "https://vault.azure.net",
        "https://vault.azure.cn",
        "https://vault.usgovcloudapi.net",
        "https://managedhsm.azure.net",
        "cfa8b339-82a2-471a-a3c9-0fc0be7a4093",
        "https://management.azure.com",
        "https://graph.microsoft.com",
    ];
    built_in.contains(&resource)
        || resource.strip_prefix("https://") == Some(&shared.names.vault_suffix)
        || shared.directory.resources().iter().any(|known| known == resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_one_resource_and_default() {
        let resource = |scope: &str| resource_of(scope).map_err(|refusal| refusal.code);
        assert_eq!(resource("https://vault.azure.net/.default"), Ok("https://vault.azure.net".to_owned()));
        assert_eq!(
            resource("https://vault.azure.net/.default openid offline_access profile"),
            Ok("https://vault.azure.net".to_owned())
        );
        assert_eq!(resource("https://vault.azure.net//.default"), Ok("https://vault.azure.net/".to_owned()));
        assert_eq!(resource("https://vault.azure.net"), Err(1_002_012));
        assert_eq!(resource("openid"), Err(1_002_012));
        assert_eq!(resource("a/.default b/.default"), Err(70_011));
    }
}
