//! Rendered objects.

use serde_json::Value;

/// The objects of a manifest, in its order.
#[derive(Debug)]
pub struct Objects(Vec<Value>);

impl Objects {
    /// Reads a manifest of several documents.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(manifest: &str) -> Result<Self, String> {
        let mut objects = Vec::new();
        for document in format!("\n{manifest}").split("\n---") {
            match crate::yaml(document)? {
                Value::Null => {}
                object => objects.push(object),
            }
        }
        Ok(Self(objects))
    }

    /// Kind and name of each, without the hooks'.
    pub fn names(&self) -> Vec<String> {
        self.0
            .iter()
            .filter(|object| object.pointer("/metadata/annotations/helm.sh~1hook").is_none())
            .map(|object| format!("{} {}", text(object, "/kind"), text(object, "/metadata/name")))
            .collect()
    }

    /// All objects.
    pub fn all(&self) -> &[Value] {
        &self.0
    }

    /// The object of this kind whose name ends so.
    ///
    /// # Panics
    /// When it is not there.
    #[allow(clippy::panic, reason = "test code")]
    pub fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| panic!("no {kind} {name} in {:?}", self.names()))
    }

    /// The object of this kind whose name ends so, if it is there.
    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|object| text(object, "/kind") == kind && text(object, "/metadata/name").ends_with(name))
    }

    /// The driver's DaemonSet.
    pub fn daemon_set(&self) -> &Value {
        self.get("DaemonSet", "")
    }

    /// The one container.
    pub fn container(&self) -> &Value {
        &self.daemon_set()["spec"]["template"]["spec"]["containers"][0]
    }

    /// The driver's arguments.
    pub fn arguments(&self) -> Vec<&str> {
        self.container()["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The value of a flag of the driver.
    pub fn flag(&self, name: &str) -> Option<&str> {
        let start = format!("{name}=");
        self.arguments().into_iter().find_map(|argument| argument.strip_prefix(&start))
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
