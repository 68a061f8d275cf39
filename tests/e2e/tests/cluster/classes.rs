//! Where classes come from, and how often they are asked for.

use crate::setting::{Setting, wait};
use kube::api::DeleteParams;

#[tokio::test]
async fn a_class_in_use_is_read_again_only_after_a_change() {
    let Some(setting) = Setting::start(&[]).await else { return };
    setting.create_class("watched").await;
    let web = setting.pod("watched-web", "watched").await;
    web.publish().await.unwrap();
    // The watch may have begun after the first read.
    wait("the watch", async || {
        let before = setting.class_reads();
        web.publish().await.unwrap();
        (setting.class_reads() == before).then_some(())
    })
    .await;
    let before = setting.class_reads();
    for pod in 0..10 {
        setting.pod(&format!("watched-{pod}"), "watched").await.publish().await.unwrap();
        web.publish().await.unwrap();
    }
    assert_eq!(setting.class_reads(), before);

    setting
        .set_parameter(
            "watched",
            "objects",
            "array:\n  - |\n    objectName: ExampleSecret\n    objectType: secret\n",
        )
        .await;
    wait("the change", async || {
        web.publish().await.unwrap();
        web.files().contains_key("ExampleSecret").then_some(())
    })
    .await;
    assert_eq!(setting.class_reads(), before + 1);
    // What it says has not changed, and a class of that name elsewhere is none of its business.
    setting.create_class("unwatched").await;
    web.publish().await.unwrap();
    assert_eq!(setting.class_reads(), before + 1);
}

#[tokio::test]
async fn a_pod_does_not_fail_because_of_what_its_class_said_before() {
    let Some(setting) = Setting::start(&[]).await else { return };
    let of = |secret: &str| format!("array:\n  - |\n    objectName: {secret}\n    objectType: secret\n");
    setting.create_class("moment").await;
    let other = setting.pod("moment-other", "moment").await;
    other.publish().await.unwrap();
    // Broken, which the driver gets to know, and corrected at the very moment another pod starts. Over and over: now the watch
    // is first, now the pod.
    for round in 0..15 {
        let before = setting.class_reads();
        setting.set_parameter("moment", "objects", &of("missing")).await;
        wait("the broken class", async || {
            other.publish().await.unwrap();
            (setting.class_reads() > before).then_some(())
        })
        .await;
        let web = setting.pod(&format!("moment-web-{round}"), "moment").await;
        setting.set_parameter("moment", "objects", &of("secret1")).await;
        web.publish().await.unwrap();
    }
}

#[tokio::test]
async fn a_class_deleted_in_use_keeps_its_volumes_and_refuses_new_ones() {
    let Some(setting) = Setting::start(&[]).await else { return };
    setting.create_class("gone").await;
    let web = setting.pod("gone-web", "gone").await;
    web.publish().await.unwrap();
    setting.classes().delete("gone", &DeleteParams::default()).await.unwrap();
    let late = setting.pod("gone-late", "gone").await;
    let error = wait("the refusal", async || {
        let refused = late.publish().await.err();
        if refused.is_none() {
            late.unpublish().await.unwrap();
        }
        refused
    })
    .await;
    let expected = "failed to get secretproviderclass default/gone, error: SecretProviderClass.secrets-store.csi.x-k8s.io \"gone\" not found";
    assert!(error.message().contains(expected), "{error}");
    web.publish().await.unwrap();
    assert_eq!(web.read("secret1"), "Hello!");

    setting.create_class("gone").await;
    late.publish().await.unwrap();
}
