//! What an operator does with the driver: flags, refresh on demand, health endpoints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use e2e::{Call, DRIVER_NAME, DriverProcess, Stage, StageOptions, VAULT, can_mount, class, free_address};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SECRET: &str = "objectName: secret1\nobjectType: secret";
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_refresh_does_not_wait_for_the_interval_nor_for_the_kubelet() {
    if !can_mount() {
        return;
    }
    for rotation in ["--enable-secret-rotation=true", "--enable-secret-rotation=false"] {
        let arguments = vec![rotation.to_owned(), "--rotation-poll-interval=1h".to_owned()];
        let stage = Stage::start(StageOptions { arguments, ..StageOptions::default() }).await;
        stage.fill_vault();
        stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
        let (web, other) = (Call::new(&stage, "web", "kv"), Call::new(&stage, "other", "kv"));
        web.publish().await.unwrap();
        other.publish().await.unwrap();
        stage.azure.vault(VAULT).set_secret("secret1", "second").unwrap();
        web.publish().await.unwrap();
        assert_eq!(web.read("secret1"), "Hello!", "the interval has not passed");

        let endpoint = format!("unix://{}", stage.socket().display());
        let refresh = ["refresh", "--endpoint", &endpoint, "--namespace", "default", "--pod", "web"];
        let (code, out, err) = DriverProcess::command(&refresh).await;
        assert_eq!((code, out.as_str()), (0, "default/web (class kv): rotated\n"), "{err}");
        assert_eq!((web.read("secret1").as_str(), other.read("secret1").as_str()), ("second", "Hello!"));

        // All volumes; one has nothing new.
        let (code, out, _) = DriverProcess::command(&refresh[..3]).await;
        let expected = "default/other (class kv): rotated\ndefault/web (class kv): unchanged\n";
        assert_eq!((code, out.as_str()), (0, expected));

        // What a refresh could not do is told, and the kubelet's next call makes up for it.
        stage.azure.vault(VAULT).set_secret("secret1", "third").unwrap();
        stage.deploy("kv", "kind: [broken");
        let (code, out, _) = DriverProcess::command(&refresh).await;
        assert_eq!(code, 1);
        assert!(
            out.starts_with("default/web (class kv): kept its content") && out.contains("not found"),
            "{out}"
        );
        stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
        web.publish().await.unwrap();
        assert_eq!(web.read("secret1"), "third");

        web.unpublish().await.unwrap();
        assert_eq!(DriverProcess::command(&refresh).await.0, 1, "nothing of that name is mounted");
    }
    let nowhere = DriverProcess::command(&["refresh", "--endpoint", "unix:///nowhere/csi.sock"]).await;
    assert!(nowhere.0 == 1 && nowhere.2.contains("/nowhere/admin.sock"), "{nowhere:?}");
}

async fn get(address: &str, path: &str) -> String {
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn health_and_readiness_are_apart() {
    if !can_mount() {
        return;
    }
    let address = free_address();
    let arguments = vec![format!("--health-addr={address}")];
    let stage = Stage::start(StageOptions { arguments, ..StageOptions::default() }).await;
    assert!(get(&address, "/healthz").await.starts_with("HTTP/1.1 200"));
    // The kubelet's word arrives a moment after the registration itself.
    let ready = async {
        while !get(&address, "/readyz").await.starts_with("HTTP/1.1 200") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.unwrap();

    // A driver that no kubelet has registered is alive, and not ready.
    let alone = tempfile::tempdir().unwrap();
    let second = free_address();
    let socket = alone.path().join("csi.sock");
    let arguments = [
        format!("--endpoint=unix://{}", socket.display()),
        format!("--registration-dir={}", alone.path().display()),
        format!("--secret-provider-classes={}", alone.path().display()),
        format!("--health-addr={second}"),
    ];
    let environment = [("SSL_CERT_FILE".to_owned(), stage.path("ca.pem").display().to_string())];
    let driver =
        DriverProcess::start(&socket, &arguments, &environment, &alone.path().join("log")).await.unwrap();
    let up = async {
        while tokio::net::TcpStream::connect(&second).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, up).await.unwrap();
    assert!(get(&second, "/healthz").await.starts_with("HTTP/1.1 200"));
    let answer = get(&second, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("has not registered"), "{answer}");
    assert!(alone.path().join(format!("{DRIVER_NAME}-reg.sock")).exists());
    drop(driver);
}

#[tokio::test]
async fn a_flag_that_cannot_be_used_ends_the_driver_before_anything_is_bound() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("csi.sock");
    let endpoint = format!("--endpoint=unix://{}", socket.display());
    let classes = format!("--secret-provider-classes={}", folder.path().display());
    for (flag, parts) in [
        ("--cloud-name=Mars", ["--cloud-name", "Mars"]),
        ("--secret-provider-classes=/nowhere", ["--secret-provider-classes", "/nowhere"]),
        ("--rotation-poll-interval=soon", ["--rotation-poll-interval", "\"soon\""]),
        ("--publish-timeout=0", ["--publish-timeout", "1m45s"]),
        ("--endpoint=tcp://127.0.0.1:1", ["invalid endpoint", "unix:///PATH"]),
        ("--token-proxy-url=nowhere", ["--token-proxy-url", "\"nowhere\""]),
        ("--health-addr=here", ["--health-addr", "\"here\""]),
        ("--no-such-flag", ["--no-such-flag", "Usage"]),
    ] {
        let given: Vec<&str> = [endpoint.as_str(), classes.as_str()]
            .into_iter()
            .filter(|default| !default.starts_with(flag.split('=').next().unwrap()))
            .collect();
        let mut arguments = vec!["node"];
        arguments.extend(given);
        arguments.push(flag);
        let (code, _, err) = DriverProcess::command(&arguments).await;
        assert_eq!(code, 64, "{flag}: {err}");
        for part in parts {
            assert!(err.contains(part), "{flag}: {part:?} is not in: {err}");
        }
        assert!(!socket.exists());
    }
}

#[tokio::test]
async fn nothing_of_the_process_can_be_dumped_or_read_in_its_environment() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions::default()).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
    stage.azure.vault(VAULT).set_secret("secret1", "planted-secret-value").unwrap();
    let call = Call::new(&stage, "web", "kv");
    call.publish().await.unwrap();
    let pid = stage.driver.as_ref().unwrap().pid();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let token = &call.request.secrets[kubelet::TOKENS_KEY];
    for planted in ["planted-secret-value", &token[40..80]] {
        assert!(!String::from_utf8_lossy(&environment).contains(planted));
        assert!(!stage.log().contains(planted));
    }
}
