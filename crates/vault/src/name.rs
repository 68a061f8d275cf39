//! The name of a vault.

use std::fmt;

use url::Host;

use crate::Fault;

/// A Key Vault name: 3–24 bytes of letters, digits and hyphens, in the case it was written in.
///
/// What no host can be called is refused, as no resolver would take it. Other names that Key Vault does not give, such
/// as those with two hyphens in a row, are left for the service to refuse.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VaultName(String);

const FIELD: &str = "parameters.keyvaultName";

impl VaultName {
    /// Reads a name, ignoring white space around it.
    ///
    /// # Errors
    /// When it is blank, too short, too long, holds another character or cannot begin a host's name.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let name = text.trim();
        let cure = "use the vault's name as `az keyvault list` shows it, without host or suffix";
        let problem = if name.is_empty() {
            return Err(Fault::new(FIELD, "keyvaultName is not provided", cure));
        } else if !(3..=24).contains(&name.len()) {
            format!("Invalid vault name: \"{name}\", must be between 3 and 24 chars")
        } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            format!("Invalid vault name: \"{name}\", must match [-a-zA-Z0-9]{{3,24}}")
        } else if !begins_a_host(name) {
            let problem = format!("Invalid vault name: \"{name}\", cannot be part of a host name");
            let cure =
                "begin it with a letter and end it with a letter or a digit, as `az keyvault list` shows it";
            return Err(Fault::new(FIELD, format!("failed to get vault: {problem}"), cure));
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(Fault::new(FIELD, format!("failed to get vault: {problem}"), cure))
    }

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `name` can be a label of a host name (RFC 1123 §2.1), also one in Punycode (RFC 5890 §2.3.2.1).
fn begins_a_host(name: &str) -> bool {
    !name.starts_with('-') && !name.ends_with('-') && Host::parse(&format!("{name}.vault")).is_ok()
}

impl fmt::Display for VaultName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_and_letters() {
        for good in
            ["abc", "ABC", "a-1", "a--1", "1kv", "123", "0x1", "xn--bcher-kva", &"x".repeat(24), " kv1\n"]
        {
            assert_eq!(VaultName::parse(good).map(|n| n.to_string()), Ok(good.trim().to_owned()));
        }
        let problem = |text: &str| VaultName::parse(text).map_err(|f| f.problem);
        assert_eq!(
            problem("ab"),
            Err("failed to get vault: Invalid vault name: \"ab\", must be between 3 and 24 chars".into())
        );
        assert!(problem(&"x".repeat(25)).is_err_and(|p| p.contains("between 3 and 24")));
        assert_eq!(
            problem("kv_test"),
            Err("failed to get vault: Invalid vault name: \"kv_test\", must match [-a-zA-Z0-9]{3,24}".into())
        );
        assert_eq!(problem(" "), Err("keyvaultName is not provided".into()));
        for bad in ["-kv", "kv1-", "---", "xn--", "xn--a", "XN--99999999"] {
            let fault = VaultName::parse(bad).unwrap_err().to_string();
            assert!(fault.starts_with("parameters.keyvaultName: "), "{fault}");
            assert!(
                fault.contains(&format!("\"{bad}\", cannot be part of a host name; begin it with a letter")),
                "{fault}"
            );
        }
        // Length counts bytes and comes first: two letters of two bytes each are long enough.
        assert!(problem("éé").is_err_and(|p| p.contains("must match")));
    }

    proptest! {
        #[test]
        fn what_parses_prints_back(text in "[A-Za-z0-9]([-A-Za-z0-9]{1,22}[A-Za-z0-9]|[A-Za-z0-9]{2})") {
            prop_assert_eq!(VaultName::parse(&text).map(|n| n.to_string()), Ok(text));
        }

        /// So that what is wrong with an address is its suffix.
        #[test]
        fn what_parses_makes_an_address(text in "(xn--)?[-A-Za-z0-9]{3,24}") {
            if let Ok(name) = VaultName::parse(&text) {
                prop_assert!(crate::VaultEndpoint::new(&name, "vault.azure.net", None).is_ok());
            }
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = VaultName::parse(&text);
        }
    }
}
