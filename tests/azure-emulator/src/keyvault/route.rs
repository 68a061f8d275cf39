//! What a request's method and path ask for.

use hyper::Method;

use super::{
    access::{ObjectKind, Operation},
    errors::ApiError,
};
use crate::{counters::object_key, faults::Service, http::Request, server::Route};

/// What a path and method ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    List,
    Versions,
    Get,
    Put,
    Create,
    Import,
    Update,
    Delete,
    Pending,
    ForgetPending,
    Policy,
    SetPolicy,
    Backup,
    Restore,
    ListDeleted,
    GetDeleted,
    Recover,
    Purge,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Versions => "versions",
            Self::Get => "get",
            Self::Put => "put",
            Self::Create => "create",
            Self::Import => "import",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Pending | Self::ForgetPending => "pending",
            Self::Policy | Self::SetPolicy => "policy",
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::ListDeleted => "listdeleted",
            Self::GetDeleted => "getdeleted",
            Self::Recover => "recover",
            Self::Purge => "purge",
        }
    }

    /// The permission it takes.
    pub(super) fn operation(self, kind: ObjectKind) -> Operation {
        match self {
            Self::List | Self::Versions | Self::ListDeleted => Operation::List,
            Self::Get | Self::GetDeleted | Self::Pending | Self::Policy => Operation::Get,
            Self::Put | Self::Update if kind == ObjectKind::Secrets => Operation::Set,
            Self::Put | Self::Import => Operation::Import,
            Self::Create => Operation::Create,
            Self::Update | Self::SetPolicy | Self::ForgetPending => Operation::Update,
            Self::Delete => Operation::Delete,
            Self::Backup => Operation::Backup,
            Self::Restore => Operation::Restore,
            Self::Recover => Operation::Recover,
            Self::Purge => Operation::Purge,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub kind: ObjectKind,
    pub action: Action,
    pub name: Option<&'a str>,
    pub version: Option<&'a str>,
}

/// Reads the path; a slash at its end makes no difference.
pub(super) fn target<'a>(method: &Method, segments: &[&'a str]) -> Option<Target<'a>> {
    use ObjectKind::{Certificates, Keys, Secrets};
    let (&first, rest) = segments.split_first()?;
    let (kind, deleted) = match first.to_ascii_lowercase().as_str() {
        "secrets" => (Secrets, false),
        "keys" => (Keys, false),
        "certificates" => (Certificates, false),
        "deletedsecrets" => (Secrets, true),
        "deletedkeys" => (Keys, true),
        "deletedcertificates" => (Certificates, true),
        _ => return None,
    };
    let (action, name, version) = match (deleted, method.as_str(), rest) {
        (false, "GET", []) => (Action::List, None, None),
        (false, "POST", ["restore"]) => (Action::Restore, None, None),
        (false, "GET", [name, "versions"]) => (Action::Versions, Some(*name), None),
        (false, "GET", [name, "policy"]) if kind == Certificates => (Action::Policy, Some(*name), None),
        (false, "PATCH", [name, "policy"]) if kind == Certificates => (Action::SetPolicy, Some(*name), None),
        (false, "GET", [name, "pending"]) if kind == Certificates => (Action::Pending, Some(*name), None),
        (false, "DELETE", [name, "pending"]) if kind == Certificates => {
            (Action::ForgetPending, Some(*name), None)
        }
        (false, "GET", [name]) => (Action::Get, Some(*name), None),
        (false, "GET", [name, version]) => (Action::Get, Some(*name), Some(*version)),
        (false, "PUT", [name]) if kind != Certificates => (Action::Put, Some(*name), None),
        (false, "POST", [name, "create"]) if kind != Secrets => (Action::Create, Some(*name), None),
        (false, "POST", [name, "import"]) if kind == Certificates => (Action::Import, Some(*name), None),
        (false, "POST", [name, "backup"]) => (Action::Backup, Some(*name), None),
        (false, "PATCH", [name]) => (Action::Update, Some(*name), None),
        (false, "PATCH", [name, version]) => (Action::Update, Some(*name), Some(*version)),
        (false, "DELETE", [name]) => (Action::Delete, Some(*name), None),
        (true, "GET", []) => (Action::ListDeleted, None, None),
        (true, "GET", [name]) => (Action::GetDeleted, Some(*name), None),
        (true, "POST", [name, "recover"]) => (Action::Recover, Some(*name), None),
        (true, "DELETE", [name]) => (Action::Purge, Some(*name), None),
        _ => return None,
    };
    Some(Target { kind, action, name, version })
}

/// The names a request to a vault is counted under.
pub(crate) fn classify(vault: Option<&str>, request: &Request) -> Route {
    if request.bearer().is_none() {
        return Route::new(Service::Vault, "vault.challenge", None);
    }
    match target(&request.method, &request.segments()) {
        Some(target) => Route::new(
            Service::Vault,
            format!("vault.{}.{}", target.kind.collection(), target.action.name()),
            target.name.map(|name| object_key(vault.unwrap_or_default(), target.kind.collection(), name)),
        ),
        None => Route::new(Service::Vault, "vault.other", None),
    }
}

/// Refuses what cannot be an object's name.
pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    let valid = (1..=127).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if valid {
        Ok(())
    } else {
        Err(ApiError::bad_parameter(format!("The request URI contains an invalid name: {name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_with_and_without_a_last_slash() {
        let read = |method: Method, path: &str| {
            let request = Request::internal(method, path, bytes::Bytes::new());
            let segments = request.segments();
            let target = target(&request.method, &segments)?;
            Some((
                target.kind,
                target.action,
                target.name.map(str::to_owned),
                target.version.map(str::to_owned),
            ))
        };
        let named = |kind, action| Some((kind, action, Some("n".to_owned()), None));
        assert_eq!(read(Method::GET, "/secrets/n/"), named(ObjectKind::Secrets, Action::Get));
        assert_eq!(read(Method::GET, "/keys/n/versions/"), named(ObjectKind::Keys, Action::Versions));
        assert_eq!(
            read(Method::POST, "/certificates/n/create"),
            named(ObjectKind::Certificates, Action::Create)
        );
        assert_eq!(read(Method::DELETE, "/deletedkeys/n"), named(ObjectKind::Keys, Action::Purge));
        assert_eq!(read(Method::PUT, "/certificates/n"), None);
        assert_eq!(read(Method::GET, "/"), None);
        assert_eq!(
            read(Method::GET, "/secrets/n/0123"),
            Some((ObjectKind::Secrets, Action::Get, Some("n".to_owned()), Some("0123".to_owned())))
        );
    }

    #[test]
    fn names_are_letters_digits_and_hyphens() {
        assert!(check_name("a-1").is_ok());
        assert!(check_name(&"a".repeat(127)).is_ok());
        for bad in ["", "a_b", "a.b", "a/b", &"a".repeat(128)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
