//! The Kubernetes objects in the sources.

use super::finding::{Finding, Place, Rule, Severity};
use super::source::Source;
use super::view::View;
use crate::manifests;
use std::fmt;

/// One object.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Index of the source it is in.
    pub source: usize,
    /// The object.
    pub root: View,
    /// Path to it in its document: empty, or `items[0].` in a list.
    pub prefix: String,
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.name`, or `metadata.generateName`.
    pub name: String,
    /// `metadata.namespace`; `None` where whoever applies the object says it.
    pub namespace: Option<String>,
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "without a name" } else { &self.name };
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{name}", self.kind),
            None => write!(f, "{} {name}", self.kind),
        }
    }
}

impl Manifest {
    /// Something found at a path of this object.
    pub fn finding(
        &self,
        rule: Rule,
        path: &str,
        problem: impl Into<String>,
        cure: impl Into<String>,
    ) -> Finding {
        let span = self.root.spot(path).span;
        Finding {
            rule,
            severity: rule.severity(),
            place: Place { source: self.source, span },
            object: self.to_string(),
            field: format!("{}{path}", self.prefix),
            problem: problem.into(),
            cure: cure.into(),
        }
    }

    /// Whether this is of a kind of an API group; the version does not matter.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        let own = self.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        own == group && self.kind == kind
    }

    /// Whether two objects can be in one namespace. One that says none can be in any.
    pub fn shares_namespace(&self, other: &Self) -> bool {
        match (&self.namespace, &other.namespace) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        }
    }
}

/// The objects of all sources, and what is no YAML among them.
pub fn read(sources: &[Source]) -> (Vec<Manifest>, Vec<Finding>) {
    let (mut manifests, mut findings) = (Vec::new(), Vec::new());
    for (index, source) in sources.iter().enumerate() {
        let (mut counted, mut begins) = (0, 0);
        for (offset, document) in manifests::documents(&source.text) {
            begins += source.text.get(counted..offset).map_or(0, |between| between.chars().count());
            counted = offset;
            match View::read(document, begins) {
                Ok(Some(root)) => {
                    duplicates(index, &root, &mut findings);
                    add(index, root, String::new(), &mut manifests);
                }
                Ok(None) => {}
                Err((error, place)) => {
                    let place = place.unwrap_or(begins);
                    findings.extend(not_yaml(index, source, document, place, &error.to_string()));
                }
            }
        }
    }
    (manifests, findings)
}

fn add(source: usize, root: View, prefix: String, manifests: &mut Vec<Manifest>) {
    let (api_version, kind) = (root.text_of("apiVersion").to_owned(), root.text_of("kind").to_owned());
    if kind.is_empty() {
        return;
    }
    if kind.ends_with("List")
        && let Some(items) = root.get("items")
    {
        for (index, item) in items.items().enumerate() {
            add(source, item, format!("{prefix}items[{index}]."), manifests);
        }
        return;
    }
    let metadata = root.get("metadata");
    let of = |key| metadata.as_ref().map(|metadata| metadata.text_of(key)).filter(|text| !text.is_empty());
    let name = of("name").or(of("generateName")).unwrap_or_default().to_owned();
    let namespace = of("namespace").map(str::to_owned);
    manifests.push(Manifest { source, root, prefix, api_version, kind, name, namespace });
}

/// A document that cannot be read. In a folder there may be anything, so there it counts only if it may be about our volumes.
fn not_yaml(index: usize, source: &Source, document: &str, place: usize, problem: &str) -> Option<Finding> {
    let ours = document.contains("secrets-store.csi");
    if !source.named && !ours {
        return None;
    }
    let cure = if document.contains("{{") {
        "this looks like a template: render it first, for example `helm template CHART | akv-csi validate -`"
    } else {
        "correct the YAML"
    };
    Some(Finding {
        rule: Rule::Yaml,
        severity: Severity::Error,
        place: Place { source: index, span: place..place },
        object: String::new(),
        field: String::new(),
        problem: problem.to_owned(),
        cure: cure.to_owned(),
    })
}

/// Keys that are written twice in a mapping, in documents of the kinds that are looked at.
fn duplicates(source: usize, root: &View, findings: &mut Vec<Finding>) {
    let mut todo = vec![(root.clone(), String::new())];
    while let Some((view, path)) = todo.pop() {
        let mut seen = std::collections::HashSet::new();
        for (key, value) in view.entries() {
            let Some(name) = key.text().map(str::to_owned) else { continue };
            let path = super::view::below(&path, &name);
            if !seen.insert(name.clone()) {
                findings.push(Finding {
                    rule: Rule::DuplicateKey,
                    severity: Rule::DuplicateKey.severity(),
                    place: Place { source, span: key.span() },
                    object: root.text_of("kind").to_owned(),
                    field: path.clone(),
                    problem: format!("{name} is written twice, and only the last one counts"),
                    cure: "remove one of them".to_owned(),
                });
            }
            todo.push((value, path));
        }
        for (index, item) in view.items().enumerate() {
            todo.push((item, format!("{path}[{index}]")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Vec<String>, Vec<Finding>) {
        let (manifests, findings) = read(&[Source::new("a.yaml", true, text)]);
        (manifests.iter().map(ToString::to_string).collect(), findings)
    }

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let (names, findings) = of(
            "# head\n---\nkind: A\nmetadata: {name: x, namespace: n}\n---\n---\nkind: List\nitems:\n- kind: B\n- kind: PodList\n  items: [{kind: Pod, metadata: {generateName: p-}}]\n--- # c\na: b\n",
        );
        assert_eq!(names, ["A n/x", "B without a name", "Pod p-"]);
        assert!(findings.is_empty(), "{findings:?}");
    }

    #[test]
    fn a_broken_document_is_told_with_its_place_and_hides_no_other() {
        let source = Source::new("a.yaml", true, "kind: A\n---\nkind: B\nx: [a\n---\nkind: C\n");
        let (manifests, findings) = read(std::slice::from_ref(&source));
        assert_eq!(manifests.len(), 2);
        let position = source.position(findings[0].place.span.start);
        assert!((3..=5).contains(&position.line), "{position:?} {findings:?}");
        let (_, findings) = of("kind: A\nspec:\n  {{- if .Values.x }}\n  a: b\n  {{- end }}\n");
        assert!(findings[0].cure.contains("helm template"), "{findings:?}");
    }

    #[test]
    fn a_key_written_twice_is_seen() {
        let (_, findings) = of("kind: A\nspec:\n  a: 1\n  b: 2\n  a: 3\n");
        assert_eq!((findings.len(), findings[0].field.as_str()), (1, "spec.a"));
    }
}
