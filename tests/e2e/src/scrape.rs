//! Metrics, as a scraper gets them.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

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
pub fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket has an address").to_string()
}
