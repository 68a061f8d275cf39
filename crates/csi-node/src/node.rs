//! `akv-csi node`: puts the driver together from its flags, serves it, and takes it down in order.

use crate::authority::ForLocalhost;
use crate::build_info::CHART_VERSION;
use crate::class::{ApiServer, Classes, Folder};
use crate::cli::NodeArgs;
use crate::csi::{IdentityService, NodeService};
use crate::driver::{Driver, Parts, Settings};
use crate::endpoint::BoundSocket;
use crate::error::StartError;
use crate::events::Events;
use crate::health::Health;
use crate::metrics::{self, Metrics};
use crate::provider::ExternalProviders;
use crate::registration::{self, Announcement};
use crate::reporting::Reporting;
use crate::rotation::Schedule;
use crate::service_account::ServiceAccounts;
use crate::status::About;
use crate::telemetry::{OtlpSettings, Traces, Verbosity};
use crate::upkeep::{self, Upkeep};
use crate::volume::{Options, Volumes};
use crate::{admin, health_server, http, kubernetes, manifests, startup_taint, telemetry};
use identity::{Allowed, ArcAgent, CloudChoice, TokenProxyConfig, Tokens, VmIdentitySource};
use proto::csi::identity_server::IdentityServer;
use proto::csi::node_server::NodeServer;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use url::Url;

/// How long calls in flight may take to end after a signal. The pod's grace period is 30 s by default.
const GRACE: Duration = Duration::from_secs(20);

/// How long a collector of traces is waited for after that.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// Runs the node driver until SIGTERM or SIGINT.
///
/// # Errors
/// [`StartError`], before anything is bound where a flag is wrong.
pub async fn run(arguments: NodeArgs) -> Result<(), StartError> {
    let verbosity = telemetry::start(arguments.verbosity, arguments.log_format_json.is_on());
    for flag in arguments.retired.given() {
        tracing::warn!(flag, "this flag of the reference has no effect here");
    }
    let kubernetes = if arguments.secret_provider_classes.is_none() || arguments.startup_taint.is_some() {
        Some(kubernetes::client(arguments.kubeconfig.as_deref()).await?)
    } else {
        None
    };
    let driver = Arc::new(assemble(&arguments, kubernetes.as_ref(), Purpose::Serve)?);
    let health = Arc::new(Health::new(arguments.registration_dir.is_some()));
    let heart = tokio::spawn({
        let health = Arc::clone(&health);
        async move { health.beat().await }
    });
    if let (Some(client), Some(key)) = (kubernetes, arguments.startup_taint.clone()) {
        let (health, node) = (Arc::clone(&health), node_id(&arguments.node_id));
        tokio::spawn(async move {
            health.wait_registered().await;
            startup_taint::remove(client, &node, &key).await;
        });
    }
    let result = serve(&arguments, driver, health, verbosity).await;
    heart.abort();
    result
}

/// What a driver is put together for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To serve the kubelet, and to tell the cluster.
    Serve,
    /// To be looked at: nothing is followed, and nothing is written anywhere.
    Examine,
}

/// Everything behind the sockets.
pub(crate) fn assemble(
    arguments: &NodeArgs,
    kubernetes: Option<&kube::Client>,
    purpose: Purpose,
) -> Result<Driver, StartError> {
    let bad_flag = |flag, reason: String| StartError::Flag { flag, reason };
    CloudChoice::parse(&arguments.cloud_name).map_err(|error| bad_flag("--cloud-name", error.to_string()))?;
    if arguments.publish_timeout.is_zero() {
        return Err(bad_flag(
            "--publish-timeout",
            "0 leaves no time for anything: write a duration such as 1m45s".to_owned(),
        ));
    }
    let http = http::client(&arguments.custom_user_agent)?;
    let policy = identity::Policy {
        vm_identity_namespaces: Allowed::parse(&arguments.vm_identity_namespaces),
        tenants: Allowed::parse(&arguments.allowed_tenants),
        clouds: Allowed::parse(&arguments.allowed_clouds),
    };
    let mut config = identity::Config::new(http.clone())?;
    config.vm_identity = vm_identity_source()?;
    config.token_proxy = Some(token_proxy(arguments)?);
    config.policy = policy.clone();
    let tokens = Tokens::new(config)?;
    let metrics = Arc::new(Metrics::new());
    metrics.tokens.watch(tokens.clone());
    let node = node_id(&arguments.node_id);
    let otlp = OtlpSettings::read(arguments.otlp_endpoint.as_deref(), &node, environment)?;
    let traces = match otlp.filter(|_| purpose == Purpose::Serve) {
        None => Traces::default(),
        Some(settings) => {
            let client = http::client_for_collector(&arguments.custom_user_agent)?;
            tracing::info!(settings = ?settings, "spans are exported");
            Traces::export(settings, client, Arc::clone(&metrics.spans))
        }
    };
    let options = vault::ClientOptions { observer: metrics.vault.clone(), ..vault::ClientOptions::default() };
    let vault = vault::Client::new(http, options);
    let volumes = Arc::new(Volumes::new(Options {
        size_bytes: arguments.volume_size,
        noexec: arguments.volume_noexec.is_on(),
        ..Options::default()
    }));
    let (classes, accounts, reporting) = match (&arguments.secret_provider_classes, kubernetes) {
        (Some(folder), _) => {
            if !folder.is_dir() {
                let reason = format!("{} is not a folder that can be read", folder.display());
                return Err(bad_flag("--secret-provider-classes", reason));
            }
            let files = Arc::new(manifests::Folder::new(folder.clone()));
            let classes = Classes::Folder(Folder::new(Arc::clone(&files)));
            (classes, ServiceAccounts::Folder(files), Reporting::Standalone)
        }
        (None, Some(client)) if purpose == Purpose::Examine => {
            let classes = Classes::ApiServer(ApiServer::new(client.clone()));
            (classes, ServiceAccounts::ApiServer(client.clone()), Reporting::Standalone)
        }
        (None, Some(client)) => {
            let api_server = ApiServer::new(client.clone());
            tokio::spawn(api_server.clone().follow());
            let classes = Classes::ApiServer(api_server);
            let events = Events::start(client.clone(), node.clone());
            let upkeep = Upkeep::new(
                client.clone(),
                &node,
                classes.clone(),
                Arc::clone(&volumes),
                events.clone(),
                Arc::clone(&metrics),
                upkeep::CHECK,
            );
            tokio::spawn(upkeep.clone().run());
            (classes, ServiceAccounts::ApiServer(client.clone()), Reporting::ApiServer { upkeep, events })
        }
        (None, None) => return Err(StartError::Kubernetes("none was set up".to_owned())),
    };
    metrics.objects.watch(reporting.clone());
    let settings = Settings {
        schedule: Schedule {
            rotation: arguments.enable_secret_rotation.is_on(),
            interval: arguments.rotation_poll_interval,
            mount_freshness: arguments.mount_freshness,
            stale_if_error: arguments.stale_if_error,
            seed: Schedule::seed(),
        },
        timeout: arguments.publish_timeout,
        rendering: vault::Rendering {
            construct_pem_chain: arguments.construct_pem_chain.is_on(),
            separate_cert_and_key_files: arguments.write_cert_and_key_in_separate_files.is_on(),
        },
        default_cloud: arguments.cloud_name.clone(),
        default_cloud_file: environment("AZURE_ENVIRONMENT_FILEPATH").map(PathBuf::from),
        default_authority: environment("AZURE_AUTHORITY_HOST"),
        policy,
    };
    let folders = arguments.additional_provider_volume_paths.iter().chain([&arguments.provider_volume]);
    let folders = folders.filter(|folder| !folder.as_os_str().is_empty()).cloned().collect();
    let providers = ExternalProviders::new(folders, arguments.max_call_recv_msg_size);
    Ok(Driver::new(
        settings,
        Parts { classes, accounts, reporting, tokens, vault, providers, volumes, metrics, traces },
    ))
}

/// Binds the CSI socket, serves it, then announces it to the kubelet; after a signal the other way round.
async fn serve(
    arguments: &NodeArgs,
    driver: Arc<Driver>,
    health: Arc<Health>,
    verbosity: Verbosity,
) -> Result<(), StartError> {
    let path = arguments.endpoint.path();
    let unlistened = |path: PathBuf| move |cause| StartError::Socket { path, cause };
    let mut terminate = signal(SignalKind::terminate()).map_err(unlistened("signal handler".into()))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unlistened("signal handler".into()))?;
    let (_socket, listener) = BoundSocket::bind(path).map_err(unlistened(path.to_owned()))?;
    let (stop, stopped) = watch::channel(false);
    let when_stopped = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is a stop too.
        let _ = stopped.wait_for(|stop| *stop).await;
    };

    let connections = UnixListenerStream::new(listener).map(|connection| connection.map(ForLocalhost::new));
    let csi = Server::builder()
        .add_service(IdentityServer::new(IdentityService::new(
            arguments.driver_name.clone(),
            Arc::clone(&health),
        )))
        .add_service(NodeServer::new(NodeService::new(Arc::clone(&driver), node_id(&arguments.node_id))))
        .serve_with_incoming_shutdown(connections, when_stopped(stopped.clone()));
    let mut csi = tokio::spawn(csi);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), endpoint = %arguments.endpoint, driver = %arguments.driver_name, "serving CSI"
    );

    let admin_socket = arguments.admin_socket.clone().unwrap_or_else(|| admin::default_socket(path));
    let (admin_driver, until) = (Arc::clone(&driver), when_stopped(stopped.clone()));
    let about = About {
        node: node_id(&arguments.node_id),
        driver_name: arguments.driver_name.clone(),
        started: SystemTime::now(),
        health: Arc::clone(&health),
        // What comes before is this program and its subcommand.
        arguments: std::env::args_os().skip(2).map(|text| text.to_string_lossy().into_owned()).collect(),
        chart: environment(CHART_VERSION),
    };
    tokio::spawn(async move {
        if let Err(error) = admin::serve(&admin_socket, admin_driver, about, verbosity, until).await {
            tracing::error!(socket = %admin_socket.display(), %error, "the operator's socket is not served");
        }
    });
    if let Some(address) = arguments.health_addr {
        let (health, until) = (Arc::clone(&health), when_stopped(stopped.clone()));
        tokio::spawn(async move {
            // Volumes matter more than probes: a port that is taken is told, and the driver runs on.
            if let Err(error) = health_server::serve(address, health, until).await {
                tracing::error!(%address, %error, "the health endpoints are not served");
            }
        });
    }

    let second = arguments.prometheus_port.map(|port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    for address in [arguments.metrics_addr, second].into_iter().flatten() {
        tokio::spawn(metrics::server::serve(
            address,
            Arc::clone(driver.metrics()),
            when_stopped(stopped.clone()),
        ));
    }

    let mut registration = arguments.registration_dir.clone().map(|folder| {
        let announcement = Announcement {
            driver_name: arguments.driver_name.clone(),
            endpoint: arguments.kubelet_registration_path.clone().unwrap_or_else(|| path.to_owned()),
        };
        let until = when_stopped(stopped.clone());
        tokio::spawn(async move {
            let socket = registration::socket_path(&folder, &announcement.driver_name);
            registration::serve(&folder, announcement, health, until)
                .await
                .map_err(|cause| StartError::Socket { path: socket, cause })
        })
    });

    // Neither server ends by itself unless something is wrong.
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = &mut csi => Some(StartError::Server { service: "CSI", cause: format!("{ended:?}") }),
        Some(ended) = async { Some(registration.as_mut()?.await) } => {
            registration = None;
            Some(ended.map_or_else(
                |failure| StartError::Server { service: "registration", cause: crate::error::ended(&failure) },
                |result| result.err().unwrap_or(StartError::Server { service: "registration", cause: "it ended".to_owned() }),
            ))
        }
    };
    tracing::info!(grace_s = GRACE.as_secs(), "stopping: waiting for calls in flight");
    // Nobody waits for more than this end, so a send that reaches no receiver is fine.
    let _ = stop.send(true);
    let orderly = async {
        if let Some(registration) = registration {
            let _ = registration.await;
        }
        if !csi.is_finished() {
            let _ = csi.await;
        }
    };
    if tokio::time::timeout(GRACE, orderly).await.is_err() {
        tracing::warn!("calls are still in flight after the grace period; the kubelet will repeat them");
    }
    driver.traces().finish(LAST_SPANS).await;
    tracing::info!("stopped; mounted volumes stay as they are");
    failure.map_or(Ok(()), Err)
}

/// A variable of the environment, unless it is blank.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Where the VM's identities get their tokens: the metadata service, or the agent of an Azure Arc machine, which is told by
/// the variables that the agent's installer sets.
pub(crate) fn vm_identity_source() -> Result<VmIdentitySource, StartError> {
    let url = |flag: &'static str, text: String| {
        Url::parse(&text)
            .map_err(|error| StartError::Flag { flag, reason: format!("{text:?} is no URL: {error}") })
    };
    if let Some(host) = environment("AZURE_POD_IDENTITY_AUTHORITY_HOST") {
        return Ok(VmIdentitySource::Imds(url("AZURE_POD_IDENTITY_AUTHORITY_HOST", host)?));
    }
    match (environment("IDENTITY_ENDPOINT"), environment("IMDS_ENDPOINT")) {
        (Some(endpoint), Some(_)) => {
            Ok(VmIdentitySource::Arc(ArcAgent::new(url("IDENTITY_ENDPOINT", endpoint)?)))
        }
        _ => Ok(VmIdentitySource::imds()?),
    }
}

/// The AKS token proxy for identity bindings. It is not looked for before a class uses it.
fn token_proxy(arguments: &NodeArgs) -> Result<TokenProxyConfig, StartError> {
    let port = environment("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok()).unwrap_or(443);
    let mut config = TokenProxyConfig::in_cluster(port)?;
    config.server_name = arguments.sni_name.clone().filter(|name| !name.is_empty());
    if let Some(text) = arguments.token_proxy_url.as_ref().filter(|url| !url.is_empty()) {
        config.url = Url::parse(text).map_err(|error| StartError::Flag {
            flag: "--token-proxy-url",
            reason: format!("{text:?} is no URL: {error}"),
        })?;
    }
    Ok(config)
}

/// The kubelet refuses a driver without a node id, so an unset one becomes the host's name, which is the node's name on most
/// clusters.
fn node_id(given: &str) -> String {
    if given.is_empty() {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        given.to_owned()
    }
}
