//! Who learns what came of a call: the cluster around the node, Prometheus, and the operator who asks for the status. Nobody
//! here has a say in it.

use super::fetch::Source;
use super::{AZURE, Mounted, Outcome};
use crate::csi::request::PublishRequest;
use crate::error::PublishError;
use crate::metrics::{Metrics, volumes::Look};
use crate::reporting::{Reporting, Shown};
use crate::status::{Content, IdentityKind, Ledger, Working};
use crate::volume::TargetPath;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use vault::Credential;

/// All who are told.
pub(super) struct Witnesses {
    /// The cluster: status objects, synced Secrets, events.
    pub reporting: Reporting,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What an operator is shown.
    pub ledger: Arc<Ledger>,
    /// Whether mounted volumes are looked after.
    pub rotation: bool,
}

impl Witnesses {
    /// A call begins. It is at work until the answer is dropped.
    pub fn began(&self, request: &PublishRequest) -> Working {
        self.ledger.begin(request)
    }

    /// A volume is mounted, and it is not yet time to look at its source.
    pub fn fresh(&self, request: &PublishRequest, provider: &str, took: Duration) {
        self.reporting.still_there(request);
        self.metrics.calls.published(provider, Outcome::Fresh, took);
        self.ledger.saw(&request.target, true);
    }

    /// A call of the kubelet brought a volume up to date. Returns when the cluster knows, or will.
    pub async fn published(&self, mounted: &Mounted, outcome: Outcome, took: Duration) {
        self.looked(mounted, outcome);
        self.report(mounted, outcome).await;
        self.metrics.calls.published(mounted.source.provider(), outcome, took);
        let request = &mounted.request;
        tracing::info!(
            pod = %request.pod, class = %request.class, target = %request.target, outcome = ?outcome,
            identity = mounted.source.identity().map(tracing::field::display),
            objects = mounted.versions.len(), requests = mounted.requests, stale = !mounted.stale.is_empty(),
            duration_ms = took.as_millis(), "published"
        );
    }

    /// A look on demand found out what a volume has to show.
    pub async fn refreshed(&self, mounted: &Mounted, outcome: Outcome, took: Duration) {
        self.looked(mounted, outcome);
        self.metrics.calls.looked(mounted.source.provider(), outcome == Outcome::Rotated, took);
        if outcome == Outcome::Rotated {
            self.report(mounted, outcome).await;
        }
    }

    /// A look on demand failed.
    pub fn refresh_failed(&self, target: &TargetPath, error: &PublishError) {
        self.metrics.calls.look_failed(error);
        self.metrics.volumes.kept(target);
        self.ledger.failed(target, error);
    }

    /// A mounted volume could not be brought up to date, and the call is OK.
    pub fn kept(&self, request: &PublishRequest, error: &PublishError, took: Duration) {
        let target = &request.target;
        self.metrics.calls.publish_kept(error, took);
        self.metrics.volumes.kept(target);
        self.ledger.saw(target, true);
        self.ledger.failed(target, error);
        self.reporting.kept(request, error);
        tracing::error!(
            pod = %request.pod, class = %request.class, target = %target, error = %error,
            "keeping the volume's content: it could not be brought up to date"
        );
    }

    /// A volume could not be mounted.
    pub fn not_mounted(&self, request: &PublishRequest, error: &PublishError, took: Duration) {
        self.reporting.not_mounted(&request.pod, error);
        self.metrics.volumes.gone(&request.target);
        self.ledger.saw(&request.target, false);
        tracing::error!(
            pod = %request.pod, class = %request.class, target = %request.target, error = %error,
            duration_ms = took.as_millis(), "publish failed"
        );
    }

    /// A publish call ended with an error, whatever is mounted.
    pub fn refused(&self, target: &TargetPath, error: &PublishError, took: Duration) {
        self.metrics.calls.publish_failed(error, took);
        self.ledger.failed(target, error);
    }

    /// A volume is about to be unmounted.
    pub fn leaving(&self, target: &TargetPath) {
        self.reporting.unpublished(target);
        self.metrics.volumes.gone(target);
    }

    /// A volume is gone.
    pub fn gone(&self, target: &TargetPath) {
        self.ledger.forget(target);
        tracing::info!(target = %target, "unpublished");
    }

    /// The source was looked at, or older values stand in for it.
    fn looked(&self, mounted: &Mounted, outcome: Outcome) {
        let target = &mounted.request.target;
        let stale = !mounted.stale.is_empty();
        if let Some(checked) = mounted.checked {
            let interval = self.rotation.then_some(mounted.interval);
            self.metrics.volumes.looked(target, Look { checked, interval, stale });
        }
        let changed = matches!(outcome, Outcome::Mounted | Outcome::Rotated);
        self.ledger.succeeded(target, mounted.content(), changed);
        if stale {
            let text = format!("older values stand in: {}", mounted.stale.join(". "));
            self.ledger.failed(target, &text);
            self.reporting.stood_in(&mounted.request, &text);
        }
    }

    async fn report(&self, mounted: &Mounted, outcome: Outcome) {
        let shown = match outcome {
            Outcome::Mounted => Shown::Mounted,
            Outcome::Rotated => Shown::Rotated,
            Outcome::Unchanged | Outcome::Fresh | Outcome::Kept => Shown::Unchanged,
        };
        self.reporting.published(&mounted.request, &mounted.class, &mounted.versions, shown).await;
    }
}

impl Mounted {
    /// What is told of it. Something asked for a moment ago counts as of now.
    fn content(&self) -> Content {
        let (provider, identity, as_whom, vault) = match &self.source {
            Source::KeyVault { held, vault, .. } => (
                AZURE,
                Some(IdentityKind::from(&held.identity)),
                Some(held.credential.describe()),
                Some(vault.clone()),
            ),
            Source::Provider(name) => (name.as_str(), None, None, None),
        };
        Content {
            provider: provider.to_owned(),
            identity,
            as_whom,
            vault,
            versions: Arc::clone(&self.versions),
            checked: self.checked.unwrap_or_else(Instant::now),
            interval: self.interval,
        }
    }
}
