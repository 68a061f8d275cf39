//! Nothing secret is anywhere but in the volume: not in a log line, at any verbosity, nor in an error, which becomes an event,
//! nor in a metric, nor in a span, whatever Azure does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use azure_emulator::{Fault, FaultRule, Service};
use e2e::{
    Call, Collector, DriverProcess, Scrape, Stage, StageOptions, VAULT, can_mount, class, free_address,
};
use std::fmt::Write;

const CANARY: &str = "planted-secret-value-4711";
const CLIENT_SECRET: &str = "planted-client-secret~0815";
/// How each token begins: `{"` in base64.
const TOKEN: &str = "eyJ";

/// Everything the emulator can do to a driver.
fn faults() -> Vec<FaultRule> {
    let mut rules = vec![
        FaultRule::refusal(700_016),
        FaultRule::refusal(7_000_215),
        FaultRule::refusal(50_076),
        FaultRule::status(Service::Vault, 401).authorized_only(),
    ];
    for service in [Service::Entra, Service::Vault, Service::Imds] {
        for code in [400, 401, 403, 404, 429, 500, 503] {
            rules.push(FaultRule::status(service, code));
        }
        rules.push(FaultRule::new(service, Fault::Reset));
        rules.push(FaultRule::new(service, Fault::Hang));
    }
    rules
}

fn calls(stage: &Stage) -> Vec<(Call, &'static str)> {
    let mut principal = Call::new(stage, "principal", "principal");
    principal.request.secrets.insert("clientid".into(), stage.workload_identity.client_id.clone());
    principal.request.secrets.insert("clientsecret".into(), CLIENT_SECRET.into());
    let mut broken = Call::new(stage, "broken", "kv");
    for tokens in broken.request.secrets.values_mut() {
        // Cut in the middle of a token.
        tokens.truncate(200);
    }
    let mut planted = Call::new(stage, "planted", "kv");
    let tokens = planted.request.secrets.remove(kubelet::TOKENS_KEY).unwrap();
    planted.request.volume_context.insert(kubelet::TOKENS_KEY.to_owned(), tokens);
    vec![
        (Call::new(stage, "web", "kv"), "workload identity"),
        (Call::new(stage, "vm", "vm"), "VM identity"),
        (principal, "service principal"),
        (broken, "broken tokens"),
        (planted, "tokens in the volume context"),
    ]
}

async fn run(arguments: &[&str], expected_in_log: &str) {
    let address = free_address();
    let mut flags: Vec<String> = arguments.iter().map(|&flag| flag.to_owned()).collect();
    flags.extend(
        [
            "--enable-secret-rotation=true",
            "--rotation-poll-interval=0",
            "--mount-freshness=0",
            "--publish-timeout=700ms",
        ]
        .map(str::to_owned),
    );
    flags.push(format!("--metrics-addr={address}"));
    let collector = Collector::start().await;
    flags.push(format!("--otlp-endpoint={}", collector.url()));
    let mut stage = Stage::start(StageOptions { arguments: flags, ..StageOptions::default() }).await;
    stage.fill_vault();
    stage.azure.vault(VAULT).set_secret("secret1", CANARY).unwrap();
    let secret = stage.azure.entra().add_secret(&stage.workload_identity.client_id, CLIENT_SECRET, None);
    secret.unwrap();
    let objects = [
        "objectName: secret1\nobjectType: secret",
        "objectName: cert1\nobjectType: secret",
        "objectName: cert1\nobjectType: secret\nobjectFormat: pfx\nobjectAlias: cert1.pfx",
    ];
    stage.deploy("kv", &class(&stage, "kv", &objects, &[]));
    stage.deploy("principal", &class(&stage, "principal", &objects, &[("clientID", "")]));
    let vm = [
        ("clientID", ""),
        ("useVMManagedIdentity", "true"),
        ("userAssignedIdentityID", &stage.vm_identity.client_id),
    ];
    stage.deploy("vm", &class(&stage, "vm", &objects, &vm));

    let calls = calls(&stage);
    let mut said = String::new();
    let mut ok = 0;
    for fault in std::iter::once(None).chain(faults().into_iter().map(Some)).chain([None]) {
        // A driver with tokens and values in hand would not ask.
        stage.driver.take().unwrap().terminate().await;
        stage.start_driver().await;
        if let Some(rule) = fault.clone() {
            stage.azure.faults().inject(rule);
        }
        // The first time, mounted volumes keep their content; the second time there is none.
        for _ in 0..2 {
            let mut running = tokio::task::JoinSet::new();
            for (call, what) in &calls {
                let (call, what) = (call.clone(), *what);
                running.spawn(async move { (call.publish().await, what) });
            }
            for (answer, what) in running.join_all().await {
                match answer {
                    Ok(()) => ok += 1,
                    Err(status) => writeln!(said, "{what}, {fault:?}: {status:?}").unwrap(),
                }
            }
            if fault.is_some() {
                for (call, _) in &calls {
                    call.unpublish().await.unwrap();
                }
            }
        }
        stage.azure.faults().clear();
    }
    let failed = said.lines().count();
    assert!(ok > 20 && failed > 50, "the test must see both ends: {ok} went well, {failed} did not\n{said}");
    let secrets = ["secret1", "cert1", "cert1.pfx"].map(|name| calls[0].0.read(name));
    assert_eq!(secrets[0], CANARY);
    let endpoint = format!("unix://{}", stage.socket().display());
    let (_, out, err) = DriverProcess::command(&["refresh", "--endpoint", &endpoint]).await;
    let metrics = Scrape::metrics(&address).await;
    for (call, _) in &calls {
        let _ = call.unpublish().await;
    }

    stage.driver.take().unwrap().terminate().await;
    let spans = collector.spans();
    let failed = spans.iter().filter(|span| span.span.status.is_some()).count();
    assert!(failed > 100 && spans.len() > 2 * failed, "{failed} of {} spans failed", spans.len());
    let spans = spans.iter().map(|span| format!("{span:?}")).collect::<Vec<_>>().join("\n");

    let log = stage.log();
    assert!(log.contains(expected_in_log), "the verbosity must show:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    // Of keys and certificates, a line from the middle: the frame around it is no secret.
    let middle = |text: &str| {
        let flat: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        flat[200..240].to_owned()
    };
    let canaries = [
        CANARY.to_owned(),
        CLIENT_SECRET.to_owned(),
        TOKEN.to_owned(),
        middle(&secrets[1]),
        middle(&secrets[2]),
    ];
    for (place, text) in [
        ("log", &log),
        ("errors", &said),
        ("metrics", &metrics.body),
        ("refresh", &format!("{out}{err}")),
        ("spans", &spans),
    ] {
        for canary in &canaries {
            let found = text.lines().find(|line| line.contains(canary.as_str()));
            assert_eq!(found, None, "{canary} is in the {place}");
        }
    }
}

#[tokio::test]
async fn nothing_secret_leaves_at_the_highest_verbosity() {
    if can_mount() {
        run(&["-v=10"], r#"] "no token" "#).await;
    }
}

#[tokio::test]
async fn nothing_secret_leaves_at_the_lowest_verbosity_as_json() {
    if can_mount() {
        run(&["-v=0", "--log-format-json=true"], r#""message":"published""#).await;
    }
}
