//! How often Entra and IMDS are asked.

use super::*;

#[tokio::test]
async fn a_hundred_mounts_of_one_identity_ask_once_and_a_hundred_identities_each_once() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--mount-freshness=0s"]).await;
    deploy(&stage, "kv", &[]);
    deploy(&stage, "vm", &[("useVMManagedIdentity", "true")]);

    let one: Vec<_> = (0..100).map(|n| Arc::new(Call::new(&stage, &format!("one-{n}"), "kv"))).collect();
    all_at_once(&stage, &one).await;
    let counters = stage.azure.counters();
    assert_eq!(counters.endpoint("entra.token"), 1);
    assert_eq!(counters.tokens_for(&stage.workload_identity.client_id), 1);

    let many: Vec<_> = (0..100)
        .map(|n| {
            let account = format!("web-{n}");
            let client_id = federated(&stage, "default", &account).client_id;
            let call = Call::of(&stage, "default", &account, &account, "kv");
            (client_id.clone(), Arc::new(call.with_attribute("clientID", &client_id)))
        })
        .collect();
    stage.azure.telemetry().reset();
    let (ids, calls): (Vec<_>, Vec<_>) = many.into_iter().unzip();
    all_at_once(&stage, &calls).await;
    let counters = stage.azure.counters();
    assert_eq!(counters.endpoint("entra.token"), 100);
    assert!(ids.iter().all(|id| counters.tokens_for(id) == 1), "{:?}", counters.tokens);

    // The same for the VM's: one for pods of all namespaces and service accounts, under the limits of IMDS.
    stage.azure.imds().set_concurrency_limit(Some(5));
    stage.azure.faults().set_latency(Service::Imds, Duration::from_millis(50));
    let vm = |n: usize, client_id: &str| {
        let call = Call::of(&stage, "default", &format!("vm-{n}"), &format!("web-{n}"), "vm");
        Arc::new(call.with_attribute("userAssignedIdentityID", client_id))
    };
    let calls: Vec<_> = (0..100).map(|n| vm(n, &stage.vm_identity.client_id)).collect();
    all_at_once(&stage, &calls).await;
    assert_eq!(stage.azure.counters().endpoint("imds.token"), 1);
    let ids: Vec<_> = (0..100).map(|n| reader(&stage, &format!("vm-{n}")).client_id).collect();
    for id in &ids {
        stage.azure.imds().assign_user(id).unwrap();
    }
    stage.azure.telemetry().reset();
    let calls: Vec<_> = ids.iter().zip(100..).map(|(id, n)| vm(n, id)).collect();
    all_at_once(&stage, &calls).await;
    let counters = stage.azure.counters();
    assert_eq!(counters.endpoint("imds.token"), 100);
    assert!(ids.iter().all(|id| counters.tokens_for(id) == 1), "{:?}", counters.tokens);
    assert_eq!((counters.peak("imds"), counters.status("imds", 429)), (5, 0));
}

#[tokio::test]
async fn after_expiry_one_refresh_serves_all() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--mount-freshness=0s"]).await;
    deploy(&stage, "kv", &[]);
    let lifetime = Duration::from_secs(3);
    stage.azure.entra().set_token_lifetime(3);
    mounts(&stage, &Call::new(&stage, "first", "kv")).await;
    stage.azure.entra().set_token_lifetime(3600);
    // Tokens end by the clock, and nothing else tells of it.
    tokio::time::sleep(lifetime).await;
    let calls: Vec<_> = (0..100).map(|n| Arc::new(Call::new(&stage, &format!("web-{n}"), "kv"))).collect();
    all_at_once(&stage, &calls).await;
    assert_eq!(stage.azure.counters().endpoint("entra.token"), 2);
    assert_eq!(
        stage.azure.counters().status("vault", 401),
        stage.azure.counters().endpoint("vault.challenge")
    );
}

#[tokio::test]
async fn no_mount_waits_for_a_refresh_while_the_old_token_is_valid() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--mount-freshness=0s"]).await;
    deploy(&stage, "kv", &[]);
    // Looked after in its last fifth, four seconds.
    stage.azure.entra().set_token_lifetime(20);
    let start = Instant::now();
    mounts(&stage, &Call::new(&stage, "first", "kv")).await;
    stage.azure.entra().set_token_lifetime(3600);
    stage.azure.faults().inject(FaultRule::new(Service::Entra, Fault::Hang));
    let mut number = 0;
    while stage.azure.counters().endpoint("entra.token") == 1 {
        number += 1;
        mounts(&stage, &Call::new(&stage, &format!("before-{number}"), "kv")).await;
        assert!(start.elapsed() < Duration::from_secs(20), "no refresh was begun while the token was valid");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The refresh hangs; a mount that waited for it would hang too.
    let calls: Vec<_> = (0..10).map(|n| Arc::new(Call::new(&stage, &format!("web-{n}"), "kv"))).collect();
    all_at_once(&stage, &calls).await;
    let counters = stage.azure.counters();
    assert_eq!(counters.endpoint("entra.token"), 2, "one refresh, for all of them");
    assert_eq!(
        counters.tokens_for(&stage.workload_identity.client_id),
        1,
        "the refresh has not been answered"
    );
    stage.azure.faults().clear();
    while start.elapsed() < Duration::from_secs(21) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    mounts(&stage, &Call::new(&stage, "last", "kv")).await;
    assert_eq!(stage.azure.counters().tokens_for(&stage.workload_identity.client_id), 2);
}
