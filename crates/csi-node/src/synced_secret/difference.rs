//! Where a Secret is not as its class wants it, and which of that is to be written. Pure.
//!
//! A node must not undo what another node has just done: while a value rotates, nodes hold different generations of it for
//! a while. So a node writes all it wants when *its* content has changed, and else only repairs what others have
//! changed. Who changed what, the API server itself records (`managedFields`): each write of this driver, from whatever
//! node, is under one name.

use super::MADE_FROM;
use super::desired::Desired;
use super::live::{Change, Live, MetadataChange, Place, Writer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// Why a Secret is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion<'a> {
    /// The volume is new, or its content or class has changed: what it has is news.
    News,
    /// The volume has what it had when it was last synced.
    Check {
        /// When this driver, on whatever node, had written the Secret last, as this node last saw it.
        written: Option<&'a str>,
    },
}

/// One entry that is not as wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference<'a> {
    place: Place,
    key: &'a str,
    /// `None`: it is to go away.
    wanted: Option<&'a str>,
    is_there: bool,
    writer: Writer,
}

/// All entries that are not as wanted: those the class lists, and those it listed once, which the driver's name or the
/// reference's is still on. Entries of others are none of our business.
pub(super) fn differences<'a>(desired: &'a Desired, live: &'a Live) -> Vec<Difference<'a>> {
    let mut found = Vec::new();
    for place in [Place::Data, Place::Labels, Place::Annotations] {
        let wanted: Vec<(&str, &str)> = match place {
            Place::Data => desired.data.iter().map(|(key, value)| (&**key, value.as_str())).collect(),
            Place::Labels => desired.labels.iter().map(|(key, value)| (&**key, &**value)).collect(),
            Place::Annotations => desired.annotations.iter().map(|(key, value)| (&**key, &**value)).collect(),
        };
        let there = live.entries(place);
        for &(key, value) in &wanted {
            let live_value = there.iter().find(|(there, _)| *there == key).map(|(_, value)| *value);
            if live_value != Some(value) {
                let (is_there, writer) = (live_value.is_some(), live.writer(place, key));
                found.push(Difference { place, key, wanted: Some(value), is_there, writer });
            }
        }
        for (key, _) in there {
            let writer = live.writer(place, key);
            if writer != Writer::Other && key != MADE_FROM && !wanted.iter().any(|(wanted, _)| *wanted == key)
            {
                found.push(Difference { place, key, wanted: None, is_there: true, writer });
            }
        }
    }
    found
}

impl Difference<'_> {
    /// Whether this node is to write it.
    pub(super) fn is_due(&self, occasion: Occasion<'_>, live: &Live) -> bool {
        let Occasion::Check { written } = occasion else { return true };
        let rewritten = written.is_some_and(|written| live.metadata.written() != Some(written));
        match (self.is_there, self.writer, self.wanted) {
            (true, Writer::Reference | Writer::Other, _) => true,
            // Another node has put something else there, which is newer than what this one has.
            (true, Writer::Ours, Some(_)) => false,
            // Who took an entry away is not recorded; but if no node of ours has written meanwhile, it was somebody else.
            (false, _, _) | (true, Writer::Ours, None) => !rewritten,
        }
    }
}

/// The write that brings about these differences and adds these owners. The owners there are stay, whoever added them. If
/// the Secret is then all that a class makes it, the same write says so; for that alone nothing is written.
pub(super) fn change<'a>(
    live: &'a Live,
    differences: &[Difference<'a>],
    new_owners: &[&'a OwnerReference],
    made_from: Option<&'a str>,
) -> Change<'a> {
    let mut change = Change {
        metadata: MetadataChange {
            resource_version: &live.metadata.resource_version,
            ..MetadataChange::default()
        },
        ..Change::default()
    };
    for &Difference { place, key, wanted, .. } in differences {
        let map = match place {
            Place::Data => &mut change.data,
            Place::Labels => &mut change.metadata.labels,
            Place::Annotations => &mut change.metadata.annotations,
        };
        map.insert(key, wanted);
    }
    if !new_owners.is_empty() {
        let owners = live.owners().iter().chain(new_owners.iter().copied());
        change.metadata.owner_references = Some(owners.collect());
    }
    if !change.is_empty()
        && let Some(made_from) = made_from
        && !live.entries(Place::Annotations).contains(&(MADE_FROM, made_from))
    {
        change.metadata.annotations.insert(MADE_FROM, Some(made_from));
    }
    change
}

impl Change<'_> {
    /// Whether the content changes; else only labels, annotations or owners do.
    pub(super) fn is_of_content(&self) -> bool {
        !self.data.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        let metadata = &self.metadata;
        self.data.is_empty()
            && metadata.labels.is_empty()
            && metadata.annotations.is_empty()
            && metadata.owner_references.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;
    use zeroize::Zeroizing;

    fn desired(data: &[(&str, &str)]) -> Desired {
        Desired {
            name: "s".into(),
            kind: "Opaque".into(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            data: data.iter().map(|(key, value)| ((*key).into(), Zeroizing::new((*value).into()))).collect(),
        }
    }

    /// A Secret with `data`, each entry written by the manager beside it, ours at the given time.
    fn live(data: &[(&str, &str, &str)], time: &str) -> Live {
        let values: BTreeMap<_, _> = data.iter().map(|(key, value, _)| (*key, *value)).collect();
        let managed: Vec<_> = data
            .iter()
            .map(|(key, _, manager)| {
                json!({"manager": manager, "time": time, "fieldsV1": {"f:data": {".": {}, format!("f:{key}"): {}}}})
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {"resourceVersion": "7", "managedFields": managed}, "type": "Opaque", "data": values,
        }))
        .unwrap()
    }

    /// What would be written.
    fn written(desired: &Desired, live: &Live, occasion: Occasion<'_>) -> serde_json::Value {
        let due: Vec<_> =
            differences(desired, live).into_iter().filter(|one| one.is_due(occasion, live)).collect();
        json!(change(live, &due, &[], Some("kv/1")).data)
    }

    const SAME: Occasion<'static> = Occasion::Check { written: Some("t1") };
    const REWRITTEN: Occasion<'static> = Occasion::Check { written: Some("t0") };
    const UNKNOWN: Occasion<'static> = Occasion::Check { written: None };

    #[test]
    fn news_is_written_whoever_wrote_before() {
        for writer in ["akv-csi", "csi-secrets-store", "kubectl-edit"] {
            let live = live(&[("k", "b2xk", writer), ("same", "eA==", writer)], "t1");
            let desired = desired(&[("k", "bmV3"), ("same", "eA=="), ("more", "eQ==")]);
            assert_eq!(
                written(&desired, &live, Occasion::News),
                json!({"k": "bmV3", "more": "eQ=="}),
                "{writer}"
            );
        }
    }

    #[test]
    fn a_check_leaves_what_another_node_wrote_and_repairs_what_others_did() {
        let desired = desired(&[("k", "bWluZQ==")]);
        for occasion in [SAME, REWRITTEN, UNKNOWN] {
            let theirs = live(&[("k", "bmV3ZXI=", "akv-csi")], "t1");
            assert_eq!(written(&desired, &theirs, occasion), json!({}), "{occasion:?}");
            for other in ["kubectl-edit", "csi-secrets-store"] {
                let theirs = live(&[("k", "b3RoZXI=", other)], "t1");
                assert_eq!(written(&desired, &theirs, occasion), json!({"k": "bWluZQ=="}), "{other}");
            }
        }
    }

    #[test]
    fn an_entry_that_is_gone_comes_back_unless_another_node_may_have_removed_it() {
        let desired = desired(&[("k", "eA=="), ("gone", "eQ==")]);
        let live = live(&[("k", "eA==", "akv-csi")], "t1");
        assert_eq!(written(&desired, &live, SAME), json!({"gone": "eQ=="}));
        assert_eq!(written(&desired, &live, UNKNOWN), json!({"gone": "eQ=="}));
        assert_eq!(written(&desired, &live, REWRITTEN), json!({}));
    }

    #[test]
    fn what_the_class_no_longer_lists_goes_and_what_others_put_there_stays() {
        let desired = desired(&[("k", "eA==")]);
        let live = live(
            &[
                ("k", "eA==", "akv-csi"),
                ("ours", "eA==", "akv-csi"),
                ("theirs", "eA==", "csi-secrets-store"),
                ("hers", "eA==", "kubectl-edit"),
            ],
            "t1",
        );
        assert_eq!(written(&desired, &live, Occasion::News), json!({"ours": null, "theirs": null}));
        assert_eq!(
            written(&desired, &live, REWRITTEN),
            json!({"theirs": null}),
            "another node's class lists it"
        );
    }

    #[test]
    fn owners_are_added_to_those_there_are_and_the_version_looked_at_is_named() {
        let owner = |uid: &str| OwnerReference { uid: uid.into(), ..OwnerReference::default() };
        let mut live = live(&[], "t1");
        live.metadata.owner_references = Some(vec![OwnerReference { controller: Some(true), ..owner("a") }]);
        let new = owner("b");
        assert!(
            change(&live, &[], &[], Some("kv/1")).is_empty(),
            "for the annotation alone nothing is written"
        );
        let change = json!(change(&live, &[], &[&new], Some("kv/1")));
        assert_eq!(change["metadata"]["annotations"][MADE_FROM], "kv/1");
        assert_eq!(change["metadata"]["resourceVersion"], "7");
        let owners = &change["metadata"]["ownerReferences"];
        assert_eq!((&owners[0]["uid"], &owners[0]["controller"]), (&json!("a"), &json!(true)));
        assert_eq!(owners[1]["uid"], "b");
        assert!(change.get("data").is_none());
    }
}
