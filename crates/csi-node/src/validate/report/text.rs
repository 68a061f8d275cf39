//! For people: each finding with its place in the file.

use crate::validate::Outcome;
use crate::validate::finding::{Finding, Severity};
use crate::validate::source::Source;
use std::fmt::Write;

/// Longer lines are shown in part.
const WIDEST: usize = 160;

/// How parts of the report are set off on a terminal.
#[derive(Clone, Copy)]
enum Style {
    Error,
    Warning,
    Note,
    Frame,
    Strong,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Error => "1;31",
            Self::Warning => "1;33",
            Self::Note => "1;36",
            Self::Frame => "1;34",
            Self::Strong => "1",
        }
    }
}

/// The report, coloured or not.
pub fn render(sources: &[Source], outcome: &Outcome, colours: bool) -> String {
    let mut text = String::new();
    for finding in &outcome.findings {
        one(&mut text, sources, finding, colours);
    }
    let _ = writeln!(text, "{}", summary(sources.len(), outcome));
    text
}

fn summary(files: usize, outcome: &Outcome) -> String {
    let counted =
        |count: usize, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
    let looked = format!(
        "{} in {}, {}",
        counted(outcome.classes, "class", "classes"),
        counted(files, "file", "files"),
        counted(outcome.pods, "pod that mounts", "pods that mount"),
    );
    let found: Vec<String> =
        [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Note, "note")]
            .into_iter()
            .map(|(severity, word)| (outcome.count(severity), word))
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| counted(count, word, &format!("{word}s")))
            .collect();
    if found.is_empty() {
        format!("{looked}: nothing to complain about")
    } else {
        format!("{looked}: {}", found.join(", "))
    }
}

fn one(text: &mut String, sources: &[Source], finding: &Finding, colours: bool) {
    let paint = |style: Style, what: &str| {
        if colours { format!("\u{1b}[{}m{what}\u{1b}[0m", style.code()) } else { what.to_owned() }
    };
    let style = match finding.severity {
        Severity::Error => Style::Error,
        Severity::Warning => Style::Warning,
        Severity::Note => Style::Note,
    };
    let Some(source) = sources.get(finding.place.source) else { return };
    let start = source.position(finding.place.span.start);
    let head = paint(style, &format!("{}[{}]", finding.severity.word(), finding.rule.id()));
    let problem = paint(Style::Strong, &format!(": {}", one_line(&finding.problem)));
    let width = start.line.to_string().len();
    let margin = " ".repeat(width);
    let bar = paint(Style::Frame, "|");
    let _ = writeln!(text, "{head}{problem}");
    let _ = writeln!(
        text,
        "{margin}{} {}:{}:{}",
        paint(Style::Frame, "-->"),
        source.name,
        start.line,
        start.column
    );
    let (line, before, marked) = excerpt(source.line(start.line), start.column, finding.place.span.len());
    let _ = writeln!(text, "{margin} {bar}");
    let _ = writeln!(text, "{} {bar} {line}", paint(Style::Frame, &start.line.to_string()));
    let _ = writeln!(text, "{margin} {bar} {before}{}", paint(style, &"^".repeat(marked)));
    let said = |text: &mut String, word: &str, what: &str| {
        let _ = writeln!(text, "{margin} {} {word}: {}", paint(Style::Frame, "="), one_line(what));
    };
    match (finding.object.as_str(), finding.field.as_str()) {
        ("", "") => {}
        (object, "") => said(text, "in", object),
        (object, field) => said(text, "field", &format!("{field} of {object}")),
    }
    if !finding.cure.is_empty() {
        said(text, "help", &finding.cure);
    }
    text.push('\n');
}

/// The line as it can be shown, what stands below it before the mark, and how long the mark is.
fn excerpt(line: &str, column: usize, length: usize) -> (String, String, usize) {
    let chars: Vec<char> = line.chars().collect();
    let mark = (column - 1).min(chars.len());
    let skipped = if mark > WIDEST / 2 && chars.len() > WIDEST { mark - WIDEST / 2 } else { 0 };
    let shown = chars.iter().skip(skipped).take(WIDEST);
    // Control characters could move the mark, or the terminal.
    let line: String = shown.map(|c| if c.is_control() { ' ' } else { *c }).collect();
    let before =
        chars.iter().skip(skipped).take(mark - skipped).map(|c| if wide(*c) { "  " } else { " " }).collect();
    let left = chars.len().saturating_sub(mark).min(WIDEST.saturating_sub(mark - skipped));
    (line, before, length.clamp(1, left.max(1)))
}

/// Characters that take two columns of a terminal.
fn wide(c: char) -> bool {
    matches!(u32::from(c), 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff)
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
