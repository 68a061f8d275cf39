//! Every metric there is: its name as a scraper sees it, its labels, what it means, and where it comes from. The registry,
//! `docs/metrics.md` and the tests of dashboard and alerts are made from this list or checked against it.

use Kind::{Counter, Gauge, Histogram, Info};
use Origin::{Driver, Own, Process, Provider};

/// What kind of metric it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in buckets.
    Histogram,
    /// Always 1; the labels are the message.
    Info,
}

impl Kind {
    /// The word of the exposition format.
    pub fn as_str(self) -> &'static str {
        match self {
            Counter => "counter",
            Gauge => "gauge",
            Histogram => "histogram",
            Info => "info",
        }
    }
}

/// Whose name a metric has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The Secrets Store CSI Driver's.
    Driver,
    /// Its Azure provider's.
    Provider,
    /// This driver's own.
    Own,
    /// That of every program that Prometheus scrapes.
    Process,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The name as it is exposed and queried. A histogram's series have `_bucket`, `_sum` and `_count` behind it.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels, those with only one value included.
    pub labels: &'static [&'static str],
    /// Whose name it is.
    pub origin: Origin,
    /// What it says, in one line without a full stop.
    pub help: &'static str,
}

/// Declares the entries, and the list of all of them in the same order.
macro_rules! catalogue {
    ($($constant:ident = $origin:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Entry =
                Entry { name: $name, kind: $kind, labels: &[$($label),*], origin: $origin, help: $help };
        )*

        /// All metrics, in the order of the documentation.
        pub const ALL: &[Entry] = &[$($constant),*];
    };
}

catalogue! {
    NODE_PUBLISH = Driver Counter "node_publish_total" ["provider", "os_type"]
        "Publish calls that ended well, those that found nothing to do included";
    NODE_PUBLISH_ERROR = Driver Counter "node_publish_error_total" ["provider", "error_type", "os_type"]
        "Publish calls that failed, those included whose volume was mounted and kept its content";
    NODE_UNPUBLISH = Driver Counter "node_unpublish_total" ["os_type"]
        "Unpublish calls that ended well";
    NODE_UNPUBLISH_ERROR = Driver Counter "node_unpublish_error_total" ["os_type"]
        "Unpublish calls that failed";
    ROTATION = Driver Counter "rotation_reconcile_total" ["provider", "os_type", "rotated"]
        "Looks at the vault for mounted volumes that ended well; rotated says whether there was new content";
    ROTATION_ERROR = Driver Counter "rotation_reconcile_error_total" ["provider", "error_type", "os_type", "rotated"]
        "Looks at the vault for mounted volumes that failed; the volumes keep their content";
    ROTATION_DURATION = Driver Histogram "rotation_reconcile_duration_sec" ["os_type"]
        "Seconds that looks at the vault for mounted volumes took, where they ended well";
    SYNC_SECRET = Driver Counter "sync_k8s_secret_total" ["provider", "os_type"]
        "Kubernetes Secrets created or brought up to date";
    SYNC_SECRET_DURATION = Driver Histogram "k8s_secret_duration_sec" ["os_type"]
        "Seconds that bringing one Kubernetes Secret up to date took";

    KEYVAULT_REQUEST = Provider Histogram "keyvault_request" ["object_type", "error", "provider", "os_type", "service_name"]
        "Seconds to fetch one object or list of versions from Key Vault, repetitions included; error is a kind of failure, or empty";
    GRPC_REQUEST = Provider Histogram "grpc_request" ["grpc_method", "grpc_code", "provider", "os_type", "service_name"]
        "Seconds from a class to the content of its files, which is what the reference asks its provider for";

    PUBLISH_DURATION = Own Histogram "akv_csi_publish_duration_seconds" ["outcome"]
        "Seconds that publish calls took, by how they ended";
    PUBLISH_FAILURES = Own Counter "akv_csi_publish_failures_total" ["cause", "volume"]
        "Publish calls that failed, by what stood in the way; volume is kept where a mounted one keeps its content, else none";
    VOLUMES = Own Gauge "akv_csi_volumes" ["state"]
        "Mounted volumes this process has been called for: current, stale (content stands in for an answer), kept (the last look failed) or overdue (the kubelet has not called for three intervals)";
    OLDEST_CONTENT = Own Gauge "akv_csi_oldest_content_age_seconds" []
        "Seconds since the vault was last asked for the oldest part of any mounted volume";

    CACHE_LOOKUPS = Own Counter "akv_csi_cache_lookups_total" ["outcome"]
        "Values looked for in the cache: hit, joined (a request under way was shared), miss (the vault was asked) or spared (it failed a moment ago)";
    STALE_SERVED = Own Counter "akv_csi_stale_values_served_total" []
        "Values served although the vault did not answer, because they were not older than allowed";
    VAULT_RESPONSES = Own Counter "akv_csi_vault_responses_total" ["status"]
        "Requests sent to vaults, by HTTP status; none without an answer";
    VAULT_THROTTLED = Own Counter "akv_csi_vault_throttled_total" ["vault"]
        "Answers by which a vault asked to slow down";
    VAULT_PAUSE = Own Gauge "akv_csi_vault_pause_seconds" ["vault"]
        "Seconds until a vault that asked to slow down is asked again";

    TOKEN_REQUESTS = Own Counter "akv_csi_token_requests_total" ["outcome"]
        "Token requests to Entra, the VM's metadata service or the token proxy, renewals included: ok or failed";
    TOKENS_SERVED = Own Counter "akv_csi_tokens_served_total" []
        "Tokens handed out without a request";
    TOKEN_IDENTITIES = Own Gauge "akv_csi_token_identities" []
        "Identities whose tokens are kept";
    TOKEN_OLDEST = Own Gauge "akv_csi_oldest_token_age_seconds" []
        "Seconds since the oldest token in use was received";

    SYNC_SECRET_FAILURES = Own Counter "akv_csi_sync_secret_failures_total" []
        "Kubernetes Secrets that could not be brought up to date";
    SECRET_CONFLICTS = Own Counter "akv_csi_secret_conflicts_total" ["class", "other"]
        "Kubernetes Secrets that were left alone because another SecretProviderClass writes them too, with both classes' names";
    POD_STATUS = Own Counter "akv_csi_pod_status_total" ["outcome"]
        "SecretProviderClassPodStatus objects looked after: written, or unchanged where they said what they should";
    FOLLOW_UPS = Own Gauge "akv_csi_follow_ups_pending" []
        "Volumes that the cluster has not been told all about: their status objects or Secrets are still to be written";
    FOLLOW_UP_FAILURES = Own Counter "akv_csi_follow_up_failures_total" []
        "Tries to tell the cluster about a volume that failed";
    EVENTS_DROPPED = Own Counter "akv_csi_events_dropped_total" []
        "Events on pods that were not told: there were too many, or the API server did not take them";

    SPANS = Own Counter "akv_csi_spans_total" ["outcome"]
        "Spans for a collector of traces: exported, or dropped because there were too many or the collector did not take them";
    BUILD = Own Info "akv_csi_build_info" ["version"]
        "The version that runs";
    PROCESS_CPU = Process Counter "process_cpu_seconds_total" []
        "Seconds of CPU time, user and system";
    PROCESS_RSS = Process Gauge "process_resident_memory_bytes" []
        "Resident memory";
    PROCESS_VIRTUAL = Process Gauge "process_virtual_memory_bytes" []
        "Virtual memory";
    PROCESS_FDS = Process Gauge "process_open_fds" []
        "Open file descriptors";
    PROCESS_MAX_FDS = Process Gauge "process_max_fds" []
        "File descriptors that may be open at once";
    PROCESS_START = Process Gauge "process_start_time_seconds" []
        "When the process started, in seconds since 1970";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut names: Vec<_> = ALL.iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len(), "a name is there twice");
        for entry in ALL {
            assert_eq!(entry.name.ends_with("_total"), entry.kind == Counter, "{}", entry.name);
            assert_eq!(entry.name.ends_with("_info"), entry.kind == Info, "{}", entry.name);
            assert_eq!(entry.name.starts_with("akv_csi_"), entry.origin == Own, "{}", entry.name);
            assert!(!entry.help.ends_with('.') && !entry.help.contains('\n'), "{}", entry.name);
        }
    }
}
