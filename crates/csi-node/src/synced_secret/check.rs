//! What can be said of `secretObjects` before any file is there.

use super::error::{SecretError, SecretFault};
use crate::class::SecretObject;
use std::collections::BTreeSet;

/// The type whose files are taken apart.
pub(super) const TLS: &str = "kubernetes.io/tls";

/// The keys that a Secret of type `kubernetes.io/tls` can have.
const TLS_KEYS: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

const LONGEST_NAME: usize = 253;
/// All annotations of an object together.
const ANNOTATIONS_SIZE: usize = 256 * 1024;

/// Everything that is wrong with a class's `secretObjects`. With `files`, the paths the volume will have, names that match
/// none of them are wrong, too.
pub fn check(objects: &[SecretObject], files: Option<&BTreeSet<&str>>) -> Vec<SecretError> {
    let mut errors = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        let mut found = same_name(objects, index).into_iter().collect::<Vec<_>>();
        found.extend(faults(object));
        found.extend(same_keys(object));
        if let Some(files) = files {
            let names = object.data.iter().map(|data| data.object_name.trim());
            let missing = names.filter(|name| !name.is_empty() && !files.contains(name));
            found.extend(missing.map(|name| no_file(name, files.iter().copied())));
        }
        let secret = object.secret_name.trim();
        errors.extend(found.into_iter().map(|fault| SecretError { index, secret: secret.to_owned(), fault }));
    }
    errors
}

/// A later entry for the same Secret, which counts.
pub(super) fn same_name(objects: &[SecretObject], index: usize) -> Option<SecretFault> {
    let name = objects.get(index)?.secret_name.trim();
    let other = objects.iter().rposition(|object| object.secret_name.trim() == name)?;
    (other > index && !name.is_empty()).then(|| SecretFault::SameName { name: name.to_owned(), other })
}

pub(super) fn no_file<'a>(name: &str, files: impl Iterator<Item = &'a str>) -> SecretFault {
    let files = files.collect::<Vec<_>>().join(", ");
    let files = if files.is_empty() { "no files".to_owned() } else { files };
    SecretFault::NoFile { name: name.to_owned(), files }
}

/// What is wrong with one entry, in the order of the reference's checks, then what the API server would refuse.
pub(super) fn faults(object: &SecretObject) -> Vec<SecretFault> {
    let mut faults = Vec::new();
    let (name, kind) = (object.secret_name.trim(), object.kind.trim());
    if name.is_empty() {
        faults.push(SecretFault::NoName);
    } else if !is_subdomain(name) {
        faults.push(SecretFault::Name { name: name.to_owned() });
    }
    if kind.is_empty() {
        faults.push(SecretFault::NoType);
    }
    if object.data.is_empty() {
        faults.push(SecretFault::NoData);
    }
    for (entry, data) in object.data.iter().enumerate() {
        let key = data.key.trim();
        if data.object_name.trim().is_empty() {
            faults.push(SecretFault::NoObjectName { entry });
        }
        if key.is_empty() {
            faults.push(SecretFault::NoKey { entry });
        } else if kind == TLS && !TLS_KEYS.contains(&key) {
            faults.push(SecretFault::TlsKey { key: key.to_owned() });
        } else if !is_data_key(key) {
            faults.push(SecretFault::Key { entry, key: key.to_owned() });
        }
    }
    faults.extend(incomplete(object, kind));
    faults.extend(metadata(object));
    faults
}

/// The last of two entries with one key counts, as it always has; but nobody means that.
fn same_keys(object: &SecretObject) -> impl Iterator<Item = SecretFault> {
    object.data.iter().enumerate().filter_map(|(entry, data)| {
        let key = data.key.trim();
        let other = object.data.iter().rposition(|data| data.key.trim() == key)?;
        (other > entry && !key.is_empty()).then(|| SecretFault::SameKey { entry, other, key: key.to_owned() })
    })
}

/// The keys that the API server insists on (`ValidateSecret`).
fn incomplete(object: &SecretObject, kind: &str) -> Vec<SecretFault> {
    let has = |wanted: &&str| object.data.iter().any(|data| data.key.trim() == *wanted);
    let (needed, any_of): (&[&'static str], _) = match kind {
        _ if object.data.is_empty() => return Vec::new(),
        TLS => (&["tls.crt", "tls.key"], None),
        "kubernetes.io/dockerconfigjson" => (&[".dockerconfigjson"], None),
        "kubernetes.io/dockercfg" => (&[".dockercfg"], None),
        "kubernetes.io/ssh-auth" => (&["ssh-privatekey"], None),
        "kubernetes.io/basic-auth" => (&["username", "password"], Some("username or password")),
        _ => return Vec::new(),
    };
    let fault = |needed| SecretFault::Incomplete { kind: kind.to_owned(), needed };
    match any_of {
        Some(either) => (!needed.iter().any(has)).then(|| fault(either)).into_iter().collect(),
        None => needed.iter().filter(|key| !has(key)).map(|key| fault(key)).collect(),
    }
}

fn metadata(object: &SecretObject) -> Vec<SecretFault> {
    let fault = |field, text: &str, cure| SecretFault::Metadata { field, text: text.to_owned(), cure };
    let key_cure = "a key is at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends; before it may stand a \
        DNS name and '/'";
    let mut faults = Vec::new();
    for (key, value) in &object.labels {
        if !is_qualified(key) {
            faults.push(fault("labels", key, key_cure));
        }
        if !(value.is_empty() || is_label(value)) {
            let cure = "a value is at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends";
            faults.push(fault("labels", value, cure));
        }
    }
    let keys = object.annotations.keys();
    faults.extend(
        keys.filter(|key| !is_qualified(&key.to_lowercase())).map(|key| fault("annotations", key, key_cure)),
    );
    let size: usize = object.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > ANNOTATIONS_SIZE {
        faults.push(fault(
            "annotations",
            &format!("{size} bytes"),
            "all of them together have at most 262144 bytes",
        ));
    }
    faults
}

/// A DNS subdomain of RFC 1123, which objects are named by.
fn is_subdomain(name: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= LONGEST_NAME
        && name.split('.').map(str::as_bytes).all(|part| {
            part.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
                && part.first().is_some_and(alphanumeric)
                && part.last().is_some_and(alphanumeric)
        })
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label(name),
        None => is_label(key),
    }
}

fn is_data_key(key: &str) -> bool {
    key.len() <= LONGEST_NAME
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && key != "."
        && !key.starts_with("..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::SecretObjectData;

    fn object(name: &str, kind: &str, data: &[(&str, &str)]) -> SecretObject {
        let data = data
            .iter()
            .map(|(file, key)| SecretObjectData { object_name: (*file).into(), key: (*key).into() })
            .collect();
        SecretObject { secret_name: name.into(), kind: kind.into(), data, ..SecretObject::default() }
    }

    fn told(objects: &[SecretObject]) -> Vec<String> {
        check(objects, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_right_is_silent() {
        let mut plain = object(" foosecret ", " Opaque ", &[(" a ", " k "), ("dir/b", "K_.-2")]);
        plain.labels = [("environment".into(), "test".into()), ("a.b/c".into(), String::new())].into();
        plain.annotations = [("Example.com/x".into(), "any thing".into())].into();
        let tls = object("t", "kubernetes.io/tls", &[("c", "tls.crt"), ("c", "tls.key"), ("c", "ca.crt")]);
        let basic = object("b", "kubernetes.io/basic-auth", &[("p", "password")]);
        let own = object("x.y-z", "example.com/anything", &[("p", "q")]);
        assert_eq!(told(&[plain, tls, basic, own]), Vec::<String>::new());
    }

    #[test]
    fn each_mistake_is_told_with_the_references_phrase_the_value_and_the_cure() {
        let mut labelled = object("l", "Opaque", &[("a", "k")]);
        labelled.labels = [("-x".into(), "no good!".into())].into();
        labelled.annotations = [("a/b/c".into(), String::new())].into();
        for (wrong, phrases) in [
            (
                object(" ", "Opaque", &[("a", "k")]),
                &["secretObjects[0]: secret name is empty: set secretName"][..],
            ),
            (object("s", "", &[("a", "k")]), &["(Secret s): secret type is empty: set type"]),
            (object("s", "Opaque", &[]), &["data is empty: list the files"]),
            (object("S_x", "Opaque", &[("a", "k")]), &["secretName \"S_x\" is no name of a Secret"]),
            (object(&"a".repeat(254), "Opaque", &[("a", "k")]), &["is no name of a Secret"]),
            (object("s..t", "Opaque", &[("a", "k")]), &["is no name of a Secret"]),
            (
                object("s", "Opaque", &[("", "k"), ("a", " ")]),
                &[
                    "object name in secretObjects.data is empty: set objectName in data[0]",
                    "key in secretObjects.data is empty: set key in data[1]",
                ],
            ),
            (object("s", "Opaque", &[("a", "k/l")]), &["key \"k/l\" in data[0] is not valid"]),
            (object("s", "Opaque", &[("a", "..")]), &["key \"..\" in data[0] is not valid"]),
            (
                object("s", "Opaque", &[("a", "k"), ("b", "k")]),
                &["key \"k\" in data[0] is also that of data[1], which counts"],
            ),
            (
                object("s", "kubernetes.io/tls", &[("a", "crt")]),
                &[
                    "key 'crt' is not supported. Only 'tls.key' and 'tls.crt' are supported",
                    "needs the key tls.crt",
                    "needs the key tls.key",
                ],
            ),
            (
                object("s", "kubernetes.io/basic-auth", &[("a", "user")]),
                &["a Secret of type kubernetes.io/basic-auth needs the key username or password"],
            ),
            (object("s", "kubernetes.io/ssh-auth", &[("a", "key")]), &["needs the key ssh-privatekey"]),
            (
                labelled,
                &[
                    "labels \"-x\" is not valid",
                    "labels \"no good!\" is not valid",
                    "annotations \"a/b/c\" is not valid",
                ],
            ),
        ] {
            let told = told(std::slice::from_ref(&wrong));
            assert_eq!(told.len(), phrases.len(), "{told:#?}");
            for (told, phrase) in told.iter().zip(phrases) {
                assert!(told.contains(phrase), "{told} lacks {phrase}");
            }
        }
    }

    #[test]
    fn a_name_used_twice_and_files_that_are_not_there_are_told() {
        let objects = [object("s", "Opaque", &[("a", "k")]), object("s ", "Opaque", &[("b", "k")])];
        let files = BTreeSet::from(["a", "c/d"]);
        let told: Vec<_> = check(&objects, Some(&files)).iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2);
        assert!(
            told[0]
                .contains("secretObjects[0] (Secret s): secretName \"s\" is also that of secretObjects[1]"),
            "{told:?}"
        );
        assert!(
            told[1].contains("secretObjects[1] (Secret s): file matching objectName b not found in the pod: the volume has a, c/d;"),
            "{told:?}"
        );
    }
}
