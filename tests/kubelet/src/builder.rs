//! Puts a test kubelet together and starts it.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use parking_lot::RwLock;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::csi_driver::CsiDriver;
use crate::discovery::{Bound, ServerTls};
use crate::error::Error;
use crate::events::{Event, EventLog};
use crate::issuer::{Issuer, SigningKey};
use crate::kubelet::Kubelet;
use crate::node::{Node, Objects};
use crate::registration::{Registrar, Registry};
use crate::timing::Timings;
use crate::tokens::TokenManager;

/// What a kubelet is to be like; see [`Kubelet::builder`].
#[derive(Clone)]
pub struct Builder {
    root: PathBuf,
    registration_dir: PathBuf,
    node_name: String,
    drivers: Vec<CsiDriver>,
    timings: Timings,
    clock: Clock,
    issuer_listen: SocketAddr,
    issuer_tls: Option<ServerTls>,
    issuer_url: Option<String>,
    signing_key: Option<SigningKey>,
}

impl Builder {
    pub(crate) fn new(root: PathBuf, registration_dir: PathBuf) -> Self {
        Self {
            root,
            registration_dir,
            node_name: "test-node".to_owned(),
            drivers: Vec::new(),
            timings: Timings::default(),
            clock: Clock::default(),
            issuer_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            issuer_tls: None,
            issuer_url: None,
            signing_key: None,
        }
    }

    /// The node's name; `test-node` otherwise.
    #[must_use]
    pub fn node_name(mut self, name: impl Into<String>) -> Self {
        self.node_name = name.into();
        self
    }

    /// Adds a `CSIDriver` object. A driver without one mounts nothing inline.
    #[must_use]
    pub fn driver(mut self, driver: CsiDriver) -> Self {
        self.drivers.push(driver);
        self
    }

    /// Other periods, deadlines and back-off than the real kubelet's.
    #[must_use]
    pub fn timings(mut self, timings: Timings) -> Self {
        self.timings = timings;
        self
    }

    /// The clock that token lifetimes are measured with; the machine's otherwise.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Where the issuer serves its discovery document and keys; a free port of 127.0.0.1 otherwise.
    #[must_use]
    pub fn issuer_listen(mut self, address: SocketAddr) -> Self {
        self.issuer_listen = address;
        self
    }

    /// Serves them over HTTPS with this certificate; over plain HTTP otherwise.
    #[must_use]
    pub fn issuer_tls(mut self, tls: ServerTls) -> Self {
        self.issuer_tls = Some(tls);
        self
    }

    /// What the issuer calls itself (`iss`), for a host name or a proxy in front; the URL of its listener otherwise.
    #[must_use]
    pub fn issuer_url(mut self, url: impl Into<String>) -> Self {
        self.issuer_url = Some(url.into());
        self
    }

    /// The key that tokens are signed with; one generated for this process otherwise.
    #[must_use]
    pub fn signing_key(mut self, key: SigningKey) -> Self {
        self.signing_key = Some(key);
        self
    }

    /// Makes the folders, starts the issuer and begins to watch the registration folder.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the root folder's path cannot be written in a CSI request, [`Error::File`] if a folder cannot be made, [`Error::Listen`] if the issuer's address is taken, [`Error::Key`] if no
    /// signing key can be made.
    pub async fn start(self) -> Result<Kubelet, Error> {
        let root = std::path::absolute(&self.root).map_err(Error::file("find", &self.root))?;
        let registration_dir = std::path::absolute(&self.registration_dir)
            .map_err(Error::file("find", &self.registration_dir))?;
        if root.to_str().is_none() {
            return Err(Error::Configuration(format!("the root folder {} is not UTF-8", root.display())));
        }
        for folder in [&root, &registration_dir] {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o750).create(folder).map_err(Error::file("create", folder))?;
        }
        let key = match self.signing_key {
            Some(key) => key,
            None => tokio::task::spawn_blocking(SigningKey::of_this_process)
                .await
                .map_err(|error| Error::Key { what: "signing key", reason: error.to_string() })??,
        };
        let listener = Bound::bind(self.issuer_listen, self.issuer_tls).await?;
        let issuer = Issuer::new(self.issuer_url.unwrap_or_else(|| listener.url()), key);
        let events = EventLog::new();
        let registry = Registry::new();
        let mut objects = Objects::default();
        self.drivers.into_iter().for_each(|driver| objects.set_driver(driver));
        let registrar = Registrar {
            folder: registration_dir,
            timings: self.timings.clone(),
            registry: registry.clone(),
            events: events.clone(),
        };
        let mut services = JoinSet::new();
        services.spawn(listener.serve(&issuer));
        services.spawn(registrar.run());
        events.write(Event::IssuerReady { url: issuer.url().to_owned() });
        let node = Node {
            name: self.node_name,
            root,
            timings: self.timings,
            registry,
            tokens: TokenManager::new(issuer.clone(), self.clock),
            events,
            objects: RwLock::new(objects),
        };
        Ok(Kubelet::new(node, issuer, services))
    }
}
