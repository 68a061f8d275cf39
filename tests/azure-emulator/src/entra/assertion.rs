//! Client assertions: a federated token of another issuer, or one signed by a registered certificate's key.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    directory::{Federation, Registration, hex_upper},
    endpoint::Via,
    errors::{Aadsts, Claim},
    jwt::Jwt,
    trust::Distrust,
};
use crate::emulator::Shared;

/// The one audience of service account tokens that go through the API server's proxy.
const IDENTITY_BINDING_AUDIENCE: &str = "api://AKSIdentityBinding";
/// How far clocks may differ.
const LEEWAY: i64 = 300;

/// Checks an assertion for an application; `endpoints` are the audiences a certificate's assertion may name.
pub(super) async fn check(
    shared: &Shared,
    registration: &Registration,
    assertion: &str,
    endpoints: &[String],
    via: Via,
) -> Result<(), Aadsts> {
    let token = Jwt::parse(assertion).ok_or_else(Aadsts::malformed_assertion)?;
    if token.text("iss").eq_ignore_ascii_case(&registration.identity.client_id) {
        by_certificate(shared, registration, &token, endpoints)
    } else {
        by_federation(shared, registration, &token, via).await
    }
}

async fn by_federation(
    shared: &Shared,
    registration: &Registration,
    token: &Jwt<'_>,
    via: Via,
) -> Result<(), Aadsts> {
    let (issuer, subject, audiences) = (token.text("iss"), token.text("sub"), token.audiences());
    let own = format!("https://{}/", shared.names.authority);
    if issuer.starts_with("https://sts.windows.net/") || issuer.starts_with(&own) {
        return Err(Aadsts::own_token_as_assertion());
    }
    if token.algorithm() != "RS256" {
        return Err(Aadsts::unsupported_algorithm(token.algorithm()));
    }
    // An identity binding is a credential the proxy alone may use, and the proxy may use no other.
    let usable: Vec<&Federation> = registration
        .federations
        .iter()
        .filter(|federation| (federation.audience == IDENTITY_BINDING_AUDIENCE) == (via == Via::TokenProxy))
        .collect();
    if registration.federations.is_empty() {
        return Err(Aadsts::no_federation(&registration.identity.client_id, &registration.identity.name));
    }
    // The claims are compared one after the other, each among the credentials that agree on those before it.
    let issuer_matches = narrow(&usable, Claim::Issuer, issuer, |federation| &federation.issuer)?;
    let subject_matches = narrow(&issuer_matches, Claim::Subject, subject, |federation| &federation.subject)?;
    let audience = match audiences.as_slice() {
        [one] => *one,
        several => return Err(Aadsts::no_match(Claim::Audience, &several.join(", "))),
    };
    narrow(&subject_matches, Claim::Audience, audience, |federation| &federation.audience)?;

    within_validity(shared, token)?;
    match shared.directory.issuers.verify(token).await {
        Ok(()) => Ok(()),
        Err(Distrust::UnknownKey) => Err(Aadsts::bad_signature("The key was not found.")),
        Err(Distrust::BadSignature) => Err(Aadsts::bad_signature(
            "The provided signature value did not match the expected signature value.",
        )),
        Err(Distrust::Unreachable(reason)) => Err(Aadsts::issuer_unreachable(&reason)),
    }
}

/// The federations that agree with the presented value; the refusal says so if one differs only in case.
fn narrow<'a>(
    federations: &[&'a Federation],
    claim: Claim,
    presented: &str,
    configured: impl Fn(&'a Federation) -> &'a String,
) -> Result<Vec<&'a Federation>, Aadsts> {
    let exact: Vec<&Federation> =
        federations.iter().copied().filter(|federation| configured(federation) == presented).collect();
    if !exact.is_empty() {
        return Ok(exact);
    }
    if federations.iter().any(|federation| configured(federation).eq_ignore_ascii_case(presented)) {
        return Err(Aadsts::case_mismatch(claim, presented));
    }
    Err(Aadsts::no_match(claim, presented))
}

fn by_certificate(
    shared: &Shared,
    registration: &Registration,
    token: &Jwt<'_>,
    endpoints: &[String],
) -> Result<(), Aadsts> {
    let client_id = &registration.identity.client_id;
    if !matches!(token.algorithm(), "RS256" | "PS256") {
        return Err(Aadsts::unsupported_algorithm(token.algorithm()));
    }
    // Some libraries pad what a JOSE header has unpadded, and Entra lets them.
    let named = |header: &str| {
        token.header(header).and_then(|value| URL_SAFE_NO_PAD.decode(value.trim_end_matches('=')).ok())
    };
    let (sha1, sha256) = (named("x5t").map(|bytes| hex_upper(&bytes)), named("x5t#S256"));
    let shown = sha1.clone().or_else(|| sha256.as_deref().map(hex_upper)).unwrap_or_default();
    let certificate = registration
        .certificates
        .iter()
        .find(|known| sha1.as_ref() == Some(&known.thumbprint) || sha256.as_ref() == Some(&known.sha256))
        .ok_or_else(|| Aadsts::wrong_certificate(client_id, "The key was not found.", &shown))?;
    if certificate.not_after < shared.clock.now() {
        return Err(Aadsts::wrong_certificate(client_id, "The key used is expired.", &shown));
    }
    if !token.is_signed_by_spki(&certificate.public_key) {
        return Err(Aadsts::wrong_certificate(
            client_id,
            "The key was found, but use of the key to verify the signature failed.",
            &shown,
        ));
    }
    within_validity(shared, token)?;
    if !token.audiences().iter().any(|audience| endpoints.iter().any(|endpoint| endpoint == audience)) {
        return Err(Aadsts::wrong_assertion_audience());
    }
    if token.text("sub").eq_ignore_ascii_case(client_id) {
        Ok(())
    } else {
        Err(Aadsts::malformed_assertion())
    }
}

fn within_validity(shared: &Shared, token: &Jwt<'_>) -> Result<(), Aadsts> {
    let now = shared.clock.now();
    let expires = token.seconds("exp").ok_or_else(Aadsts::malformed_assertion)?;
    let begins = token.seconds("nbf").or_else(|| token.seconds("iat")).unwrap_or(now);
    if expires < now || begins > now + LEEWAY {
        return Err(Aadsts::outside_validity(&date(now), &date(begins), &date(expires)));
    }
    Ok(())
}

fn date(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}
