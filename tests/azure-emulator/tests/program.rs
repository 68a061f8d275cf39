//! The program as a process: seed, ready line, control interface, and its end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail this way")]

mod support;

use std::process::Stdio;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use support::API;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};

const CLIENT_ID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

struct Program {
    child: Child,
    ready: Value,
    client: Client,
    _folder: tempfile::TempDir,
}

impl Program {
    async fn start(seed: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ca, state) = (folder.path().join("ca.pem"), folder.path().join("seed.json"));
        std::fs::write(&state, seed.to_string()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_azure-emulator"))
            .args(["--https", "127.0.0.1:0", "--imds", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .arg("--ca-file")
            .arg(&ca)
            .arg("--state")
            .arg(&state)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = reqwest::Certificate::from_pem(&std::fs::read(ca).unwrap()).unwrap();
        let client = Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap();
        Self { child, ready, client, _folder: folder }
    }

    async fn control(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let url = format!("{}{path}", self.ready["control"].as_str().unwrap());
        let request = self.client.request(method, url);
        let request = if body.is_null() { request } else { request.json(&body) };
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.bytes().await.unwrap();
        (status, serde_json::from_slice(&text).unwrap_or(Value::Null))
    }

    /// Reads a secret of the first vault with a token from the authority.
    async fn secret(&self, name: &str) -> (u16, Value) {
        let base = format!("https://{}", self.ready["https"].as_str().unwrap());
        let form = [
            ("client_id", CLIENT_ID),
            ("grant_type", "client_credentials"),
            ("client_secret", "pw"),
            ("scope", "https://vault.azure.net/.default"),
        ];
        let url = format!("{base}/{}/oauth2/v2.0/token", self.ready["tenant"].as_str().unwrap());
        let answer: Value = self.client.post(url).form(&form).send().await.unwrap().json().await.unwrap();
        let token = answer["access_token"].as_str().unwrap();
        let url = format!("{base}/secrets/{name}?{API}");
        let response = self.client.get(url).bearer_auth(token).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}

#[tokio::test]
async fn a_seed_is_served_changed_by_control_and_ended_by_sigterm() {
    let mut program = Program::start(&json!({
        "identities": [{ "name": "app", "clientId": CLIENT_ID, "secrets": [{ "value": "pw" }], "userAssigned": true }],
        "vaults": [{
            "name": "kv1",
            "accessModel": "accessPolicy",
            "grants": [{ "clientId": CLIENT_ID, "permissions": "read" }],
            "secrets": [{ "name": "a", "value": "1", "contentType": "text/plain" }],
            "keys": [{ "name": "k", "kty": "EC", "crv": "P-384" }],
            "certificates": [{ "name": "c", "policy": { "key_props": { "kty": "EC" } } }],
        }],
    }))
    .await;
    let (status, secret) = program.secret("a").await;
    assert_eq!((status, &secret["value"], &secret["contentType"]), (200, &json!("1"), &json!("text/plain")));
    assert_eq!(program.secret("c").await.1["managed"], true);
    let imds = format!(
        "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net",
        program.ready["imds"].as_str().unwrap()
    );
    let imds = program.client.get(imds).header("Metadata", "true").send().await.unwrap();
    assert_eq!(imds.status(), StatusCode::OK);

    let none = StatusCode::NO_CONTENT;
    let (status, written) =
        program.control(Method::PUT, "/vaults/kv1/secrets/b", json!({ "value": "2" })).await;
    assert_eq!((status, &written["value"]), (StatusCode::OK, &json!("2")));
    assert_eq!(program.secret("b").await.1["value"], "2");
    assert_eq!(program.control(Method::DELETE, "/counters", Value::Null).await.0, none);
    program.secret("b").await;
    let counters = program.control(Method::GET, "/counters", Value::Null).await.1;
    assert_eq!(counters["objects"], json!({ "kv1/secrets/b": 1 }));
    assert_eq!(counters["tokens"], json!({ CLIENT_ID: 1 }));

    let fault = json!({ "service": "vault", "fault": { "status": { "code": 429, "retryAfter": 3 } }, "extent": { "count": 1 } });
    assert_eq!(program.control(Method::POST, "/faults", fault).await.0, none);
    assert_eq!(program.secret("b").await.0, 429);
    assert_eq!(program.secret("b").await.0, 200);
    for fault in [json!("reset"), json!("hang")] {
        let rule = json!({ "service": "imds", "fault": fault, "extent": "always" });
        assert_eq!(program.control(Method::POST, "/faults", rule).await.0, none);
    }
    assert_eq!(program.control(Method::GET, "/faults", Value::Null).await.1.as_array().unwrap().len(), 2);
    assert_eq!(program.control(Method::DELETE, "/faults", Value::Null).await.0, none);

    let grant = format!("/vaults/kv1/grants/{CLIENT_ID}");
    assert_eq!(program.control(Method::DELETE, &grant, Value::Null).await.0, none);
    let (status, refused) = program.secret("b").await;
    assert_eq!((status, &refused["error"]["innererror"]["code"]), (403, &json!("AccessDenied")));
    assert_eq!(program.control(Method::PUT, &grant, json!({ "secrets": ["get"] })).await.0, none);
    assert_eq!(program.secret("b").await.0, 200);
    assert_eq!(program.control(Method::PUT, "/clock", json!({ "offset": 90 })).await.1["offset"], 90);

    let outage = |refuse: bool| json!({ "service": "vault", "refuse": refuse });
    assert_eq!(program.control(Method::PUT, "/outage", outage(true)).await.0, none);
    let address = program.ready["https"].as_str().unwrap().to_owned();
    assert!(tokio::net::TcpStream::connect(&address).await.is_err());
    assert_eq!(program.control(Method::PUT, "/outage", outage(false)).await.0, none);
    assert_eq!(program.secret("b").await.0, 200);

    for (method, path, body, status) in [
        (Method::GET, "/nowhere", Value::Null, StatusCode::NOT_FOUND),
        (Method::PUT, "/clock", json!({ "offset": "soon" }), StatusCode::BAD_REQUEST),
        (Method::POST, "/faults", json!({ "service": "mail", "fault": "hang" }), StatusCode::BAD_REQUEST),
        (Method::GET, "/vaults/none/secrets", Value::Null, StatusCode::NOT_FOUND),
        (Method::GET, "/vaults/kv1/secrets/none", Value::Null, StatusCode::NOT_FOUND),
        (Method::POST, "/tokens", json!({ "clientId": "x", "audience": "y" }), StatusCode::NOT_FOUND),
    ] {
        let (got, answer) = program.control(method, path, body).await;
        assert_eq!(got, status, "{path}");
        assert!(answer["error"].is_string(), "{path}: {answer}");
    }
    let help = program.client.get(program.ready["control"].as_str().unwrap()).send().await.unwrap();
    let help = help.text().await.unwrap();
    assert!(
        help.starts_with("The control interface") && help.contains("| `PUT /_control/outage` |"),
        "{help}"
    );

    let id = program.child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    assert!(program.child.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_seed_with_a_mistake_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("seed.json");
    std::fs::write(&state, r#"{ "vault": [] }"#).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_azure-emulator"))
        .args(["--https", "127.0.0.1:0", "--imds", "127.0.0.1:0", "--control", "127.0.0.1:0", "--state"])
        .arg(&state)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    assert!(!child.wait().await.unwrap().success());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).await.unwrap();
    assert!(text.contains("seed.json") && text.contains("unknown field `vault`"), "{text}");
}
