//! Starting, stopping, and clients of the server.

use crate::process::Process;
use crate::programs::Programs;
use crate::{Error, Request, audit};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::Mutex;

const START: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds");
/// Nobody but this machine's processes can use it, and only for as long as the test runs.
const ADMIN_TOKEN: &str = "admin-of-a-test";

/// A running API server. It ends when this value is dropped, or with the process.
#[derive(Debug)]
pub struct ApiServer {
    // In the order they have to end.
    _kube_apiserver: Process,
    _etcd: Process,
    folder: TempDir,
    kubeconfig: Kubeconfig,
}

impl ApiServer {
    /// Starts a server with an empty state, and installs the CRDs of `deploy/crds`. `None`, and a notice, when the programs
    /// for it are missing.
    ///
    /// # Errors
    /// When the server does not come up, and when a program is missing with `CI` set.
    pub async fn start() -> Result<Option<Self>, Error> {
        let Some(programs) = Programs::find()? else { return Ok(None) };
        // The loopback port may be taken by somebody else between looking for it and listening on it.
        let mut server = Self::start_once(&programs).await;
        for _ in 0..2 {
            if !matches!(&server, Err(Error::NotReady { log, .. }) if log.contains("address already in use"))
            {
                break;
            }
            server = Self::start_once(&programs).await;
        }
        let server = server?;
        server.install_crds().await?;
        Ok(Some(server))
    }

    /// One server for all tests of a process that run at the same time; it ends with the last of them. Each should work in
    /// a [`namespace`](Self::namespace) of its own.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn shared() -> Result<Option<Arc<Self>>, Error> {
        static SHARED: Mutex<Weak<ApiServer>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return Ok(Some(server));
        }
        let Some(server) = Self::start().await?.map(Arc::new) else { return Ok(None) };
        *shared = Arc::downgrade(&server);
        Ok(Some(server))
    }

    async fn start_once(programs: &Programs) -> Result<Self, Error> {
        // kube asks for the process's choice, which a test may have made already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = TempDir::with_prefix("api-server-")
            .map_err(|cause| Error::File { path: std::env::temp_dir(), cause })?;
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| {
            std::fs::write(at(name), text).map_err(|cause| Error::File { path: at(name), cause })
        };
        let key = rcgen::KeyPair::generate()?;
        write("service-account.key", &key.serialize_pem())?;
        write("service-account.pub", &key.public_key_pem())?;
        write("tokens.csv", &format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n"))?;
        write("audit-policy.json", audit::POLICY)?;

        // Sockets in the folder: nothing to collide with.
        let arguments = [
            "--data-dir=etcd",
            "--listen-client-urls=unix://client:0",
            "--advertise-client-urls=unix://client:0",
            "--listen-peer-urls=unix://peer:0",
            "--initial-advertise-peer-urls=unix://peer:0",
            "--initial-cluster=default=unix://peer:0",
            "--log-level=warn",
        ];
        let mut etcd =
            Process::start(&programs.etcd, &arguments.map(str::to_owned), folder.path(), "etcd.log")?;
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|cause| Error::File { path: "127.0.0.1:0".into(), cause })?
            .port();
        let arguments = [
            "--etcd-servers=unix://client:0",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            &format!("--secure-port={port}"),
            "--cert-dir=certificates",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-account-key-file=service-account.pub",
            "--service-account-signing-key-file=service-account.key",
            "--token-auth-file=tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            // The driver is privileged, as every CSI node driver.
            "--allow-privileged=true",
            // Without controllers no namespace gets its default service account, which pods would then miss.
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
            "--audit-policy-file=audit-policy.json",
            "--audit-log-path=audit.log",
        ];
        let mut kube_apiserver = Process::start(
            &programs.kube_apiserver,
            &arguments.map(str::to_owned),
            folder.path(),
            "kube-apiserver.log",
        )?;

        let started = Instant::now();
        let mut reason = String::new();
        loop {
            for (name, process) in [("etcd", &mut etcd), ("kube-apiserver", &mut kube_apiserver)] {
                if process.has_ended() {
                    let reason = format!("{name} has ended");
                    return Err(Error::NotReady { reason, log: process.log_end() });
                }
            }
            if started.elapsed() > START {
                return Err(Error::NotReady { reason, log: kube_apiserver.log_end() });
            }
            tokio::time::sleep(POLL).await;
            // It makes its certificate, with which it proves itself, when it starts.
            let Ok(certificate) = std::fs::read_to_string(at("certificates/apiserver.crt")) else { continue };
            write("ca.crt", &certificate)?;
            write("kubeconfig", &kubeconfig(port, &at("ca.crt"), ADMIN_TOKEN))?;
            let kubeconfig = Kubeconfig::read_from(at("kubeconfig"))?;
            let ready = match client_of(&kubeconfig, |_| {}).await {
                // A list is a GET of just the path.
                Ok(client) => match kube::core::Request::new("/readyz").list(&ListParams::default()) {
                    Ok(request) => client.request_text(request).await,
                    Err(error) => Err(kube::Error::BuildRequest(error)),
                },
                Err(Error::Api(error)) => Err(error),
                Err(error) => return Err(error),
            };
            match ready {
                Ok(_) => {
                    return Ok(Self { _kube_apiserver: kube_apiserver, _etcd: etcd, folder, kubeconfig });
                }
                Err(error) => reason = error.to_string(),
            }
        }
    }

    async fn install_crds(&self) -> Result<(), Error> {
        let failed = |cause| Error::File { path: CRDS.into(), cause };
        let crds: Api<CustomResourceDefinition> = Api::all(self.client().await?);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(CRDS).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let text = std::fs::read_to_string(&path).map_err(failed)?;
            let crd: CustomResourceDefinition = serde_saphyr::from_str(&text)
                .map_err(|error| Error::Manifest { path, reason: error.to_string() })?;
            names.extend(crd.metadata.name.clone());
            crds.create(&PostParams::default(), &crd).await?;
        }
        for name in names {
            let established = |crd: CustomResourceDefinition| {
                let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
                conditions.iter().any(|one| one.type_ == "Established" && one.status == "True")
            };
            while !established(crds.get(&name).await?) {
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// A client that may do everything.
    ///
    /// # Errors
    /// When it cannot be set up.
    pub async fn client(&self) -> Result<Client, Error> {
        client_of(&self.kubeconfig, |_| {}).await
    }

    /// A client that acts as this user, without groups: it may do what RBAC grants to that name. A service account is
    /// `system:serviceaccount:NAMESPACE:NAME`. Its name is also the client's user agent.
    ///
    /// # Errors
    /// When it cannot be set up.
    pub async fn client_as(&self, user: &str) -> Result<Client, Error> {
        client_of(&self.kubeconfig, |config| {
            config.auth_info.impersonate = Some(user.to_owned());
            config.headers.extend("user-agent".parse().ok().zip(user.parse().ok()));
        })
        .await
    }

    /// A kubeconfig file of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Creates a service account, where there is none, and a kubeconfig file with a token of it.
    ///
    /// # Errors
    /// When the server refuses, or the file cannot be written.
    pub async fn kubeconfig_of(&self, namespace: &str, service_account: &str) -> Result<PathBuf, Error> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let account = ServiceAccount {
            metadata: ObjectMeta { name: Some(service_account.to_owned()), ..ObjectMeta::default() },
            ..ServiceAccount::default()
        };
        match accounts.create(&PostParams::default(), &account).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            other => drop(other?),
        }
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let issued = accounts.create_token_request(service_account, &PostParams::default(), &request).await?;
        let token = issued.status.map(|status| status.token).unwrap_or_default();
        let path = self.folder.path().join(format!("{namespace}.{service_account}.kubeconfig"));
        let port = self.url().rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default();
        std::fs::write(&path, kubeconfig(port, &self.folder.path().join("ca.crt"), &token))
            .map_err(|cause| Error::File { path: path.clone(), cause })?;
        Ok(path)
    }

    /// Address of the server.
    pub fn url(&self) -> String {
        let cluster = self.kubeconfig.clusters.first().and_then(|named| named.cluster.as_ref());
        cluster.and_then(|cluster| cluster.server.clone()).unwrap_or_default()
    }

    /// What the server proves itself with.
    pub(crate) async fn root_certificates(&self) -> Result<Option<Vec<Vec<u8>>>, Error> {
        let config =
            Config::from_custom_kubeconfig(self.kubeconfig.clone(), &KubeConfigOptions::default()).await?;
        Ok(config.root_cert)
    }

    /// Creates a namespace whose name starts with `prefix`.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn namespace(&self, prefix: &str) -> Result<String, Error> {
        let namespaces: Api<Namespace> = Api::all(self.client().await?);
        let metadata = ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        let created = namespaces.create(&PostParams::default(), &namespace).await?;
        Ok(created.metadata.name.unwrap_or_default())
    }

    /// What the server was asked since it started, in the order of arrival; the requests of the fixture itself are among
    /// them, so a test looks for its own namespace.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn requests(&self) -> Result<Vec<Request>, Error> {
        audit::read(&self.folder.path().join("audit.log"))
    }

    /// Deletes what is in a namespace of this kind, as garbage collection would.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn delete<K>(&self, namespace: &str, name: &str) -> Result<(), Error>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        let objects: Api<K> = Api::namespaced(self.client().await?, namespace);
        objects.delete(name, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// The text of a kubeconfig file.
fn kubeconfig(port: u16, ca: &Path, token: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster":
            {"server": format!("https://127.0.0.1:{port}"), "certificate-authority": ca}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
    })
    .to_string()
}

async fn client_of(kubeconfig: &Kubeconfig, change: impl FnOnce(&mut Config)) -> Result<Client, Error> {
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await?;
    change(&mut config);
    Ok(Client::try_from(config)?)
}
