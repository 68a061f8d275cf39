//! `secretObjects`: Kubernetes Secrets that are to be made of mounted files.

use super::finding::{Finding, Rule};
use super::input::Input;
use super::manifest::Manifest;
use super::objects::files_of;
use super::spelling;
use super::view::{View, below};
use crate::class::{SecretObject, SecretObjectData};
use crate::synced_secret::{self, SecretFault};
use std::collections::BTreeSet;
use vault::{ObjectKind, ObjectRequest, Versions};

const TLS: &str = "kubernetes.io/tls";

/// A Secret that a class makes.
#[derive(Debug)]
pub struct Synced<'a> {
    /// The class.
    pub class: &'a Manifest,
    /// The Secret's name.
    pub name: String,
    /// Its keys.
    pub keys: Vec<String>,
}

/// All Secrets that the classes make.
pub fn synced(input: &Input) -> Vec<Synced<'_>> {
    let mut found = Vec::new();
    for class in &input.classes {
        for object in class.root.spot("spec.secretObjects").found.iter().flat_map(View::items) {
            let data = object.get("data");
            let keys = data.iter().flat_map(View::items).map(|entry| entry.text_of("key").trim().to_owned());
            found.push(Synced {
                class,
                name: object.text_of("secretName").trim().to_owned(),
                keys: keys.collect(),
            });
        }
    }
    found
}

/// Looks at the Secrets of a class: what the driver's own check says, and whether their files fit.
pub fn check(class: &Manifest, spec: &View, objects: &[ObjectRequest], findings: &mut Vec<Finding>) {
    let Some(list) = spec.get("secretObjects") else { return };
    not_strings(class, &list, "spec.secretObjects", findings);
    let secrets: Vec<SecretObject> = match serde_json::from_value(list.to_json()) {
        Ok(secrets) => secrets,
        Err(error) => {
            let cure = "write a list of secretName, type and data, whose entries have objectName and key";
            findings.push(class.finding(Rule::BadClass, "spec.secretObjects", error.to_string(), cure));
            return;
        }
    };
    // With flags and version histories a volume can have more files than a class tells.
    let named = secrets.iter().flat_map(|secret| &secret.data).map(|entry| entry.object_name.trim());
    let told: Vec<String> = objects.iter().flat_map(files_of).collect();
    let mut files: BTreeSet<&str> = told.iter().map(String::as_str).collect();
    files.extend(named.filter(|name| objects.iter().any(|object| makes(object, name))));
    // Without a list of objects there is a fault elsewhere, and all files would be missing.
    let known = (!objects.is_empty()).then_some(&files);

    for error in synced_secret::check(&secrets, known) {
        let secret = secrets.get(error.index).cloned().unwrap_or_default();
        let (rule, field) = place(&error.fault, &secret);
        let cure = match &error.fault {
            SecretFault::NoFile { name, .. } => {
                meant(name, objects).map(|file| format!("write {file}")).unwrap_or_default()
            }
            _ => String::new(),
        };
        let path = format!("spec.secretObjects[{}]{field}", error.index);
        findings.push(class.finding(rule, &path, error.fault.to_string(), cure));
    }
    for (index, secret) in secrets.iter().enumerate().filter(|(_, secret)| secret.kind.trim() == TLS) {
        for (number, entry) in secret.data.iter().enumerate() {
            let object = objects.iter().find(|object| makes(object, entry.object_name.trim()));
            if let Some((problem, cure)) = object.and_then(|object| tls_trap(object, entry.key.trim())) {
                let path = format!("spec.secretObjects[{index}].data[{number}].objectName");
                findings.push(class.finding(Rule::SyncedTls, &path, problem, cure));
            }
        }
    }
}

/// The file that somebody meant who wrote an object's name in the place of its alias, or mistyped.
fn meant(name: &str, objects: &[ObjectRequest]) -> Option<String> {
    let of_object = objects.iter().find(|object| object.name == name).map(files_of);
    let files: Vec<String> = objects.iter().flat_map(files_of).collect();
    let near = || spelling::nearest(name, files.iter().map(String::as_str)).map(str::to_owned);
    of_object.and_then(|files| files.into_iter().next()).or_else(near)
}

/// Where a fault stands in its entry.
fn place(fault: &SecretFault, secret: &SecretObject) -> (Rule, String) {
    let entry =
        |fits: &dyn Fn(&SecretObjectData) -> bool| secret.data.iter().position(fits).unwrap_or_default();
    let field = match fault {
        SecretFault::NoName | SecretFault::Name { .. } | SecretFault::SameName { .. } => {
            ".secretName".to_owned()
        }
        SecretFault::NoType => ".type".to_owned(),
        SecretFault::NoData | SecretFault::Incomplete { .. } => ".data".to_owned(),
        SecretFault::Metadata { field, .. } => format!(".{field}"),
        SecretFault::NoObjectName { entry } => format!(".data[{entry}].objectName"),
        SecretFault::NoKey { entry }
        | SecretFault::Key { entry, .. }
        | SecretFault::SameKey { entry, .. } => {
            format!(".data[{entry}].key")
        }
        SecretFault::TlsKey { key } => format!(".data[{}].key", entry(&|data| data.key.trim() == key)),
        SecretFault::NoFile { name, .. } => {
            let number = entry(&|data| data.object_name.trim() == name);
            return (Rule::SyncedFile, format!(".data[{number}].objectName"));
        }
        _ => String::new(),
    };
    (Rule::SyncedSecret, field)
}

/// Numbers and bools where the API server takes strings only.
fn not_strings(class: &Manifest, view: &View, path: &str, findings: &mut Vec<Finding>) {
    if let (Some(kind), Some(text)) = (view.other_than_string(), view.text()) {
        let problem = format!("this is a {kind}, and has to be a string: the API server refuses the class");
        findings.push(class.finding(Rule::NotString, path, problem, format!("quote it: \"{text}\"")));
    }
    for (key, value) in view.entries() {
        if let Some(key) = key.text() {
            not_strings(class, &value, &below(path, key), findings);
        }
    }
    for (index, item) in view.items().enumerate() {
        not_strings(class, &item, &format!("{path}[{index}]"), findings);
    }
}

/// Whether an object makes a file of this name, with whatever flags the driver runs.
fn makes(object: &ObjectRequest, file: &str) -> bool {
    let of_path = |file: &str| match &object.versions {
        Versions::History { most, .. } => file
            .strip_prefix(object.path.trim_end_matches('/'))
            .and_then(|rest| rest.strip_prefix('/'))
            .and_then(|index| index.parse::<u32>().ok())
            .is_some_and(|index| index < *most),
        _ => file == object.path,
    };
    let separate = || [".crt", ".key"].iter().filter_map(|end| file.strip_suffix(end)).any(of_path);
    of_path(file) || (matches!(object.kind, ObjectKind::Secret { .. }) && separate())
}

/// Why a file cannot be a part of a TLS secret.
fn tls_trap(object: &ObjectRequest, key: &str) -> Option<(String, &'static str)> {
    match object.kind {
        ObjectKind::Secret { .. } => None,
        ObjectKind::Certificate if key != "tls.key" => None,
        ObjectKind::Certificate | ObjectKind::Key => {
            let kind = object.kind.as_str();
            let problem =
                format!("{key} cannot be taken out of {}: objectType {kind} has no such part", object.path);
            Some((problem, "use objectType secret, which has key and certificate in one file"))
        }
    }
}
