//! The table of values in the chart's README.

use serde_json::Value;
use std::fmt::Write as _;

/// Makes the table from the comments of `values.yaml` that begin with `--`.
///
/// # Errors
/// Names a value without a comment: what nobody explains, nobody can set.
pub fn table(values: &str) -> Result<String, String> {
    let parsed = crate::yaml(values)?;
    let mut table = "| value | default | meaning |\n|---|---|---|\n".to_owned();
    // The keys on the way to the line at hand, each with its indentation.
    let mut way: Vec<(usize, &str)> = Vec::new();
    let mut comment: Option<&str> = None;
    // What is deeper than a value with a comment belongs to that value.
    let mut told: Option<usize> = None;
    for line in values.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if let Some(text) = content.strip_prefix("# -- ") {
            comment = Some(text);
            told = None;
            continue;
        }
        if content.is_empty() || content.starts_with('#') || told.is_some_and(|depth| indent > depth) {
            continue;
        }
        // A list may stand as deep as its key.
        if content.starts_with("- ") {
            continue;
        }
        told = None;
        let (key, rest) = content.split_once(':').ok_or_else(|| format!("{line:?} has no key"))?;
        while way.last().is_some_and(|(depth, _)| *depth >= indent) {
            way.pop();
        }
        way.push((indent, key));
        let path = way.iter().map(|(_, key)| *key).collect::<Vec<_>>();
        let Some(text) = comment.take() else {
            if rest.trim().is_empty() {
                continue;
            }
            return Err(format!("values.yaml: {} has no comment that begins with `--`", path.join(".")));
        };
        told = Some(indent);
        let default = path.iter().fold(&parsed, |value, key| &value[*key]);
        let _ = writeln!(table, "| `{}` | {} | {text} |", path.join("."), shown(default));
    }
    Ok(table)
}

fn shown(default: &Value) -> String {
    match default {
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        other => format!("`{other}`").replace('|', "\\|"),
    }
}
