//! `spec.secretObjects`: which Kubernetes Secrets are to be made of a volume's files.

use super::{null_is_empty, without_nulls};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// One Kubernetes Secret to keep in step with the mounted files. As it stands in the class: nothing is checked yet, and
/// what is missing is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretObject {
    /// Name of the Secret, in the pod's namespace.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub secret_name: String,
    /// Type of the Secret, such as `Opaque` or `kubernetes.io/tls`.
    #[serde(default, rename = "type", deserialize_with = "null_is_empty")]
    pub kind: String,
    /// Labels the Secret gets.
    #[serde(default, deserialize_with = "without_nulls")]
    pub labels: BTreeMap<String, String>,
    /// Annotations the Secret gets.
    #[serde(default, deserialize_with = "without_nulls")]
    pub annotations: BTreeMap<String, String>,
    /// Which file goes under which key.
    #[serde(default, deserialize_with = "list")]
    pub data: Vec<SecretObjectData>,
}

/// One entry of a Secret's data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretObjectData {
    /// The mounted file, by its path within the volume.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub object_name: String,
    /// The key in the Secret.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub key: String,
}

/// A list that may be null, as may its entries.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(input: D) -> Result<Vec<T>, D::Error> {
    let entries: Option<Vec<Option<T>>> = Option::deserialize(input)?;
    Ok(entries.unwrap_or_default().into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use crate::class::{ClassSpec, SecretObject};

    #[test]
    fn secret_objects_are_read_from_json_and_yaml_and_blanks_are_empty() {
        let yaml = "
provider: azure
secretObjects:
  - secretName: foosecret
    type: kubernetes.io/tls
    labels: {environment: test, blank: }
    annotations:
    data:
      - {objectName: cert, key: tls.crt}
      - {objectName: cert, key: }
      - ~
  - ~
  - {}
";
        let from_yaml: ClassSpec = serde_saphyr::from_str(yaml).unwrap();
        let json: serde_json::Value = serde_saphyr::from_str(yaml).unwrap();
        assert_eq!(from_yaml, serde_json::from_value(json).unwrap());
        let [first, second] = from_yaml.secret_objects.as_slice() else { panic!("{from_yaml:?}") };
        assert_eq!((first.secret_name.as_str(), first.kind.as_str()), ("foosecret", "kubernetes.io/tls"));
        assert_eq!(first.labels.iter().collect::<Vec<_>>(), [(&"environment".into(), &"test".into())]);
        assert!(first.annotations.is_empty());
        let data: Vec<_> = first.data.iter().map(|data| (&*data.object_name, &*data.key)).collect();
        assert_eq!(data, [("cert", "tls.crt"), ("cert", "")]);
        assert_eq!(second, &SecretObject::default());
        let none: ClassSpec = serde_saphyr::from_str("{provider: azure, secretObjects: }").unwrap();
        assert!(none.secret_objects.is_empty());
    }
}
