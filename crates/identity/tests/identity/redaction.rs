//! Secrets stay out of everything people read: errors, `Debug`, logs at the highest verbosity.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io,
    sync::{Arc, Mutex},
};

use azure_core::credentials::TokenCredential;
use identity::{ClientCertificate, Mode, Proof, ServiceAccountTokens, service_principal_from_secrets};
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    entra::{SCOPE, client_id, with_proof},
    server::{Answer, Asked, Server, asker, jwt, tenant},
};

/// Collects log lines of all threads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Echoes the whole request in its refusal, as a misguided proxy might, or gives a token.
fn echo_or_token(asked: &Asked) -> Answer {
    if asked.field("client_id") == client_id().as_str() && asked.path.contains("1111") {
        return Answer::token("planted-access-token");
    }
    Answer::json(
        400,
        &json!({"error": asked.body, "error_description": format!("AADSTS1: you sent {}", asked.body)}),
    )
}

#[tokio::test]
async fn nothing_planted_is_ever_shown() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    // Global: the requests run in tasks and threads of their own.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let server = Server::tls(&[], echo_or_token).await;
    let tokens = server.tokens();
    let asker = asker("shop", "web");
    let secret = "planted+client/secret~=";
    let pod_token = jwt(&asker.subject(), identity::AUDIENCE_PUBLIC, 3000, "planted");
    let certificate = include_str!("../data/client.pem");
    let mut shown = String::new();

    let json = json!({identity::AUDIENCE_PUBLIC: {"token": pod_token}}).to_string();
    let pod_tokens = ServiceAccountTokens::parse(&json).unwrap();
    let assertion = pod_tokens.audience(identity::AUDIENCE_PUBLIC).unwrap();
    let secrets: HashMap<_, _> = [("clientid", "app"), ("clientsecret", secret)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect();
    let principal = service_principal_from_secrets(&secrets).unwrap();
    let certificate_proof =
        Proof::Certificate(ClientCertificate::parse(certificate.as_bytes(), "planted-password").unwrap());
    write!(shown, "{pod_tokens:?} {assertion:?} {principal:?} {certificate_proof:?}").unwrap();

    // Once with success, once refused with an echo.
    for tenant in [tenant(), identity::TenantId::parse("other").unwrap()] {
        let modes = [
            Mode::WorkloadIdentity {
                tenant: tenant.clone(),
                client_id: client_id(),
                assertion: assertion.clone(),
            },
            Mode::ServicePrincipal {
                tenant: tenant.clone(),
                client_id: client_id(),
                proof: Proof::Secret(secret.to_owned().into()),
            },
            Mode::ServicePrincipal {
                tenant: tenant.clone(),
                client_id: client_id(),
                proof: certificate_proof.clone(),
            },
        ];
        for mode in modes {
            write!(shown, "{mode:?}").unwrap();
            let credential = tokens.credential(&asker, &server.authority(&tenant), mode).unwrap();
            let outcome = credential.get_token(&[SCOPE], None).await;
            assert_eq!(outcome.is_ok(), tenant.as_str() != "other");
            if let Err(error) = &outcome {
                let ours = identity::Error::find(error).unwrap();
                write!(shown, "{error} {error:?} {ours} {ours:?}").unwrap();
                assert!(error.to_string().contains("you sent"), "the echo is there: {error}");
            }
            write!(shown, "{outcome:?} {credential:?} {:?} {}", credential.key(), credential.describe())
                .unwrap();
        }
    }
    let proof = Proof::Secret(secret.to_owned().into());
    with_proof(&server, &tokens, &asker, proof).refused("planted-access-token");
    write!(shown, "{tokens:?}").unwrap();

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("TRACE") && log.contains("DEBUG"), "the log is caught");
    let key_line = certificate.lines().nth(3).unwrap();
    let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    for planted in [
        "planted-access-token",
        "planted-password",
        secret,
        &encoded,
        pod_token.as_str(),
        pod_token.rsplit('.').next().unwrap(),
        key_line,
        "eyJ",
    ] {
        assert!(!shown.contains(planted), "{planted} is shown: {shown}");
        if let Some(at) = log.find(planted) {
            let start = log[..at].rfind('\n').unwrap_or(0);
            panic!("{planted} is logged: {}", &log[start..at + planted.len()]);
        }
    }
}
