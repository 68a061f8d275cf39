//! The metadata service over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail this way")]

mod support;

use azure_emulator::{Fault, FaultRule, Service};
use serde_json::{Value, json};
use support::{Azure, claims};

const GOOD: &str = "api-version=2018-02-01&resource=https://vault.azure.net";

/// Status and body of a request with the given headers.
async fn ask(azure: &Azure, query: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let url = format!("{}/metadata/identity/oauth2/token?{query}", azure.emulator.imds_url().unwrap());
    let mut request = azure.client.get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    assert!(response.headers()["server"].to_str().unwrap().starts_with("IMDS/"));
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn get(azure: &Azure, query: &str) -> (u16, Value) {
    ask(azure, query, &[("Metadata", "true")]).await
}

#[tokio::test]
async fn numbers_are_text() {
    let azure = Azure::start().await;
    azure.emulator.imds().assign_user(&azure.app.client_id).unwrap();
    let (status, answer) = get(&azure, GOOD).await;
    assert_eq!(status, 200);
    assert_eq!((&answer["token_type"], &answer["refresh_token"]), (&json!("Bearer"), &json!("")));
    assert_eq!(
        (&answer["expires_in"], &answer["resource"]),
        (&json!("3600"), &json!("https://vault.azure.net"))
    );
    let claims = claims(answer["access_token"].as_str().unwrap());
    assert_eq!(answer["expires_on"], claims["exp"].to_string());
    assert_eq!(answer["not_before"], claims["nbf"].to_string());
    assert_eq!(
        (&claims["aud"], &claims["oid"]),
        (&json!("https://vault.azure.net"), &json!(azure.app.object_id))
    );
    assert_eq!(azure.emulator.counters().tokens_for(&azure.app.client_id), 1);
}

#[tokio::test]
async fn identities_are_found_by_every_id() {
    let azure = Azure::start().await;
    let imds = azure.emulator.imds();
    let refused =
        |description: &str| (400, json!({ "error": "invalid_request", "error_description": description }));
    assert_eq!(get(&azure, GOOD).await, refused("Identity not found"));

    let other = azure.emulator.entra().add_identity("other");
    imds.assign_user(&azure.app.client_id).unwrap();
    imds.assign_user(&other.client_id).unwrap();
    assert_eq!(
        get(&azure, GOOD).await,
        refused(
            "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"
        )
    );
    for query in [
        format!("client_id={}", other.client_id.to_uppercase()),
        format!("object_id={}", other.object_id),
        format!("msi_res_id={}", other.resource_id),
        format!("mi_res_id={}", other.resource_id.to_uppercase()),
    ] {
        let (status, answer) = get(&azure, &format!("{GOOD}&{query}")).await;
        assert_eq!((status, &answer["client_id"]), (200, &json!(other.client_id)), "{query}");
    }
    // Without a choice the machine's own identity wins over those assigned to it.
    let system = azure.emulator.entra().add_identity("system");
    imds.assign_system(&system.client_id).unwrap();
    assert_eq!(get(&azure, GOOD).await.1["client_id"], json!(system.client_id));
    let unknown = "client_id=99999999-0000-4000-8000-000000000000";
    assert_eq!(get(&azure, &format!("{GOOD}&{unknown}")).await, refused("Identity not found"));
    imds.unassign(&system.client_id);
    imds.unassign(&other.client_id);
    assert_eq!(get(&azure, GOOD).await.1["client_id"], json!(azure.app.client_id));
}

#[tokio::test]
async fn more_requests_at_once_than_the_limit_are_throttled() {
    let azure = Azure::start().await;
    azure.emulator.imds().assign_user(&azure.app.client_id).unwrap();
    azure.emulator.imds().set_concurrency_limit(Some(2));
    // Hanging requests hold their places until the fault is cleared.
    let faults = azure.emulator.faults();
    faults.inject(FaultRule::new(Service::Imds, Fault::Hang).on_path("/hold"));
    let hold = async || {
        let url = format!("{}/hold", azure.emulator.imds_url().unwrap());
        azure.client.get(url).send().await.unwrap_err();
    };
    let meanwhile = async {
        while azure.emulator.counters().peak("imds") < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(get(&azure, GOOD).await.0, 429);
        faults.clear();
    };
    tokio::join!(hold(), hold(), meanwhile);
    assert_eq!(get(&azure, GOOD).await.0, 200);
    assert_eq!(azure.emulator.counters().peak("imds"), 3);
}

#[tokio::test]
async fn requests_that_are_not_the_machines_own_are_refused() {
    let azure = Azure::start().await;
    azure.emulator.imds().assign_user(&azure.app.client_id).unwrap();
    let (status, answer) = ask(&azure, GOOD, &[]).await;
    assert_eq!(
        (status, answer),
        (
            400,
            json!({ "error": "bad_request_102", "error_description": "Required metadata header not specified" })
        )
    );
    assert_eq!(ask(&azure, GOOD, &[("Metadata", "false")]).await.0, 400);
    assert_eq!(ask(&azure, GOOD, &[("Metadata", "true"), ("X-Forwarded-For", "10.0.0.1")]).await.0, 400);
    for query in [
        "api-version=2018-02-01".to_owned(),
        "api-version=2018-02-01&resource=".to_owned(),
        format!("{GOOD}&resource=https://vault.azure.net"),
        format!("{GOOD}&client_id=a&object_id=b"),
    ] {
        let (status, answer) = get(&azure, &query).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{query}");
    }
    for query in
        ["resource=https://vault.azure.net", "api-version=1999-01-01&resource=https://vault.azure.net"]
    {
        let (status, answer) = get(&azure, query).await;
        assert_eq!((status, answer["newest-versions"].as_array().map(Vec::len)), (400, Some(3)), "{query}");
    }
    assert_eq!(azure.emulator.counters().tokens_for(&azure.app.client_id), 0);
}
