//! The figures: as a table, as JSON, and whether the counts among them are right.

use crate::Plan;
use crate::sample::Sample;
use serde_json::{Value, json};
use std::fmt::Write;

/// What a figure is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Time.
    Milliseconds,
    /// Memory.
    Mebibytes,
    /// Things.
    Count,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::Count => "",
        }
    }
}

/// One thing that was measured.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What, with its circumstances.
    pub name: String,
    /// In what.
    pub unit: Unit,
    /// The measurements.
    pub sample: Sample,
    /// What the work itself took in the same run, in the same unit.
    pub floor: Option<f64>,
    /// What the median should not exceed.
    pub target: Option<f64>,
    /// What the reference took on another machine.
    pub reference: Option<f64>,
}

impl Figure {
    /// A figure by itself.
    pub fn new(name: impl Into<String>, unit: Unit, sample: Sample) -> Self {
        Self { name: name.into(), unit, sample, floor: None, target: None, reference: None }
    }

    /// The same beside its floor.
    #[must_use]
    pub fn floor(mut self, floor: f64) -> Self {
        self.floor = Some(floor);
        self
    }

    /// The same with a limit for its median.
    #[must_use]
    pub fn target(mut self, target: f64) -> Self {
        self.target = Some(target);
        self
    }

    /// The same beside the reference's.
    #[must_use]
    pub fn reference(mut self, reference: f64) -> Self {
        self.reference = Some(reference);
        self
    }

    fn verdict(&self) -> Option<bool> {
        self.target.map(|target| self.sample.median() <= target)
    }
}

/// What a count has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// This and nothing else.
    Exactly(u64),
    /// This or less.
    AtMost(u64),
}

impl Wanted {
    fn allows(self, found: u64) -> bool {
        match self {
            Self::Exactly(wanted) => found == wanted,
            Self::AtMost(limit) => found <= limit,
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(wanted) => write!(f, "{wanted}"),
            Self::AtMost(limit) => write!(f, "at most {limit}"),
        }
    }
}

/// A count in all repetitions.
#[derive(Debug, Clone)]
struct Count {
    what: String,
    wanted: Wanted,
    found: Vec<u64>,
}

impl Count {
    fn is_right(&self) -> bool {
        self.found.iter().all(|&found| self.wanted.allows(found))
    }
}

/// Everything measured in one run.
#[derive(Debug)]
pub struct Report {
    circumstances: Vec<(&'static str, String)>,
    /// The figures by scenario, in the order in which they were measured.
    pub figures: Vec<Figure>,
    counts: Vec<Count>,
}

impl Report {
    /// A report without figures.
    pub fn new(plan: &Plan) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let size = std::fs::metadata(&plan.driver).map_or(0, |file| file.len());
        // Cargo's folder is named after the profile.
        let profile = plan.driver.parent().and_then(|folder| folder.file_name()).unwrap_or_default();
        let circumstances = vec![
            ("driver build", profile.to_string_lossy().into_owned()),
            (
                "driver size",
                format!("{:.1} MiB", f64::from(u32::try_from(size / 1024).unwrap_or(0)) / 1024.0),
            ),
            ("bench build", if cfg!(debug_assertions) { "debug" } else { "optimised" }.to_owned()),
            ("cores", cores.to_string()),
            ("kernel", kernel.trim().to_owned()),
            ("repetitions", plan.repetitions.to_string()),
        ];
        Self { circumstances, figures: Vec::new(), counts: Vec::new() }
    }

    /// Adds a figure.
    pub fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Adds a count; counts of one name belong together.
    pub fn count(&mut self, what: &str, wanted: Wanted, found: u64) {
        if !wanted.allows(found) {
            eprintln!("WRONG: {what}: {found}, wanted {wanted}");
        }
        match self.counts.iter_mut().find(|count| count.what == what) {
            Some(count) => count.found.push(found),
            None => self.counts.push(Count { what: what.to_owned(), wanted, found: vec![found] }),
        }
    }

    /// Whether every count was right every time. Not when nothing was counted and nothing measured.
    pub fn counts_are_right(&self) -> bool {
        !(self.figures.is_empty() && self.counts.is_empty()) && self.counts.iter().all(Count::is_right)
    }

    /// What the figures depend on, in one line.
    pub fn circumstances(&self) -> String {
        let each = self.circumstances.iter().map(|(name, value)| format!("{name} {value}"));
        each.collect::<Vec<_>>().join(", ")
    }

    /// For the eye.
    pub fn table(&self) -> String {
        let mut rows = vec![
            ["figure", "median", "range", "floor", "× floor", "target", "reference", "reference ÷ ours"]
                .map(str::to_owned),
        ];
        for figure in &self.figures {
            let (median, unit) = (figure.sample.median(), figure.unit.name());
            let optional = |value: Option<f64>| value.map(number).unwrap_or_default();
            let mut target = optional(figure.target);
            if let Some(met) = figure.verdict() {
                let _ = write!(target, "{}", if met { " met" } else { " MISSED" });
            }
            rows.push([
                figure.name.clone(),
                format!("{} {unit}", number(median)).trim_end().to_owned(),
                format!("{}–{}", number(figure.sample.min()), number(figure.sample.max())),
                optional(figure.floor),
                figure.floor.map(|floor| format!("{:.2}", median / floor)).unwrap_or_default(),
                target,
                optional(figure.reference),
                figure.reference.map(|other| format!("{:.1}", other / median)).unwrap_or_default(),
            ]);
        }
        let mut text = format!("\n{}\n\n{}", self.circumstances(), aligned(&rows));
        if !self.counts.is_empty() {
            let mut rows = vec![["upstream requests", "wanted", "found", ""].map(str::to_owned)];
            for count in &self.counts {
                let (least, most) = (count.found.iter().min(), count.found.iter().max());
                let found = match (least, most) {
                    (Some(least), Some(most)) if least != most => format!("{least}–{most}"),
                    (Some(only), _) => only.to_string(),
                    _ => String::new(),
                };
                let verdict = if count.is_right() { "right" } else { "WRONG" };
                rows.push([count.what.clone(), count.wanted.to_string(), found, verdict.to_owned()]);
            }
            let _ = write!(text, "\n{}", aligned(&rows));
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let figures = self.figures.iter().map(|figure| {
            json!({
                "name": figure.name, "unit": figure.unit.name(), "median": figure.sample.median(),
                "min": figure.sample.min(), "max": figure.sample.max(), "samples": figure.sample.values(),
                "floor": figure.floor, "ratioToFloor": figure.floor.map(|floor| figure.sample.median() / floor),
                "target": figure.target, "targetMet": figure.verdict(), "reference": figure.reference,
            })
        });
        let counts = self.counts.iter().map(|count| {
            json!({
                "name": count.what, "wanted": count.wanted.to_string(), "found": count.found,
                "right": count.is_right(),
            })
        });
        let circumstances: serde_json::Map<String, Value> =
            self.circumstances.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "circumstances": circumstances,
            "figures": figures.collect::<Vec<_>>(),
            "counts": counts.collect::<Vec<_>>(),
        })
    }
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Columns: the first to the left, the others to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ =
                if column == 0 { write!(line, "{cell:<width$}") } else { write!(line, "  {cell:>width$}") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Figure, Report, Unit, Wanted};
    use crate::sample::Sample;

    fn report() -> Report {
        Report { circumstances: vec![("cores", "2".to_owned())], figures: Vec::new(), counts: Vec::new() }
    }

    fn slow() -> Figure {
        let sample: Sample = [30.0, 10.0, 20.0].into_iter().collect();
        Figure::new("mount", Unit::Milliseconds, sample).floor(10.0).target(1.0).reference(200.0)
    }

    #[test]
    fn one_wrong_count_among_right_ones_fails_the_run() {
        let mut report = report();
        report.count("tokens", Wanted::Exactly(1), 1);
        report.count("vault", Wanted::AtMost(5), 4);
        assert!(report.counts_are_right());
        report.count("tokens", Wanted::Exactly(1), 2);
        report.count("tokens", Wanted::Exactly(1), 1);
        assert!(!report.counts_are_right());
        assert!(report.table().contains("1–2  WRONG"), "{}", report.table());
    }

    #[test]
    fn fewer_than_an_exact_number_is_wrong_too() {
        let mut report = report();
        report.count("vault", Wanted::Exactly(5), 4);
        assert!(!report.counts_are_right());
    }

    #[test]
    fn a_time_never_fails_the_run() {
        let mut report = report();
        report.add(slow());
        assert!(report.table().contains("MISSED"));
        assert!(report.counts_are_right());
    }

    #[test]
    fn a_run_without_figures_is_no_success() {
        assert!(!report().counts_are_right());
    }

    #[test]
    fn ratios_are_to_the_median() {
        let mut report = report();
        report.add(slow());
        let row = report.table().lines().find(|line| line.starts_with("mount")).unwrap().to_owned();
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(
            cells,
            ["mount", "20.0", "ms", "10.0–30.0", "10.0", "2.00", "1.00", "MISSED", "200", "10.0"]
        );
        assert_eq!(report.json()["figures"][0]["ratioToFloor"], 2.0);
    }
}
