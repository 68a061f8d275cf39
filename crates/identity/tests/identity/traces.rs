//! Every request carries the trace of the call that it is sent for, whoever builds it.

use std::{collections::HashSet, fs};

use identity::{Mode, Proof, TenantId, VmIdentity};
use serde_json::json;
use trace::{Context, TraceId};

use crate::{
    entra::{SCOPE, client_id, federated, with_proof},
    server::{Answer, Asked, Server, asker},
    token_proxy::{self, API_SERVER_NAME, PROXY_NAME},
    vm::{self, vm_token},
};

/// What a server was asked is of this trace, and each request a span of its own.
fn assert_carried(server: &Server, requests: usize, trace: TraceId) {
    let asked = server.asked();
    assert_eq!(asked.len(), requests);
    let mut spans = HashSet::new();
    for asked in &asked {
        let header = asked.header("traceparent");
        let seen = Context::of_traceparent(header).unwrap_or_else(|| panic!("{}: {header:?}", asked.path));
        assert_eq!(seen.trace_id(), trace, "{}", asked.path);
        for name in ["client-request-id", "x-ms-client-request-id"] {
            assert_eq!(asked.header(name), trace.to_guid(), "{name} to {}", asked.path);
        }
        assert!(spans.insert(header.to_owned()), "{header} is there twice");
    }
}

#[tokio::test]
async fn those_the_azure_sdk_makes_do() {
    let server = Server::tls(&[], |_| Answer::token("t")).await;
    let (tokens, context) = (server.tokens(), Context::new());
    let (workload, principal) = (
        federated(&server, &tokens, &asker("shop", "web")),
        with_proof(&server, &tokens, &asker("shop", "web"), Proof::Secret("s".to_owned().into())),
    );
    let trace = context.trace_id();
    let work = async { (workload.token(SCOPE).await.unwrap(), principal.token(SCOPE).await.unwrap()) };
    context.scope(work).await;
    assert_carried(&server, 2, trace);
}

#[tokio::test]
async fn those_to_a_token_proxy_do() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    let server = Server::tls(&[API_SERVER_NAME, PROXY_NAME], |_| Answer::token("t")).await;
    server.write_ca(&ca);
    let tokens = token_proxy::tokens(token_proxy::config(&server, &ca, "/"));
    let (credential, context) = (token_proxy::bound(&tokens, "web"), Context::new());
    let trace = context.trace_id();
    context.scope(credential.token(SCOPE)).await.unwrap();
    assert_carried(&server, 1, trace);
}

#[tokio::test]
async fn those_to_ad_fs_do() {
    let server = Server::tls(&[], |asked: &Asked| match asked.path.as_str() {
        "/adfs/.well-known/openid-configuration" => {
            let endpoint = format!("https://{}/adfs/oauth2/token/", asked.header("host"));
            Answer::json(200, &json!({"token_endpoint": endpoint}))
        }
        _ => Answer::token("t"),
    })
    .await;
    let (adfs, context) = (TenantId::parse("adfs").unwrap(), Context::new());
    let proof = Proof::Secret("s".to_owned().into());
    let mode = Mode::ServicePrincipal { tenant: adfs.clone(), client_id: client_id(), proof };
    let tokens = server.tokens();
    let credential = tokens.credential(&asker("shop", "web"), &server.authority(&adfs), mode).unwrap();
    let trace = context.trace_id();
    context.scope(credential.token(SCOPE)).await.unwrap();
    assert_carried(&server, 2, trace);
}

#[tokio::test]
async fn those_to_the_metadata_service_and_the_arc_agent_do() {
    let server = Server::plain(vm_token).await;
    let context = Context::new();
    let (trace, tokens) = (context.trace_id(), vm::tokens(&server));
    context.clone().scope(vm::ask(&tokens, "shop", VmIdentity::SystemAssigned)).await.unwrap();
    assert_carried(&server, 1, trace);

    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("1.key");
    fs::write(&key_file, "the agent's key").unwrap();
    let server = vm::arc(&key_file).await;
    let tokens = vm::arc_tokens(&server, folder.path());
    context.scope(vm::ask(&tokens, "shop", VmIdentity::SystemAssigned)).await.unwrap();
    assert_carried(&server, 2, trace);
}

#[tokio::test]
async fn a_shared_request_is_of_the_call_that_began_it() {
    let server = Server::tls(&[], |_| Answer::token("t")).await;
    let tokens = server.tokens();
    server.close();
    let call = |context: Context| {
        let credential = federated(&server, &tokens, &asker("shop", "web"));
        tokio::spawn(context.scope(async move { credential.token(SCOPE).await.map(|_| ()) }))
    };
    let (first, second) = (Context::new(), Context::new());
    let trace = first.trace_id();
    let began = call(first);
    server.wait_for_arrivals(1).await;
    let joined = call(second);
    tokio::task::yield_now().await;
    server.open();
    began.await.unwrap().unwrap();
    joined.await.unwrap().unwrap();
    assert_carried(&server, 1, trace);
}

#[tokio::test]
async fn a_request_that_nobody_traces_has_an_id_too() {
    let server = Server::tls(&[], |_| Answer::token("t")).await;
    federated(&server, &server.tokens(), &asker("shop", "web")).token(SCOPE).await.unwrap();
    assert!(Context::of_traceparent(server.asked()[0].header("traceparent")).is_some());
}
