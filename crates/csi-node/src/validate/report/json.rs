//! For programs.

use crate::validate::Outcome;
use crate::validate::finding::Severity;
use crate::validate::source::Source;
use serde_json::{Value, json};

/// One JSON object: counts and findings, each with file, line and column (from 1, in characters).
pub fn render(sources: &[Source], outcome: &Outcome) -> String {
    let findings: Vec<Value> = outcome
        .findings
        .iter()
        .filter_map(|finding| {
            let source = sources.get(finding.place.source)?;
            let (start, end) =
                (source.position(finding.place.span.start), source.position(finding.place.span.end));
            Some(json!({
                "severity": finding.severity.word(),
                "rule": finding.rule.id(),
                "file": source.name,
                "line": start.line,
                "column": start.column,
                "endLine": end.line,
                "endColumn": end.column,
                "object": finding.object,
                "field": finding.field,
                "problem": finding.problem,
                "cure": finding.cure,
            }))
        })
        .collect();
    let report = json!({
        "files": sources.len(),
        "classes": outcome.classes,
        "pods": outcome.pods,
        "errors": outcome.count(Severity::Error),
        "warnings": outcome.count(Severity::Warning),
        "notes": outcome.count(Severity::Note),
        "findings": findings,
    });
    format!("{report:#}\n")
}
