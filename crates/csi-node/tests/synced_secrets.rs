//! Synced Secrets against a real API server.
#![allow(clippy::unwrap_used, reason = "test code")]

use api_server::{ApiServer, Request};
use csi_node::class::{SecretObject, SecretObjectData};
use csi_node::csi::request::Pod;
use csi_node::synced_secret::{self, Files, Options, SecretFault, Source, Synced, SyncedSecrets, Wanted};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ObjectMeta, Patch, PatchParams,
    PostParams,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The name under which the reference's writes are recorded.
const REFERENCE: &str = "csi-secrets-store";

/// A namespace on a real API server, with as many nodes as a test wants.
struct Bed {
    server: Arc<ApiServer>,
    namespace: String,
    secrets: Api<Secret>,
}

impl Bed {
    async fn new(name: &str) -> Option<Self> {
        let server = ApiServer::shared().await.unwrap()?;
        let namespace = server.namespace(name).await.unwrap();
        let secrets = Api::namespaced(server.client().await.unwrap(), &namespace);
        Some(Self { server, namespace, secrets })
    }

    /// A driver on a node. With the name in its requests.
    async fn node(&self, name: &str, check_every: Duration) -> SyncedSecrets {
        let role = Role {
            metadata: ObjectMeta { name: Some("sync".into()), ..ObjectMeta::default() },
            rules: Some(vec![
                PolicyRule {
                    api_groups: Some(vec![String::new()]),
                    resources: Some(vec!["secrets".into()]),
                    verbs: ["get", "create", "patch"].map(str::to_owned).to_vec(),
                    ..PolicyRule::default()
                },
                PolicyRule {
                    api_groups: Some(vec!["secrets-store.csi.x-k8s.io".into()]),
                    resources: Some(vec!["secretproviderclasspodstatuses".into()]),
                    verbs: vec!["list".into()],
                    ..PolicyRule::default()
                },
            ]),
        };
        let binding = RoleBinding {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".into(),
                kind: "Role".into(),
                name: "sync".into(),
            },
            subjects: Some(vec![Subject {
                api_group: Some("rbac.authorization.k8s.io".into()),
                kind: "User".into(),
                name: name.into(),
                namespace: None,
            }]),
        };
        let client = self.server.client().await.unwrap();
        let roles: Api<Role> = Api::namespaced(client.clone(), &self.namespace);
        let bindings: Api<RoleBinding> = Api::namespaced(client, &self.namespace);
        // The role is the same for all.
        let _ = roles.create(&PostParams::default(), &role).await;
        bindings.create(&PostParams::default(), &binding).await.unwrap();
        SyncedSecrets::new(self.server.client_as(name).await.unwrap(), Options { check_every })
    }

    async fn get(&self, name: &str) -> Secret {
        self.secrets.get(name).await.unwrap()
    }

    async fn patch(&self, name: &str, manager: &str, change: serde_json::Value) {
        let parameters = PatchParams { field_manager: Some(manager.into()), ..PatchParams::default() };
        self.secrets.patch(name, &parameters, &Patch::Merge(change)).await.unwrap();
    }

    /// What a node asked about Secrets, as verbs.
    fn asked_by(&self, node: &str) -> Vec<String> {
        let requests = self.server.requests().unwrap();
        let ours = |request: &&Request| {
            request.namespace == self.namespace && request.resource == "secrets" && request.user_agent == node
        };
        requests.iter().filter(ours).map(|request| request.verb.clone()).collect()
    }

    fn pod(&self, name: &str) -> Pod {
        Pod {
            namespace: self.namespace.clone(),
            name: name.into(),
            uid: format!("uid-of-{name}"),
            ..Pod::default()
        }
    }

    /// Syncs one Secret `s` of one file, key and value `k`.
    async fn sync(&self, node: &SyncedSecrets, pod: &str, value: &str, owner: &str) -> Synced {
        let files = Files::from([("k", value.as_bytes())]);
        self.try_sync(node, pod, "class", &[object("s", &[("k", "k")])], &files, owner)
            .await
            .remove(0)
            .unwrap()
    }

    async fn try_sync(
        &self,
        node: &SyncedSecrets,
        pod: &str,
        class: &str,
        secret_objects: &[SecretObject],
        files: &Files<'_>,
        owner: &str,
    ) -> Vec<Result<Synced, SecretFault>> {
        let pod = self.pod(pod);
        let owners = [owner_of(owner)];
        let wanted =
            Wanted { pod: &pod, class, secret_objects, files, source: Source::NewVolume, owners: &owners };
        node.sync(wanted).await.into_iter().map(|one| one.map_err(|error| error.fault)).collect()
    }
}

fn object(name: &str, data: &[(&str, &str)]) -> SecretObject {
    let data = data
        .iter()
        .map(|(file, key)| SecretObjectData { object_name: (*file).into(), key: (*key).into() })
        .collect();
    SecretObject { secret_name: name.into(), kind: "Opaque".into(), data, ..SecretObject::default() }
}

/// As a pod has it, in control and blocking.
fn owner_of(name: &str) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".into(),
        kind: "ReplicaSet".into(),
        name: name.into(),
        uid: format!("uid-of-{name}"),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn owners(secret: &Secret) -> Vec<String> {
    let mut names: Vec<_> =
        secret.metadata.owner_references.iter().flatten().map(|owner| owner.name.clone()).collect();
    names.sort();
    names
}

fn data(secret: &Secret) -> BTreeMap<&str, &str> {
    let values = secret.data.iter().flatten();
    values.map(|(key, ByteString(value))| (&**key, std::str::from_utf8(value).unwrap())).collect()
}

const HOUR: Duration = Duration::from_secs(3600);
/// Each sync looks at the Secret's metadata.
const ALWAYS: Duration = Duration::ZERO;

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_of_a_hundred_costs_one_get_and_one_post_and_then_one_look_per_interval() {
    let Some(bed) = Bed::new("burst").await else { return };
    let node = bed.node("burst-node", HOUR).await;
    let pods: Vec<_> = (0..100).map(|pod| format!("p{pod}")).collect();
    let round = || futures::future::join_all(pods.iter().map(|pod| bed.sync(&node, pod, "v", "rs")));
    let first = round().await;
    assert_eq!(first.iter().filter(|synced| **synced == Synced::Created).count(), 1);
    assert!(first.iter().all(|synced| *synced != Synced::Updated));
    assert_eq!(bed.asked_by("burst-node"), ["get", "create"]);

    let secret = bed.get("s").await;
    assert_eq!(data(&secret), [("k", "v")].into());
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    let labels = secret.metadata.labels.clone().unwrap();
    assert_eq!(labels, [("secrets-store.csi.k8s.io/managed".to_owned(), "true".to_owned())].into());
    let owner = &secret.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.uid.as_str(), owner.controller, owner.block_owner_deletion), ("uid-of-rs", None, None));

    // Ten minutes of republishing, every two minutes.
    for _ in 0..5 {
        assert!(round().await.iter().all(|synced| *synced == Synced::Unchanged));
    }
    assert_eq!(bed.asked_by("burst-node").len(), 2, "within the interval memory answers");
    // When each is due, they look, and do not write.
    let looking = bed.node("looking-node", ALWAYS).await;
    for pod in ["p0", "p1", "p0", "p1"] {
        assert_eq!(bed.sync(&looking, pod, "v", "rs").await, Synced::Unchanged);
    }
    assert_eq!(bed.asked_by("looking-node"), ["get"; 4]);
    assert_eq!(bed.get("s").await.metadata.resource_version, secret.metadata.resource_version);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_at_once_leave_all_owners_and_then_nothing_is_written() {
    let Some(bed) = Bed::new("nodes").await else { return };
    let mut nodes = Vec::new();
    for node in 10..30 {
        nodes.push((bed.node(&format!("n{node}"), ALWAYS).await, format!("rs{node}")));
    }
    let everybody =
        || futures::future::join_all(nodes.iter().map(|(node, owner)| bed.sync(node, owner, "v", owner)));
    let first = everybody().await;
    assert_eq!(first.iter().filter(|synced| **synced == Synced::Created).count(), 1, "{first:?}");
    let secret = bed.get("s").await;
    assert_eq!(owners(&secret), nodes.iter().map(|(_, owner)| owner.clone()).collect::<Vec<_>>());
    for _ in 0..3 {
        assert_eq!(everybody().await, [Synced::Unchanged; 20]);
    }
    assert_eq!(bed.get("s").await.metadata.resource_version, secret.metadata.resource_version);
}

#[tokio::test]
async fn an_owner_that_was_collected_does_not_come_back_with_another_pods_sync() {
    let Some(bed) = Bed::new("collected").await else { return };
    let (one, two) = (bed.node("one", ALWAYS).await, bed.node("two", ALWAYS).await);
    bed.sync(&one, "a", "v", "rs-a").await;
    bed.sync(&one, "b", "v", "rs-b").await;
    bed.sync(&two, "c", "v", "rs-c").await;
    assert_eq!(owners(&bed.get("s").await), ["rs-a", "rs-b", "rs-c"]);
    // What the garbage collector does to a dependent that still has other owners.
    bed.patch(
        "s",
        "kube-controller-manager",
        json!({"metadata": {"ownerReferences":
        [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs-b", "uid": "uid-of-rs-b"}]}}),
    )
    .await;
    assert_eq!(bed.sync(&one, "b", "v", "rs-b").await, Synced::Unchanged);
    assert_eq!(owners(&bed.get("s").await), ["rs-b"]);
    // A new owner, and one that was re-created under its old name.
    assert_eq!(bed.sync(&one, "d", "v", "rs-d").await, Synced::Updated);
    assert_eq!(owners(&bed.get("s").await), ["rs-b", "rs-d"]);
    let again = OwnerReference { uid: "uid-of-another".into(), ..owner_of("rs-b") };
    let (pod, files) = (bed.pod("e"), Files::from([("k", &b"v"[..])]));
    let objects = [object("s", &[("k", "k")])];
    let wanted = Wanted {
        pod: &pod,
        class: "class",
        secret_objects: &objects,
        files: &files,
        source: Source::Vault,
        owners: &[again.clone(), again],
    };
    assert_eq!(one.sync(wanted).await[0], Ok(Synced::Updated));
    assert_eq!(owners(&bed.get("s").await), ["rs-b", "rs-b", "rs-d"]);
}

#[tokio::test]
async fn only_a_change_is_written_and_what_others_have_added_stays() {
    let Some(bed) = Bed::new("change").await else { return };
    let node = bed.node("change-node", ALWAYS).await;
    let mut class = object("s", &[("k", "k"), ("l", "l")]);
    class.labels = [("environment".into(), "test".into()), ("team".into(), "a".into())].into();
    class.annotations = [("note".into(), "x".into())].into();
    let files = |value: &'static str| Files::from([("k", value.as_bytes()), ("l", &b"l"[..])]);
    let sync = async |class: &SecretObject, value| {
        bed.try_sync(&node, "p", "class", std::slice::from_ref(class), &files(value), "rs")
            .await
            .remove(0)
            .unwrap()
    };
    assert_eq!(sync(&class, "1").await, Synced::Created);
    bed.patch("s", "kubectl-edit", json!({
        "metadata": {"labels": {"hers": "1"}, "annotations": {"reloader": "1"}, "finalizers": ["example.com/f"]},
        "data": {"hers": "aGVycw=="},
    }))
    .await;
    let before = bed.get("s").await;
    assert_eq!(sync(&class, "1").await, Synced::Unchanged);
    assert_eq!(bed.get("s").await.metadata.resource_version, before.metadata.resource_version);

    assert_eq!(sync(&class, "2").await, Synced::Updated);
    let after = bed.get("s").await;
    assert_eq!(data(&after), [("k", "2"), ("l", "l"), ("hers", "hers")].into());
    assert_eq!(after.metadata.labels.as_ref().unwrap().len(), 4);
    assert_eq!(after.metadata.annotations.as_ref().unwrap()["reloader"], "1");
    assert_eq!(after.metadata.finalizers, before.metadata.finalizers);

    // The class drops a key, a label and the annotation; ours go, hers stay.
    class.data.pop();
    class.labels.remove("team");
    class.annotations.clear();
    assert_eq!(sync(&class, "2").await, Synced::Updated);
    let after = bed.get("s").await;
    assert_eq!(data(&after), [("k", "2"), ("hers", "hers")].into());
    let labels: Vec<_> = after.metadata.labels.as_ref().unwrap().keys().map(String::as_str).collect();
    assert_eq!(labels, ["environment", "hers", "secrets-store.csi.k8s.io/managed"]);
    let annotations: Vec<_> =
        after.metadata.annotations.as_ref().unwrap().keys().map(String::as_str).collect();
    assert_eq!(annotations, ["reloader", synced_secret::MADE_FROM]);
    assert_eq!(sync(&class, "2").await, Synced::Unchanged);
    assert_eq!(bed.get("s").await.metadata.resource_version, after.metadata.resource_version);
    bed.patch("s", "t", json!({"metadata": {"finalizers": null}})).await;
}

#[tokio::test]
async fn a_secret_that_was_deleted_or_tampered_with_is_repaired_at_the_next_look() {
    let Some(bed) = Bed::new("repair").await else { return };
    let node = bed.node("repair-node", ALWAYS).await;
    bed.sync(&node, "p", "v", "rs").await;
    bed.secrets.delete("s", &DeleteParams::default()).await.unwrap();
    assert_eq!(bed.sync(&node, "p", "v", "rs").await, Synced::Created);
    for tampering in [json!({"data": {"k": "eA=="}}), json!({"data": {"k": null}})] {
        bed.patch("s", "kubectl-edit", tampering).await;
        assert_eq!(bed.sync(&node, "p", "v", "rs").await, Synced::Updated);
        assert_eq!(data(&bed.get("s").await), [("k", "v")].into());
    }
}

#[tokio::test]
async fn while_a_value_rotates_no_node_puts_an_older_one_back() {
    let Some(bed) = Bed::new("rotation").await else { return };
    let (one, two) = (bed.node("one", ALWAYS).await, bed.node("two", ALWAYS).await);
    bed.sync(&one, "a", "old", "rs").await;
    bed.sync(&two, "b", "old", "rs").await;
    bed.sync(&two, "c", "old", "rs").await;
    assert_eq!(bed.sync(&one, "a", "new", "rs").await, Synced::Updated);
    let rotated = bed.get("s").await.metadata.resource_version;
    for _ in 0..3 {
        assert_eq!(bed.sync(&two, "b", "old", "rs").await, Synced::Unchanged);
    }
    // The same node has both generations for a while, too.
    assert_eq!(bed.sync(&two, "c", "new", "rs").await, Synced::Unchanged);
    assert_eq!(bed.sync(&two, "b", "old", "rs").await, Synced::Unchanged);
    assert_eq!(bed.sync(&two, "b", "new", "rs").await, Synced::Unchanged);
    assert_eq!(bed.get("s").await.metadata.resource_version, rotated);

    // After a restart, files that were only found on the node are no news; a missing Secret is made of them all the same.
    let restarted = bed.node("two-restarted", ALWAYS).await;
    let (pod, files, objects) =
        (bed.pod("b"), Files::from([("k", &b"old"[..])]), [object("s", &[("k", "k")])]);
    let wanted = Wanted {
        pod: &pod,
        class: "class",
        secret_objects: &objects,
        files: &files,
        source: Source::Volume,
        owners: &[owner_of("rs")],
    };
    assert!(restarted.is_due(&pod, "class", &objects));
    assert_eq!(restarted.sync(wanted).await[0], Ok(Synced::Unchanged));
    assert_eq!(data(&bed.get("s").await), [("k", "new")].into());
    bed.secrets.delete("s", &DeleteParams::default()).await.unwrap();
    assert_eq!(restarted.sync(wanted).await[0], Ok(Synced::Created));
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_left_alone_until_it_is_handed_over() {
    let Some(bed) = Bed::new("foreign").await else { return };
    let node = bed.node("foreign-node", ALWAYS).await;
    let theirs = Secret {
        metadata: ObjectMeta { name: Some("s".into()), ..ObjectMeta::default() },
        data: Some([("k".to_owned(), ByteString(b"theirs".to_vec()))].into()),
        ..Secret::default()
    };
    bed.secrets.create(&PostParams::default(), &theirs).await.unwrap();
    let before = bed.get("s").await;
    let files = Files::from([("k", &b"ours"[..])]);
    let sync = async || {
        bed.try_sync(
            &node,
            "p",
            "class",
            &[object("s", &[("k", "k")]), object("t", &[("k", "k")])],
            &files,
            "rs",
        )
        .await
    };
    let results = sync().await;
    let refused = results[0].as_ref().unwrap_err().to_string();
    assert!(
        refused.contains(&format!(
            "kubectl label secret --namespace {} s secrets-store.csi.k8s.io/managed=true",
            bed.namespace
        )),
        "{refused}"
    );
    assert_eq!(results[1], Ok(Synced::Created), "the others are not held up");
    assert_eq!(bed.get("s").await, before);

    bed.patch(
        "s",
        "kubectl-label",
        json!({"metadata": {"labels": {"secrets-store.csi.k8s.io/managed": "true"}}}),
    )
    .await;
    assert_eq!(sync().await[0], Ok(Synced::Updated));
    assert_eq!(data(&bed.get("s").await), [("k", "ours")].into());
}

#[tokio::test]
async fn a_secret_of_the_reference_is_taken_over_with_what_its_class_no_longer_lists() {
    let Some(bed) = Bed::new("reference").await else { return };
    let node = bed.node("reference-node", ALWAYS).await;
    let labels = [("secrets-store.csi.k8s.io/managed", "true"), ("gone", "1")];
    let theirs = Secret {
        metadata: ObjectMeta {
            name: Some("s".into()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            owner_references: Some(vec![owner_of("rs-of-another-node")]),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".into()),
        data: Some(["k", "gone"].map(|key| (key.to_owned(), ByteString(b"v".to_vec()))).into()),
        ..Secret::default()
    };
    let parameters = PostParams { field_manager: Some(REFERENCE.into()), ..PostParams::default() };
    bed.secrets.create(&parameters, &theirs).await.unwrap();
    bed.patch("s", "kubectl-edit", json!({"data": {"hers": "eA=="}})).await;
    assert_eq!(bed.sync(&node, "p", "v", "rs").await, Synced::Updated);
    let secret = bed.get("s").await;
    assert_eq!(data(&secret), [("k", "v"), ("hers", "x")].into());
    assert_eq!(secret.metadata.labels.as_ref().unwrap().len(), 1);
    assert_eq!(owners(&secret), ["rs", "rs-of-another-node"]);
    assert_eq!(bed.sync(&node, "p", "v", "rs").await, Synced::Unchanged);
    assert_eq!(bed.get("s").await.metadata.resource_version, secret.metadata.resource_version);
}

#[tokio::test]
async fn what_the_api_server_does_not_allow_is_told_with_the_cure() {
    let Some(bed) = Bed::new("refused").await else { return };
    let node = bed.node("refused-node", ALWAYS).await;
    let files = Files::from([("k", &b"1"[..]), ("l", &b"2"[..])]);
    let sync = async |node: &SyncedSecrets, pod: &str, object: SecretObject, files: &Files<'_>| {
        bed.try_sync(node, pod, "class", &[object], files, "rs").await.remove(0)
    };
    sync(&node, "p", object("s", &[("k", "k")]), &files).await.unwrap();

    let other_type = SecretObject { kind: "example.com/other".into(), ..object("s", &[("k", "k")]) };
    let told = sync(&node, "q", other_type, &files).await.unwrap_err().to_string();
    assert!(told.contains("with type \"Opaque\"") && told.contains("delete the Secret"), "{told}");

    bed.patch("s", "t", json!({"immutable": true})).await;
    let rotated = sync(&node, "p", object("s", &[("l", "k")]), &files).await;
    assert_eq!(rotated, Err(SecretFault::Immutable));
    assert_eq!(sync(&node, "r", object("s", &[("k", "k")]), &files).await, Ok(Synced::Unchanged));

    let broken = SecretObject {
        kind: "kubernetes.io/dockerconfigjson".into(),
        ..object("docker", &[("k", ".dockerconfigjson")])
    };
    let no_json = Files::from([("k", &b"hunter2"[..])]);
    let told = sync(&node, "p", broken, &no_json).await.unwrap_err();
    assert!(matches!(told, SecretFault::Refused { .. }) && !told.to_string().contains("hunter2"), "{told}");

    let stranger = SyncedSecrets::new(bed.server.client_as("stranger").await.unwrap(), Options::default());
    let told = sync(&stranger, "p", object("u", &[("k", "k")]), &files).await.unwrap_err().to_string();
    assert!(told.contains("syncSecret.enabled=true") && told.contains("stranger"), "{told}");

    let finalized = json!({"metadata": {"finalizers": ["example.com/f"]}});
    bed.patch("s", "t", finalized).await;
    bed.secrets.delete("s", &DeleteParams::default()).await.unwrap();
    let told = sync(&node, "p", object("s", &[("k", "k")]), &files).await.unwrap_err().to_string();
    assert!(told.contains("being deleted") && told.contains("example.com/f"), "{told}");
    bed.patch("s", "t", json!({"metadata": {"finalizers": null}})).await;
}

#[tokio::test]
async fn two_classes_do_not_fight_over_a_secret() {
    let Some(bed) = Bed::new("classes").await else { return };
    let node = bed.node("classes-node", ALWAYS).await;
    let sync = async |pod: &str, class: &str, key: &str, value: &str| {
        let files = Files::from([("k", value.as_bytes())]);
        bed.try_sync(&node, pod, class, &[object("s", &[("k", key)])], &files, "rs").await.remove(0)
    };
    assert_eq!(sync("old-pod", "old", "k", "1").await, Ok(Synced::Created));
    // A rollout to another class: its first volume counts, and the old one does not write back.
    assert_eq!(sync("new-pod", "new", "l", "2").await, Ok(Synced::Updated));
    for value in ["1", "3"] {
        let refused = Err(SecretFault::TwoClasses { other: "new".into() });
        assert_eq!(sync("old-pod", "old", "k", value).await, refused);
    }
    assert_eq!(sync("new-pod", "new", "l", "4").await, Ok(Synced::Updated));
    assert_eq!(data(&bed.get("s").await), [("l", "4")].into());
    // Rolled back: the new class's pod is gone. The old one's content is what it once wrote.
    node.forget(&bed.pod("new-pod"));
    assert_eq!(sync("old-pod", "old", "k", "1").await, Ok(Synced::Updated));
    assert_eq!(data(&bed.get("s").await), [("k", "1")].into());
    assert_eq!(sync("old-pod", "old", "k", "3").await, Ok(Synced::Updated));

    // A class that makes the same of the same objects may; its values come a little later.
    assert_eq!(sync("twin-pod", "twin", "k", "3").await, Ok(Synced::Unchanged));
    assert_eq!(sync("old-pod", "old", "k", "5").await, Ok(Synced::Updated));
    assert_eq!(sync("twin-pod", "twin", "k", "3").await, Ok(Synced::Unchanged));
    assert_eq!(sync("twin-pod", "twin", "k", "5").await, Ok(Synced::Unchanged));
    assert_eq!(sync("twin-pod", "twin", "k", "6").await, Ok(Synced::Updated));
    assert_eq!(data(&bed.get("s").await), [("k", "6")].into());
}

/// Says that a pod mounts a class, as the driver on its node does.
async fn mounts(bed: &Bed, pod: &str, class: &str) -> Api<DynamicObject> {
    let kind = ApiResource {
        plural: "secretproviderclasspodstatuses".into(),
        ..ApiResource::from_gvk(&GroupVersionKind::gvk(
            "secrets-store.csi.x-k8s.io",
            "v1",
            "SecretProviderClassPodStatus",
        ))
    };
    let statuses = Api::namespaced_with(bed.server.client().await.unwrap(), &bed.namespace, &kind);
    let mut status = DynamicObject::new(&format!("{pod}-{}-{class}", bed.namespace), &kind);
    status.data = json!({"status": {"mounted": true}});
    statuses.create(&PostParams::default(), &status).await.unwrap();
    statuses
}

#[tokio::test]
async fn two_classes_on_two_nodes_do_not_fight_over_a_secret() {
    let Some(bed) = Bed::new("two-nodes").await else { return };
    let old_node = bed.node("two-nodes-old", ALWAYS).await;
    let new_node = bed.node("two-nodes-new", ALWAYS).await;
    let sync = async |node: &SyncedSecrets, pod: &str, class: &str, key: &str, value: &str| {
        let files = Files::from([("k", value.as_bytes())]);
        bed.try_sync(node, pod, class, &[object("s", &[("k", key)])], &files, "rs").await.remove(0)
    };
    mounts(&bed, "old-pod", "old").await;
    assert_eq!(sync(&old_node, "old-pod", "old", "k", "1").await, Ok(Synced::Created));
    let statuses = mounts(&bed, "new-pod", "new").await;
    assert_eq!(sync(&new_node, "new-pod", "new", "l", "2").await, Ok(Synced::Updated));
    let before = bed.get("s").await;

    // Over and over, also when the old class's content changes and when its driver starts anew.
    let refused = Err(SecretFault::TwoClasses { other: "new".into() });
    for value in ["1", "1", "3", "4"] {
        assert_eq!(sync(&old_node, "old-pod", "old", "k", value).await, refused);
        assert_eq!(sync(&new_node, "new-pod", "new", "l", "2").await, Ok(Synced::Unchanged));
    }
    let restarted = SyncedSecrets::new(
        bed.server.client_as("two-nodes-old").await.unwrap(),
        Options { check_every: ALWAYS },
    );
    let files = Files::from([("k", &b"5"[..])]);
    let (pod, objects, owners) = (bed.pod("old-pod"), [object("s", &[("k", "k")])], [owner_of("rs")]);
    for source in [Source::Vault, Source::Volume, Source::Vault] {
        let wanted = Wanted {
            pod: &pod,
            class: "old",
            secret_objects: &objects,
            files: &files,
            source,
            owners: &owners,
        };
        assert_eq!(restarted.sync(wanted).await.remove(0).map_err(|error| error.fault), refused);
    }
    assert_eq!(bed.get("s").await.metadata.resource_version, before.metadata.resource_version);

    // The pods of the new class are gone, from whatever node: what is left of it is no reason to hold back.
    let name = format!("new-pod-{}-new", bed.namespace);
    statuses.delete(&name, &DeleteParams::default()).await.unwrap();
    for value in ["1", "6"] {
        assert_eq!(sync(&old_node, "old-pod", "old", "k", value).await, Ok(Synced::Updated));
        assert_eq!(data(&bed.get("s").await), [("k", value)].into());
    }
}

#[tokio::test]
async fn a_secret_is_not_written_only_to_say_which_class_it_is_made_from() {
    let Some(bed) = Bed::new("made-from").await else { return };
    let node = bed.node("made-from-node", ALWAYS).await;
    assert_eq!(bed.sync(&node, "p", "1", "rs").await, Synced::Created);
    let made_from = |secret: &Secret| {
        secret.metadata.annotations.clone().unwrap_or_default().remove(synced_secret::MADE_FROM)
    };
    let said = made_from(&bed.get("s").await).unwrap();
    assert!(said.starts_with("class/"), "{said}");
    // As an earlier version of this driver has made it.
    let unsaid = json!({"metadata": {"annotations": {synced_secret::MADE_FROM: null}}});
    bed.patch("s", synced_secret::FIELD_MANAGER, unsaid).await;
    let before = bed.get("s").await;
    assert_eq!(bed.sync(&node, "p", "1", "rs").await, Synced::Unchanged);
    assert_eq!(bed.get("s").await.metadata.resource_version, before.metadata.resource_version);
    assert_eq!(bed.sync(&node, "p", "2", "rs").await, Synced::Updated);
    assert_eq!(made_from(&bed.get("s").await), Some(said));
}
