//! Keys.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    access::ObjectKind,
    api::Call,
    errors::ApiError,
    store::{Attributes, Collection, Content, Object, VaultState, Version, add_tags, tags, version_id},
};
use crate::crypto::material::{Curve, Material, Public};

const RSA_SIZES: [u64; 3] = [2048, 3072, 4096];
const SYMMETRIC_SIZES: [u64; 3] = [128, 192, 256];
const OPERATIONS: [&str; 10] = [
    "encrypt",
    "decrypt",
    "sign",
    "verify",
    "wrapKey",
    "unwrapKey",
    "import",
    "export",
    "deriveKey",
    "deriveBits",
];

/// Ways of writing public keys that clients meet in the wild and must stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct JwkQuirks {
    /// An RSA modulus starts with a zero byte, as a signed number would.
    pub leading_zero: bool,
    /// Coordinates of elliptic curves are written as numbers, without leading zero bytes.
    pub short_coordinates: bool,
}

/// One version's content.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// The type as asked for, `-HSM` included.
    pub kind: String,
    pub operations: Vec<String>,
    pub material: Material,
}

impl Key {
    /// A key whose operations are those of its type unless given.
    pub(super) fn new(material: Material, hsm: bool, operations: Option<Vec<String>>) -> Self {
        let kind = format!("{}{}", material.kind(), if hsm { "-HSM" } else { "" });
        let usual: &[&str] = match material.kind() {
            "EC" => &["sign", "verify"],
            "oct" => &["encrypt", "decrypt", "wrapKey", "unwrapKey"],
            _ => &["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"],
        };
        let operations = operations.unwrap_or_else(|| usual.iter().map(|&name| name.to_owned()).collect());
        Self { kind, operations, material }
    }

    fn jwk(&self, quirks: JwkQuirks, id: String) -> Value {
        let mut jwk = json!({ "kty": self.kind, "key_ops": self.operations });
        jwk["kid"] = id.into();
        match self.material.public() {
            Public::Rsa { mut n, e } => {
                if quirks.leading_zero {
                    n.insert(0, 0);
                }
                jwk["n"] = URL_SAFE_NO_PAD.encode(n).into();
                jwk["e"] = URL_SAFE_NO_PAD.encode(e).into();
            }
            Public::Ec { curve, x, y } => {
                let written = |coordinate: Vec<u8>| {
                    let coordinate = if quirks.short_coordinates {
                        crate::crypto::material::strip_zeros(coordinate)
                    } else {
                        coordinate
                    };
                    URL_SAFE_NO_PAD.encode(coordinate)
                };
                jwk["crv"] = curve.name().into();
                jwk["x"] = written(x).into();
                jwk["y"] = written(y).into();
            }
            Public::None => {}
        }
        jwk
    }
}

impl Content for Key {
    const KIND: ObjectKind = ObjectKind::Keys;
    type Extra = ();

    fn collection(vault: &mut VaultState) -> &mut Collection<Self> {
        &mut vault.keys
    }

    fn bundle(
        call: &Call<'_>,
        quirks: JwkQuirks,
        object: &Object<Self>,
        version: &Version<Self>,
        _: bool,
    ) -> Value {
        let id = call.id(Self::KIND, &object.name, Some(&version.id));
        let mut json = Map::new();
        json.insert("key".to_owned(), version.content.jwk(quirks, id));
        json.insert("attributes".to_owned(), version.attributes.json());
        if version.managed {
            json.insert("managed".to_owned(), true.into());
        }
        add_tags(&mut json, &version.tags);
        Value::Object(json)
    }

    fn item(id: String, version: &Version<Self>) -> Value {
        let mut json = Map::new();
        json.insert("kid".to_owned(), id.into());
        json.insert("attributes".to_owned(), version.attributes.json());
        if version.managed {
            json.insert("managed".to_owned(), true.into());
        }
        add_tags(&mut json, &version.tags);
        Value::Object(json)
    }
}

fn operations(body: &Value) -> Result<Option<Vec<String>>, ApiError> {
    if body["key_ops"].is_null() {
        return Ok(None);
    }
    let invalid = || ApiError::bad_parameter("Property key_ops has invalid value");
    let operations: Vec<String> = serde_json::from_value(body["key_ops"].clone()).map_err(|_| invalid())?;
    if operations.iter().all(|name| OPERATIONS.contains(&name.as_str())) {
        Ok(Some(operations))
    } else {
        Err(invalid())
    }
}

/// Makes key material by the properties `kty`, `key_size` and `crv`.
pub(super) fn generate(properties: &Value) -> Result<(Material, bool), ApiError> {
    let kind = properties["kty"]
        .as_str()
        .ok_or_else(|| ApiError::bad_parameter("Property kty has invalid value"))?;
    let hsm = kind.ends_with("-HSM");
    let size = |allowed: &[u64], usual: u64| {
        let size = match &properties["key_size"] {
            Value::Null => usual,
            value => value.as_u64().unwrap_or_default(),
        };
        if allowed.contains(&size) {
            Ok(usize::try_from(size).unwrap_or_default())
        } else {
            Err(ApiError::bad_parameter(format!(
                "Property key_size has invalid value: {}",
                properties["key_size"]
            )))
        }
    };
    let material = match kind.trim_end_matches("-HSM") {
        "RSA" => Material::generate_rsa(size(&RSA_SIZES, 2048)?)?,
        "EC" => {
            let name = properties["crv"].as_str().unwrap_or("P-256");
            let curve = Curve::parse(name)
                .ok_or_else(|| ApiError::bad_parameter(format!("Property crv has invalid value: {name}")))?;
            Material::generate_ec(curve)
        }
        "oct" => Material::generate_symmetric(size(&SYMMETRIC_SIZES, 256)?),
        _ => return Err(ApiError::bad_parameter(format!("Property kty has invalid value: {kind}"))),
    };
    Ok((material, hsm))
}

/// `POST /keys/{name}/create`
pub(super) fn create(call: &Call<'_>, name: &str, body: &Value) -> Result<Value, ApiError> {
    let operations = operations(body)?;
    let (material, hsm) = generate(body)?;
    add(call, name, body, Key::new(material, hsm, operations))
}

/// `PUT /keys/{name}`
pub(super) fn import(call: &Call<'_>, name: &str, body: &Value) -> Result<Value, ApiError> {
    let jwk = &body["key"];
    let material = Material::from_jwk(jwk)?;
    let kind = jwk["kty"].as_str().unwrap_or_default();
    let hsm = kind.ends_with("-HSM") || body["Hsm"] == true || body["hsm"] == true;
    add(call, name, body, Key::new(material, hsm, operations(jwk)?))
}

fn add(call: &Call<'_>, name: &str, body: &Value, key: Key) -> Result<Value, ApiError> {
    let version = Version {
        id: version_id(),
        attributes: Attributes::new(&body["attributes"], call.now())?,
        tags: tags(body)?.unwrap_or_default(),
        managed: false,
        content: key,
    };
    call.vault(|vault| {
        vault.keys.check_free(name)?;
        if vault.keys.is_managed(name) == Some(true) {
            return Err(ApiError::managed(Key::KIND, name));
        }
        let quirks = vault.quirks;
        let object = vault.keys.push(name, version);
        let version = object.current().ok_or_else(|| ApiError::not_found(Key::KIND, name))?;
        Ok(Key::bundle(call, quirks, object, version, true))
    })
}

/// `PATCH /keys/{name}/{version}`
pub(super) fn update(
    call: &Call<'_>,
    name: &str,
    version: Option<&str>,
    body: &Value,
) -> Result<Value, ApiError> {
    let operations = operations(body)?;
    super::store::update::<Key>(call, name, version, body, |version| {
        if let Some(operations) = operations {
            version.content.operations = operations;
        }
        Ok(())
    })
}
