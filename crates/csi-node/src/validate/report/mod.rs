//! Findings as text for people, JSON for programs and SARIF for code hosts.

pub mod json;
pub mod sarif;
pub mod text;

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// With the place in the file shown, for people.
    Text,
    /// One JSON object.
    Json,
    /// SARIF 2.1.0, which code hosts show beside the changed lines.
    Sarif,
}
