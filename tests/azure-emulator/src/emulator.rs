//! The handle: start, addresses, and the way to everything the services hold.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use crate::{
    clock::Clock,
    counters::{Counters, Telemetry},
    entra::{Directory, Entra},
    error::Error,
    faults::{Faults, Service},
    imds::{Imds, Machine},
    keyvault::{Vault, Vaults},
    seed::Seed,
    server::{Endpoint, Listening},
    tls::Authority,
};

/// Where to listen and under which names to be known.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses of the one HTTPS service that is authority, token proxy and every vault. Port 0 picks a free one.
    /// Privileged ports and other addresses of 127/8 may be named if the process may bind them.
    pub https: Vec<SocketAddr>,
    /// Address of the metadata service (plain HTTP, as the real one).
    pub imds: Option<SocketAddr>,
    /// Address of the control interface (plain HTTP), none by default: the handle can do all of it.
    pub control: Option<SocketAddr>,
    /// Host name of the authority. Unless it is a public Azure name, the HTTPS port is appended where it is not 443
    /// and no port is given.
    pub authority_host: String,
    /// What follows `{vault}.` in a vault's host name; ports as for [`Config::authority_host`].
    pub vault_suffix: String,
    /// The tenant that exists from the start and owns whatever names no other.
    pub tenant: String,
}

impl Default for Config {
    /// Free ports of 127.0.0.1, authority `localhost`, vaults `{vault}.vault.localhost`.
    fn default() -> Self {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self {
            https: vec![any],
            imds: Some(any),
            control: None,
            authority_host: "localhost".to_owned(),
            vault_suffix: "vault.localhost".to_owned(),
            tenant: "11111111-2222-4333-8444-555555555555".to_owned(),
        }
    }
}

impl Config {
    /// The same under the public cloud's own names, `login.microsoftonline.com` and `{vault}.vault.azure.net`, for
    /// clients whose name resolution or transport is in the test's hands.
    #[must_use]
    pub fn with_public_names(mut self) -> Self {
        "login.microsoftonline.com".clone_into(&mut self.authority_host);
        "vault.azure.net".clone_into(&mut self.vault_suffix);
        self
    }
}

/// The names under which the services are known, ports included.
#[derive(Debug)]
pub(crate) struct Names {
    pub authority: String,
    pub vault_suffix: String,
}

impl Names {
    fn new(config: &Config, port: u16) -> Self {
        let with_port = |name: &str| {
            let public =
                ["microsoftonline.com", "microsoftonline.us", "microsoftonline.cn", "chinacloudapi.cn"]
                    .iter()
                    .chain(&["vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net"])
                    .any(|known| name.ends_with(known));
            if public || port == 443 || name.contains(':') {
                name.to_owned()
            } else {
                format!("{name}:{port}")
            }
        };
        Self { authority: with_port(&config.authority_host), vault_suffix: with_port(&config.vault_suffix) }
    }
}

/// Everything the services share.
pub(crate) struct Shared {
    pub names: Names,
    pub tenant: String,
    pub clock: Clock,
    pub faults: Faults,
    pub telemetry: Telemetry,
    pub directory: Directory,
    pub vaults: Vaults,
    pub machine: Machine,
    pub ca: Authority,
}

/// Running services. Dropping the handle stops them; [`Emulator::shutdown`] also waits for that.
pub struct Emulator {
    shared: Arc<Shared>,
    https: Vec<Listening>,
    imds: Option<Listening>,
    control: Option<Listening>,
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("names", &self.shared.names).finish_non_exhaustive()
    }
}

impl Emulator {
    /// Binds every address, makes a certificate authority and starts to serve.
    ///
    /// # Errors
    /// [`Error::Listen`] for an address in use or not allowed, [`Error::Tls`] and [`Error::Crypto`] when keys cannot
    /// be made.
    pub async fn start(config: Config) -> Result<Self, Error> {
        // Fails only when the process has chosen a provider already, which then serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();

        let mut https = Vec::new();
        for address in &config.https {
            https.push(Listening::bind(*address, "HTTPS")?);
        }
        let mut imds = match config.imds {
            Some(address) => Some(Listening::bind(address, "IMDS")?),
            None => None,
        };
        let control = match config.control {
            Some(address) => Some(Listening::bind(address, "control")?),
            None => None,
        };
        let addresses: Vec<IpAddr> = https.iter().map(|listening| listening.address().ip()).collect();
        let port = https.first().map_or(443, |listening| listening.address().port());
        // Making an RSA key takes a while, which other tasks need not wait for.
        let tenant = config.tenant.clone();
        let directory = tokio::task::spawn_blocking(move || Directory::new(&tenant))
            .await
            .map_err(|error| Error::Crypto(error.to_string()))??;
        let shared = Arc::new(Shared {
            names: Names::new(&config, port),
            directory,
            vaults: Vaults::default(),
            machine: Machine::default(),
            ca: Authority::new(&addresses)?,
            tenant: config.tenant,
            clock: Clock::default(),
            faults: Faults::new(),
            telemetry: Telemetry::default(),
        });
        let tls = shared.ca.server_config()?;
        for listening in &mut https {
            listening.serve(Endpoint::Https(Arc::clone(&tls)), Arc::clone(&shared));
        }
        if let Some(listening) = &mut imds {
            listening.serve(Endpoint::Imds, Arc::clone(&shared));
        }
        let mut emulator = Self { shared, https, imds, control };
        let doors = emulator.doors();
        if let Some(listening) = &mut emulator.control {
            listening.serve(Endpoint::Control(doors), Arc::clone(&emulator.shared));
        }
        Ok(emulator)
    }

    fn doors(&self) -> Vec<(Service, crate::server::Door)> {
        let https = self.https.iter().flat_map(|l| [(Service::Entra, l.door()), (Service::Vault, l.door())]);
        https.chain(self.imds.iter().map(|l| (Service::Imds, l.door()))).collect()
    }

    /// The first HTTPS address listened on; unspecified (0.0.0.0:0) when the configuration named none.
    pub fn https_addr(&self) -> SocketAddr {
        self.https.first().map_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), Listening::address)
    }

    /// The metadata service's address.
    pub fn imds_addr(&self) -> Option<SocketAddr> {
        self.imds.as_ref().map(Listening::address)
    }

    /// The control interface's address.
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.control.as_ref().map(Listening::address)
    }

    /// The authority as clients are configured with it, for example `https://localhost:8443/`.
    pub fn authority_url(&self) -> String {
        format!("https://{}/", self.shared.names.authority)
    }

    /// What follows `{vault}.` in a vault's host, port included, as `keyVaultDNSSuffix` of a custom cloud wants it.
    pub fn vault_suffix(&self) -> &str {
        &self.shared.names.vault_suffix
    }

    /// The resource whose tokens the vaults take, `https://` and [`Emulator::vault_suffix`]. Tokens for
    /// `https://vault.azure.net` are taken too.
    pub fn vault_resource(&self) -> String {
        format!("https://{}", self.shared.names.vault_suffix)
    }

    /// The metadata service as `AZURE_POD_IDENTITY_AUTHORITY_HOST` names it, for example `http://127.0.0.1:8079`.
    pub fn imds_url(&self) -> Option<String> {
        self.imds_addr().map(|address| format!("http://{address}"))
    }

    /// The certificate authority every HTTPS answer is vouched for by, as PEM.
    pub fn ca_pem(&self) -> &str {
        self.shared.ca.pem()
    }

    /// Makes certificates for `kubernetes.…` also name `hcp-kubernetes.{id}.svc.cluster.local`, as that of an AKS
    /// cluster's API server does, by which clients of the token proxy learn the server name to ask for.
    pub fn set_cluster_id(&self, id: &str) {
        self.shared.ca.set_cluster_id(id);
    }

    /// The tenant that exists from the start.
    pub fn tenant(&self) -> &str {
        &self.shared.tenant
    }

    /// The directory: tenants, identities, credentials, trusted issuers.
    pub fn entra(&self) -> Entra {
        Entra::new(Arc::clone(&self.shared))
    }

    /// The virtual machine the metadata service speaks for.
    pub fn imds(&self) -> Imds {
        Imds::new(Arc::clone(&self.shared))
    }

    /// The vault of this name, made empty if there is none. The first one made also answers on host names that
    /// name no vault, such as 127.0.0.1.
    pub fn vault(&self, name: &str) -> Vault {
        Vault::open(Arc::clone(&self.shared), name)
    }

    /// The clock of all services.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Latency and injected errors.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Counters and request log.
    pub fn telemetry(&self) -> &Telemetry {
        &self.shared.telemetry
    }

    /// A copy of the counters.
    pub fn counters(&self) -> Counters {
        self.shared.telemetry.counters()
    }

    /// Adds what a seed document describes.
    ///
    /// # Errors
    /// [`Error::Document`] or the error of the step that failed; earlier steps stay.
    pub fn apply(&self, seed: &Seed) -> Result<(), Error> {
        seed.apply(&self.shared)
    }

    /// An HTTP client builder that trusts the authority and finds every host name at the HTTPS address, whatever
    /// name resolution says. Redirects and proxies are off.
    pub fn client_builder(&self) -> reqwest::ClientBuilder {
        crate::server::client_builder(self.ca_pem(), self.https_addr())
    }

    /// Closes the listener of a service and all its connections, so that new ones are refused. Authority and vaults
    /// share theirs.
    pub async fn refuse_connections(&self, service: Service) {
        for (_, door) in self.doors().iter().filter(|(other, _)| *other == service) {
            door.close().await;
        }
    }

    /// Undoes [`Emulator::refuse_connections`] on the same address.
    ///
    /// # Errors
    /// [`Error::Listen`] if somebody else has taken the address meanwhile.
    pub async fn accept_connections(&self, service: Service) -> Result<(), Error> {
        for (_, door) in self.doors().iter().filter(|(other, _)| *other == service) {
            door.open().await?;
        }
        Ok(())
    }

    /// Stops serving, drops every connection and waits until the addresses are free.
    pub async fn shutdown(self) {
        for listening in self.https.into_iter().chain(self.imds).chain(self.control) {
            listening.stop().await;
        }
    }
}
