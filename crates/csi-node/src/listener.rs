//! Listening on a TCP port of the node.

use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

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
