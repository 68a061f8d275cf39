//! The main job through the kubelet's calls: the seed manifests on real mounts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use e2e::{Call, DRIVER_NAME, NODE, Stage, StageOptions, VAULT, can_mount, class};
use kubelet::CsiClient;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const VOLUME: &str = "secrets-store01-inline";
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_seed_manifests_mount_by_all_three_access_methods_and_leave_nothing() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions::default()).await;
    stage.fill_vault();
    let manifests = [
        ("sc", stage.service_connector("ExampleSecret")),
        ("wi", stage.workload_identity_manifest()),
        ("msi", stage.managed_identity_manifest()),
    ];
    for (name, manifest) in &manifests {
        let pod = stage.kubelet.add_pod(&stage.deploy(name, manifest)).unwrap();
        stage
            .kubelet
            .wait_mounted(&pod, PATIENCE)
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", stage.log()));
    }
    let read = |pod: &str, file: &str| {
        let target = stage.kubelet.target_path(pod, VOLUME).unwrap();
        std::fs::read_to_string(target.join(file)).unwrap()
    };
    assert_eq!(read("sc-demo-keyvault-csi", "ExampleSecret"), "MyAKSExampleSecret");
    for pod in ["busybox-secrets-store-inline-wi", "busybox-secrets-store-inline-user-msi"] {
        assert_eq!(read(pod, "secret1"), "Hello!");
        let key = read(pod, "key1");
        assert!(
            key.starts_with("-----BEGIN PUBLIC KEY-----\n") && key.ends_with("-----END PUBLIC KEY-----\n"),
            "{key}"
        );
    }

    // As `findmnt` would show it.
    for mount in stage.mounts().iter().filter(|mount| mount.path.ends_with("mount")) {
        assert_eq!(mount.filesystem, "tmpfs");
        assert!(mount.flags.split(',').any(|flag| flag == "nosuid"), "{mount:?}");
        assert!(mount.flags.split(',').any(|flag| flag == "nodev"), "{mount:?}");
        assert!(mount.options.contains("size=65536k"), "{mount:?}");
    }
    assert_eq!(stage.mounts().len(), 3);

    let removal = stage.kubelet.delete_all(PATIENCE).await.unwrap();
    assert!(removal.is_clean(), "{removal:?}");
    assert!(stage.mounts().is_empty(), "{:?}", stage.mounts());
}

#[tokio::test]
async fn a_certificate_mounts_as_each_object_type() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions::default()).await;
    stage.fill_vault();
    let pod = stage.kubelet.add_pod(&stage.deploy("types", &stage.certificate_types_manifest())).unwrap();
    stage
        .kubelet
        .wait_mounted(&pod, PATIENCE)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", stage.log()));
    let target = stage.kubelet.target_path(&pod, VOLUME).unwrap();
    let labels = |file: &str| -> Vec<String> {
        let text = std::fs::read_to_string(target.join(file)).unwrap();
        text.lines()
            .filter_map(|l| Some(l.strip_prefix("-----BEGIN ")?.strip_suffix("-----")?.to_owned()))
            .collect()
    };
    assert_eq!(labels("certificate.pem"), ["CERTIFICATE"]);
    assert_eq!(labels("public-key.pem"), ["PUBLIC KEY"]);
    assert_eq!(labels("key-and-certificate.pem"), ["PRIVATE KEY", "CERTIFICATE"]);
    let mode = |file: &str| std::fs::metadata(target.join(file)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("certificate.pem"), mode("key-and-certificate.pem")), (0o644, 0o600));
}

#[tokio::test]
async fn a_rotation_reaches_the_file_without_a_mount_and_survives_the_driver() {
    if !can_mount() {
        return;
    }
    let options = StageOptions {
        arguments: vec!["--enable-secret-rotation".into(), "--rotation-poll-interval=0".into()],
        ..StageOptions::default()
    };
    let mut stage = Stage::start(options).await;
    stage.fill_vault();
    let pod = stage.kubelet.add_pod(&stage.deploy("wi", &stage.workload_identity_manifest())).unwrap();
    stage.kubelet.wait_mounted(&pod, PATIENCE).await.unwrap();
    let file = stage.kubelet.target_path(&pod, VOLUME).unwrap().join("secret1");
    let mounted = stage.mounts();

    stage.azure.vault(VAULT).set_secret("secret1", "second").unwrap();
    stage.kubelet.republish_now(&pod).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "second");
    assert_eq!(stage.mounts(), mounted, "a rotation must not touch the mount");

    // Workloads keep their files without a driver; new pods wait for one.
    stage.driver.take().unwrap().kill().await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "second");
    let waiting = Call::new(&stage, "late", "azure-kvname-wi");
    waiting.publish().await.expect_err("nobody is there to publish");
    stage.start_driver().await;
    waiting.publish().await.unwrap();
    assert_eq!(waiting.read("secret1"), "second");

    stage.azure.vault(VAULT).set_secret("secret1", "third").unwrap();
    stage.kubelet.republish_now(&pod).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "third");
}

#[tokio::test]
async fn without_rotation_a_republish_asks_nobody() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions { arguments: Vec::new(), ..StageOptions::default() }).await;
    stage.fill_vault();
    stage.deploy("wi", &stage.workload_identity_manifest());
    let call = Call::new(&stage, "web", "azure-kvname-wi");
    call.publish().await.unwrap();
    stage.azure.vault(VAULT).set_secret("secret1", "second").unwrap();
    stage.azure.telemetry().reset();
    call.publish().await.unwrap();
    assert_eq!(call.read("secret1"), "Hello!");
    assert_eq!(stage.azure.counters().endpoints.values().sum::<u64>(), 0);
}

#[tokio::test]
async fn tokens_are_found_in_secrets_and_in_the_volume_context() {
    if !can_mount() {
        return;
    }
    for tokens_in_secrets in [true, false] {
        let stage = Stage::start(StageOptions { tokens_in_secrets, ..StageOptions::default() }).await;
        stage.fill_vault();
        let pod = stage.kubelet.add_pod(&stage.deploy("wi", &stage.workload_identity_manifest())).unwrap();
        stage
            .kubelet
            .wait_mounted(&pod, PATIENCE)
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", stage.log()));
    }
}

#[tokio::test]
async fn a_service_principal_signs_in_with_the_secret_of_the_pod() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions::default()).await;
    stage.fill_vault();
    stage.azure.entra().add_secret(&stage.workload_identity.client_id, "s3cret-of-the-app", None).unwrap();
    stage.deploy(
        "sp",
        &class(&stage, "sp", &["objectName: secret1\nobjectType: secret"], &[("clientID", "")]),
    );
    let mut call = Call::new(&stage, "web", "sp");
    call.request.secrets.insert("clientid".into(), stage.workload_identity.client_id.clone());
    call.request.secrets.insert("clientsecret".into(), "wrong".into());
    let refused = call.publish().await.unwrap_err();
    assert!(refused.message().contains("AADSTS7000215"), "{}", refused.message());
    call.request.secrets.insert("clientsecret".into(), "s3cret-of-the-app".into());
    call.publish().await.unwrap();
    assert_eq!(call.read("secret1"), "Hello!");
    assert!(!stage.log().contains("s3cret-of-the-app"));
}

#[tokio::test]
async fn the_identity_and_node_services_say_who_they_are() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions::default()).await;
    let client = CsiClient::new(stage.socket());
    let info = client.plugin_info().await.unwrap();
    assert_eq!(info.name, DRIVER_NAME);
    assert!(info.vendor_version.starts_with('v'), "{info:?}");
    assert!(client.probe().await.unwrap());
    assert_eq!(client.node_info().await.unwrap().node_id, NODE);
    assert!(client.capabilities().await.unwrap().volume_mount_group);
    assert_eq!(std::fs::metadata(stage.socket()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn sigterm_ends_the_driver_in_order_and_takes_its_sockets_away() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::start(StageOptions::default()).await;
    let status = stage.driver.take().unwrap().terminate().await;
    assert!(status.success(), "{status}\n{}", stage.log());
    assert!(!stage.socket().exists());
    assert!(stage.kubelet.wait_deregistered(DRIVER_NAME, PATIENCE).await.is_ok());
    stage.start_driver().await;
}

#[tokio::test]
async fn a_call_in_flight_is_finished_before_the_driver_ends() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::start(StageOptions::default()).await;
    stage.fill_vault();
    stage.deploy("wi", &stage.workload_identity_manifest());
    stage.azure.faults().set_latency(azure_emulator::Service::Vault, Duration::from_millis(500));
    let call = Call::new(&stage, "web", "azure-kvname-wi");
    let driver = stage.driver.take().unwrap();
    let (published, status) = tokio::join!(call.publish(), async {
        // The signal goes out when the vault has been asked, that is, in the middle of the call.
        while stage.azure.counters().endpoints.is_empty() {
            tokio::task::yield_now().await;
        }
        driver.terminate().await
    });
    published.unwrap();
    assert!(status.success());
    assert_eq!(call.read("secret1"), "Hello!");
}

#[tokio::test]
async fn a_service_accounts_annotations_fill_in_client_and_tenant() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions::default()).await;
    stage.fill_vault();
    let account = format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: workload-identity-sa\n  annotations:\n    \
         azure.workload.identity/client-id: {}\n    azure.workload.identity/tenant-id: {}\n",
        stage.workload_identity.client_id,
        stage.azure.tenant()
    );
    let object = "objectName: secret1\nobjectType: secret";
    stage.deploy("open", &class(&stage, "open", &[object], &[("clientID", ""), ("tenantId", "")]));
    let call = Call::new(&stage, "web", "open");
    let refused = call.publish().await.unwrap_err();
    assert!(refused.message().contains("azure.workload.identity/tenant-id"), "{}", refused.message());
    stage.deploy("account", &account);
    call.publish().await.unwrap();
    assert_eq!(call.read("secret1"), "Hello!");
}
