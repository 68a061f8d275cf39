//! Metrics, as a scraper gets them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// Where ports begin that are given to tests, how many processes have ports of their own, and how many each.
const FIRST_PORT: u16 = 10_240;
const PROCESSES: u32 = 400;
const PORTS: u16 = 50;

/// An answer to one GET.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// Status line and headers.
    pub head: String,
    /// The rest.
    pub body: String,
}

impl Scrape {
    /// Asks `address` for a path, as HTTP/1.0, whose answers come in one piece.
    ///
    /// # Errors
    /// What connecting or reading failed with.
    pub async fn get(address: &str, path: &str, accept: &str) -> std::io::Result<Self> {
        let mut connection = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\nAccept: {accept}\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        Ok(Self { head: head.to_owned(), body: body.to_owned() })
    }

    /// The metrics of the driver at `address`, in the text format, as soon as they are served.
    pub async fn metrics(address: &str) -> Self {
        let served = timeout(PATIENCE, async {
            loop {
                if let Ok(scrape) = Self::get(address, "/metrics", "*/*").await {
                    return scrape;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        served.await.unwrap_or_else(|_| panic!("nobody serves metrics at {address}"))
    }

    /// The value of one series, written as it is exposed.
    pub fn value(&self, series: &str) -> Option<f64> {
        let rest = self.body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        rest.parse().ok()
    }
}

/// An address of the loopback that nobody listens on.
///
/// Nor will anybody by chance, before it is used: it is below the range from which the kernel serves those who take any port,
/// such as servers of other tests, and each process has ports of its own to choose from.
pub fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let own = u16::try_from(std::process::id() % PROCESSES).expect("a few hundred");
        let port = FIRST_PORT + own * PORTS + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address.to_string();
        }
    }
}
