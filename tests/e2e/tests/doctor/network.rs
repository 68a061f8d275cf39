//! Names, proxies, certificates, clocks, the metadata service.

use super::*;
use e2e::AzureProxy;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

type Change<'a> = &'a dyn Fn(&mut CertificateParams);

const WAY: [&str; 2] = ["--only", "dns,tls,clock"];

#[tokio::test]
async fn clocks_that_differ_are_told() {
    if !can_mount() {
        return;
    }
    let stage = stage().await;
    for (offset, word) in [(3600, "behind"), (-3600, "ahead of")] {
        stage.azure.clock().set_offset(offset);
        let examined = examine_class(&stage, "kv", &WAY).await;
        for host in ["login.microsoftonline.com", "demo-vault.vault.azure.net"] {
            examined.assert_failed("clock", &[word, host], &["time service"]);
        }
        examined.assert_ok("tls", 2);
    }
    stage.azure.clock().set_offset(120);
    let examined = examine_class(&stage, "kv", &WAY).await;
    assert_eq!((examined.code, examined.of("clock")[0].0), (0, "warning"), "{}", examined.out);
}

#[tokio::test]
async fn proxies_and_authorities_that_do_not_do_are_told() {
    if !can_mount() {
        return;
    }
    let stage = stage().await;
    let file = token_file(&stage, ACCOUNT);
    let arguments =
        [&["--class", "default/kv", "--service-account", ACCOUNT, "--token-file", &file][..], &WAY].concat();

    // Nothing listens there, and the password in its address is nobody's business.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = format!("http://operator:pr0xy-pass@{closed}");
    let examined = examine(&stage, &arguments, &[("HTTPS_PROXY", &proxy)]).await;
    let address = format!("through the proxy http://{closed}");
    examined.assert_failed(
        "tls",
        &["login.microsoftonline.com cannot be reached", &address],
        &["NO_PROXY", "HTTPS_PROXY="],
    );
    assert!(!examined.out.contains("pr0xy-pass"), "{}", examined.out);

    // An authority of the same name as the one that is trusted.
    let other = Emulator::start(azure_emulator::Config::default()).await.unwrap();
    let ca = stage.path("other.pem");
    std::fs::write(&ca, other.ca_pem()).unwrap();
    let examined = examine(&stage, &arguments, &[("SSL_CERT_FILE", ca.to_str().unwrap())]).await;
    examined.assert_failed("tls", &["has not signed it", "other.pem"], &["replace its certificate"]);

    // A file of certificates without any.
    std::fs::write(&ca, "").unwrap();
    let examined = examine(&stage, &arguments, &[("SSL_CERT_FILE", ca.to_str().unwrap())]).await;
    assert_eq!(examined.code, 1, "{}", examined.out);
    assert!(
        examined.out.contains("SSL_CERT_FILE is") && examined.out.contains("no certificate"),
        "{}",
        examined.out
    );
}

#[tokio::test]
async fn certificates_that_expired_or_are_somebody_elses_are_told() {
    if !can_mount() {
        return;
    }
    let stage = stage().await;
    let file = token_file(&stage, ACCOUNT);
    let arguments =
        [&["--class", "default/kv", "--service-account", ACCOUNT, "--token-file", &file][..], &WAY].concat();
    let hosts = ["login.microsoftonline.com".to_owned(), "demo-vault.vault.azure.net".to_owned()];
    let expired = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    };
    let future = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
    };
    let same = |_: &mut CertificateParams| {};
    // As of a proxy that inspects TLS.
    let stranger = stage.path("ca.pem").display().to_string();
    let (address, _) = serve(&hosts, &same).await;
    let proxy = AzureProxy::start(address).await;
    let url = proxy.url();
    let changes = [("HTTPS_PROXY", url.as_str()), ("SSL_CERT_FILE", stranger.as_str())];
    let examined = examine(&stage, &arguments, &changes).await;
    examined.assert_failed("tls", &["its certificate is issued by", "ca.pem"], &["SSL_CERT_FILE", "inspect"]);

    let cases: [(&[String], Change<'_>, &str, &str); 3] = [
        (&hosts, &expired, "expired at 2021-01-01T00:00:00Z", "set the node's clock if it is wrong"),
        (&hosts, &future, "is valid from 2090-01-01T00:00:00Z on", "clock"),
        (
            &["captive.portal".to_owned()],
            &same,
            "is for captive.portal and not for login.microsoftonline.com",
            "check DNS",
        ),
    ];
    for (names, change, words, cure) in cases {
        let (address, ca) = serve(names, change).await;
        let proxy = AzureProxy::start(address).await;
        let path = stage.path("own-ca.pem");
        std::fs::write(&path, ca).unwrap();
        let changes = [("HTTPS_PROXY", proxy.url()), ("SSL_CERT_FILE", path.display().to_string())];
        let changes = changes.each_ref().map(|(name, value)| (*name, value.as_str()));
        let examined = examine(&stage, &arguments, &changes).await;
        examined.assert_failed("tls", &["login.microsoftonline.com is reached", words], &[cure]);
    }
}

/// A TLS server with a certificate of its own authority; its address, and the authority in PEM.
async fn serve(names: &[String], change: Change<'_>) -> (SocketAddr, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(names.to_vec()).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            // Its clients hang up in the middle of the handshake, which is what is wanted.
            tokio::spawn(async move { drop(acceptor.accept(stream).await) });
        }
    });
    (address, issuer.pem())
}

#[tokio::test]
async fn names_that_do_not_resolve_and_a_metadata_service_that_is_not_there_are_told() {
    if !can_mount() {
        return;
    }
    let stage = stage().await;
    let cloud = serde_json::json!({
        "activeDirectoryEndpoint": "https://login.invalid/", "keyVaultDNSSuffix": "vault.invalid",
        "keyVaultEndpoint": "https://vault.invalid",
    });
    let path = stage.path("invalid.json").display().to_string();
    std::fs::write(&path, cloud.to_string()).unwrap();
    let parameters = [("cloudName", "AzureStackCloud"), ("cloudEnvFileName", path.as_str())];
    stage.deploy("invalid", &class(&stage, "invalid", &[SECRET], &parameters));
    let file = token_file(&stage, ACCOUNT);
    let class = ["--class", "default/invalid", "--service-account", ACCOUNT, "--token-file", &file];
    // The top-level domain `invalid` never resolves (RFC 6761, section 6.4).
    let examined = examine(&stage, &[&class[..], &WAY].concat(), &[("NO_PROXY", "*")]).await;
    for host in ["login.invalid", "demo-vault.vault.invalid"] {
        examined.assert_failed("dns", &[host, "does not resolve"], &["dnsPolicy", "private DNS zone"]);
        examined.assert_failed("tls", &[host, "cannot be reached directly"], &["firewall"]);
    }

    // Who does not use the VM's identities does not need it, so it fails nothing.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = format!("http://{closed}");
    let gone = examine(&stage, &["--only", "imds"], &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &gone)]).await;
    let found = gone.of("imds");
    assert_eq!((gone.code, found[0].0), (0, "warning"), "{}", gone.out);
    assert!(found[0].1.contains("is not reached") && found[0].2.contains("hostNetwork"), "{found:?}");
}
