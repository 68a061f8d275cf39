//! What a class asks of its provider, and what is read out of it once for all pods.

use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use vault::{Faults, ObjectRequest, parse_objects};

/// `spec.parameters` of a class.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    given: BTreeMap<String, String>,
    /// YAML in YAML takes longer to read than all the rest of an unchanged volume.
    objects: OnceLock<Result<Arc<[ObjectRequest]>, Faults>>,
}

impl Parameters {
    /// What the parameter `objects` lists; it is parsed at the first use.
    ///
    /// # Errors
    /// As [`parse_objects`].
    pub fn objects(&self) -> Result<Arc<[ObjectRequest]>, Faults> {
        let parse =
            || parse_objects(self.given.get("objects").map_or("", String::as_str)).map(Arc::<[_]>::from);
        self.objects.get_or_init(parse).clone()
    }
}

impl From<BTreeMap<String, String>> for Parameters {
    fn from(given: BTreeMap<String, String>) -> Self {
        Self { given, objects: OnceLock::new() }
    }
}

impl Deref for Parameters {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.given
    }
}

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        self.given == other.given
    }
}

impl Eq for Parameters {}

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        super::without_nulls(input).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_parsed_once_and_shared() {
        let text = "array:\n- |\n  objectName: a\n  objectType: secret\n".to_owned();
        let parameters = Parameters::from(BTreeMap::from([("objects".to_owned(), text)]));
        let [first, second] = [(); 2].map(|()| parameters.objects().unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first[0].name.as_str(), "a");
        assert_eq!(parameters, Parameters::from((*parameters).clone()), "what was parsed is no part of it");
    }
}
