//! What other people's classes cost.

use crate::setting::{SECRET, Setting, wait};
use e2e::{Usage, class};
use kube::api::PostParams;
use serde_json::json;
use std::sync::Arc;

const CLASSES: usize = 2000;

/// The driver's own memory, in KiB.
fn memory(setting: &Setting) -> i64 {
    let usage = Usage::of(setting.stage.driver.as_ref().unwrap().pid());
    i64::try_from(usage.memory_kib).unwrap()
}

#[tokio::test]
async fn classes_that_nobody_uses_here_cost_no_memory() {
    let Some(mut setting) = Setting::start(&[]).await else { return };
    setting.create_class("memory").await;
    let web = setting.pod("memory-web", "memory").await;
    web.publish().await.unwrap();
    let few = memory(&setting);

    let namespace = setting.server.namespace("foreign").await.unwrap();
    let classes = Arc::new(kube::Api::namespaced_with(
        setting.client.clone(),
        &namespace,
        &kube::api::ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk(
            "secrets-store.csi.x-k8s.io",
            "v1",
            "SecretProviderClass",
        )),
    ));
    let text = class(&setting.stage, "foreign", &[SECRET], &[("filler", &"x".repeat(4000))]);
    let mut work = tokio::task::JoinSet::new();
    for number in 0..CLASSES {
        let mut object: kube::api::DynamicObject = serde_saphyr::from_str(&text).unwrap();
        object.metadata.name = Some(format!("foreign-{number}"));
        let classes = Arc::clone(&classes);
        work.spawn(async move { classes.create(&PostParams::default(), &object).await.unwrap() });
        if work.len() == 50 {
            work.join_next().await.unwrap().unwrap();
        }
    }
    work.join_all().await;
    // The watch has told them all when it has told what came after.
    let change = "array:\n  - |\n    objectName: ExampleSecret\n    objectType: secret\n";
    setting.set_parameter("memory", "objects", change).await;
    wait("the change", async || {
        web.publish().await.unwrap();
        web.files().contains_key("ExampleSecret").then_some(())
    })
    .await;
    let told = memory(&setting) - few;

    setting.stage.driver.take().unwrap().terminate().await;
    setting.stage.start_driver().await;
    web.publish().await.unwrap();
    let found = memory(&setting) - few;
    println!("{}", json!({"few_kib": few, "told_kib": told, "found_kib": found}));
    // Their specs alone are 8 MB.
    assert!(
        told < 3000 && found < 3000,
        "{few} KiB with one class; {told} more when told, {found} more when found"
    );
}
