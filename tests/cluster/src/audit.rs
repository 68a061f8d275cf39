//! Who wrote what, as the API server's audit log tells it.

use serde_json::Value;
use std::path::Path;

/// One request that changed something, or tried to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Who asked.
    pub user: String,
    /// `create`, `update`, `patch` or `delete`.
    pub verb: String,
    /// The path of the request.
    pub path: String,
    /// The answer's HTTP status.
    pub status: u64,
}

/// All writes of the log, in order.
pub fn writes(log: &Path) -> Vec<Write> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let writes = entries.filter_map(|entry| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let verb = text(&entry["verb"]);
        ["create", "update", "patch", "delete", "deletecollection"].contains(&verb.as_str()).then(|| Write {
            user: text(&entry["user"]["username"]),
            verb,
            path: text(&entry["requestURI"]),
            status: entry["responseStatus"]["code"].as_u64().unwrap_or_default(),
        })
    });
    writes.collect()
}
