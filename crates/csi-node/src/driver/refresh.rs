//! A look at Key Vault between two calls of the kubelet, when somebody asks for it.

use super::fetch::Demand;
use super::{Driver, Outcome};
use crate::csi::request::PublishRequest;
use crate::error::PublishError;
use crate::volume::{Change, State, TargetPath, Volumes};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};
use trace::{Kind, Span};
use tracing::Instrument;

/// Which mounted volumes are meant; what is not given picks all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Namespace of the pods.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Name of the pod.
    #[serde(default)]
    pub pod: Option<String>,
    /// Name of the class.
    #[serde(default)]
    pub class: Option<String>,
}

/// What a refresh did to one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// The pod, as namespace/name.
    pub pod: String,
    /// The class.
    pub class: String,
    /// The target path.
    pub target: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Why the content was kept.
    pub error: Option<String>,
}

impl Selection {
    fn picks(&self, request: &PublishRequest) -> bool {
        let fits =
            |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        fits(&self.namespace, &request.pod.namespace)
            && fits(&self.pod, &request.pod.name)
            && fits(&self.class, &request.class)
    }
}

impl Driver {
    /// Looks at once at Key Vault for the mounted volumes that `wanted` picks, whatever their interval says, as the identity of
    /// the kubelet's last call. Where that cannot be done, the kubelet's next call does it.
    ///
    /// Volumes that this process has not been called for since it started are not known yet and not in the answer.
    pub async fn refresh(self: &Arc<Self>, wanted: &Selection) -> Vec<Refreshed> {
        let mut work = tokio::task::JoinSet::new();
        for target in self.targets.known() {
            let (driver, wanted) = (Arc::clone(self), wanted.clone());
            let mut span = Span::below(&self.traces.begin(None), "refresh", Kind::Internal);
            let log = tracing::info_span!("refresh", trace_id = %span.trace_id());
            let one = async move {
                let Some(done) = span.scope(driver.refresh_one(target, &wanted)).await else {
                    span.discard();
                    return None;
                };
                span.tell("akv_csi.pod", &done.pod);
                span.tell("akv_csi.class", &done.class);
                span.tell("akv_csi.outcome", format_args!("{:?}", done.outcome));
                if let Some(error) = &done.error {
                    span.fail(error);
                }
                Some(done)
            };
            work.spawn(one.instrument(log));
        }
        let mut done: Vec<Refreshed> = work.join_all().await.into_iter().flatten().collect();
        done.sort_by(|a, b| (&a.pod, &a.target).cmp(&(&b.pod, &b.target)));
        done
    }

    async fn refresh_one(self: &Arc<Self>, target: TargetPath, wanted: &Selection) -> Option<Refreshed> {
        let started = Instant::now();
        let deadline = started + self.settings.timeout;
        let mut claim = timeout_at(deadline, self.targets.claim(&target)).await.ok()?;
        let mounted = claim.as_mut()?;
        if !wanted.picks(&mounted.request) {
            return None;
        }
        mounted.checked = None;
        let request = Arc::clone(&mounted.request);
        let demand = Demand::Refresh { source: &mounted.source };
        let result = match self.on_disk(&target, Volumes::state).await {
            Ok(Ok(State::Complete)) => self.bring_up_to_date(&request, &demand, deadline).await,
            // The kubelet's next call repairs it.
            Ok(Ok(_)) => Err(PublishError::Internal {
                target: target.to_string(),
                cause: "it is not mounted".to_owned(),
            }),
            Ok(Err(cause)) => Err(PublishError::Mount { pod: request.pod.clone(), step: cause.into() }),
            Err(error) => Err(error),
        };
        let (outcome, error) = match result {
            Ok((change, mounted)) => {
                let outcome = if change == Change::Unchanged { Outcome::Unchanged } else { Outcome::Rotated };
                self.witnesses.refreshed(&mounted, outcome, started.elapsed()).await;
                *claim = Some(mounted);
                if change == Change::Switched {
                    self.tidy_later(target.clone());
                }
                (outcome, None)
            }
            Err(error) => {
                self.witnesses.refresh_failed(&target, &error);
                (Outcome::Kept, Some(error.to_string()))
            }
        };
        tracing::info!(pod = %request.pod, target = %target, outcome = ?outcome, error, "refreshed on demand");
        Some(Refreshed {
            pod: request.pod.to_string(),
            class: request.class.clone(),
            target: target.to_string(),
            outcome,
            error,
        })
    }
}
