//! What the driver writes while it works, and how an operator changes that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use e2e::{Call, DriverProcess, Stage, StageOptions, can_mount, class};
use proto::csi::node_client::NodeClient;

const SECRET: &str = "objectName: secret1\nobjectType: secret";

#[tokio::test]
async fn one_line_tells_all_of_a_mount() {
    if !can_mount() {
        return;
    }
    let arguments = vec!["--enable-secret-rotation=true".to_owned(), "--rotation-poll-interval=0".to_owned()];
    let stage = Stage::start(StageOptions { arguments, ..StageOptions::default() }).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
    let (web, other) = (Call::new(&stage, "web", "kv"), Call::new(&stage, "other", "kv"));
    web.publish().await.unwrap();
    other.publish().await.unwrap();
    let log = stage.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("] \"published\" ")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    for part in [
        r#"pod="default/web""#,
        r#"class="kv""#,
        r#"outcome="Mounted""#,
        r#"identity="workload""#,
        "objects=1",
        "requests=1",
        "duration_ms=",
        "trace_id=",
    ] {
        assert!(lines[0].starts_with('I') && lines[0].contains(part), "{part} in: {}", lines[0]);
    }
    assert!(lines[1].contains("requests=0"), "the value was there: {}", lines[1]);
    assert!(!log.lines().any(|line| line.starts_with('E')), "errors, as klog marks them:\n{log}");

    stage.deploy("kv", "kind: [broken");
    web.publish().await.unwrap();
    let log = stage.log();
    assert!(log.lines().any(|line| line.starts_with('E') && line.contains("default/web")), "{log}");
}

/// Publishes with this `traceparent`, and gives the trace id of the log's newest line about it.
async fn publish_as_traced(stage: &Stage, call: &Call, parent: &str) -> String {
    let channel = tonic::transport::Endpoint::try_from(format!("unix://{}", stage.socket().display()));
    let mut client = NodeClient::new(channel.unwrap().connect().await.unwrap());
    let mut request = tonic::Request::new(call.request.clone());
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    client.node_publish_volume(request).await.unwrap();
    let log = stage.log();
    let line = log.lines().rfind(|line| line.contains("] \"published\" ")).unwrap();
    let (_, rest) = line.split_once("trace_id=\"").unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

#[tokio::test]
async fn the_callers_trace_goes_from_the_log_to_all_of_azure() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions::default()).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
    let vm = [
        ("clientID", ""),
        ("useVMManagedIdentity", "true"),
        ("userAssignedIdentityID", &stage.vm_identity.client_id),
    ];
    stage.deploy("vm", &class(&stage, "vm", &[SECRET], &vm));
    let caller = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parents = [
        format!("00-{caller}-00f067aa0ba902b7-01"),
        // No parent, no hexadecimal digits, a version that never will be: each is no trace at all.
        format!("00-{caller}-0000000000000000-01"),
        format!("00-{}-00f067aa0ba902b7-01", caller.to_uppercase()),
        format!("ff-{caller}-00f067aa0ba902b7-01"),
    ];
    for (class, requests) in [("kv", &["entra.token", "vault."]), ("vm", &["imds.token", "vault."])] {
        for (number, parent) in parents.iter().enumerate() {
            let call =
                Call::of(&stage, "default", &format!("{class}-{number}"), "workload-identity-sa", class);
            stage.azure.telemetry().reset();
            let trace = publish_as_traced(&stage, &call, parent).await;
            assert_eq!(trace == caller, number == 0, "{parent} became {trace}");
            // Tokens and values are shared with the mounts that come later.
            if number > 0 {
                assert!(trace.len() == 32 && trace.bytes().any(|byte| byte != b'0'), "{trace}");
                continue;
            }
            let log = stage.azure.telemetry().log();
            for wanted in requests {
                assert!(log.iter().any(|entry| entry.endpoint.starts_with(wanted)), "{wanted}: {log:?}");
            }
            let mut spans = std::collections::HashSet::new();
            for entry in &log {
                let header = entry.traceparent.clone().unwrap_or_default();
                assert!(header.starts_with(&format!("00-{caller}-")), "{entry:?}");
                assert_eq!(
                    entry.request_id.as_deref(),
                    Some("4bf92f35-77b3-4da6-a3ce-929d0e0e4736"),
                    "{entry:?}"
                );
                assert!(spans.insert(header), "two requests are one span: {entry:?}");
            }
            assert!(!spans.contains(parent), "the caller's span is no request's");
        }
    }
}

#[tokio::test]
async fn an_operator_changes_the_verbosity_of_a_running_driver() {
    if !can_mount() {
        return;
    }
    let stage = Stage::start(StageOptions::default()).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
    let endpoint = format!("unix://{}", stage.socket().display());
    let log_level = async |level: &'static [&'static str]| {
        let mut arguments = vec!["log-level", "--endpoint", &endpoint];
        arguments.extend(level);
        let (code, out, err) = DriverProcess::command(&arguments).await;
        assert_eq!(code, 0, "{err}");
        out
    };
    assert_eq!(log_level(&[]).await, "0\n");
    assert_eq!(log_level(&["5"]).await, "5\n");
    assert_eq!(log_level(&[]).await, "5\n");
    assert!(stage.log().contains("the verbosity was changed"));
    let nowhere = DriverProcess::command(&["log-level", "--endpoint", "unix:///nowhere/csi.sock"]).await;
    assert!(nowhere.0 == 1 && nowhere.2.contains("/nowhere/admin.sock"), "{nowhere:?}");
}
