//! What is looked after in the background, against a real API server and with a real volume.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use csi_node::class::{ApiServer, ClassName, Classes};
use csi_node::csi::request::PublishRequest;
use csi_node::events::Events;
use csi_node::metrics::Metrics;
use csi_node::reporting::Shown;
use csi_node::upkeep::{Upkeep, Volume};
use csi_node::volume::{Options, Payload, TargetPath, Volumes};
use k8s_openapi::api::core::v1::{Pod as PodObject, Secret};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use proto::csi::{NodePublishVolumeRequest, VolumeCapability};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

const SOON: Duration = Duration::from_millis(500);

async fn wait(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let seen = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

#[tokio::test]
async fn deleted_secrets_come_back_and_new_ones_of_the_class_are_made() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test mounts: run it as root");
        return eprintln!("NOTICE: left out: this test mounts: run it as root or with `unshare -Urm`");
    }
    let Some(server) = api_server::ApiServer::start().await.unwrap() else { return };
    let client = server.client().await.unwrap();
    let namespace = server.namespace("upkeep").await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "secrets-store.csi.x-k8s.io",
        "v1",
        "SecretProviderClass",
    ));
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &kind);
    let wants =
        |name: &str| json!({"secretName": name, "type": "Opaque", "data": [{"objectName": "a", "key": "k"}]});
    let class = json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass", "metadata": {"name": "kv"},
        "spec": {"provider": "azure", "parameters": {"a": "b"}, "secretObjects": [wants("first")]},
    });
    objects.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
    let pods: Api<PodObject> = Api::namespaced(client.clone(), &namespace);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "web", "image": "web"}]},
    });
    let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let target = TargetPath::parse(folder.path().join("mount").to_str().unwrap()).unwrap();
    let volumes = Arc::new(Volumes::new(Options::default()));
    let payload = Payload::new(vec![("a".into(), 0o644, Zeroizing::new(b"content".to_vec()))]).unwrap();
    volumes.publish(&target, &payload, None).unwrap();

    let start = |classes, events| {
        let metrics = Arc::new(Metrics::new());
        Upkeep::new(client.clone(), "node-1", classes, Arc::clone(&volumes), events, metrics, SOON)
    };
    let api_server = ApiServer::new(client.clone());
    let following = tokio::spawn(api_server.clone().follow());
    let classes = Classes::ApiServer(api_server);
    let events = Events::start(client.clone(), "node-1".into());
    let upkeep = start(classes.clone(), events);
    let running = tokio::spawn(upkeep.clone().run());
    let context = [
        ("csi.storage.k8s.io/pod.name", "web"),
        ("csi.storage.k8s.io/pod.namespace", &namespace),
        ("csi.storage.k8s.io/pod.uid", &pod.metadata.uid.unwrap()),
        ("secretProviderClass", "kv"),
    ];
    let request = NodePublishVolumeRequest {
        volume_id: "csi-1".into(),
        target_path: target.to_string(),
        volume_capability: Some(VolumeCapability::default()),
        readonly: true,
        volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..NodePublishVolumeRequest::default()
    };
    let request = Arc::new(PublishRequest::parse(request).unwrap());
    let class = classes.get(&ClassName { namespace, name: "kv".into() }).await.unwrap();
    let versions = Some(Vec::new().into());
    upkeep
        .published(Volume { request: Arc::clone(&request), class: Some(class), versions }, Shown::Mounted)
        .await;
    assert!(secrets.get_opt("first").await.unwrap().is_some(), "made before the call returns");

    secrets.delete("first", &DeleteParams::default()).await.unwrap();
    wait("the deleted Secret", async || secrets.get_opt("first").await.unwrap().is_some()).await;

    let more = json!({"spec": {"secretObjects": [wants("first"), wants("second")]}});
    objects.patch("kv", &PatchParams::default(), &Patch::Merge(more)).await.unwrap();
    wait("the new Secret", async || secrets.get_opt("second").await.unwrap().is_some()).await;

    // A driver that starts anew hears of a volume without looking at its content, and looks after it all the same.
    running.abort();
    let events = Events::start(client.clone(), "node-1".into());
    let upkeep = start(classes, events);
    let running = tokio::spawn(upkeep.clone().run());
    secrets.delete("second", &DeleteParams::default()).await.unwrap();
    upkeep.still_there(&request);
    wait("the Secret", async || secrets.get_opt("second").await.unwrap().is_some()).await;

    upkeep.forget(&target);
    running.abort();
    following.abort();
    volumes.unpublish(&target).unwrap();
}
