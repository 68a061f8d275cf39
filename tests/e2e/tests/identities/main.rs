//! Whose token, from where: every mode mounts, every refusal explains itself, one identity is asked for once, and nobody
//! gets what another identity was given.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod attacks;
mod counting;
mod modes;
mod refusals;
mod troubles;

use azure_emulator::{Extent, Fault, FaultRule, Federation, Identity, Permissions, RetryAfter, Service};
use e2e::{Call, DriverProcess, Stage, StageOptions, VAULT, can_mount, class, tokens};
use kubelet::{Issuer, SigningKey, TOKENS_KEY};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;
use tonic::Status;

const SECRET: &str = "objectName: secret1\nobjectType: secret";
const VALUE: &str = "Hello!";
const EXCHANGE: &str = "api://AzureADTokenExchange";
const BINDING: &str = "api://AKSIdentityBinding";
/// The service account that the stage's workload identity trusts.
const TRUSTED: &str = "workload-identity-sa";
const CREATE: &str = "az identity federated-credential create";
/// Texts of this test that are secrets: they may show nowhere.
const PLANTED: [&str; 3] = ["right-secret", "wrong-secret", "old-secret"];

type Parameters<'a> = &'a [(&'a str, &'a str)];

/// Everything but the kubelet's registration, which these tests do not need; `variables` are the driver's flags by their
/// environment names, and may need the emulator's addresses.
async fn stage_with(options: StageOptions, variables: impl FnOnce(&Stage) -> Vec<(String, String)>) -> Stage {
    let mut stage = Stage::set(options).await;
    let variables = variables(&stage);
    stage.driver = Some(stage.start_unregistered(&DriverProcess::binary(), variables).await);
    stage.azure.vault(VAULT).set_secret("secret1", VALUE).unwrap();
    stage
}

async fn stage(arguments: &[&str]) -> Stage {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    stage_with(StageOptions { arguments, ..StageOptions::default() }, |_| Vec::new()).await
}

/// A fresh identity that may read the vault.
fn reader(stage: &Stage, name: &str) -> Identity {
    let identity = stage.azure.entra().add_identity(name);
    stage.azure.vault(VAULT).grant(&identity.client_id, Permissions::read());
    identity
}

/// A fresh identity that may read the vault and trusts this service account.
fn federated(stage: &Stage, namespace: &str, account: &str) -> Identity {
    let identity = reader(stage, account);
    let trust = Federation::service_account(stage.kubelet.issuer().url(), namespace, account);
    stage.azure.entra().federate(&identity.client_id, trust).unwrap();
    identity
}

/// Deploys a class of this name that mounts the one secret.
fn deploy(stage: &Stage, name: &str, parameters: Parameters<'_>) {
    stage.deploy(name, &class(stage, name, &[SECRET], parameters));
}

/// The volume of a pod `default/NAME` whose class, of the same name, has these parameters.
fn call(stage: &Stage, name: &str, account: &str, parameters: Parameters<'_>) -> Call {
    deploy(stage, name, parameters);
    Call::of(stage, "default", name, account, name)
}

fn with_secrets(mut call: Call, secrets: Parameters<'_>) -> Call {
    call.request.secrets.extend(secrets.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    call
}

/// The call with this token instead of the kubelet's.
fn with_assertion(mut call: Call, jwt: &str) -> Call {
    let entry = json!({EXCHANGE: {"token": jwt, "expirationTimestamp": "2099-01-01T00:00:00Z"}});
    call.request.secrets.insert(TOKENS_KEY.to_owned(), entry.to_string());
    call
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims of a token as the cluster's, with `seconds` of life left, a negative number for one that has ended.
fn claims(stage: &Stage, subject: &str, seconds: i64) -> Value {
    json!({
        "iss": stage.kubelet.issuer().url(), "aud": [EXCHANGE], "sub": subject,
        "iat": now() - 86400, "nbf": now() - 86400, "exp": now().saturating_add_signed(seconds),
    })
}

fn sign(issuer: &Issuer, claims: &Value) -> String {
    issuer.sign(claims).unwrap().expose_secret().to_owned()
}

async fn mounts(stage: &Stage, call: &Call) {
    call.publish().await.unwrap_or_else(|status| panic!("{}\n{}", status.message(), stage.log()));
    assert_eq!(call.read("secret1"), VALUE);
}

/// Publishes and sees that nothing is mounted and no secret is told; the message.
async fn refused(stage: &Stage, call: &Call) -> String {
    let before = stage.mounts().len();
    let result: Result<(), Status> = call.publish().await;
    assert!(call.files().is_empty(), "{} has files", call.target().display());
    let status = result.expect_err("this must not mount");
    assert_eq!(stage.mounts().len(), before, "{:?}", stage.mounts());
    let message = status.message().to_owned();
    for secret in ["eyJ"].iter().chain(&PLANTED) {
        assert!(!message.contains(secret), "a secret shows in: {message}");
    }
    message
}

fn assert_has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// No secret is in the driver's log, whatever was asked of it.
fn assert_log_is_clean(stage: &Stage) {
    let log = stage.log();
    assert!(log.contains("published") || log.contains("publish failed"), "there is no log to look at: {log}");
    for secret in ["eyJ"].iter().chain(&PLANTED) {
        assert!(!log.contains(secret), "{secret} shows in the log:\n{log}");
    }
}

/// A certificate and its key in PEM, made by openssl.
fn client_certificate(stage: &Stage) -> (String, String) {
    let (key, certificate) = (stage.path("client.key"), stage.path("client.crt"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=reader"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (std::fs::read_to_string(certificate).unwrap(), std::fs::read_to_string(key).unwrap())
}

/// All of these calls at once; each has to succeed.
async fn all_at_once(stage: &Stage, calls: &[Arc<Call>]) {
    let mut running: JoinSet<_> = calls
        .iter()
        .map(|call| {
            let call = Arc::clone(call);
            async move { call.publish().await }
        })
        .collect();
    while let Some(done) = running.join_next().await {
        done.unwrap().unwrap_or_else(|status| panic!("{}\n{}", status.message(), stage.log()));
    }
    assert!(calls.iter().all(|call| call.read("secret1") == VALUE));
}

fn token_proxy(stage: &Stage) -> Vec<(String, String)> {
    vec![
        ("AKV_CSI_TOKEN_PROXY_URL".to_owned(), format!("https://{}", stage.azure.https_addr())),
        ("AKV_CSI_SNI_NAME".to_owned(), "atest.ests.aks".to_owned()),
    ]
}
