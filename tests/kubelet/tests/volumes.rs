//! What a driver is asked for a pod's volume, when, and what the kubelet makes of its answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod fake;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fake::{Answer, FakeDriver, House, NAME, PATIENCE, find, freeze, pod, settings};
use kubelet::{
    Clock, CsiClient, CsiDriver, Event, EventStream, FailureKind, FsGroupPolicy, Kubelet, Leftover,
    NodeCapabilities, TOKENS_KEY, Timings, TokenRequest,
};
use proto::csi::node_service_capability::rpc::Type as RpcType;
use proto::csi::volume_capability::AccessType;
use proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, advance};
use tonic::{Code, Status};

/// A publish request as text to compare; tokens, which differ each time, are replaced by their audiences.
fn shown(request: &NodePublishVolumeRequest) -> Value {
    let capability = request.volume_capability.as_ref().unwrap();
    let Some(AccessType::Mount(mount)) = &capability.access_type else { panic!("not a mount") };
    let map = |map: &std::collections::HashMap<String, String>| -> BTreeMap<String, String> {
        let value =
            |key: &str, value: &String| if key == TOKENS_KEY { audiences(value) } else { value.clone() };
        map.iter().map(|(k, v)| (k.clone(), value(k, v))).collect()
    };
    json!({
        "volume_id": request.volume_id,
        "target_path": request.target_path,
        "staging_target_path": request.staging_target_path,
        "publish_context": request.publish_context,
        "readonly": request.readonly,
        "access_mode": capability.access_mode.as_ref().unwrap().mode().as_str_name(),
        "fs_type": mount.fs_type,
        "mount_flags": mount.mount_flags,
        "volume_mount_group": mount.volume_mount_group,
        "volume_context": map(&request.volume_context),
        "secrets": map(&request.secrets),
    })
}

fn audiences(tokens: &str) -> String {
    let tokens: BTreeMap<String, Value> = serde_json::from_str(tokens).unwrap();
    for token in tokens.values() {
        assert_eq!(token["token"].as_str().unwrap().split('.').count(), 3);
        assert!(token["expirationTimestamp"].as_str().unwrap().ends_with('Z'));
    }
    tokens.into_keys().collect::<Vec<_>>().join(" ")
}

fn tokens(request: &NodePublishVolumeRequest) -> &str {
    &request.volume_context[TOKENS_KEY]
}

async fn mounted(events: &mut EventStream) -> Event {
    find(events, |event| matches!(event, Event::VolumeMounted { .. })).await
}

/// Waits for the next failed mount or republish: code, kind, and the wait before the next try.
async fn next_failure(events: &mut EventStream) -> (Option<Code>, FailureKind, Duration) {
    let failed = |event: &Event| matches!(event, Event::MountFailed { .. } | Event::RepublishFailed { .. });
    match find(events, failed).await {
        Event::MountFailed { failure, retry_in, .. } | Event::RepublishFailed { failure, retry_in, .. } => {
            (failure.code, failure.kind, retry_in)
        }
        other => panic!("{other}"),
    }
}

/// A kubelet with the real one's timings, a registered driver, and time that moves by `advance` alone.
async fn real_timings(house: &House, settings: CsiDriver) -> (Kubelet, FakeDriver) {
    let mut driver = house.driver();
    let clock = Clock::following_tokio(SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000));
    let builder = house.kubelet().timings(Timings::default()).driver(settings).clock(clock);
    let kubelet = builder.start().await.unwrap();
    kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    driver.pending();
    (kubelet, driver)
}

async fn fast(house: &House, settings: CsiDriver) -> (Kubelet, FakeDriver) {
    let driver = house.driver();
    let kubelet = house.kubelet().driver(settings).start().await.unwrap();
    kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    (kubelet, driver)
}

const BUSYBOX: &str = "
apiVersion: v1
kind: Pod
metadata: {name: busybox, namespace: prod, uid: 11111111-2222-3333-4444-555555555555}
spec:
  serviceAccountName: app
  securityContext: {fsGroup: 2000}
  volumes:
    - name: secrets-store01-inline
      csi:
        driver: fake.csi.example
        readOnly: true
        volumeAttributes:
          secretProviderClass: azure-kvname-wi
          csi.storage.k8s.io/pod.name: forged
          csi.storage.k8s.io/serviceAccount.tokens: forged
        nodePublishSecretRef: {name: creds}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: app, namespace: prod}}
---
apiVersion: v1
kind: Secret
metadata: {name: creds, namespace: prod}
stringData: {clientid: id, clientsecret: hush, csi.storage.k8s.io/serviceAccount.tokens: forged}
";
/// SHA-256 of the uid above and the volume's name, by sha256sum.
const BUSYBOX_ID: &str = "csi-ff58eb93b0589a178556a55cc2d4b80361ce99394c63609119af0e7b4aef4705";

fn busybox_request(house: &House) -> Value {
    let volume =
        "kubelet/pods/11111111-2222-3333-4444-555555555555/volumes/kubernetes.io~csi/secrets-store01-inline";
    json!({
        "volume_id": BUSYBOX_ID,
        "target_path": house.0.path().join(volume).join("mount"),
        "staging_target_path": "",
        "publish_context": {},
        "readonly": true,
        "access_mode": "SINGLE_NODE_WRITER",
        "fs_type": "",
        "mount_flags": [],
        "volume_mount_group": "",
        "volume_context": {
            "secretProviderClass": "azure-kvname-wi",
            "csi.storage.k8s.io/pod.name": "busybox",
            "csi.storage.k8s.io/pod.namespace": "prod",
            "csi.storage.k8s.io/pod.uid": "11111111-2222-3333-4444-555555555555",
            "csi.storage.k8s.io/serviceAccount.name": "app",
            "csi.storage.k8s.io/ephemeral": "true",
            TOKENS_KEY: "api://AzureADTokenExchange",
        },
        "secrets": { "clientid": "id", "clientsecret": "hush", TOKENS_KEY: "forged by the Secret" },
    })
}

#[tokio::test]
async fn the_request_is_the_kubelets() {
    let house = House::new();
    let (kubelet, mut driver) = fast(&house, settings()).await;
    let yaml = BUSYBOX.replace(
        "clientsecret: hush, csi.storage.k8s.io/serviceAccount.tokens: forged",
        "clientsecret: hush",
    );
    let pod = kubelet.add_pod(&yaml).unwrap();
    assert_eq!(pod.to_string(), "prod/busybox");
    kubelet.wait_mounted(&pod, PATIENCE).await.unwrap();
    let (request, _) = driver.next_publish().await;
    let mut expected = busybox_request(&house);
    expected["secrets"].as_object_mut().unwrap().remove(TOKENS_KEY);
    assert_eq!(shown(&request), expected);
    assert_eq!(kubelet.target_path(&pod, "secrets-store01-inline").unwrap(), Path::new(&request.target_path));
    assert_eq!(kubelet.volume_id(&pod, "secrets-store01-inline").unwrap(), request.volume_id);

    let data = Path::new(&request.target_path).with_file_name("vol_data.json");
    let data: Value = serde_json::from_str(&std::fs::read_to_string(data).unwrap()).unwrap();
    assert_eq!(data["driverName"], NAME);
    assert_eq!(data["volumeHandle"], request.volume_id);
    assert_eq!(data["specVolID"], "secrets-store01-inline");
    assert_eq!(data["volumeLifecycleMode"], "Ephemeral");
}

#[tokio::test]
async fn tokens_in_secrets_replace_what_the_secret_says_and_leave_the_volume_context_alone() {
    let house = House::new();
    let driver_object = CsiDriver {
        service_account_token_in_secrets: true,
        token_requests: vec![TokenRequest::new("a"), TokenRequest::new("")],
        ..settings()
    };
    let (kubelet, mut driver) = fast(&house, driver_object).await;
    driver.set(|behaviour| {
        behaviour.capabilities =
            vec![RpcType::GetVolumeStats, RpcType::VolumeMountGroup, RpcType::SingleNodeMultiWriter];
    });
    // A forged key in the volume's own attributes passes, as with the real kubelet; a driver must not look there.
    let yaml = BUSYBOX.replace("serviceAccount.tokens: forged\n", "serviceAccount.tokens: '{}'\n");
    kubelet.add_pod(&yaml).unwrap();
    let (request, _) = driver.next_publish().await;
    let mut expected = busybox_request(&house);
    expected["secrets"][TOKENS_KEY] = json!(" a");
    expected["volume_context"][TOKENS_KEY] = json!("");
    expected["access_mode"] = json!("SINGLE_NODE_MULTI_WRITER");
    expected["volume_mount_group"] = json!("2000");
    assert_eq!(shown(&request), expected);
}

#[tokio::test]
async fn a_driver_that_asks_for_nothing_is_told_nothing() {
    let house = House::new();
    let (kubelet, mut driver) = fast(&house, CsiDriver::inline(NAME).unwrap()).await;
    kubelet.add_pod(&pod("web").replace("readOnly: true", "readOnly: false, fsType: ext4")).unwrap();
    let (request, _) = driver.next_publish().await;
    let request = shown(&request);
    assert_eq!(request["volume_context"], json!({ "secretProviderClass": "spc" }));
    assert_eq!(request["secrets"], json!({}));
    assert_eq!((&request["readonly"], &request["fs_type"]), (&json!(false), &json!("ext4")));
}

#[tokio::test(start_paused = true)]
async fn a_failing_mount_is_tried_again_with_the_kubelets_back_off() {
    let _frozen = freeze();
    let house = House::new();
    let (kubelet, mut driver) = real_timings(&house, settings()).await;
    driver.fail_publishes((0..10).map(|n| Status::internal(format!("no. {n}"))));
    let mut events = kubelet.events();
    let mut due = Instant::now();
    kubelet.add_pod(&pod("web")).unwrap();
    for wait in [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 122_000, 122_000] {
        let wait = Duration::from_millis(wait);
        assert_eq!(driver.next_publish().await.1, due);
        assert_eq!(next_failure(&mut events).await, (Some(Code::Internal), FailureKind::Final, wait));
        advance(wait).await;
        due += wait;
    }
    let event = mounted(&mut events).await.to_string();
    assert!(
        event.starts_with("pod default/web: volume store mounted in ")
            && event.ends_with("after 10 failures"),
        "{event}"
    );
    assert_eq!(kubelet.last_error("web", "store"), None);

    driver.fail_publishes([Status::internal("again")]);
    kubelet.republish_now("web").await.unwrap_err();
    assert_eq!(next_failure(&mut events).await.2, Duration::from_millis(500), "success ended the back-off");
}

#[tokio::test(start_paused = true)]
async fn after_a_final_answer_to_a_first_publish_nothing_is_left() {
    let _frozen = freeze();
    let house = House::new();
    let (kubelet, mut driver) = real_timings(&house, settings()).await;
    driver.set(|behaviour| {
        behaviour.publish.push_back(Answer::MountAndFail(Status::invalid_argument("field x missing")));
    });
    kubelet.add_pod(&pod("web")).unwrap();
    let (code, kind, _) = next_failure(&mut kubelet.events()).await;
    assert_eq!((code, kind), (Some(Code::InvalidArgument), FailureKind::Final));
    let target = kubelet.target_path("web", "store").unwrap();
    assert!(!target.exists() && !target.with_file_name("vol_data.json").exists());
    let failure = kubelet.last_error("web", "store").unwrap();
    assert_eq!(failure.to_string(), "InvalidArgument: field x missing");
    let error = kubelet.wait_mounted("web", Duration::ZERO).await.unwrap_err().to_string();
    assert!(
        error.contains("default/web") && error.contains("store") && error.contains("field x missing"),
        "{error}"
    );

    let removal = kubelet.delete_pod("web", PATIENCE).await.unwrap();
    assert_eq!(driver.pending(), ["NodeGetCapabilities", "NodePublishVolume"], "nothing to unpublish");
    assert!(removal.is_clean());
    assert!(!house.root().join("pods").read_dir().unwrap().any(|_| true));
}

#[tokio::test(start_paused = true)]
async fn after_an_uncertain_answer_the_folders_stay_and_the_volume_is_unpublished() {
    let _frozen = freeze();
    for code in
        [Code::Cancelled, Code::DeadlineExceeded, Code::Unavailable, Code::ResourceExhausted, Code::Aborted]
    {
        let house = House::new();
        let (kubelet, mut driver) = real_timings(&house, settings()).await;
        driver
            .set(|behaviour| behaviour.publish.push_back(Answer::MountAndFail(Status::new(code, "perhaps"))));
        kubelet.add_pod(&pod("web")).unwrap();
        let (answer, kind, _) = next_failure(&mut kubelet.events()).await;
        assert_eq!((answer, kind), (Some(code), FailureKind::Uncertain));
        let target = kubelet.target_path("web", "store").unwrap();
        assert!(target.exists() && target.with_file_name("vol_data.json").exists());
        assert!(kubelet.delete_pod("web", PATIENCE).await.unwrap().is_clean());
        assert_eq!(driver.next_unpublish().await.target_path, target.to_str().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_does_not_answer_has_two_minutes() {
    let _frozen = freeze();
    let house = House::new();
    let (kubelet, mut driver) = real_timings(&house, settings()).await;
    driver.set(|behaviour| behaviour.publish.push_back(Answer::Hang));
    let mut events = kubelet.events();
    kubelet.add_pod(&pod("web")).unwrap();
    let (_, asked) = driver.next_publish().await;
    advance(Duration::from_mins(2)).await;
    let (code, kind, _) = next_failure(&mut events).await;
    assert_eq!((code, kind), (Some(Code::DeadlineExceeded), FailureKind::Uncertain));
    assert_eq!(asked.elapsed(), Duration::from_mins(2));
}

#[tokio::test(start_paused = true)]
async fn a_mounted_volume_is_published_again_every_sixty_to_ninety_seconds() {
    let _frozen = freeze();
    let house = House::new();
    let (kubelet, mut driver) = real_timings(&house, settings()).await;
    let mut events = kubelet.events();
    kubelet.add_pod(&pod("web")).unwrap();
    mounted(&mut events).await;
    let (first, _) = driver.next_publish().await;
    for _ in 0..5 {
        driver.pending();
        advance(Duration::from_millis(59_990)).await;
        // A publish that is due by now would come before these have all been answered.
        for _ in 0..3 {
            kubelet.client(NAME).unwrap().node_info().await.unwrap();
        }
        assert_eq!(driver.pending(), ["NodeGetInfo"; 3]);
        advance(Duration::from_millis(30_020)).await;
        let (request, _) = driver.next_publish().await;
        assert_eq!(shown(&request), shown(&first));
        assert_eq!(tokens(&request), tokens(&first), "the token is kept");
        find(&mut events, |event| matches!(event, Event::VolumeRepublished { .. })).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_republish_brings_a_new_token_at_eighty_percent_of_its_life() {
    let _frozen = freeze();
    let house = House::new();
    let requests = vec![TokenRequest { audience: "a".into(), expiration_seconds: Some(1000) }];
    let (kubelet, mut driver) =
        real_timings(&house, CsiDriver { token_requests: requests, ..settings() }).await;
    kubelet.add_pod(&pod("web")).unwrap();
    let (first, _) = driver.next_publish().await;
    kubelet.terminate_pod("web").unwrap();
    assert!(kubelet.delete_pod("web", PATIENCE).await.unwrap().is_clean());
    kubelet.add_pod(&pod("web")).unwrap();
    let (second, _) = driver.next_publish().await;
    assert_ne!(tokens(&first), tokens(&second), "another pod of the same name has its own");
    assert_ne!(first.volume_id, second.volume_id);
    kubelet.wait_mounted("web", PATIENCE).await.unwrap();

    kubelet.republish_now("web").await.unwrap();
    let (again, _) = driver.next_publish().await;
    assert_eq!(tokens(&again), tokens(&second));
    advance(Duration::from_secs(801)).await;
    kubelet.republish_now("web").await.unwrap();
    let (renewed, _) = driver.next_publish().await;
    assert_ne!(tokens(&renewed), tokens(&second));
}

#[tokio::test(start_paused = true)]
async fn a_failed_republish_removes_nothing_and_is_tried_again() {
    let _frozen = freeze();
    let house = House::new();
    let (kubelet, mut driver) = real_timings(&house, settings()).await;
    let mut events = kubelet.events();
    kubelet.add_pod(&pod("web")).unwrap();
    mounted(&mut events).await;
    driver.next_publish().await;
    driver.fail_publishes([Status::invalid_argument("gone bad")]);
    let error = kubelet.republish_now("web").await.unwrap_err().to_string();
    assert!(error.contains("default/web") && error.contains("InvalidArgument: gone bad"), "{error}");
    driver.next_publish().await;
    assert!(kubelet.is_mounted("web", "store").unwrap());
    assert!(kubelet.target_path("web", "store").unwrap().exists());
    assert!(kubelet.last_error("web", "store").is_some());
    let (_, _, retry_in) = next_failure(&mut events).await;
    advance(retry_in).await;
    driver.next_publish().await;
    find(&mut events, |event| matches!(event, Event::VolumeRepublished { .. })).await;
    assert_eq!(kubelet.last_error("web", "store"), None);
}

#[tokio::test(start_paused = true)]
async fn no_republish_without_need_and_none_for_a_terminating_pod() {
    let _frozen = freeze();
    let house = House::new();
    let (kubelet, mut driver) =
        real_timings(&house, CsiDriver { requires_republish: false, ..settings() }).await;
    kubelet.add_pod(&pod("once")).unwrap();
    kubelet.wait_mounted("once", PATIENCE).await.unwrap();
    kubelet.set_driver(settings());
    kubelet.add_pod(&pod("ending")).unwrap();
    kubelet.wait_mounted("ending", PATIENCE).await.unwrap();
    kubelet.terminate_pod("ending").unwrap();
    let marked =
        pod("marked").replace("{name: marked}", "{name: marked, deletionTimestamp: '2026-01-01T00:00:00Z'}");
    kubelet.add_pod(&marked).unwrap();
    assert!(kubelet.republish_now("ending").await.unwrap_err().to_string().contains("terminating"));
    driver.pending();
    for _ in 0..10 {
        advance(Duration::from_secs(100)).await;
    }
    // Publishes that are due by now would come before this one.
    kubelet.republish_now("once").await.unwrap();
    assert_eq!(driver.pending(), ["NodeGetCapabilities", "NodePublishVolume"]);
    assert!(kubelet.republish_now("marked").await.is_err());
    assert!(kubelet.delete_all(PATIENCE).await.unwrap().is_clean());
    assert_eq!(driver.pending(), ["NodeUnpublishVolume", "NodeUnpublishVolume"], "marked was never mounted");
    assert!(kubelet.pods().is_empty());
}

#[tokio::test]
async fn deletion_unpublishes_until_it_works_and_removes_the_folders() {
    let house = House::new();
    let (kubelet, mut driver) = fast(&house, settings()).await;
    kubelet.add_pod(&pod("web")).unwrap();
    kubelet.wait_mounted("web", PATIENCE).await.unwrap();
    let (target, id) =
        (kubelet.target_path("web", "store").unwrap(), kubelet.volume_id("web", "store").unwrap());
    driver
        .set(|behaviour| behaviour.unpublish.extend([Status::internal("busy"), Status::unavailable("busy")]));
    assert!(kubelet.delete_pod("web", PATIENCE).await.unwrap().is_clean());
    for _ in 0..3 {
        let request = driver.next_unpublish().await;
        assert_eq!(
            (request.volume_id, request.target_path),
            (id.clone(), target.to_str().unwrap().to_owned())
        );
    }
    assert!(driver.pending().is_empty());
    assert!(!house.root().join("pods").read_dir().unwrap().any(|_| true));
    assert!(kubelet.last_error("web", "store").is_none());
    assert!(kubelet.delete_pod("web", PATIENCE).await.is_err(), "not there any more");
    let mut events = kubelet.events();
    find(&mut events, |event| matches!(event, Event::UnmountFailed { .. })).await;
    find(&mut events, |event| matches!(event, Event::VolumeUnmounted { .. })).await;
    find(&mut events, |event| matches!(event, Event::PodRemoved { .. })).await;
}

#[tokio::test]
async fn what_a_driver_leaves_behind_is_reported_and_content_is_never_removed() {
    let house = House::new();
    let (kubelet, driver) = fast(&house, settings()).await;
    kubelet.add_pod(&pod("web")).unwrap();
    kubelet.wait_mounted("web", PATIENCE).await.unwrap();
    let target = kubelet.target_path("web", "store").unwrap();
    driver.set(|behaviour| behaviour.leave_content = true);
    let removal = kubelet.delete_pod("web", PATIENCE).await.unwrap();
    assert!(
        matches!(&removal.leftovers[..], [(volume, Leftover::Unremovable { path, .. })] if volume == "store" && *path == target)
    );
    assert!(target.join("secret").exists());
    let event =
        find(&mut kubelet.events(), |event| matches!(event, Event::LeftBehind { .. })).await.to_string();
    assert!(event.contains("pod default/web: volume store left behind: "), "{event}");
}

#[tokio::test]
async fn deletion_waits_for_the_publish_in_progress() {
    let house = House::new();
    let (kubelet, mut driver) = fast(&house, settings()).await;
    let finish = Arc::new(Notify::new());
    driver.set(|behaviour| behaviour.publish.push_back(Answer::After(Arc::clone(&finish))));
    kubelet.add_pod(&pod("web")).unwrap();
    driver.next_publish().await;
    let error = kubelet.delete_pod("web", Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains("not unmounted"), "{error}");
    assert!(driver.pending().is_empty());
    finish.notify_one();
    assert!(kubelet.delete_pod("web", PATIENCE).await.unwrap().is_clean());
    assert_eq!(driver.pending(), ["NodeUnpublishVolume"]);
}

#[tokio::test]
async fn a_driver_may_come_late_and_crash_and_come_back() {
    let house = House::new();
    let kubelet = house.kubelet().start().await.unwrap();
    let mut events = kubelet.events();
    kubelet.add_pod(&pod("web")).unwrap();
    let (code, kind, _) = next_failure(&mut events).await;
    assert_eq!((code, kind), (None, FailureKind::Transient));
    let error = kubelet.last_error("web", "store").unwrap().to_string();
    assert_eq!(error, format!("driver name {NAME} not found in the list of registered CSI drivers"));
    assert!(!house.root().join("pods").exists());

    let mut driver = house.driver();
    kubelet.wait_mounted("web", PATIENCE).await.unwrap();

    driver.crash().await;
    assert!(kubelet.republish_now("web").await.unwrap_err().to_string().contains("Unavailable"));
    assert!(kubelet.is_mounted("web", "store").unwrap());
    kubelet.add_pod(&pod("late")).unwrap();
    let about_late = |event: &Event| matches!(event, Event::MountFailed { pod, .. } if pod.name == "late");
    let event = find(&mut events, about_late).await.to_string();
    assert!(event.contains("Unavailable") && event.contains("fake-csi.sock"), "{event}");

    driver.restart();
    kubelet.wait_mounted("late", PATIENCE).await.unwrap();
    kubelet.wait_registered(NAME, PATIENCE).await.unwrap();
    kubelet.republish_now("web").await.unwrap();
    assert!(kubelet.delete_all(PATIENCE).await.unwrap().is_clean());
}

#[tokio::test]
async fn a_kubelet_that_ends_leaves_volumes_mounted_and_the_next_one_takes_them_over() {
    let house = House::new();
    let (kubelet, mut driver) = fast(&house, settings()).await;
    kubelet.add_pod(&pod("web")).unwrap();
    kubelet.wait_mounted("web", PATIENCE).await.unwrap();
    let (first, _) = driver.next_publish().await;
    drop(kubelet);
    let kubelet = house.kubelet().start().await.unwrap();
    kubelet.add_pod(&pod("web")).unwrap();
    kubelet.wait_mounted("web", PATIENCE).await.unwrap();
    let (second, _) = driver.next_publish().await;
    assert_eq!((&first.volume_id, &first.target_path), (&second.volume_id, &second.target_path));
    assert!(kubelet.delete_pod("web", PATIENCE).await.unwrap().is_clean());
    assert!(!house.root().join("pods").read_dir().unwrap().any(|_| true));
}

#[tokio::test]
async fn a_secret_is_read_anew_at_each_publish() {
    let secret = |value: &str| {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: creds}}\nstringData: {{key: {value}}}\n")
    };
    let house = House::new();
    let (kubelet, mut driver) = fast(&house, settings()).await;
    kubelet
        .add_pod(&pod("web").replace("readOnly: true", "readOnly: true, nodePublishSecretRef: {name: creds}"))
        .unwrap();
    next_failure(&mut kubelet.events()).await;
    let failure = kubelet.last_error("web", "store").unwrap();
    assert_eq!(failure.to_string(), "Secret default/creds of nodePublishSecretRef not found");
    assert_eq!(kubelet.apply(&secret("old")).unwrap(), []);
    kubelet.wait_mounted("web", PATIENCE).await.unwrap();
    assert_eq!(driver.next_publish().await.0.secrets["key"], "old");
    kubelet.apply(&secret("new")).unwrap();
    kubelet.republish_now("web").await.unwrap();
    assert_eq!(driver.next_publish().await.0.secrets["key"], "new");
}

#[tokio::test]
async fn inline_volumes_need_a_csi_driver_object_that_allows_them() {
    let house = House::new();
    let (kubelet, mut driver) = fast(&house, CsiDriver { ephemeral: false, ..settings() }).await;
    kubelet.add_pod(&pod("web")).unwrap();
    next_failure(&mut kubelet.events()).await;
    assert!(kubelet.last_error("web", "store").unwrap().message.contains("Ephemeral"));
    assert!(!driver.pending().contains(&"NodePublishVolume"));
    kubelet.set_driver(settings());
    kubelet.wait_mounted("web", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn pods_the_api_server_would_refuse_are_refused() {
    let house = House::new();
    let kubelet = house.kubelet().start().await.unwrap();
    let error = kubelet
        .add_pod(&BUSYBOX.replace("{name: app, namespace: prod}", "{name: app}"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("service account prod/app not found"), "{error}");
    assert!(kubelet.add_pod("kind: Pod").unwrap_err().to_string().contains("0 found"));
    kubelet.add_pod(&pod("web")).unwrap();
    assert!(kubelet.add_pod(&pod("web")).unwrap_err().to_string().contains("already exists"));
    assert!(kubelet.apply(&format!("{}---{}", pod("twin"), pod("twin"))).is_err());
    assert_eq!(kubelet.pods().len(), 1);
    assert!(kubelet.republish_now("nobody").await.is_err());
    assert!(kubelet.target_path("web", "nothing").is_err());
}

#[tokio::test]
async fn the_kubelet_gives_writable_files_to_the_group_when_the_policy_says_so() {
    use std::os::unix::fs::PermissionsExt as _;

    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o2770;
    // Its own group is one that any user may give a file to.
    let group = rustix::process::getgid().as_raw();
    let with_group = |name: &str, csi: &str| {
        pod(name)
            .replace("spec:\n", &format!("spec:\n  securityContext: {{fsGroup: {group}}}\n"))
            .replace("readOnly: true", csi)
    };
    let house = House::new();
    let (kubelet, _driver) =
        fast(&house, CsiDriver { fs_group_policy: FsGroupPolicy::File, ..settings() }).await;
    for (name, csi, given) in [("written", "readOnly: false", true), ("read", "readOnly: true", false)] {
        kubelet.add_pod(&with_group(name, csi)).unwrap();
        kubelet.wait_mounted(name, PATIENCE).await.unwrap();
        assert_eq!(mode(&kubelet.target_path(name, "store").unwrap()) == 0o2770, given, "{name}");
    }
}

#[tokio::test]
async fn odd_requests_go_out_as_they_are() {
    let house = House::new();
    let mut driver = house.driver();
    driver.set(|behaviour| behaviour.capabilities = vec![RpcType::VolumeMountGroup]);
    let client = CsiClient::new(&driver.csi_socket);
    let expected = NodeCapabilities { volume_mount_group: true, single_node_multi_writer: false };
    assert_eq!(client.capabilities().await.unwrap(), expected);
    assert_eq!(client.node_info().await.unwrap().node_id, "node-1");
    driver.fail_publishes([Status::invalid_argument("no target")]);
    let status = client.publish(NodePublishVolumeRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "no target"));
    assert!(driver.next_publish().await.0.volume_capability.is_none());
    client.unpublish(NodeUnpublishVolumeRequest::default()).await.unwrap();
    assert_eq!(client.probe().await.unwrap_err().code(), Code::Unimplemented);
    let nowhere =
        CsiClient::new("/nowhere/csi.sock").publish(NodePublishVolumeRequest::default()).await.unwrap_err();
    assert_eq!(nowhere.code(), Code::Unavailable);
    assert!(nowhere.message().contains("/nowhere/csi.sock"), "{nowhere}");
}
