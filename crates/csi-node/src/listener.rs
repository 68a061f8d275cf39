//! HTTP on a TCP port of the node, which anybody in the cluster may reach: what one port can cost the process is bounded, whoever
//! connects and however slowly they talk.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::VecDeque;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long to wait when no connection can be taken, because the process has no descriptor left for it.
const AGAIN: Duration = Duration::from_secs(1);

/// What one port may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time. A further one takes the place of the oldest: were it refused instead, whoever holds them all could
    /// keep the kubelet's probes out, and the kubelet would restart the driver.
    pub connections: usize,
    /// Bytes of a request's line and headers.
    pub head_bytes: usize,
    /// Time in which a request's line and headers have to come, on a fresh connection and on one that is kept.
    pub head_time: Duration,
    /// Time after which a connection ends, whatever it is doing: some clients never read what they asked for.
    pub life: Duration,
}

impl Limits {
    /// For a port that probes and scrapers ask, which need one or two connections.
    pub const PROBES: Self = Self {
        connections: 32,
        head_bytes: 16 * 1024,
        head_time: Duration::from_secs(10),
        life: Duration::from_secs(300),
    };
}

/// Binds `address`. `[::]`, which stands for every address of the node, becomes `0.0.0.0` on nodes whose kernel has no IPv6.
///
/// # Errors
/// When the port is taken or may not be bound.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error)
            if address.is_ipv6()
                && address.ip().is_unspecified()
                && error.kind() != std::io::ErrorKind::AddrInUse =>
        {
            // Of the two errors the first says more.
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await.map_err(|_| error)
        }
        bound => bound,
    }
}

/// Serves what comes to a port, within the limits, until `stop` resolves.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: impl Future<Output = ()>) {
    let mut stop = pin!(stop);
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be taken");
                // Nothing was taken from the queue, so the next try would fail at once.
                if error.raw_os_error().is_some_and(|code| !is_of_the_peer(code)) {
                    tokio::time::sleep(AGAIN).await;
                }
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        while open.len() >= limits.connections {
            let Some(oldest) = open.pop_front() else { break };
            oldest.abort();
            // Its descriptor is free when its task is gone.
            let _ = oldest.await;
        }
        open.push_back(tokio::spawn(connection(stream, router.clone(), limits)));
    }
    for connection in open {
        connection.abort();
    }
}

/// Whether `accept` failed because a connection was broken off before it was taken.
fn is_of_the_peer(code: i32) -> bool {
    use rustix::io::Errno;
    [Errno::CONNABORTED, Errno::CONNRESET, Errno::CONNREFUSED, Errno::INTR]
        .iter()
        .any(|errno| errno.raw_os_error() == code)
}

async fn connection(stream: TcpStream, router: Router, limits: Limits) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_time).max_buf_size(limits.head_bytes);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // How it ended matters to the client alone.
    let _ = timeout(limits.life, served).await;
}
