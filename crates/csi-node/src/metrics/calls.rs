//! What became of the kubelet's calls.

use super::catalogue::{
    GRPC_REQUEST, NODE_PUBLISH, NODE_PUBLISH_ERROR, NODE_UNPUBLISH, NODE_UNPUBLISH_ERROR, PUBLISH_DURATION,
    PUBLISH_FAILURES, ROTATION, ROTATION_DURATION, ROTATION_ERROR,
};
use super::labels::{Bounded, Cause, ErrorType, PublishOutcome};
use super::registry::{Registries, SECONDS_OF_DRIVER, SECONDS_OF_PROVIDER, Seconds, seconds};
use crate::driver::{AZURE, Outcome};
use crate::error::{MountError, PublishError};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use std::sync::Arc;
use std::time::Duration;

/// The provider of calls that fail before their class is known.
const UNKNOWN: &str = "unknown";

/// More providers than any cluster has. Their names come from classes, which is from users.
const MOST_PROVIDERS: usize = 16;

/// The reference's name for what is between a class and its content.
const MOUNT: &str = "/v1alpha1.CSIDriverProvider/Mount";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Provider {
    provider: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rotated {
    provider: Arc<str>,
    rotated: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    provider: Arc<str>,
    error_type: ErrorType,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RotationFailed {
    provider: Arc<str>,
    error_type: ErrorType,
    rotated: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: PublishOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    cause: Cause,
    volume: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Grpc {
    grpc_method: &'static str,
    grpc_code: &'static str,
}

/// Counts publish and unpublish calls, and the looks at the vault among them.
#[derive(Debug)]
pub struct Calls {
    providers: Bounded,
    published: Family<Provider, Counter>,
    publish_failed: Family<Failed, Counter>,
    unpublished: Counter,
    unpublish_failed: Counter,
    rotation: Family<Rotated, Counter>,
    rotation_failed: Family<RotationFailed, Counter>,
    rotation_took: Seconds,
    publish_took: Family<Ended, Seconds, fn() -> Seconds>,
    failures: Family<Why, Counter>,
    contents_took: Family<Grpc, Seconds, fn() -> Seconds>,
}

impl Calls {
    pub(super) fn register(to: &mut Registries) -> Self {
        let calls = Self {
            providers: Bounded::new(MOST_PROVIDERS),
            published: to.driver(&NODE_PUBLISH, Family::default()),
            publish_failed: to.driver(&NODE_PUBLISH_ERROR, Family::default()),
            unpublished: to.driver(&NODE_UNPUBLISH, Counter::default()),
            unpublish_failed: to.driver(&NODE_UNPUBLISH_ERROR, Counter::default()),
            rotation: to.driver(&ROTATION, Family::default()),
            rotation_failed: to.driver(&ROTATION_ERROR, Family::default()),
            rotation_took: to.driver(&ROTATION_DURATION, Seconds::new(SECONDS_OF_DRIVER)),
            contents_took: to
                .provider(&GRPC_REQUEST, Family::new_with_constructor(|| Seconds::new(SECONDS_OF_PROVIDER))),
            publish_took: to
                .own(&PUBLISH_DURATION, Family::new_with_constructor(|| Seconds::new(SECONDS_OF_PROVIDER))),
            failures: to.own(&PUBLISH_FAILURES, Family::default()),
        };
        // A series that begins with its first failure hides that failure from `rate` and `increase`.
        let provider = calls.providers.label(AZURE);
        let _ = calls.published.get_or_create(&Provider { provider: Arc::clone(&provider) });
        for rotated in ["true", "false"] {
            let _ = calls.rotation.get_or_create(&Rotated { provider: Arc::clone(&provider), rotated });
        }
        for &error_type in ErrorType::ALL {
            let provider = Arc::clone(&provider);
            let failed = RotationFailed { provider: Arc::clone(&provider), error_type, rotated: "true" };
            let _ = calls.rotation_failed.get_or_create(&failed);
            let _ = calls.publish_failed.get_or_create(&Failed { provider, error_type });
        }
        for &cause in Cause::ALL {
            let _ = calls.failures.get_or_create(&Why { cause, volume: "none" });
            let _ = calls.failures.get_or_create(&Why { cause, volume: "kept" });
        }
        calls
    }

    /// A publish call ended well.
    pub fn published(&self, provider: &str, outcome: Outcome, took: Duration) {
        self.published.get_or_create(&Provider { provider: self.providers.label(provider) }).inc();
        self.publish_took.get_or_create(&Ended { outcome: outcome.into() }).observe(seconds(took));
        match outcome {
            Outcome::Rotated => self.looked(provider, true, took),
            Outcome::Unchanged => self.looked(provider, false, took),
            // An older value stands in for what the vault did not say.
            Outcome::Kept => self.count_failed_look(self.providers.label(provider), ErrorType::Provider),
            Outcome::Mounted | Outcome::Fresh => {}
        }
    }

    /// The vault was looked at for a mounted volume, and had new content or not.
    pub fn looked(&self, provider: &str, rotated: bool, took: Duration) {
        let rotated = if rotated { "true" } else { "false" };
        self.rotation.get_or_create(&Rotated { provider: self.providers.label(provider), rotated }).inc();
        self.rotation_took.observe(seconds(took));
    }

    /// A publish call failed, and nothing is mounted.
    pub fn publish_failed(&self, error: &PublishError, took: Duration) {
        self.count_failure(error, "none");
        self.publish_took.get_or_create(&Ended { outcome: PublishOutcome::Failed }).observe(seconds(took));
    }

    /// A look at the vault for a mounted volume failed, and the volume keeps its content.
    pub fn publish_kept(&self, error: &PublishError, took: Duration) {
        self.count_failure(error, "kept");
        self.publish_took.get_or_create(&Ended { outcome: PublishOutcome::Kept }).observe(seconds(took));
        self.look_failed(error);
    }

    /// A look at the vault for a mounted volume failed.
    pub fn look_failed(&self, error: &PublishError) {
        self.count_failed_look(self.provider_of(error), error.into());
    }

    fn count_failed_look(&self, provider: Arc<str>, error_type: ErrorType) {
        // The reference's label has this value only.
        self.rotation_failed.get_or_create(&RotationFailed { provider, error_type, rotated: "true" }).inc();
    }

    /// The content of a volume was asked for at the provider, and whether it came.
    pub fn contents(&self, came: bool, took: Duration) {
        let grpc = Grpc { grpc_method: MOUNT, grpc_code: if came { "OK" } else { "Unknown" } };
        self.contents_took.get_or_create(&grpc).observe(seconds(took));
    }

    /// An unpublish call ended.
    pub fn unpublished(&self, well: bool) {
        if well {
            self.unpublished.inc()
        } else {
            self.unpublish_failed.inc()
        };
    }

    fn count_failure(&self, error: &PublishError, volume: &'static str) {
        let failed = Failed { provider: self.provider_of(error), error_type: error.into() };
        self.publish_failed.get_or_create(&failed).inc();
        self.failures.get_or_create(&Why { cause: error.into(), volume }).inc();
    }

    fn provider_of(&self, error: &PublishError) -> Arc<str> {
        match error {
            PublishError::Mount { step: MountError::Provider { cause, .. }, .. } => {
                self.providers.label(cause.provider())
            }
            PublishError::Mount { step: MountError::NeedsCall { provider, .. }, .. } => {
                self.providers.label(provider)
            }
            PublishError::Mount { .. } => self.providers.label(AZURE),
            _ => self.providers.label(UNKNOWN),
        }
    }
}
