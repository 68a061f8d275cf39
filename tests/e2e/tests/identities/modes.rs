//! Every access method mounts a secret.

use super::*;

#[tokio::test]
async fn every_mode_mounts() {
    if !can_mount() {
        return;
    }
    let stage = stage_with(StageOptions::default(), token_proxy).await;
    let entra = stage.azure.entra();
    let vm = ("useVMManagedIdentity", "true");

    let workload = federated(&stage, "default", "web");
    let by_client = reader(&stage, "by-client");
    let by_resource = reader(&stage, "by-resource");
    let by_object = reader(&stage, "by-object");
    let own = reader(&stage, "machine");
    for identity in [&by_client, &by_resource, &by_object] {
        stage.azure.imds().assign_user(&identity.client_id).unwrap();
    }
    stage.azure.imds().assign_system(&own.client_id).unwrap();
    let with_secret = reader(&stage, "with-secret");
    entra.add_secret(&with_secret.client_id, "right-secret", None).unwrap();
    let with_certificate = reader(&stage, "with-certificate");
    let (certificate, key) = client_certificate(&stage);
    entra.add_certificate(&with_certificate.client_id, &certificate).unwrap();
    let bound = reader(&stage, "bound");
    let trust = Federation::service_account(stage.kubelet.issuer().url(), "default", "web");
    entra.federate(&bound.client_id, Federation { audience: BINDING.into(), ..trust }).unwrap();

    let web = |name, parameters: Parameters<'_>| call(&stage, name, "web", parameters);
    let modes = [
        (web("workload", &[("clientID", &workload.client_id)]), &workload),
        (web("client", &[vm, ("userAssignedIdentityID", &by_client.client_id)]), &by_client),
        (web("resource", &[vm, ("userAssignedIdentityID", &by_resource.resource_id)]), &by_resource),
        (web("object", &[vm, ("userAssignedIdentityObjectID", &by_object.object_id)]), &by_object),
        (web("system", &[vm, ("userAssignedIdentityID", "")]), &own),
        (
            with_secrets(
                web("secret", &[("clientID", "")]),
                &[("clientid", &with_secret.client_id), ("clientsecret", "right-secret")],
            ),
            &with_secret,
        ),
        (
            with_secrets(
                web("certificate", &[("clientID", "")]),
                &[
                    ("clientid", &with_certificate.client_id),
                    ("clientcertificate", &format!("{key}{certificate}")),
                ],
            ),
            &with_certificate,
        ),
        (web("binding", &[("useAzureTokenProxy", "true"), ("clientID", &bound.client_id)]), &bound),
    ];
    for (call, identity) in &modes {
        mounts(&stage, call).await;
        let issued = stage.azure.counters().tokens_for(&identity.client_id);
        assert_eq!(issued, 1, "{} is not who was asked for", identity.name);
    }
    let counters = stage.azure.counters();
    assert_eq!((counters.endpoint("imds.token"), counters.endpoint("entra.proxy")), (4, 1));
    assert_eq!(counters.endpoint("entra.token"), 3, "the binding's token comes through the proxy alone");
    assert_log_is_clean(&stage);
}

#[tokio::test]
async fn the_token_proxy_explains_what_it_lacks() {
    if !can_mount() {
        return;
    }
    let stage = stage_with(StageOptions::default(), token_proxy).await;
    let proxied = ("useAzureTokenProxy", "true");
    // A federated credential for workload identity is not one for a binding.
    let message = refused(&stage, &call(&stage, "plain", TRUSTED, &[proxied])).await;
    assert_has(&message, &["AADSTS70021", BINDING, "system:serviceaccount:default:workload-identity-sa"]);
    let message = refused(&stage, &call(&stage, "nobody", TRUSTED, &[proxied, ("clientID", "")])).await;
    assert_has(&message, &["clientID is required for identity binding"]);
    let mut without = call(&stage, "without", TRUSTED, &[proxied]);
    without.request.secrets.clear();
    let message = refused(&stage, &without).await;
    assert_has(&message, &["service account tokens are required for identity binding"]);
}

#[tokio::test]
async fn ad_fs_of_a_custom_cloud_mounts() {
    if !can_mount() {
        return;
    }
    let names = ("login.stack.example".to_owned(), "vault.stack.example".to_owned());
    let options = StageOptions { custom_cloud: Some(names), ..StageOptions::default() };
    let stage = stage_with(options, |_| Vec::new()).await;
    let entra = stage.azure.entra();
    stage.azure.vault(VAULT).set_tenant("adfs");
    let of_adfs = |name: &str| {
        let identity = Identity { tenant: "adfs".into(), ..reader(&stage, name) };
        entra.register(identity.clone());
        identity.client_id
    };
    let (workload, with_secret, with_certificate) = (of_adfs("web"), of_adfs("secret"), of_adfs("cert"));
    let trust = Federation::service_account(stage.kubelet.issuer().url(), "default", "web");
    entra.federate(&workload, trust).unwrap();
    entra.add_secret(&with_secret, "right-secret", None).unwrap();
    let (certificate, key) = client_certificate(&stage);
    entra.add_certificate(&with_certificate, &certificate).unwrap();
    let file = stage.cloud_file();
    let adfs = |name, client_id: &str| {
        let parameters = [
            ("tenantId", "adfs"),
            ("clientID", client_id),
            ("cloudName", "AzureStackCloud"),
            ("cloudEnvFileName", &file),
        ];
        call(&stage, name, "web", &parameters)
    };
    let pem = format!("{key}{certificate}");
    mounts(&stage, &adfs("workload", &workload)).await;
    let secrets = [("clientid", with_secret.as_str()), ("clientsecret", "right-secret")];
    mounts(&stage, &with_secrets(adfs("secret", ""), &secrets)).await;
    let secrets = [("clientid", with_certificate.as_str()), ("clientcertificate", &pem)];
    mounts(&stage, &with_secrets(adfs("certificate", ""), &secrets)).await;
    let counters = stage.azure.counters();
    for client_id in [&workload, &with_secret, &with_certificate] {
        assert_eq!(counters.tokens_for(client_id), 1);
    }
}
