//! `akv-csi validate` on everything there is: what people deploy is left alone, what the driver refuses is found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use e2e::transcript::Session;
use e2e::{BAD_CLASSES, class_of, manifests, transcript, validate};
use std::path::{Path, PathBuf};

const CLIENT: &str = "11111111-2222-3333-4444-555555555555";
const TENANT: &str = "99999999-2222-3333-4444-555555555555";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn manifests_that_people_deploy_are_left_alone() {
    let filled = |manifest: &str| {
        let placeholders = [
            ("<AZURE_KEYVAULT_CLIENTID>", CLIENT),
            ("<USER_ASSIGNED_CLIENT_ID>", CLIENT),
            ("<CLIENT_ID>", CLIENT),
            ("<AZURE_KEYVAULT_TENANTID>", TENANT),
            ("<IDENTITY_TENANT>", TENANT),
            ("<TENANT_ID>", TENANT),
            ("<AZURE_KEYVAULT_NAME>", "demo-vault"),
            ("<KEYVAULT_NAME>", "demo-vault"),
            ("<KEYVAULT_SECRET_NAME>", "ExampleSecret"),
        ];
        placeholders.iter().fold(manifest.to_owned(), |text, (from, to)| text.replace(from, to))
    };
    let mut texts = vec![
        filled(manifests::SERVICE_CONNECTOR),
        filled(manifests::WORKLOAD_IDENTITY),
        filled(manifests::MANAGED_IDENTITY),
        filled(manifests::CERTIFICATE_TYPES),
    ];
    let driver = std::fs::read_to_string(root().join("deploy/manifests/akv-csi.yaml")).unwrap();
    texts.push(format!("{driver}\n---\n{}", filled(manifests::WORKLOAD_IDENTITY)));
    for text in texts {
        let report = validate(&text, &["--strict"]);
        assert_eq!((report.errors(), report.of("warning")), (vec![], vec![]), "{text}");
        assert_eq!(report.code, Some(0));
    }
    // With its placeholders it is no manifest yet.
    assert_eq!(validate(manifests::SERVICE_CONNECTOR, &[]).code, Some(1));
}

#[test]
fn whatever_the_driver_refuses_is_found() {
    for bad in BAD_CLASSES.iter().filter(|bad| bad.shows) {
        let text = class_of(CLIENT, TENANT, "bad", bad.objects, bad.parameters);
        let report = validate(&text, &["--strict"]);
        assert_eq!(report.code, Some(1), "{text}");
        // The words are the driver's own; what it says only of a whole mount may come in others.
        let said = format!("{}", report.report);
        let part = bad.message.iter().any(|part| said.contains(&part.replace('"', "\\\"")));
        assert!(part, "none of {:?} in {said}", bad.message);
    }
    assert!(validate("kind: [broken", &[]).errors()[0].starts_with("yaml "));
    let good = class_of(CLIENT, TENANT, "good", &["objectName: a\nobjectType: secret"], &[]);
    assert_eq!(validate(&good, &["--strict"]).code, Some(0));
}

#[test]
fn the_exit_code_says_what_happened() {
    let warned = class_of(CLIENT, TENANT, "w", &["objectName: a\nobjectType: secret"], &[("clientId", "x")]);
    assert_eq!((validate(&warned, &[]).code, validate(&warned, &["--strict"]).code), (Some(0), Some(1)));
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(e2e::DriverProcess::binary());
        command.arg("validate").args(arguments).output().unwrap().status.code()
    };
    assert_eq!(run(&["/nowhere/at/all.yaml"]), Some(2));
    assert_eq!(run(&["--no-such-flag"]), Some(2));
    assert_eq!(run(&[]), Some(2));
    assert_eq!(run(&["--help"]), Some(0));
}

#[tokio::test]
async fn the_page_of_the_guide_says_what_the_command_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/validate");
    transcript::check(&root().join("docs/validate.md"), &Session::in_folder(&folder)).await;
}
