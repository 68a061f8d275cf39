//! Classes from YAML files: the standalone mode, which needs no API server.

use super::{ClassError, ClassName, ClassSpec, GROUP};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files larger than this are not read: a class is a few kilobytes.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// A folder of YAML files, each with one or more SecretProviderClass documents. Other kinds are passed over, so a folder of
/// a whole application's manifests will do. The folder is read afresh at each use.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// As much of any Kubernetes document as says what it is.
#[derive(Debug, Default, Deserialize)]
struct Header {
    #[serde(default, rename = "apiVersion")]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
}

/// A class document; what the CRD does not know is pruned by the API server and ignored here.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    spec: Option<Spec>,
}

#[derive(Debug, Default, Deserialize)]
struct Spec {
    #[serde(default)]
    provider: Option<String>,
    #[serde(default)]
    parameters: Option<BTreeMap<String, String>>,
}

impl Folder {
    /// Reads classes from this folder.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    pub(super) async fn get(&self, class: &ClassName) -> Result<ClassSpec, ClassError> {
        let (folder, wanted) = (self.0.clone(), class.clone());
        let read = tokio::task::spawn_blocking(move || find(&folder, &wanted)).await;
        read.unwrap_or_else(|failure| {
            Err(ClassError::Folder { folder: self.0.clone(), cause: std::io::Error::other(failure) })
        })
    }
}

fn find(folder: &Path, wanted: &ClassName) -> Result<ClassSpec, ClassError> {
    let unreadable = |cause| ClassError::Folder { folder: folder.to_owned(), cause };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
        {
            files.push(path);
        }
    }
    files.sort();

    let mut found: Option<(PathBuf, ClassSpec)> = None;
    let mut trouble = Vec::new();
    for file in files {
        let text = match read(&file) {
            Ok(text) => text,
            Err(error) => {
                trouble.push(format!("{}: {error}", file.display()));
                continue;
            }
        };
        for document in documents(&text) {
            // A broken document may be the one that is wanted, but it must not take other classes down with it.
            let header = match serde_saphyr::from_str::<Option<Header>>(document) {
                Ok(header) => header.unwrap_or_default(),
                Err(error) => {
                    trouble.push(format!("{}: {}", file.display(), one_line(&error.to_string())));
                    continue;
                }
            };
            let metadata = header.metadata.unwrap_or_default();
            let of_group = header
                .api_version
                .as_deref()
                .and_then(|v| v.split_once('/'))
                .is_some_and(|(g, _)| g == GROUP);
            let is_wanted = of_group
                && header.kind.as_deref() == Some("SecretProviderClass")
                && metadata.name.as_deref() == Some(wanted.name.as_str())
                && metadata.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default")
                    == wanted.namespace;
            if !is_wanted {
                continue;
            }
            let parsed: Document =
                serde_saphyr::from_str(document).map_err(|error| ClassError::Malformed {
                    class: wanted.clone(),
                    file: file.clone(),
                    reason: one_line(&error.to_string()),
                })?;
            if let Some((first, _)) = found {
                return Err(ClassError::Twice { class: wanted.clone(), first, second: file });
            }
            let spec = parsed.spec.unwrap_or_default();
            let spec = ClassSpec {
                provider: spec.provider.unwrap_or_default(),
                parameters: spec.parameters.unwrap_or_default(),
            };
            found = Some((file.clone(), spec));
        }
    }
    found.map(|(_, spec)| spec).ok_or_else(|| ClassError::NotFound {
        class: wanted.clone(),
        hint: if trouble.is_empty() {
            format!("; looked in {}", folder.display())
        } else {
            format!(
                "; looked in {}, where some files could not be read: {}",
                folder.display(),
                trouble.join("; ")
            )
        },
    })
}

fn read(file: &Path) -> std::io::Result<String> {
    let length = std::fs::metadata(file)?.len();
    if length > LARGEST_FILE {
        return Err(std::io::Error::other(format!(
            "{length} bytes are more than the {LARGEST_FILE} that are read"
        )));
    }
    std::fs::read_to_string(file)
}

/// Splits a file at its document markers. Done by hand, so that a syntax error in one document leaves the others readable.
fn documents(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut offset) = (0, 0);
    for line in text.split_inclusive('\n') {
        let content = line.trim_end();
        if content == "---" || content.starts_with("--- ") || content.starts_with("---\t") {
            documents.extend(text.get(start..offset));
            start = offset + line.len();
        }
        offset += line.len();
    }
    documents.extend(text.get(start..));
    documents
}

/// Parser messages may span lines and show the source; the kubelet's event is one line.
fn one_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
---
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: kv
spec:
  provider: azure
  parameters:
    keyvaultName: shop
    objects: |
      array:
        - |
          objectName: a
--- # the same name elsewhere
apiVersion: secrets-store.csi.x-k8s.io/v1alpha1
kind: SecretProviderClass
metadata: {name: kv, namespace: other}
spec: {provider: vault}
";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn class(namespace: &str, name: &str) -> ClassName {
        ClassName { namespace: namespace.into(), name: name.into() }
    }

    fn message(folder: &tempfile::TempDir, wanted: &ClassName) -> String {
        find(folder.path(), wanted).unwrap_err().to_string()
    }

    #[test]
    fn classes_are_found_by_namespace_and_name_among_other_documents() {
        let folder = folder(&[("all.yaml", CLASSES), ("notes.txt", "not: [yaml")]);
        let spec = find(folder.path(), &class("default", "kv")).unwrap();
        assert_eq!(spec.provider, "azure");
        assert_eq!(spec.parameters["objects"], "array:\n  - |\n    objectName: a\n");
        assert_eq!(find(folder.path(), &class("other", "kv")).unwrap().provider, "vault");
    }

    #[test]
    fn a_missing_class_is_told_in_the_api_servers_words() {
        let folder = folder(&[("all.yaml", CLASSES)]);
        let message = message(&folder, &class("default", "nope"));
        assert!(
            message.contains("SecretProviderClass.secrets-store.csi.x-k8s.io \"nope\" not found"),
            "{message}"
        );
    }

    #[test]
    fn a_broken_document_is_named_and_leaves_the_others_readable() {
        let folder = folder(&[("a.yaml", "kind: [broken\n---\n"), ("b.yaml", CLASSES)]);
        assert!(find(folder.path(), &class("default", "kv")).is_ok());
        assert!(message(&folder, &class("default", "nope")).contains("a.yaml"), "must name the broken file");
    }

    #[test]
    fn a_parameter_that_is_no_string_names_class_and_file() {
        let text = CLASSES.replace("keyvaultName: shop", "keyvaultName: {a: b}");
        let folder = folder(&[("all.yaml", &text)]);
        let message = message(&folder, &class("default", "kv"));
        assert!(
            message.starts_with("SecretProviderClass default/kv in ") && message.contains("all.yaml"),
            "{message}"
        );
    }

    #[test]
    fn a_class_defined_twice_is_refused() {
        let folder = folder(&[("a.yaml", CLASSES), ("b.yml", CLASSES)]);
        assert!(message(&folder, &class("default", "kv")).contains("defined twice"));
    }
}
