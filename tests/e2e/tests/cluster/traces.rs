//! What a call does at the API server is in its trace.

use crate::setting::Setting;
use e2e::Collector;

#[tokio::test]
async fn status_object_and_secrets_are_part_of_the_call_that_writes_them() {
    let collector = Collector::start().await;
    let endpoint = format!("--otlp-endpoint={}", collector.url());
    let Some(mut setting) = Setting::start(&[&endpoint]).await else { return };
    setting.allow_secrets().await;
    setting.create_class_with_secret("traced").await;
    setting.pod("traced-web", "traced").await.publish().await.unwrap();
    setting.stage.driver.take().unwrap().terminate().await;

    let spans = collector.spans();
    let named = |name: &str| {
        spans.iter().find(|span| span.span.name == name).unwrap_or_else(|| panic!("{name}: {spans:?}"))
    };
    let (call, status) = (named("csi.v1.Node/NodePublishVolume"), named("write pod status"));
    let secrets = named("sync Secrets");
    for part in [status, secrets] {
        assert_eq!((part.trace(), part.parent()), (call.trace(), call.id()));
        assert!(part.span.status.is_none(), "{part:?}");
    }
    assert_eq!(status.attribute("akv_csi.outcome").as_deref(), Some("Created"));
    assert_eq!(secrets.attribute("akv_csi.secrets").as_deref(), Some("1"));
}
