//! Events on pods.

use crate::setting::{Setting, wait};
use azure_emulator::{FaultRule, Service};
use e2e::VAULT;

#[tokio::test]
async fn what_happens_to_a_pods_volume_stands_on_the_pod() {
    let Some(setting) = Setting::start(&[]).await else { return };
    let web = setting.pod("events-web", "events").await;
    for _ in 0..20 {
        web.publish().await.unwrap_err();
    }
    let told = |reason: &'static str| {
        let setting = &setting;
        wait(reason, async move || setting.events("events-web", reason).await.pop())
    };
    let failed = told("FailedToMount").await;
    assert_eq!(failed.type_.as_deref(), Some("Warning"));
    assert_eq!(
        failed.involved_object.uid.as_ref(),
        web.request.volume_context.get("csi.storage.k8s.io/pod.uid")
    );
    assert!(failed.message.unwrap().contains("\"events\" not found: create it in namespace \"default\""));
    assert_eq!(setting.events("events-web", "FailedToMount").await.len(), 1, "one event for all of them");

    setting.create_class("events").await;
    web.publish().await.unwrap();
    setting.stage.azure.vault(VAULT).set_secret("secret1", "second-value").unwrap();
    web.publish().await.unwrap();
    let rotated = told("MountRotationComplete").await;
    assert_eq!(rotated.type_.as_deref(), Some("Normal"));
    assert_eq!(
        rotated.message.as_deref(),
        Some("successfully rotated mounted contents for spc default/events")
    );
    assert_eq!(rotated.source.unwrap().component.as_deref(), Some("csi-secrets-store-rotation"));

    let failed_with = |start: &'static str| {
        let (setting, web) = (&setting, &web);
        wait(start, async move || {
            web.publish().await.unwrap();
            let events = setting.events("events-web", "MountRotationFailed").await;
            events.into_iter().filter_map(|event| event.message).find(|text| text.starts_with(start))
        })
    };
    // Older values stand in where the vault cannot be asked; the call is OK, and the pod says so.
    setting.stage.azure.faults().inject(FaultRule::status(Service::Vault, 429));
    failed_with("spc default/events: older values stand in: ").await;
    setting.stage.azure.faults().clear();

    setting.set_parameter("events", "keyvaultName", "no-such-vault").await;
    let text = failed_with("failed to rotate mounted contents for spc default/events, err: ").await;
    assert!(!text.contains("second-value"));
}
