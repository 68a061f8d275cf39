//! Text for people: as wide as their terminal, with colours where one shows them.

use std::io::IsTerminal;
use std::time::Duration;

/// What standard output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Columns. `None` for what is no terminal, where lines are as long as they are unless `COLUMNS` says how long.
    pub width: Option<usize>,
    /// Whether colours are wanted.
    pub colour: bool,
}

/// A colour with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// To be looked at.
    Warning,
    /// Wrong.
    Bad,
    /// Less important than the rest.
    Quiet,
    /// A heading.
    Strong,
}

/// Narrower terminals are treated as this wide: nothing readable fits into less.
const NARROWEST: usize = 40;

impl Terminal {
    /// Looks at standard output and, for colours, at `NO_COLOR` (<https://no-color.org>) and `TERM`.
    pub fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let columns = columns.map(|columns: usize| columns.max(NARROWEST));
        if !stdout.is_terminal() {
            return Self { width: columns, colour: false };
        }
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let own = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
        let own = own.filter(|columns| *columns > 0).map(|columns| columns.max(NARROWEST));
        Self { width: columns.or(own).or(Some(80)), colour: !set("NO_COLOR") && !dumb }
    }

    /// The text in a colour, where colours are wanted.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Quiet => "2",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// The text in lines that fit after `indent` columns, the first one excepted, which begins after `first` columns.
    pub fn wrap(&self, text: &str, first: usize, indent: usize) -> String {
        let Some(width) = self.width else { return text.to_owned() };
        let margin = " ".repeat(indent);
        let (mut out, mut column) = (String::new(), first);
        for word in text.split(' ') {
            let length = word.chars().count();
            let fresh = out.is_empty() || out.ends_with(&format!("\n{margin}"));
            if !fresh && column + 1 + length > width {
                out.push('\n');
                out.push_str(&margin);
                column = indent;
            } else if !fresh {
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += length;
        }
        out
    }
}

/// Cuts a text to so many columns, its middle replaced by an ellipsis: names differ at both ends.
pub fn shortened(text: &str, columns: usize) -> String {
    let length = text.chars().count();
    if length <= columns || columns < 3 {
        return text.to_owned();
    }
    let (head, tail) = ((columns - 1).div_ceil(2), (columns - 1) / 2);
    let head: String = text.chars().take(head).collect();
    let tail: String = text.chars().skip(length - tail).collect();
    format!("{head}…{tail}")
}

/// A span of time for people, of two units at most: `14s`, `1m46s`, `2h3m`, `3d4h`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |big: u64, unit: char, small: u64, of: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{of}") }
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => pair(minutes, 'm', seconds % 60, 's'),
        3600..86_400 => pair(hours, 'h', minutes % 60, 'm'),
        _ => pair(days, 'd', hours % 24, 'h'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (106, "1m46s"),
            (7_380, "2h3m"),
            (86_400, "1d"),
            (273_600, "3d4h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn names_keep_both_ends() {
        assert_eq!(shortened("default/web", 11), "default/web");
        assert_eq!(shortened("default/web-7d9f-abcde", 11), "defau…abcde");
        assert_eq!(shortened("ääääää", 4), "ää…ä");
    }

    #[test]
    fn colours_only_where_wanted() {
        let with = |colour| Terminal { width: None, colour }.paint(Tone::Bad, "no");
        assert_eq!((with(false).as_str(), with(true).as_str()), ("no", "\x1b[31mno\x1b[0m"));
    }

    proptest::proptest! {
        #[test]
        fn wrapped_lines_fit_and_lose_no_word(text in "[a-zä ]{0,200}", first in 0_usize..30, indent in 0_usize..10) {
            let terminal = Terminal { width: Some(40), colour: false };
            let wrapped = terminal.wrap(&text, first, indent);
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            proptest::prop_assert_eq!(words(&wrapped), words(&text));
            for (number, line) in wrapped.lines().enumerate() {
                let start = if number == 0 { first } else { 0 };
                let alone = line.split_whitespace().count() <= 1;
                proptest::prop_assert!(alone || start + line.chars().count() <= 40, "{line:?}");
            }
        }
    }
}
