//! AKS identity bindings: the way through the cluster's token proxy.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use identity::{
    AUDIENCE_IDENTITY_BINDING, Authority, Cloud, Config, Credential, Error, Kind, Mode, TokenProxyConfig,
    Tokens,
};
use url::Url;

use crate::{
    entra::{SCOPE, client_id},
    server::{Answer, Asked, Server, asker, assertion, subject_of, tenant},
    vm::client,
};

/// The TLS name that belongs to cluster id `abc123def456`.
pub const PROXY_NAME: &str = "avimke6u6l2eeq8qc1cneuaq4sl2e1av9t4clqgun97le32hub670.ests.aks";
pub const API_SERVER_NAME: &str = "hcp-kubernetes.abc123def456.svc.cluster.local";

fn authority() -> Authority {
    Cloud::default().authority(&tenant()).unwrap()
}

pub fn config(server: &Server, ca_file: &Path, path: &str) -> TokenProxyConfig {
    let mut config = TokenProxyConfig::in_cluster(443).unwrap();
    config.url = Url::parse(&format!("https://localhost:{}{path}", server.address.port())).unwrap();
    ca_file.clone_into(&mut config.ca_file);
    config.api_server = ("localhost".to_owned(), server.address.port());
    config
}

pub fn tokens(proxy: TokenProxyConfig) -> Tokens {
    let mut config = Config::new(client()).unwrap();
    config.token_proxy = Some(proxy);
    Tokens::new(config).unwrap()
}

pub fn bound(tokens: &Tokens, account: &str) -> Credential {
    let asker = asker("shop", account);
    let assertion = assertion(&asker.subject(), AUDIENCE_IDENTITY_BINDING, 3000, "bound");
    let mode = Mode::TokenProxy { tenant: tenant(), client_id: client_id(), assertion };
    tokens.credential(&asker, &authority(), mode).unwrap()
}

fn token(asked: &Asked) -> Answer {
    Answer::token(&format!("token of {}", subject_of(asked.field("client_assertion"))))
}

#[tokio::test]
async fn the_proxys_name_is_computed_and_the_request_rewritten() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    let server = Server::tls(&[API_SERVER_NAME, PROXY_NAME], token).await;
    server.write_ca(&ca);
    let tokens = tokens(config(&server, &ca, "/prefix/"));
    let got = bound(&tokens, "web").token(SCOPE).await.unwrap();
    assert_eq!(got.token.secret(), "token of system:serviceaccount:shop:web");
    let asked = &server.asked()[0];
    assert_eq!(asked.path, "/prefix/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token");
    assert_eq!(asked.header("host"), "login.microsoftonline.com");
    // First the look at the API server's certificate, then the proxy.
    assert_eq!(server.names(), [Some("localhost".to_owned()), Some(PROXY_NAME.to_owned())]);
    // The name is not computed anew for the next identity.
    bound(&tokens, "api").token(SCOPE).await.unwrap();
    assert_eq!(server.names().len(), 2);
}

#[tokio::test]
async fn a_given_name_is_used_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    let server = Server::tls(&["given.ests.aks"], token).await;
    server.write_ca(&ca);
    let mut config = config(&server, &ca, "");
    config.server_name = Some("given.ests.aks".to_owned());
    bound(&tokens(config), "web").token(SCOPE).await.unwrap();
    assert_eq!(server.names(), [Some("given.ests.aks".to_owned())]);
}

#[tokio::test]
async fn what_failed_at_first_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    let server = Server::tls(&[API_SERVER_NAME, PROXY_NAME], token).await;
    let tokens = tokens(config(&server, &ca, ""));
    let error = bound(&tokens, "web").token(SCOPE).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Transient);
    let message = error.to_string();
    assert!(
        message.starts_with(
            "proxy transport not available: compute SNI name: extract cluster ID from API server certificate: \
             read CA file "
        ) && message.contains("(use --sni-name flag to skip automatic SNI detection)"),
        "{message}"
    );
    server.write_ca(&ca);
    // Another service account: the first one's failure is remembered for some seconds.
    bound(&tokens, "api").token(SCOPE).await.unwrap();
}

#[tokio::test]
async fn an_api_server_that_fails_is_not_probed_once_per_identity() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    let server = Server::tls(&[], token).await;
    server.write_ca(&ca);
    let hangs_up = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut config = config(&server, &ca, "");
    config.api_server = ("localhost".to_owned(), hangs_up.local_addr().unwrap().port());
    let probes = Arc::new(AtomicUsize::new(0));
    let counted = probes.clone();
    tokio::spawn(async move {
        while hangs_up.accept().await.is_ok() {
            counted.fetch_add(1, SeqCst);
        }
    });
    let tokens = tokens(config);
    for n in 0..10 {
        let error = bound(&tokens, &format!("sa{n}")).token(SCOPE).await.unwrap_err();
        assert!(error.to_string().contains("TLS connect to API server: localhost:"), "{error}");
    }
    assert_eq!(probes.load(SeqCst), 1);
}

#[tokio::test]
async fn a_certificate_without_a_cluster_id_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    let server = Server::tls(&[], token).await;
    server.write_ca(&ca);
    let error = bound(&tokens(config(&server, &ca, "")), "web").token(SCOPE).await.unwrap_err();
    assert!(
        error.to_string().contains(
            "cluster ID SAN not found in API server certificate (use --sni-name flag to provide SNI name \
             explicitly)"
        ),
        "{error}"
    );
}

#[tokio::test]
async fn only_the_clusters_ca_is_trusted_and_a_new_one_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    let (server, other) = (
        Server::tls(&[API_SERVER_NAME, PROXY_NAME], token).await,
        Server::tls(&[API_SERVER_NAME, PROXY_NAME], token).await,
    );
    server.write_ca(&ca);
    let tokens = tokens(config(&server, &ca, ""));
    bound(&tokens, "one").token(SCOPE).await.unwrap();
    // An empty file is one being written: the old CA stays.
    std::fs::write(&ca, "").unwrap();
    bound(&tokens, "two").token(SCOPE).await.unwrap();
    // The wrong CA: had it not been taken up, this would succeed.
    other.write_ca(&ca);
    let asked = server.count();
    let failing = bound(&tokens, "three");
    let failing = tokio::spawn(async move { failing.token(SCOPE).await });
    while server.failed_handshakes() == 0 && !failing.is_finished() {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.count(), asked);
    assert_eq!(server.failed_handshakes(), 1);
    server.write_ca(&ca);
    failing.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refusal_through_the_proxy_is_told_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    let refuse = |_: &Asked| Answer(403, vec![], "forbidden: cannot use-managed-identity".to_owned());
    let server = Server::tls(&[API_SERVER_NAME, PROXY_NAME], refuse).await;
    server.write_ca(&ca);
    let error = bound(&tokens(config(&server, &ca, "")), "web").token(SCOPE).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let message = error.to_string();
    assert!(message.contains("forbidden: cannot use-managed-identity"), "{message}");
    assert!(message.contains("cid.wi.aks.azure.com"), "{message}");
}

#[tokio::test]
async fn nodes_without_a_proxy_say_so() {
    let tokens = Tokens::new(Config::new(client()).unwrap()).unwrap();
    let asker = asker("shop", "web");
    let assertion = assertion(&asker.subject(), AUDIENCE_IDENTITY_BINDING, 3000, "bound");
    let mode = Mode::TokenProxy { tenant: tenant(), client_id: client_id(), assertion };
    let error = tokens.credential(&asker, &authority(), mode).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { .. }), "{error}");
}
