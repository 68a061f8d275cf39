//! `akv-csi status`: what it says of volumes that are well, that cannot be brought up to date, that cannot mount, and that were
//! there before the driver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use azure_emulator::{FaultRule, RetryAfter, Service};
use e2e::{Call, DRIVER_NAME, DriverProcess, NODE, Stage, StageOptions, VAULT, can_mount, class};
use serde_json::Value;

const SECRET: &str = "objectName: secret1\nobjectType: secret";
const KEY: &str = "objectName: key1\nobjectType: key";

async fn run(stage: &Stage, arguments: &[&str]) -> String {
    let endpoint = format!("unix://{}", stage.socket().display());
    let line: Vec<&str> =
        ["status", "--endpoint", &endpoint].into_iter().chain(arguments.iter().copied()).collect();
    let (code, out, err) = DriverProcess::command(&line).await;
    assert_eq!(code, 0, "{err}");
    out
}

async fn json(stage: &Stage, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = ["--output", "json"].iter().chain(arguments).copied().collect();
    serde_json::from_str(&run(stage, &arguments).await).unwrap()
}

fn volume<'a>(status: &'a Value, pod: &str) -> &'a Value {
    let volumes = status["volumes"].as_array().unwrap();
    volumes.iter().find(|volume| volume["pod"] == pod).unwrap_or_else(|| panic!("no {pod} in {status}"))
}

#[tokio::test]
async fn each_volume_is_told_with_its_objects_its_freshness_and_its_last_error() {
    if !can_mount() {
        return;
    }
    let arguments =
        vec!["--enable-secret-rotation=true".to_owned(), "--rotation-poll-interval=1h".to_owned()];
    let stage = Stage::start(StageOptions { arguments, ..StageOptions::default() }).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET, KEY], &[]));
    stage.deploy("short", &class(&stage, "short", &[SECRET], &[("rotationPollInterval", "0s")]));
    let (web, short) = (Call::new(&stage, "web", "kv"), Call::new(&stage, "short", "short"));
    web.publish().await.unwrap();
    short.publish().await.unwrap();
    let missing = Call::new(&stage, "missing", "nope");
    missing.publish().await.unwrap_err();
    missing.publish().await.unwrap_err();

    let status = json(&stage, &[]).await;
    assert_eq!((&status["node"], &status["driver"]), (&NODE.into(), &DRIVER_NAME.into()));
    assert_eq!(status["registration"], "registered");
    assert_eq!(status["rotation"], serde_json::json!({"enabled": true, "intervalSeconds": 3600}));
    assert_eq!(status["tokens"]["requests"], 1, "one identity: {status}");
    assert_eq!(status["cachedValues"], 2);
    let ok = volume(&status, "web");
    assert_eq!(
        (&ok["state"], &ok["identity"], &ok["class"]),
        (&"ok".into(), &"workload".into(), &"kv".into())
    );
    assert_eq!(ok["target"], web.request.target_path);
    assert_eq!(ok["intervalSeconds"], 3600);
    assert!((1..=3600).contains(&ok["nextLookSeconds"].as_u64().unwrap()));
    assert!(ok["changedAt"].is_string() && ok["error"].is_null());
    let versions = ok["objects"].as_array().unwrap();
    assert_eq!([&versions[0]["id"], &versions[1]["id"]], ["secret/secret1", "key/key1"]);
    assert!(versions.iter().all(|object| object["version"].as_str().unwrap().len() == 32));
    assert_eq!(volume(&status, "short")["nextLookSeconds"], 0);
    let failed = volume(&status, "missing");
    assert_eq!(failed["state"], "failed");
    assert_eq!(failed["error"]["times"], 2);
    assert!(failed["error"]["message"].as_str().unwrap().contains("\"nope\" not found"), "{failed}");

    // The vault throttles: a volume that is mounted keeps its content, and the pause is told.
    let throttled = FaultRule::status(Service::Vault, 429).retry_after(RetryAfter::Seconds(3600));
    stage.azure.faults().inject(throttled);
    short.publish().await.unwrap();
    let status = json(&stage, &["--pod", "short"]).await;
    assert_eq!(status["volumes"].as_array().unwrap().len(), 1);
    let kept = volume(&status, "short");
    assert_eq!(kept["state"], "kept");
    assert!(kept["error"]["message"].as_str().unwrap().starts_with("older values stand in: "), "{kept}");
    let vault = &status["vaults"][0];
    assert!(
        vault["vault"].as_str().unwrap().contains(VAULT) && vault["pausedSeconds"].as_u64() > Some(0),
        "{status}"
    );

    // The same for people, and the selection of `refresh`.
    let table = run(&stage, &["--namespace", "default", "--class", "short"]).await;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("akv-csi ") && lines[0].contains("registered with the kubelet"), "{table}");
    assert!(lines.iter().any(|line| line.contains("is left alone for")), "{table}");
    let row =
        lines.iter().position(|line| line.starts_with("default/short  short  workload  kept ")).unwrap();
    assert!(lines[row].contains("due") && lines[row].contains("secret/secret1@"), "{table}");
    assert!(
        lines[row + 1].trim_start().starts_with("error ") && lines[row + 1].contains("older values stand in"),
        "{table}"
    );
    assert!(!table.contains("default/web") && !table.contains('\x1b'), "{table}");

    // What goes well or goes away leaves no error.
    stage.azure.faults().clear();
    web.unpublish().await.unwrap();
    missing.unpublish().await.unwrap();
    let status = json(&stage, &[]).await;
    assert_eq!(status["volumes"].as_array().unwrap().len(), 1, "{status}");
    assert!(run(&stage, &["--pod", "web"]).await.contains("No such volume"));
}

#[tokio::test]
async fn volumes_of_a_driver_before_are_found_on_the_node() {
    if !can_mount() {
        return;
    }
    let arguments = vec!["--enable-secret-rotation=false".to_owned()];
    let mut stage = Stage::start(StageOptions { arguments, ..StageOptions::default() }).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
    let web = Call::new(&stage, "web", "kv");
    web.publish().await.unwrap();
    let note = |driver: &str| {
        let data = serde_json::json!({"driverName": driver, "volumeHandle": web.request.volume_id});
        std::fs::write(web.target().with_file_name("vol_data.json"), data.to_string()).unwrap();
    };
    note(DRIVER_NAME);
    stage.driver.take().unwrap().kill().await;
    stage.start_driver().await;

    let status = json(&stage, &[]).await;
    let found = status["volumes"].as_array().unwrap();
    let found: Vec<&Value> =
        found.iter().filter(|volume| volume["target"] == web.request.target_path).collect();
    assert_eq!(found.len(), 1, "{status}");
    assert_eq!((&found[0]["state"], &found[0]["podUid"]), (&"found".into(), &"uid-default-web".into()));
    assert!(run(&stage, &[]).await.contains("mounted before this driver started"));

    // The kubelet's next call tells whose it is, though nothing is fetched without rotation.
    web.publish().await.unwrap();
    let status = json(&stage, &["--pod", "web", "--namespace", "default"]).await;
    assert_eq!(status["volumes"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&volume(&status, "web")["state"], &volume(&status, "web")["age"]),
        (&"found".into(), &Value::Null)
    );

    // Other drivers' volumes are none of ours.
    web.unpublish().await.unwrap();
    web.publish().await.unwrap();
    stage.driver.take().unwrap().kill().await;
    note("disk.csi.azure.com");
    stage.start_driver().await;
    let status = json(&stage, &[]).await;
    let targets = status["volumes"].as_array().unwrap().iter().map(|volume| &volume["target"]);
    assert!(targets.into_iter().all(|target| *target != web.request.target_path.as_str()), "{status}");
}

#[tokio::test]
async fn a_driver_that_does_not_run_is_told() {
    let (code, out, err) =
        DriverProcess::command(&["status", "--endpoint", "unix:///nowhere/csi.sock", "--output", "json"])
            .await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("/nowhere/admin.sock") && err.contains("does it run on this node?"), "{err}");
}
