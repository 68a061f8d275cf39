//! The virtual machine's identities: metadata service and Arc agent.

use std::{fs, path::Path};

use identity::{
    Allowed, ArcAgent, Authority, ClientId, Cloud, Config, Error, Kind, Mode, Policy, Tokens, VmIdentity,
    VmIdentitySource,
};
use serde_json::json;
use time::OffsetDateTime;
use url::Url;

use crate::{
    entra::SCOPE,
    server::{Answer, Asked, Server, asker, tenant},
};

pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().tls_certs_only([]).build().unwrap()
}

fn authority() -> Authority {
    Cloud::default().authority(&tenant()).unwrap()
}

fn imds_config(server: &Server) -> Config {
    let mut config = Config::new(client()).unwrap();
    let url = format!("http://{}/", server.address);
    config.vm_identity = VmIdentitySource::Imds(Url::parse(&url).unwrap());
    config
}

pub fn tokens(server: &Server) -> Tokens {
    Tokens::new(imds_config(server)).unwrap()
}

/// As the metadata service answers: every value a string.
pub fn vm_token(_: &Asked) -> Answer {
    let end = OffsetDateTime::now_utc().unix_timestamp() + 86_400;
    Answer::json(
        200,
        &json!({"access_token": "the VM's token", "refresh_token": "", "expires_in": "86399",
            "expires_on": end.to_string(), "not_before": "0", "resource": "https://vault.test",
            "token_type": "Bearer"}),
    )
}

pub async fn ask(tokens: &Tokens, namespace: &str, identity: VmIdentity) -> Result<String, Error> {
    let credential =
        tokens.credential(&asker(namespace, "default"), &authority(), Mode::VmIdentity(identity))?;
    Ok(credential.token(SCOPE).await?.token.secret().to_owned())
}

#[tokio::test]
async fn what_is_asked() {
    let server = Server::plain(vm_token).await;
    let tokens = tokens(&server);
    let client_id = ClientId::parse("c1").unwrap();
    for (identity, parameter) in [
        (VmIdentity::SystemAssigned, None),
        (VmIdentity::ClientId(client_id), Some(("client_id", "c1"))),
        (VmIdentity::ResourceId("/subscriptions/s/x".into()), Some(("msi_res_id", "/subscriptions/s/x"))),
        (VmIdentity::ObjectId("o1".into()), Some(("object_id", "o1"))),
    ] {
        assert_eq!(ask(&tokens, "shop", identity).await.unwrap(), "the VM's token");
        let asked = server.asked().pop().unwrap();
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/metadata/identity/oauth2/token"));
        assert_eq!(asked.header("metadata"), "true");
        assert!(asked.headers.get("x-forwarded-for").is_none());
        let mut expected = vec![("api-version", "2018-02-01"), ("resource", "https://vault.test")];
        expected.extend(parameter);
        let expected = expected.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        assert_eq!(asked.query, expected);
    }
}

#[tokio::test]
async fn all_pods_of_all_namespaces_share_one_request_per_identity() {
    let server = Server::plain(vm_token).await;
    let tokens = tokens(&server);
    server.close();
    let mounts: Vec<_> = (0..100)
        .map(|n| {
            let tokens = tokens.clone();
            tokio::spawn(async move { ask(&tokens, &format!("ns{n}"), VmIdentity::SystemAssigned).await })
        })
        .collect();
    server.wait_for_arrivals(1).await;
    server.open();
    for mount in mounts {
        assert_eq!(mount.await.unwrap().unwrap(), "the VM's token");
    }
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn no_more_than_five_at_once() {
    let server = Server::plain(vm_token).await;
    let tokens = tokens(&server);
    server.close();
    let mounts: Vec<_> = (0..12)
        .map(|n| {
            let tokens = tokens.clone();
            tokio::spawn(async move { ask(&tokens, "shop", VmIdentity::ObjectId(format!("{n}"))).await })
        })
        .collect();
    server.wait_for_arrivals(5).await;
    // Whoever could still send would have been polled by now.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.arrivals(), 5);
    server.open();
    for mount in mounts {
        mount.await.unwrap().unwrap();
    }
    assert_eq!(server.count(), 12);
}

#[tokio::test]
async fn ends_as_numbers_are_taken() {
    let server = Server::plain(|_| {
        let end = OffsetDateTime::now_utc().unix_timestamp() + 3600;
        Answer::json(200, &json!({"access_token": "t", "expires_on": end}))
    })
    .await;
    assert_eq!(ask(&tokens(&server), "shop", VmIdentity::SystemAssigned).await.unwrap(), "t");
}

#[tokio::test]
async fn refusals_name_cause_and_cure_and_are_not_repeated() {
    let client_id = VmIdentity::ClientId(ClientId::parse("c1").unwrap());
    let table = [
        (
            VmIdentity::SystemAssigned,
            "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity \
             in the token request",
            "ManagedIdentityCredential: failed to authenticate a system assigned identity. The endpoint responded \
             with Multiple user assigned identities exist",
            "Set userAssignedIdentityID in the class",
        ),
        (
            client_id,
            "Identity not found",
            "ManagedIdentityCredential authentication failed. the requested identity isn't assigned to this resource",
            "az vmss identity assign --identities",
        ),
        (VmIdentity::SystemAssigned, "Identity not found", "no system-assigned identity", "Enable it"),
        (
            VmIdentity::SystemAssigned,
            "AADSTS500011: The resource principal named https://vault.test was not found in the tenant",
            "the resource is not known in this tenant",
            "Check that the vault and the tenant are in the same cloud",
        ),
    ];
    for (identity, description, words, cure) in table {
        let server = Server::plain(move |_| {
            Answer::json(400, &json!({"error": "invalid_request", "error_description": description}))
        })
        .await;
        let error = ask(&tokens(&server), "shop", identity).await.unwrap_err();
        let message = error.to_string();
        assert!(message.contains(words) && message.contains(cure), "{message}");
        assert_eq!((error.kind(), server.count()), (Kind::Misconfiguration, 1));
    }
}

#[tokio::test]
async fn throttling_with_a_long_wish_ends_at_once() {
    let server = Server::plain(|_| Answer(429, vec![("retry-after", "600".into())], "too many".into())).await;
    let error = ask(&tokens(&server), "shop", VmIdentity::SystemAssigned).await.unwrap_err();
    assert_eq!((error.kind(), server.count()), (Kind::Transient, 1));
    assert!(error.to_string().contains("HTTP 429 too many"), "{error}");
}

#[tokio::test]
async fn policy_decides_which_namespaces_may() {
    let server = Server::plain(vm_token).await;
    let mut config = imds_config(&server);
    config.policy = Policy { vm_identity_namespaces: Allowed::parse("kube-system"), ..Policy::default() };
    let tokens = Tokens::new(config).unwrap();
    ask(&tokens, "kube-system", VmIdentity::SystemAssigned).await.unwrap();
    let error = ask(&tokens, "shop", VmIdentity::SystemAssigned).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotAllowed);
    assert!(error.to_string().contains("pods of namespace shop"), "{error}");
}

/// An Arc agent that names the given key file and takes its content.
pub async fn arc(key_file: &Path) -> Server {
    let realm = format!("Basic realm={}", key_file.display());
    Server::plain(move |asked| match asked.header("authorization") {
        "" => Answer(401, vec![("www-authenticate", realm.clone())], String::new()),
        "Basic the agent's key" => vm_token(asked),
        other => Answer(401, vec![], format!("not {other}")),
    })
    .await
}

pub fn arc_tokens(server: &Server, folder: &Path) -> Tokens {
    let mut config = Config::new(client()).unwrap();
    let url = format!("http://{}/metadata/identity/oauth2/token", server.address);
    let mut agent = ArcAgent::new(Url::parse(&url).unwrap());
    folder.clone_into(&mut agent.key_folder);
    config.vm_identity = VmIdentitySource::Arc(agent);
    Tokens::new(config).unwrap()
}

#[tokio::test]
async fn the_arc_agents_challenge_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("1.key");
    fs::write(&key_file, "the agent's key").unwrap();
    let server = arc(&key_file).await;
    let tokens = arc_tokens(&server, folder.path());
    assert_eq!(ask(&tokens, "shop", VmIdentity::SystemAssigned).await.unwrap(), "the VM's token");
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    for asked in asked {
        assert_eq!(asked.header("metadata"), "true");
        assert_eq!(asked.query["api-version"], "2019-11-01");
        assert_eq!(asked.query["resource"], "https://vault.test");
    }
    let user = VmIdentity::ClientId(ClientId::parse("c").unwrap());
    let error = ask(&tokens, "shop", user).await.unwrap_err();
    assert!(error.to_string().contains("system-assigned identity only"), "{error}");
}

#[tokio::test]
async fn whoever_sits_on_the_agents_port_gets_no_other_file() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let secret = elsewhere.path().join("secret.key");
    fs::write(&secret, "planted").unwrap();
    let link = folder.path().join("link.key");
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    let large = folder.path().join("large.key");
    fs::write(&large, vec![b'a'; 5000]).unwrap();
    for named in [&secret, &link, &large, &folder.path().join("missing.key")] {
        let server = arc(named).await;
        let error =
            ask(&arc_tokens(&server, folder.path()), "shop", VmIdentity::SystemAssigned).await.unwrap_err();
        assert!(matches!(error, Error::Answer { .. }), "{error}");
        assert_eq!(server.count(), 1, "nothing was sent back for {}", named.display());
    }
}
