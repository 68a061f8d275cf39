//! Secrets.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    access::ObjectKind,
    api::Call,
    errors::ApiError,
    keys::JwkQuirks,
    store::{Attributes, Collection, Content, Object, VaultState, Version, add_tags, tags, version_id},
};
use crate::crypto::bundle::Bundle;

/// The service's own bound.
const MAX_VALUE: usize = 25 * 1024;
const MAX_CONTENT_TYPE: usize = 255;
pub(super) const PFX: &str = "application/x-pkcs12";
pub(super) const PEM: &str = "application/x-pem-file";

/// One version's content. The debug form leaves the value out.
#[derive(Clone)]
pub(super) struct Secret {
    pub value: String,
    pub content_type: Option<String>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("content_type", &self.content_type).finish_non_exhaustive()
    }
}

impl Content for Secret {
    const KIND: ObjectKind = ObjectKind::Secrets;
    type Extra = ();

    fn collection(vault: &mut VaultState) -> &mut Collection<Self> {
        &mut vault.secrets
    }

    fn bundle(
        call: &Call<'_>,
        _: JwkQuirks,
        object: &Object<Self>,
        version: &Version<Self>,
        whole: bool,
    ) -> Value {
        let mut json = Self::item(call.id(Self::KIND, &object.name, Some(&version.id)), version);
        if whole {
            json["value"] = version.content.value.clone().into();
        }
        if version.managed {
            json["kid"] = call.id(ObjectKind::Keys, &object.name, Some(&version.id)).into();
            if call.knows_previous_versions() {
                let at = object.versions.iter().position(|other| other.id == version.id);
                if let Some(previous) =
                    at.and_then(|at| at.checked_sub(1)).and_then(|at| object.versions.get(at))
                {
                    json["previousVersion"] = previous.id.clone().into();
                }
            }
        }
        json
    }

    fn item(id: String, version: &Version<Self>) -> Value {
        let mut json = serde_json::Map::new();
        json.insert("id".to_owned(), id.into());
        json.insert("attributes".to_owned(), version.attributes.json());
        if let Some(content_type) = &version.content.content_type {
            json.insert("contentType".to_owned(), content_type.clone().into());
        }
        if version.managed {
            json.insert("managed".to_owned(), true.into());
        }
        add_tags(&mut json, &version.tags);
        Value::Object(json)
    }
}

/// `GET /secrets/{name}[/{version}]`, which alone can turn a certificate's PFX into PEM.
pub(super) fn get(call: &Call<'_>, name: &str, version: Option<&str>) -> Result<Value, ApiError> {
    let mut answer = super::store::get::<Secret>(call, name, version)?;
    match call.request.query("outContentType") {
        Some(PEM) if call.knows_previous_versions() && answer["contentType"] == PFX => {
            let bundle = Bundle::from_pfx(answer["value"].as_str().unwrap_or_default(), "")?;
            answer["value"] = bundle.to_pem(true)?.into();
            answer["contentType"] = PEM.into();
        }
        None | Some(PEM | PFX) => {}
        Some(other) => return Err(ApiError::bad_parameter(format!("Invalid outContentType: {other}"))),
    }
    Ok(answer)
}

fn content_type(body: &Value) -> Result<Option<String>, ApiError> {
    match &body["contentType"] {
        Value::Null => Ok(None),
        Value::String(text) if text.len() <= MAX_CONTENT_TYPE => Ok(Some(text.clone())),
        _ => Err(ApiError::bad_parameter("Property contentType has invalid value")),
    }
}

/// `PUT /secrets/{name}`
pub(super) fn set(call: &Call<'_>, name: &str, body: &Value) -> Result<Value, ApiError> {
    let value =
        body["value"].as_str().ok_or_else(|| ApiError::bad_parameter("Property value has invalid value"))?;
    if value.len() > MAX_VALUE {
        return Err(ApiError::bad_parameter("The secret's value is larger than 25600 bytes"));
    }
    let version = Version {
        id: version_id(),
        attributes: Attributes::new(&body["attributes"], call.now())?,
        tags: tags(body)?.unwrap_or_default(),
        managed: false,
        content: Secret { value: value.to_owned(), content_type: content_type(body)? },
    };
    call.vault(|vault| {
        vault.secrets.check_free(name)?;
        if vault.secrets.is_managed(name) == Some(true) {
            return Err(ApiError::managed(Secret::KIND, name));
        }
        let quirks = vault.quirks;
        let object = vault.secrets.push(name, version);
        object
            .current()
            .map(|version| Secret::bundle(call, quirks, object, version, true))
            .ok_or_else(|| ApiError::not_found(Secret::KIND, name))
    })
}

/// `PATCH /secrets/{name}/{version}`
pub(super) fn update(
    call: &Call<'_>,
    name: &str,
    version: Option<&str>,
    body: &Value,
) -> Result<Value, ApiError> {
    let content_type = content_type(body)?;
    super::store::update::<Secret>(call, name, version, body, |version| {
        if content_type.is_some() {
            if version.managed {
                return Err(ApiError::managed(Secret::KIND, name));
            }
            version.content.content_type = content_type;
        }
        Ok(())
    })
}

/// `POST /secrets/{name}/backup`: every version in one opaque text.
pub(super) fn backup(call: &Call<'_>, name: &str) -> Result<Value, ApiError> {
    let versions = call.vault(|vault| {
        let object = vault.secrets.object(name)?;
        let version = |version: &Version<Secret>| {
            json!({
                "id": version.id,
                "value": version.content.value,
                "contentType": version.content.content_type,
                "attributes": version.attributes.json(),
                "tags": version.tags,
            })
        };
        if object.current().is_some_and(|version| version.managed) {
            return Err(ApiError::managed(Secret::KIND, name));
        }
        Ok(json!({ "name": object.name, "versions": object.versions.iter().map(version).collect::<Vec<_>>() }))
    })?;
    Ok(json!({ "value": opaque(&versions) }))
}

/// `POST /secrets/restore`
pub(super) fn restore(call: &Call<'_>, body: &Value) -> Result<Value, ApiError> {
    let invalid = || ApiError::bad_parameter("Property value has invalid value: it is no backup of a secret");
    let backup = transparent(&body["value"]).ok_or_else(invalid)?;
    let name = backup["name"].as_str().ok_or_else(invalid)?;
    let mut restored = Vec::new();
    for version in backup["versions"].as_array().ok_or_else(invalid)? {
        let mut attributes = Attributes::new(&version["attributes"], call.now())?;
        attributes.created = version["attributes"]["created"].as_i64().unwrap_or(attributes.created);
        restored.push(Version {
            id: version["id"].as_str().ok_or_else(invalid)?.to_owned(),
            attributes,
            tags: tags(version)?.unwrap_or_default(),
            managed: false,
            content: Secret {
                value: version["value"].as_str().ok_or_else(invalid)?.to_owned(),
                content_type: content_type(version)?,
            },
        });
    }
    call.vault(|vault| {
        vault.secrets.check_free(name)?;
        if vault.secrets.object(name).is_ok() {
            return Err(ApiError::exists(Secret::KIND, name));
        }
        for version in restored {
            vault.secrets.push(name, version);
        }
        let quirks = vault.quirks;
        let (object, version) = vault.secrets.version(name, None)?;
        Ok(Secret::bundle(call, quirks, object, version, false))
    })
}

/// A document as text nobody is meant to read.
fn opaque(document: &Value) -> String {
    URL_SAFE_NO_PAD.encode(document.to_string())
}

/// The document back.
fn transparent(text: &Value) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text.as_str()?).ok()?).ok()
}
