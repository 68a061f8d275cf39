//! YAML into the few shapes the `objects` parameter has.
//!
//! Text fields take what is written, whatever type it looks like: `0755`, `1e10` and `true` stay as they are; only a
//! null leaves a field empty. A library that resolves types first cannot do that, and those that keep the text read
//! YAML 1.2 or panic on broken input, so this module goes from tokens to fields by itself.

mod compose;
mod resolve;
mod scanner;
pub mod tree;

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    rc::Rc,
};

use compose::{Content, Document, NodeId, compose};
use resolve::{Resolved, resolve};

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// It is not YAML, or cannot be made sense of at all.
    #[error("yaml: {problem}")]
    Syntax {
        /// What is wrong.
        problem: String,
        /// Where, as an index of the text's characters, if that is known.
        at: Option<usize>,
    },
    /// It is, but not of the right shape; every place that is wrong.
    #[error("yaml: unmarshal errors: {}", .0.iter().map(|misfit| misfit.problem.as_str()).collect::<Vec<_>>().join(", "))]
    Shape(Vec<Misfit>),
}

/// A node that is not of the right shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// What is wrong, with its line.
    pub problem: String,
    /// Where, as an index of the text's characters.
    pub at: usize,
}

impl YamlError {
    fn at(at: usize, problem: impl Into<String>) -> Self {
        Self::Syntax { problem: problem.into(), at: Some(at) }
    }

    fn somewhere(problem: impl Into<String>) -> Self {
        Self::Syntax { problem: problem.into(), at: None }
    }

    /// Where the first mistake is, as an index of the text's characters.
    pub fn place(&self) -> Option<usize> {
        match self {
            Self::Syntax { at, .. } => *at,
            Self::Shape(misfits) => misfits.first().map(|misfit| misfit.at),
        }
    }
}

/// The fields of one object, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) object_name: String,
    pub(super) object_alias: String,
    pub(super) object_type: String,
    pub(super) object_version: String,
    pub(super) object_version_history: i32,
    pub(super) object_format: String,
    pub(super) object_encoding: String,
    pub(super) file_permission: String,
}

/// All items of a list together may be this long; aliases could make them much longer than the text.
const LARGEST_EXPANSION: usize = 8 << 20;
/// Nodes looked at while reading one text; aliases could make them exponentially many.
const MOST_STEPS: usize = 1_000_000;

/// The strings of `array:` in a mapping, without nulls. None when the text is empty or has no `array`.
pub(super) fn string_array(text: &str) -> Result<Vec<Rc<str>>, YamlError> {
    let Some(document) = compose(text)? else { return Ok(Vec::new()) };
    let mut reader = Reader::new(&document);
    let mut items = Vec::new();
    let mut total = 0;
    reader.mapping(document.root, "types.StringArray", &mut |reader, key, value| {
        if key != "array" {
            return Ok(false);
        }
        let value = reader.follow(value)?;
        let node = document.node(value);
        match &node.content {
            Content::Sequence(entries) => {
                for &entry in entries {
                    if let Some(item) = reader.string(entry)? {
                        total += item.len();
                        if total > LARGEST_EXPANSION {
                            return Err(YamlError::somewhere("document contains excessive aliasing"));
                        }
                        items.push(item);
                    }
                }
            }
            _ => {
                if !reader.is_null(value)? {
                    reader.wrong_shape(value, "[]string")?;
                }
            }
        }
        Ok(true)
    })?;
    reader.finish(items)
}

/// The fields of one object.
pub(super) fn object(text: &str) -> Result<Fields, YamlError> {
    let mut fields = Fields::default();
    let Some(document) = compose(text)? else { return Ok(fields) };
    let mut reader = Reader::new(&document);
    reader.mapping(document.root, "types.KeyVaultObject", &mut |reader, key, value| {
        let field = match key {
            "objectName" => &mut fields.object_name,
            "objectAlias" => &mut fields.object_alias,
            "objectType" => &mut fields.object_type,
            "objectVersion" => &mut fields.object_version,
            "objectFormat" => &mut fields.object_format,
            "objectEncoding" => &mut fields.object_encoding,
            "filePermission" => &mut fields.file_permission,
            "objectVersionHistory" => {
                if let Some(number) = reader.int32(value)? {
                    fields.object_version_history = number;
                }
                return Ok(true);
            }
            _ => return Ok(false),
        };
        if let Some(text) = reader.string(value)? {
            (*text).clone_into(field);
        }
        Ok(true)
    })?;
    reader.finish(fields)
}

/// Called with each key and the node of its value; says whether the key is a known field.
type Visit<'a, 'd> = &'a mut dyn FnMut(&mut Reader<'d>, &str, NodeId) -> Result<bool, YamlError>;

struct Reader<'d> {
    document: &'d Document,
    wrong: Vec<Misfit>,
    steps: usize,
    /// Aliases being followed, to notice one inside itself.
    following: HashSet<NodeId>,
}

impl<'d> Reader<'d> {
    fn new(document: &'d Document) -> Self {
        Self { document, wrong: Vec::new(), steps: 0, following: HashSet::new() }
    }

    fn finish<T>(self, value: T) -> Result<T, YamlError> {
        if self.wrong.is_empty() { Ok(value) } else { Err(YamlError::Shape(self.wrong)) }
    }

    /// The node behind an alias, or the node itself. An alias never leads to another.
    fn follow(&mut self, id: NodeId) -> Result<NodeId, YamlError> {
        self.steps += 1;
        if self.steps > MOST_STEPS {
            return Err(YamlError::somewhere("document contains excessive aliasing"));
        }
        match &self.document.node(id).content {
            Content::Alias { name, target } if self.following.contains(target) => Err(YamlError::at(
                self.document.node(id).start,
                format!("anchor '{name}' value contains itself"),
            )),
            Content::Alias { target, .. } => Ok(*target),
            _ => Ok(id),
        }
    }

    fn is_null(&mut self, id: NodeId) -> Result<bool, YamlError> {
        let node = self.document.node(id);
        match &node.content {
            Content::Scalar { value, plain, .. } => {
                Ok(matches!(resolve(node.tag.as_deref(), *plain, value)?, Resolved::Null))
            }
            _ => Ok(node.tag.as_deref() == Some(resolve::NULL)),
        }
    }

    /// Notes that a node is not what it should be.
    fn wrong_shape(&mut self, id: NodeId, wanted: &str) -> Result<(), YamlError> {
        let node = self.document.node(id);
        let found = match &node.content {
            Content::Scalar { value, plain, .. } => {
                let tag = resolve::short_tag(node.tag.as_deref(), *plain, value)?;
                let mut text: String = value.chars().take(10).collect();
                if value.chars().nth(10).is_some() {
                    text = format!("{}...", value.chars().take(7).collect::<String>());
                }
                format!("{tag} `{text}`")
            }
            Content::Sequence(_) => "!!seq".to_owned(),
            Content::Mapping(_) | Content::Alias { .. } => "!!map".to_owned(),
        };
        let problem = format!("line {}: cannot unmarshal {found} into {wanted}", node.line);
        self.wrong.push(Misfit { problem, at: node.start });
        Ok(())
    }

    /// What is written at a node; `None` for a null, or for another shape, which is noted.
    fn string(&mut self, id: NodeId) -> Result<Option<Rc<str>>, YamlError> {
        let id = self.follow(id)?;
        let node = self.document.node(id);
        let Content::Scalar { value, plain, .. } = &node.content else {
            if !self.is_null(id)? {
                self.wrong_shape(id, "string")?;
            }
            return Ok(None);
        };
        Ok(match resolve(node.tag.as_deref(), *plain, value)? {
            Resolved::Null => None,
            Resolved::Binary(text) => Some(Rc::from(text)),
            _ => Some(Rc::clone(value)),
        })
    }

    /// A number that fits 32 bits; fractions are cut off.
    fn int32(&mut self, id: NodeId) -> Result<Option<i32>, YamlError> {
        let id = self.follow(id)?;
        let node = self.document.node(id);
        let number = match &node.content {
            Content::Scalar { value, plain, .. } => match resolve(node.tag.as_deref(), *plain, value)? {
                Resolved::Null => return Ok(None),
                Resolved::Int(number) => i32::try_from(number).ok(),
                Resolved::Float(number) => {
                    let whole = number.trunc();
                    #[expect(clippy::cast_possible_truncation, reason = "in range by the comparison before")]
                    (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&whole).then_some(whole as i32)
                }
                _ => None,
            },
            _ if self.is_null(id)? => return Ok(None),
            _ => None,
        };
        if number.is_none() {
            self.wrong_shape(id, "int32")?;
        }
        Ok(number)
    }

    /// Visits the entries of a mapping, those of its `<<` after its own.
    fn mapping(&mut self, id: NodeId, wanted: &str, visit: Visit<'_, 'd>) -> Result<(), YamlError> {
        self.mapping_below(id, wanted, &mut None, visit)
    }

    /// `seen` holds the keys that a merged mapping must not set again; `None` outside of merges.
    fn mapping_below(
        &mut self,
        id: NodeId,
        wanted: &str,
        seen: &mut Option<HashSet<String>>,
        visit: Visit<'_, 'd>,
    ) -> Result<(), YamlError> {
        let target = self.follow(id)?;
        let Content::Mapping(entries) = &self.document.node(target).content else {
            return if self.is_null(target)? { Ok(()) } else { self.wrong_shape(target, wanted) };
        };
        let newly = self.following.insert(target);
        if self.following.len() > scanner::DEEPEST {
            return Err(YamlError::somewhere("document contains excessive aliasing"));
        }
        if self.keys_are_unique(entries) {
            let mut done = HashMap::new();
            let mut merge = None;
            for &(key, value) in entries {
                if self.is_merge(key) {
                    merge = Some(value);
                    continue;
                }
                let (line, at) = (self.document.node(key).line, self.document.node(key).start);
                let Some(name) = self.string(key)? else { continue };
                if let Some(seen) = seen
                    && !seen.insert((*name).to_owned())
                {
                    continue;
                }
                match done.entry(Rc::clone(&name)) {
                    Entry::Occupied(known) if *known.get() => {
                        let problem = format!("line {line}: field {name} already set in type {wanted}");
                        self.wrong.push(Misfit { problem, at });
                    }
                    Entry::Occupied(_) => {}
                    Entry::Vacant(slot) => {
                        slot.insert(visit(self, &name, value)?);
                    }
                }
            }
            if let Some(merge) = merge {
                self.merge(entries, merge, wanted, seen, visit)?;
            }
        }
        if newly {
            self.following.remove(&target);
        }
        Ok(())
    }

    fn merge(
        &mut self,
        parent: &[(NodeId, NodeId)],
        merge: NodeId,
        wanted: &str,
        seen: &mut Option<HashSet<String>>,
        visit: Visit<'_, 'd>,
    ) -> Result<(), YamlError> {
        let mut own;
        let seen = if seen.is_some() {
            seen
        } else {
            let mut keys = HashSet::new();
            for &(key, _) in parent {
                if let Content::Scalar { value, .. } = &self.document.node(self.follow(key)?).content {
                    keys.insert((**value).to_owned());
                }
            }
            own = Some(keys);
            &mut own
        };
        let place = self.document.node(merge).start;
        let refused = || YamlError::at(place, "map merge requires map or sequence of maps as the value");
        let target = self.follow(merge)?;
        match &self.document.node(target).content {
            Content::Mapping(_) => self.mapping_below(merge, wanted, seen, visit),
            // A list counts only where it is written, not behind an alias.
            Content::Sequence(items) if target == merge => {
                for &item in items {
                    let target = self.follow(item)?;
                    if !matches!(self.document.node(target).content, Content::Mapping(_)) {
                        return Err(refused());
                    }
                    self.mapping_below(item, wanted, seen, visit)?;
                }
                Ok(())
            }
            _ => Err(refused()),
        }
    }

    fn is_merge(&self, id: NodeId) -> bool {
        let node = self.document.node(id);
        matches!(&node.content, Content::Scalar { value, plain, .. } if &**value == "<<"
            && node.tag.as_deref().map_or(*plain, |tag| tag == resolve::MERGE))
    }

    /// Notes each key that is written twice. Two collections as keys count as twice the same.
    fn keys_are_unique(&mut self, entries: &[(NodeId, NodeId)]) -> bool {
        let noted = self.wrong.len();
        let mut first = HashMap::new();
        for &(key, _) in entries {
            let node = self.document.node(key);
            let identity = match &node.content {
                Content::Scalar { value, .. } => (0, &**value),
                Content::Alias { name, .. } => (1, &**name),
                Content::Sequence(_) => (2, ""),
                Content::Mapping(_) => (3, ""),
            };
            match first.entry(identity) {
                Entry::Occupied(known) => self.wrong.push(Misfit {
                    problem: format!(
                        "line {}: mapping key {:?} already defined at line {}",
                        node.line,
                        identity.1,
                        known.get()
                    ),
                    at: node.start,
                }),
                Entry::Vacant(slot) => {
                    slot.insert(node.line);
                }
            }
        }
        self.wrong.len() == noted
    }
}

#[cfg(test)]
mod tests;
