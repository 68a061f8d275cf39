//! Flags of `akv-csi node`.

use super::Switch;
use super::go_flags::parse_duration;
use crate::endpoint::Endpoint;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that can be said to the node driver. Each flag has an environment variable, which the flag overrides.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Socket on which the kubelet calls the driver, as unix:///PATH.
    #[arg(long, env = "CSI_ENDPOINT", value_name = "URL", default_value = "unix:///tmp/csi.sock")]
    pub endpoint: Endpoint,

    /// Name of this node, as in the Kubernetes API.
    #[arg(long, alias = "nodeid", env = "KUBE_NODE_NAME", value_name = "NAME", default_value = "")]
    pub node_id: String,

    /// Name of the driver, as in the CSIDriver object and in pods' volumes.
    #[arg(
        long,
        alias = "drivername",
        env = "AKV_CSI_DRIVER_NAME",
        value_name = "NAME",
        default_value = "secrets-store.csi.k8s.io"
    )]
    pub driver_name: String,

    /// The kubelet's plugins_registry folder. The driver registers itself there; without it, nothing is registered.
    #[arg(long, env = "AKV_CSI_REGISTRATION_DIR", value_name = "DIR")]
    pub registration_dir: Option<PathBuf>,

    /// Path of the CSI socket as the kubelet sees it, where it differs from the path in --endpoint.
    #[arg(long, env = "AKV_CSI_KUBELET_REGISTRATION_PATH", value_name = "PATH")]
    pub kubelet_registration_path: Option<PathBuf>,

    /// Standalone mode: read SecretProviderClasses from the YAML files of this folder instead of an API server.
    #[arg(long, env = "AKV_CSI_SECRET_PROVIDER_CLASSES", value_name = "DIR")]
    pub secret_provider_classes: Option<PathBuf>,

    /// Taint to remove from this node once the kubelet has registered the driver, for example
    /// secrets-store.csi.k8s.io/agent-not-ready. Nodes that start with it take no pods before volumes can be mounted.
    #[arg(long, env = "AKV_CSI_STARTUP_TAINT", value_name = "KEY")]
    pub startup_taint: Option<String>,

    /// Socket for `akv-csi status`, `doctor`, `refresh` and `log-level`. Default: admin.sock beside the CSI socket.
    #[arg(long, env = "AKV_CSI_ADMIN_SOCKET", value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,

    /// Kubernetes client configuration. Default: KUBECONFIG, then the pod's service account, then ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Look again at Key Vault when the kubelet repeats its call for a mounted volume.
    #[arg(long, env = "AKV_CSI_ENABLE_SECRET_ROTATION", default_value = "false")]
    pub enable_secret_rotation: Switch,

    /// How long the content of a mounted volume is taken as fresh. A class may say otherwise with the parameter
    /// `rotationPollInterval`. Each node takes up to a fifth less, so that a fleet does not ask in step.
    #[arg(long, env = "AKV_CSI_ROTATION_POLL_INTERVAL", default_value = "2m", value_parser = parse_duration)]
    pub rotation_poll_interval: Duration,

    /// How old a value that another mount of the same identity fetched may be to serve a new mount; 0 asks Key Vault for
    /// every mount.
    #[arg(long, env = "AKV_CSI_MOUNT_FRESHNESS", default_value = "5s", value_parser = parse_duration)]
    pub mount_freshness: Duration,

    /// How old a value that a volume of the same identity still uses may be to stand in when Key Vault is down, slow or
    /// throttling; 0 for never. A refusal (401, 403, 404) ends it at once.
    #[arg(long, env = "AKV_CSI_STALE_IF_ERROR", default_value = "1h", value_parser = parse_duration)]
    pub stale_if_error: Duration,

    /// Time in which a publish call must be done or give up. Keep it below the two minutes after which the kubelet does.
    #[arg(long, env = "AKV_CSI_PUBLISH_TIMEOUT", default_value = "1m45s", value_parser = parse_duration)]
    pub publish_timeout: Duration,

    /// Size limit of each volume's tmpfs, in bytes. A volume whose content needs more gets what it needs.
    #[arg(long, env = "AKV_CSI_VOLUME_SIZE", value_name = "BYTES", default_value_t = 64 * 1024 * 1024)]
    pub volume_size: u64,

    /// Mount volumes with noexec.
    #[arg(long, env = "AKV_CSI_VOLUME_NOEXEC", default_value = "false")]
    pub volume_noexec: Switch,

    /// Order the certificates of a PFX as server, intermediates, root.
    #[arg(long, env = "AKV_CSI_CONSTRUCT_PEM_CHAIN", default_value = "true")]
    pub construct_pem_chain: Switch,

    /// Write NAME.crt and NAME.key beside the file of a certificate's secret.
    #[arg(long, env = "AKV_CSI_WRITE_CERT_AND_KEY_IN_SEPARATE_FILES", default_value = "false")]
    pub write_cert_and_key_in_separate_files: Switch,

    /// Azure cloud of classes that do not name one.
    #[arg(long, env = "AKV_CSI_CLOUD_NAME", value_name = "NAME", default_value = "AzurePublicCloud")]
    pub cloud_name: String,

    /// Appended to the User-Agent of requests to Azure.
    #[arg(long, env = "AKV_CSI_CUSTOM_USER_AGENT", value_name = "TEXT", default_value = "")]
    pub custom_user_agent: String,

    /// Address of the AKS token proxy for identity bindings. Default: the cluster's API server.
    #[arg(long, env = "AKV_CSI_TOKEN_PROXY_URL", value_name = "URL")]
    pub token_proxy_url: Option<String>,

    /// TLS server name of the AKS token proxy. Default: computed from the API server's certificate.
    #[arg(long, env = "AKV_CSI_SNI_NAME", value_name = "HOST")]
    pub sni_name: Option<String>,

    /// Namespaces whose pods may use the VM's managed identities, comma-separated; * for all.
    #[arg(long, env = "AKV_CSI_VM_IDENTITY_NAMESPACES", value_name = "NAMESPACES", default_value = "*")]
    pub vm_identity_namespaces: String,

    /// Tenants that a class may name, comma-separated; * for all.
    #[arg(long, env = "AKV_CSI_ALLOWED_TENANTS", value_name = "TENANTS", default_value = "*")]
    pub allowed_tenants: String,

    /// Clouds that a class may name, comma-separated; * for all.
    #[arg(long, env = "AKV_CSI_ALLOWED_CLOUDS", value_name = "CLOUDS", default_value = "*")]
    pub allowed_clouds: String,

    /// Address of /healthz (the process works) and /readyz (the kubelet has registered the driver), as IP:PORT or :PORT.
    /// Without it, neither is served.
    #[arg(long, env = "AKV_CSI_HEALTH_ADDR", value_name = "ADDRESS", value_parser = parse_address)]
    pub health_addr: Option<SocketAddr>,

    /// Folder with the sockets of providers other than azure, which is built in. Searched last.
    #[arg(
        long,
        env = "AKV_CSI_PROVIDER_VOLUME",
        value_name = "DIR",
        default_value = "/var/run/secrets-store-csi-providers"
    )]
    pub provider_volume: PathBuf,

    /// Further folders with sockets of providers, comma-separated. Searched first, in this order.
    #[arg(
        long,
        env = "AKV_CSI_ADDITIONAL_PROVIDER_VOLUME_PATHS",
        value_name = "DIRS",
        value_delimiter = ',',
        default_value = "/etc/kubernetes/secrets-store-csi-providers"
    )]
    pub additional_provider_volume_paths: Vec<PathBuf>,

    /// Longest answer of such a provider, in bytes.
    #[arg(long, env = "AKV_CSI_MAX_CALL_RECV_MSG_SIZE", value_name = "BYTES", default_value_t = 4 * 1024 * 1024)]
    pub max_call_recv_msg_size: usize,

    /// Address of /metrics, as IP:PORT or :PORT. Without it, metrics are not served. The reference's deployments say :8095.
    #[arg(long, env = "AKV_CSI_METRICS_ADDR", value_name = "ADDRESS", value_parser = parse_address)]
    pub metrics_addr: Option<SocketAddr>,

    /// A second port for /metrics, on every address of the node, for scrapers that know the reference's provider (8898).
    #[arg(long, env = "AKV_CSI_PROMETHEUS_PORT", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub prometheus_port: Option<u16>,

    /// Send spans to this collector, as http://HOST:4318 or https://HOST:PORT: OTLP over HTTP, with /v1/traces after the
    /// address. Default: what the variables of OpenTelemetry say (OTEL_EXPORTER_OTLP_ENDPOINT and others); without them,
    /// nothing is recorded.
    #[arg(long, env = "AKV_CSI_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// Write logs as one JSON object a line.
    #[arg(long, env = "AKV_CSI_LOG_FORMAT_JSON", default_value = "false")]
    pub log_format_json: Switch,

    /// Verbosity as the reference counts it: 0 normal, 3 debugging, 5 every step.
    #[arg(
        short = 'v',
        long = "v",
        env = "AKV_CSI_VERBOSITY",
        value_name = "LEVEL",
        default_value_t = 0,
        allow_hyphen_values = true
    )]
    pub verbosity: i32,

    /// Print the build as one line of JSON, as the reference does, and end.
    #[arg(long)]
    pub version: bool,

    /// Flags of the reference that have nothing to do here.
    #[command(flatten)]
    pub retired: RetiredArgs,
}

/// `:8080` means every address of the node, as with Go programs.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let complete = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
    complete.parse().map_err(|_| {
        format!("{text:?} is not an address: write IP:PORT, or :PORT for every address of the node")
    })
}

/// Flags of the reference that mean nothing to a driver with the provider built in. They are accepted so that arguments of
/// an existing deployment start the driver, and a warning names those that were given.
#[derive(Debug, Default, Args)]
pub struct RetiredArgs {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    provider_health_check: Option<String>,
    #[arg(long, hide = true)]
    provider_health_check_interval: Option<String>,
    #[arg(long, hide = true)]
    metrics_backend: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_pprof: Option<String>,
    #[arg(long, hide = true)]
    pprof_port: Option<String>,
    #[arg(long, hide = true)]
    healthz_port: Option<String>,
    #[arg(long, hide = true)]
    healthz_path: Option<String>,
    #[arg(long, hide = true)]
    healthz_timeout: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    filtered_watch_secret: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    logtostderr: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    alsologtostderr: Option<String>,
    #[arg(long, hide = true)]
    stderrthreshold: Option<String>,
    #[arg(long, hide = true)]
    vmodule: Option<String>,
    #[arg(long = "log_dir", hide = true)]
    log_dir: Option<String>,
    #[arg(long = "log_file", hide = true)]
    log_file: Option<String>,
    #[arg(long = "log_file_max_size", hide = true)]
    log_file_max_size: Option<String>,
    #[arg(long = "log_backtrace_at", hide = true)]
    log_backtrace_at: Option<String>,
    #[arg(long = "add_dir_header", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    add_dir_header: Option<String>,
    #[arg(long = "skip_headers", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    skip_headers: Option<String>,
    #[arg(long = "skip_log_headers", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    skip_log_headers: Option<String>,
    #[arg(long = "one_output", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    one_output: Option<String>,
}

impl RetiredArgs {
    /// The retired flags that were given, in their own spelling.
    pub fn given(&self) -> Vec<&'static str> {
        [
            ("--provider-health-check", &self.provider_health_check),
            ("--provider-health-check-interval", &self.provider_health_check_interval),
            ("--metrics-backend", &self.metrics_backend),
            ("--enable-pprof", &self.enable_pprof),
            ("--pprof-port", &self.pprof_port),
            ("--healthz-port", &self.healthz_port),
            ("--healthz-path", &self.healthz_path),
            ("--healthz-timeout", &self.healthz_timeout),
            ("--filtered-watch-secret", &self.filtered_watch_secret),
            ("--logtostderr", &self.logtostderr),
            ("--alsologtostderr", &self.alsologtostderr),
            ("--stderrthreshold", &self.stderrthreshold),
            ("--vmodule", &self.vmodule),
            ("--log_dir", &self.log_dir),
            ("--log_file", &self.log_file),
            ("--log_file_max_size", &self.log_file_max_size),
            ("--log_backtrace_at", &self.log_backtrace_at),
            ("--add_dir_header", &self.add_dir_header),
            ("--skip_headers", &self.skip_headers),
            ("--skip_log_headers", &self.skip_log_headers),
            ("--one_output", &self.one_output),
        ]
        .into_iter()
        .filter_map(|(flag, value)| value.is_some().then_some(flag))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use clap::CommandFactory;
    use std::ffi::OsString;

    fn node(arguments: &[&str]) -> super::NodeArgs {
        let line = ["akv-csi", "node"].iter().chain(arguments).map(OsString::from);
        match Cli::read(line).unwrap().command {
            Command::Node(node) => *node,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_arguments_of_the_reference_charts_start_the_driver() {
        let node = node(&[
            "--endpoint=unix:///csi/csi.sock",
            "--nodeid=aks-1",
            "--provider-volume=/var/run/secrets-store-csi-providers",
            "--additional-provider-volume-paths=/etc/kubernetes/secrets-store-csi-providers",
            "--metrics-addr=:8095",
            "--enable-secret-rotation=true",
            "--rotation-poll-interval=30s",
            "--provider-health-check=false",
            "--provider-health-check-interval=2m",
            "-v=5",
            "--log-format-json=true",
            "-construct-pem-chain=false",
            "--write-cert-and-key-in-separate-files",
            "--cloud-name=AzureUSGovernmentCloud",
            "--logtostderr",
        ]);
        assert_eq!(node.node_id, "aks-1");
        assert!(node.enable_secret_rotation.is_on());
        assert_eq!(node.rotation_poll_interval.as_secs(), 30);
        assert_eq!(node.verbosity, 5);
        assert!(node.log_format_json.is_on());
        assert!(!node.construct_pem_chain.is_on());
        assert!(node.write_cert_and_key_in_separate_files.is_on());
        assert_eq!(node.metrics_addr.map(|address| address.port()), Some(8095));
        assert!(node.retired.given().contains(&"--logtostderr"));
    }

    #[test]
    fn the_last_of_several_equal_flags_counts() {
        let node =
            node(&["--nodeid=a", "--node-id", "b", "-v=5", "--v=300", "--rotation-poll-interval", "-1m"]);
        assert_eq!((node.node_id.as_str(), node.verbosity), ("b", 300));
        assert!(node.rotation_poll_interval.is_zero());
    }

    #[test]
    fn a_bad_value_is_named() {
        let line = ["akv-csi", "node", "--rotation-poll-interval=5"].map(OsString::from);
        let message = Cli::read(line).unwrap_err().to_string();
        assert!(
            message.contains("\"5\" is not a duration") && message.contains("--rotation-poll-interval"),
            "{message}"
        );
    }
}
