//! The name of a vault.

use std::fmt;

use crate::Fault;

/// A Key Vault name: 3–24 bytes of letters, digits and hyphens, in the case it was written in.
///
/// Hyphens at the ends or in pairs are left for the service to refuse, as they always were.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VaultName(String);

const FIELD: &str = "parameters.keyvaultName";

impl VaultName {
    /// Reads a name, ignoring white space around it.
    ///
    /// # Errors
    /// When it is blank, too short, too long or holds another character.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let name = text.trim();
        let cure = "use the vault's name as `az keyvault list` shows it, without host or suffix";
        let problem = if name.is_empty() {
            return Err(Fault::new(FIELD, "keyvaultName is not provided", cure));
        } else if !(3..=24).contains(&name.len()) {
            format!("Invalid vault name: \"{name}\", must be between 3 and 24 chars")
        } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            format!("Invalid vault name: \"{name}\", must match [-a-zA-Z0-9]{{3,24}}")
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
        for good in ["abc", "ABC", "a-1", "---", &"x".repeat(24), " kv1\n"] {
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
        // Length counts bytes and comes first: two letters of two bytes each are long enough.
        assert!(problem("éé").is_err_and(|p| p.contains("must match")));
    }

    proptest! {
        #[test]
        fn what_parses_prints_back(text in "[-A-Za-z0-9]{3,24}") {
            prop_assert_eq!(VaultName::parse(&text).map(|n| n.to_string()), Ok(text));
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = VaultName::parse(&text);
        }
    }
}
