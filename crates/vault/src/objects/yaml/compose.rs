//! Tokens to nodes.

use std::{collections::HashMap, rc::Rc};

use super::{
    YamlError,
    scanner::{DEEPEST, Mark, Scanner, Token},
};

/// Where a node is in [`Document::nodes`].
pub(super) type NodeId = usize;

/// The first document of a text.
#[derive(Debug)]
pub(super) struct Document {
    nodes: Vec<Node>,
    pub(super) root: NodeId,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) content: Content,
    /// The tag written at it, in full; `None` for none and for `!`.
    pub(super) tag: Option<String>,
    /// Counted from 1.
    pub(super) line: usize,
    /// Index of its first character.
    pub(super) start: usize,
    /// Index after its last character; for collections and aliases, where it is not looked for, the same as `start`.
    pub(super) end: usize,
}

#[derive(Debug)]
pub(super) enum Content {
    /// `places` has the index in the text of each of the value's characters.
    Scalar {
        value: Rc<str>,
        plain: bool,
        places: Vec<u32>,
    },
    Sequence(Vec<NodeId>),
    Mapping(Vec<(NodeId, NodeId)>),
    Alias {
        name: String,
        target: NodeId,
    },
}

impl Content {
    /// What is not written: a plain scalar of no characters.
    fn nothing() -> Self {
        Self::Scalar { value: Rc::from(""), plain: true, places: Vec::new() }
    }
}

impl Document {
    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }
}

/// The first document; `None` when there is none.
pub(super) fn compose(text: &str) -> Result<Option<Document>, YamlError> {
    let mut composer = Composer {
        scanner: Scanner::new(text)?,
        nodes: Vec::new(),
        anchors: HashMap::new(),
        tags: Vec::new(),
        depth: 0,
    };
    let Some(root) = composer.document()? else { return Ok(None) };
    Ok(Some(Document { nodes: composer.nodes, root }))
}

struct Composer {
    scanner: Scanner,
    nodes: Vec<Node>,
    anchors: HashMap<String, NodeId>,
    /// Handle and prefix of each tag shorthand.
    tags: Vec<(String, String)>,
    depth: usize,
}

impl Composer {
    fn document(&mut self) -> Result<Option<NodeId>, YamlError> {
        let implicit = !matches!(
            self.scanner.peek()?.0,
            Token::Version(..) | Token::TagDirective { .. } | Token::DocumentStart | Token::StreamEnd
        );
        if !implicit {
            if *self.scanner.peek()?.0 == Token::StreamEnd {
                return Ok(None);
            }
            self.directives()?;
        }
        for (handle, prefix) in [("!", "!"), ("!!", "tag:yaml.org,2002:")] {
            if !self.tags.iter().any(|(known, _)| known == handle) {
                self.tags.push((handle.to_owned(), prefix.to_owned()));
            }
        }
        let root = if !implicit
            && matches!(
                self.scanner.peek()?.0,
                Token::Version(..)
                    | Token::TagDirective { .. }
                    | Token::DocumentStart
                    | Token::DocumentEnd
                    | Token::StreamEnd
            ) {
            self.empty()?
        } else {
            self.node(true, false)?
        };
        // What follows the root is looked at, but only to see that it can be read.
        self.scanner.peek()?;
        Ok(Some(root))
    }

    fn directives(&mut self) -> Result<(), YamlError> {
        let mut version = false;
        loop {
            let (token, mark) = self.scanner.next()?;
            match token {
                Token::Version(..) if version => return Err(error(mark, "found duplicate %YAML directive")),
                Token::Version(1, 1) => version = true,
                Token::Version(..) => return Err(error(mark, "found incompatible YAML document")),
                Token::TagDirective { handle, .. } if self.tags.iter().any(|(known, _)| *known == handle) => {
                    return Err(error(mark, "found duplicate %TAG directive"));
                }
                Token::TagDirective { handle, prefix } => self.tags.push((handle, prefix)),
                Token::DocumentStart => return Ok(()),
                _ => return Err(error(mark, "did not find expected <document start>")),
            }
        }
    }

    fn add(&mut self, content: Content, tag: Option<String>, mark: Mark) -> NodeId {
        self.nodes.push(Node { content, tag, line: mark.line + 1, start: mark.index, end: mark.index });
        self.nodes.len() - 1
    }

    fn empty(&mut self) -> Result<NodeId, YamlError> {
        let mark = self.scanner.peek()?.1;
        Ok(self.add(Content::nothing(), None, mark))
    }

    fn node(&mut self, block: bool, indentless: bool) -> Result<NodeId, YamlError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            let here = self.scanner.peek()?.1.index;
            return Err(YamlError::at(here, format!("exceeded max depth of {DEEPEST}")));
        }
        let node = self.node_inside(block, indentless);
        self.depth -= 1;
        node
    }

    fn node_inside(&mut self, block: bool, indentless: bool) -> Result<NodeId, YamlError> {
        let start = self.scanner.peek()?.1;
        if let Token::Alias(name) = self.scanner.peek()?.0 {
            let name = name.clone();
            self.scanner.next()?;
            let Some(&target) = self.anchors.get(&name) else {
                return Err(YamlError::at(start.index, format!("unknown anchor '{name}' referenced")));
            };
            return Ok(self.add(Content::Alias { name, target }, None, start));
        }
        let (mut anchor, mut tag) = (None, None);
        loop {
            match self.scanner.peek()?.0 {
                Token::Anchor(name) if anchor.is_none() => anchor = Some(name.clone()),
                Token::Tag { handle, suffix } if tag.is_none() => {
                    let full = if handle.is_empty() {
                        suffix.clone()
                    } else {
                        match self.tags.iter().find(|(known, _)| known == handle) {
                            Some((_, prefix)) => format!("{prefix}{suffix}"),
                            None => return Err(error(start, "found undefined tag handle")),
                        }
                    };
                    tag = Some(full);
                }
                _ => break,
            }
            self.scanner.next()?;
        }
        let described = anchor.is_some() || tag.is_some();
        // Known before its content is read, so that the content may refer to it.
        let tag = tag.filter(|tag| !tag.is_empty() && tag != "!");
        let id = self.add(Content::Sequence(Vec::new()), tag, start);
        if let Some(name) = anchor {
            self.anchors.insert(name, id);
        }
        let content = match self.scanner.peek()?.0 {
            Token::BlockEntry if indentless => Content::Sequence(self.indentless_sequence()?),
            Token::Scalar { .. } => match self.scanner.next()?.0 {
                Token::Scalar { value, plain, places, end } => {
                    self.nodes[id].end = end;
                    Content::Scalar { value: Rc::from(value), plain, places }
                }
                _ => return Err(error(start, "did not find expected node content")),
            },
            Token::FlowSequenceStart => Content::Sequence(self.flow_sequence()?),
            Token::FlowMappingStart => Content::Mapping(self.flow_mapping()?),
            Token::BlockSequenceStart if block => Content::Sequence(self.block_sequence()?),
            Token::BlockMappingStart if block => Content::Mapping(self.block_mapping()?),
            _ if described => Content::nothing(),
            _ => return Err(error(self.scanner.peek()?.1, "did not find expected node content")),
        };
        self.nodes[id].content = content;
        Ok(id)
    }

    fn block_sequence(&mut self) -> Result<Vec<NodeId>, YamlError> {
        self.scanner.next()?;
        let mut items = Vec::new();
        loop {
            let (token, mark) = self.scanner.next()?;
            match token {
                Token::BlockEntry => items.push(match self.scanner.peek()?.0 {
                    Token::BlockEntry | Token::BlockEnd => self.empty()?,
                    _ => self.node(true, false)?,
                }),
                Token::BlockEnd => return Ok(items),
                _ => return Err(error(mark, "did not find expected '-' indicator")),
            }
        }
    }

    /// A sequence at the indentation of the mapping it is a value of.
    fn indentless_sequence(&mut self) -> Result<Vec<NodeId>, YamlError> {
        let mut items = Vec::new();
        while *self.scanner.peek()?.0 == Token::BlockEntry {
            self.scanner.next()?;
            items.push(match self.scanner.peek()?.0 {
                Token::BlockEntry | Token::Key | Token::Value | Token::BlockEnd => self.empty()?,
                _ => self.node(true, false)?,
            });
        }
        Ok(items)
    }

    fn block_mapping(&mut self) -> Result<Vec<(NodeId, NodeId)>, YamlError> {
        self.scanner.next()?;
        let mut entries = Vec::new();
        loop {
            let (token, mark) = self.scanner.next()?;
            match token {
                Token::Key => {
                    let key = self.block_mapping_part()?;
                    let value = if *self.scanner.peek()?.0 == Token::Value {
                        self.scanner.next()?;
                        self.block_mapping_part()?
                    } else {
                        self.empty()?
                    };
                    entries.push((key, value));
                }
                Token::BlockEnd => return Ok(entries),
                _ => return Err(error(mark, "did not find expected key")),
            }
        }
    }

    fn block_mapping_part(&mut self) -> Result<NodeId, YamlError> {
        match self.scanner.peek()?.0 {
            Token::Key | Token::Value | Token::BlockEnd => self.empty(),
            _ => self.node(true, true),
        }
    }

    fn flow_sequence(&mut self) -> Result<Vec<NodeId>, YamlError> {
        self.scanner.next()?;
        let mut items = Vec::new();
        loop {
            if *self.scanner.peek()?.0 == Token::FlowSequenceEnd {
                break;
            }
            if !items.is_empty() {
                let (token, mark) = self.scanner.next()?;
                if token != Token::FlowEntry {
                    return Err(error(mark, "did not find expected ',' or ']'"));
                }
            }
            match self.scanner.peek()?.0 {
                Token::FlowSequenceEnd => break,
                Token::Key => {
                    let mark = self.scanner.next()?.1;
                    let pair = self.flow_pair()?;
                    let item = self.add(Content::Mapping(vec![pair]), None, mark);
                    items.push(item);
                }
                _ => items.push(self.node(false, false)?),
            }
        }
        self.scanner.next()?;
        Ok(items)
    }

    /// `key: value` inside `[ ]`.
    fn flow_pair(&mut self) -> Result<(NodeId, NodeId), YamlError> {
        let key = match self.scanner.peek()?.0 {
            Token::Value | Token::FlowEntry | Token::FlowSequenceEnd => {
                // The token is taken with the empty key, so that `[? : a]` has no value either, as in libyaml.
                let key = self.empty()?;
                self.scanner.next()?;
                key
            }
            _ => self.node(false, false)?,
        };
        if *self.scanner.peek()?.0 == Token::Value {
            self.scanner.next()?;
            if !matches!(self.scanner.peek()?.0, Token::FlowEntry | Token::FlowSequenceEnd) {
                return Ok((key, self.node(false, false)?));
            }
        }
        Ok((key, self.empty()?))
    }

    fn flow_mapping(&mut self) -> Result<Vec<(NodeId, NodeId)>, YamlError> {
        self.scanner.next()?;
        let mut entries = Vec::new();
        loop {
            if *self.scanner.peek()?.0 == Token::FlowMappingEnd {
                break;
            }
            if !entries.is_empty() {
                let (token, mark) = self.scanner.next()?;
                if token != Token::FlowEntry {
                    return Err(error(mark, "did not find expected ',' or '}'"));
                }
            }
            match self.scanner.peek()?.0 {
                Token::FlowMappingEnd => break,
                Token::Key => {
                    self.scanner.next()?;
                    let key = self.flow_mapping_part()?;
                    let value = if *self.scanner.peek()?.0 == Token::Value {
                        self.scanner.next()?;
                        match self.scanner.peek()?.0 {
                            Token::FlowEntry | Token::FlowMappingEnd => self.empty()?,
                            _ => self.node(false, false)?,
                        }
                    } else {
                        self.empty()?
                    };
                    entries.push((key, value));
                }
                _ => {
                    let key = self.node(false, false)?;
                    let value = self.empty()?;
                    entries.push((key, value));
                }
            }
        }
        self.scanner.next()?;
        Ok(entries)
    }

    fn flow_mapping_part(&mut self) -> Result<NodeId, YamlError> {
        match self.scanner.peek()?.0 {
            Token::Value | Token::FlowEntry | Token::FlowMappingEnd => self.empty(),
            _ => self.node(false, false),
        }
    }
}

fn error(mark: Mark, problem: &str) -> YamlError {
    YamlError::at(mark.index, format!("line {}: {problem}", mark.line + 1))
}
