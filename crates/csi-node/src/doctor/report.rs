//! The report: lines while it is being made, a sum at the end.

use super::finding::{Finding, Verdict};
use crate::build_info::VERSION;
use crate::cli::Terminal;
use crate::cli::terminal::Tone;
use serde::Serialize;

/// Columns before a finding's text: the verdict and the check's name.
const MARGIN: usize = 24;

/// Everything that was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// Name of the machine.
    pub host: String,
    /// Whether nothing failed.
    pub healthy: bool,
    /// Line by line.
    pub findings: Vec<Finding>,
}

impl Report {
    /// A report of these findings.
    pub fn new(findings: Vec<Finding>) -> Self {
        Self {
            version: VERSION,
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            healthy: findings.iter().all(|finding| finding.verdict != Verdict::Failed),
            findings,
        }
    }

    /// `17 checks: 15 ok, 1 failed, 1 skipped`
    pub fn sum(&self, terminal: &Terminal) -> String {
        let count = |verdict| self.findings.iter().filter(|finding| finding.verdict == verdict).count();
        let parts: Vec<String> = [
            (Verdict::Ok, "ok", Tone::Good),
            (Verdict::Warning, "to look at", Tone::Warning),
            (Verdict::Failed, "failed", Tone::Bad),
            (Verdict::Skipped, "skipped", Tone::Quiet),
        ]
        .into_iter()
        .filter(|(verdict, _, _)| count(*verdict) > 0)
        .map(|(verdict, name, tone)| terminal.paint(tone, &format!("{} {name}", count(verdict))))
        .collect();
        format!("{} findings: {}", self.findings.len(), parts.join(", "))
    }
}

/// One finding for people: a line, and one for its cure.
pub fn line(finding: &Finding, terminal: &Terminal) -> String {
    let (word, tone) = match finding.verdict {
        Verdict::Ok => ("ok", Tone::Good),
        Verdict::Warning => ("look", Tone::Warning),
        Verdict::Failed => ("FAILED", Tone::Bad),
        Verdict::Skipped => ("skipped", Tone::Quiet),
    };
    let name = finding.check.to_string();
    let head = format!("{}{}", terminal.paint(tone, word), " ".repeat(9_usize.saturating_sub(word.len())));
    let mut out = format!("{head}{name:<width$}", width = MARGIN - 9);
    out.push_str(&terminal.wrap(&one_line(&finding.text), MARGIN, MARGIN));
    if let Some(cure) = &finding.cure {
        out.push('\n');
        out.push_str(&" ".repeat(MARGIN));
        let text = format!("cure: {}", one_line(cure));
        out.push_str(&terminal.wrap(&text, MARGIN, MARGIN));
    }
    out
}

/// What services say may span lines.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Check;
    use super::*;

    #[test]
    fn a_line_for_the_finding_and_one_for_the_cure() {
        let plain = Terminal { width: None, colour: false };
        let failed = Finding::failed(Check::Registration, "the kubelet\r\nsays no", "look at its log");
        let expected =
            "FAILED   registration   the kubelet says no\n                        cure: look at its log";
        assert_eq!(line(&failed, &plain), expected);
        let report = Report::new(vec![failed, Finding::ok(Check::Mount, "fine")]);
        assert!(!report.healthy);
        assert_eq!(report.sum(&plain), "2 findings: 1 ok, 1 failed");
    }
}
