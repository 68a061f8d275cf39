//! Certificates, and the secret and key each of them owns.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use hyper::StatusCode;
use ring::digest;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{
    access::ObjectKind,
    api::Call,
    errors::ApiError,
    keys::{self, JwkQuirks, Key},
    secrets::{PEM, PFX, Secret},
    store::{Attributes, Collection, Content, Object, VaultState, Version, add_tags, tags, version_id},
};
use crate::{
    crypto::{bundle::Bundle, certificate, material::Material},
    http::Reply,
};

/// How long before its making a self-signed certificate begins, in seconds.
const BACKDATED: i64 = 600;
const DEFAULT_MONTHS: i64 = 12;

/// One version's content.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    der: Vec<u8>,
}

impl Certificate {
    fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &self.der))
    }
}

/// What belongs to a certificate rather than to one version.
#[derive(Debug, Clone, Default)]
pub(super) struct Making {
    policy: Value,
    /// Request id and creation of the last operation that made a version, until it is deleted.
    operation: Option<String>,
}

impl Content for Certificate {
    const KIND: ObjectKind = ObjectKind::Certificates;
    type Extra = Making;

    fn collection(vault: &mut VaultState) -> &mut Collection<Self> {
        &mut vault.certificates
    }

    fn bundle(
        call: &Call<'_>,
        _: JwkQuirks,
        object: &Object<Self>,
        version: &Version<Self>,
        _: bool,
    ) -> Value {
        let id = |kind| call.id(kind, &object.name, Some(&version.id));
        let mut json = Map::new();
        json.insert("id".to_owned(), id(ObjectKind::Certificates).into());
        json.insert("kid".to_owned(), id(ObjectKind::Keys).into());
        json.insert("sid".to_owned(), id(ObjectKind::Secrets).into());
        json.insert("x5t".to_owned(), version.content.thumbprint().into());
        json.insert("cer".to_owned(), STANDARD.encode(&version.content.der).into());
        json.insert("attributes".to_owned(), version.attributes.json());
        json.insert("policy".to_owned(), policy_json(call, object));
        add_tags(&mut json, &version.tags);
        Value::Object(json)
    }

    fn item(id: String, version: &Version<Self>) -> Value {
        let mut json = Map::new();
        json.insert("id".to_owned(), id.into());
        json.insert("x5t".to_owned(), version.content.thumbprint().into());
        json.insert("attributes".to_owned(), version.attributes.json());
        json.insert(
            "subject".to_owned(),
            certificate::subject(&version.content.der).unwrap_or_default().into(),
        );
        add_tags(&mut json, &version.tags);
        Value::Object(json)
    }
}

fn policy_json(call: &Call<'_>, object: &Object<Certificate>) -> Value {
    let mut policy = object.extra.policy.clone();
    policy["id"] = format!("{}/policy", call.id(ObjectKind::Certificates, &object.name, None)).into();
    policy
}

/// A policy with every default filled in; `base` is what a given one does not say.
fn complete_policy(given: &Value, base: &Value) -> Result<Value, ApiError> {
    let invalid = |name: &str| ApiError::bad_parameter(format!("Property policy.{name} has invalid value"));
    if !given.is_object() {
        return Err(ApiError::bad_parameter("Property policy has invalid value"));
    }
    let mut policy = base.clone();
    for section in ["key_props", "secret_props", "x509_props", "issuer", "attributes"] {
        let Value::Object(given) = &given[section] else {
            if given[section].is_null() {
                continue;
            }
            return Err(invalid(section));
        };
        for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
            policy[section][name] = value.clone();
        }
    }
    if given["lifetime_actions"].is_array() {
        policy["lifetime_actions"] = given["lifetime_actions"].clone();
    }
    let content_type = &policy["secret_props"]["contentType"];
    if content_type != PFX && content_type != PEM {
        return Err(invalid("secret_props.contentType"));
    }
    let kind = policy["key_props"]["kty"].as_str().unwrap_or_default().trim_end_matches("-HSM").to_owned();
    if let Value::Object(key) = &mut policy["key_props"] {
        // A size belongs to RSA, a curve to EC; the other one is what the defaults left behind.
        match kind.as_str() {
            "RSA" => drop(key.remove("crv")),
            "EC" => {
                key.remove("key_size");
                key.entry("crv").or_insert_with(|| "P-256".into());
            }
            _ => return Err(invalid("key_props.kty")),
        }
    }
    Ok(policy)
}

fn default_policy(name: &str, now: i64) -> Value {
    json!({
        "key_props": { "exportable": true, "kty": "RSA", "key_size": 2048, "reuse_key": false },
        "secret_props": { "contentType": PFX },
        "x509_props": {
            "subject": format!("CN={name}"),
            "ekus": ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"],
            "key_usage": ["digitalSignature", "keyEncipherment"],
            "validity_months": DEFAULT_MONTHS,
            "basic_constraints": { "ca": false },
        },
        "lifetime_actions": [
            { "trigger": { "lifetime_percentage": 80 }, "action": { "action_type": "AutoRenew" } }
        ],
        "issuer": { "name": "Self", "cert_transparency": false },
        "attributes": { "enabled": true, "created": now, "updated": now },
    })
}

/// `POST /certificates/{name}/create`: the answer says that the operation is in progress, as the real one always
/// does and clients rely on; whoever asks next finds it completed.
pub(super) fn create(call: &Call<'_>, name: &str, body: &Value) -> Result<Reply, ApiError> {
    let now = call.now();
    let (existing, previous) = call.vault(|vault| {
        check_names(vault, name)?;
        let existing = vault.certificates.object(name).ok().map(|object| object.extra.policy.clone());
        let previous = vault.keys.version(name, None).ok().map(|(_, version)| version.content.clone());
        Ok((existing, previous))
    })?;
    let policy = match (&body["policy"], existing) {
        (Value::Null, Some(policy)) => policy,
        (given, Some(policy)) => complete_policy(given, &policy)?,
        (given, None) => complete_policy(given, &default_policy(name, now))?,
    };
    let issuer = policy["issuer"]["name"].as_str().unwrap_or_default();
    if issuer != "Self" {
        return Err(ApiError::bad_parameter(format!(
            "The issuer '{issuer}' is not configured: only self-signed certificates are made here, others are imported"
        )));
    }
    let key = &policy["key_props"];
    let (material, hsm) = match previous {
        Some(previous) if key["reuse_key"] == true => {
            let hsm = previous.kind.ends_with("-HSM");
            (previous.material, hsm)
        }
        _ => keys::generate(key)?,
    };
    let der = certificate::self_signed(&certificate_request(&policy, now)?, &material)?;
    let bundle = Bundle::new(material, vec![der])?;
    install(call, name, body, policy, &bundle, hsm)?;
    let mut operation = pending(call, name)?;
    operation["status"] = "inProgress".into();
    operation["status_details"] =
        "Pending certificate created. Certificate request is in progress. This may take some time based on the issuer provider. Please check again later."
            .into();
    if let Value::Object(operation) = &mut operation {
        operation.remove("target");
    }
    Ok(Reply::json(StatusCode::ACCEPTED, &operation)
        .with_header(
            "location",
            format!(
                "{}/pending?api-version={}",
                call.id(ObjectKind::Certificates, name, None),
                call.api_version
            ),
        )
        .with_header("retry-after", "0"))
}

fn certificate_request(policy: &Value, now: i64) -> Result<certificate::Request, ApiError> {
    let x509 = &policy["x509_props"];
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let months =
        x509["validity_months"].as_i64().filter(|months| (1..=1200).contains(months)).ok_or_else(|| {
            ApiError::bad_parameter("Property policy.x509_props.validity_months has invalid value")
        })?;
    Ok(certificate::Request {
        subject: x509["subject"].as_str().unwrap_or_default().to_owned(),
        dns_names: texts(&x509["sans"]["dns_names"]),
        emails: texts(&x509["sans"]["emails"]),
        extended_usages: texts(&x509["ekus"]),
        key_usages: texts(&x509["key_usage"]),
        not_before: now - BACKDATED,
        not_after: add_months(now, months),
    })
}

/// The same day and time so many months later, the month's last day where it is shorter.
fn add_months(from: i64, months: i64) -> i64 {
    let Ok(date) = OffsetDateTime::from_unix_timestamp(from) else { return from };
    let month = i64::from(date.year()) * 12 + i64::from(u8::from(date.month())) - 1 + months;
    let year = i32::try_from(month.div_euclid(12)).unwrap_or(i32::MAX);
    let month =
        u8::try_from(month.rem_euclid(12) + 1).ok().and_then(|month| time::Month::try_from(month).ok());
    let Some(month) = month else { return from };
    let day = date.day().min(month.length(year));
    time::Date::from_calendar_date(year, month, day)
        .map_or(from, |day| date.replace_date(day).unix_timestamp())
}

/// `POST /certificates/{name}/import`
pub(super) fn import(call: &Call<'_>, name: &str, body: &Value) -> Result<Value, ApiError> {
    let now = call.now();
    let value =
        body["value"].as_str().ok_or_else(|| ApiError::bad_parameter("Property value has invalid value"))?;
    // PEM comes as text or, as the SDKs send it, in base64 once more.
    let text: String = value.split_ascii_whitespace().collect();
    let decoded = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pem =
        [Some(value.to_owned()), decoded].into_iter().flatten().find(|text| text.contains("-----BEGIN "));
    let is_pem = pem.is_some();
    // Without a policy the content itself says what it is.
    let stated = body["policy"]["secret_props"]["contentType"].as_str();
    let bundle = match stated.unwrap_or(if is_pem { PEM } else { PFX }) {
        PEM => Bundle::from_pem(pem.as_deref().unwrap_or_default()),
        PFX => Bundle::from_pfx(value, body["pwd"].as_str().unwrap_or_default()),
        _ => return Err(ApiError::bad_parameter("Property policy.secret_props.contentType has invalid value")),
    }
    .map_err(|error| {
        ApiError::bad_parameter(format!(
            "The specified {} X.509 certificate content can not be read. Please check if certificate is in valid {} format: {error}",
            if is_pem { "PEM" } else { "PKCS#12" },
            if is_pem { "PEM" } else { "PKCS#12" },
        ))
    })?;
    let bundle = if body["preserveCertOrder"] == true { bundle } else { bundle.leaf_first() };
    let hsm = body["policy"]["key_props"]["kty"].as_str().is_some_and(|kind| kind.ends_with("-HSM"));
    let (begins, ends) = certificate::validity(bundle.leaf())?;
    let mut base = default_policy(name, now);
    base["secret_props"]["contentType"] = if is_pem { PEM.into() } else { PFX.into() };
    base["x509_props"]["subject"] = certificate::subject(bundle.leaf())?.into();
    base["x509_props"]["validity_months"] = ((ends - begins) / (30 * 24 * 60 * 60)).max(1).into();
    base["issuer"]["name"] = "Unknown".into();
    let policy = match &body["policy"] {
        Value::Null => base,
        given => complete_policy(given, &base)?,
    };
    let policy = complete_policy(&describe(&bundle.key, hsm), &policy)?;
    call.vault(|vault| check_names(vault, name))?;
    install(call, name, body, policy, &bundle, hsm)?;
    super::store::get::<Certificate>(call, name, None)
}

/// The key properties of what was imported, which no policy can overrule.
fn describe(key: &Material, hsm: bool) -> Value {
    let kind = format!("{}{}", key.kind(), if hsm { "-HSM" } else { "" });
    match key.curve() {
        Some(curve) => json!({ "key_props": { "kty": kind, "crv": curve.name() } }),
        None => json!({ "key_props": { "kty": kind, "key_size": key.bits() } }),
    }
}

/// A certificate needs its name in all three collections.
fn check_names(vault: &VaultState, name: &str) -> Result<(), ApiError> {
    vault.certificates.check_free(name)?;
    vault.keys.check_free(name)?;
    vault.secrets.check_free(name)?;
    if vault.secrets.is_managed(name) == Some(false) {
        return Err(ApiError::name_taken(ObjectKind::Secrets, name));
    }
    if vault.keys.is_managed(name) == Some(false) {
        return Err(ApiError::name_taken(ObjectKind::Keys, name));
    }
    Ok(())
}

/// Adds a version to all three collections under one id.
fn install(
    call: &Call<'_>,
    name: &str,
    body: &Value,
    policy: Value,
    bundle: &Bundle,
    hsm: bool,
) -> Result<(), ApiError> {
    let (begins, ends) = certificate::validity(bundle.leaf())?;
    let mut attributes = Attributes::new(&body["attributes"], call.now())?;
    (attributes.not_before, attributes.expires) = (Some(begins), Some(ends));
    let tags = tags(body)?.unwrap_or_default();
    let exportable = policy["key_props"]["exportable"] != false;
    let content_type = policy["secret_props"]["contentType"].as_str().unwrap_or(PFX).to_owned();
    let value = if content_type == PEM { bundle.to_pem(exportable)? } else { bundle.to_pfx(exportable)? };
    let id = version_id();
    call.vault(|vault| {
        check_names(vault, name)?;
        vault.secrets.push(
            name,
            Version {
                id: id.clone(),
                attributes,
                tags: tags.clone(),
                managed: true,
                content: Secret { value, content_type: Some(content_type) },
            },
        );
        vault.keys.push(
            name,
            Version {
                id: id.clone(),
                attributes,
                tags: tags.clone(),
                managed: true,
                content: Key::new(bundle.key.clone(), hsm, None),
            },
        );
        let content = Certificate { der: bundle.leaf().to_vec() };
        let version = Version { id, attributes, tags, managed: false, content };
        let object = vault.certificates.push(name, version);
        object.extra = Making { policy, operation: Some(version_id()) };
        Ok(())
    })
}

/// `GET /certificates/{name}/pending`
pub(super) fn pending(call: &Call<'_>, name: &str) -> Result<Value, ApiError> {
    call.vault(|vault| {
        let object = vault.certificates.object(name)?;
        let operation = object
            .extra
            .operation
            .as_ref()
            .ok_or_else(|| ApiError::not_found(ObjectKind::Certificates, &format!("{name}/pending")))?;
        let id = call.id(ObjectKind::Certificates, &object.name, None);
        Ok(json!({
            "id": format!("{id}/pending"),
            "issuer": { "name": object.extra.policy["issuer"]["name"] },
            "cancellation_requested": false,
            "status": "completed",
            "target": id,
            "request_id": operation,
        }))
    })
}

/// `DELETE /certificates/{name}/pending`
pub(super) fn forget_pending(call: &Call<'_>, name: &str) -> Result<Value, ApiError> {
    let operation = pending(call, name)?;
    call.vault(|vault| {
        if let Some(object) = vault.certificates.live.get_mut(&name.to_lowercase()) {
            object.extra.operation = None;
        }
        Ok(())
    })?;
    Ok(operation)
}

/// `GET /certificates/{name}/policy`
pub(super) fn policy(call: &Call<'_>, name: &str) -> Result<Value, ApiError> {
    call.vault(|vault| vault.certificates.object(name).map(|object| policy_json(call, object)))
}

/// `PATCH /certificates/{name}/policy`: holds for versions to come.
pub(super) fn set_policy(call: &Call<'_>, name: &str, body: &Value) -> Result<Value, ApiError> {
    let now = call.now();
    call.vault(|vault| {
        let current = vault.certificates.object(name)?.extra.policy.clone();
        let mut policy = complete_policy(body, &current)?;
        policy["attributes"]["updated"] = now.into();
        if let Some(object) = vault.certificates.live.get_mut(&name.to_lowercase()) {
            object.extra.policy = policy;
        }
        vault.certificates.object(name).map(|object| policy_json(call, object))
    })
}

/// `PATCH /certificates/{name}/{version}`: what is enabled or not, secret and key follow.
pub(super) fn update(
    call: &Call<'_>,
    name: &str,
    version: Option<&str>,
    body: &Value,
) -> Result<Value, ApiError> {
    if !body["policy"].is_null() {
        set_policy(call, name, &body["policy"])?;
    }
    // Begin and end are the certificate's own and not to be chosen.
    let enabled = json!({ "attributes": { "enabled": body["attributes"]["enabled"] }, "tags": body["tags"] });
    let answer = super::store::update::<Certificate>(call, name, version, &enabled, |_| Ok(()))?;
    let id = answer["id"].as_str().and_then(|id| id.rsplit('/').next()).map(str::to_owned);
    super::store::update::<Secret>(call, name, id.as_deref(), &enabled, |_| Ok(()))?;
    super::store::update::<Key>(call, name, id.as_deref(), &enabled, |_| Ok(()))?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_calendar_months() {
        let at = |text: &str| {
            OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
                .unwrap()
                .unix_timestamp()
        };
        assert_eq!(add_months(at("2026-01-31T10:00:00Z"), 1), at("2026-02-28T10:00:00Z"));
        assert_eq!(add_months(at("2026-11-24T00:00:00Z"), 14), at("2028-01-24T00:00:00Z"));
        assert_eq!(add_months(at("2024-12-31T00:00:00Z"), 12), at("2025-12-31T00:00:00Z"));
    }

    #[test]
    fn a_policy_keeps_its_defaults_and_size_or_curve_only() {
        let base = default_policy("a", 0);
        let policy =
            complete_policy(&json!({ "key_props": { "kty": "EC", "crv": "P-384" } }), &base).unwrap();
        assert_eq!(
            policy["key_props"],
            json!({ "exportable": true, "kty": "EC", "crv": "P-384", "reuse_key": false })
        );
        assert_eq!(policy["x509_props"]["subject"], "CN=a");
        assert!(complete_policy(&json!({ "secret_props": { "contentType": "text/plain" } }), &base).is_err());
        assert!(complete_policy(&json!({ "key_props": { "kty": "oct" } }), &base).is_err());
    }
}
