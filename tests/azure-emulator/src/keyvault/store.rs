//! What vaults hold: objects, their versions, and what was deleted of them.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use rand::RngExt;
use serde_json::{Map, Value, json};

use super::{
    access::{AccessModel, Network, ObjectKind, Permissions},
    api::Call,
    certificates::Certificate,
    errors::ApiError,
    keys::{JwkQuirks, Key},
    secrets::Secret,
};

/// How long deleted objects can be recovered, in days.
const RETENTION_DAYS: i64 = 90;
const DAY: i64 = 24 * 60 * 60;
const MAX_TAGS: usize = 15;
const MAX_TAG: usize = 512;

/// All vaults, in the order they were made.
#[derive(Debug, Default)]
pub(crate) struct Vaults {
    inner: Mutex<Vec<VaultState>>,
}

#[derive(Debug)]
pub(crate) struct VaultState {
    pub(super) name: String,
    pub(super) tenant: String,
    pub(super) access_model: AccessModel,
    pub(super) network: Network,
    pub(super) grants: BTreeMap<String, Permissions>,
    pub(super) quirks: JwkQuirks,
    pub(super) secrets: Collection<Secret>,
    pub(super) keys: Collection<Key>,
    pub(super) certificates: Collection<Certificate>,
}

impl Vaults {
    pub(crate) fn create(&self, name: &str, tenant: &str) {
        let mut vaults = self.inner.lock();
        if !vaults.iter().any(|vault| vault.name.eq_ignore_ascii_case(name)) {
            vaults.push(VaultState {
                name: name.to_owned(),
                tenant: tenant.to_owned(),
                access_model: AccessModel::default(),
                network: Network::default(),
                grants: BTreeMap::new(),
                quirks: JwkQuirks::default(),
                secrets: Collection::default(),
                keys: Collection::default(),
                certificates: Collection::default(),
            });
        }
    }

    pub(crate) fn edit<T>(&self, name: &str, change: impl FnOnce(&mut VaultState) -> T) -> Option<T> {
        self.inner.lock().iter_mut().find(|vault| vault.name.eq_ignore_ascii_case(name)).map(change)
    }

    pub(crate) fn remove(&self, name: &str) {
        self.inner.lock().retain(|vault| !vault.name.eq_ignore_ascii_case(name));
    }

    pub(crate) fn first(&self) -> Option<String> {
        self.inner.lock().first().map(|vault| vault.name.clone())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.inner.lock().iter().map(|vault| vault.name.clone()).collect()
    }
}

/// What one collection stores and how it shows it.
pub(super) trait Content: Clone + std::fmt::Debug {
    const KIND: ObjectKind;
    /// What belongs to the object rather than to a version.
    type Extra: Clone + Default + std::fmt::Debug;

    fn collection(vault: &mut VaultState) -> &mut Collection<Self>;

    /// One version in full. `whole` is false where the service leaves the content out: after a deletion.
    fn bundle(
        call: &Call<'_>,
        quirks: JwkQuirks,
        object: &Object<Self>,
        version: &Version<Self>,
        whole: bool,
    ) -> Value;

    /// One version in a list, under the given id.
    fn item(id: String, version: &Version<Self>) -> Value;
}

#[derive(Debug)]
pub(super) struct Collection<T: Content> {
    pub live: BTreeMap<String, Object<T>>,
    deleted: BTreeMap<String, Deleted<T>>,
}

impl<T: Content> Default for Collection<T> {
    fn default() -> Self {
        Self { live: BTreeMap::new(), deleted: BTreeMap::new() }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Object<T: Content> {
    /// As first written; names are compared without regard to case.
    pub name: String,
    /// Oldest first.
    pub versions: Vec<Version<T>>,
    pub extra: T::Extra,
}

#[derive(Debug, Clone)]
pub(super) struct Version<T> {
    pub id: String,
    pub attributes: Attributes,
    pub tags: BTreeMap<String, String>,
    /// Whether a certificate owns the object.
    pub managed: bool,
    pub content: T,
}

#[derive(Debug, Clone)]
struct Deleted<T: Content> {
    object: Object<T>,
    at: i64,
}

/// Attributes every version has. Times are seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub enabled: bool,
    pub not_before: Option<i64>,
    pub expires: Option<i64>,
    pub created: i64,
    pub updated: i64,
}

impl Attributes {
    /// New attributes from a request's `attributes`.
    pub(super) fn new(body: &Value, now: i64) -> Result<Self, ApiError> {
        let mut attributes =
            Self { enabled: true, not_before: None, expires: None, created: now, updated: now };
        attributes.update(body, now)?;
        Ok(attributes)
    }

    pub(super) fn update(&mut self, body: &Value, now: i64) -> Result<(), ApiError> {
        let invalid =
            |name: &str| ApiError::bad_parameter(format!("Property attributes.{name} has invalid value"));
        let time = |name: &str, current: Option<i64>| match &body[name] {
            Value::Null => Ok(current),
            value => value.as_i64().map(Some).ok_or_else(|| invalid(name)),
        };
        match &body["enabled"] {
            Value::Null => {}
            value => self.enabled = value.as_bool().ok_or_else(|| invalid("enabled"))?,
        }
        self.not_before = time("nbf", self.not_before)?;
        self.expires = time("exp", self.expires)?;
        self.updated = now;
        Ok(())
    }

    pub(super) fn json(&self) -> Value {
        let mut json = json!({
            "enabled": self.enabled,
            "created": self.created,
            "updated": self.updated,
            "recoveryLevel": "Recoverable+Purgeable",
            "recoverableDays": RETENTION_DAYS,
        });
        if let Some(not_before) = self.not_before {
            json["nbf"] = not_before.into();
        }
        if let Some(expires) = self.expires {
            json["exp"] = expires.into();
        }
        json
    }
}

/// Tags of a request's body: none if it names none.
pub(super) fn tags(body: &Value) -> Result<Option<BTreeMap<String, String>>, ApiError> {
    if body["tags"].is_null() {
        return Ok(None);
    }
    let tags: BTreeMap<String, String> = serde_json::from_value(body["tags"].clone())
        .map_err(|_| ApiError::bad_parameter("Property tags has invalid value"))?;
    let fits = tags.len() <= MAX_TAGS
        && tags.iter().all(|(key, value)| key.len() <= MAX_TAG && value.len() <= MAX_TAG);
    if fits {
        Ok(Some(tags))
    } else {
        Err(ApiError::bad_parameter(
            "Property tags has invalid value: at most 15 tags of 512 characters each",
        ))
    }
}

/// 32 random hexadecimal digits.
pub(super) fn version_id() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

impl<T: Content> Object<T> {
    pub(super) fn current(&self) -> Option<&Version<T>> {
        self.versions.last()
    }
}

impl<T: Content> Collection<T> {
    pub(super) fn object(&self, name: &str) -> Result<&Object<T>, ApiError> {
        self.live.get(&name.to_lowercase()).ok_or_else(|| ApiError::not_found(T::KIND, name))
    }

    /// One version, the newest when none is named.
    pub(super) fn version(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<(&Object<T>, &Version<T>), ApiError> {
        let object = self.object(name)?;
        let found = match version {
            None => object.current(),
            Some(id) => object.versions.iter().find(|version| version.id.eq_ignore_ascii_case(id)),
        };
        let id = || version.map_or_else(|| name.to_owned(), |version| format!("{name}/{version}"));
        found.map(|version| (object, version)).ok_or_else(|| ApiError::not_found(T::KIND, &id()))
    }

    /// Refuses a name that cannot be written now.
    pub(super) fn check_free(&self, name: &str) -> Result<(), ApiError> {
        if self.deleted.contains_key(&name.to_lowercase()) {
            return Err(ApiError::deleted_but_recoverable(T::KIND, name));
        }
        Ok(())
    }

    pub(super) fn is_managed(&self, name: &str) -> Option<bool> {
        self.live.get(&name.to_lowercase()).and_then(Object::current).map(|version| version.managed)
    }

    /// Adds the newest version and returns the object.
    pub(super) fn push(&mut self, name: &str, version: Version<T>) -> &mut Object<T> {
        let object = self.live.entry(name.to_lowercase()).or_insert_with(|| Object {
            name: name.to_owned(),
            versions: Vec::new(),
            extra: T::Extra::default(),
        });
        object.versions.push(version);
        object
    }

    pub(super) fn delete(&mut self, name: &str, now: i64) -> Option<()> {
        let key = name.to_lowercase();
        let object = self.live.remove(&key)?;
        self.deleted.insert(key, Deleted { object, at: now });
        Some(())
    }

    pub(super) fn recover(&mut self, name: &str) -> Option<()> {
        let key = name.to_lowercase();
        let deleted = self.deleted.remove(&key)?;
        self.live.insert(key, deleted.object);
        Some(())
    }

    pub(super) fn purge(&mut self, name: &str) -> Option<()> {
        self.deleted.remove(&name.to_lowercase()).map(drop)
    }

    /// Forgets what can no longer be recovered.
    fn expire(&mut self, now: i64) {
        self.deleted.retain(|_, deleted| deleted.at + RETENTION_DAYS * DAY > now);
    }
}

/// `GET /{kind}/{name}[/{version}]`
pub(super) fn get<T: Content>(call: &Call<'_>, name: &str, version: Option<&str>) -> Result<Value, ApiError> {
    call.vault(|vault| {
        let quirks = vault.quirks;
        let (object, version) = T::collection(vault).version(name, version)?;
        if !version.attributes.enabled {
            return Err(ApiError::disabled(T::KIND));
        }
        Ok(T::bundle(call, quirks, object, version, true))
    })
}

/// `GET /{kind}`
pub(super) fn list<T: Content>(call: &Call<'_>) -> Result<Value, ApiError> {
    let items = call.vault(|vault| {
        let item = |(key, object): (&String, &Object<T>)| {
            object
                .current()
                .map(|version| (key.clone(), T::item(call.id(T::KIND, &object.name, None), version)))
        };
        Ok(T::collection(vault).live.iter().filter_map(item).collect())
    })?;
    super::paging::page(call, items)
}

/// `GET /{kind}/{name}/versions`: sorted by version, that is in no order of time.
pub(super) fn versions<T: Content>(call: &Call<'_>, name: &str) -> Result<Value, ApiError> {
    let items = call.vault(|vault| {
        // The service answers an unknown name with an empty list.
        let Ok(object) = T::collection(vault).object(name) else { return Ok(Vec::new()) };
        let item = |version: &Version<T>| {
            (version.id.clone(), T::item(call.id(T::KIND, &object.name, Some(&version.id)), version))
        };
        Ok(object.versions.iter().map(item).collect())
    })?;
    super::paging::page(call, items)
}

/// `PATCH /{kind}/{name}/{version}`; returns the bundle without the secret's value, as the service does.
pub(super) fn update<T: Content>(
    call: &Call<'_>,
    name: &str,
    version: Option<&str>,
    body: &Value,
    change: impl FnOnce(&mut Version<T>) -> Result<(), ApiError>,
) -> Result<Value, ApiError> {
    let now = call.now();
    let new_tags = tags(body)?;
    call.vault(|vault| {
        let quirks = vault.quirks;
        let collection = T::collection(vault);
        let id = collection.version(name, version)?.1.id.clone();
        let object = collection.live.get_mut(&name.to_lowercase());
        let target = object.and_then(|object| object.versions.iter_mut().find(|version| version.id == id));
        if let Some(version) = target {
            version.attributes.update(&body["attributes"], now)?;
            if let Some(tags) = &new_tags {
                version.tags.clone_from(tags);
            }
            change(version)?;
        }
        let (object, version) = collection.version(name, Some(&id))?;
        Ok(T::bundle(call, quirks, object, version, false))
    })
}

/// What a deleted object shows on top of its bundle.
fn deletion<T: Content>(call: &Call<'_>, deleted: &Deleted<T>, mut shown: Value) -> Value {
    let fields = json!({
        "recoveryId": format!("{}/deleted{}/{}", call.base(), T::KIND.collection(), deleted.object.name),
        "deletedDate": deleted.at,
        "scheduledPurgeDate": deleted.at + RETENTION_DAYS * DAY,
    });
    if let (Value::Object(shown), Value::Object(fields)) = (&mut shown, fields) {
        shown.extend(fields);
    }
    shown
}

/// `GET /deleted{kind}/{name}`, also the answer to a deletion.
pub(super) fn get_deleted<T: Content>(call: &Call<'_>, name: &str) -> Result<Value, ApiError> {
    let now = call.now();
    call.vault(|vault| {
        let quirks = vault.quirks;
        let collection = T::collection(vault);
        collection.expire(now);
        let deleted = collection
            .deleted
            .get(&name.to_lowercase())
            .ok_or_else(|| ApiError::deleted_not_found(T::KIND, name))?;
        let current = deleted.object.current().ok_or_else(|| ApiError::deleted_not_found(T::KIND, name))?;
        Ok(deletion(call, deleted, T::bundle(call, quirks, &deleted.object, current, false)))
    })
}

/// `GET /deleted{kind}`
pub(super) fn list_deleted<T: Content>(call: &Call<'_>) -> Result<Value, ApiError> {
    let now = call.now();
    let items = call.vault(|vault| {
        let collection = T::collection(vault);
        collection.expire(now);
        let item = |(key, deleted): (&String, &Deleted<T>)| {
            let id = call.id(T::KIND, &deleted.object.name, None);
            let current = deleted.object.current()?;
            Some((key.clone(), deletion(call, deleted, T::item(id, current))))
        };
        Ok(collection.deleted.iter().filter_map(item).collect())
    })?;
    super::paging::page(call, items)
}

/// Tags where there are any.
pub(super) fn add_tags(json: &mut Map<String, Value>, tags: &BTreeMap<String, String>) {
    if !tags.is_empty() {
        json.insert("tags".to_owned(), json!(tags));
    }
}
