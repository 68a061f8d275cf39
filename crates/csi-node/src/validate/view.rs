//! Nodes of YAML with their places in the file, also through the YAML that is written inside strings.

use std::ops::Range;
use std::rc::Rc;
use vault::YamlError;
use vault::yaml::{Kind, Node, Scalar, Value};

/// A node and the way from its places to those of the file. Places are indices of characters.
#[derive(Debug, Clone)]
pub struct View {
    node: Rc<Node>,
    lens: Lens,
}

/// From the characters of a text to those of the file it stands in.
#[derive(Debug, Clone)]
enum Lens {
    /// The text is a part of the file, from this character on.
    Shift(usize),
    /// The text is a string in the file: the place of each of its characters.
    Table(Rc<[usize]>),
}

impl Lens {
    fn place(&self, index: usize) -> usize {
        match self {
            Self::Shift(by) => index + by,
            Self::Table(places) => {
                let past_the_end = || places.last().map_or(0, |last| last + 1);
                places.get(index).copied().unwrap_or_else(past_the_end)
            }
        }
    }

    fn span(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.place(span.start);
        let end = if span.is_empty() { start } else { self.place(span.end - 1) + 1 };
        start..end.max(start)
    }
}

/// Where a path leads.
#[derive(Debug, Clone)]
pub struct Spot {
    /// The value's characters; those of its key where the value has none; of what it should be in where it is not there.
    pub span: Range<usize>,
    /// The node, if it is there.
    pub found: Option<View>,
}

impl View {
    /// Reads a document that begins at this character of its file.
    ///
    /// # Errors
    /// What is no YAML in it, and the place in the file.
    pub fn read(document: &str, begins: usize) -> Result<Option<Self>, (YamlError, Option<usize>)> {
        let node = vault::yaml::parse(document).map_err(|error| {
            let place = error.place().map(|place| place + begins);
            (error, place)
        })?;
        Ok(node.map(|node| Self { node, lens: Lens::Shift(begins) }))
    }

    fn of(&self, node: &Rc<Node>) -> Self {
        Self { node: Rc::clone(node), lens: self.lens.clone() }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Self> {
        self.node.get(key).map(|node| self.of(node))
    }

    /// Keys and values of a mapping.
    pub fn entries(&self) -> impl Iterator<Item = (Self, Self)> {
        self.node.entries().map(|(key, value)| (self.of(key), self.of(value)))
    }

    /// Items of a list. Nulls do not count, as where `objects` is read.
    pub fn items(&self) -> impl Iterator<Item = Self> {
        self.node.items().iter().filter(|item| !item.is_null()).map(|item| self.of(item))
    }

    /// What is written in a scalar that is not null.
    pub fn text(&self) -> Option<&str> {
        self.node.text()
    }

    /// The text below a key; empty where there is none.
    pub fn text_of(&self, key: &str) -> &str {
        self.node.get(key).and_then(|node| node.text()).unwrap_or_default()
    }

    /// Whether a key's value is `true`.
    pub fn is_true(&self, key: &str) -> bool {
        self.text_of(key) == "true"
    }

    /// Whether this is a mapping.
    pub fn is_mapping(&self) -> bool {
        matches!(self.node.value, Value::Mapping(_))
    }

    /// What is here as JSON, with every scalar but null as the string that is written.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.node.value {
            Value::Scalar(_) => self.text().map_or(serde_json::Value::Null, Into::into),
            Value::Sequence(items) => items.iter().map(|item| self.of(item).to_json()).collect(),
            Value::Mapping(_) => self
                .entries()
                .filter_map(|(key, value)| Some((key.text()?.to_owned(), value.to_json())))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }

    /// Whether nothing is written here.
    pub fn is_null(&self) -> bool {
        self.node.is_null()
    }

    /// What this is for Kubernetes, where it is not a string.
    pub fn other_than_string(&self) -> Option<&'static str> {
        match &self.node.value {
            Value::Scalar(Scalar { kind: Kind::Text, .. }) => None,
            Value::Scalar(Scalar { kind: Kind::Bool, .. }) => Some("boolean"),
            Value::Scalar(Scalar { kind: Kind::Number, .. }) => Some("number"),
            Value::Scalar(Scalar { kind: Kind::Null, .. }) => Some("null"),
            Value::Sequence(_) => Some("array"),
            Value::Mapping(_) => Some("object"),
        }
    }

    /// Where it is written. Of a text of several lines the first, of a collection its start.
    pub fn span(&self) -> Range<usize> {
        match self.node.scalar() {
            Some(scalar) if scalar.text.contains('\n') => self.line_span(scalar, 0),
            _ => self.lens.span(&self.node.span),
        }
    }

    /// From a character of a string to the end of its line.
    fn line_span(&self, scalar: &Scalar, index: usize) -> Range<usize> {
        let rest = scalar.text.chars().skip(index);
        let blank = rest.clone().take_while(|c| *c == ' ').count();
        let long = rest.skip(blank).take_while(|c| *c != '\n').count();
        let begin = index + blank;
        let place = |index| {
            scalar
                .place(index)
                .map_or_else(|| self.lens.span(&self.node.span).start, |place| self.lens.place(place))
        };
        let start = place(begin);
        let end = if long == 0 { start } else { place(begin + long - 1) + 1 };
        start..end.max(start)
    }

    /// Where a character of this string is written, with the rest of its line.
    pub fn span_within(&self, index: usize) -> Range<usize> {
        match self.node.scalar() {
            Some(scalar) => self.line_span(scalar, index),
            None => self.span(),
        }
    }

    /// The YAML that is written in this string, `trimmed` of white space around it or not. `None` where there is none or it
    /// cannot be read.
    pub fn open(&self, trimmed: bool) -> Option<Self> {
        let scalar = self.node.scalar()?;
        let skipped = if trimmed { scalar.text.chars().take_while(|c| c.is_whitespace()).count() } else { 0 };
        let text = if trimmed { scalar.text.trim() } else { scalar.text.as_str() };
        let node = vault::yaml::parse(text).ok()??;
        let places = (0..text.chars().count()).filter_map(|index| scalar.place(index + skipped));
        Some(Self { node, lens: Lens::Table(places.map(|place| self.lens.place(place)).collect()) })
    }

    /// Follows a path such as `parameters.objects.array[0].objectName`, through strings that hold YAML, too.
    pub fn spot(&self, path: &str) -> Spot {
        let mut here = self.clone();
        let mut span = self.span();
        let mut opened = 0;
        for step in steps(path) {
            if here.node.scalar().is_some() {
                // `objects` is trimmed before it is read, its items are not.
                let Some(inner) = here.open(opened == 0) else { return Spot { span, found: None } };
                here = inner;
                opened += 1;
            }
            let next = match &step {
                Step::Key(key) => {
                    let entry = here.entries().filter(|(name, _)| name.text() == Some(key)).last();
                    entry.map(|(name, value)| (Some(name), value))
                }
                Step::Item(index) => here.items().nth(*index).map(|item| (None, item)),
            };
            let Some((key, value)) = next else { return Spot { span, found: None } };
            span = match key {
                Some(key) if value.span().is_empty() => key.span(),
                _ => value.span(),
            };
            here = value;
        }
        Spot { span, found: Some(here) }
    }
}

enum Step {
    Key(String),
    Item(usize),
}

/// Takes a path apart. Keys with dots in them are written `["like.this"]`.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (key, after) = quoted.split_once("\"]").unwrap_or((quoted, ""));
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        } else if let Some(bracket) = rest.strip_prefix('[') {
            let (index, after) = bracket.split_once(']').unwrap_or((bracket, ""));
            steps.extend(index.parse().map(Step::Item));
            rest = after;
        } else {
            let trimmed = rest.strip_prefix('.').unwrap_or(rest);
            let end = trimmed.find(['.', '[']).unwrap_or(trimmed.len());
            let (key, after) = trimmed.split_at_checked(end).unwrap_or((trimmed, ""));
            if !key.is_empty() {
                steps.push(Step::Key(key.to_owned()));
            }
            rest = after;
        }
    }
    steps
}

/// A path with one more key, quoted where it has to be.
pub fn below(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    match (plain, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[\"{key}\"]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: &str = "spec:\n  parameters:\n    a.b/c: x\n    cloudName:\n    objects: |\n\n      array:\n        - |\n          objectName: ä\n          objectType: sécret # why\n        - \"objectName: q\\nobjectType: key\"\n";

    fn written(path: &str) -> String {
        let root = View::read(CLASS, 0).ok().flatten().unwrap();
        CLASS.chars().collect::<Vec<_>>()[root.spot(path).span].iter().collect()
    }

    #[test]
    fn paths_lead_through_strings_to_the_file() {
        assert_eq!(written("spec.parameters.objects.array[0].objectName"), "ä");
        assert_eq!(written("spec.parameters.objects.array[0].objectType"), "sécret");
        assert_eq!(written("spec.parameters.objects.array[1].objectType"), "key");
        assert_eq!(written("spec.parameters[\"a.b/c\"]"), "x");
    }

    #[test]
    fn what_is_not_there_is_pointed_at_where_it_should_be() {
        assert_eq!(written("spec.parameters.cloudName"), "cloudName");
        assert_eq!(written("spec.parameters.objects.array[0].objectAlias"), "objectName: ä");
        assert_eq!(written("spec.parameters.nothing"), "parameters");
        assert_eq!(written("spec.parameters.objects.array[7].objectName"), "array");
    }

    #[test]
    fn paths_are_put_together_as_they_are_taken_apart() {
        let path = below(&below(&below("", "spec"), "a.b/c"), "d");
        assert_eq!(path, "spec[\"a.b/c\"].d");
        let keys: Vec<_> = steps(&path)
            .into_iter()
            .map(|step| match step {
                Step::Key(key) => key,
                Step::Item(index) => index.to_string(),
            })
            .collect();
        assert_eq!(keys, ["spec", "a.b/c", "d"]);
    }
}
