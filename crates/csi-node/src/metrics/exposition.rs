//! The two texts a scraper may ask for. Prometheus takes OpenMetrics; agents of cloud providers and `promtool check metrics`
//! take the older text format, in which a counter's name has its `_total` everywhere.

use std::fmt::Write;

/// What a scraper gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// The text format 0.0.4.
    Text,
}

impl Format {
    /// What an `Accept` header asks for: OpenMetrics where it is named, else the text that everyone understands.
    pub fn wanted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// The header for it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Writes an OpenMetrics text as the text format. Samples are the same in both: what differs is that here the names of
/// counters and infos have their suffixes in the metadata too, that an info is a gauge, and that there is no mark at the end.
pub(super) fn to_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with("# ") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_in_the_older_format() {
        let open_metrics = "# HELP calls Calls.\n# TYPE calls counter\ncalls_total{a=\"# TYPE x\"} 1\n\
            # HELP build B.\n# TYPE build info\nbuild_info{version=\"1\"} 1\n\
            # HELP took T.\n# TYPE took histogram\ntook_sum 0.0\n# UNIT took seconds\n# EOF\n";
        let text = "# HELP calls_total Calls.\n# TYPE calls_total counter\ncalls_total{a=\"# TYPE x\"} 1\n\
            # HELP build_info B.\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n\
            # HELP took T.\n# TYPE took histogram\ntook_sum 0.0\n";
        assert_eq!(to_text(open_metrics), text);
    }

    #[test]
    fn prometheus_gets_open_metrics_and_others_the_text() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::wanted(prometheus), Format::OpenMetrics);
        for accept in ["", "*/*", "text/plain;version=0.0.4"] {
            assert_eq!(Format::wanted(accept), Format::Text, "{accept}");
        }
    }
}
