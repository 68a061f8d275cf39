//! Whole texts in, findings out.

use super::finding::{Finding, Rule, Severity};
use super::report::{json, sarif, text};
use super::source::Source;
use super::{Outcome, check};

const CLASS: &str = "apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: kv
spec:
  provider: azure
  parameters:
    keyvaultName: shop-kv
    clientID: 11111111-2222-3333-4444-555555555555
    tenantId: 99999999-2222-3333-4444-555555555555
    objects: |
      array:
        - |
          objectName: secret1
          objectType: secret
        - |
          objectName: key1
          objectType: key
";

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - name: web
      volumeMounts: [{name: secrets, mountPath: /mnt/secrets}]
  volumes:
    - name: secrets
      csi:
        driver: secrets-store.csi.k8s.io
        readOnly: true
        volumeAttributes: {secretProviderClass: kv}
";

fn outcome(text: &str) -> (Vec<Source>, Outcome) {
    let sources = vec![Source::new("kv.yaml", true, text)];
    let outcome = check(&sources, "secrets-store.csi.k8s.io");
    (sources, outcome)
}

/// `rule line:column marked text`, one for each finding.
fn found(text: &str) -> Vec<String> {
    let (sources, outcome) = outcome(text);
    let chars: Vec<char> = sources[0].text.chars().collect();
    let line = |finding: &Finding| {
        let position = sources[0].position(finding.place.span.start);
        let marked: String = chars[finding.place.span.clone()].iter().collect();
        format!("{} {}:{} {marked}", finding.rule.id(), position.line, position.column)
    };
    outcome.findings.iter().map(line).collect()
}

/// The same for the good class after a change.
fn changed(from: &str, to: &str) -> Vec<String> {
    assert!(CLASS.contains(from), "{from}");
    found(&CLASS.replace(from, to))
}

fn with_pod(class: &str, pod: &str, more: &str) -> Vec<String> {
    found(&format!("{class}---\n{pod}---\n{more}"))
}

#[test]
fn what_is_good_is_left_alone() {
    assert_eq!(found(CLASS), Vec::<String>::new());
    assert_eq!(with_pod(CLASS, POD, ""), Vec::<String>::new());
    assert_eq!(found("a: b\n---\n# nothing\n---\nkind: ConfigMap\napiVersion: v1\n"), Vec::<String>::new());
}

#[test]
fn faults_of_the_driver_are_found_where_they_stand() {
    for (from, to, expected) in [
        ("keyvaultName: shop-kv", "keyvaultName: \"kv_1\"", "bad-class 8:19 \"kv_1\""),
        ("    keyvaultName: shop-kv\n", "", "bad-class 7:3 parameters"),
        ("objectType: key", "objectType: Key # no", "bad-class 18:23 Key"),
        ("objectName: key1", "objectName: key1\n          objectAlias: ../x", "bad-class 18:24 ../x"),
        (
            "          objectType: key",
            "          filePermission: rw\n          objectType: key",
            "bad-class 18:27 rw",
        ),
        ("objectType: key", "objectType: key\n          objectVersionHistory: '5'", "bad-class 19:33 '5'"),
        ("objectType: key", "objectType: key\n          objectType: key", "bad-class 19:11 objectType: key"),
        ("- |\n          objectName: key1", "- objectName: key1", "bad-class 16:11 objectName: key1"),
        ("objectType: key", "objectType: key: x", "bad-class 18:26 : x"),
        ("provider: azure", "provider: ''", "bad-class 6:13 ''"),
        ("tenantId: 9", "tenantId: '<your tenant>' #", "bad-class 10:15 '<your tenant>'"),
    ] {
        assert_eq!(changed(from, to), [expected], "{to}");
    }
}

#[test]
fn places_are_found_in_quoted_objects_and_lists_too() {
    let quoted = CLASS.split("    objects: |").next().unwrap().to_owned()
        + "    objects: \"array:\\n  - |\\n    objectName: a\\n    objectType: sécret\\n\"\n";
    assert_eq!(found(&quoted), ["bad-class 11:65 sécret"]);
    let indented = format!("  {}", CLASS.replace('\n', "\n  "));
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}",
        indented[2..].replace("objectType: key", "objectType: Key")
    );
    let (sources, outcome) = outcome(&list);
    let finding = &outcome.findings[0];
    assert_eq!(finding.field, "items[0].spec.parameters.objects.array[1].objectType");
    assert_eq!(sources[0].position(finding.place.span.start).line, 21);
}

#[test]
fn values_that_are_no_strings_are_refused_by_the_api_server() {
    assert_eq!(
        changed("keyvaultName: shop-kv", "keyvaultName: shop-kv\n    useVMManagedIdentity: false"),
        ["not-a-string 9:27 false"]
    );
    assert_eq!(
        changed("keyvaultName: shop-kv", "keyvaultName: shop-kv\n    cloudName:"),
        Vec::<String>::new()
    );
    assert_eq!(changed("objects: |", "objects:"), ["not-a-string 11:5 objects", "bad-class 11:5 objects"]);
}

#[test]
fn traps_that_no_parser_sees() {
    let add = |line: &str| {
        changed("    keyvaultName: shop-kv\n", &format!("    keyvaultName: shop-kv\n    {line}\n"))
    };
    assert_eq!(add("clientId: x"), ["unread-parameter 9:15 x"]);
    assert_eq!(add("resourceGroup: x"), ["unknown-parameter 9:20 x"]);
    assert_eq!(
        add("userAssignedIdentityID: 11111111-2222-3333-4444-555555555555"),
        ["ignored-parameter 9:29 11111111-2222-3333-4444-555555555555"]
    );
    assert_eq!(
        add("useVMManagedIdentity: 'true'"),
        ["ignored-parameter 10:15 11111111-2222-3333-4444-555555555555"]
    );
    assert_eq!(add("rotationPollInterval: '5'"), ["bad-interval 9:27 '5'"]);
    assert_eq!(add("cloudName: AzureStackCloud"), ["no-cloud-file 9:16 AzureStackCloud"]);
    let object = |line: &str| changed("objectType: secret", &format!("objectType: secret\n          {line}"));
    assert_eq!(object("objectVersion: latest"), ["version-latest 16:26 latest"]);
    assert_eq!(object("objectVersion: '1'"), ["odd-version 16:26 '1'"]);
    assert_eq!(object("objectVersionHistory: 1"), ["odd-history 16:33 1"]);
    assert_eq!(object("objectVersionHistory: 0"), Vec::<String>::new());
    assert_eq!(object("objectVersionHistory: 2"), ["history-plus-one 16:33 2"]);
    assert_eq!(object("objectVersionHistroy: 2"), ["unread-object-field 16:33 2"]);
    assert_eq!(object("objectAlias: key1"), ["same-path 18:23 key1"]);
    assert_eq!(object("objectAlias: key1/x"), ["file-conflict 12:7 array:"]);
    assert_eq!(object("filePermission: '4755'"), ["odd-mode 16:27 '4755'"]);
    assert_eq!(object("filePermission: '0000'"), ["odd-mode 16:27 '0000'"]);
    assert_eq!(object("filePermission: 0640"), Vec::<String>::new());
    assert_eq!(object("objectFormat: pfx"), ["pfx-text 16:25 pfx"]);
    assert_eq!(
        changed("objectType: key", "objectType: key\n          objectFormat: PFX"),
        ["ignored-format 19:25 PFX"]
    );
    assert_eq!(changed("objectName: key1", "objectName: key_1"), ["odd-object-name 17:23 key_1"]);
}

#[test]
fn identities_are_looked_at_together_with_the_pods() {
    let no_client = CLASS.replace("    clientID: 11111111-2222-3333-4444-555555555555\n", "");
    assert_eq!(found(&no_client), ["no-identity 7:3 parameters"]);
    let no_tenant = CLASS.replace("    tenantId: 99999999-2222-3333-4444-555555555555\n", "");
    assert_eq!(found(&no_tenant), ["identity-of-account 7:3 parameters"]);
    // Its service account is not among the files.
    assert_eq!(with_pod(&no_client, POD, "")[0].split(' ').next(), Some("no-identity"));
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default}\n";
    assert_eq!(with_pod(&no_client, POD, account)[0].split(' ').next(), Some("no-credentials"));
    let annotated = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default, annotations: {azure.workload.identity/client-id: a, azure.workload.identity/tenant-id: b}}\n";
    assert_eq!(with_pod(&no_client, POD, annotated), Vec::<String>::new());
    assert_eq!(with_pod(&no_tenant, POD, annotated), Vec::<String>::new());
    assert_eq!(with_pod(&no_tenant, POD, account), ["bad-class 7:3 parameters"]);

    let referring =
        POD.replace("readOnly: true", "readOnly: true\n        nodePublishSecretRef: {name: creds}");
    assert_eq!(with_pod(&no_client, &referring, "")[0].split(' ').next(), Some("secret-not-given"));
    assert_eq!(with_pod(CLASS, &referring, "")[0].split(' ').next(), Some("unused-secret-ref"));
    let secret = |data: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: creds}}\n{data}\n");
    let rule = |data: &str| {
        with_pod(&no_client, &referring, &secret(data))
            .iter()
            .map(|found| found.split(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(rule("stringData: {clientid: a, clientsecret: b}"), Vec::<String>::new());
    assert_eq!(rule("data: {ClientID: YQ==, clientsecret: Yg==}"), Vec::<String>::new());
    assert_eq!(rule("data: {clientid: YQ==, clientsecret: Ygo=}"), ["secret-newline"]);
    assert_eq!(rule("data: {clientid: YQ==}"), ["bad-credentials"]);
    assert_eq!(rule("data: {clientid: '%', clientsecret: Yg==}"), ["bad-credentials", "bad-credentials"]);
}

#[test]
fn pods_are_found_in_workloads_of_all_kinds() {
    for (kind, api, path) in [
        ("Deployment", "apps/v1", "template: {spec: SPEC}"),
        ("StatefulSet", "apps/v1", "template: {spec: SPEC}"),
        ("CronJob", "batch/v1", "jobTemplate: {spec: {template: {spec: SPEC}}}"),
        ("Rollout", "argoproj.io/v1alpha1", "template: {spec: SPEC}"),
    ] {
        let volume = "{volumes: [{name: s, csi: {driver: secrets-store.csi.k8s.io, volumeAttributes: {secretProviderClass: kv}}}]}";
        let text = format!(
            "apiVersion: {api}\nkind: {kind}\nmetadata: {{name: w}}\nspec: {{{}}}\n",
            path.replace("SPEC", volume)
        );
        let found = with_pod(CLASS, &text, "");
        assert!(found.len() == 1 && found[0].starts_with("bad-volume "), "{kind}: {found:?}");
    }
}

#[test]
fn volumes_that_cannot_be_mounted_or_mean_something_else() {
    let rules = |pod: &str| {
        with_pod(CLASS, pod, "")
            .iter()
            .map(|found| found.split(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(rules(&POD.replace("        readOnly: true\n", "")), ["bad-volume"]);
    assert_eq!(
        rules(&POD.replace("secretProviderClass: kv", "secretproviderclass: kv")),
        ["bad-volume", "unread-parameter"]
    );
    assert_eq!(rules(&POD.replace("Class: kv", "Class: other")), ["class-not-given"]);
    assert_eq!(
        rules(&POD.replace("mountPath: /mnt/secrets", "mountPath: /a, subPath: secret1")),
        ["sub-path"]
    );
    assert_eq!(
        rules(&POD.replace("mountPath: /mnt/secrets", "mountPath: /a, subPath: nope")),
        ["sub-path", "sub-path-file"]
    );
    let overriding = POD.replace("secretProviderClass: kv", "secretProviderClass: kv, keyvaultName: x");
    assert_eq!(with_pod(CLASS, &overriding, ""), ["bad-class 32:67 x"]);
    let class = CLASS.replace("name: kv\n", "name: kv\n  namespace: shop\n");
    let pod = POD.replace("name: web}", "name: web, namespace: other}");
    assert_eq!(with_pod(&class, &pod, "")[0].split(' ').next(), Some("other-namespace"));
    assert_eq!(found(&format!("{CLASS}---\n{CLASS}"))[0].split(' ').next(), Some("class-twice"));
}

#[test]
fn synced_secrets_and_the_variables_from_them() {
    let synced = |objects: &str| format!("{CLASS}  secretObjects:\n{objects}");
    let rules = |text: &str| {
        found(text).iter().map(|found| found.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let good =
        synced("  - secretName: app\n    type: Opaque\n    data: [{objectName: secret1, key: password}]\n");
    assert_eq!(rules(&good), Vec::<String>::new());
    assert_eq!(rules(&good.replace("objectName: secret1, key", "objectName: secret2, key")), ["synced-file"]);
    assert_eq!(rules(&good.replace("key: password", "key: ''")), ["synced-secret"]);
    assert_eq!(rules(&good.replace("type: Opaque", "type: ''")), ["synced-secret"]);
    assert_eq!(
        rules(&good.replace("type: Opaque", "type: kubernetes.io/tls")).len(),
        3,
        "no tls.crt, no tls.key, another key"
    );
    let tls = synced(
        "  - secretName: app\n    type: kubernetes.io/tls\n    data: [{objectName: key1, key: tls.key}, {objectName: secret1, key: tls.crt}]\n",
    );
    assert_eq!(rules(&tls), ["synced-tls"]);
    let chain = tls.replace(
        "objectName: key1, key: tls.key}",
        "objectName: secret1, key: tls.key}, {objectName: secret1, key: ca.crt}",
    );
    assert_eq!(rules(&chain), Vec::<String>::new());

    let env = |name: &str, key: &str, pod: &str| {
        let env = format!(
            "- name: web\n      env: [{{name: A, valueFrom: {{secretKeyRef: {{name: {name}, key: {key}}}}}}}]"
        );
        rules(&format!("{good}---\n{}", pod.replace("- name: web", &env)))
    };
    assert_eq!(env("app", "password", POD), Vec::<String>::new());
    assert_eq!(env("app", "passwort", POD), ["env-key"]);
    assert_eq!(env("apps", "password", POD), ["env-near-miss"]);
    assert_eq!(env("unrelated-secret", "password", POD), Vec::<String>::new());
    let without = POD.replace("driver: secrets-store.csi.k8s.io", "driver: other.example");
    assert_eq!(env("app", "password", &without), ["env-without-volume"]);
}

#[test]
fn the_csidriver_has_to_let_tokens_through() {
    let driver = "apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata: {name: secrets-store.csi.k8s.io}\nspec:\n  podInfoOnMount: true\n  attachRequired: false\n  requiresRepublish: true\n  volumeLifecycleModes: [Ephemeral]\n  tokenRequests: [{audience: api://AzureADTokenExchange}]\n";
    let rules = |driver: &str| {
        with_pod(CLASS, POD, driver)
            .iter()
            .map(|found| found.split(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(rules(driver), Vec::<String>::new());
    assert_eq!(rules(&driver.replace("AzureADTokenExchange", "other")), ["token-requests"]);
    assert_eq!(rules(&driver.replace("podInfoOnMount: true", "podInfoOnMount: false")), ["bad-csidriver"]);
    assert_eq!(
        rules(&driver.replace("requiresRepublish: true", "requiresRepublish: false")),
        ["csidriver-option"]
    );
}

#[test]
fn the_report_for_people_shows_the_place() {
    let (sources, outcome) = outcome(&CLASS.replace("objectType: key", "objectType: Key"));
    let expected = "error[bad-class]: failed to get objectType:Key, objectName:key1, objectVersion:: Invalid vaultObjectTypes. Should be secret, key, or cert
  --> kv.yaml:18:23
   |
18 |           objectType: Key
   |                       ^^^
   = field: spec.parameters.objects.array[1].objectType of SecretProviderClass kv
   = help: write secret, key or cert, in lower case

1 class in 1 file, 0 pods that mount: 1 error
";
    assert_eq!(text::render(&sources, &outcome, false), expected);
    let coloured = text::render(&sources, &outcome, true);
    assert!(coloured.contains("\u{1b}[1;31merror[bad-class]\u{1b}[0m"), "{coloured:?}");
}

#[test]
fn the_reports_for_programs_have_what_their_readers_need() {
    let (sources, outcome) = outcome(&CLASS.replace("objectType: key", "objectType: Key"));
    let report: serde_json::Value = serde_json::from_str(&json::render(&sources, &outcome)).unwrap();
    let finding = &report["findings"][0];
    assert_eq!(
        (finding["file"].as_str(), finding["line"].as_u64(), finding["column"].as_u64()),
        (Some("kv.yaml"), Some(18), Some(23))
    );
    assert_eq!((finding["endColumn"].as_u64(), report["errors"].as_u64()), (Some(26), Some(1)));

    // What the schema of SARIF 2.1.0 requires, and what code hosts require besides.
    let log: serde_json::Value = serde_json::from_str(&sarif::render(&sources, &outcome)).unwrap();
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    assert_eq!(run["tool"]["driver"]["name"], "akv-csi");
    assert_eq!(run["columnKind"], "unicodeCodePoints");
    let result = &run["results"][0];
    let rule =
        &run["tool"]["driver"]["rules"][usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()];
    assert_eq!(rule["id"], result["ruleId"]);
    assert!(result["message"]["text"].as_str().is_some_and(|text| !text.is_empty()));
    assert!(matches!(result["level"].as_str(), Some("none" | "note" | "warning" | "error")));
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "kv.yaml");
    assert_eq!(
        place["region"],
        serde_json::json!({"startLine": 18, "startColumn": 23, "endLine": 18, "endColumn": 26})
    );
}

#[test]
fn rules_have_names_of_their_own() {
    let mut ids: Vec<_> = Rule::ALL.iter().map(|rule| rule.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), Rule::ALL.len());
    assert!(Severity::Error > Severity::Warning && Severity::Warning > Severity::Note);
}

proptest::proptest! {
    #[test]
    fn any_text_is_reported_on(text in "(kind: [A-Za-z]{1,4}\n|[a-z]{1,3}: |- |\\| *\n|\"|'|\n|    |[a-zü,\\[\\]{}&*]|---\n){0,60}") {
        for text in [text.clone(), CLASS.replace("objectType: key", &text)] {
            let (sources, outcome) = outcome(&text);
            let _ = text::render(&sources, &outcome, true);
            let _ = json::render(&sources, &outcome);
            let _ = sarif::render(&sources, &outcome);
        }
    }
}
