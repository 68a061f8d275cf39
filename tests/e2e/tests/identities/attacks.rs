//! Nobody gets what another identity was given, and operators can forbid more.

use super::*;

/// A stage on which the victim has mounted: its token and the secret's value are in the driver's caches for an hour.
async fn victims_stage() -> Stage {
    let stage = stage(&["--mount-freshness=1h"]).await;
    deploy(&stage, "kv", &[]);
    mounts(&stage, &Call::new(&stage, "victim", "kv")).await;
    stage.azure.telemetry().reset();
    // There is something to steal: whoever is the victim gets it without asking anybody.
    mounts(&stage, &Call::new(&stage, "victim-2", "kv")).await;
    assert_eq!(stage.azure.counters().endpoints.values().sum::<u64>(), 0);
    stage
}

/// Nothing for the attacker: no file, and neither cache has served it. `asked` is how often Entra heard of it.
async fn attacked(stage: &Stage, call: &Call, asked: u64, parts: &[&str]) {
    stage.azure.telemetry().reset();
    let message = refused(stage, call).await;
    assert_has(&message, parts);
    let counters = stage.azure.counters();
    assert_eq!(counters.endpoint("entra.token"), asked, "the attacker's own proof was not put to the test");
    assert_eq!(counters.tokens.values().sum::<u64>(), 0, "{:?}", counters.tokens);
    assert_eq!(counters.object(VAULT, "secrets", "secret1"), 0, "the vault was asked with somebody's token");
    // A second try is refused as well, and the victim has lost nothing.
    refused(stage, call).await;
    stage.azure.telemetry().reset();
    let name = format!("after-{}", call.request.volume_id);
    mounts(stage, &Call::new(stage, &name, "kv")).await;
    assert_eq!(stage.azure.counters().endpoints.values().sum::<u64>(), 0, "the victim's caches were touched");
}

#[tokio::test]
async fn another_service_account_gets_nothing_with_the_victims_client_id_and_token() {
    if !can_mount() {
        return;
    }
    let stage = victims_stage().await;
    let victims = tokens(&stage, "default", TRUSTED);
    let mallory = |pod| Call::of(&stage, "default", pod, "mallory", "kv");
    let own = ["AADSTS700213:", "subject \"system:serviceaccount:default:mallory\""];
    attacked(&stage, &mallory("plain"), 1, &own).await;
    // The victim's token in volumeAttributes while the kubelet's own come in the secrets.
    attacked(&stage, &mallory("planting").with_attribute(TOKENS_KEY, &victims), 0, &own).await;
}

#[tokio::test]
async fn a_forged_subject_in_the_volume_context_gets_nothing() {
    if !can_mount() {
        return;
    }
    let stage = victims_stage().await;
    let forger = Issuer::new(stage.kubelet.issuer().url(), SigningKey::generate().unwrap());
    let subject = format!("system:serviceaccount:default:{TRUSTED}");
    let jwt = sign(&forger, &claims(&stage, &subject, 3600));
    let planted = json!({EXCHANGE: {"token": jwt, "expirationTimestamp": "2099-01-01T00:00:00Z"}});
    let mut call = Call::of(&stage, "default", "forger", "mallory", "kv");
    call.request.secrets.clear();
    let call = call.with_attribute(TOKENS_KEY, &planted.to_string());
    attacked(&stage, &call, 1, &["AADSTS50013:", "service account default/mallory"]).await;
    let unsigned = format!("{}.", jwt.rsplit_once('.').unwrap().0);
    let planted = json!({EXCHANGE: {"token": unsigned, "expirationTimestamp": "2099-01-01T00:00:00Z"}});
    let mut call = Call::of(&stage, "default", "unsigned", "mallory", "kv");
    call.request.secrets.clear();
    attacked(&stage, &call.with_attribute(TOKENS_KEY, &planted.to_string()), 1, &["AADSTS500"]).await;
}

#[tokio::test]
async fn the_same_service_account_of_another_namespace_gets_nothing() {
    if !can_mount() {
        return;
    }
    let stage = victims_stage().await;
    let text = class(&stage, "kv", &[SECRET], &[]);
    stage.deploy("evil", &text.replacen("  name: kv", "  name: kv\n  namespace: evil", 1));
    let call = Call::of(&stage, "evil", "evil", TRUSTED, "kv");
    let parts = ["AADSTS700213:", "subject \"system:serviceaccount:evil:workload-identity-sa\""];
    attacked(&stage, &call, 1, &parts).await;
    let planting = Call::of(&stage, "evil", "planting", TRUSTED, "kv")
        .with_attribute(TOKENS_KEY, &tokens(&stage, "default", TRUSTED));
    attacked(&stage, &planting, 0, &parts).await;
}

#[tokio::test]
async fn a_wrong_client_secret_gets_nothing_while_the_right_one_is_cached() {
    if !can_mount() {
        return;
    }
    let stage = victims_stage().await;
    let application = reader(&stage, "application").client_id;
    stage.azure.entra().add_secret(&application, "right-secret", None).unwrap();
    deploy(&stage, "sp", &[("clientID", "")]);
    let principal = |pod, account, secret| {
        let secrets = [("clientid", application.as_str()), ("clientsecret", secret)];
        with_secrets(Call::of(&stage, "default", pod, account, "sp"), &secrets)
    };
    mounts(&stage, &principal("right", TRUSTED, "right-secret")).await;
    stage.azure.telemetry().reset();
    mounts(&stage, &principal("right-2", TRUSTED, "right-secret")).await;
    assert_eq!(stage.azure.counters().endpoints.values().sum::<u64>(), 0);
    attacked(&stage, &principal("wrong", TRUSTED, "wrong-secret"), 1, &["AADSTS7000215:"]).await;
    attacked(&stage, &principal("wrong-2", "mallory", "wrong-secret"), 1, &["AADSTS7000215:"]).await;
    // And a client id alone is nobody.
    let call = Call::of(&stage, "default", "bare", TRUSTED, "sp");
    attacked(&stage, &with_secrets(call, &[("clientid", &application)]), 0, &["clientsecret"]).await;
}

#[tokio::test]
async fn an_assertion_that_proves_nothing_gets_nothing_in_the_victims_own_name() {
    if !can_mount() {
        return;
    }
    let stage = victims_stage().await;
    let subject = format!("system:serviceaccount:default:{TRUSTED}");
    let issuer = stage.kubelet.issuer();
    let of = |pod, jwt: &str| with_assertion(Call::new(&stage, pod, "kv"), jwt);
    attacked(&stage, &of("opaque", "not-a-jwt"), 1, &["AADSTS50027:"]).await;
    attacked(&stage, &of("dots", "a.b.c"), 1, &["AADSTS50027:"]).await;
    let expired = sign(issuer, &claims(&stage, &subject, -3600));
    attacked(&stage, &of("expired", &expired), 0, &["was not sent"]).await;
    let mut other = claims(&stage, &subject, 3600);
    other["aud"] = json!(["api://other"]);
    attacked(&stage, &of("audience", &sign(issuer, &other)), 1, &["AADSTS700212:", "api://other"]).await;
    let mut bare = Call::new(&stage, "bare", "kv");
    bare.request.secrets.clear();
    attacked(&stage, &bare, 0, &["service account tokens not found"]).await;
}

#[tokio::test]
async fn what_the_operator_forbids_is_refused_by_flag_and_value() {
    if !can_mount() {
        return;
    }
    let vm = ("useVMManagedIdentity", "true");
    let in_namespace = |stage: &Stage, namespace: &str, parameters: Parameters<'_>| {
        let name = format!("kv-{namespace}");
        let text = class(stage, &name, &[SECRET], parameters);
        let named = format!("  name: {name}");
        stage.deploy(&name, &text.replacen(&named, &format!("{named}\n  namespace: {namespace}"), 1));
        Call::of(stage, namespace, "web", TRUSTED, &name)
    };

    let stage = stage(&["--vm-identity-namespaces=kube-system,shop", "--mount-freshness=1h"]).await;
    let id = stage.vm_identity.client_id.clone();
    let machine = [vm, ("userAssignedIdentityID", id.as_str())];
    mounts(&stage, &in_namespace(&stage, "shop", &machine)).await;
    stage.azure.telemetry().reset();
    let parts = ["--vm-identity-namespaces is kube-system,shop", "namespace default", "workload identity"];
    assert_has(&refused(&stage, &call(&stage, "vm", TRUSTED, &machine)).await, &parts);
    assert_has(
        &refused(&stage, &call(&stage, "system", TRUSTED, &[vm])).await,
        &["--vm-identity-namespaces is kube-system,shop"],
    );
    assert_has(
        &refused(&stage, &in_namespace(&stage, "sho", &machine)).await,
        &["--vm-identity-namespaces is kube-system,shop", "namespace sho "],
    );
    assert_eq!(stage.azure.counters().endpoints.values().sum::<u64>(), 0, "nobody is asked");
    mounts(&stage, &call(&stage, "workload", TRUSTED, &[])).await;
    drop(stage);

    let stage = self::stage(&["--allowed-tenants=contoso.com"]).await;
    let tenant = stage.azure.tenant().to_owned();
    let parts = [format!("tenant {tenant} is not among"), "--allowed-tenants is contoso.com".to_owned()];
    let parts = parts.each_ref().map(String::as_str);
    assert_has(&refused(&stage, &call(&stage, "workload", TRUSTED, &[])).await, &parts);
    let proxied = [("useAzureTokenProxy", "true")];
    assert_has(&refused(&stage, &call(&stage, "binding", TRUSTED, &proxied)).await, &parts);
    let principal = call(&stage, "principal", TRUSTED, &[("clientID", "")]);
    let secrets = [("clientid", id.as_str()), ("clientsecret", "wrong-secret")];
    assert_has(&refused(&stage, &with_secrets(principal, &secrets)).await, &parts);
    // A pod's attribute is no way around it.
    let attribute = call(&stage, "attribute", TRUSTED, &[("tenantId", "contoso.com")])
        .with_attribute("tenantId", &tenant);
    assert_has(&refused(&stage, &attribute).await, &parts);
    assert_eq!(stage.azure.counters().endpoints.values().sum::<u64>(), 0, "nobody is asked");
    drop(stage);

    let stage = self::stage(&["--allowed-clouds=AzureUSGovernmentCloud"]).await;
    let parts = ["cloud AzurePublicCloud is not among", "--allowed-clouds is AzureUSGovernmentCloud"];
    assert_has(&refused(&stage, &call(&stage, "workload", TRUSTED, &[])).await, &parts);
    assert_has(&refused(&stage, &call(&stage, "vm", TRUSTED, &[vm])).await, &parts);
    let file = stage.cloud_file();
    let stack = [("cloudName", "AzureStackCloud"), ("cloudEnvFileName", file.as_str())];
    assert_has(
        &refused(&stage, &call(&stage, "stack", TRUSTED, &stack)).await,
        &["cloud AzureStackCloud is not among", "--allowed-clouds is AzureUSGovernmentCloud"],
    );
    assert_eq!(stage.azure.counters().endpoints.values().sum::<u64>(), 0, "nobody is asked");
}
