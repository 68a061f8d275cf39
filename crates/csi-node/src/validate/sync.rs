//! `secretObjects`: Kubernetes Secrets that are to be made of mounted files.

use super::finding::{Finding, Rule};
use super::input::Input;
use super::manifest::Manifest;
use super::objects::files_of;
use super::spelling;
use super::view::View;
use vault::{ObjectKind, ObjectRequest, SecretEncoding, SecretFormat, Versions};

const TLS: &str = "kubernetes.io/tls";

/// Keys that the API server demands of Secrets of a type: all of the first, or one of the second.
const REQUIRED: [(&str, &[&str], &[&str]); 5] = [
    (TLS, &["tls.crt", "tls.key"], &[]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"], &[]),
    ("kubernetes.io/dockercfg", &[".dockercfg"], &[]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"], &[]),
    ("kubernetes.io/basic-auth", &[], &["username", "password"]),
];

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

/// Looks at the Secrets of a class.
pub fn check(class: &Manifest, spec: &View, objects: &[ObjectRequest], findings: &mut Vec<Finding>) {
    for (index, secret) in spec.get("secretObjects").iter().flat_map(View::items).enumerate() {
        let path = format!("spec.secretObjects[{index}]");
        let mut found = |rule: Rule, field: &str, problem: String, cure: &str| {
            findings.push(class.finding(rule, &format!("{path}{field}"), problem, cure));
        };
        let (name, kind) = (secret.text_of("secretName").trim(), secret.text_of("type").trim());
        if name.is_empty() {
            found(Rule::SyncedSecret, ".secretName", "secret name is empty".into(), "give the Secret's name");
        } else if !is_object_name(name) {
            let problem = format!("{name:?} is no name of a Secret: the API server refuses it");
            found(Rule::SyncedSecret, ".secretName", problem, "use lower-case letters, digits, `-` and `.`");
        }
        if kind.is_empty() {
            found(
                Rule::SyncedSecret,
                ".type",
                "secret type is empty".into(),
                "write Opaque, or the type that is wanted",
            );
        }
        let data: Vec<View> = secret.get("data").iter().flat_map(View::items).collect();
        if data.is_empty() {
            found(
                Rule::SyncedSecret,
                ".data",
                "data is empty".into(),
                "list objectName and key of each file",
            );
            continue;
        }
        let keys: Vec<&str> = data.iter().map(|entry| entry.text_of("key").trim()).collect();
        if let Some((_, all, any)) = REQUIRED.iter().find(|(of, _, _)| *of == kind) {
            for missing in all.iter().filter(|key| !keys.contains(key)) {
                let problem = format!(
                    "a Secret of type {kind} has to have the key {missing}: the API server refuses it"
                );
                found(Rule::SyncedSecret, ".data", problem, &format!("add an entry with key: {missing}"));
            }
            if !any.is_empty() && !any.iter().any(|key| keys.contains(key)) {
                let problem =
                    format!("a Secret of type {kind} has to have one of the keys {}", any.join(", "));
                found(Rule::SyncedSecret, ".data", problem, "add one of them");
            }
        }
        for (number, (entry, key)) in data.iter().zip(&keys).enumerate() {
            let at = |field: &str| format!(".data[{number}].{field}");
            let object_name = entry.text_of("objectName").trim();
            if key.is_empty() {
                found(
                    Rule::SyncedSecret,
                    &at("key"),
                    "key in secretObjects.data is empty".into(),
                    "give the key in the Secret",
                );
            } else if !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
                let problem = format!("{key:?} is no key of a Secret: the API server refuses it");
                found(Rule::SyncedSecret, &at("key"), problem, "use letters, digits, `-`, `_` and `.`");
            } else if keys.iter().take(number).any(|other| other == key) {
                found(
                    Rule::SyncedSecret,
                    &at("key"),
                    format!("{key} is given twice"),
                    "give each file a key of its own",
                );
            } else if kind == TLS && !matches!(*key, "tls.crt" | "tls.key") {
                let problem =
                    format!("key '{key}' is not supported. Only 'tls.key' and 'tls.crt' are supported");
                found(Rule::SyncedSecret, &at("key"), problem, "use another Secret for it, of type Opaque");
            }
            if object_name.is_empty() {
                found(
                    Rule::SyncedSecret,
                    &at("objectName"),
                    "object name in secretObjects.data".into(),
                    "name a mounted file",
                );
                continue;
            }
            // Without a list of objects there is a fault elsewhere, and all files would be missing.
            if objects.is_empty() {
                continue;
            }
            match objects.iter().find(|object| makes(object, object_name)) {
                None => {
                    let problem = format!(
                        "file matching objectName {object_name} not found in the pod: no object makes it"
                    );
                    let files: Vec<String> = objects.iter().flat_map(files_of).collect();
                    let alias = objects
                        .iter()
                        .find(|object| object.name == object_name)
                        .and_then(|object| files_of(object).into_iter().next());
                    let near = || {
                        spelling::nearest(object_name, files.iter().map(String::as_str)).map(str::to_owned)
                    };
                    let cure = match alias.or_else(near) {
                        Some(file) => format!("write {file}: objectName here is the name of the file"),
                        None => format!("files are {}", files.join(", ")),
                    };
                    found(Rule::SyncedFile, &at("objectName"), problem, &cure);
                }
                Some(object) if kind == TLS => {
                    if let Some((problem, cure)) = tls_trap(object, key) {
                        found(Rule::SyncedTls, &at("objectName"), problem, cure);
                    }
                }
                Some(_) => {}
            }
        }
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
        ObjectKind::Secret { format: SecretFormat::Pfx, encoding } if encoding != SecretEncoding::Base64 => {
            let problem = format!("{key} cannot be taken out of {}: it is a PFX in base64", object.path);
            Some((problem, "leave objectFormat out, so that the file is PEM"))
        }
        ObjectKind::Secret { .. } => None,
        ObjectKind::Certificate if key == "tls.crt" => None,
        ObjectKind::Certificate | ObjectKind::Key => {
            let kind = object.kind.as_str();
            let problem =
                format!("{key} cannot be taken out of {}: objectType {kind} has no such part", object.path);
            Some((problem, "use objectType secret, which has key and certificate in one file"))
        }
    }
}

/// A name by RFC 1123, as objects of Kubernetes have.
fn is_object_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 253
        && name.split('.').all(|label| edge(label.chars().next()) && edge(label.chars().next_back()))
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}
