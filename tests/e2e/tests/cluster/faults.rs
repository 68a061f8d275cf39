//! An API server that answers with errors, or not at all: what is mounted stays mounted, what could not be told is told later, and
//! the log says what it is about without repeating itself.

use crate::setting::{Setting, wait};
use api_server::ApiFault;
use e2e::{Scrape, VAULT, free_address};
use std::time::Duration;

const STATUSES: &str = "/secretproviderclasspodstatuses";
const SECRETS: &str = "/namespaces/default/secrets";

fn answer(code: u16, reason: &'static str) -> ApiFault {
    ApiFault::Answer { code, reason, retry_after: None }
}

fn throttled(seconds: u32) -> ApiFault {
    ApiFault::Answer { code: 429, reason: "TooManyRequests", retry_after: Some(seconds) }
}

fn version(status: &kube::api::DynamicObject) -> String {
    status.data["status"]["objects"][0]["version"].as_str().unwrap().to_owned()
}

/// Lines of the log with this in them.
fn lines(setting: &Setting, part: &str) -> Vec<String> {
    setting.stage.log().lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

/// The log says nothing in the words of the libraries.
fn assert_readable(setting: &Setting) {
    for words in ["Status {", "builder.rs", "ApiError", "ServiceError", "HyperError"] {
        let lines = lines(setting, words);
        assert!(lines.is_empty(), "{lines:#?}");
    }
}

#[tokio::test]
async fn a_status_that_others_write_at_the_same_time_is_written_all_the_same() {
    let Some(setting) = Setting::start_with_faults(&[]).await else { return };
    setting.create_class("conflict").await;
    let web = setting.pod("conflict-web", "conflict").await;
    web.publish().await.unwrap();
    let before = version(&setting.status_of("conflict-web", "conflict").await.unwrap());
    let vault = setting.stage.azure.vault(VAULT);

    // A few conflicts cost a few reads.
    setting.gateway.inject_times("PUT", STATUSES, answer(409, "Conflict"), 3);
    vault.set_secret("secret1", "second").unwrap();
    web.publish().await.unwrap();
    let after = version(&setting.status_of("conflict-web", "conflict").await.unwrap());
    assert_ne!(after, before);

    // Many are waited out in the background.
    setting.gateway.inject_times("PUT", STATUSES, answer(409, "Conflict"), 6);
    vault.set_secret("secret1", "third").unwrap();
    web.publish().await.unwrap();
    wait("the third version", async || {
        let now = version(&setting.status_of("conflict-web", "conflict").await.unwrap());
        (now != after).then_some(())
    })
    .await;
    assert_eq!(setting.gateway.arrivals("PUT", STATUSES).iter().filter(|put| put.failed).count(), 9);
    assert_readable(&setting);
}

#[tokio::test]
async fn what_is_forbidden_stops_no_mount_and_is_told_once() {
    let address = free_address();
    let Some(mut setting) = Setting::start_with_faults(&["--metrics-addr", &address]).await else { return };
    setting.create_class("forbidden").await;
    let mut pods = Vec::new();
    for number in 0..10 {
        pods.push(setting.pod(&format!("forbidden-{number}"), "forbidden").await);
    }
    setting.gateway.inject("POST", STATUSES, answer(403, "Forbidden"));
    for pod in &pods {
        pod.publish().await.unwrap();
        assert_eq!(pod.read("secret1"), "Hello!");
    }
    let told = lines(&setting, "not all was done for it in the cluster");
    assert_eq!(told.len(), 1, "{told:#?}");
    for part in ["create", "is forbidden", "(Forbidden, 403)", "secretproviderclasses-role needs get"] {
        assert!(told[0].contains(part), "{part} is not in {}", told[0]);
    }
    let failures = Scrape::metrics(&address).await.value("akv_csi_follow_up_failures_total").unwrap();
    assert!(failures >= 10.0, "{failures}");
    // The right was granted meanwhile.
    setting.gateway.clear();
    for pod in &pods {
        pod.publish().await.unwrap();
    }
    for number in 0..10 {
        assert!(setting.status_of(&format!("forbidden-{number}"), "forbidden").await.is_some());
    }

    // Every other verb, for a driver that knows nothing yet, and for one that does.
    setting.stage.driver.take().unwrap().terminate().await;
    setting.stage.start_driver().await;
    for (method, part) in [("GET", STATUSES), ("PUT", STATUSES), ("GET", "/pods"), ("POST", "/events")] {
        setting.gateway.inject(method, part, answer(403, "Forbidden"));
    }
    let (web, vault) = (&pods[0], setting.stage.azure.vault(VAULT));
    for value in ["second", "third"] {
        vault.set_secret("secret1", value).unwrap();
        web.publish().await.unwrap();
        assert_eq!(web.read("secret1"), value);
    }
    let told = wait("a line about events", async || {
        let told = lines(&setting, "an event was not told");
        (!told.is_empty()).then_some(told)
    })
    .await;
    assert!(told[0].contains("create and patch on events"), "{told:#?}");
    // A class in use is known, whatever may be read of it now.
    setting.gateway.inject("GET", "/secretproviderclasses", answer(403, "Forbidden"));
    vault.set_secret("secret1", "fourth").unwrap();
    web.publish().await.unwrap();
    assert_eq!(web.read("secret1"), "fourth");
    assert_readable(&setting);
}

#[tokio::test]
async fn secrets_that_may_not_be_written_stop_no_mount() {
    let Some(setting) = Setting::start_with_faults(&[]).await else { return };
    setting.allow_secrets().await;
    let mut pods = Vec::new();
    for (class, method) in [("no-get", "GET"), ("no-create", "POST")] {
        setting.create_class_with_secret(class).await;
        setting.gateway.inject(method, SECRETS, answer(403, "Forbidden"));
        let name = format!("{class}-web");
        let web = setting.pod(&name, class).await;
        web.publish().await.unwrap();
        let told =
            wait("the event", async || setting.events(&name, "FailedToCreateSecret").await.pop()).await;
        let text = told.message.unwrap();
        assert!(text.contains("syncSecret.enabled=true") && text.contains("(Forbidden, 403)"), "{text}");
        setting.gateway.clear();
        web.publish().await.unwrap();
        assert!(setting.secrets().get_opt(&format!("{class}-secret")).await.unwrap().is_some());
        pods.push(web);
    }
    let web = &pods[0];
    setting.gateway.inject("PATCH", SECRETS, answer(403, "Forbidden"));
    setting.stage.azure.vault(VAULT).set_secret("secret1", "second").unwrap();
    web.publish().await.unwrap();
    assert_eq!(web.read("secret1"), "second");
    let said = lines(&setting, "may not sync Secrets");
    assert!(!said.is_empty());
    assert_readable(&setting);
}

#[tokio::test]
async fn a_server_that_takes_requests_and_says_nothing_delays_calls_and_piles_up_nothing() {
    const PODS: usize = 12;
    let Some(setting) = Setting::start_with_faults(&[]).await else { return };
    setting.create_class("hang").await;
    let first = setting.pod("hang-first", "hang").await;
    first.publish().await.unwrap();
    let mut pods = Vec::new();
    for number in 0..PODS {
        pods.push(setting.pod(&format!("hang-{number}"), "hang").await);
    }
    for method in ["GET", "POST", "PUT", "PATCH"] {
        setting.gateway.inject(method, "/", ApiFault::Hang);
    }
    // Longer than the calls may wait for the API server, shorter than the kubelet waits for them.
    let patience = Duration::from_secs(60);
    for _ in 0..2 {
        let mut calls: tokio::task::JoinSet<_> = pods
            .iter()
            .map(|pod| {
                let pod = pod.clone();
                async move { pod.publish_within(patience).await.unwrap() }
            })
            .collect();
        while let Some(done) = calls.join_next().await {
            done.unwrap();
        }
    }
    assert!(pods.iter().all(|pod| pod.read("secret1") == "Hello!"));
    // Follow-up work of four volumes, an event, and the two watches.
    wait("requests to be given up", async || (setting.gateway.hanging() <= 7).then_some(())).await;
    setting.gateway.clear();
    for number in 0..PODS {
        setting.wait_status(&format!("hang-{number}"), "hang").await;
    }
    let told = lines(&setting, "not all was done for it in the cluster");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_readable(&setting);
}

#[tokio::test]
async fn a_server_that_asks_for_a_pause_has_one_from_the_whole_node() {
    let Some(setting) = Setting::start_with_faults(&[]).await else { return };
    setting.create_class("pause").await;
    let first = setting.pod("pause-first", "pause").await;
    // A short one is waited for.
    setting.gateway.inject_times("POST", STATUSES, throttled(1), 1);
    first.publish().await.unwrap();
    assert!(setting.status_of("pause-first", "pause").await.is_some());

    let (second, third) = (setting.pod("pause-2", "pause").await, setting.pod("pause-3", "pause").await);
    setting.gateway.inject_times("POST", STATUSES, throttled(5), 1);
    second.publish().await.unwrap();
    third.publish().await.unwrap();
    setting.wait_status("pause-2", "pause").await;
    setting.wait_status("pause-3", "pause").await;
    let posts = setting.gateway.arrivals("POST", STATUSES);
    let mut pauses = posts.iter().enumerate().filter(|(_, post)| post.failed);
    for asked in [1, 5] {
        let (number, refused) = pauses.next().unwrap();
        let next = &posts[number + 1];
        assert!(next.at - refused.at >= Duration::from_secs(asked), "{posts:#?}");
    }
    let told = lines(&setting, "wants to be left alone");
    assert!(told.iter().any(|line| line.contains("retry_after_s=5")), "{told:#?}");
    assert_readable(&setting);
}

#[tokio::test]
async fn errors_of_the_server_and_an_outage_are_outlived_quietly() {
    let Some(setting) = Setting::start_with_faults(&[]).await else { return };
    setting.create_class("broken").await;
    let web = setting.pod("broken-web", "broken").await;
    setting.gateway.inject_times("POST", STATUSES, answer(500, "InternalError"), 2);
    web.publish().await.unwrap();
    setting.wait_status("broken-web", "broken").await;

    // The way is cut: connections are refused, or closed.
    let Some(down) = Setting::start(&[]).await else { return };
    down.create_class("down").await;
    let mut pods = vec![down.pod("down-0", "down").await];
    pods[0].publish().await.unwrap();
    for number in 1..10 {
        pods.push(down.pod(&format!("down-{number}"), "down").await);
    }
    down.relay.set_open(false);
    for pod in &pods {
        pod.publish().await.unwrap();
    }
    let told = lines(&down, "not all was done for it in the cluster");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].contains("is the API server up, and reachable from this node?"), "{}", told[0]);
    down.relay.set_open(true);
    for number in 0..10 {
        down.wait_status(&format!("down-{number}"), "down").await;
    }
    assert_readable(&setting);
    assert_readable(&down);
}
