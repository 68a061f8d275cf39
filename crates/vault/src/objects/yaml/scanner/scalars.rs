//! Scalars of the five styles (YAML 1.1 §9).

use super::{Mark, Scanner, Token, Value, YamlError, is_blank, is_blank_or_end, is_break, is_break_or_end};

impl Scanner {
    pub(super) fn block_scalar(&mut self, literal: bool) -> Result<(), YamlError> {
        #[derive(Clone, Copy, PartialEq)]
        enum Chomping {
            Strip,
            Clip,
            Keep,
        }
        let start = self.mark;
        self.skip(1);
        let mut chomping = None;
        let mut increment = None;
        // The two indicators come in either order.
        for _ in 0..2 {
            match self.here() {
                '+' if chomping.is_none() => chomping = Some(Chomping::Keep),
                '-' if chomping.is_none() => chomping = Some(Chomping::Strip),
                '0' if increment.is_none() => {
                    return Err(self.error(start, "found an indentation indicator equal to 0"));
                }
                c @ '1'..='9' if increment.is_none() => {
                    increment = c.to_digit(10).and_then(|digit| isize::try_from(digit).ok());
                }
                _ => break,
            }
            self.skip(1);
        }
        let chomping = chomping.unwrap_or(Chomping::Clip);
        self.skip_blanks();
        self.skip_comment();
        if !is_break_or_end(self.here()) {
            return Err(self.error(start, "did not find expected comment or line break"));
        }
        self.skip_break();

        let mut indent = increment.map_or(0, |increment| self.indent.max(0) + increment);
        let (mut value, mut leading_break, mut trailing_breaks) =
            (Value::default(), Value::default(), Value::default());
        self.block_scalar_breaks(&mut indent, &mut trailing_breaks, start)?;
        let mut leading_blank = false;
        while self.column() == indent && self.here() != '\0' {
            let blank = is_blank(self.here());
            if !literal && leading_break.text.starts_with('\n') && !leading_blank && !blank {
                if trailing_breaks.text.is_empty() {
                    value.push(' ', self.mark);
                }
                leading_break.clear();
            } else {
                value.append(&mut leading_break);
            }
            value.append(&mut trailing_breaks);
            leading_blank = blank;
            while !is_break_or_end(self.here()) {
                self.take(&mut value);
            }
            self.take_break(&mut leading_break);
            self.block_scalar_breaks(&mut indent, &mut trailing_breaks, start)?;
        }
        let end = value.places.last().map_or(start.index + 1, |&last| last as usize + 1);
        if chomping != Chomping::Strip {
            value.append(&mut leading_break);
        }
        if chomping == Chomping::Keep {
            value.append(&mut trailing_breaks);
        }
        self.push_scalar(value, false, start, end);
        Ok(())
    }

    /// Indentation and empty lines of a block scalar; finds the indentation when it is 0.
    fn block_scalar_breaks(
        &mut self,
        indent: &mut isize,
        breaks: &mut Value,
        start: Mark,
    ) -> Result<(), YamlError> {
        let mut widest = 0;
        loop {
            while (*indent == 0 || self.column() < *indent) && self.here() == ' ' {
                self.skip(1);
            }
            widest = widest.max(self.column());
            if (*indent == 0 || self.column() < *indent) && self.here() == '\t' {
                return Err(self.error(start, "found a tab character where an indentation space is expected"));
            }
            if !is_break(self.here()) {
                break;
            }
            self.take_break(breaks);
        }
        if *indent == 0 {
            *indent = widest.max(self.indent + 1).max(1);
        }
        Ok(())
    }

    pub(super) fn quoted_scalar(&mut self, single: bool) -> Result<(), YamlError> {
        let start = self.mark;
        let quote = if single { '\'' } else { '"' };
        self.skip(1);
        let mut value = Value::default();
        let (mut leading_break, mut trailing_breaks, mut blanks) =
            (Value::default(), Value::default(), Value::default());
        loop {
            if self.at_document_indicator() {
                return Err(self.error(start, "found unexpected document indicator"));
            }
            if self.here() == '\0' {
                return Err(self.error(start, "found unexpected end of stream"));
            }
            let mut broken = false;
            while !is_blank_or_end(self.here()) {
                match self.here() {
                    '\'' if single && self.at(1) == '\'' => {
                        value.push('\'', self.mark);
                        self.skip(2);
                    }
                    c if c == quote => break,
                    '\\' if !single && is_break(self.at(1)) => {
                        self.skip(1);
                        self.skip_break();
                        broken = true;
                        break;
                    }
                    '\\' if !single => self.escape(start, &mut value)?,
                    _ => self.take(&mut value),
                }
            }
            if self.here() == quote {
                break;
            }
            while is_blank(self.here()) || is_break(self.here()) {
                if is_blank(self.here()) {
                    if broken {
                        self.skip(1);
                    } else {
                        self.take(&mut blanks);
                    }
                } else if broken {
                    self.take_break(&mut trailing_breaks);
                } else {
                    blanks.clear();
                    self.take_break(&mut leading_break);
                    broken = true;
                }
            }
            if broken {
                fold(&mut value, &mut leading_break, &mut trailing_breaks, self.mark);
            } else {
                value.append(&mut blanks);
            }
        }
        self.skip(1);
        self.push_scalar(value, false, start, self.mark.index);
        Ok(())
    }

    fn escape(&mut self, start: Mark, into: &mut Value) -> Result<(), YamlError> {
        let here = self.mark;
        let digits = match self.at(1) {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            simple => {
                let c = match simple {
                    '0' => '\0',
                    'a' => '\x07',
                    'b' => '\x08',
                    't' | '\t' => '\t',
                    'n' => '\n',
                    'v' => '\x0b',
                    'f' => '\x0c',
                    'r' => '\r',
                    'e' => '\x1b',
                    ' ' | '"' | '\'' | '\\' => simple,
                    'N' => '\u{85}',
                    '_' => '\u{a0}',
                    'L' => '\u{2028}',
                    'P' => '\u{2029}',
                    _ => return Err(self.error(start, "found unknown escape character")),
                };
                into.push(c, here);
                self.skip(2);
                return Ok(());
            }
        };
        self.skip(2);
        let mut code = 0;
        for _ in 0..digits {
            let Some(digit) = self.here().to_digit(16) else {
                return Err(self.error(start, "did not find expected hexdecimal number"));
            };
            code = code << 4 | digit;
            self.skip(1);
        }
        let Some(c) = char::from_u32(code) else {
            return Err(self.error(start, "found invalid Unicode character escape code"));
        };
        into.push(c, here);
        Ok(())
    }

    pub(super) fn plain_scalar(&mut self) -> Result<(), YamlError> {
        self.save_key()?;
        self.key_allowed = false;
        let start = self.mark;
        let indent = self.indent + 1;
        let mut value = Value::default();
        let (mut leading_break, mut trailing_breaks, mut blanks) =
            (Value::default(), Value::default(), Value::default());
        let mut broken = false;
        loop {
            if self.at_document_indicator() || self.here() == '#' {
                break;
            }
            while !is_blank_or_end(self.here()) {
                let c = self.here();
                if (c == ':' && is_blank_or_end(self.at(1)))
                    || (self.in_flow() && matches!(c, ',' | '?' | '[' | ']' | '{' | '}'))
                {
                    break;
                }
                if broken {
                    fold(&mut value, &mut leading_break, &mut trailing_breaks, self.mark);
                    broken = false;
                } else {
                    value.append(&mut blanks);
                }
                self.take(&mut value);
            }
            if !is_blank(self.here()) && !is_break(self.here()) {
                break;
            }
            while is_blank(self.here()) || is_break(self.here()) {
                if is_blank(self.here()) {
                    if broken && self.column() < indent && self.here() == '\t' {
                        return Err(self.error(start, "found a tab character that violates indentation"));
                    }
                    if broken {
                        self.skip(1);
                    } else {
                        self.take(&mut blanks);
                    }
                } else if broken {
                    self.take_break(&mut trailing_breaks);
                } else {
                    blanks.clear();
                    self.take_break(&mut leading_break);
                    broken = true;
                }
            }
            if !self.in_flow() && self.column() < indent {
                break;
            }
        }
        if broken {
            self.key_allowed = true;
        }
        let end = value.places.last().map_or(start.index, |&last| last as usize + 1);
        self.push_scalar(value, true, start, end);
        Ok(())
    }

    fn push_scalar(&mut self, value: Value, plain: bool, start: Mark, end: usize) {
        let Value { text, places } = value;
        self.push(Token::Scalar { value: text, plain, places, end }, start);
    }
}

/// Line folding: one `\n` becomes a space, further breaks stay, and U+2028 and U+2029 are never folded.
fn fold(value: &mut Value, leading_break: &mut Value, trailing_breaks: &mut Value, here: Mark) {
    if leading_break.text.starts_with('\n') {
        if trailing_breaks.text.is_empty() {
            value.push(' ', here);
        }
        leading_break.clear();
    } else {
        value.append(leading_break);
    }
    value.append(trailing_breaks);
}
