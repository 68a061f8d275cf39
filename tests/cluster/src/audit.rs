//! Who asked what of the API server, as its audit log tells it.

use serde_json::Value;
use std::path::Path;

/// A request that the log's policy keeps: all of the driver's, and what anybody changed or tried to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asked.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// Its path.
    pub path: String,
    /// The answer's HTTP status.
    pub status: u64,
}

impl Request {
    /// Whether it changed something, or tried to.
    pub fn is_write(&self) -> bool {
        !["get", "list", "watch"].contains(&self.verb.as_str())
    }
}

/// All requests of the log, in order.
pub fn requests(log: &Path) -> Vec<Request> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    // A watch is logged when it begins and when it ends.
    let entries = entries.filter(|entry| entry["stage"] != "ResponseStarted");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let requests = entries.map(|entry| Request {
        user: text(&entry["user"]["username"]),
        verb: text(&entry["verb"]),
        path: text(&entry["requestURI"]),
        status: entry["responseStatus"]["code"].as_u64().unwrap_or_default(),
    });
    requests.collect()
}
