//! Classes from YAML files: the standalone mode, which needs no API server.

use super::{ClassError, ClassName, ClassSpec, GROUP};
use crate::manifests::{self, Seen, Wanted};
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A folder of YAML files, each with one or more SecretProviderClass documents. What its files say now counts at each use.
#[derive(Debug, Clone)]
pub struct Folder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Arc<manifests::Folder>,
    /// Classes that were read: a hundred pods of one class share one.
    read: Mutex<HashMap<ClassName, Read>>,
}

/// A class and the document that it came from.
#[derive(Debug)]
struct Read {
    document: Arc<str>,
    spec: Arc<ClassSpec>,
}

/// A class document; what the CRD does not know is pruned by the API server and ignored here.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    spec: Option<ClassSpec>,
}

impl Folder {
    /// Reads classes from this folder.
    pub fn new(files: Arc<manifests::Folder>) -> Self {
        Self(Arc::new(Inner { files, read: Mutex::default() }))
    }

    pub(super) async fn get(&self, class: &ClassName) -> Result<Arc<ClassSpec>, ClassError> {
        let seen = self.0.files.look().await.map_err(|cause| self.0.unreadable(cause))?;
        let (file, document) = self.0.find(&seen, class)?;
        if let Some(read) = self.0.read.lock().get(class)
            && Arc::ptr_eq(&read.document, &document)
        {
            return Ok(Arc::clone(&read.spec));
        }
        // A file may have megabytes.
        let (inner, class) = (Arc::clone(&self.0), class.clone());
        let parsed = tokio::task::spawn_blocking(move || inner.parse(class, file, document)).await;
        parsed.unwrap_or_else(|failure| Err(self.0.unreadable(std::io::Error::other(failure))))
    }
}

impl Inner {
    /// The one document that is this class, and its file.
    fn find(&self, seen: &Seen, class: &ClassName) -> Result<(PathBuf, Arc<str>), ClassError> {
        let wanted = Wanted {
            group: GROUP,
            kind: "SecretProviderClass",
            namespace: &class.namespace,
            name: &class.name,
        };
        let found = seen.find(wanted);
        let mut documents = found.documents.into_iter();
        let Some((file, document)) = documents.next() else {
            self.read.lock().remove(class);
            let mut hint = format!("; looked in {}", self.files.path().display());
            if !found.trouble.is_empty() {
                hint = format!("{hint}, where some files could not be read: {}", found.trouble.join("; "));
            }
            return Err(ClassError::NotFound { class: class.clone(), hint });
        };
        if let Some((second, _)) = documents.next() {
            return Err(ClassError::Twice { class: class.clone(), first: file, second });
        }
        Ok((file, document))
    }

    fn parse(
        &self,
        class: ClassName,
        file: PathBuf,
        document: Arc<str>,
    ) -> Result<Arc<ClassSpec>, ClassError> {
        let parsed: Document = serde_saphyr::from_str(&document).map_err(|error| ClassError::Malformed {
            class: class.clone(),
            file,
            reason: manifests::one_line(&error.to_string()),
        })?;
        let spec = Arc::new(parsed.spec.unwrap_or_default());
        self.read.lock().insert(class, Read { document, spec: Arc::clone(&spec) });
        Ok(spec)
    }

    fn unreadable(&self, cause: std::io::Error) -> ClassError {
        ClassError::Folder { folder: self.files.path().to_owned(), cause }
    }
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

    fn get(folder: &Folder, wanted: &ClassName) -> Result<Arc<ClassSpec>, ClassError> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(folder.get(wanted))
    }

    fn find(folder: &tempfile::TempDir, wanted: &ClassName) -> Result<Arc<ClassSpec>, ClassError> {
        get(&Folder::new(Arc::new(manifests::Folder::new(folder.path().to_owned()))), wanted)
    }

    #[test]
    fn pods_share_a_class_until_its_file_changes() {
        // Files of the repository have been there for a while; what was written just now may change again without showing it.
        let lasting = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/e2e/manifests/validate/shop");
        let lasting = Folder::new(Arc::new(manifests::Folder::new(lasting.into())));
        let [first, second] = [(); 2].map(|()| get(&lasting, &class("default", "shop")).unwrap());
        assert!(Arc::ptr_eq(&first, &second));

        let written = folder(&[("all.yaml", CLASSES)]);
        let changing = Folder::new(Arc::new(manifests::Folder::new(written.path().to_owned())));
        for vault in ["shop", "sho2", "sho3", "sho4"] {
            let text = CLASSES.replace("keyvaultName: shop", &format!("keyvaultName: {vault}"));
            std::fs::write(written.path().join("all.yaml"), text).unwrap();
            let found = get(&changing, &class("default", "kv")).unwrap();
            assert_eq!(found.parameters["keyvaultName"], vault);
        }
        std::fs::remove_file(written.path().join("all.yaml")).unwrap();
        assert!(matches!(get(&changing, &class("default", "kv")), Err(ClassError::NotFound { .. })));
        assert!(changing.0.read.lock().is_empty(), "a class that is gone is not kept");
    }

    fn message(folder: &tempfile::TempDir, wanted: &ClassName) -> String {
        find(folder, wanted).unwrap_err().to_string()
    }

    #[test]
    fn classes_are_found_by_namespace_and_name_among_other_documents() {
        let folder = folder(&[("all.yaml", CLASSES), ("notes.txt", "not: [yaml")]);
        let spec = find(&folder, &class("default", "kv")).unwrap();
        assert_eq!(spec.provider, "azure");
        assert_eq!(spec.parameters["objects"], "array:\n  - |\n    objectName: a\n");
        assert_eq!(find(&folder, &class("other", "kv")).unwrap().provider, "vault");
    }

    #[test]
    fn other_line_ends_and_marks_are_read_too() {
        let text = format!("\u{feff}{}", CLASSES.trim_start().replace('\n', "\r\n"));
        let json = r#"{"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
            "metadata": {"name": "json"}, "spec": {"provider": "azure", "parameters": {"a": "b"}}}"#;
        let folder = folder(&[("all.yaml", &text), ("one.json", json)]);
        assert_eq!(find(&folder, &class("default", "kv")).unwrap().parameters["keyvaultName"], "shop");
        assert_eq!(find(&folder, &class("default", "json")).unwrap().parameters["a"], "b");
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
            let spec = find(&folder, &class("default", "kv")).unwrap();
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
        assert!(find(&folder, &class("default", "kv")).is_ok());
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
