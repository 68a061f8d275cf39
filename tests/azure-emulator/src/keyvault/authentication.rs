//! Whose request it is: the challenge, and the token that answers it.

use super::{access::Caller, errors::ApiError};
use crate::{
    emulator::Shared,
    entra::jwt::{self, Jwt},
    http::Request,
};

/// Audience every token for Key Vault may carry instead of its address: the resource's application id.
const RESOURCE_ID: &str = "cfa8b339-82a2-471a-a3c9-0fc0be7a4093";

/// The resource a client should ask tokens for: the custom suffix under its own names, the public one elsewhere.
fn resource(shared: &Shared, request: &Request) -> String {
    let own = format!(".{}", shared.names.vault_suffix.split(':').next().unwrap_or_default());
    if request.host_name().ends_with(&own) {
        return format!("https://{}", shared.names.vault_suffix);
    }
    let sovereign = ["vault.azure.cn", "vault.usgovcloudapi.net"];
    let suffix =
        sovereign.iter().find(|suffix| request.host_name().ends_with(*suffix)).unwrap_or(&"vault.azure.net");
    format!("https://{suffix}")
}

/// The `WWW-Authenticate` header of a refusal.
pub(super) fn challenge(shared: &Shared, vault: Option<&str>, request: &Request) -> String {
    let tenant = vault
        .and_then(|name| shared.vaults.edit(name, |vault| vault.tenant.clone()))
        .unwrap_or_else(|| shared.tenant.clone());
    format!(
        "Bearer authorization=\"https://{}/{tenant}\", resource=\"{}\"",
        shared.names.authority,
        resource(shared, request)
    )
}

/// Takes the token apart and checks everything it claims.
pub(super) fn authenticate(shared: &Shared, tenant: &str, request: &Request) -> Result<Caller, ApiError> {
    let token = request
        .bearer()
        .ok_or_else(|| ApiError::unauthorized("AKV10000: Request is missing a Bearer or PoP token."))?;
    let token = Jwt::parse(token)
        .ok_or_else(|| ApiError::unauthorized("AKV10005: The token is malformed: it is not a signed JWT."))?;
    if !shared.directory.signing_key().signed(&token) {
        return Err(ApiError::unauthorized(
            "AKV10046: Unable to resolve the key used for signature validation.",
        ));
    }
    let issuer = jwt::issuer(shared, tenant);
    let found = token.text("iss");
    if found != issuer {
        return Err(ApiError::unauthorized(format!(
            "AKV10032: Invalid issuer. Expected one of {issuer}, found {found}."
        )));
    }
    let expected = resource(shared, request);
    let accepted = |audience: &&str| {
        *audience == expected || *audience == RESOURCE_ID || *audience == "https://vault.azure.net"
    };
    if !token.audiences().iter().any(accepted) {
        return Err(ApiError::unauthorized(format!(
            "AKV10022: Invalid audience. Expected {expected}, found: {}.",
            token.audiences().join(", ")
        )));
    }
    let now = shared.clock.now();
    if token.seconds("exp").is_none_or(|expires| expires <= now) {
        return Err(ApiError::unauthorized("IDX10223: Lifetime validation failed. The token is expired."));
    }
    if token.seconds("nbf").is_some_and(|begins| begins > now) {
        return Err(ApiError::unauthorized(
            "IDX10222: Lifetime validation failed. The token is not yet valid.",
        ));
    }
    Ok(Caller {
        app_id: token.text("appid").to_owned(),
        object_id: token.text("oid").to_owned(),
        issuer: found.to_owned(),
    })
}
