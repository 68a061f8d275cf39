//! SecretProviderClassPodStatus objects.

use crate::setting::{Setting, wait};
use e2e::{NODE, VAULT};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

fn version(status: &Value) -> String {
    status["objects"][0]["version"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_mount_is_told_once_and_again_when_its_content_changes() {
    let Some(mut setting) = Setting::start(&[]).await else { return };
    setting.create_class("told").await;
    let web = setting.pod("told-web", "told").await;
    web.publish().await.unwrap();

    let object = setting.status_of("told-web", "told").await.expect("written before the call returns");
    let uid = &web.request.volume_context["csi.storage.k8s.io/pod.uid"];
    let labels = serde_json::to_value(&object.metadata.labels).unwrap();
    assert_eq!(labels, json!({"internal.secrets-store.csi.k8s.io/node-name": NODE}));
    let owners = serde_json::to_value(&object.metadata.owner_references).unwrap();
    assert_eq!(owners, json!([{"apiVersion": "v1", "kind": "Pod", "name": "told-web", "uid": uid}]));
    let first = version(&object.data["status"]);
    assert_eq!(
        object.data["status"],
        json!({
            "podName": "told-web", "secretProviderClassName": "told", "mounted": true,
            "targetPath": web.request.target_path, "objects": [{"id": "secret/secret1", "version": first}],
        })
    );
    assert_eq!(setting.asked_about_statuses(), ["create"], "one call is enough");
    for _ in 0..5 {
        web.publish().await.unwrap();
    }
    assert_eq!(setting.asked_about_statuses(), ["create"], "nothing has changed");

    // A new process reads before it writes.
    setting.stage.driver.take().unwrap().terminate().await;
    setting.stage.start_driver().await;
    for _ in 0..3 {
        web.publish().await.unwrap();
    }
    assert_eq!(setting.asked_about_statuses(), ["create", "get"]);
    assert_eq!(
        setting.asked().iter().filter(|request| request.is_write()).count(),
        1,
        "{:?}",
        setting.asked()
    );

    setting.stage.azure.vault(VAULT).set_secret("secret1", "second").unwrap();
    web.publish().await.unwrap();
    let object = setting.status_of("told-web", "told").await.unwrap();
    assert_ne!(version(&object.data["status"]), first);
    assert_eq!(setting.asked_about_statuses(), ["create", "get", "get", "update"]);
    web.unpublish().await.unwrap();
    assert!(
        setting.status_of("told-web", "told").await.is_some(),
        "it goes with the pod, not with the volume"
    );
}

#[tokio::test]
async fn an_object_of_the_reference_or_of_another_node_is_taken_over() {
    let Some(setting) = Setting::start(&[]).await else { return };
    setting.create_class("moved").await;
    let web = setting.pod("moved-0", "moved").await;
    web.publish().await.unwrap();
    let before = setting.status_of("moved-0", "moved").await.unwrap();

    // The pod of a StatefulSet has come from another node, where it was another pod; and somebody has added a label.
    web.unpublish().await.unwrap();
    let change = json!({
        "metadata": {
            "labels": {"internal.secrets-store.csi.k8s.io/node-name": "node-2", "mine": "yes"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "moved-0", "uid": "former"}],
        },
        "status": {"targetPath": "/elsewhere", "objects": null},
    });
    setting
        .statuses()
        .patch("moved-0-default-moved", &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
    web.publish().await.unwrap();
    let mut after = setting.status_of("moved-0", "moved").await.unwrap();
    assert_eq!(after.metadata.uid, before.metadata.uid);
    assert_eq!(after.metadata.labels.as_mut().unwrap().remove("mine").as_deref(), Some("yes"));
    assert_eq!(after.metadata.labels, before.metadata.labels);
    assert_eq!(after.metadata.owner_references, before.metadata.owner_references);
    assert_eq!(after.data, before.data);
}

#[tokio::test]
async fn a_deleted_object_comes_back_as_long_as_there_is_a_pod() {
    let Some(setting) = Setting::start(&[]).await else { return };
    setting.create_class("back").await;
    let (web, other) = (setting.pod("back-web", "back").await, setting.pod("back-other", "back").await);
    web.publish().await.unwrap();
    other.publish().await.unwrap();
    // Deletes the pod and then the object. The other one's is deleted after that, so when it is back, this one was seen.
    setting.delete_pod("back-other", "back").await;
    setting.statuses().delete("back-web-default-back", &DeleteParams::default()).await.unwrap();
    setting.wait_status("back-web", "back").await;
    assert!(setting.status_of("back-other", "back").await.is_none());
}

#[tokio::test]
async fn what_fails_is_done_later_and_the_volume_is_mounted_all_the_same() {
    let Some(setting) = Setting::start(&[]).await else { return };
    setting.create_class("later").await;
    let (web, other) = (setting.pod("later-web", "later").await, setting.pod("later-other", "later").await);
    web.publish().await.unwrap();
    setting.relay.set_open(false);

    // The class is known, because another volume uses it; nothing else is asked for before the mount.
    other.publish().await.unwrap();
    assert_eq!(other.read("secret1"), "Hello!");
    setting.stage.azure.vault(VAULT).set_secret("secret1", "second").unwrap();
    web.publish().await.unwrap();
    assert_eq!(web.read("secret1"), "second", "rotation needs no API server");

    // A class that nobody here knows is told as what it is.
    setting.create_class("later-unknown").await;
    let unknown = setting.pod("later-unknown", "later-unknown").await;
    let error = unknown.publish().await.unwrap_err();
    assert!(error.message().contains("failed to get secretproviderclass default/later-unknown"), "{error}");
    assert!(!error.message().contains("not found"), "{error}");

    assert!(setting.status_of("later-other", "later").await.is_none());
    let former = version(&setting.status_of("later-web", "later").await.unwrap().data["status"]);
    setting.relay.set_open(true);
    setting.wait_status("later-other", "later").await;
    wait("the new version", async || {
        let now = version(&setting.status_of("later-web", "later").await.unwrap().data["status"]);
        (now != former).then_some(())
    })
    .await;
    unknown.publish().await.unwrap();
}

#[tokio::test]
async fn long_names_and_two_volumes_of_one_class_have_objects_too() {
    let Some(setting) = Setting::start(&[]).await else { return };
    let class = "c".repeat(253);
    setting.create_class(&class).await;
    setting.pod("long-web", &class).await.publish().await.unwrap();
    let statuses = setting.statuses().list(&ListParams::default()).await.unwrap().items;
    let long: Vec<_> =
        statuses.iter().filter(|object| object.data["status"]["podName"] == "long-web").collect();
    assert_eq!(long.len(), 1, "{}", setting.stage.log());
    assert!(long[0].metadata.name.as_ref().unwrap().starts_with("long-web-default-ccc"));

    setting.create_class("twice").await;
    let one = setting.pod("twice-web", "twice").await;
    let mut two = one.clone();
    two.request.target_path = one.request.target_path.replace("/secrets/", "/zweite/");
    two.request.volume_id = "csi-two".to_owned();
    std::fs::create_dir_all(two.target().parent().unwrap()).unwrap();
    one.publish().await.unwrap();
    let before = setting.status_of("twice-web", "twice").await.unwrap();
    for _ in 0..3 {
        two.publish().await.unwrap();
        one.publish().await.unwrap();
    }
    let after = setting.status_of("twice-web", "twice").await.unwrap();
    assert_eq!(after.metadata.resource_version, before.metadata.resource_version, "they agree");
}
