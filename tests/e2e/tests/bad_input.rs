//! What is wrong is told: which pod, which class, which field, what to do. Nothing stays mounted, and the next try starts clean.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use azure_emulator::{FaultRule, Network, ObjectKind, Permissions, Service};
use e2e::{BAD_CLASSES, Call, Stage, StageOptions, VAULT, can_mount, class};
use std::time::Duration;
use tonic::Code;

const SECRET: &str = "objectName: secret1\nobjectType: secret";

/// Publishes, expects a refusal that has all these parts, and sees that nothing is left behind.
async fn refused(stage: &Stage, call: &Call, code: Code, parts: &[&str]) {
    let status = call.publish().await.expect_err("this must not mount");
    assert_eq!(status.code(), code, "{}", status.message());
    for part in parts {
        assert!(status.message().contains(part), "{part:?} is not in: {}", status.message());
    }
    assert!(stage.mounts().is_empty(), "{:?}", stage.mounts());
    assert!(!status.message().contains("eyJ"), "a token shows in: {}", status.message());
}

#[tokio::test]
async fn mistakes_in_classes_are_told_with_pod_class_field_and_cure() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions::default()).await;
    stage.fill_vault();
    for (number, bad) in BAD_CLASSES.iter().enumerate() {
        let name = format!("bad-{number}");
        stage.deploy(&name, &class(&stage, &name, bad.objects, bad.parameters));
        let call = Call::new(&stage, "web", &name);
        let mut parts = bad.message.to_vec();
        let class_name = format!("SecretProviderClass default/{name}");
        parts.extend(["failed to mount secrets store objects for pod default/web, err: ", &class_name]);
        refused(&stage, &call, Code::Unknown, &parts).await;
    }
    // All faults of a class at once.
    let faults = [("keyvaultName", ""), ("tenantId", ""), ("cloudName", "Nope"), ("usePodIdentity", "maybe")];
    stage.deploy(
        "all",
        &class(&stage, "all", &["objectName: a\nobjectType: x", "objectType: secret"], &faults),
    );
    let all = ["keyvaultName", "tenantId", "cloudName", "usePodIdentity", "array[0].objectType", "array[1]"];
    refused(&stage, &Call::new(&stage, "web", "all"), Code::Unknown, &all).await;
    assert_eq!(stage.azure.counters().endpoints.values().sum::<u64>(), 0, "a class with faults asks nobody");

    // The next try starts clean.
    stage.deploy("all", &class(&stage, "all", &[SECRET], &[]));
    let call = Call::new(&stage, "web", "all");
    call.publish().await.unwrap();
    assert_eq!(call.read("secret1"), "Hello!");
}

#[tokio::test]
async fn requests_the_kubelet_would_not_send_are_refused_in_the_references_words() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions::default()).await;
    stage.deploy("good", &class(&stage, "good", &[SECRET], &[]));
    let good = || Call::new(&stage, "web", "good");
    let check = async |change: &dyn Fn(&mut Call), code, part: &str| {
        let mut call = good();
        change(&mut call);
        refused(&stage, &call, code, &[part]).await;
    };
    let invalid = Code::InvalidArgument;
    check(&|c| c.request.volume_capability = None, invalid, "Volume capability missing in request").await;
    check(&|c| c.request.volume_id.clear(), invalid, "Volume ID missing in request").await;
    check(&|c| c.request.target_path.clear(), invalid, "Target path missing in request").await;
    check(
        &|c| c.request.target_path = "mount".into(),
        invalid,
        "Target path \"mount\" in request is invalid",
    )
    .await;
    check(&|c| c.request.volume_context.clear(), invalid, "Volume attributes missing in request").await;
    check(&|c| c.request.readonly = false, invalid, "Readonly is not true in request").await;
    let context = |key: &'static str| move |c: &mut Call| drop(c.request.volume_context.remove(key));
    check(&context("secretProviderClass"), Code::Unknown, "secretProviderClass is not set").await;
    check(&context("csi.storage.k8s.io/pod.name"), Code::Unknown, "podInfoOnMount: true").await;
    check(&context("csi.storage.k8s.io/pod.namespace"), Code::Unknown, "podInfoOnMount: true").await;

    let mut missing = Call::new(&stage, "web", "good");
    missing.request.volume_id.clear();
    assert_eq!(missing.unpublish().await.unwrap_err().message(), "Volume ID missing in request");
}

#[tokio::test]
async fn classes_that_are_missing_or_malformed_are_named() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions::default()).await;
    stage.fill_vault();
    let try_class = async |name: &str, yaml: Option<&str>, parts: &[&str]| {
        if let Some(yaml) = yaml {
            stage.deploy(name, yaml);
        }
        refused(&stage, &Call::new(&stage, "web", name), Code::Unknown, parts).await;
    };
    try_class(
        "nope",
        None,
        &["failed to get secretproviderclass default/nope, error: ", "\"nope\" not found", "default/web"],
    )
    .await;
    let head = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: ";
    let no_provider = format!("{head}no-provider}}\nspec: {{parameters: {{a: b}}}}");
    try_class("no-provider", Some(&no_provider), &["provider not set in default/no-provider", "default/web"])
        .await;
    let empty = format!("{head}empty}}\nspec: {{provider: azure}}");
    try_class("empty", Some(&empty), &["parameters not set in default/empty", "keyvaultName"]).await;
    let other = format!("{head}other}}\nspec: {{provider: vault, parameters: {{a: b}}}}");
    try_class("other", Some(&other), &["provider not found: provider \"vault\"", "default/other"]).await;
    try_class("broken", Some("kind: [broken"), &["\"broken\" not found", "broken.yaml"]).await;
    // A class of the same name in another namespace is another class.
    let elsewhere = class(&stage, "elsewhere", &[SECRET], &[])
        .replace("name: elsewhere\n", "name: elsewhere\n  namespace: other\n");
    try_class("elsewhere", Some(&elsewhere), &["default/elsewhere", "not found"]).await;
    let call = Call::of(&stage, "other", "web", "workload-identity-sa", "elsewhere");
    // It is found there; what fails now is that nobody trusts this service account.
    refused(
        &stage,
        &call,
        Code::Unknown,
        &["AADSTS700213", "system:serviceaccount:other:workload-identity-sa"],
    )
    .await;
}

#[tokio::test]
async fn refusals_of_azure_name_object_vault_identity_and_cure() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions::default()).await;
    stage.fill_vault();
    let vault = stage.azure.vault(VAULT);
    let client_id = stage.workload_identity.client_id.clone();
    stage.deploy("good", &class(&stage, "good", &[SECRET], &[]));
    stage.deploy("missing", &class(&stage, "missing", &["objectName: nothere\nobjectType: secret"], &[]));
    stage.deploy(
        "msi",
        &class(
            &stage,
            "msi",
            &[SECRET],
            &[
                ("clientID", ""),
                ("useVMManagedIdentity", "true"),
                ("userAssignedIdentityID", "00000000-0000-0000-0000-00000000dead"),
            ],
        ),
    );

    let call = Call::new(&stage, "web", "missing");
    refused(
        &stage,
        &call,
        Code::Unknown,
        &["objectName:nothere", VAULT, "SecretNotFound", "default/web", "default/missing"],
    )
    .await;

    vault.revoke(&client_id);
    let call = Call::new(&stage, "web", "good");
    refused(
        &stage,
        &call,
        Code::Unknown,
        &["ForbiddenByRbac", "secret1", VAULT, &client_id, "Key Vault Secrets User"],
    )
    .await;
    vault.grant(&client_id, Permissions::read());

    vault.set_network(Network::Firewall);
    refused(&stage, &call, Code::Unknown, &["ForbiddenByFirewall", VAULT]).await;
    vault.set_network(Network::Open);

    vault.set_enabled(ObjectKind::Secrets, "secret1", false).unwrap();
    refused(&stage, &call, Code::Unknown, &["disabled", "secret1"]).await;
    vault.set_enabled(ObjectKind::Secrets, "secret1", true).unwrap();

    let call = Call::new(&stage, "web", "msi");
    refused(&stage, &call, Code::Unknown, &["Identity not found", "00000000-0000-0000-0000-00000000dead"])
        .await;

    let mut call = Call::new(&stage, "web", "good");
    call.request.secrets.clear();
    refused(
        &stage,
        &call,
        Code::Unknown,
        &[
            "failed to parse workload identity tokens, error: service account tokens not found",
            "tokenRequests",
        ],
    )
    .await;

    stage.azure.entra().clear_federations(&client_id).unwrap();
    let call = Call::of(&stage, "default", "web", "other-sa", "good");
    let subject = "system:serviceaccount:default:other-sa";
    refused(
        &stage,
        &call,
        Code::Unknown,
        &["AADSTS7002", subject, "az identity federated-credential create"],
    )
    .await;
}

#[tokio::test]
async fn an_unreachable_upstream_is_told_and_recovers() {
    if !can_mount() {
        return;
    }
    let options = StageOptions {
        arguments: vec!["--publish-timeout=3s".into(), "--enable-secret-rotation".into()],
        ..StageOptions::default()
    };
    let stage = Stage::start(options).await;
    stage.fill_vault();
    stage.deploy("good", &class(&stage, "good", &[SECRET], &[]));
    let call = Call::new(&stage, "web", "good");
    stage.azure.faults().inject(FaultRule::status(Service::Vault, 503));
    refused(&stage, &call, Code::Unknown, &["503", VAULT, "secret1"]).await;
    stage.azure.faults().clear();
    call.publish_within(Duration::from_secs(30)).await.unwrap();
    assert_eq!(call.read("secret1"), "Hello!");
}
