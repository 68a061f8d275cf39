//! Faults, outages, the clock, counters and the request log.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail this way")]

mod support;

use std::time::{Duration, Instant};

use azure_emulator::{Extent, Fault, FaultRule, RetryAfter, Service};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use support::{API, Azure};

async fn read(azure: &Azure) -> reqwest::Result<reqwest::Response> {
    let url = format!("{}/secrets/a?{API}", azure.vault.url());
    azure.client.get(url).bearer_auth(azure.token()).send().await
}

#[tokio::test]
async fn throttling_has_the_services_shape() {
    let azure = Azure::start().await;
    azure.vault.set_secret("a", "1").unwrap();
    let faults = azure.emulator.faults();
    faults.inject(FaultRule::status(Service::Vault, 429).extent(Extent::Count(1)));
    faults.inject(
        FaultRule::status(Service::Vault, 503).retry_after(RetryAfter::Seconds(7)).extent(Extent::Count(1)),
    );
    let throttled = read(&azure).await.unwrap();
    assert_eq!(throttled.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(!throttled.headers().contains_key("retry-after"));
    assert_eq!(throttled.json::<Value>().await.unwrap()["error"]["code"], "Throttled");
    let unavailable = read(&azure).await.unwrap();
    assert_eq!(
        (unavailable.status().as_u16(), &unavailable.headers()["retry-after"]),
        (503, &"7".parse().unwrap())
    );
    assert_eq!(read(&azure).await.unwrap().status(), StatusCode::OK);

    let counters = azure.emulator.counters();
    assert_eq!((counters.endpoint("vault.secrets.get"), counters.object("KV1", "secrets", "A")), (3, 3));
    assert_eq!([429, 503, 200].map(|status| counters.status("vault", status)), [1, 1, 1]);
}

#[tokio::test]
async fn the_other_services_fail_in_their_own_shapes() {
    let azure = Azure::start().await;
    let faults = azure.emulator.faults();
    faults.inject(FaultRule::status(Service::Entra, 503).on_path("/oauth2/v2.0/token"));
    faults.inject(FaultRule::status(Service::Imds, 410));
    let (status, answer) = azure.token_request(&[("client_secret", "client-secret")]).await;
    assert_eq!((status, &answer["error"]), (503, &json!("temporarily_unavailable")));
    let metadata =
        format!("{}{}/discovery/v2.0/keys", azure.emulator.authority_url(), azure.emulator.tenant());
    assert_eq!(azure.client.get(metadata).send().await.unwrap().status(), StatusCode::OK);
    let imds = format!("{}/metadata/identity/oauth2/token", azure.emulator.imds_url().unwrap());
    assert_eq!(azure.client.get(imds).send().await.unwrap().status(), StatusCode::GONE);
    faults.clear();
    assert_eq!(azure.token_request(&[("client_secret", "client-secret")]).await.0, 200);
}

#[tokio::test]
async fn connections_are_dropped_or_left_hanging() {
    let azure = Azure::start().await;
    azure.vault.set_secret("a", "1").unwrap();
    let faults = azure.emulator.faults();
    faults.inject(FaultRule::new(Service::Vault, Fault::Reset).extent(Extent::Count(1)));
    assert!(read(&azure).await.is_err());
    assert_eq!(read(&azure).await.unwrap().status(), StatusCode::OK);
    let old = azure.emulator.client_builder().http1_only().build().unwrap();
    faults.inject(FaultRule::new(Service::Vault, Fault::Reset).extent(Extent::Count(1)));
    assert!(old.get(format!("{}/secrets/a", azure.vault.url())).send().await.is_err());

    faults.inject(FaultRule::new(Service::Vault, Fault::Hang));
    azure.emulator.telemetry().reset();
    let hanging = read(&azure);
    let cleared = async {
        // The request is counted when it arrives, which is how to know that it hangs.
        while azure.emulator.counters().endpoint("vault.secrets.get") == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(azure.emulator.telemetry().log(), []);
        faults.clear();
    };
    let (answer, ()) = tokio::join!(hanging, cleared);
    assert!(answer.is_err());
    assert_eq!(azure.emulator.counters().status("vault", 0), 1);
    assert_eq!(read(&azure).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn an_outage_refuses_connections_and_ends() {
    let azure = Azure::start().await;
    azure.vault.set_secret("a", "1").unwrap();
    assert_eq!(read(&azure).await.unwrap().status(), StatusCode::OK);
    azure.emulator.refuse_connections(Service::Vault).await;
    let error = read(&azure).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let imds = azure.client.get(azure.emulator.imds_url().unwrap()).send().await.unwrap();
    assert_eq!(imds.status(), StatusCode::NOT_FOUND);
    azure.emulator.accept_connections(Service::Vault).await.unwrap();
    assert_eq!(read(&azure).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn answers_are_late_by_the_latency() {
    let azure = Azure::start().await;
    azure.vault.set_secret("a", "1").unwrap();
    let latency = Duration::from_millis(60);
    azure.emulator.faults().set_latency(Service::Vault, latency);
    let start = Instant::now();
    assert_eq!(read(&azure).await.unwrap().status(), StatusCode::OK);
    assert!(start.elapsed() >= latency);
}

#[tokio::test]
async fn the_log_tells_what_was_asked_and_nothing_secret() {
    let azure = Azure::start().await;
    azure.token_request(&[("client_secret", "client-secret")]).await;
    azure.send(Method::PUT, &format!("/secrets/a?{API}"), json!({ "value": "s3cr3t-value" })).await;
    read(&azure).await.unwrap();
    let log = azure.emulator.telemetry().log();
    let lines: Vec<_> = log.iter().map(|entry| (entry.endpoint.as_str(), entry.status)).collect();
    assert_eq!(lines, [("entra.token", 200), ("vault.secrets.put", 200), ("vault.secrets.get", 200)]);
    let last = log.last().unwrap();
    assert_eq!((last.path.as_str(), last.protocol.as_str()), ("/secrets/a?api-version=7.4", "HTTP/2.0"));
    assert_eq!(last.host, azure.vault.url().trim_start_matches("https://"));
    let text = format!("{log:?} {:?} {:?}", azure.emulator, azure.vault);
    for secret in ["s3cr3t-value", "client-secret", "eyJ"] {
        assert!(!text.contains(secret), "{secret}");
    }
    azure.emulator.telemetry().reset();
    assert_eq!(azure.emulator.counters(), azure_emulator::Counters::default());
}

#[tokio::test]
async fn shutdown_frees_the_addresses() {
    let azure = Azure::start().await;
    let addresses = [azure.emulator.https_addr(), azure.emulator.imds_addr().unwrap()];
    azure.emulator.shutdown().await;
    for address in addresses {
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "{address}");
    }
}
