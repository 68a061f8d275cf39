//! Classes from YAML files: the standalone mode, which needs no API server.

use super::{ClassError, ClassName, ClassSpec, GROUP};
use crate::manifests::{self, Wanted};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A folder of YAML files, each with one or more SecretProviderClass documents. Other kinds are passed over, so a folder of
/// a whole application's manifests will do. The folder is read afresh at each use.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// A class document; what the CRD does not know is pruned by the API server and ignored here.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    spec: Option<ClassSpec>,
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

fn find(folder: &Path, class: &ClassName) -> Result<ClassSpec, ClassError> {
    let wanted =
        Wanted { group: GROUP, kind: "SecretProviderClass", namespace: &class.namespace, name: &class.name };
    let found = manifests::find(folder, wanted)
        .map_err(|cause| ClassError::Folder { folder: folder.to_owned(), cause })?;
    let mut documents = found.documents.into_iter();
    let Some((file, document)) = documents.next() else {
        let mut hint = format!("; looked in {}", folder.display());
        if !found.trouble.is_empty() {
            hint = format!("{hint}, where some files could not be read: {}", found.trouble.join("; "));
        }
        return Err(ClassError::NotFound { class: class.clone(), hint });
    };
    if let Some((second, _)) = documents.next() {
        return Err(ClassError::Twice { class: class.clone(), first: file, second });
    }
    let parsed: Document = serde_saphyr::from_str(&document).map_err(|error| ClassError::Malformed {
        class: class.clone(),
        file,
        reason: manifests::one_line(&error.to_string()),
    })?;
    Ok(parsed.spec.unwrap_or_default())
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
    fn other_line_ends_and_marks_are_read_too() {
        let text = format!("\u{feff}{}", CLASSES.trim_start().replace('\n', "\r\n"));
        let json = r#"{"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
            "metadata": {"name": "json"}, "spec": {"provider": "azure", "parameters": {"a": "b"}}}"#;
        let folder = folder(&[("all.yaml", &text), ("one.json", json)]);
        assert_eq!(find(folder.path(), &class("default", "kv")).unwrap().parameters["keyvaultName"], "shop");
        assert_eq!(find(folder.path(), &class("default", "json")).unwrap().parameters["a"], "b");
    }

    #[test]
    fn blank_parameters_are_dropped_and_lists_are_looked_into() {
        let item = CLASSES
            .split("---")
            .nth(1)
            .unwrap()
            .replace("keyvaultName: shop", "keyvaultName: shop\n    cloudName:\n    x: ~");
        let listed: serde_json::Value = serde_saphyr::from_str(&item).unwrap();
        let list =
            serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [{"kind": "Other"}, listed]});
        for text in [item, list.to_string()] {
            let folder = folder(&[("all.yaml", &text)]);
            let spec = find(folder.path(), &class("default", "kv")).unwrap();
            assert_eq!(
                spec.parameters.keys().map(String::as_str).collect::<Vec<_>>(),
                ["keyvaultName", "objects"]
            );
        }
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
