//! The Azure clouds: where tokens come from and under which name the vaults live.

use std::{fmt, io, path::Path};

use serde_json::Value;
use url::Url;

use crate::{Error, TenantId};

/// Audience of a federated service account token in the public cloud, accepted in all clouds.
pub const AUDIENCE_PUBLIC: &str = "api://AzureADTokenExchange";
/// Audience of a federated service account token in Azure Government.
pub const AUDIENCE_US_GOVERNMENT: &str = "api://AzureADTokenExchangeUSGov";
/// Audience of a federated service account token in Azure operated by 21Vianet.
pub const AUDIENCE_CHINA: &str = "api://AzureADTokenExchangeChina";
/// Audience of a service account token for AKS identity bindings.
pub const AUDIENCE_IDENTITY_BINDING: &str = "api://AKSIdentityBinding";

/// All audiences a token may have for workload identity, in whatever cloud.
pub(crate) const FEDERATED_AUDIENCES: &[&str] = &[AUDIENCE_PUBLIC, AUDIENCE_US_GOVERNMENT, AUDIENCE_CHINA];

/// An Azure cloud: its token authority and its vaults' DNS suffix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cloud {
    name: &'static str,
    authority_host: String,
    other_authority_hosts: &'static [&'static str],
    vault_dns_suffix: String,
    vault_endpoint: String,
    audiences: &'static [&'static str],
}

/// What a `cloudName` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudChoice {
    /// A cloud whose data is known.
    Known(Cloud),
    /// `AzureStackCloud`: the data is in a file, to be read by the caller and given to [`Cloud::from_file`].
    File,
}

/// One row of the table: accepted names, authority host, vault suffix, further authority hosts, audiences.
type Row =
    (&'static [&'static str], &'static str, &'static str, &'static [&'static str], &'static [&'static str]);

// The names, hosts and suffixes of the first four rows are those the reference accepts. China has two hosts:
// tokens are asked from the first, a vault's challenge may name either. The last two rows are the sovereign
// clouds that have opened since.
const CLOUDS: &[Row] = &[
    (
        &["AzurePublicCloud", "AzureCloud"],
        "https://login.microsoftonline.com/",
        "vault.azure.net",
        &["login.windows.net"],
        &[AUDIENCE_PUBLIC],
    ),
    (
        &["AzureChinaCloud"],
        "https://login.chinacloudapi.cn/",
        "vault.azure.cn",
        &["login.partner.microsoftonline.cn"],
        &[AUDIENCE_PUBLIC, AUDIENCE_CHINA],
    ),
    (
        &["AzureUSGovernmentCloud", "AzureUSGovernment"],
        "https://login.microsoftonline.us/",
        "vault.usgovcloudapi.net",
        &[],
        &[AUDIENCE_PUBLIC, AUDIENCE_US_GOVERNMENT],
    ),
    (
        &["AzureGermanCloud"],
        "https://login.microsoftonline.de/",
        "vault.microsoftazure.de",
        &[],
        &[AUDIENCE_PUBLIC],
    ),
    (
        &["AzureBleuCloud"],
        "https://login.sovcloud-identity.fr/",
        "vault.sovcloud-api.fr",
        &[],
        &[AUDIENCE_PUBLIC],
    ),
    (
        &["AzureDelosCloud"],
        "https://login.sovcloud-identity.de/",
        "vault.sovcloud-api.de",
        &[],
        &[AUDIENCE_PUBLIC],
    ),
];

const STACK: &str = "AzureStackCloud";

impl CloudChoice {
    /// Finds a cloud by its name, in any letter case.
    ///
    /// # Errors
    /// [`Error::UnknownCloud`] if there is none.
    pub fn parse(name: &str) -> Result<Self, Error> {
        if name.eq_ignore_ascii_case(STACK) {
            return Ok(Self::File);
        }
        let row = CLOUDS.iter().find(|row| row.0.iter().any(|known| known.eq_ignore_ascii_case(name)));
        match row {
            Some(row) => Ok(Self::Known(Cloud::from_row(row))),
            None => Err(Error::UnknownCloud { given: crate::redact::excerpt(name, 80) }),
        }
    }
}

impl Default for Cloud {
    /// The public cloud.
    fn default() -> Self {
        Self::from_row(&CLOUDS[0])
    }
}

impl Cloud {
    fn from_row((names, authority, suffix, others, audiences): &Row) -> Self {
        Self {
            name: names[0],
            authority_host: (*authority).to_owned(),
            other_authority_hosts: others,
            vault_dns_suffix: (*suffix).to_owned(),
            vault_endpoint: format!("https://{suffix}"),
            audiences,
        }
    }

    /// Reads the description of a custom cloud: a JSON object with `activeDirectoryEndpoint`,
    /// `keyVaultDNSSuffix` and, if wanted, `keyVaultEndpoint`. Field names are found in any letter case;
    /// other fields are ignored, its `name` too.
    ///
    /// `fallback_authority` is used where the file leaves `activeDirectoryEndpoint` empty (the reference
    /// takes the environment's `AZURE_AUTHORITY_HOST`); without it the public cloud's authority is. Whether it
    /// is an https URL is checked by [`Cloud::authority`]: identities of the VM never ask it.
    ///
    /// # Errors
    /// [`Error::CloudFile`] for text that is no such object.
    pub fn from_file(bytes: &[u8], fallback_authority: Option<&str>) -> Result<Self, Error> {
        // Editors on Windows put a byte order mark before the text; JSON parsers refuse it.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let bad = |reason: String| Error::CloudFile { reason };
        let file: Value = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        let Value::Object(file) = file else {
            return Err(bad("the cloud file holds no JSON object".to_owned()));
        };
        let field = |wanted: &str| -> Result<String, Error> {
            // As in the reference, null counts as absent.
            match file.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)) {
                None | Some((_, Value::Null)) => Ok(String::new()),
                Some((_, Value::String(text))) => Ok(text.trim().to_owned()),
                Some(_) => Err(bad(format!("the cloud file's {wanted} is not a string"))),
            }
        };
        let mut authority_host = field("activeDirectoryEndpoint")?;
        if authority_host.is_empty() {
            let fallback = fallback_authority.map(str::trim).filter(|text| !text.is_empty());
            CLOUDS[0].1.clone_into(&mut authority_host);
            if let Some(fallback) = fallback {
                fallback.clone_into(&mut authority_host);
            }
        }
        let vault_dns_suffix = field("keyVaultDNSSuffix")?.trim_start_matches('.').to_owned();
        if vault_dns_suffix.is_empty() {
            return Err(bad("the cloud file has no keyVaultDNSSuffix".to_owned()));
        }
        Ok(Self {
            // Not the file's name: whoever writes the file could choose one the operator allows.
            name: STACK,
            authority_host,
            other_authority_hosts: &[],
            vault_endpoint: field("keyVaultEndpoint")?.trim_end_matches('/').to_owned(),
            vault_dns_suffix,
            audiences: &[AUDIENCE_PUBLIC],
        })
    }

    /// The error for a custom cloud's file that could not be read.
    pub fn unreadable_file(path: &Path, error: &io::Error) -> Error {
        let reason = if error.kind() == io::ErrorKind::NotFound {
            "no such file or directory".to_owned()
        } else {
            error.to_string()
        };
        Error::CloudFile { reason: format!("open {}: {reason}", path.display()) }
    }

    /// The cloud's first name (`AzurePublicCloud`); `AzureStackCloud` for one that comes from a file.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What follows the vault's name in its host name: `vault.azure.net`.
    pub fn vault_dns_suffix(&self) -> &str {
        &self.vault_dns_suffix
    }

    /// The vault service's address without a trailing slash: `https://vault.azure.net`. Empty if a custom
    /// cloud's file has none.
    pub fn vault_endpoint(&self) -> &str {
        &self.vault_endpoint
    }

    /// Audiences a federated service account token may have here, in the order they are looked for. The public
    /// one goes first: the reference shows it in all clouds, so it is what the federated credentials of
    /// existing clusters name. The cloud's own is for clusters that list no other.
    pub fn token_audiences(&self) -> &'static [&'static str] {
        self.audiences
    }

    /// Where tokens of this cloud for the tenant are asked for.
    ///
    /// # Errors
    /// [`Error::Authority`] if a custom cloud's authority is no https URL.
    pub fn authority(&self, tenant: &TenantId) -> Result<Authority, Error> {
        let url = parse_authority_host(&self.authority_host)?;
        let flavour = if tenant.is_adfs() { Flavour::AdFs } else { Flavour::Entra };
        Ok(Authority { cloud: self.name, host: url, flavour })
    }

    /// Whether `host` is one of this cloud's token authorities, as a vault's challenge may name it.
    pub fn knows_authority_host(&self, host: &str) -> bool {
        let own = Url::parse(&self.authority_host).ok();
        own.and_then(|url| url.host_str().map(|own| own.eq_ignore_ascii_case(host))).unwrap_or(false)
            || self.other_authority_hosts.iter().any(|other| other.eq_ignore_ascii_case(host))
    }
}

fn parse_authority_host(given: &str) -> Result<Url, Error> {
    let bad = |reason: &str| Error::Authority {
        reason: reason.to_owned(),
        given: crate::redact::excerpt(given, 120),
    };
    let url = Url::parse(given).map_err(|e| bad(&format!("the authority host is no URL: {e}")))?;
    if url.scheme() != "https" {
        return Err(bad("cannot use an authority host without https"));
    }
    if url.host_str().is_none_or(str::is_empty) || !url.username().is_empty() || url.password().is_some() {
        return Err(bad("an authority host is https://HOST[:PORT]/, without user name and password"));
    }
    Ok(url)
}

/// Which token protocol an authority speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// Microsoft Entra ID: `/{tenant}/oauth2/v2.0/token`.
    Entra,
    /// Active Directory Federation Services: one tenant, its token endpoint is told by its metadata document.
    AdFs,
}

/// Where tokens are asked for: a token authority of a cloud. Made by [`Cloud::authority`] only, so that a
/// class can never name a host of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    cloud: &'static str,
    host: Url,
    flavour: Flavour,
}

impl Authority {
    /// Name of the cloud this authority belongs to.
    pub fn cloud(&self) -> &'static str {
        self.cloud
    }

    /// The protocol spoken.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Whether it comes from a custom cloud's file.
    pub(crate) fn is_custom(&self) -> bool {
        self.cloud == STACK
    }

    /// Scheme, host and port, without a trailing slash.
    pub fn origin(&self) -> String {
        self.host.origin().ascii_serialization()
    }

    /// Host name or address.
    pub(crate) fn host(&self) -> Option<&str> {
        self.host.host_str()
    }

    /// Base of an AD FS authority: `https://HOST/adfs`.
    pub(crate) fn adfs_base(&self) -> String {
        format!("{}/adfs", self.origin())
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flavour {
            Flavour::Entra => f.write_str(&self.origin()),
            Flavour::AdFs => f.write_str(&self.adfs_base()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(name: &str) -> Cloud {
        match CloudChoice::parse(name).unwrap() {
            CloudChoice::Known(cloud) => cloud,
            CloudChoice::File => panic!("{name} is known"),
        }
    }

    #[test]
    fn names_are_found_in_any_case() {
        let table = [
            ("AZUREPUBLICCLOUD", "https://login.microsoftonline.com", "vault.azure.net"),
            ("azurecloud", "https://login.microsoftonline.com", "vault.azure.net"),
            ("AzureChinaCloud", "https://login.chinacloudapi.cn", "vault.azure.cn"),
            ("AzureUSGovernmentCloud", "https://login.microsoftonline.us", "vault.usgovcloudapi.net"),
            ("azureusgovernment", "https://login.microsoftonline.us", "vault.usgovcloudapi.net"),
            ("AzureGermanCloud", "https://login.microsoftonline.de", "vault.microsoftazure.de"),
            ("AzureBleuCloud", "https://login.sovcloud-identity.fr", "vault.sovcloud-api.fr"),
        ];
        let tenant = TenantId::parse("t").unwrap();
        for (name, authority, suffix) in table {
            let cloud = known(name);
            assert_eq!(cloud.authority(&tenant).unwrap().to_string(), authority);
            assert_eq!(cloud.vault_dns_suffix(), suffix);
            assert_eq!(cloud.token_audiences().first(), Some(&AUDIENCE_PUBLIC));
        }
        assert_eq!(CloudChoice::parse("azurestackcloud").unwrap(), CloudChoice::File);
    }

    #[test]
    fn an_unknown_name_is_told_as_the_reference_tells_it() {
        assert_eq!(
            CloudChoice::parse("AzureCloud1").unwrap_err().to_string(),
            "cloudName AzureCloud1 is not valid, error: autorest/azure: There is no cloud environment matching \
             the name \"AZURECLOUD1\""
        );
    }

    #[test]
    fn china_has_two_authorities() {
        let china = known("AzureChinaCloud");
        assert!(china.knows_authority_host("login.chinacloudapi.cn"));
        assert!(china.knows_authority_host("LOGIN.partner.microsoftonline.cn"));
        assert!(!china.knows_authority_host("login.microsoftonline.com"));
    }

    #[test]
    fn a_file_describes_a_custom_cloud() {
        let file = "\u{feff}{\"NAME\":\"AzurePublicCloud\",\"ActiveDirectoryEndpoint\":\"https://adfs.local/adfs/\",\
             \"keyvaultendpoint\":\"https://vault.local/\",\"keyVaultDnsSuffix\":\"vault.local:8443\",\"x\":1}";
        let cloud = Cloud::from_file(file.as_bytes(), None).unwrap();
        assert_eq!((cloud.name(), cloud.vault_dns_suffix()), ("AzureStackCloud", "vault.local:8443"));
        assert_eq!(cloud.vault_endpoint(), "https://vault.local");
        let adfs = cloud.authority(&TenantId::parse("ADFS").unwrap()).unwrap();
        assert_eq!((adfs.flavour(), adfs.to_string()), (Flavour::AdFs, "https://adfs.local/adfs".to_owned()));
    }

    #[test]
    fn a_file_without_authority_falls_back() {
        let file = br#"{"keyVaultDNSSuffix":"v.local","activeDirectoryEndpoint":""}"#;
        let tenant = TenantId::parse("t").unwrap();
        let authority = |fallback| {
            Cloud::from_file(file, fallback).and_then(|c| c.authority(&tenant)).map(|a| a.to_string())
        };
        assert_eq!(authority(None).unwrap(), "https://login.microsoftonline.com");
        assert_eq!(authority(Some("https://login.test:1/")).unwrap(), "https://login.test:1");
        assert!(
            authority(Some("http://login.test"))
                .unwrap_err()
                .to_string()
                .contains("authority host without https")
        );
    }

    #[test]
    fn an_authority_without_https_is_refused_only_when_it_is_wanted() {
        let file = br#"{"keyVaultDNSSuffix":"v.local","activeDirectoryEndpoint":"http://login.local/"}"#;
        let cloud = Cloud::from_file(file, None).unwrap();
        assert_eq!(cloud.vault_dns_suffix(), "v.local");
        assert_eq!(
            cloud.authority(&TenantId::parse("t").unwrap()).unwrap_err().to_string(),
            "cannot use an authority host without https (activeDirectoryEndpoint is \"http://login.local/\")"
        );
    }

    #[test]
    fn bad_files_say_what_is_bad() {
        let message = |bytes: &[u8]| Cloud::from_file(bytes, None).unwrap_err().to_string();
        let prefix = "cloudName AzureStackCloud is not valid, error: ";
        assert!(message(b"{").starts_with(prefix));
        assert!(message(b"[]").contains("no JSON object"));
        assert!(message(br#"{"keyVaultDNSSuffix":1}"#).contains("keyVaultDNSSuffix is not a string"));
        assert!(message(b"{}").contains("no keyVaultDNSSuffix"));
        let missing = Cloud::unreadable_file(Path::new("/etc/c.json"), &io::ErrorKind::NotFound.into());
        assert_eq!(missing.to_string(), format!("{prefix}open /etc/c.json: no such file or directory"));
    }

    proptest! {
        #[test]
        fn parsers_take_anything(bytes in any::<Vec<u8>>(), name in any::<String>(), url in ".*") {
            let _ = Cloud::from_file(&bytes, Some(&url));
            let _ = CloudChoice::parse(&name);
            let file = serde_json::json!({"keyVaultDNSSuffix": name, "activeDirectoryEndpoint": url});
            let _ = Cloud::from_file(file.to_string().as_bytes(), None)
                .and_then(|cloud| cloud.authority(&TenantId::parse("t").unwrap()));
        }
    }
}
