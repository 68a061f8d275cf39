//! The `objects` parameter: YAML inside YAML, read into typed requests.
//!
//! The outer text holds a list `array` of strings, each of which is YAML of one object. Both layers are read as the
//! Go library `gopkg.in/yaml.v3` reads them into string fields, because that is what existing manifests were written
//! against: see [`yaml`].

mod fields;
mod mode;
mod path;
mod yaml;

pub use fields::{OBJECT_FIELDS, ObjectField};
pub use mode::FileMode;
pub(crate) use path::cleaned;
pub use yaml::{Misfit, YamlError, tree};

use std::fmt;

use crate::{Fault, Faults, fault::shortened};

/// One object to fetch, and the file to make of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRequest {
    /// Which collection of the vault, and what bytes to make of it.
    pub kind: ObjectKind,
    /// The object's name in the vault (`objectName`). Never empty, never `.` or `..`; else as written.
    pub name: String,
    /// The file's path below the mount (`objectAlias`, or the name), relative and free of `..`.
    pub path: String,
    /// Which of its versions.
    pub versions: Versions,
    /// The mode of its files (`filePermission`); `None` for the volume's default.
    pub mode: Option<FileMode>,
}

/// `objectType`, with what is particular to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// `secret`: a value, or the private side of a certificate.
    Secret {
        /// What to make of a certificate's PFX.
        format: SecretFormat,
        /// How the value is decoded on its way to the file.
        encoding: SecretEncoding,
    },
    /// `key`: the public half, as PEM.
    Key,
    /// `cert`: the certificate alone, as PEM.
    Certificate,
}

impl ObjectKind {
    /// The spelling of `objectType`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret { .. } => "secret",
            Self::Key => "key",
            Self::Certificate => "cert",
        }
    }

    /// The collection in the vault's address.
    pub(crate) fn collection(self) -> &'static str {
        match self {
            Self::Secret { .. } => "secrets",
            Self::Key => "keys",
            Self::Certificate => "certificates",
        }
    }
}

/// `objectFormat`, for secrets behind certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SecretFormat {
    /// Convert a PFX to PEM.
    #[default]
    Pem,
    /// Leave a PFX as the vault returns it.
    Pfx,
}

/// `objectEncoding`: how the value in the vault is encoded; the file gets it decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SecretEncoding {
    /// Not at all.
    #[default]
    Utf8,
    /// Standard base64.
    Base64,
    /// Hexadecimal.
    Hex,
}

/// `objectVersion` and `objectVersionHistory`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Versions {
    /// Whatever is current.
    Latest,
    /// The one named.
    Pinned(String),
    /// The newest ones in files `0`, `1`, …
    History {
        /// The version to begin with; `None` for the newest.
        start: Option<String>,
        /// How many at most: one more than `objectVersionHistory` says, as mounts have always had.
        most: u32,
    },
}

impl fmt::Display for ObjectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match &self.versions {
            Versions::Latest => "",
            Versions::Pinned(version) => version,
            Versions::History { start, .. } => start.as_deref().unwrap_or_default(),
        };
        write!(
            f,
            "objectType:{}, objectName:{}, objectVersion:{}",
            self.kind.as_str(),
            shortened(&self.name),
            shortened(version)
        )
    }
}

const FIELD: &str = "parameters.objects";

/// Reads the `objects` parameter.
///
/// An empty list is no mistake here; whether a volume may be empty is the caller's to say.
///
/// # Errors
/// All mistakes of all objects at once, each with its field.
pub fn parse_objects(text: &str) -> Result<Vec<ObjectRequest>, Faults> {
    let text = text.trim();
    if text.is_empty() {
        return Err(
            Fault::new(FIELD, "objects is not set", "list the objects to mount under `array:`").into()
        );
    }
    let items = yaml::string_array(text).map_err(|error| {
        Fault::new(
            FIELD,
            format!("failed to yaml unmarshal objects, error: {error}"),
            "write `array:` and under it one `- |` block of YAML per object",
        )
        .at(error.place())
    })?;
    let mut faults = Vec::new();
    let mut requests = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let field = format!("{FIELD}.array[{index}]");
        match yaml::object(item) {
            Ok(fields) => requests.extend(request(&field, &fields, &mut faults)),
            Err(error) => {
                let problem =
                    format!("unmarshal failed for keyVaultObjects at index {index}, error: {error}");
                let cure = "write one `field: value` per line, each field once";
                faults.push(Fault::new(field, problem, cure).at(error.place()));
            }
        }
    }
    Faults::check(faults)?;
    Ok(requests)
}

/// One object of its fields; `None` when `faults` has grown.
fn request(field: &str, fields: &yaml::Fields, faults: &mut Vec<Fault>) -> Option<ObjectRequest> {
    let [name, alias, kind, version, format, encoding, permission] = [
        &fields.object_name,
        &fields.object_alias,
        &fields.object_type,
        &fields.object_version,
        &fields.object_format,
        &fields.object_encoding,
        &fields.file_permission,
    ]
    .map(|text| text.trim());
    let found = faults.len();
    let mut fault = |field_name: &str, value: &str, problem: String, cure: &str| {
        let problem =
            format!("failed to get objectType:{kind}, objectName:{name}, objectVersion:{version}: {problem}");
        let mut fault = Fault::new(format!("{field}.{field_name}"), problem, cure);
        if !value.is_empty() {
            fault = fault.with_value(value);
        }
        faults.push(fault);
    };

    let secret_format = match format.to_ascii_lowercase().as_str() {
        "" | "pem" => SecretFormat::Pem,
        "pfx" => {
            // In capitals it has always been let through, and ignored.
            if format == "pfx" && kind != "secret" {
                let problem = "PFX format only supported for objectType: secret";
                fault(
                    "objectFormat",
                    format,
                    problem.to_owned(),
                    "use objectType secret to mount the private key",
                );
            }
            SecretFormat::Pfx
        }
        _ => {
            let problem = format!("invalid objectFormat: {format}, should be PEM or PFX");
            fault("objectFormat", format, problem, "write pem or pfx, or leave it out");
            SecretFormat::Pem
        }
    };
    let secret_encoding = match encoding.to_ascii_lowercase().as_str() {
        "" => SecretEncoding::Utf8,
        _ if kind != "secret" => {
            let problem = "objectEncoding only supported for objectType: secret";
            fault("objectEncoding", encoding, problem.to_owned(), "leave it out");
            SecretEncoding::Utf8
        }
        "utf-8" => SecretEncoding::Utf8,
        "base64" => SecretEncoding::Base64,
        "hex" => SecretEncoding::Hex,
        _ => {
            let problem = format!("invalid objectEncoding: {encoding}, should be hex, base64 or utf-8");
            fault("objectEncoding", encoding, problem, "write hex, base64 or utf-8, or leave it out");
            SecretEncoding::Utf8
        }
    };

    let history = u32::try_from(fields.object_version_history).unwrap_or_default();
    let (path_field, path) = if alias.is_empty() { ("objectName", name) } else { ("objectAlias", alias) };
    let produced = if history > 1 { cleaned(&format!("{path}/0")) } else { path.to_owned() };
    if let Some(problem) = path::refused(path, &produced) {
        fault(path_field, path, problem, "name a file below the mount, such as tls.crt or dir/tls.crt");
    } else if name.is_empty() {
        let problem = if kind == "cert" {
            "parameter certificateName cannot be empty"
        } else {
            "parameter name cannot be empty"
        };
        fault("objectName", name, problem.to_owned(), "name the object as the vault does");
    }
    for (field, value) in [("objectName", name), ("objectVersion", version)] {
        if matches!(value, "." | "..") {
            fault(
                field,
                value,
                format!("{value} would address something else in the vault"),
                "name the object as the vault does",
            );
        }
    }

    let kind_found = match kind {
        "secret" => Some(ObjectKind::Secret { format: secret_format, encoding: secret_encoding }),
        "key" => Some(ObjectKind::Key),
        "cert" => Some(ObjectKind::Certificate),
        _ => {
            let problem = "Invalid vaultObjectTypes. Should be secret, key, or cert";
            fault("objectType", kind, problem.to_owned(), "write secret, key or cert, in lower case");
            None
        }
    };
    let mode = if permission.is_empty() { None } else { FileMode::parse(permission) };
    if mode.is_none() && !permission.is_empty() {
        let problem = format!("invalid filePermission: {permission}, should be octal digits");
        fault("filePermission", permission, problem, "write it like 0644");
    }

    if faults.len() > found {
        return None;
    }
    let versions = match version {
        "" | "latest" if history > 1 => Versions::History { start: None, most: history.saturating_add(1) },
        _ if history > 1 => {
            Versions::History { start: Some(version.to_owned()), most: history.saturating_add(1) }
        }
        "" => Versions::Latest,
        _ => Versions::Pinned(version.to_owned()),
    };
    Some(ObjectRequest { kind: kind_found?, name: name.to_owned(), path: path.to_owned(), versions, mode })
}

#[cfg(test)]
mod tests;
