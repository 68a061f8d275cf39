//! Each refusal of Entra and IMDS: who asked, what was sent, why not, and the cure.

use super::*;

#[tokio::test]
async fn refusals_of_federated_tokens_name_who_asked_what_was_sent_and_the_cure() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--v=5"]).await;
    let (entra, issuer) = (stage.azure.entra(), stage.kubelet.issuer());
    let subject = format!("system:serviceaccount:default:{TRUSTED}");
    let trusting = |federation: Option<Federation>| {
        let identity = reader(&stage, "picky");
        if let Some(federation) = federation {
            entra.federate(&identity.client_id, federation).unwrap();
        }
        identity.client_id
    };
    let right = Federation::new(issuer.url(), &subject);
    let by = |client_id: String| (client_id, TRUSTED);
    // Who is asked for, by which service account, the code, and what makes this case.
    let cases: Vec<((String, &str), u32, &str)> = vec![
        ((stage.workload_identity.client_id.clone(), "mallory"), 700_213, "for this subject"),
        (
            by(trusting(Some(Federation { issuer: format!("{}/", issuer.url()), ..right.clone() }))),
            700_211,
            "for this issuer",
        ),
        (
            by(trusting(Some(Federation { audience: "api://other".into(), ..right.clone() }))),
            700_212,
            "tokenRequests of the CSIDriver",
        ),
        (
            by(trusting(Some(Federation { subject: subject.replace("work", "Work"), ..right.clone() }))),
            7_002_138,
            "only in upper and lower case",
        ),
        (by(trusting(None)), 70_025, "has no federated credential"),
    ];
    for (number, ((client_id, account), code, cause)) in cases.iter().enumerate() {
        let name = format!("pod-{number}");
        let message = refused(&stage, &call(&stage, &name, account, &[("clientID", client_id)])).await;
        assert_has(
            &message,
            &[
                &format!("AADSTS{code}:"),
                cause,
                &format!("for pod default/{name}"),
                &format!("SecretProviderClass default/{name}"),
                &format!("service account default/{account}"),
                &format!("client id {client_id} in tenant {}", stage.azure.tenant()),
                &format!("issuer {:?}", issuer.url()),
                &format!("subject \"system:serviceaccount:default:{account}\""),
                &format!("audience {EXCHANGE:?}"),
                CREATE,
                &format!("--issuer {} ", issuer.url()),
                &format!("--subject system:serviceaccount:default:{account} "),
                &format!("--audiences {EXCHANGE} "),
            ],
        );
    }

    // The cure cures: what the message says is created, and the same pod mounts.
    let client_id = &cases[4].0.0;
    entra.federate(client_id, right).unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    let cured = Call::new(&stage, "pod-4", "pod-4");
    while let Err(status) = cured.publish().await {
        assert!(Instant::now() < patience, "{}", status.message());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(cured.read("secret1"), VALUE);
    assert_log_is_clean(&stage);
}

#[tokio::test]
async fn refusals_of_tokens_that_are_no_good_tell_what_is_wrong_with_them() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--v=5"]).await;
    let issuer = stage.kubelet.issuer();
    let subject = format!("system:serviceaccount:default:{TRUSTED}");
    let of = |name, jwt: &str| with_assertion(call(&stage, name, TRUSTED, &[]), jwt);

    // Not sent at all.
    let message = refused(&stage, &of("expired", &sign(issuer, &claims(&stage, &subject, -3600)))).await;
    assert_has(&message, &["expired at", "was not sent", &subject, "kubelet sends a fresh token"]);
    let mut early = claims(&stage, &subject, 7200);
    early["nbf"] = json!(now() + 3600);
    let message = refused(&stage, &of("early", &sign(issuer, &early))).await;
    assert_has(&message, &["valid only from", "was not sent", &subject, "clock"]);
    assert_eq!(stage.azure.counters().endpoint("entra.token"), 0);
    let mut without = call(&stage, "without", TRUSTED, &[]);
    without.request.secrets.clear();
    let message = refused(&stage, &without).await;
    assert_has(&message, &["service account tokens not found", "tokenRequests"]);
    let mut other = call(&stage, "other", TRUSTED, &[]);
    let tokens = json!({"api://other": {"token": "x", "expirationTimestamp": "2099-01-01T00:00:00Z"}});
    other.request.secrets.insert(TOKENS_KEY.to_owned(), tokens.to_string());
    let message = refused(&stage, &other).await;
    assert_has(&message, &[&format!("token for audience {EXCHANGE} not found"), "api://other"]);

    // Sent, and refused.
    let message = refused(&stage, &of("opaque", "not-a-jwt")).await;
    assert_has(&message, &["AADSTS50027:", "not a JWT", "service account default/workload-identity-sa"]);
    let forger = Issuer::new(issuer.url(), SigningKey::generate().unwrap());
    let message = refused(&stage, &of("forged", &sign(&forger, &claims(&stage, &subject, 3600)))).await;
    assert_has(&message, &["AADSTS50013:", "signature", &subject, "jwks_uri"]);
    let own = stage.azure.entra().issue_token(&stage.workload_identity.client_id, EXCHANGE).unwrap();
    let message = refused(&stage, &of("own", &own)).await;
    assert_has(&message, &["AADSTS700222:", "issued by Entra itself", "tokenRequests"]);
    // By Entra's clock the kubelet's token has ended.
    stage.azure.clock().set_offset(3 * 3600);
    let web = federated(&stage, "default", "web");
    let message = refused(&stage, &call(&stage, "late", "web", &[("clientID", &web.client_id)])).await;
    assert_has(&message, &["AADSTS700024:", "by Entra's clock", "compare the clocks", "default:web"]);
    assert_log_is_clean(&stage);
}

#[tokio::test]
async fn refusals_of_clients_and_tenants_tell_the_cure() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--v=5"]).await;
    let entra = stage.azure.entra();
    let nobody = "00000000-0000-0000-0000-0000000000aa";
    let message = refused(&stage, &call(&stage, "nobody", TRUSTED, &[("clientID", nobody)])).await;
    assert_has(&message, &["AADSTS700016:", nobody, "az identity show", "not an object id"]);
    let message = refused(&stage, &call(&stage, "nowhere", TRUSTED, &[("tenantId", nobody)])).await;
    assert_has(&message, &["AADSTS90002:", nobody, "az account show", "cloudName"]);
    let message = refused(&stage, &call(&stage, "nonsense", TRUSTED, &[("tenantId", "nonsense")])).await;
    assert_has(&message, &["AADSTS900023:", "\"nonsense\"", "az account show"].map(|p| p.trim_matches('"')));
    let disabled = federated(&stage, "default", "web");
    entra.set_disabled(&disabled.client_id, true).unwrap();
    let message =
        refused(&stage, &call(&stage, "disabled", "web", &[("clientID", &disabled.client_id)])).await;
    assert_has(&message, &["AADSTS7000112:", &disabled.client_id, "accountEnabled"]);

    let application = reader(&stage, "application").client_id;
    entra.add_secret(&application, "right-secret", None).unwrap();
    entra.add_secret(&application, "old-secret", Some(i64::try_from(now()).unwrap() - 60)).unwrap();
    let principal = |name, proof: (&str, &str)| {
        with_secrets(
            call(&stage, name, TRUSTED, &[("clientID", "")]),
            &[("clientid", application.as_str()), proof],
        )
    };
    let message = refused(&stage, &principal("wrong", ("clientsecret", "wrong-secret"))).await;
    let who = format!("client id {application} in tenant {}", stage.azure.tenant());
    let common = [who.as_str(), "service account default/workload-identity-sa", "nodePublishSecretRef"];
    assert_has(&message, &["AADSTS7000215:", "ClientSecretCredential", "instead of its value"]);
    assert_has(&message, &common);
    let message = refused(&stage, &principal("old", ("clientsecret", "old-secret"))).await;
    assert_has(&message, &["AADSTS7000222:", "has expired", "az ad app credential reset"]);
    assert_has(&message, &common);
    let (certificate, key) = client_certificate(&stage);
    let pem = format!("{key}{certificate}");
    let message = refused(&stage, &principal("unknown", ("clientcertificate", &pem))).await;
    assert_has(
        &message,
        &["AADSTS700027:", "ClientCertificateCredential", "uploaded to the app registration"],
    );
    let message = refused(&stage, &principal("rubbish", ("clientcertificate", "rubbish"))).await;
    assert_has(&message, &["client certificate in the nodePublishSecretRef secret cannot be used"]);
    let without = call(&stage, "without", TRUSTED, &[("clientID", "")]);
    assert_has(&refused(&stage, &without).await, &["nodePublishSecretRef secret is not set"]);
    assert_log_is_clean(&stage);
}

#[tokio::test]
async fn refusals_that_only_the_real_entra_makes_have_their_cause_and_cure() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    let cases: &[(u32, &[&str])] = &[
        (70_021, &["no federated credential for this issuer, subject and audience", CREATE]),
        (700_229, &["issued by Entra itself"]),
        (500_133, &["signature", "jwks_uri"]),
        (90_061, &["OpenID documents", ".well-known/openid-configuration"]),
        (700_011, &["no application with this client id"]),
        (7_000_218, &["neither a secret nor an assertion"]),
        (70_011, &["scope"]),
        (1_002_012, &["scope", "cloudName"]),
        (500_011, &["resource is not known", "cloudName"]),
        (900_144, &["a field of the token request is missing"]),
        (53_003, &["Conditional Access", "sign-in log"]),
        (530_032, &["Conditional Access"]),
        // One nobody has told us of.
        (999_999, &["https://login.microsoftonline.com/error?code=999999"]),
    ];
    for (code, parts) in cases {
        // An identity of its own, because refusals are remembered for seconds.
        let account = format!("web-{code}");
        let identity = federated(&stage, "default", &account);
        stage.azure.faults().clear();
        stage.azure.faults().inject(FaultRule::refusal(*code));
        let message =
            refused(&stage, &call(&stage, &account, &account, &[("clientID", &identity.client_id)])).await;
        assert_has(&message, parts);
        assert_has(
            &message,
            &[
                &format!("AADSTS{code}:"),
                &format!("for pod default/{account}"),
                &format!("service account default/{account}"),
                &format!("subject \"system:serviceaccount:default:{account}\""),
                "Cure: ",
            ],
        );
    }
}

#[tokio::test]
async fn the_metadata_service_s_refusals_tell_the_cure() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--v=5"]).await;
    let vm = ("useVMManagedIdentity", "true");
    let unassigned = reader(&stage, "unassigned");
    let parameters = [vm, ("userAssignedIdentityID", unassigned.client_id.as_str())];
    let message = refused(&stage, &call(&stage, "unassigned", TRUSTED, &parameters)).await;
    assert_has(
        &message,
        &[
            "Identity not found",
            &unassigned.client_id,
            "not assigned to this VM",
            "az vmss identity assign",
            "for pod default/unassigned",
        ],
    );
    let own = [vm, ("userAssignedIdentityID", "")];
    let second = reader(&stage, "second");
    stage.azure.imds().assign_user(&second.client_id).unwrap();
    let several = call(&stage, "several", TRUSTED, &own);
    let message = refused(&stage, &several).await;
    assert_has(&message, &["Multiple user assigned identities exist", "userAssignedIdentityID"]);
    assert_has(&message, &["system-assigned identity of the VM", "for pod default/several"]);

    stage.azure.imds().unassign(&second.client_id);
    stage.azure.imds().unassign(&stage.vm_identity.client_id);
    let patience = Instant::now() + Duration::from_secs(30);
    let message = loop {
        // The refusal before is remembered for seconds.
        let message = refused(&stage, &several).await;
        if !message.contains("Multiple") {
            break message;
        }
        assert!(Instant::now() < patience, "the old refusal stays");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_has(&message, &["Identity not found", "no system-assigned identity", "az vmss identity assign"]);

    stage.azure.refuse_connections(Service::Imds).await;
    let silent = call(&stage, "silent", TRUSTED, &[vm, ("userAssignedIdentityID", &second.client_id)]);
    let message = refused(&stage, &silent).await;
    assert_has(&message, &[&second.client_id, "for pod default/silent", &stage.azure.imds_url().unwrap()]);
    assert_log_is_clean(&stage);
}
