//! Kubernetes Secrets made of a volume's files.

use crate::setting::{Setting, wait};
use e2e::{Scrape, VAULT};
use kube::api::{Patch, PatchParams};
use serde_json::json;

#[tokio::test]
async fn secrets_are_there_before_the_pod_starts_and_follow_rotation() {
    let Some(setting) = Setting::start(&[]).await else { return };
    setting.allow_secrets().await;
    setting.create_class_with_secret("sync").await;
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "sync", "uid": "rs-1",
        "controller": true, "blockOwnerDeletion": true,
    });
    let web = setting.owned_pod("sync-web", "sync", json!([owner])).await;
    web.publish().await.unwrap();
    let secret = setting.secrets().get("sync-secret").await.expect("made before the call returns");
    let value = |secret: &k8s_openapi::api::core::v1::Secret| {
        String::from_utf8(secret.data.as_ref().unwrap()["username"].0.clone()).unwrap()
    };
    assert_eq!(value(&secret), "Hello!");
    let labels = secret.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["secrets-store.csi.k8s.io/managed"], "true");
    assert_eq!(labels["environment"], "test");
    let owners = serde_json::to_value(&secret.metadata.owner_references).unwrap();
    assert_eq!(
        owners,
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "sync", "uid": "rs-1"}])
    );

    // Republishes that find nothing new ask the API server for nothing.
    let before = setting.asked().len();
    for _ in 0..5 {
        web.publish().await.unwrap();
    }
    let asked = setting.asked();
    let about: Vec<_> = asked
        .iter()
        .skip(before)
        .filter(|request| request.verb != "watch" && request.verb != "list")
        .collect();
    assert!(about.is_empty(), "{about:?}");

    setting.stage.azure.vault(VAULT).set_secret("secret1", "second").unwrap();
    web.publish().await.unwrap();
    let rotated = setting.secrets().get("sync-secret").await.unwrap();
    assert_eq!(value(&rotated), "second");
    assert_eq!(rotated.metadata.uid, secret.metadata.uid);
    let told =
        wait("the event", async || setting.events("sync-web", "SecretRotationComplete").await.pop()).await;
    assert_eq!(told.message.as_deref(), Some("successfully rotated K8s secret sync-secret"));

    // A pod that nobody owns keeps its Secret by its status object; a finished one wants none.
    setting.create_class_with_secret("alone").await;
    setting.pod("alone-web", "alone").await.publish().await.unwrap();
    let secret = setting.secrets().get("alone-secret").await.unwrap();
    let status = setting.status_of("alone-web", "alone").await.unwrap();
    let owners = serde_json::to_value(&secret.metadata.owner_references).unwrap();
    let expected = json!([{
        "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClassPodStatus",
        "name": "alone-web-default-alone", "uid": status.metadata.uid,
    }]);
    assert_eq!(owners, expected);
    setting.create_class_with_secret("finished").await;
    let finished = setting.pod("finished-web", "finished").await;
    let phase = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    setting.pods().patch_status("finished-web", &PatchParams::default(), &phase).await.unwrap();
    finished.publish().await.unwrap();
    assert!(setting.secrets().get_opt("finished-secret").await.unwrap().is_none());
}

#[tokio::test]
async fn without_the_right_the_pod_starts_and_is_told_what_is_missing() {
    let Some(setting) = Setting::start(&[]).await else { return };
    setting.create_class_with_secret("unsynced").await;
    let web = setting.pod("unsynced-web", "unsynced").await;
    web.publish().await.unwrap();
    assert_eq!(web.read("secret1"), "Hello!");
    let told =
        wait("the event", async || setting.events("unsynced-web", "FailedToCreateSecret").await.pop()).await;
    let text = told.message.unwrap();
    assert!(text.contains("default/unsynced-secret") && text.contains("syncSecret.enabled=true"), "{text}");
    assert!(!text.contains("Hello!"));
    assert!(setting.status_of("unsynced-web", "unsynced").await.is_some());
    for _ in 0..5 {
        web.publish().await.unwrap();
    }
}

#[tokio::test]
async fn a_secret_that_could_not_be_made_during_an_outage_is_made_after_it() {
    let Some(setting) = Setting::start(&[]).await else { return };
    setting.allow_secrets().await;
    setting.create_class_with_secret("outage").await;
    let (web, other) =
        (setting.pod("outage-web", "outage").await, setting.pod("outage-other", "outage").await);
    web.publish().await.unwrap();
    let before = setting.secrets().get("outage-secret").await.unwrap();
    setting.relay.set_open(false);
    setting.stage.azure.vault(VAULT).set_secret("secret1", "second").unwrap();
    web.publish().await.unwrap();
    other.publish().await.unwrap();
    setting.relay.set_open(true);
    wait("the new content", async || {
        let now = setting.secrets().get("outage-secret").await.unwrap();
        (now.data != before.data).then_some(())
    })
    .await;
    setting.wait_status("outage-other", "outage").await;
}

#[tokio::test]
async fn two_drivers_whose_classes_write_one_secret_say_so_and_leave_it_at_rest() {
    let address = e2e::free_address();
    let Some(first) = Setting::start(&["--metrics-addr", &address]).await else { return };
    let Some(second) = Setting::start(&[]).await else { return };
    first.allow_secrets().await;
    second.allow_secrets().await;
    first.create_class_for("shared-old", "shared", "username").await;
    second.create_class_for("shared-new", "shared", "login").await;
    let old = first.pod("shared-old-web", "shared-old").await;
    let new = second.pod("shared-new-web", "shared-new").await;
    old.publish().await.unwrap();
    new.publish().await.unwrap();
    let taken_over = first.secrets().get("shared").await.unwrap();
    assert_eq!(taken_over.data.as_ref().unwrap().keys().collect::<Vec<_>>(), ["login"]);

    // The old one's content changes, again and again, and either driver looks after its volume.
    for value in ["second", "third", "fourth"] {
        first.stage.azure.vault(VAULT).set_secret("secret1", value).unwrap();
        old.publish().await.unwrap();
        assert_eq!(old.read("secret1"), value);
        new.publish().await.unwrap();
    }
    let now = first.secrets().get("shared").await.unwrap();
    assert_eq!(now.metadata.resource_version, taken_over.metadata.resource_version);
    let told =
        wait("the event", async || first.events("shared-old-web", "SecretRotationFailed").await.pop()).await;
    let text = told.message.unwrap();
    for part in
        ["default/shared-old", "SecretProviderClass shared-new", "default/shared", "a secretName of its own"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let conflicts =
        r#"akv_csi_secret_conflicts_total{class="default/shared-old",other="default/shared-new"}"#;
    assert!(Scrape::metrics(&address).await.value(conflicts).is_some_and(|count| count >= 3.0));
    assert!(second.events("shared-new-web", "SecretRotationFailed").await.is_empty());

    // Its pod is gone: the older volume's class has the Secret again.
    second.delete_pod("shared-new-web", "shared-new").await;
    first.stage.azure.vault(VAULT).set_secret("secret1", "fifth").unwrap();
    old.publish().await.unwrap();
    let back = first.secrets().get("shared").await.unwrap();
    assert_eq!(back.data.as_ref().unwrap().keys().collect::<Vec<_>>(), ["username"]);
}
