//! Upstreams that are in trouble: what passes, and what is told.

use super::*;

#[tokio::test]
async fn troubles_of_entra_pass_or_are_told() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    for code in [90_055, 90_024, 90_033, 90_006, 90_090] {
        let account = format!("web-{code}");
        let identity = federated(&stage, "default", &account);
        stage.azure.faults().inject(FaultRule::refusal(code).extent(Extent::Count(1)));
        mounts(&stage, &call(&stage, &account, &account, &[("clientID", &identity.client_id)])).await;
    }
    for (name, fault) in [("status", Fault::Status { code: 503, retry_after: None }), ("reset", Fault::Reset)]
    {
        let identity = federated(&stage, "default", name);
        stage.azure.faults().inject(FaultRule::new(Service::Entra, fault));
        let message = refused(&stage, &call(&stage, name, name, &[("clientID", &identity.client_id)])).await;
        let who = format!("service account default/{name}");
        assert_has(&message, &["from https://login.microsoftonline.com after 5 attempts", &who, "Cure: "]);
        stage.azure.faults().clear();
    }
}

#[tokio::test]
async fn the_metadata_service_s_troubles_pass() {
    if !can_mount() {
        return;
    }
    let after_trouble = async |status: u16, retry_after: Option<u64>| {
        let stage = stage(&[]).await;
        let mut rule = FaultRule::status(Service::Imds, status).extent(Extent::Count(2));
        if let Some(seconds) = retry_after {
            rule = rule.retry_after(RetryAfter::Seconds(seconds));
        }
        stage.azure.faults().inject(rule);
        let id = stage.vm_identity.client_id.clone();
        let parameters = [("useVMManagedIdentity", "true"), ("userAssignedIdentityID", id.as_str())];
        mounts(&stage, &call(&stage, "vm", TRUSTED, &parameters)).await;
        let counters = stage.azure.counters();
        assert_eq!((counters.endpoint("imds.token"), counters.status("imds", status)), (3, 2), "{status}");
    };
    tokio::join!(
        after_trouble(410, None),
        after_trouble(429, Some(1)),
        after_trouble(500, None),
        after_trouble(404, None)
    );
}

#[tokio::test]
async fn a_metadata_service_that_stays_in_trouble_is_told_with_its_last_answer() {
    if !can_mount() {
        return;
    }
    let in_trouble = async |fault: Fault, cause: &str| {
        let stage = stage(&[]).await;
        stage.azure.faults().inject(FaultRule::new(Service::Imds, fault));
        let id = stage.vm_identity.client_id.clone();
        let parameters = [("useVMManagedIdentity", "true"), ("userAssignedIdentityID", id.as_str())];
        let message = refused(&stage, &call(&stage, "vm", TRUSTED, &parameters)).await;
        let from = format!("from {} after 5 attempts", stage.azure.imds_url().unwrap());
        assert_has(&message, &["for pod default/vm", &id, &from, cause, "Cure: "]);
        assert_eq!(stage.azure.counters().endpoint("imds.token"), 5);
    };
    tokio::join!(
        in_trouble(Fault::Status { code: 429, retry_after: None }, "HTTP 429"),
        in_trouble(Fault::Status { code: 500, retry_after: None }, "HTTP 500"),
        in_trouble(Fault::Status { code: 404, retry_after: None }, "HTTP 404"),
        in_trouble(Fault::Reset, "check that this node is an Azure VM")
    );
}

#[tokio::test]
async fn a_token_service_that_outlasts_the_time_for_a_call_is_told_as_the_cause() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--publish-timeout=4s"]).await;
    let (imds, entra) = (stage.azure.imds_url().unwrap(), "https://login.microsoftonline.com".to_owned());
    let gone = || Fault::Status { code: 410, retry_after: None };
    for (name, service, fault, from) in [
        ("gone", Service::Imds, gone(), &imds),
        ("silent", Service::Imds, Fault::Hang, &imds),
        ("entra", Service::Entra, Fault::Hang, &entra),
    ] {
        stage.azure.faults().inject(FaultRule::new(service, fault));
        let identity = federated(&stage, "default", name);
        let parameters: Parameters<'_> = if service == Service::Imds {
            &[("useVMManagedIdentity", "true"), ("userAssignedIdentityID", &identity.client_id)]
        } else {
            &[("clientID", &identity.client_id)]
        };
        let call = call(&stage, name, name, parameters);
        // The driver answers before a kubelet with this deadline would give up.
        let status = call.publish_within(Duration::from_secs(60)).await.unwrap_err();
        stage.azure.faults().clear();
        assert!(call.files().is_empty() && stage.mounts().is_empty());
        assert_has(status.message(), &[&format!("for pod default/{name}"), &identity.client_id, from]);
        let blamed = status.message().contains("check that the node reaches demo-vault");
        assert!(!blamed, "the vault is not to blame: {}", status.message());
    }
}
