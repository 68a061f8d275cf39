//! Where a vault is reached, and which token it takes.

use std::fmt;

use url::{Host, Url};

use crate::{Fault, VaultName};

/// The address of one vault: `https://<name>.<suffix>/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VaultEndpoint {
    base: Url,
    host: String,
    name: VaultName,
    resource: String,
}

impl VaultEndpoint {
    /// The vault `name` under `dns_suffix`, which may carry a port.
    ///
    /// `resource_hint` is the token audience a custom cloud names (`keyVaultEndpoint`); it is used when its host is
    /// the parent of the vault's host. Otherwise the audience is `https://` and the suffix, as in all public clouds.
    /// It is only where asking starts: the vault's own challenge decides.
    ///
    /// # Errors
    /// When name and suffix do not make a host name.
    pub fn new(name: &VaultName, dns_suffix: &str, resource_hint: Option<&str>) -> Result<Self, Fault> {
        let refused = |why: &str| {
            Fault::new(
                "parameters.cloudName",
                format!("the cloud's keyVaultDNSSuffix cannot follow a vault name: {why}"),
                "give a DNS suffix such as vault.azure.net, optionally with a port",
            )
            .with_value(dns_suffix)
        };
        let suffix = dns_suffix.trim();
        if suffix.is_empty() || suffix.contains(['/', '\\', '@', '?', '#']) {
            return Err(refused("it is empty or more than a host"));
        }
        let base = Url::parse(&format!("https://{name}.{suffix}/")).map_err(|e| refused(&e.to_string()))?;
        let Some(Host::Domain(host)) = base.host() else {
            return Err(refused("it is an address, not a name"));
        };
        let host = host.to_ascii_lowercase();
        let resource = resource_hint
            .map(str::trim)
            .map(|hint| hint.trim_end_matches('/'))
            .filter(|hint| is_parent_of(hint, &host).is_ok())
            .map_or_else(
                || {
                    let parent = host.split_once('.').map_or(host.as_str(), |(_, parent)| parent);
                    format!("https://{parent}")
                },
                ToOwned::to_owned,
            );
        Ok(Self { host, name: name.clone(), resource, base })
    }

    /// A vault at a plain address, for tests without certificates; its host counts as `<name>.vault.test`.
    #[cfg(test)]
    pub(crate) fn plain(address: std::net::SocketAddr) -> Self {
        let name = VaultName::parse("kv1").unwrap();
        let base = Url::parse(&format!("http://{address}/")).unwrap();
        Self { host: "kv1.vault.test".to_owned(), name, resource: "https://vault.test".to_owned(), base }
    }

    /// The base address, with a trailing slash. The host is lower-cased, as hosts are; a path follows it verbatim.
    pub fn url(&self) -> &Url {
        &self.base
    }

    /// The vault's name as the class gives it.
    pub fn name(&self) -> &VaultName {
        &self.name
    }

    /// The host in lower case, without a port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The audience to ask a token for before the vault has said anything.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// Whether a token for `resource` may be sent to this vault: its host must be a parent of the vault's.
    ///
    /// # Errors
    /// [`ResourceMismatch`], with the sentence known from the Azure SDKs.
    pub fn accepts_resource(&self, resource: &str) -> Result<(), ResourceMismatch> {
        is_parent_of(resource, &self.host)
    }
}

impl fmt::Display for VaultEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base.as_str().trim_end_matches('/'))
    }
}

/// A challenge asked for a token this vault has no business to see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceMismatch {
    /// The resource is a proper address of another domain.
    #[error(
        "challenge resource \"{0}\" doesn't match the requested domain, so no token is sent. See https://aka.ms/azsdk/blog/vault-uri for more information"
    )]
    OtherDomain(String),
    /// The resource is no address at all.
    #[error("invalid challenge resource \"{0}\"")]
    NotAnAddress(String),
}

/// The rule of the Azure SDKs (<https://aka.ms/azsdk/blog/vault-uri>): `vault` ends with `.` and the resource's host.
fn is_parent_of(resource: &str, vault: &str) -> Result<(), ResourceMismatch> {
    let parsed = Url::parse(resource).map_err(|_| ResourceMismatch::NotAnAddress(resource.to_owned()))?;
    let host = parsed.host_str().unwrap_or_default().to_ascii_lowercase();
    if !host.is_empty() && vault.strip_suffix(&host).is_some_and(|front| front.ends_with('.')) {
        Ok(())
    } else {
        Err(ResourceMismatch::OtherDomain(resource.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, suffix: &str, hint: Option<&str>) -> VaultEndpoint {
        VaultEndpoint::new(&VaultName::parse(name).unwrap(), suffix, hint).unwrap()
    }

    #[test]
    fn every_cloud_makes_an_address_and_an_audience() {
        for suffix in
            ["vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net", "vault.microsoftazure.de"]
        {
            let vault = endpoint("kv1", suffix, None);
            assert_eq!(vault.url().as_str(), format!("https://kv1.{suffix}/"));
            assert_eq!(vault.resource(), format!("https://{suffix}"));
        }
    }

    #[test]
    fn a_port_stays_in_the_address_and_out_of_the_audience() {
        let vault = endpoint("kv1", "vault.local:8443", None);
        assert_eq!(vault.url().as_str(), "https://kv1.vault.local:8443/");
        assert_eq!(vault.resource(), "https://vault.local");
        assert_eq!(vault.host(), "kv1.vault.local");
    }

    #[test]
    fn a_hint_counts_only_as_the_parent_of_the_vault() {
        assert_eq!(
            endpoint("kv1", "vault.contoso.com", Some("https://contoso.com/")).resource(),
            "https://contoso.com"
        );
        assert_eq!(
            endpoint("kv1", "vault.contoso.com", Some("https://elsewhere.net/")).resource(),
            "https://vault.contoso.com"
        );
        assert_eq!(
            endpoint("kv1", "vault.contoso.com", Some("nonsense")).resource(),
            "https://vault.contoso.com"
        );
    }

    #[test]
    fn a_token_never_leaves_for_a_foreign_resource() {
        let vault = endpoint("KV1", "vault.azure.net", None);
        assert_eq!(vault.accepts_resource("https://vault.azure.net"), Ok(()));
        assert_eq!(vault.accepts_resource("https://VAULT.azure.net/"), Ok(()));
        for foreign in [
            "https://azure.com",
            "https://t.azure.net",
            "https://ault.azure.net",
            "https://kv1.vault.azure.net",
            "https://",
        ] {
            assert!(vault.accepts_resource(foreign).is_err(), "{foreign}");
        }
        assert_eq!(vault.accepts_resource("nope"), Err(ResourceMismatch::NotAnAddress("nope".into())));
    }

    #[test]
    fn a_suffix_must_be_a_host() {
        let name = VaultName::parse("kv1").unwrap();
        for bad in ["", "vault.azure.net/path", "a@b", "vault.azure.net:port", "bad host"] {
            assert!(VaultEndpoint::new(&name, bad, None).is_err(), "{bad}");
        }
    }
}
