//! What the cluster learns of a mount: status objects, synced Secrets, events. Standalone, there is nobody to tell.

use crate::class::Class;
use crate::csi::request::{Pod, PublishRequest};
use crate::events::{Events, Reason};
use crate::upkeep::{Upkeep, Volume};
use crate::volume::TargetPath;
use std::sync::Arc;
use vault::ObjectVersion;

/// The cluster around this node, if there is one.
#[derive(Clone)]
pub enum Reporting {
    /// No API server: classes come from files, and nothing is written anywhere.
    Standalone,
    /// An API server that is told what happens.
    ApiServer {
        /// Status objects and synced Secrets of mounted volumes.
        upkeep: Upkeep,
        /// Events on pods.
        events: Events,
    },
}

/// How a volume came to show what it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It was mounted just now.
    Mounted,
    /// Its content was replaced just now.
    Rotated,
    /// It was looked after, and nothing had to be done.
    Unchanged,
}

impl Reporting {
    /// A volume shows what its class asks for. Returns when the cluster has been told, or soon: what cannot be told now is
    /// told later, as long as the volume is there.
    pub async fn published(
        &self,
        request: &Arc<PublishRequest>,
        class: &Class,
        versions: &[ObjectVersion],
        shown: Shown,
    ) {
        let Self::ApiServer { upkeep, events } = self else { return };
        if shown == Shown::Rotated {
            let text = format!(
                "successfully rotated mounted contents for spc {}/{}",
                request.pod.namespace, request.class
            );
            events.tell(&request.pod, Reason::MountRotationComplete, &text);
        }
        let volume = Volume {
            request: Arc::clone(request),
            class: Some(class.clone()),
            versions: Some(versions.into()),
        };
        upkeep.published(volume, shown).await;
    }

    /// A volume is mounted, and nobody looked at its content.
    pub fn still_there(&self, request: &PublishRequest) {
        if let Self::ApiServer { upkeep, .. } = self {
            upkeep.still_there(request);
        }
    }

    /// A volume could not be mounted.
    pub fn not_mounted(&self, pod: &Pod, error: &dyn std::error::Error) {
        if let Self::ApiServer { events, .. } = self {
            events.tell(pod, Reason::FailedToMount, &error.to_string());
        }
    }

    /// A mounted volume could not be looked after, and keeps what it shows.
    pub fn kept(&self, request: &PublishRequest, error: &dyn std::error::Error) {
        if let Self::ApiServer { events, .. } = self {
            let text = format!(
                "failed to rotate mounted contents for spc {}/{}, err: {error}",
                request.pod.namespace, request.class
            );
            events.tell(&request.pod, Reason::MountRotationFailed, &text);
            self.still_there(request);
        }
    }

    /// Older values stand in for some that could not be had; the text says why.
    pub fn stood_in(&self, request: &PublishRequest, text: &str) {
        if let Self::ApiServer { events, .. } = self {
            let class = format!("{}/{}", request.pod.namespace, request.class);
            events.tell(&request.pod, Reason::MountRotationFailed, &format!("spc {class}: {text}"));
        }
    }

    /// A volume is gone.
    pub fn unpublished(&self, target: &TargetPath) {
        if let Self::ApiServer { upkeep, .. } = self {
            upkeep.forget(target);
        }
    }
}
