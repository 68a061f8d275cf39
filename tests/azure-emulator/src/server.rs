//! Listeners, connections, and the way of one request through faults to the service it is for.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{Response, StatusCode, Version, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket},
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    control,
    counters::LogEntry,
    emulator::Shared,
    entra,
    error::Error,
    faults::{Fault, RetryAfter, Service},
    http::{Reply, Request},
    imds, keyvault,
};

/// More than any request of these services needs.
const BODY_LIMIT: usize = 1024 * 1024;
/// How long a client may take over its TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// What is served behind a listener.
#[derive(Clone)]
pub(crate) enum Endpoint {
    Https(Arc<ServerConfig>),
    Imds,
    Control(Vec<(Service, Door)>),
}

enum Order {
    Close(oneshot::Sender<()>),
    Open(oneshot::Sender<Result<(), Error>>),
}

/// Opens and closes a listener from elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    orders: mpsc::Sender<Order>,
}

impl Door {
    /// Closes listener and connections; returns when new connections are refused.
    pub(crate) async fn close(&self) {
        let (done, wait) = oneshot::channel();
        if self.orders.send(Order::Close(done)).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// Listens on the same address again.
    pub(crate) async fn open(&self) -> Result<(), Error> {
        let (done, wait) = oneshot::channel();
        if self.orders.send(Order::Open(done)).await.is_ok() {
            return wait.await.unwrap_or(Ok(()));
        }
        Ok(())
    }
}

/// A bound address and the task that serves it.
pub(crate) struct Listening {
    address: SocketAddr,
    purpose: &'static str,
    listener: Option<TcpListener>,
    door: Door,
    orders: Option<mpsc::Receiver<Order>>,
    task: Option<JoinHandle<()>>,
}

impl Listening {
    pub(crate) fn bind(address: SocketAddr, purpose: &'static str) -> Result<Self, Error> {
        let listener = listen(address, purpose)?;
        let address = listener.local_addr().map_err(|source| Error::Listen { address, purpose, source })?;
        let (sender, orders) = mpsc::channel(1);
        Ok(Self {
            address,
            purpose,
            listener: Some(listener),
            door: Door { orders: sender },
            orders: Some(orders),
            task: None,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn door(&self) -> Door {
        self.door.clone()
    }

    pub(crate) fn serve(&mut self, endpoint: Endpoint, shared: Arc<Shared>) {
        if let (Some(listener), Some(orders)) = (self.listener.take(), self.orders.take()) {
            let (address, purpose) = (self.address, self.purpose);
            self.task = Some(tokio::spawn(accept(listener, orders, address, purpose, endpoint, shared)));
        }
    }

    pub(crate) async fn stop(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn listen(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, Error> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // An outage that ends must get its address back although old connections linger in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(1024)
    };
    bound().map_err(|source| Error::Listen { address, purpose, source })
}

/// Accepts until the task is aborted; connections end with it, because the set that holds them is dropped.
async fn accept(
    listener: TcpListener,
    mut orders: mpsc::Receiver<Order>,
    address: SocketAddr,
    purpose: &'static str,
    endpoint: Endpoint,
    shared: Arc<Shared>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            match &listener {
                Some(open) => open.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = next => {
                // An error here belongs to one connection that went away before it was taken.
                if let Ok((stream, peer)) = accepted {
                    let _ = stream.set_nodelay(true);
                    connections.spawn(connection(stream, peer, endpoint.clone(), Arc::clone(&shared)));
                }
            }
            Some(order) = orders.recv() => match order {
                Order::Close(done) => {
                    listener = None;
                    connections.shutdown().await;
                    let _ = done.send(());
                }
                Order::Open(done) => {
                    let outcome = if listener.is_some() {
                        Ok(())
                    } else {
                        listen(address, purpose).map(|open| listener = Some(open))
                    };
                    let _ = done.send(outcome);
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection(
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    endpoint: Endpoint,
    shared: Arc<Shared>,
) {
    match endpoint {
        Endpoint::Https(config) => {
            let handshake = TlsAcceptor::from(config).accept(stream);
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await else { return };
            let sni = stream.get_ref().1.server_name().map(str::to_owned);
            talk(stream, move |request| {
                let (shared, sni) = (Arc::clone(&shared), sni.clone());
                async move {
                    let request = read(request, sni, peer).await?;
                    match request {
                        Ok(request) => over_https(&shared, request).await,
                        Err(reply) => Ok(reply),
                    }
                }
            })
            .await;
        }
        Endpoint::Imds => {
            talk(stream, move |request| {
                let shared = Arc::clone(&shared);
                async move {
                    match read(request, None, peer).await? {
                        Ok(request) => {
                            let route = Route::new(Service::Imds, "imds.token", None);
                            let answer = async { imds::respond(&shared, &request) };
                            through_faults(&shared, &request, route, answer).await
                        }
                        Err(reply) => Ok(reply),
                    }
                }
            })
            .await;
        }
        Endpoint::Control(doors) => {
            talk(stream, move |request| {
                let (shared, doors) = (Arc::clone(&shared), doors.clone());
                async move {
                    match read(request, None, peer).await? {
                        Ok(request) => Ok(control::respond(&shared, &doors, &request).await),
                        Err(reply) => Ok(reply),
                    }
                }
            })
            .await;
        }
    }
}

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped on purpose")]
struct Dropped;

async fn talk<S, H, F>(stream: S, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(hyper::Request<Incoming>) -> F,
    F: Future<Output = Result<Reply, Dropped>> + Send + 'static,
{
    let service = service_fn(|request| {
        let answer = handler(request);
        async move {
            answer.await.map(Reply::into_hyper) as Result<Response<http_body_util::Full<Bytes>>, Dropped>
        }
    });
    // What ends a connection early is the client's doing or ours on purpose; there is nobody to tell.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn read(
    request: hyper::Request<Incoming>,
    sni: Option<String>,
    peer: SocketAddr,
) -> Result<Result<Request, Reply>, Dropped> {
    let (parts, body) = request.into_parts();
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => Ok(Ok(Request::new(&parts, body.to_bytes(), sni, peer))),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Ok(Err(Reply::empty(StatusCode::PAYLOAD_TOO_LARGE)))
        }
        Err(_) => Err(Dropped),
    }
}

/// Where a request is going and under which names it is counted.
pub(crate) struct Route {
    service: Service,
    endpoint: String,
    object: Option<String>,
}

impl Route {
    pub(crate) fn new(service: Service, endpoint: impl Into<String>, object: Option<String>) -> Self {
        Self { service, endpoint: endpoint.into(), object }
    }
}

/// Whom a request over HTTPS is for.
enum Destination {
    Authority,
    /// The API server's proxy for identity bindings, known by the server name of the handshake.
    TokenProxy,
    /// A vault by name; none when the host names none and there is none to stand in.
    Vault(Option<String>),
}

fn destination(shared: &Shared, request: &Request) -> Destination {
    if request.sni.as_ref().is_some_and(|name| name.ends_with(".ests.aks")) {
        return Destination::TokenProxy;
    }
    let without_port = |name: &str| name.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let host = request.host_name();
    // The authority's name may itself end in the vaults' suffix.
    if host == without_port(&shared.names.authority) && !is_generic(host) {
        return Destination::Authority;
    }
    let own = without_port(&shared.names.vault_suffix);
    let known = ["vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net"];
    for suffix in std::iter::once(own.as_str()).chain(known) {
        if let Some(name) = host.strip_suffix(suffix).and_then(|name| name.strip_suffix('.')) {
            return Destination::Vault(Some(name.to_owned()));
        }
    }
    let collection = request.segments().first().is_some_and(|first| {
        ["secrets", "keys", "certificates", "deletedsecrets", "deletedkeys", "deletedcertificates"]
            .contains(first)
    });
    if collection {
        return Destination::Vault(shared.vaults.first());
    }
    Destination::Authority
}

/// Host names that say nothing about the service wanted.
fn is_generic(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
}

async fn over_https(shared: &Arc<Shared>, request: Request) -> Result<Reply, Dropped> {
    match destination(shared, &request) {
        Destination::Authority => {
            let route = Route::new(Service::Entra, entra::classify(&request), None);
            through_faults(shared, &request, route, entra::respond(shared, &request, entra::Via::Authority))
                .await
        }
        Destination::TokenProxy => {
            let route = Route::new(Service::Entra, "entra.proxy", None);
            through_faults(shared, &request, route, entra::respond(shared, &request, entra::Via::TokenProxy))
                .await
        }
        Destination::Vault(name) => {
            let route = keyvault::classify(name.as_deref(), &request);
            let answer = keyvault::respond(shared, name.as_deref(), &request);
            through_faults(shared, &request, route, answer).await
        }
    }
}

async fn through_faults(
    shared: &Shared,
    request: &Request,
    route: Route,
    answer: impl Future<Output = Reply>,
) -> Result<Reply, Dropped> {
    let service = match route.service {
        Service::Entra => "entra",
        Service::Vault => "vault",
        Service::Imds => "imds",
    };
    let in_flight = shared.telemetry.arrived(service, &route.endpoint, route.object.as_deref());
    let too_many = route.service == Service::Imds && shared.machine.refuses(in_flight.count());
    let latency = shared.faults.latency(route.service);
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let authorized = request.bearer().is_some();
    let outcome = match shared.faults.strike(route.service, &request.path, authorized) {
        None if too_many => Ok(imds::refuse(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_requests",
            "Too many requests at the same time",
        )),
        None => Ok(answer.await),
        Some(Fault::Reset) => Err(Dropped),
        Some(Fault::Hang) => {
            shared.faults.until_cleared().await;
            Err(Dropped)
        }
        Some(Fault::Refusal { aadsts, code }) if route.service == Service::Entra => {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST);
            Ok(entra::refusal(shared, status, aadsts))
        }
        Some(Fault::Refusal { code, .. }) => Ok(injected(shared, route.service, code, None)),
        Some(Fault::Status { code, retry_after }) => Ok(injected(shared, route.service, code, retry_after)),
    };
    let entry = LogEntry {
        at: shared.clock.now(),
        protocol: match request.version {
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
        .to_owned(),
        method: request.method.to_string(),
        host: request.host.clone(),
        path: match &request.raw_query {
            Some(query) => format!("{}?{query}", request.path),
            None => request.path.clone(),
        },
        endpoint: route.endpoint,
        status: outcome.as_ref().map_or(0, |reply| reply.status.as_u16()),
        traceparent: request.header("traceparent").map(str::to_owned),
        request_id: request
            .header("client-request-id")
            .or_else(|| request.header("x-ms-client-request-id"))
            .map(str::to_owned),
    };
    shared.telemetry.answered(service, entry);
    // The server's own header would tell the machine's time.
    outcome.map(|reply| reply.with_header("date", shared.clock.http_date()))
}

/// The answer to an injected HTTP error.
fn injected(shared: &Shared, service: Service, code: u16, retry_after: Option<RetryAfter>) -> Reply {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reply = match service {
        Service::Vault => keyvault::fault(status),
        Service::Entra => entra::fault(shared, status),
        Service::Imds => imds::refuse(status, "injected", "This error was asked for"),
    };
    match retry_after {
        Some(after) => reply.with_header("retry-after", after.header()),
        None => reply,
    }
}

/// Finds every name at one address.
struct OneAddress(SocketAddr);

impl reqwest::dns::Resolve for OneAddress {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let address: reqwest::dns::Addrs = Box::new(std::iter::once(self.0));
        Box::pin(async move { Ok::<_, Box<dyn std::error::Error + Send + Sync>>(address) })
    }
}

pub(crate) fn client_builder(ca_pem: &str, address: SocketAddr) -> reqwest::ClientBuilder {
    let authority = reqwest::Certificate::from_pem_bundle(ca_pem.as_bytes()).unwrap_or_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_only(authority)
        .dns_resolver(Arc::new(OneAddress(address)))
}
