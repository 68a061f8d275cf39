//! Classes of other providers reach their sockets, by the protocol those providers already speak.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use e2e::{Call, Provider, Stage, StageOptions, can_mount};
use proto::provider::{Error, File, MountResponse, ObjectVersion};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use tonic::{Code, Status};

const TOKENS_KEY: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// A stage whose driver looks for providers in `first` and then in `second`.
async fn stage(arguments: &[&str]) -> Stage {
    let mut stage = Stage::set(StageOptions::default()).await;
    let folder = |name: &str| {
        let folder = stage.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder.display().to_string()
    };
    let mut given = vec![
        "--enable-secret-rotation=true".to_owned(),
        "--rotation-poll-interval=1ms".to_owned(),
        format!("--additional-provider-volume-paths={}", folder("first")),
        format!("--provider-volume={}", folder("second")),
    ];
    given.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    stage.set_arguments(given);
    stage.start_driver().await;
    let class = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: other}\n\
                 spec: {provider: e2e-provider, parameters: {objects: '<&>', roleName: app}}\n";
    stage.deploy("other", class);
    stage
}

fn delivery(files: &[(&str, i32, &str)], versions: &[(&str, &str)]) -> MountResponse {
    MountResponse {
        object_version: versions
            .iter()
            .map(|(id, version)| ObjectVersion { id: (*id).into(), version: (*version).into() })
            .collect(),
        files: files
            .iter()
            .map(|(path, mode, contents)| File {
                path: (*path).into(),
                mode: *mode,
                contents: contents.as_bytes().to_vec(),
            })
            .collect(),
        error: None,
    }
}

#[tokio::test]
async fn a_provider_is_told_what_the_reference_tells_and_its_files_are_mounted() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    let provider = Provider::start(&stage.path("second/e2e-provider.sock"));
    provider.answer([Ok(delivery(&[("foo", 0o640, "bar"), ("a/b", 0, "nested")], &[("secret/foo", "1")]))]);
    let call = Call::new(&stage, "web", "other").with_attribute("roleName", "of-the-pod");
    call.publish().await.unwrap();

    let asked = provider.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let asked = &asked[0];
    assert_eq!(
        (asked.authority.as_str(), asked.permission.as_str(), asked.versions),
        ("localhost", "420", 0)
    );
    assert_eq!(asked.target, call.request.target_path);
    let mut expected: BTreeMap<String, String> = call.request.volume_context.clone().into_iter().collect();
    expected.insert("objects".into(), "<&>".into());
    expected.insert(TOKENS_KEY.into(), call.request.secrets[TOKENS_KEY].clone());
    assert_eq!(asked.attributes, expected);
    assert_eq!(asked.secrets, Some(call.request.secrets.clone().into_iter().collect()));

    assert_eq!((call.read("foo").as_str(), call.read("a/b").as_str()), ("bar", "nested"));
    let mode =
        |name: &str| std::fs::metadata(call.target().join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("foo"), mode("a/b")), (0o640, 0));

    // A rotation; a republish that brings no files changes nothing; one that fails neither.
    provider.answer([Ok(delivery(&[("foo", 0o640, "rotated")], &[("secret/foo", "2")]))]);
    call.publish().await.unwrap();
    assert_eq!(call.read("foo"), "rotated");
    assert!(!call.target().join("a").exists());
    provider.answer([Ok(delivery(&[], &[("secret/foo", "3")]))]);
    call.publish().await.unwrap();
    provider.answer([Err(Status::permission_denied("no more"))]);
    call.publish().await.unwrap();
    assert_eq!(call.read("foo"), "rotated");
    assert_eq!(provider.asked().len(), 3);

    call.unpublish().await.unwrap();
    assert!(stage.mounts().is_empty(), "{:?}", stage.mounts());
}

#[tokio::test]
async fn without_tokens_and_secrets_the_map_of_secrets_is_null_and_no_files_are_a_volume_too() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    let provider = Provider::start(&stage.path("second/e2e-provider.sock"));
    provider.answer([Ok(delivery(&[], &[("secret/foo", "1")]))]);
    let mut call = Call::new(&stage, "web", "other");
    call.request.secrets.clear();
    call.publish().await.unwrap();
    let asked = provider.asked();
    assert_eq!(asked[0].secrets, None);
    assert!(!asked[0].attributes.contains_key(TOKENS_KEY));
    assert_eq!((stage.mounts().len(), call.files().len()), (1, 0));
}

#[tokio::test]
async fn folders_are_searched_in_order_and_a_provider_may_come_back() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    let answer = |text: &str| [Ok(delivery(&[("foo", 0o644, text)], &[("secret/foo", text)]))];
    let second = Provider::start(&stage.path("second/e2e-provider.sock"));
    second.answer(answer("second"));
    let call = Call::new(&stage, "web", "other");
    call.publish().await.unwrap();
    assert_eq!(call.read("foo"), "second");
    let first = Provider::start(&stage.path("first/e2e-provider.sock"));
    // A provider that is starting says so for a moment.
    first.answer([Err(Status::unavailable("starting")), answer("first")[0].clone()]);
    call.publish().await.unwrap();
    assert_eq!((call.read("foo").as_str(), first.asked().len()), ("first", 2));
    drop(first);
    call.publish().await.unwrap();
    assert_eq!(call.read("foo"), "second");
}

#[tokio::test]
async fn each_failure_says_what_to_do_and_leaves_no_mount() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--max-call-recv-msg-size=1000"]).await;
    let call = Call::new(&stage, "web", "other");
    let refused = async |code: Code, parts: &[&str]| {
        let status = call.publish().await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        for part in parts {
            assert!(status.message().contains(part), "{part:?} is not in {:?}", status.message());
        }
        assert!(stage.mounts().is_empty(), "{:?}", stage.mounts());
    };
    let prefix = "failed to mount secrets store objects for pod default/web, err: ";
    let folders = [stage.path("first"), stage.path("second")].map(|folder| folder.display().to_string());
    let not_found =
        "error connecting to provider \"e2e-provider\": provider not found: provider \"e2e-provider\"";
    refused(Code::Unknown, &[prefix, not_found, &folders[0], &folders[1], "default/other"]).await;

    // A socket that nobody listens on: what is left of a provider that was killed.
    let socket = stage.path("second/e2e-provider.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    refused(Code::Unknown, &[prefix, "refused connections", &socket.display().to_string(), "pod running"])
        .await;
    std::fs::remove_file(&socket).unwrap();

    let provider = Provider::start(&socket);
    provider.answer([Err(Status::not_found("no such role"))]);
    refused(Code::NotFound, &[prefix, "no such role", "e2e-provider"]).await;
    provider.answer([Ok(MountResponse {
        error: Some(Error { code: "Throttled".into() }),
        ..delivery(&[("foo", 0, "x")], &[("a", "1")])
    })]);
    refused(Code::Unknown, &["mount request failed with provider error code Throttled"]).await;
    provider.answer([Ok(delivery(&[("foo", 0o644, "x")], &[]))]);
    refused(Code::Unknown, &["missing object versions"]).await;
    provider.answer([Ok(delivery(&[("../foo", 0o644, "x")], &[("a", "1")]))]);
    refused(Code::Unknown, &["must not contain '..': ../foo"]).await;
    let long = "x".repeat(2000);
    provider.answer([Ok(delivery(&[("foo", 0o644, &long)], &[("a", "1")]))]);
    refused(Code::ResourceExhausted, &["--max-call-recv-msg-size", "1000", "maxCallRecvMsgSize"]).await;

    for (name, cure) in
        [("../etc", "invalid provider: provider \"../etc\""), ("Azure", "azure in lower case")]
    {
        let class = format!(
            "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {{name: other}}\n\
             spec: {{provider: {name}, parameters: {{a: b}}}}\n"
        );
        stage.deploy("other", &class);
        refused(Code::Unknown, &[prefix, cure]).await;
    }
}
