//! What the driver asks of an API server, against a small one that plays the part over a real socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use csi_node::class::{ApiServer, ClassName, Classes};
use csi_node::service_account::{Annotations, ServiceAccounts};
use csi_node::startup_taint;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Clone, Default)]
struct Cluster {
    node: Arc<Mutex<Value>>,
    patches: Arc<Mutex<Vec<Value>>>,
    /// How many patches to answer with a conflict first.
    conflicts: Arc<Mutex<u32>>,
}

fn status(code: StatusCode, reason: &str) -> (StatusCode, Json<Value>) {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code.as_u16()});
    (code, Json(body))
}

async fn class(Path((namespace, name)): Path<(String, String)>) -> (StatusCode, Json<Value>) {
    match (namespace.as_str(), name.as_str()) {
        ("shop", "kv") => (
            StatusCode::OK,
            Json(json!({
                "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
                "metadata": {"name": "kv", "namespace": "shop"},
                "spec": {"provider": "azure", "parameters": {"keyvaultName": "kv"}, "secretObjects": []}
            })),
        ),
        ("shop", "empty") => (
            StatusCode::OK,
            Json(json!({
                "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
                "metadata": {"name": "empty", "namespace": "shop"}
            })),
        ),
        ("secret", _) => status(StatusCode::FORBIDDEN, "Forbidden"),
        _ => status(StatusCode::NOT_FOUND, "NotFound"),
    }
}

async fn account(Path((_, name)): Path<(String, String)>) -> (StatusCode, Json<Value>) {
    if name != "web" {
        return status(StatusCode::NOT_FOUND, "NotFound");
    }
    let annotations = json!({"azure.workload.identity/client-id": "c-1"});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "annotations": annotations}});
    (StatusCode::OK, Json(account))
}

async fn read_node(State(cluster): State<Cluster>) -> Json<Value> {
    Json(cluster.node.lock().clone())
}

async fn patch_node(State(cluster): State<Cluster>, body: axum::body::Bytes) -> (StatusCode, Json<Value>) {
    let patch: Value = serde_json::from_slice(&body).unwrap();
    cluster.patches.lock().push(patch.clone());
    let mut conflicts = cluster.conflicts.lock();
    if *conflicts > 0 {
        *conflicts -= 1;
        return status(StatusCode::CONFLICT, "Conflict");
    }
    let mut node = cluster.node.lock();
    node["spec"]["taints"] = patch["spec"]["taints"].clone();
    (StatusCode::OK, Json(node.clone()))
}

async fn start(cluster: Cluster) -> kube::Client {
    let router = Router::new()
        .route(
            "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/{namespace}/secretproviderclasses/{name}",
            get(class),
        )
        .route("/api/v1/namespaces/{namespace}/serviceaccounts/{name}", get(account))
        .route("/api/v1/nodes/n1", get(read_node).patch(patch_node))
        .with_state(cluster);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    // The client wants a TLS provider chosen even where it speaks plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    kube::Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap()
}

#[tokio::test]
async fn classes_are_read_from_the_api_server() {
    let classes = Classes::ApiServer(ApiServer::new(start(Cluster::default()).await));
    let read = async |namespace: &str, name: &str| {
        classes.get(&ClassName { namespace: namespace.to_owned(), name: name.to_owned() }).await
    };
    let spec = read("shop", "kv").await.unwrap().spec;
    assert_eq!((spec.provider.as_str(), spec.parameters["keyvaultName"].as_str()), ("azure", "kv"));
    assert_eq!(
        read("shop", "empty").await.unwrap().spec.provider,
        "",
        "what is missing is told by the mount, with its cure"
    );
    let missing = read("shop", "nope").await.unwrap_err().to_string();
    assert!(
        missing.contains("SecretProviderClass.secrets-store.csi.x-k8s.io \"nope\" not found"),
        "{missing}"
    );
    let forbidden = read("secret", "kv").await.unwrap_err().to_string();
    assert!(forbidden.contains("secret/kv") && forbidden.contains("Forbidden"), "{forbidden}");
}

#[tokio::test]
async fn annotations_are_read_from_the_api_server() {
    let accounts = ServiceAccounts::ApiServer(start(Cluster::default()).await);
    let expected = Annotations { client_id: Some("c-1".to_owned()), tenant_id: None };
    assert_eq!(accounts.annotations("shop", "web").await, Ok(expected));
    assert_eq!(accounts.annotations("shop", "gone").await, Ok(Annotations::default()));
}

#[tokio::test]
async fn the_startup_taint_goes_and_others_stay() {
    let cluster = Cluster::default();
    let other = json!({"key": "gpu", "effect": "NoSchedule"});
    let taints = json!([{"key": "secrets-store.csi.k8s.io/agent-not-ready", "effect": "NoExecute"}, other]);
    *cluster.node.lock() = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "n1", "resourceVersion": "7"}, "spec": {"taints": taints}
    });
    *cluster.conflicts.lock() = 1;
    let client = start(cluster.clone()).await;
    startup_taint::remove(client.clone(), "n1", "secrets-store.csi.k8s.io/agent-not-ready").await;
    assert_eq!(cluster.node.lock()["spec"]["taints"], json!([other]));
    let patches = cluster.patches.lock().clone();
    assert_eq!(patches.len(), 2, "one was refused with a conflict and repeated: {patches:?}");
    assert_eq!(patches[0]["metadata"]["resourceVersion"], "7", "somebody else's change must not get lost");
    // Done already: nothing is written.
    startup_taint::remove(client, "n1", "secrets-store.csi.k8s.io/agent-not-ready").await;
    assert_eq!(cluster.patches.lock().len(), 2);
}
