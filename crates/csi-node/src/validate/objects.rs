//! The objects of a class: what is read and means something else than it seems to.

use super::finding::{Finding, Rule};
use super::manifest::Manifest;
use super::spelling;
use super::view::View;
use crate::volume::Payload;
use std::collections::HashMap;
use vault::{ObjectKind, ObjectRequest, SecretEncoding, Versions};
use zeroize::Zeroizing;

/// Of longer histories only the first files are made for the comparison of paths.
const MOST_FILES: u32 = 4;

/// The files that may come of an object. Of a history the first few.
pub fn files_of(object: &ObjectRequest) -> Vec<String> {
    match object.versions {
        Versions::History { most, .. } => (0..most.min(MOST_FILES))
            .map(|index| format!("{}/{index}", object.path.trim_end_matches('/')))
            .collect(),
        _ => vec![object.path.clone()],
    }
}

/// Looks at the objects of a class, which the driver has read without a fault.
pub fn check(class: &Manifest, objects: &[ObjectRequest], findings: &mut Vec<Finding>) {
    let mut paths: HashMap<&str, usize> = HashMap::new();
    for (index, object) in objects.iter().enumerate() {
        let path = format!("spec.parameters.objects.array[{index}]");
        let Some(item) = class.root.spot(&path).found.and_then(|item| item.open(false)) else { continue };
        one(class, &path, &item, object, findings);
        if let Some(first) = paths.insert(&object.path, index) {
            let field =
                if item.text_of("objectAlias").trim().is_empty() { "objectName" } else { "objectAlias" };
            let problem =
                format!("item {first} of the list writes the file {:?}, too: the last one wins", object.path);
            let cure = "give each object an objectAlias of its own";
            findings.push(class.finding(Rule::SamePath, &format!("{path}.{field}"), problem, cure));
        }
    }
    let files =
        objects.iter().flat_map(files_of).map(|file| (file, 0o644, Zeroizing::new(Vec::new()))).collect();
    if let Err(error) = Payload::new(files) {
        let cure = "give one of them another objectAlias";
        findings.push(class.finding(Rule::FileConflict, "spec.parameters.objects", error.to_string(), cure));
    }
}

fn one(class: &Manifest, path: &str, item: &View, object: &ObjectRequest, findings: &mut Vec<Finding>) {
    let text = |field: &str| item.text_of(field).trim().to_owned();
    let mut found = |rule: Rule, field: &str, problem: String, cure: &str| {
        findings.push(class.finding(rule, &format!("{path}.{field}"), problem, cure));
    };
    let names = || vault::OBJECT_FIELDS.iter().map(|field| field.name);
    for (key, _) in item.entries() {
        let Some(name) = key.text().filter(|name| !names().any(|known| known == *name)) else { continue };
        let cure = match spelling::nearest(name, names()) {
            Some(field) => format!("write {field}: letter case matters"),
            None => format!("fields are {}", names().collect::<Vec<_>>().join(", ")),
        };
        found(Rule::UnreadObjectField, name, format!("an object has no field {name}: it is not read"), &cure);
    }

    let name_fits = (1..=127).contains(&object.name.len())
        && object.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !name_fits {
        let problem = format!(
            "{:?} is no name of an object in Key Vault, which are letters, digits and hyphens",
            object.name
        );
        found(
            Rule::OddObjectName,
            "objectName",
            problem,
            "write the name as `az keyvault secret list` shows it",
        );
    }
    let history = text("objectVersionHistory");
    match &object.versions {
        Versions::Pinned(version) if version == "latest" => {
            let problem = "Key Vault is asked for a version that is called latest, and has none".to_owned();
            found(
                Rule::VersionLatest,
                "objectVersion",
                problem,
                "leave objectVersion out: the current version is the default",
            );
        }
        Versions::Pinned(version) | Versions::History { start: Some(version), .. }
            if version.len() != 32 || !version.bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            let problem = format!("{version:?} does not look like a version, which is 32 hexadecimal digits");
            let cure =
                "take the last part of the id that `az keyvault secret list-versions` shows, or leave it out";
            found(Rule::OddVersion, "objectVersion", problem, cure);
        }
        _ => {}
    }
    match &object.versions {
        Versions::History { most, .. } => {
            let last = most.saturating_sub(1);
            let problem = format!(
                "up to {most} versions are mounted, as {0}/0 to {0}/{last}: one more than the number says",
                object.path
            );
            found(Rule::HistoryPlusOne, "objectVersionHistory", problem, "");
        }
        _ if !history.is_empty() && !history.bytes().all(|b| b == b'0') => {
            let problem = format!(
                "objectVersionHistory {history} is the same as none: one file, not a folder of versions"
            );
            found(Rule::OddHistory, "objectVersionHistory", problem, "write 2 or more, or leave it out");
        }
        _ => {}
    }

    let pfx = text("objectFormat").eq_ignore_ascii_case("pfx");
    match object.kind {
        ObjectKind::Secret { encoding, .. } => {
            if pfx && encoding != SecretEncoding::Base64 {
                let problem =
                    "the file holds the PFX as one line of base64, as the vault gives it".to_owned();
                found(
                    Rule::PfxText,
                    "objectFormat",
                    problem,
                    "add objectEncoding: base64 for the PFX itself",
                );
            }
        }
        ObjectKind::Key | ObjectKind::Certificate if pfx => {
            let problem = format!("objectFormat is not used for objectType {}", object.kind.as_str());
            found(
                Rule::IgnoredFormat,
                "objectFormat",
                problem,
                "use objectType secret to mount key and certificate",
            );
        }
        ObjectKind::Key | ObjectKind::Certificate => {}
    }
    if let Some(mode) = object.mode {
        let written = text("filePermission");
        let digits = written.trim_start_matches('+').trim_start_matches('0');
        let kept = format!("{:o}", mode.bits());
        if digits != kept && !(digits.is_empty() && mode.bits() == 0) {
            let problem = format!(
                "filePermission {written} becomes {mode}: only the nine permission bits are taken as written"
            );
            found(Rule::OddMode, "filePermission", problem, "write it like 0644");
        } else if mode.bits() & 0o444 == 0 {
            let problem = format!("with filePermission {written} nobody but root can read the file");
            found(
                Rule::OddMode,
                "filePermission",
                problem,
                "write it like 0644, or 0400 for the owner alone",
            );
        }
    }
}
