//! What the server was asked, from its audit log.

use crate::Error;
use serde::Deserialize;
use std::path::Path;

/// Requests are written down when they arrive, before they are handled. So whoever has an answer finds its request here.
pub(crate) const POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy",
    "omitStages": ["ResponseStarted", "ResponseComplete", "Panic"],
    "rules": [{"level": "None", "users": ["system:apiserver"]}, {"level": "Metadata"}]}"#;

/// One request the server has received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `get`, `list`, `watch`, `create`, `update`, `patch` or `delete`.
    pub verb: String,
    /// Plural of the resource, such as `secrets`; with a subresource `pods/status`.
    pub resource: String,
    /// Namespace, empty for what has none.
    pub namespace: String,
    /// Name, empty where the request has none.
    pub name: String,
    /// Who proved to be whom. A client that only acts as somebody shows that in its user agent.
    pub user: String,
    /// The program that asked; for [`client_as`](crate::ApiServer::client_as), the name it acts as.
    pub user_agent: String,
}

impl Request {
    /// Whether it asks for a change.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    object_ref: Option<Object>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Object {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

pub(crate) fn read(log: &Path) -> Result<Vec<Request>, Error> {
    let text = std::fs::read_to_string(log).map_err(|cause| Error::File { path: log.to_owned(), cause })?;
    // A line that is just being written is of a request that nobody has an answer to.
    let events = text.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok());
    Ok(events
        .map(|mut event| {
            let Object { mut resource, subresource, namespace, name } =
                event.object_ref.take().unwrap_or_default();
            if !subresource.is_empty() {
                resource = format!("{resource}/{subresource}");
            }
            let Event { verb, user: User { username: user }, user_agent, .. } = event;
            Request { verb, resource, namespace, name, user, user_agent }
        })
        .collect())
}
