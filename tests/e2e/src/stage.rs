//! All parts together: emulator, proxy, kubelet and driver, with a vault and identities of the names the manifests expect.

use crate::{AzureProxy, DriverProcess, manifests, mounts_below};
use azure_emulator::{Config, Emulator, Federation, Identity, Permissions};
use kubelet::{CsiDriver, Kubelet, RepublishPeriod, Timings};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The driver's name, as pods give it.
pub const DRIVER_NAME: &str = "secrets-store.csi.k8s.io";
/// The node's name.
pub const NODE: &str = "node-1";
/// The vault's name.
pub const VAULT: &str = "demo-vault";

/// How long the kubelet may take to register a driver. It looks fifty times a second here.
const REGISTERED: Duration = Duration::from_secs(20);

/// How a stage is set up.
#[derive(Debug, Clone)]
pub struct StageOptions {
    /// Further arguments of the driver.
    pub arguments: Vec<String>,
    /// Time between two publish calls for one mounted volume.
    pub republish: Duration,
    /// Names of the authority and of the vaults' suffix that are not the public cloud's. The stage then writes a file that
    /// describes this cloud, as operators of Azure Stack do; see [`Stage::cloud_file`].
    pub custom_cloud: Option<(String, String)>,
    /// Whether tokens come in the request's secrets (Kubernetes 1.35 and later) or in the volume context.
    pub tokens_in_secrets: bool,
    /// Configuration of the API server that classes come from. Without one they come from files; see [`Stage::deploy`].
    pub kubeconfig: Option<PathBuf>,
}

impl Default for StageOptions {
    fn default() -> Self {
        Self {
            arguments: vec!["--enable-secret-rotation=true".into(), "--rotation-poll-interval=1s".into()],
            // Far away: tests republish when they want to.
            republish: Duration::from_secs(3600),
            custom_cloud: None,
            tokens_in_secrets: true,
            kubeconfig: None,
        }
    }
}

/// Everything that plays a part. Dropping it ends the processes, unmounts what is left and removes the files.
pub struct Stage {
    /// Key Vault, Entra and IMDS.
    pub azure: Emulator,
    /// The kubelet.
    pub kubelet: Kubelet,
    /// The driver; `None` between a stop and a start.
    pub driver: Option<DriverProcess>,
    /// The VM's user-assigned identity, which the vault lets read.
    pub vm_identity: Identity,
    /// The identity that trusts the service account `default/workload-identity-sa`, which the vault lets read.
    pub workload_identity: Identity,
    /// Azure's host names.
    pub proxy: AzureProxy,
    options: StageOptions,
    folder: TempDir,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Stage {
    /// Puts everything up but the driver.
    pub async fn set(options: StageOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("akv-csi-").tempdir().expect("a temporary folder");
        for name in ["classes", "kubelet/plugins/csi-secrets-store", "kubelet/plugins_registry"] {
            std::fs::create_dir_all(folder.path().join(name)).expect("a fresh folder is writable");
        }
        let mut config = Config::default().with_public_names();
        config.control = config.imds;
        if let Some((authority, suffix)) = &options.custom_cloud {
            config.authority_host.clone_from(authority);
            config.vault_suffix.clone_from(suffix);
        }
        let azure = Emulator::start(config).await.expect("free ports");
        let proxy = AzureProxy::start(azure.https_addr()).await;
        std::fs::write(folder.path().join("ca.pem"), azure.ca_pem()).expect("a fresh folder is writable");

        let cloud = serde_json::json!({
            "name": "AzureStackCloud",
            "activeDirectoryEndpoint": azure.authority_url(),
            "keyVaultEndpoint": azure.vault_resource(),
            "keyVaultDNSSuffix": azure.vault_suffix(),
        });
        std::fs::write(folder.path().join("cloud.json"), cloud.to_string())
            .expect("a fresh folder is writable");

        let mut csi_driver = CsiDriver::inline(DRIVER_NAME).expect("a valid name");
        csi_driver.pod_info_on_mount = true;
        csi_driver.requires_republish = true;
        csi_driver.service_account_token_in_secrets = options.tokens_in_secrets;
        csi_driver.token_requests =
            ["api://AzureADTokenExchange", "api://AKSIdentityBinding"].map(kubelet::TokenRequest::new).into();
        let timings = Timings {
            republish: RepublishPeriod { base: options.republish, jitter: Duration::ZERO },
            ..Timings::fast()
        };
        let root = folder.path().join("kubelet");
        let kubelet = Kubelet::builder(&root, root.join("plugins_registry"))
            .node_name(NODE)
            .driver(csi_driver)
            .timings(timings)
            .start()
            .await
            .expect("the test kubelet starts");

        let vm_identity = azure.entra().add_identity("azurekeyvaultsecretsprovider");
        azure.imds().assign_user(&vm_identity.client_id).expect("a known identity");
        let workload_identity = azure.entra().add_identity("workload");
        let trust = Federation::service_account(kubelet.issuer().url(), "default", "workload-identity-sa");
        azure.entra().federate(&workload_identity.client_id, trust).expect("a known identity");
        let vault = azure.vault(VAULT);
        vault.grant(&vm_identity.client_id, Permissions::read());
        vault.grant(&workload_identity.client_id, Permissions::read());

        Self { azure, kubelet, driver: None, vm_identity, workload_identity, proxy, options, folder }
    }

    /// Changes the driver's further arguments, for its next start.
    pub fn set_arguments(&mut self, arguments: Vec<String>) {
        self.options.arguments = arguments;
    }

    /// Puts everything up and waits until the driver is registered.
    pub async fn start(options: StageOptions) -> Self {
        let mut stage = Self::set(options).await;
        stage.start_driver().await;
        stage
    }

    /// Starts the driver and waits until the kubelet has registered it.
    pub async fn start_driver(&mut self) {
        let mut arguments = vec![
            format!("--endpoint=unix://{}", self.socket().display()),
            format!("--node-id={NODE}"),
            format!("--registration-dir={}", self.path("kubelet/plugins_registry").display()),
            self.classes(),
        ];
        arguments.extend(self.options.arguments.iter().cloned());
        let environment = self.environment();
        // A driver that was killed leaves its registration behind. The new one's replaces it in two steps, and the kubelet
        // knows no driver in between; so what is waited for is an event that comes after the start.
        let mut events = self.kubelet.events();
        while events.try_next().is_some() {}
        let driver =
            DriverProcess::start(&self.socket(), &arguments, &environment, &self.path("driver.log")).await;
        self.driver = Some(driver.unwrap_or_else(|error| panic!("{error}")));
        let registered = events.find(|event| matches!(event, kubelet::Event::DriverRegistered { .. }));
        tokio::time::timeout(REGISTERED, registered)
            .await
            .unwrap_or_else(|_| panic!("the kubelet did not register the driver:\n{}", self.log()));
        let registered = self.kubelet.wait_registered(DRIVER_NAME, REGISTERED).await;
        registered.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
    }

    /// Starts this build of the driver without the kubelet, which takes a fraction of the time, with these variables
    /// besides. For tests that make the calls themselves and start many processes.
    pub async fn start_unregistered(
        &self,
        binary: &Path,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> DriverProcess {
        let mut arguments = vec![
            format!("--endpoint=unix://{}", self.socket().display()),
            format!("--node-id={NODE}"),
            self.classes(),
        ];
        arguments.extend(self.options.arguments.iter().cloned());
        let environment: Vec<_> = self.environment().into_iter().chain(variables).collect();
        let log = self.path("driver.log");
        let driver =
            DriverProcess::start_binary(binary, &self.socket(), &arguments, &environment, &log).await;
        driver.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Where the driver finds classes.
    fn classes(&self) -> String {
        match &self.options.kubeconfig {
            Some(kubeconfig) => format!("--kubeconfig={}", kubeconfig.display()),
            None => format!("--secret-provider-classes={}", self.path("classes").display()),
        }
    }

    /// Where the driver finds Azure, and what the manifests say of themselves.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("HTTPS_PROXY".to_owned(), self.proxy.url()),
            ("SSL_CERT_FILE".to_owned(), self.path("ca.pem").display().to_string()),
            ("AZURE_POD_IDENTITY_AUTHORITY_HOST".to_owned(), self.azure.imds_url().expect("IMDS is served")),
            ("AKV_CSI_CHART_VERSION".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ]
    }

    /// A path in the stage's own folder.
    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// The file that describes the stage's cloud, for `cloudEnvFileName`.
    pub fn cloud_file(&self) -> String {
        self.path("cloud.json").display().to_string()
    }

    /// The CSI socket.
    pub fn socket(&self) -> PathBuf {
        self.path("kubelet/plugins/csi-secrets-store/csi.sock")
    }

    /// The driver's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("driver.log")).unwrap_or_default()
    }

    /// Puts a manifest's classes where the driver looks, under a file name, and gives the text back for the kubelet.
    pub fn deploy(&self, name: &str, manifest: &str) -> String {
        std::fs::write(self.path("classes").join(format!("{name}.yaml")), manifest)
            .expect("the folder is writable");
        manifest.to_owned()
    }

    /// The Service Connector sample for this stage.
    pub fn service_connector(&self, secret: &str) -> String {
        manifests::fill(
            manifests::SERVICE_CONNECTOR,
            &[
                ("AZURE_KEYVAULT_CLIENTID", self.vm_identity.client_id.as_str()),
                ("AZURE_KEYVAULT_NAME", VAULT),
                ("KEYVAULT_SECRET_NAME", secret),
                ("AZURE_KEYVAULT_TENANTID", self.azure.tenant()),
            ],
        )
    }

    /// The workload identity manifest for this stage.
    pub fn workload_identity_manifest(&self) -> String {
        manifests::fill(
            manifests::WORKLOAD_IDENTITY,
            &[
                ("USER_ASSIGNED_CLIENT_ID", self.workload_identity.client_id.as_str()),
                ("KEYVAULT_NAME", VAULT),
                ("IDENTITY_TENANT", self.azure.tenant()),
            ],
        )
    }

    /// The managed identity manifest for this stage.
    pub fn managed_identity_manifest(&self) -> String {
        manifests::fill(
            manifests::MANAGED_IDENTITY,
            &[
                ("CLIENT_ID", self.vm_identity.client_id.as_str()),
                ("KEYVAULT_NAME", VAULT),
                ("TENANT_ID", self.azure.tenant()),
            ],
        )
    }

    /// The manifest that mounts one certificate as each type.
    pub fn certificate_types_manifest(&self) -> String {
        manifests::fill(
            manifests::CERTIFICATE_TYPES,
            &[
                ("USER_ASSIGNED_CLIENT_ID", self.workload_identity.client_id.as_str()),
                ("KEYVAULT_NAME", VAULT),
                ("IDENTITY_TENANT", self.azure.tenant()),
            ],
        )
    }

    /// Makes the objects that the manifests mount: `ExampleSecret`, `secret1`, `key1`, `cert1`.
    pub fn fill_vault(&self) {
        let vault = self.azure.vault(VAULT);
        vault.set_secret("ExampleSecret", "MyAKSExampleSecret").expect("a valid secret");
        vault.set_secret("secret1", "Hello!").expect("a valid secret");
        vault.create_key("key1", serde_json::json!({"kty": "RSA", "key_size": 2048})).expect("a valid key");
        let policy = serde_json::json!({
            "key_props": {"exportable": true, "kty": "RSA", "key_size": 2048, "reuse_key": false},
            "secret_props": {"contentType": "application/x-pkcs12"},
            "x509_props": {"subject": "CN=demo.test.com"},
            "issuer": {"name": "Self"},
        });
        vault.create_certificate("cert1", policy).expect("a valid policy");
    }

    /// Mounts below this stage's folder.
    pub fn mounts(&self) -> Vec<crate::MountPoint> {
        mounts_below(self.folder.path())
    }

    /// The stage's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.driver = None;
        for mount in self.mounts().iter().rev() {
            let flags = nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW;
            // A mount that is gone already is what was wanted.
            let _ = nix::mount::umount2(&mount.path, flags);
        }
    }
}
