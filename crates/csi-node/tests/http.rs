//! Whom the HTTP client trusts, against TLS servers on the loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use csi_node::error::{StartError, chain};
use csi_node::http::client_trusting;
use csi_node::http::trust::anchors;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SerialNumber,
};
use reqwest::Version;
use rustls::crypto::ring::{default_provider, sign::any_ecdsa_type};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A certificate and its key.
struct Identity {
    params: CertificateParams,
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(1);
    params
}

fn authority(name: &str) -> Identity {
    let mut params = params(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    self_signed(params)
}

/// What `openssl req -x509` makes for a server: self-signed, and a CA.
fn standalone(host: &str) -> CertificateParams {
    let mut params = params("one server", &[host]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn self_signed(params: CertificateParams) -> Identity {
    self_signed_with(params, KeyPair::generate().unwrap())
}

fn self_signed_with(params: CertificateParams, key: KeyPair) -> Identity {
    let certificate = params.self_signed(&key).unwrap();
    Identity { params, pem: certificate.pem(), certificate: certificate.der().clone(), key }
}

fn issued(by: &Identity, host: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    let params = params("a server", &[host]);
    let certificate = params.signed_by(&key, &Issuer::from_params(&by.params, &by.key)).unwrap();
    Identity { params, pem: certificate.pem(), certificate: certificate.der().clone(), key }
}

/// Shows a certificate without asking whether the key is its own.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A server that speaks HTTP/1.1 and HTTP/2; the port it listens on.
async fn serve(
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
    versions: &[&'static SupportedProtocolVersion],
) -> u16 {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let shown = CertifiedKey::new(vec![certificate.clone()], any_ecdsa_type(&key).unwrap());
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shown(Arc::new(shown))));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Clients that do not trust the server hang up here.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|request: hyper::Request<_>| {
                    let _: &hyper::body::Incoming = request.body();
                    let agent = request.headers().get("user-agent").unwrap().to_str().unwrap().to_owned();
                    async { Ok::<_, std::convert::Infallible>(hyper::Response::new(agent)) }
                });
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    port
}

async fn server(identity: &Identity) -> u16 {
    serve(&identity.certificate, &identity.key, rustls::ALL_VERSIONS).await
}

/// A folder with the files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// Asks `https://{host}:{port}/`, trusting the PEM text.
async fn ask(trusted: &str, host: &str, port: u16) -> Result<reqwest::Response, String> {
    let folder = folder(&[("trusted.pem", trusted)]);
    ask_with(Some(&folder.path().join("trusted.pem")), None, &[], host, port).await
}

async fn ask_with(
    file: Option<&Path>,
    folders: Option<&OsStr>,
    system: &[&Path],
    host: &str,
    port: u16,
) -> Result<reqwest::Response, String> {
    let anchors = anchors(file.map(Path::as_os_str), folders, system).unwrap();
    let client = client_trusting(anchors, "").unwrap();
    client.get(format!("https://{host}:{port}/")).send().await.map_err(|error| chain(&error))
}

#[track_caller]
fn assert_refused(answer: Result<reqwest::Response, String>, why: &str) {
    let refusal = answer.expect_err("the server was trusted");
    assert!(refusal.contains(why), "{refusal}");
}

#[tokio::test]
async fn a_private_ca_is_trusted_and_http_2_is_spoken() {
    let ca = authority("private");
    let port = server(&issued(&ca, "localhost")).await;
    let answer = ask(&ca.pem, "localhost", port).await.unwrap();
    assert_eq!(answer.version(), Version::HTTP_2);
    assert_refused(ask(&ca.pem, "127.0.0.1", port).await, "not valid for name");
}

#[tokio::test]
async fn an_unknown_ca_is_not_trusted() {
    let port = server(&issued(&authority("other"), "localhost")).await;
    assert_refused(ask(&authority("private").pem, "localhost", port).await, "UnknownIssuer");
}

#[tokio::test]
async fn a_server_whose_certificate_is_an_anchor_is_trusted() {
    let one = self_signed(standalone("localhost"));
    for versions in [&[&version::TLS12], &[&version::TLS13]] {
        let port = serve(&one.certificate, &one.key, versions).await;
        ask(&one.pem, "localhost", port).await.unwrap();
    }
    let mut no_ca = standalone("localhost");
    no_ca.is_ca = IsCa::ExplicitNoCa;
    let no_ca = self_signed(no_ca);
    ask(&no_ca.pem, "localhost", server(&no_ca).await).await.unwrap();
    let by_another = issued(&authority("not configured"), "localhost");
    ask(&by_another.pem, "localhost", server(&by_another).await).await.unwrap();
}

#[tokio::test]
async fn an_anchor_is_trusted_for_its_own_name_only() {
    let one = self_signed(standalone("localhost"));
    assert_refused(ask(&one.pem, "127.0.0.1", server(&one).await).await, "not valid for name");
}

#[tokio::test]
async fn an_anchor_is_trusted_in_its_own_time_only() {
    let mut expired = standalone("localhost");
    expired.not_after = OffsetDateTime::now_utc() - Duration::hours(1);
    let expired = self_signed(expired);
    assert_refused(ask(&expired.pem, "localhost", server(&expired).await).await, "expired");

    let mut future = standalone("localhost");
    future.not_before = OffsetDateTime::now_utc() + Duration::hours(1);
    let future = self_signed(future);
    assert_refused(ask(&future.pem, "localhost", server(&future).await).await, "not valid yet");
}

#[tokio::test]
async fn an_anchor_for_clients_is_no_server() {
    let mut client = standalone("localhost");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client = self_signed(client);
    assert_refused(ask(&client.pem, "localhost", server(&client).await).await, "InvalidPurpose");

    let mut both = standalone("localhost");
    both.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let both = self_signed(both);
    ask(&both.pem, "localhost", server(&both).await).await.unwrap();
}

#[tokio::test]
async fn a_certificate_like_an_anchor_is_not_the_anchor() {
    let one = self_signed(standalone("localhost"));
    let same_name = self_signed(standalone("localhost"));
    assert_refused(ask(&one.pem, "localhost", server(&same_name).await).await, "CaUsedAsEndEntity");

    let mut again = standalone("localhost");
    again.serial_number = Some(SerialNumber::from(7u64));
    let key = KeyPair::try_from(one.key.serialize_der()).unwrap();
    let same_key = self_signed_with(again, key);
    assert_refused(ask(&one.pem, "localhost", server(&same_key).await).await, "CaUsedAsEndEntity");
}

#[tokio::test]
async fn an_anchor_without_its_key_is_not_trusted() {
    let one = self_signed(standalone("localhost"));
    let stranger = KeyPair::generate().unwrap();
    for versions in [&[&version::TLS12], &[&version::TLS13]] {
        let port = serve(&one.certificate, &stranger, versions).await;
        assert_refused(ask(&one.pem, "localhost", port).await, "BadSignature");
    }
}

#[tokio::test]
async fn the_variables_add_to_what_the_system_has() {
    let names = ["file", "first folder", "second folder", "bundle", "system folder", "second bundle"];
    let [file, first, second, bundle, in_folder, unread] = names.map(authority);
    let place =
        folder(&[("file.pem", &file.pem), ("bundle.crt", &bundle.pem), ("second-bundle.crt", &unread.pem)]);
    let first_folder = folder(&[("a", "no certificate"), ("b.pem", &first.pem)]);
    std::os::unix::fs::symlink("gone", first_folder.path().join("0-dangling")).unwrap();
    std::fs::create_dir(first_folder.path().join("1-folder")).unwrap();
    let second_folder = folder(&[("c", &second.pem)]);
    let system_folder = folder(&[("d", &in_folder.pem)]);
    let path = |name: &str| place.path().join(name);
    let folders = format!("{}::/nowhere:{}", first_folder.path().display(), second_folder.path().display());
    let (file_path, bundle_path, second_bundle) =
        (path("file.pem"), path("bundle.crt"), path("second-bundle.crt"));
    let absent = path("absent.crt");
    let system = [absent.as_path(), &bundle_path, &second_bundle, system_folder.path()];

    for ca in [&file, &first, &second, &bundle, &in_folder] {
        let port = server(&issued(ca, "localhost")).await;
        ask_with(Some(&file_path), Some(folders.as_ref()), &system, "localhost", port).await.unwrap();
    }
    let port = server(&issued(&unread, "localhost")).await;
    let answer = ask_with(Some(&file_path), Some(folders.as_ref()), &system, "localhost", port).await;
    assert_refused(answer, "UnknownIssuer");

    // Empty variables are as good as none.
    for empty in [Some(Path::new("")), None] {
        let folders = empty.map(Path::as_os_str);
        let port = server(&issued(&bundle, "localhost")).await;
        ask_with(empty, folders, &system, "localhost", port).await.unwrap();
        let port = server(&issued(&file, "localhost")).await;
        assert_refused(ask_with(empty, folders, &system, "localhost", port).await, "UnknownIssuer");
    }
}

#[tokio::test]
async fn what_is_no_certificate_is_passed_over() {
    let ca = authority("private");
    let port = server(&issued(&ca, "localhost")).await;
    let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let no_base64 = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    let text = format!("# my CA\n{broken}{no_base64}{}{}", ca.key.serialize_pem(), ca.pem);
    ask(&text, "localhost", port).await.unwrap();
}

#[track_caller]
fn refusal(file: Option<&Path>, system: &[&Path]) -> String {
    match anchors(file.map(Path::as_os_str), None, system) {
        Err(error @ StartError::Http(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let ca = authority("system");
    let place = folder(&[
        ("system.pem", &ca.pem),
        ("key.pem", &ca.key.serialize_pem()),
        ("empty.pem", ""),
        ("broken.pem", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"),
    ]);
    let path = |name: &str| -> PathBuf { place.path().join(name) };
    let system = path("system.pem");
    for (name, why) in [
        ("absent.pem", "cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
        ("key.pem", "has no certificate"),
        ("empty.pem", "has no certificate"),
        ("broken.pem", "has no certificate"),
    ] {
        let file = path(name);
        let text = refusal(Some(&file), &[&system]);
        assert!(text.contains(&format!("SSL_CERT_FILE is {}, which {why}", file.display())), "{text}");
        assert!(text.contains("unset the variable"), "{text}");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
    assert!(refusal(None, &[]).contains("no CA certificate"));
    assert!(refusal(None, &[&path("key.pem"), &path("absent.pem")]).contains("no CA certificate"));
}

#[tokio::test]
async fn the_user_agent_is_the_drivers_and_the_operators() {
    let ca = authority("private");
    let port = server(&issued(&ca, "localhost")).await;
    let place = folder(&[("ca.pem", &ca.pem)]);
    let trusted = || anchors(Some(place.path().join("ca.pem").as_os_str()), None, &[]).unwrap();
    let client = client_trusting(trusted(), "my/1 (cluster 7)").unwrap();
    let answer = client.get(format!("https://localhost:{port}/")).send().await.unwrap();
    let expected = format!("akv-csi/{} my/1 (cluster 7)", env!("CARGO_PKG_VERSION"));
    assert_eq!(answer.text().await.unwrap(), expected);

    match client_trusting(trusted(), "two\nlines") {
        Err(StartError::Flag { flag: "--custom-user-agent", reason }) => {
            assert!(reason.contains(r#""two\nlines""#), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nothing_is_asked_without_tls() {
    let ca = authority("private");
    let place = folder(&[("ca.pem", &ca.pem)]);
    let trusted = anchors(Some(place.path().join("ca.pem").as_os_str()), None, &[]).unwrap();
    let client = client_trusting(trusted, "").unwrap();
    let error = client.get("http://localhost:1/").send().await.unwrap_err();
    assert!(chain(&error).contains("URL scheme is not allowed"), "{}", chain(&error));
}

/// The driver itself, started with the variables. Its folder of classes does not exist, so it ends in any case: with that
/// as the reason once it has an HTTP client.
fn driver_says(ssl_cert_file: &OsStr, ssl_cert_dir: &OsStr) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_akv-csi"))
        .args(["node", "--secret-provider-classes", "/nowhere"])
        .env_clear()
        .env("SSL_CERT_FILE", ssl_cert_file)
        .env("SSL_CERT_DIR", ssl_cert_dir)
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_driver_reads_the_variables() {
    let place = folder(&[("ca.pem", &authority("private").pem)]);
    let absent = place.path().join("absent.pem");
    let text = driver_says(absent.as_os_str(), "".as_ref());
    assert!(text.contains(&format!("SSL_CERT_FILE is {}", absent.display())), "{text}");
    let text = driver_says("".as_ref(), place.path().as_os_str());
    assert!(text.contains("--secret-provider-classes: /nowhere"), "{text}");
}
