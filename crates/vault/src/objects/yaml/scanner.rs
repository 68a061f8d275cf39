//! Characters to tokens, by YAML 1.1 (<https://yaml.org/spec/1.1/>) as libyaml and its Go port read it.
//!
//! The unobvious part of the language is that a key is only known to be one when its `:` appears. So each token that
//! could begin a key is remembered ([`SimpleKey`]), and when the `:` comes, `Key` (and perhaps the start of a mapping)
//! is inserted before it. Tokens are therefore held back while the oldest may still turn out to be a key.

mod scalars;

use std::collections::VecDeque;

use super::YamlError;

/// Nesting beyond this is refused; no manifest comes near.
pub(super) const DEEPEST: usize = 100;
/// A key without `?` is at most this long (YAML 1.1 §7.3.3).
const LONGEST_KEY: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    StreamEnd,
    Version(u8, u8),
    TagDirective {
        handle: String,
        prefix: String,
    },
    DocumentStart,
    DocumentEnd,
    BlockSequenceStart,
    BlockMappingStart,
    BlockEnd,
    FlowSequenceStart,
    FlowSequenceEnd,
    FlowMappingStart,
    FlowMappingEnd,
    BlockEntry,
    FlowEntry,
    Key,
    Value,
    Alias(String),
    Anchor(String),
    Tag {
        handle: String,
        suffix: String,
    },
    /// `places` has the index in the text of each of the value's characters; `end` is the index after the scalar.
    Scalar {
        value: String,
        plain: bool,
        places: Vec<u32>,
        end: usize,
    },
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    pub(super) index: usize,
    pub(super) line: usize,
    column: usize,
}

/// A token that may turn out to be a key.
#[derive(Clone, Copy)]
struct SimpleKey {
    /// Its number, counted from the start of the text.
    number: usize,
    /// It stands where only a key can stand.
    required: bool,
    mark: Mark,
}

/// A scalar's value as it grows, with the place of each character.
#[derive(Default)]
struct Value {
    text: String,
    places: Vec<u32>,
}

impl Value {
    fn push(&mut self, c: char, mark: Mark) {
        self.text.push(c);
        self.places.push(u32::try_from(mark.index).unwrap_or(u32::MAX));
    }

    /// Moves everything out of `other` to the end of this one.
    fn append(&mut self, other: &mut Self) {
        self.text.push_str(&other.text);
        self.places.append(&mut other.places);
        other.text.clear();
    }

    fn clear(&mut self) {
        self.text.clear();
        self.places.clear();
    }
}

pub(super) struct Scanner {
    chars: Vec<char>,
    mark: Mark,
    tokens: VecDeque<(Token, Mark)>,
    /// How many tokens have been taken.
    taken: usize,
    /// Column of the current block collection, -1 outside of any.
    indent: isize,
    indents: Vec<isize>,
    /// One slot per flow level and one for the block context.
    keys: Vec<Option<SimpleKey>>,
    key_allowed: bool,
}

fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// `\0` stands for the end of the text, which cannot hold one.
fn is_break_or_end(c: char) -> bool {
    is_break(c) || c == '\0'
}

fn is_blank_or_end(c: char) -> bool {
    is_blank(c) || is_break_or_end(c)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

impl Scanner {
    pub(super) fn new(text: &str) -> Result<Self, YamlError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let readable = |c: &char| matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..);
        if let Some(at) = text.chars().position(|c| !readable(&c)) {
            return Err(YamlError::at(at, "control characters are not allowed"));
        }
        Ok(Self {
            chars: text.chars().collect(),
            mark: Mark::default(),
            tokens: VecDeque::new(),
            taken: 0,
            indent: -1,
            indents: Vec::new(),
            keys: vec![None],
            key_allowed: true,
        })
    }

    /// The next token, without taking it.
    pub(super) fn peek(&mut self) -> Result<(&Token, Mark), YamlError> {
        // Two more tokens than needed are read ahead, which decides whether rubbish after a document is noticed.
        loop {
            let settled = self.tokens.len() > 2 && !self.head_may_be_key()?;
            if settled {
                break;
            }
            self.fetch()?;
        }
        match self.tokens.front() {
            Some((token, mark)) => Ok((token, *mark)),
            None => Err(YamlError::at(self.mark.index, "unexpected end of text")),
        }
    }

    /// Takes the next token.
    pub(super) fn next(&mut self) -> Result<(Token, Mark), YamlError> {
        self.peek()?;
        self.taken += 1;
        self.tokens.pop_front().ok_or_else(|| YamlError::at(self.mark.index, "unexpected end of text"))
    }

    fn head_may_be_key(&mut self) -> Result<bool, YamlError> {
        let head = self.taken;
        match self.keys.iter().position(|key| key.is_some_and(|key| key.number == head)) {
            Some(slot) => self.key_is_valid(slot),
            None => Ok(false),
        }
    }

    /// Whether the key remembered in `slot` may still become one; it must be on one line and not too long.
    fn key_is_valid(&mut self, slot: usize) -> Result<bool, YamlError> {
        let Some(key) = self.keys[slot] else { return Ok(false) };
        if key.mark.line < self.mark.line || key.mark.index + LONGEST_KEY < self.mark.index {
            if key.required {
                return Err(self.error(key.mark, "could not find expected ':'"));
            }
            self.keys[slot] = None;
            return Ok(false);
        }
        Ok(true)
    }

    fn error(&self, context: Mark, problem: &str) -> YamlError {
        let line = if context.line > 0 { context.line } else { self.mark.line };
        if line > 0 {
            YamlError::at(context.index, format!("line {}: {problem}", line + 1))
        } else {
            YamlError::at(context.index, problem)
        }
    }

    // === characters ===

    fn at(&self, ahead: usize) -> char {
        self.chars.get(self.mark.index + ahead).copied().unwrap_or('\0')
    }

    fn here(&self) -> char {
        self.at(0)
    }

    fn skip(&mut self, count: usize) {
        self.mark.index += count;
        self.mark.column += count;
    }

    fn read(&mut self, into: &mut String) {
        into.push(self.here());
        self.skip(1);
    }

    /// Takes one character of a scalar.
    fn take(&mut self, into: &mut Value) {
        into.push(self.here(), self.mark);
        self.skip(1);
    }

    /// Takes one line break; all but U+2028 and U+2029 are read as `\n`.
    fn take_break(&mut self, into: &mut Value) {
        let here = self.mark;
        match self.here() {
            '\r' if self.at(1) == '\n' => {
                into.push('\n', here);
                self.mark.index += 1;
            }
            '\r' | '\n' | '\u{85}' => into.push('\n', here),
            c @ ('\u{2028}' | '\u{2029}') => into.push(c, here),
            _ => return,
        }
        self.mark.index += 1;
        self.mark.line += 1;
        self.mark.column = 0;
    }

    fn skip_break(&mut self) {
        self.take_break(&mut Value::default());
    }

    fn skip_blanks(&mut self) {
        while is_blank(self.here()) {
            self.skip(1);
        }
    }

    fn skip_comment(&mut self) {
        if self.here() == '#' {
            while !is_break_or_end(self.here()) {
                self.skip(1);
            }
        }
    }

    /// `---` or `...` alone at the start of a line.
    fn at_document_indicator(&self) -> bool {
        self.mark.column == 0
            && matches!((self.at(0), self.at(1), self.at(2)), ('-', '-', '-') | ('.', '.', '.'))
            && is_blank_or_end(self.at(3))
    }

    // === tokens ===

    fn push(&mut self, token: Token, mark: Mark) {
        self.tokens.push_back((token, mark));
    }

    fn in_flow(&self) -> bool {
        self.keys.len() > 1
    }

    fn column(&self) -> isize {
        isize::try_from(self.mark.column).unwrap_or(isize::MAX)
    }

    fn fetch(&mut self) -> Result<(), YamlError> {
        self.fetch_one()?;
        if !matches!(
            self.tokens.back(),
            Some((Token::BlockEntry | Token::StreamEnd | Token::DocumentStart | Token::DocumentEnd, _))
        ) {
            self.skip_comment_on_line();
        }
        Ok(())
    }

    /// A comment on the line of the token before it may follow tabs, which other lines may not begin with.
    fn skip_comment_on_line(&mut self) {
        let before = self.chars[..self.mark.index].iter().rev().find(|&&c| !is_blank(c));
        let ahead = self.chars[self.mark.index..].iter().take_while(|&&c| is_blank(c)).count();
        if before.is_some_and(|&c| !is_break(c)) && self.at(ahead) == '#' {
            self.skip(ahead);
            self.skip_comment();
        }
    }

    fn fetch_one(&mut self) -> Result<(), YamlError> {
        loop {
            while self.here() == ' ' || (self.here() == '\t' && (self.in_flow() || !self.key_allowed)) {
                self.skip(1);
            }
            self.skip_comment();
            if !is_break(self.here()) {
                break;
            }
            self.skip_break();
            if !self.in_flow() {
                self.key_allowed = true;
            }
        }
        self.unroll_indent(self.column());
        let start = self.mark;
        let (c, next) = (self.here(), self.at(1));
        match c {
            '\0' => {
                if self.mark.column != 0 {
                    self.mark.column = 0;
                    self.mark.line += 1;
                }
                self.unroll_indent(-1);
                self.forget_key()?;
                self.key_allowed = false;
                self.push(Token::StreamEnd, self.mark);
                Ok(())
            }
            '%' if self.mark.column == 0 => {
                self.unroll_indent(-1);
                self.forget_key()?;
                self.key_allowed = false;
                self.directive()
            }
            _ if self.at_document_indicator() => {
                self.unroll_indent(-1);
                self.forget_key()?;
                self.key_allowed = false;
                self.skip(3);
                self.push(if c == '-' { Token::DocumentStart } else { Token::DocumentEnd }, start);
                Ok(())
            }
            '[' | '{' => {
                self.save_key()?;
                if self.keys.len() > DEEPEST {
                    return Err(self.error(start, &format!("exceeded max depth of {DEEPEST}")));
                }
                self.keys.push(None);
                self.key_allowed = true;
                self.skip(1);
                self.push(if c == '[' { Token::FlowSequenceStart } else { Token::FlowMappingStart }, start);
                Ok(())
            }
            ']' | '}' => {
                self.forget_key()?;
                if self.in_flow() {
                    self.keys.pop();
                }
                self.key_allowed = false;
                self.skip(1);
                self.push(if c == ']' { Token::FlowSequenceEnd } else { Token::FlowMappingEnd }, start);
                Ok(())
            }
            ',' => {
                self.forget_key()?;
                self.key_allowed = true;
                self.skip(1);
                self.push(Token::FlowEntry, start);
                Ok(())
            }
            '-' if is_blank_or_end(next) => {
                if !self.in_flow() {
                    if !self.key_allowed {
                        return Err(
                            self.error(start, "block sequence entries are not allowed in this context")
                        );
                    }
                    self.roll_indent(start, None, Token::BlockSequenceStart)?;
                }
                self.forget_key()?;
                self.key_allowed = true;
                self.skip(1);
                self.push(Token::BlockEntry, start);
                Ok(())
            }
            '?' if self.in_flow() || is_blank_or_end(next) => {
                if !self.in_flow() {
                    if !self.key_allowed {
                        return Err(self.error(start, "mapping keys are not allowed in this context"));
                    }
                    self.roll_indent(start, None, Token::BlockMappingStart)?;
                }
                self.forget_key()?;
                self.key_allowed = !self.in_flow();
                self.skip(1);
                self.push(Token::Key, start);
                Ok(())
            }
            ':' if self.in_flow() || is_blank_or_end(next) => self.value(),
            '*' | '&' => {
                self.save_key()?;
                self.key_allowed = false;
                self.anchor()
            }
            '!' => {
                self.save_key()?;
                self.key_allowed = false;
                self.tag()
            }
            '|' | '>' if !self.in_flow() => {
                self.forget_key()?;
                self.key_allowed = true;
                self.block_scalar(c == '|')
            }
            '\'' | '"' => {
                self.save_key()?;
                self.key_allowed = false;
                self.quoted_scalar(c == '\'')
            }
            '-' if !is_blank(next) => self.plain_scalar(),
            '?' | ':' if !self.in_flow() && !is_blank_or_end(next) => self.plain_scalar(),
            '-' | '?' | ':' | '#' | '|' | '>' | '%' | '@' | '`' => {
                Err(self.error(start, "found character that cannot start any token"))
            }
            _ if is_blank_or_end(c) => Err(self.error(start, "found character that cannot start any token")),
            _ => self.plain_scalar(),
        }
    }

    /// The `:` after a key.
    fn value(&mut self) -> Result<(), YamlError> {
        let slot = self.keys.len() - 1;
        if self.key_is_valid(slot)?
            && let Some(key) = self.keys[slot].take()
        {
            let position = key.number - self.taken;
            self.tokens.insert(position, (Token::Key, key.mark));
            self.roll_indent(key.mark, Some(position), Token::BlockMappingStart)?;
            self.key_allowed = false;
        } else {
            if !self.in_flow() {
                if !self.key_allowed {
                    return Err(self.error(self.mark, "mapping values are not allowed in this context"));
                }
                self.roll_indent(self.mark, None, Token::BlockMappingStart)?;
            }
            self.key_allowed = !self.in_flow();
        }
        let start = self.mark;
        self.skip(1);
        self.push(Token::Value, start);
        Ok(())
    }

    fn save_key(&mut self) -> Result<(), YamlError> {
        let required = !self.in_flow() && self.indent == self.column();
        if self.key_allowed {
            self.forget_key()?;
            let key = SimpleKey { number: self.taken + self.tokens.len(), required, mark: self.mark };
            if let Some(slot) = self.keys.last_mut() {
                *slot = Some(key);
            }
        }
        Ok(())
    }

    fn forget_key(&mut self) -> Result<(), YamlError> {
        if let Some(key) = self.keys.last_mut().and_then(Option::take)
            && key.required
        {
            return Err(self.error(key.mark, "could not find expected ':'"));
        }
        Ok(())
    }

    /// Opens a block collection if `mark` is further in than the current one.
    fn roll_indent(&mut self, mark: Mark, position: Option<usize>, token: Token) -> Result<(), YamlError> {
        let column = isize::try_from(mark.column).unwrap_or(isize::MAX);
        if self.in_flow() || self.indent >= column {
            return Ok(());
        }
        if self.indents.len() >= DEEPEST {
            return Err(self.error(mark, &format!("exceeded max depth of {DEEPEST}")));
        }
        self.indents.push(self.indent);
        self.indent = column;
        match position {
            Some(position) => self.tokens.insert(position, (token, mark)),
            None => self.push(token, mark),
        }
        Ok(())
    }

    /// Closes the block collections that are further in than `column`.
    fn unroll_indent(&mut self, column: isize) {
        if self.in_flow() {
            return;
        }
        while self.indent > column {
            self.push(Token::BlockEnd, self.mark);
            self.indent = self.indents.pop().unwrap_or(-1);
        }
    }

    fn directive(&mut self) -> Result<(), YamlError> {
        let start = self.mark;
        self.skip(1);
        let mut name = String::new();
        while is_word(self.here()) {
            self.read(&mut name);
        }
        if name.is_empty() {
            return Err(self.error(start, "could not find expected directive name"));
        }
        if !is_blank_or_end(self.here()) {
            return Err(self.error(start, "found unexpected non-alphabetical character"));
        }
        self.skip_blanks();
        let token = match name.as_str() {
            "YAML" => {
                let major = self.version_number(start)?;
                if self.here() != '.' {
                    return Err(self.error(start, "did not find expected digit or '.' character"));
                }
                self.skip(1);
                Token::Version(major, self.version_number(start)?)
            }
            "TAG" => {
                let handle = self.tag_handle(true, start)?;
                if !is_blank(self.here()) {
                    return Err(self.error(start, "did not find expected whitespace"));
                }
                self.skip_blanks();
                let prefix = self.tag_uri("", start)?;
                if !is_blank_or_end(self.here()) {
                    return Err(self.error(start, "did not find expected whitespace or line break"));
                }
                Token::TagDirective { handle, prefix }
            }
            _ => return Err(self.error(start, "found unknown directive name")),
        };
        self.skip_blanks();
        self.skip_comment();
        if !is_break_or_end(self.here()) {
            return Err(self.error(start, "did not find expected comment or line break"));
        }
        self.skip_break();
        self.push(token, start);
        Ok(())
    }

    fn version_number(&mut self, start: Mark) -> Result<u8, YamlError> {
        let mut digits = String::new();
        while self.here().is_ascii_digit() {
            self.read(&mut digits);
        }
        match digits.len() {
            0 => Err(self.error(start, "did not find expected version number")),
            1 | 2 => Ok(digits.parse().unwrap_or(u8::MAX)),
            _ => Err(self.error(start, "found extremely long version number")),
        }
    }

    fn anchor(&mut self) -> Result<(), YamlError> {
        let start = self.mark;
        let alias = self.here() == '*';
        self.skip(1);
        let mut name = String::new();
        while is_word(self.here()) {
            self.read(&mut name);
        }
        let c = self.here();
        if name.is_empty()
            || !(is_blank_or_end(c) || matches!(c, '?' | ':' | ',' | ']' | '}' | '%' | '@' | '`'))
        {
            return Err(self.error(start, "did not find expected alphabetic or numeric character"));
        }
        self.push(if alias { Token::Alias(name) } else { Token::Anchor(name) }, start);
        Ok(())
    }

    fn tag(&mut self) -> Result<(), YamlError> {
        let start = self.mark;
        let (handle, suffix) = if self.at(1) == '<' {
            self.skip(2);
            let suffix = self.tag_uri("", start)?;
            if self.here() != '>' {
                return Err(self.error(start, "did not find the expected '>'"));
            }
            self.skip(1);
            (String::new(), suffix)
        } else {
            let handle = self.tag_handle(false, start)?;
            if handle.len() > 1 && handle.ends_with('!') {
                let suffix = self.tag_uri("", start)?;
                (handle, suffix)
            } else {
                match self.tag_uri(&handle, start)? {
                    // A lone `!`: no tag, but not resolved either.
                    suffix if suffix.is_empty() => (String::new(), "!".to_owned()),
                    suffix => ("!".to_owned(), suffix),
                }
            }
        };
        if !is_blank_or_end(self.here()) {
            return Err(self.error(start, "did not find expected whitespace or line break"));
        }
        self.push(Token::Tag { handle, suffix }, start);
        Ok(())
    }

    fn tag_handle(&mut self, directive: bool, start: Mark) -> Result<String, YamlError> {
        if self.here() != '!' {
            return Err(self.error(start, "did not find expected '!'"));
        }
        let mut handle = String::new();
        self.read(&mut handle);
        while is_word(self.here()) {
            self.read(&mut handle);
        }
        if self.here() == '!' {
            self.read(&mut handle);
        } else if directive && handle != "!" {
            return Err(self.error(start, "did not find expected '!'"));
        }
        Ok(handle)
    }

    /// The rest of a tag; `head` is a handle that turned out to be its beginning.
    fn tag_uri(&mut self, head: &str, start: Mark) -> Result<String, YamlError> {
        let mut bytes: Vec<u8> = head.bytes().skip(1).collect();
        let mut found = !head.is_empty();
        loop {
            let c = self.here();
            if c == '%' {
                self.uri_escape(start, &mut bytes)?;
            } else if is_word(c) || ";/?:@&=+$,.!~*'()[]".contains(c) {
                bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
                self.skip(1);
            } else {
                break;
            }
            found = true;
        }
        if !found {
            return Err(self.error(start, "did not find expected tag URI"));
        }
        String::from_utf8(bytes).map_err(|_| self.error(start, "found an incorrect UTF-8 octet"))
    }

    /// One character as `%XX` octets.
    fn uri_escape(&mut self, start: Mark, into: &mut Vec<u8>) -> Result<(), YamlError> {
        let mut left = 1;
        let mut first = true;
        while left > 0 {
            let (Some(high), Some(low)) = (self.at(1).to_digit(16), self.at(2).to_digit(16)) else {
                return Err(self.error(start, "did not find URI escaped octet"));
            };
            if self.here() != '%' {
                return Err(self.error(start, "did not find URI escaped octet"));
            }
            let octet = u8::try_from(high << 4 | low).unwrap_or_default();
            if first {
                left = match octet {
                    0..=0x7f => 1,
                    0xc0..=0xdf => 2,
                    0xe0..=0xef => 3,
                    0xf0..=0xf7 => 4,
                    _ => return Err(self.error(start, "found an incorrect leading UTF-8 octet")),
                };
                first = false;
            } else if octet & 0xc0 != 0x80 {
                return Err(self.error(start, "found an incorrect trailing UTF-8 octet"));
            }
            into.push(octet);
            self.skip(3);
            left -= 1;
        }
        Ok(())
    }
}
