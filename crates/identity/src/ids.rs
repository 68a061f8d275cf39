//! Who asks, and the names Entra knows them by.

use std::fmt;

use crate::Error;

/// The pod on whose behalf a token is asked for, in the kubelet's words.
///
/// These three come from the pod info the kubelet adds to a publish request
/// (`csi.storage.k8s.io/pod.namespace`, `serviceAccount.name`, `pod.name`). They are never taken from the
/// claims of a service account token: a pod author may be able to plant one of those.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asker {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the service account the pod runs as.
    pub service_account: String,
    /// Name of the pod. Used in log lines only; a token is shared by all pods of one service account.
    pub pod: String,
}

impl Asker {
    /// The `sub` claim Kubernetes writes into tokens of this service account.
    pub fn subject(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account)
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service account {}/{}", self.namespace, self.service_account)
    }
}

/// An Entra tenant: a GUID, a domain name, or `adfs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TenantId(String);

impl TenantId {
    /// Accepts one or more of `A-Z a-z 0-9 . -`, the characters that may stand in the token URL's path.
    ///
    /// # Errors
    /// [`Error::TenantId`] for anything else, the empty string included.
    pub fn parse(given: &str) -> Result<Self, Error> {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        // A tenant of dots alone would be taken for a relative path by URL parsers.
        if given.is_empty() || !given.chars().all(fits) || given.chars().all(|c| c == '.') {
            return Err(Error::TenantId { given: crate::redact::verbatim(given, 80) });
        }
        Ok(Self(given.to_owned()))
    }

    /// The tenant as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the tenant word that selects Active Directory Federation Services.
    pub fn is_adfs(&self) -> bool {
        self.0.eq_ignore_ascii_case("adfs")
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The client (application) id of a managed identity or app registration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientId(String);

impl ClientId {
    /// Accepts any text without blanks and control characters. Entra's ids are GUIDs, but AD FS lets an
    /// administrator choose, so the form is not checked further.
    ///
    /// # Errors
    /// [`Error::ClientId`] for empty text, blanks, control characters or more than 256 bytes.
    pub fn parse(given: &str) -> Result<Self, Error> {
        Self::parse_from("clientID", given)
    }

    /// As [`ClientId::parse`], for a client id that comes from somewhere else than `clientID`.
    pub(crate) fn parse_from(place: &'static str, given: &str) -> Result<Self, Error> {
        let odd = |c: char| c.is_whitespace() || c.is_control();
        if given.is_empty() || given.len() > 256 || given.chars().any(odd) {
            return Err(Error::ClientId { place, given: crate::redact::verbatim(given, 80) });
        }
        Ok(Self(given.to_owned()))
    }

    /// The client id as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tenants_are_guids_domains_and_adfs() {
        for good in ["7b795fb9-09d3-42f4-a494-38864f99ba3c", "contoso.onmicrosoft.com", "A-1.z", "adfs"] {
            assert_eq!(TenantId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", " ", "a/b", "..", "a b", "tenant@x", "é", "a\n"] {
            let message = TenantId::parse(bad).unwrap_err().to_string();
            assert!(message.starts_with(
                "invalid tenantID. You can locate your tenantID by following the instructions listed here: \
                 https://learn.microsoft.com/partner-center/find-ids-and-domain-names"
            ));
        }
        let message = TenantId::parse("contoso.com\n").unwrap_err().to_string();
        assert!(message.ends_with("(the tenantID given is \"contoso.com\\n\")"), "{message}");
        assert!(TenantId::parse("ADFS").unwrap().is_adfs());
        assert!(!TenantId::parse("adfs.contoso.com").unwrap().is_adfs());
    }

    #[test]
    fn what_is_wrong_with_a_client_id_is_shown() {
        for (given, shown) in
            [("app\n", r#""app\n""#), (" app", r#"" app""#), ("a\u{a0}b", r#""a\u{a0}b""#), ("", r#""""#)]
        {
            let message = ClientId::parse(given).unwrap_err().to_string();
            assert!(message.starts_with(&format!("invalid clientID {shown}: ")), "{message}");
        }
    }

    proptest! {
        #[test]
        fn parsers_take_any_text(text in any::<String>()) {
            let _ = TenantId::parse(&text);
            let _ = ClientId::parse(&text);
        }
    }
}
