//! What is shown in the cluster. Each case has namespaces of its own, so that a group's cases can be played at the same time.

mod access;
mod classes;
mod helm;
mod outage;
mod scale;
mod synced;
mod upgrade;
mod volumes;

use crate::cluster::Cluster;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use std::cell::RefCell;
use std::panic::AssertUnwindSafe;

/// One thing to show.
#[allow(missing_debug_implementations, reason = "a name and a function")]
pub struct Case {
    /// What it shows.
    pub name: &'static str,
    /// Shows it, or panics.
    pub play: for<'a> fn(&'a Cluster) -> LocalBoxFuture<'a, ()>,
}

macro_rules! cases {
    ($($name:literal => $play:path),* $(,)?) => {
        vec![$(Case { name: $name, play: |cluster| $play(cluster).boxed_local() }),*]
    };
}

/// Groups of cases: a group's are played at the same time, groups one after another.
pub fn all() -> Vec<Vec<Case>> {
    vec![
        cases![
            "workload identity: kubectl exec shows the secret" => access::workload_identity,
            "a VM's managed identity" => access::managed_identity,
            "a service principal, its secret from nodePublishSecretRef" => access::service_principal,
            "tokens are secrets of the call where the cluster can do that" => access::tokens,
            "the definitions are served, and a class of the old version is mounted" => classes::definitions,
            "a class of the pod's own namespace is taken" => classes::own_namespace,
            "a missing class is told in an event, and taken when it comes" => classes::missing,
            "two classes in one pod" => classes::two_in_one_pod,
            "files for the pod's group" => classes::group,
            "a rotation reaches the file, and so does an added object" => volumes::rotation,
            "the roles that tools look for" => classes::roles,
            "a deleted pod leaves nothing" => volumes::removal,
            "the driver's pods serve their metrics" => volumes::metrics,
            "synced: two Deployments, their Secret, a rotation, the end" => synced::deployments,
            "synced: a class of the pod's own namespace is taken" => synced::own_namespace,
            "synced: a pod of its own with two Secrets" => synced::bare_pod,
            "a pod's status object: made, kept current, gone with the pod" => synced::status,
        ],
        cases!["many unchanged pods: no write, and a request for each object" => scale::unchanged],
        cases!["a new driver takes over mounted volumes" => volumes::driver_restart],
        cases!["without an API server, volumes live on; with it again, everything does" => outage::api_server],
        cases!["helm upgrade, and back: other values, newer definitions, the same mounts" => helm::upgrade],
        cases!["helm uninstall: refused while a pod mounts, then done, then installed again" => helm::removal],
        // From here on, the driver is what the plain manifests make of it.
        cases!["an upgrade from the reference takes over its volumes" => upgrade::from_reference],
        // The last one, because the second node stays.
        cases!["synced: two nodes keep one Secret" => synced::two_nodes],
    ]
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Makes panics tell their text to [`caught`] instead of standard error.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no reason given");
        LAST_PANIC.with(|last| *last.borrow_mut() = format!("{text}\n({place})"));
    }));
}

/// What a future gives, or why it panicked.
///
/// # Errors
/// The panic's text and place.
pub async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(|_| LAST_PANIC.with(RefCell::take))
}
