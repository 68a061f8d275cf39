//! SARIF 2.1.0 (OASIS, <https://docs.oasis-open.org/sarif/sarif/v2.1.0/>), which code hosts and editors read.

use crate::validate::Outcome;
use crate::validate::finding::{Finding, Rule};
use crate::validate::source::Source;
use serde_json::{Value, json};
use std::fmt::Write;

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// One run with all rules and findings.
pub fn render(sources: &[Source], outcome: &Outcome) -> String {
    let rules: Vec<Value> = Rule::ALL
        .iter()
        .map(|rule| {
            json!({
                "id": rule.id(),
                "shortDescription": {"text": rule.about()},
                "defaultConfiguration": {"level": rule.severity().word()},
            })
        })
        .collect();
    let results: Vec<Value> =
        outcome.findings.iter().filter_map(|finding| result(sources, finding)).collect();
    let log = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "akv-csi", "version": crate::build_info::VERSION, "rules": rules}},
            // Columns are counted in characters, as in the other reports.
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

fn result(sources: &[Source], finding: &Finding) -> Option<Value> {
    let source = sources.get(finding.place.source)?;
    let (start, end) = (source.position(finding.place.span.start), source.position(finding.place.span.end));
    let mut message = finding.problem.clone();
    if !finding.cure.is_empty() {
        let _ = write!(message, "; {}", finding.cure);
    }
    let mut location = json!({
        "physicalLocation": {
            "artifactLocation": {"uri": uri(&source.name)},
            "region": {
                "startLine": start.line, "startColumn": start.column, "endLine": end.line, "endColumn": end.column,
            },
        },
    });
    if !finding.field.is_empty()
        && let Some(fields) = location.as_object_mut()
    {
        let name = format!("{} {}", finding.object, finding.field);
        fields.insert("logicalLocations".to_owned(), json!([{"fullyQualifiedName": name, "kind": "object"}]));
    }
    let index = Rule::ALL.iter().position(|rule| *rule == finding.rule)?;
    Some(json!({
        "ruleId": finding.rule.id(),
        "ruleIndex": index,
        "level": finding.severity.word(),
        "message": {"text": message},
        "locations": [location],
    }))
}

/// A path as a relative or absolute URI reference (RFC 3986).
fn uri(path: &str) -> String {
    let mut uri = String::with_capacity(path.len());
    for byte in path.strip_prefix("./").unwrap_or(path).bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=@".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_uris() {
        assert_eq!(uri("./deploy/my class.yaml"), "deploy/my%20class.yaml");
        assert_eq!((uri("<stdin>"), uri("/a/ä")), ("%3Cstdin%3E".into(), "/a/%C3%A4".into()));
    }
}
