//! Clients that are slow, silent, greedy or many, on real sockets: none of them costs the process more than the limits say, and
//! others are served all the while.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use csi_node::listener::{self, Limits};
use futures::stream;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Never, for tests in which another limit counts.
const NEVER: Duration = Duration::from_secs(3600);

/// Tells when it is dropped.
struct Guard(Option<oneshot::Sender<()>>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.take().map(|dropped| dropped.send(()));
    }
}

/// A server with these limits.
async fn server(limits: Limits) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let router = Router::new().route("/", get(|| async { "ok" }));
    serve(limits, router).await
}

async fn serve(limits: Limits, router: Router) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let listener = listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        listener::serve(listener, router, limits, async move { drop(stopped.await) }).await;
    });
    (address, stop, serving)
}

async fn connect(address: SocketAddr, sent: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream
}

/// Everything that comes until the other side ends it. A reset is an end.
async fn rest(mut stream: TcpStream) -> String {
    let mut received = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("the server ends it");
    String::from_utf8_lossy(&received).into_owned()
}

async fn ask(address: SocketAddr) -> String {
    rest(connect(address, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await).await
}

#[tokio::test]
async fn a_client_that_does_not_end_its_headers_is_hung_up_on() {
    let short = Duration::from_millis(100);
    let (address, _stop, _serving) = server(Limits { head_time: short, life: NEVER, ..Limits::PROBES }).await;
    let silent = connect(address, b"").await;
    let slow = connect(address, b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ").await;
    // One that was served and says no more.
    let kept = connect(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(rest(silent).await, "");
    assert!(!rest(slow).await.contains("200 OK"));
    assert!(rest(kept).await.ends_with("\r\n\r\nok"));
    assert!(ask(address).await.ends_with("ok"));
}

#[tokio::test]
async fn a_further_connection_takes_the_place_of_the_oldest() {
    let limits = Limits { connections: 3, head_time: NEVER, life: NEVER, ..Limits::PROBES };
    let (address, _stop, _serving) = server(limits).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        slow.push(connect(address, b"GET / HT").await);
    }
    // The kubelet's probe comes through, and whoever came before it has gone.
    assert!(ask(address).await.ends_with("ok"));
    let newest = slow.split_off(50 - 2);
    for stream in slow {
        assert_eq!(rest(stream).await, "");
    }
    // Those that are within the limit may still end what they began.
    for mut stream in newest {
        stream.write_all(b"TP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(rest(stream).await.ends_with("ok"));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_hung_up_on() {
    let limits = Limits { life: Duration::from_millis(100), ..Limits::PROBES };
    let (dropped, given_up) = oneshot::channel();
    let guard = Arc::new(Mutex::new(Some(Guard(Some(dropped)))));
    // An answer without an end, so that no buffer between the two holds it.
    let endless = move || {
        let guard = guard.lock().unwrap().take();
        let chunks = stream::repeat_with(move || {
            let _ = &guard;
            Ok::<_, Infallible>(vec![b'x'; 64 * 1024])
        });
        async move { Body::from_stream(chunks) }
    };
    let router = Router::new().route("/", get(|| async { "ok" })).route("/endless", get(endless));
    let (address, _stop, _serving) = serve(limits, router).await;
    let deaf = connect(address, b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await;
    timeout(PATIENCE, given_up).await.expect("the server gives up").unwrap();
    assert!(rest(deaf).await.starts_with("HTTP/1.1 200 OK"));
    assert!(ask(address).await.ends_with("ok"));
}

#[tokio::test]
async fn large_headers_are_refused_and_large_bodies_are_not_read() {
    let (address, _stop, _serving) = server(Limits { head_time: NEVER, life: NEVER, ..Limits::PROBES }).await;
    let mut greedy = connect(address, b"GET / HTTP/1.1\r\nHost: a\r\n").await;
    let line = format!("X-Long: {}\r\n", "x".repeat(Limits::PROBES.head_bytes));
    let _ = greedy.write_all(line.as_bytes()).await;
    assert!(rest(greedy).await.starts_with("HTTP/1.1 431 "));
    let mut body =
        connect(address, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n").await;
    let _ = body.write_all(&vec![b'x'; 64 * 1024]).await;
    assert!(ask(address).await.ends_with("ok"));
    // The answer, and then the end: nobody waits for a terabyte.
    let _ = rest(body).await;
}

#[tokio::test]
async fn a_stop_ends_what_is_open() {
    let (address, stop, serving) = server(Limits { head_time: NEVER, life: NEVER, ..Limits::PROBES }).await;
    let open = connect(address, b"GET / HT").await;
    assert!(ask(address).await.ends_with("ok"));
    stop.send(()).unwrap();
    timeout(PATIENCE, serving).await.expect("it ends").unwrap();
    assert_eq!(rest(open).await, "");
    assert!(TcpStream::connect(address).await.is_err());
}
