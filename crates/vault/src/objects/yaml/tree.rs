//! A text as a tree of nodes with their places, for whoever has to point at them.
//!
//! The same reader makes it that reads the `objects` parameter, so what it takes and refuses is what a mount takes and
//! refuses. Places are indices of characters. Aliases and merges are followed.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::compose::{Content, Document, NodeId, compose};
use super::resolve::{self, Resolved, resolve};
use super::{MOST_STEPS, YamlError};

/// A node and where it stands.
#[derive(Debug)]
pub struct Node {
    /// From its first character to the one after its last; for a collection, empty and at its start.
    pub span: Range<usize>,
    /// What it is.
    pub value: Value,
    /// Nodes in it, itself included, as often as they are referred to.
    size: usize,
}

/// What a node is.
#[derive(Debug)]
pub enum Value {
    /// A text, number, bool or null.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Rc<Node>>),
    /// Keys and values in the order they are written; those of a merge (`<<`) after the mapping's own. A key can be there
    /// twice, and [`Node::get`] gives its last value.
    Mapping(Entries),
}

/// Keys and values of a mapping.
type Entries = Vec<(Rc<Node>, Rc<Node>)>;

/// A scalar as written.
#[derive(Debug)]
pub struct Scalar {
    /// Its characters after quotes, escapes and indentation are taken away.
    pub text: String,
    /// What Kubernetes takes it for.
    pub kind: Kind,
    /// The place of each of its characters.
    places: Vec<u32>,
}

/// What Kubernetes' tools take a scalar for when they turn YAML into JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Null,
    /// A bool, also by the words `yes`, `no`, `on` and `off`.
    Bool,
    /// A number.
    Number,
    /// A string.
    Text,
}

/// Reads the first document of a text; `None` when there is none.
///
/// # Errors
/// [`YamlError`], with the place.
pub fn parse(text: &str) -> Result<Option<Rc<Node>>, YamlError> {
    let Some(document) = compose(text)? else { return Ok(None) };
    Builder { document: &document, built: HashMap::new() }.node(document.root).map(Some)
}

impl Node {
    /// The value of a key in a mapping.
    pub fn get(&self, key: &str) -> Option<&Rc<Self>> {
        self.entries().rev().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value)
    }

    /// The node of a key in a mapping.
    pub fn key(&self, key: &str) -> Option<&Rc<Self>> {
        self.entries().rev().find(|(name, _)| name.text() == Some(key)).map(|(name, _)| name)
    }

    /// Keys and values of a mapping; nothing for other nodes.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (&Rc<Self>, &Rc<Self>)> {
        let entries: &[_] = match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        };
        entries.iter().map(|(key, value)| (key, value))
    }

    /// The items of a list; nothing for other nodes.
    pub fn items(&self) -> &[Rc<Self>] {
        match &self.value {
            Value::Sequence(items) => items,
            _ => &[],
        }
    }

    /// A scalar that is not null.
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) if scalar.kind != Kind::Null => Some(scalar),
            _ => None,
        }
    }

    /// What is written in a scalar that is not null.
    pub fn text(&self) -> Option<&str> {
        self.scalar().map(|scalar| scalar.text.as_str())
    }

    /// Whether nothing is written here.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(Scalar { kind: Kind::Null, .. }))
    }
}

impl Scalar {
    /// Where a character of [`Scalar::text`] stands; for one past the end, the place after the last.
    pub fn place(&self, index: usize) -> Option<usize> {
        match self.places.get(index) {
            Some(&place) => usize::try_from(place).ok(),
            None => self.places.last().and_then(|&last| usize::try_from(last).ok()).map(|last| last + 1),
        }
    }
}

struct Builder<'d> {
    document: &'d Document,
    /// `None` for a node that is being built.
    built: HashMap<NodeId, Option<Rc<Node>>>,
}

impl Builder<'_> {
    fn node(&mut self, id: NodeId) -> Result<Rc<Node>, YamlError> {
        let node = self.document.node(id);
        if let Content::Alias { name, target } = &node.content {
            return match self.built.get(target) {
                Some(Some(built)) => Ok(Rc::clone(built)),
                _ => Err(YamlError::at(node.start, format!("anchor '{name}' value contains itself"))),
            };
        }
        self.built.insert(id, None);
        let (value, size) = match &node.content {
            Content::Scalar { value, plain, places } => {
                let kind = self.kind(id, value, *plain)?;
                (Value::Scalar(Scalar { text: (**value).to_owned(), kind, places: places.clone() }), 1)
            }
            Content::Sequence(items) => {
                let items = items.iter().map(|&item| self.node(item)).collect::<Result<Vec<_>, _>>()?;
                let size = items.iter().map(|item| item.size).fold(1, usize::saturating_add);
                (Value::Sequence(items), size)
            }
            Content::Mapping(entries) => {
                let entries = self.entries(entries)?;
                let sizes = entries.iter().flat_map(|(key, value)| [key.size, value.size]);
                let size = sizes.fold(1, usize::saturating_add);
                (Value::Mapping(entries), size)
            }
            Content::Alias { .. } => return Err(YamlError::at(node.start, "an alias to an alias")),
        };
        if size > MOST_STEPS {
            return Err(YamlError::at(node.start, "document contains excessive aliasing"));
        }
        let built = Rc::new(Node { span: node.start..node.end.max(node.start), value, size });
        self.built.insert(id, Some(Rc::clone(&built)));
        Ok(built)
    }

    fn entries(&mut self, entries: &[(NodeId, NodeId)]) -> Result<Entries, YamlError> {
        let (mut own, mut from): (Entries, Vec<Rc<Node>>) = (Vec::new(), Vec::new());
        for &(key, value) in entries {
            let node = self.document.node(key);
            let merges = matches!(&node.content, Content::Scalar { value, plain, .. }
                if &**value == "<<" && node.tag.as_deref().map_or(*plain, |tag| tag == resolve::MERGE));
            let (key, value) = (self.node(key)?, self.node(value)?);
            match &value.value {
                Value::Mapping(_) if merges => from.push(value),
                Value::Sequence(items) if merges => from.extend(items.iter().map(Rc::clone)),
                _ => own.push((key, value)),
            }
        }
        for mapping in from {
            for (key, value) in mapping.entries() {
                if !own.iter().any(|(known, _)| known.text() == key.text()) {
                    own.push((Rc::clone(key), Rc::clone(value)));
                }
            }
        }
        Ok(own)
    }

    fn kind(&self, id: NodeId, text: &str, plain: bool) -> Result<Kind, YamlError> {
        let node = self.document.node(id);
        Ok(match resolve(node.tag.as_deref(), plain, text)? {
            Resolved::Null => Kind::Null,
            Resolved::Bool => Kind::Bool,
            Resolved::Int(_) | Resolved::Float(_) => Kind::Number,
            Resolved::Text if plain && node.tag.is_none() && is_bool_word(text) => Kind::Bool,
            Resolved::Binary(_) | Resolved::Text => Kind::Text,
        })
    }
}

/// The words for a bool that YAML 1.1 has besides `true` and `false`. Kubernetes' tools know them, the reader of `objects` does
/// not.
fn is_bool_word(text: &str) -> bool {
    ["y", "yes", "on", "n", "no", "off"].iter().any(|word| {
        let mut capital = (*word).to_owned();
        if let Some(first) = capital.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        text == *word || text == capital || text == word.to_ascii_uppercase()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;

    fn at<'a>(text: &'a str, node: &Node) -> &'a str {
        let (start, end) = (node.span.start, node.span.end);
        let byte = |index| text.char_indices().nth(index).map_or(text.len(), |(byte, _)| byte);
        &text[byte(start)..byte(end)]
    }

    #[test]
    fn nodes_know_their_places() {
        let text = "a: plain # c\nb: 'it''s'\nc:\n- \"x\\ny\"\n- |\n  one\n   two\n\n  ü: three\nd: {e: 5}\n";
        let root = parse(text).unwrap().unwrap();
        for (key, source) in [("a", "plain"), ("b", "'it''s'")] {
            assert_eq!(at(text, root.get(key).unwrap()), source);
            assert_eq!(at(text, root.key(key).unwrap()), key);
        }
        assert_eq!(at(text, root.get("d").unwrap().get("e").unwrap()), "5");
        let items = root.get("c").unwrap().items();
        let chars: Vec<char> = text.chars().collect();
        for item in items {
            let scalar = item.scalar().unwrap();
            for (index, c) in scalar.text.chars().enumerate() {
                let source = chars[scalar.place(index).unwrap()];
                assert!(source == c || (source == '\\' && c == '\n'), "{index} {c:?} {source:?}");
            }
        }
        assert_eq!(items[1].text(), Some("one\n two\n\nü: three\n"));
    }

    #[test]
    fn kinds_are_those_of_kubernetes_tools() {
        let kind = |text: &str| {
            let root = parse(&format!("a: {text}")).unwrap().unwrap();
            match &root.get("a").unwrap().value {
                Value::Scalar(scalar) => scalar.kind,
                other => panic!("{other:?}"),
            }
        };
        for text in ["true", "No", "on", "OFF", "y"] {
            assert_eq!(kind(text), Kind::Bool, "{text}");
        }
        for text in ["\"true\"", "'no'", "yES", "!!str yes", "a"] {
            assert_eq!(kind(text), Kind::Text, "{text}");
        }
        assert_eq!(
            (kind("0755"), kind("1.5"), kind("~"), kind("")),
            (Kind::Number, Kind::Number, Kind::Null, Kind::Null)
        );
    }

    #[test]
    fn aliases_and_merges_are_followed() {
        let root = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n").unwrap().unwrap();
        let text = |key: &str, inner: &str| root.get(key)?.get(inner)?.text();
        assert_eq!((text("b", "x"), text("b", "y"), text("c", "y")), (Some("1"), Some("3"), Some("2")));
        assert!(parse("a: &a [*a]").unwrap_err().to_string().contains("contains itself"));
        let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (former, letter) in ('a'..='g').zip('b'..='h') {
            let items = vec![format!("*{former}"); 10].join(",");
            let _ = writeln!(bomb, "{letter}: &{letter} [{items}]");
        }
        assert!(parse(&bomb).unwrap_err().to_string().contains("excessive aliasing"));
    }

    proptest! {
        #[test]
        fn places_lead_back_into_the_text(text in "([a-c]: |- |\\| *\n|> *\n|\"|'|\\\\n|\n|  |[a-z]|ü|,|\\[|\\]){0,40}") {
            fn check(text: &[char], node: &Node) {
                assert!(node.span.start <= node.span.end && node.span.end <= text.len());
                if let Some(scalar) = node.scalar() {
                    let places: Vec<_> = (0..scalar.text.chars().count()).filter_map(|index| scalar.place(index)).collect();
                    assert!(places.is_sorted() && places.iter().all(|&place| place < text.len()), "{places:?}");
                }
                node.items().iter().for_each(|item| check(text, item));
                node.entries().for_each(|(key, value)| {
                    check(text, key);
                    check(text, value);
                });
            }
            let chars: Vec<char> = text.chars().collect();
            match parse(&text) {
                Ok(Some(root)) => check(&chars, &root),
                Ok(None) => {}
                Err(error) => prop_assert!(error.place().is_none_or(|place| place <= chars.len())),
            }
        }
    }
}
