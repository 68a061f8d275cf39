//! Following the changes of a kind without keeping a list of what there is.

use super::{backoff, code, said};
use kube::api::{Api, DynamicObject, ListParams, ObjectMeta, WatchEvent, WatchParams};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;

/// An API server tells about once a minute that a watch is alive; one that is silent for longer has lost its connection.
const SILENCE: Duration = Duration::from_secs(150);

/// For the two calls that begin a watch.
const BEGIN: Duration = Duration::from_secs(15);

/// The time after which the API server ends a watch in good order, in seconds; below the five minutes it allows.
const LENGTH: u32 = 290;

/// A watch that lasted this long and ended in good order is taken up again at once.
const GOOD_LENGTH: Duration = Duration::from_secs(5);

/// What is followed: all objects of a kind, or those that fit a selector.
pub struct Followed {
    /// The kind, and the namespace if there is one.
    pub api: Api<DynamicObject>,
    /// A label selector.
    pub labels: Option<String>,
    /// A field selector.
    pub fields: Option<String>,
    /// What the log calls it.
    pub what: &'static str,
}

/// What a follower is told.
#[derive(Debug)]
pub enum Change {
    /// From here on every change is told. Whatever was known before may have changed meanwhile.
    Began,
    /// Changes may be missed from here on, until the next [`Change::Began`].
    Lost,
    /// An object is new, or is not what it was.
    Written(Box<ObjectMeta>),
    /// An object is gone.
    Deleted(Box<ObjectMeta>),
}

/// Tells every change from now on, for ever. Objects that stay as they are cost neither memory nor traffic: the watch begins
/// at the collection's present version, which a list of one object's metadata tells, and carries metadata only.
///
/// Needs the RBAC verbs `list` and `watch` on the kind; without them it goes on trying, once a minute.
pub async fn follow(followed: Followed, mut tell: impl FnMut(Change)) {
    let mut version = None;
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let Err(trouble) = watch(&followed, &mut version, &mut tell).await else {
            // In good order: taken up where it ended, nothing is missed.
            if begun.elapsed() < GOOD_LENGTH {
                tokio::time::sleep(backoff(1)).await;
            }
            failures = 0;
            continue;
        };
        if version.take().is_some() {
            tell(Change::Lost);
            failures = 0;
        }
        failures += 1;
        let wait = backoff(failures);
        if failures == 2 {
            // One lost connection is everyday life.
            tracing::warn!(what = followed.what, error = trouble, "cannot follow changes; trying on");
        } else {
            tracing::debug!(what = followed.what, error = trouble, wait_ms = wait.as_millis(), "watch ended");
        }
        tokio::time::sleep(wait).await;
    }
}

/// One watch. `version` is set while nothing is missed.
async fn watch(
    followed: &Followed,
    version: &mut Option<String>,
    tell: &mut impl FnMut(Change),
) -> Result<(), String> {
    let late = |_| "no answer in time".to_owned();
    let failed = |error: kube::Error| match code(&error) {
        403 => format!(
            "{}; the driver's ClusterRole secretproviderclasses-role needs list and watch on them",
            said(&error)
        ),
        _ => said(&error),
    };
    let from = if let Some(version) = version.clone() {
        version
    } else {
        let one = ListParams {
            label_selector: followed.labels.clone(),
            field_selector: followed.fields.clone(),
            limit: Some(1),
            ..ListParams::default()
        };
        let list = timeout(BEGIN, followed.api.list_metadata(&one)).await.map_err(late)?.map_err(failed)?;
        list.metadata.resource_version.ok_or("the API server gives no version of the list")?
    };
    let parameters = WatchParams {
        label_selector: followed.labels.clone(),
        field_selector: followed.fields.clone(),
        timeout: Some(LENGTH),
        ..WatchParams::default()
    };
    let stream = timeout(BEGIN, followed.api.watch_metadata(&parameters, &from)).await.map_err(late)?;
    let mut stream = pin!(stream.map_err(failed)?);
    if version.is_none() {
        *version = Some(from);
        tell(Change::Began);
    }
    while let Some(event) = timeout(SILENCE, stream.next()).await.map_err(|_| "silence".to_owned())? {
        match event.map_err(failed)? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                *version = object.metadata.resource_version.clone().or(version.take());
                tell(Change::Written(Box::new(object.metadata)));
            }
            WatchEvent::Deleted(object) => {
                *version = object.metadata.resource_version.clone().or(version.take());
                tell(Change::Deleted(Box::new(object.metadata)));
            }
            WatchEvent::Bookmark(bookmark) => *version = Some(bookmark.metadata.resource_version),
            WatchEvent::Error(status) => return Err(format!("{} ({})", status.message, status.code)),
        }
    }
    Ok(())
}
