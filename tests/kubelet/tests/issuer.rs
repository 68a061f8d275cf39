//! Whoever checks a token finds issuer and keys where the token says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod fake;

use std::net::SocketAddr;
use std::sync::Arc;

use fake::House;
use kubelet::{Issuer, Kubelet, ServerTls};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> (String, Value) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: issuer\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A TLS server that just closes is no worry here.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap();
    (content_type.to_owned(), serde_json::from_str(body).unwrap())
}

fn address(issuer: &Issuer) -> SocketAddr {
    issuer.url().split_once("://").unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn discovery_and_keys_are_served_over_http() {
    let kubelet = House::new().kubelet().start().await.unwrap();
    let issuer = kubelet.issuer();
    assert!(issuer.url().starts_with("http://127.0.0.1:"), "{}", issuer.url());
    let connect = || async { TcpStream::connect(address(issuer)).await.unwrap() };
    let (_, discovery) = get(connect().await, "/.well-known/openid-configuration").await;
    assert_eq!(discovery, issuer.discovery());
    assert_eq!(discovery["issuer"], issuer.url());
    let jwks = discovery["jwks_uri"].as_str().unwrap().strip_prefix(issuer.url()).unwrap();
    let (content_type, keys) = get(connect().await, jwks).await;
    assert_eq!(content_type, "application/jwk-set+json");
    assert_eq!(keys, issuer.jwks());
}

#[tokio::test]
async fn and_over_https_with_a_given_certificate() {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (chain, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let tls = ServerTls::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let house = House::new();
    let kubelet =
        house.kubelet().issuer_tls(tls).issuer_url("https://issuer.example/cluster").start().await.unwrap();
    let Some(kubelet::Event::IssuerReady { url }) = kubelet.events().try_next() else { panic!("not ready") };
    assert_eq!(url, "https://issuer.example/cluster");
    assert!(ServerTls::from_pem(chain.as_bytes(), b"nonsense").is_err());

    let other = Kubelet::builder(house.root(), house.registration_dir())
        .issuer_tls(ServerTls::from_pem(chain.as_bytes(), key.as_bytes()).unwrap())
        .start()
        .await
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let client =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let address = address(other.issuer());
    // A client that gives up in the handshake does not stop the others.
    drop(TcpStream::connect(address).await.unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    let server = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(Arc::new(client)).connect(server, stream).await.unwrap();
    let (_, discovery) = get(stream, "/.well-known/openid-configuration").await;
    assert_eq!(discovery["issuer"], format!("https://{address}"));
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let taken = House::new().kubelet().start().await.unwrap();
    let address = address(taken.issuer());
    let error = House::new().kubelet().issuer_listen(address).start().await.err().unwrap().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}
