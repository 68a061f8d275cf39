//! Class, token and objects.

use super::*;
use std::collections::BTreeSet;

#[tokio::test]
async fn what_a_class_says_wrong_is_told_fault_by_fault() {
    if !can_mount() {
        return;
    }
    let stage = stage().await;
    let missing = examine_class(&stage, "nope", &[]).await;
    missing.assert_failed("class", &["\"nope\" not found"], &["create the class"]);

    let bad = [("keyvaultName", "x"), ("usePodIdentity", "maybe")];
    stage.deploy("bad", &class(&stage, "bad", &["objectName: a\nobjectType: nope"], &bad));
    let faults = examine_class(&stage, "bad", &["--only", "class,token"]).await;
    assert_eq!(faults.of("class").len(), 3, "{}", faults.out);
    faults.assert_failed("class", &["parameters.usePodIdentity", "maybe"], &["write \"true\" or \"false\""]);
    faults.assert_failed("class", &["parameters.keyvaultName"], &[]);
    faults.assert_failed("class", &["parameters.objects", "nope"], &[]);
    assert!(faults.of("class").iter().all(|(_, _, cure)| !cure.is_empty()), "{}", faults.out);
    assert!(faults.of("token").is_empty(), "nothing is asked for a class that says nothing usable");

    // Neither a pod nor a class: the way to Azure alone.
    let nothing = examine(&stage, &["--only", "class,tls,token"], &[]).await;
    assert_eq!(nothing.code, 0, "{}", nothing.out);
    assert_eq!(nothing.of("class")[0].0, "skipped");
    nothing.assert_ok("tls", 1);

    // A pod that is mounted here is known to the driver, another one is not.
    Call::new(&stage, "web", "kv").publish().await.unwrap();
    let file = token_file(&stage, ACCOUNT);
    let pod =
        examine(&stage, &["--pod", "default/web", "--token-file", &file, "--only", "class,objects"], &[])
            .await;
    assert_eq!(pod.code, 0, "{}", pod.out);
    pod.assert_ok("objects", 2);
    let unknown = examine(&stage, &["--pod", "default/gone"], &[]).await;
    unknown.assert_failed("class", &["default/gone is not known"], &["--class NAMESPACE/NAME"]);
}

#[tokio::test]
async fn each_refusal_of_a_token_has_its_cure() {
    if !can_mount() {
        return;
    }
    let stage = stage().await;
    let entra = stage.azure.entra();
    let unfederated = entra.add_identity("unfederated").client_id;
    let elsewhere = entra.add_identity("elsewhere").client_id;
    let trust = Federation::service_account(stage.kubelet.issuer().url(), "default", "somebody-else");
    entra.federate(&elsewhere, trust).unwrap();
    let no_tenant = "11111111-2222-3333-4444-555555555555";
    for (name, parameters, words, cure) in [
        ("tenant", [("tenantId", no_tenant)], ["AADSTS90002", no_tenant], "Compare tenantID"),
        ("client", [("clientID", no_tenant)], ["AADSTS700016", no_tenant], "az identity show"),
        (
            "unfederated",
            [("clientID", &unfederated)],
            ["AADSTS70025", "no federated credential"],
            "az identity federated-credential create",
        ),
        (
            "elsewhere",
            [("clientID", &elsewhere)],
            ["AADSTS700213", "for this subject"],
            "--subject system:serviceaccount:default:workload-identity-sa",
        ),
    ] {
        stage.deploy(name, &class(&stage, name, &[SECRET], &parameters));
        let examined = examine_class(&stage, name, &["--only", "class,token,objects"]).await;
        examined.assert_ok("class", 1);
        examined.assert_failed("token", &words, &[cure]);
        assert_eq!(examined.of("objects")[0].0, "skipped");
    }

    // Tokens that cannot be had or shown.
    let arguments = ["--class", "default/kv", "--only", "token"];
    let none = examine(&stage, &arguments, &[]).await;
    assert_eq!((none.code, none.of("token")[0].0), (0, "skipped"), "{}", none.out);
    assert!(none.of("token")[0].2.contains("--token-file"), "{}", none.out);
    std::fs::write(stage.path("nonsense"), "no token").unwrap();
    let file = stage.path("nonsense").display().to_string();
    let nonsense = examine(&stage, &[&arguments[..], &["--token-file", &file]].concat(), &[]).await;
    nonsense.assert_failed(
        "token",
        &["holds no service-account token"],
        &["projected service-account token"],
    );

    // A VM's identity needs none.
    let vm =
        [("useVMManagedIdentity", "true"), ("userAssignedIdentityID", stage.vm_identity.client_id.as_str())];
    stage.deploy("vm", &class(&stage, "vm", &[SECRET], &vm));
    let examined = examine(&stage, &["--class", "default/vm"], &[]).await;
    examined.assert_ok("token", 1);
    examined.assert_ok("objects", 1);
    examined.assert_ok("imds", 1);
    stage.azure.imds().unassign(&stage.vm_identity.client_id);
    let examined = examine(&stage, &["--class", "default/vm", "--only", "token"], &[]).await;
    examined.assert_failed("token", &["not assigned to this VM"], &["az vmss identity assign"]);
}

#[tokio::test]
async fn each_object_is_told_by_itself_and_read_only_where_that_is_wanted() {
    if !can_mount() {
        return;
    }
    let stage = stage().await;
    let reader = stage.azure.entra().add_identity("keys-only").client_id;
    let trust = Federation::service_account(stage.kubelet.issuer().url(), "default", ACCOUNT);
    stage.azure.entra().federate(&reader, trust).unwrap();
    let vault = stage.azure.vault(VAULT);
    vault.grant(&reader, Permissions { secrets: BTreeSet::new(), ..Permissions::read() });
    let missing = "objectName: missing\nobjectType: key";
    stage.deploy("mixed", &class(&stage, "mixed", &[SECRET, KEY, missing], &[("clientID", &reader)]));
    let mixed = examine_class(&stage, "mixed", &["--only", "token,objects"]).await;
    mixed.assert_ok("token", 1);
    assert_eq!(mixed.of("objects").len(), 3, "{}", mixed.out);
    mixed.assert_failed("objects", &["objectName:secret1", "403"], &[&reader]);
    mixed.assert_failed("objects", &["objectName:missing", "404"], &["az keyvault key list-versions"]);
    assert_eq!(mixed.of("objects")[1].0, "ok");
    assert!(mixed.of("objects")[1].1.contains("key/key1 may be read: version "), "{}", mixed.out);

    let asked = || stage.azure.counters().objects.values().sum::<u64>();
    let before = asked();
    let unread = examine_class(&stage, "kv", &["--only", "token,objects", "--no-fetch"]).await;
    assert_eq!((unread.code, unread.of("objects")[0].0), (0, "skipped"), "{}", unread.out);
    assert_eq!(asked(), before, "--no-fetch must not read objects");
}
