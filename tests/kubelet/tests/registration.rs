//! Drivers come, go, come back and are refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod fake;

use std::time::Duration;

use fake::{Call, House, NAME, PATIENCE, find, freeze};
use kubelet::{Event, EventStream, Timings};
use tokio::time::{Instant, advance};
use tonic::Status;

/// The next failed registration: its reason and the wait before the next try.
async fn next_failure(events: &mut EventStream) -> (String, Duration) {
    match find(events, |event| matches!(event, Event::RegistrationFailed { .. })).await {
        Event::RegistrationFailed { reason, retry_in, .. } => (reason, retry_in),
        other => panic!("{other}"),
    }
}

async fn deregistered(events: &mut EventStream) {
    find(events, |event| matches!(event, Event::DriverDeregistered { .. })).await;
}

#[tokio::test]
async fn a_driver_registers_in_the_kubelets_order() {
    let house = House::new();
    let kubelet = house.kubelet().start().await.unwrap();
    let mut driver = house.driver();
    let registered = kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    assert_eq!(driver.pending(), ["GetInfo", "NodeGetInfo", "Notify(true)"]);
    assert_eq!(registered.name.as_str(), NAME);
    assert_eq!(registered.endpoint, driver.csi_socket);
    assert_eq!(registered.socket, driver.registration_socket);
    assert_eq!(registered.node_id, "node-1");
    assert_eq!(registered.version.to_string(), "1.0.0");
    assert_eq!(kubelet.drivers(), [registered]);
}

#[tokio::test]
async fn without_an_endpoint_the_registration_socket_serves_csi() {
    let house = House::new();
    let driver = house.driver_with("fake", |behaviour| behaviour.info.endpoint.clear());
    let kubelet = house.kubelet().start().await.unwrap();
    let registered = kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    assert_eq!(registered.endpoint, driver.registration_socket);
}

#[tokio::test]
async fn a_removed_socket_deregisters_and_a_new_one_registers_again() {
    let house = House::new();
    let kubelet = house.kubelet().start().await.unwrap();
    let mut driver = house.driver();
    kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    driver.stop().await;
    assert!(kubelet.wait_deregistered(NAME, PATIENCE).await.unwrap());
    assert!(kubelet.client(NAME).is_none());
    driver.restart();
    kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_socket_that_was_replaced_between_two_looks_is_a_new_one() {
    let house = House::new();
    let kubelet = house.kubelet().start().await.unwrap();
    let mut events = kubelet.events();
    let mut driver = house.driver();
    kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    driver.crash().await;
    driver.restart();
    deregistered(&mut events).await;
    assert!(driver.next_notification().await.plugin_registered);
}

#[tokio::test]
async fn a_crash_leaves_the_registration_and_a_chmod_makes_no_new_socket() {
    use std::os::unix::fs::PermissionsExt as _;

    let house = House::new();
    let kubelet = house.kubelet().start().await.unwrap();
    let mut events = kubelet.events();
    let mut driver = house.driver();
    let before = kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    driver.crash().await;
    std::fs::set_permissions(&driver.registration_socket, std::fs::Permissions::from_mode(0o600)).unwrap();
    // Another driver's registration proves that the folder was looked at since.
    let _other = house.driver_with("other", |behaviour| behaviour.info.name = "other.example".into());
    kubelet.wait_registered("other.example", PATIENCE).await.unwrap();
    assert!(kubelet.drivers().contains(&before));
    while let Some(event) = events.try_next() {
        assert!(!matches!(event, Event::DriverDeregistered { .. }), "{event}");
    }
}

#[tokio::test]
async fn a_second_socket_for_the_same_driver_is_refused_until_the_first_is_gone() {
    let house = House::new();
    let kubelet = house.kubelet().start().await.unwrap();
    let mut events = kubelet.events();
    let mut first = house.driver();
    kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    let mut second = house.driver_with("second", |_| {});
    let status = second.next_notification().await;
    assert!(!status.plugin_registered);
    assert!(status.error.contains("already registered with version 1.0.0"), "{}", status.error);
    let (reason, _) = next_failure(&mut events).await;
    assert_eq!(reason, status.error);
    assert_eq!(kubelet.drivers()[0].socket, first.registration_socket);

    first.stop().await;
    while !second.next_notification().await.plugin_registered {}
    assert_eq!(kubelet.wait_registered(NAME, PATIENCE).await.unwrap().socket, second.registration_socket);
}

#[tokio::test]
async fn a_higher_version_takes_the_name_over() {
    let house = House::new();
    let kubelet = house.kubelet().start().await.unwrap();
    let mut first = house.driver();
    kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    let mut second =
        house.driver_with("second", |behaviour| behaviour.info.supported_versions = vec!["1.1.0".into()]);
    assert!(second.next_notification().await.plugin_registered);
    first.stop().await;
    let _other = house.driver_with("other", |behaviour| behaviour.info.name = "other.example".into());
    kubelet.wait_registered("other.example", PATIENCE).await.unwrap();
    let driver = kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    assert_eq!(driver.socket, second.registration_socket, "the first one's end does not concern the second");
}

#[tokio::test]
async fn a_plugin_that_is_no_csi_driver_of_version_1_is_told_why() {
    for (file, part_of_reason) in [
        ("type", "DevicePlugin"),
        ("none", "[]"),
        ("two", "2.0.0"),
        ("name", "../x"),
        ("csi", "NodeGetInfo"),
        ("id", "node_id"),
    ] {
        let house = House::new();
        let kubelet = house.kubelet().start().await.unwrap();
        let mut driver = house.driver_with(file, |behaviour| match file {
            "type" => behaviour.info.r#type = "DevicePlugin".into(),
            "none" => behaviour.info.supported_versions.clear(),
            "two" => behaviour.info.supported_versions = vec!["2.0.0".into()],
            "name" => behaviour.info.name = "../x".into(),
            "csi" => behaviour.info.endpoint = "/nowhere/csi.sock".into(),
            _ => behaviour.node_id.clear(),
        });
        let status = driver.next_notification().await;
        assert!(!status.plugin_registered);
        assert!(status.error.contains(part_of_reason), "{file}: {}", status.error);
        assert!(kubelet.drivers().is_empty());
    }
}

#[tokio::test]
async fn only_sockets_count_and_none_whose_name_begins_with_a_dot() {
    let house = House::new();
    std::fs::write(house.registration_dir().join("file.sock"), "").unwrap();
    std::fs::create_dir(house.registration_dir().join("below")).unwrap();
    let mut hidden = house.driver_with("hidden", |behaviour| behaviour.info.name = "hidden.example".into());
    std::fs::rename(&hidden.registration_socket, house.registration_dir().join(".hidden.sock")).unwrap();
    let below = house.driver();
    std::fs::rename(&below.registration_socket, house.registration_dir().join("below/fake.sock")).unwrap();
    let kubelet = house.kubelet().start().await.unwrap();
    kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    assert_eq!(kubelet.drivers().len(), 1);
    assert!(hidden.pending().is_empty());
    let mut events = kubelet.events();
    while let Some(event) = events.try_next() {
        assert!(!matches!(event, Event::RegistrationFailed { .. }), "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mute_driver_is_given_a_second_and_then_more_and_more_rest() {
    let _frozen = freeze();
    let house = House::new();
    let mut driver = house.driver_with("fake", |behaviour| behaviour.mute = true);
    let kubelet = house.kubelet().timings(Timings::default()).start().await.unwrap();
    let mut events = kubelet.events();
    for rest in [500, 1000, 2000] {
        while !matches!(driver.next_call().await, Call::GetInfo) {}
        let asked = Instant::now();
        advance(Duration::from_secs(1)).await;
        let (reason, retry_in) = next_failure(&mut events).await;
        assert_eq!(reason, "GetInfo did not answer within 1s");
        assert_eq!(retry_in, Duration::from_millis(rest));
        assert_eq!(asked.elapsed(), Duration::from_secs(1));
        // One second more, for the next look at the folder.
        advance(retry_in + Duration::from_secs(1)).await;
    }
    driver.set(|behaviour| behaviour.mute = false);
}

#[tokio::test]
async fn a_driver_that_does_not_take_the_news_is_not_registered_until_it_does() {
    let house = House::new();
    let mut driver =
        house.driver_with("fake", |behaviour| behaviour.notify.push_back(Status::internal("not now")));
    let kubelet = house.kubelet().start().await.unwrap();
    let (reason, _) = next_failure(&mut kubelet.events()).await;
    assert!(reason.contains("NotifyRegistrationStatus failed") && reason.contains("not now"), "{reason}");
    kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    assert_eq!(
        driver.pending(),
        ["GetInfo", "NodeGetInfo", "Notify(true)", "GetInfo", "NodeGetInfo", "Notify(true)"]
    );
}

#[tokio::test]
async fn whoever_waits_in_vain_learns_the_last_news() {
    let house = House::new();
    let kubelet = house.kubelet().start().await.unwrap();
    let _driver = house.driver_with("fake", |behaviour| behaviour.info.r#type = "Other".into());
    next_failure(&mut kubelet.events()).await;
    let error = kubelet.wait_registered(NAME, Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains(NAME) && error.contains("plugin type \"Other\""), "{error}");
}
