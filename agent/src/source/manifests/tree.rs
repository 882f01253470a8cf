//! A YAML (or JSON) document as a tree that knows where each node stands.
//!
//! Built from the parser's events, because neither serde nor Kubernetes' types can keep positions.
//! For any bytes, building ends: nesting and what aliases expand to are bounded, and nothing
//! recurses over the input.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use super::scalar::{Scalar, resolve};
use super::span::{Span, TextPosition};

/// How deep a document may nest, aliases followed. Kubernetes objects stay
/// below 20.
const MAX_DEPTH: usize = 128;

/// How many nodes the aliases of one document may stand for, or nine lines of
/// text become a thousand million nodes.
const MAX_ALIASED: usize = 1_000_000;

/// A node of a document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct YamlNode {
    pub(super) span: Span,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A word: `plain` where it has no quotes, so that `80` may be a number.
    Scalar {
        text: Box<str>,
        plain: bool,
    },
    List(Vec<YamlNode>),
    Map(Vec<MappingEntry>),
    /// A node with an anchor, or an alias of it.
    Shared(Arc<YamlNode>),
}

/// A key of a mapping and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MappingEntry {
    pub(super) key: Box<str>,
    pub(super) at: Span,
    pub(super) node: YamlNode,
}

impl YamlNode {
    /// The node itself, or what an alias stands for.
    pub(super) fn resolved(&self) -> &Self {
        let mut node = self;
        while let Value::Shared(shared) = &node.value {
            node = shared;
        }
        node
    }

    /// The value of a key, if this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.resolved().value {
            Value::Map(entries) => entries.iter().find(|entry| *entry.key == *key).map(|entry| &entry.node),
            _ => None,
        }
    }

    /// The value of a key of a mapping, or the item of a list with this index.
    fn child(&self, token: &str) -> Option<&Self> {
        match &self.resolved().value {
            Value::List(items) => items.get(token.parse::<usize>().ok()?),
            _ => self.get(token),
        }
    }

    /// The value that these keys and indexes lead to, one after the other.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, token| node.child(token))
    }

    /// What the node holds, an alias followed.
    pub(super) fn into_value(self) -> Value {
        match self.value {
            Value::Shared(shared) => shared.resolved().value.clone(),
            value => value,
        }
    }

    /// The text of a scalar, quoted or not.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.resolved().value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// What kubectl takes a scalar for.
    pub(super) fn scalar(&self) -> Option<Scalar> {
        match &self.resolved().value {
            Value::Scalar { text, plain: true } => Some(resolve(text).value),
            Value::Scalar { .. } => Some(Scalar::Text),
            _ => None,
        }
    }

    /// The node as JSON, its scalars as kubectl takes them.
    pub(super) fn json(&self) -> serde_json::Value {
        match &self.resolved().value {
            Value::List(items) => items.iter().map(Self::json).collect(),
            Value::Map(entries) => entries.iter().map(|entry| (entry.key.to_string(), entry.node.json())).collect(),
            Value::Scalar { text, .. } => match self.scalar() {
                Some(Scalar::Null) => serde_json::Value::Null,
                Some(Scalar::Bool(value)) => value.into(),
                Some(Scalar::Int(number)) => number.into(),
                Some(Scalar::Float(number)) => number.into(),
                Some(Scalar::Text) | None => text.to_string().into(),
            },
            Value::Shared(_) => serde_json::Value::Null,
        }
    }

    /// Whether this is the absence of a value: `~`, `null` or nothing.
    pub(super) fn is_null(&self) -> bool {
        self.scalar() == Some(Scalar::Null)
    }
}

/// Why a document could not be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TreeError {
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) help: &'static str,
}

/// Reads the documents of a text, one after the other; after a broken one it
/// goes on behind the next `---`. The text begins at this place of its file. `trim` is shown
/// each document, and each item of a list as soon as it is complete, and may drop what npc
/// will not ask for.
pub(super) fn documents(
    text: &str,
    at: TextPosition,
    trim: fn(&mut YamlNode),
    each: &mut dyn FnMut(Result<YamlNode, TreeError>),
) {
    let mut options = granit_parser::options! { flow_nesting_limit: MAX_DEPTH, block_nesting_limit: MAX_DEPTH };
    options.set_emit_comments(false);
    let mut parser = Parser::new_from_str_with_options(text.strip_prefix('\u{feff}').unwrap_or(text), options);
    let mut builder = Builder::new(at, trim);
    loop {
        let fault = match parser.next_event() {
            None => return,
            Some(Ok((event, span))) => match builder.take(event, span) {
                Ok(None) => continue,
                Ok(Some(document)) => {
                    each(Ok(document));
                    continue;
                }
                Err(fault) => fault,
            },
            Some(Err(error)) => TreeError::of(&error, at),
        };
        each(Err(fault));
        builder = Builder::new(at, trim);
        if !matches!(parser.proceed_next_document(), Ok(true)) {
            return;
        }
    }
}

impl TreeError {
    fn of(error: &ScanError, begin: TextPosition) -> Self {
        let at = mark(*error.marker()).from(begin);
        let message = error.info();
        let help = if message.contains("tab") {
            "indent with spaces"
        } else if message.contains("mapping values are not allowed") {
            "look for a missing line break, wrong indentation, or text with \": \" that needs quotes"
        } else {
            ""
        };
        Self { span: Span { start: at, end: at }, message, help }
    }
}

fn mark(marker: Marker) -> TextPosition {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    TextPosition { line: number(marker.line()).max(1), column: number(marker.col()).saturating_add(1) }
}

/// The collections that are still open, and the anchors of the document.
struct Builder {
    open: Vec<Frame>,
    /// By the parser's number; a node is in here once it is complete.
    anchors: HashMap<usize, Anchored>,
    /// How many nodes this document's aliases stand for.
    aliased: usize,
    /// The end of the last thing with any extent: a block collection ends
    /// there, while the parser sees its end only at what follows.
    end: TextPosition,
    /// Where the text begins in its file.
    begin: TextPosition,
    trim: fn(&mut YamlNode),
}

struct Anchored {
    node: Arc<YamlNode>,
    nodes: usize,
    depth: usize,
}

/// A collection whose end has not come yet.
struct Frame {
    start: TextPosition,
    anchor: usize,
    /// Nodes inside it, aliases expanded.
    nodes: usize,
    /// Levels inside it.
    depth: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<YamlNode>),
    Map { entries: Vec<MappingEntry>, key: Option<Key>, merged: Vec<YamlNode> },
}

struct Key {
    text: Box<str>,
    at: Span,
    /// It is the `<<` that takes over another mapping's entries.
    merge: bool,
}

/// A complete node with its measures.
struct Done {
    node: YamlNode,
    nodes: usize,
    depth: usize,
}

impl Builder {
    fn new(begin: TextPosition, trim: fn(&mut YamlNode)) -> Self {
        Self { open: Vec::new(), anchors: HashMap::new(), aliased: 0, end: begin, begin, trim }
    }

    /// Takes one event; the document, once it is complete.
    fn take(&mut self, event: Event<'_>, span: granit_parser::Span) -> Result<Option<YamlNode>, TreeError> {
        let (start, end) = (mark(span.start).from(self.begin), mark(span.end).from(self.begin));
        let has_extent = start != end;
        if has_extent && !matches!(event, Event::SequenceEnd | Event::MappingEnd) {
            self.end = end;
        }
        match event {
            Event::DocumentStart(..) => {
                self.anchors.clear();
                self.aliased = 0;
                self.end = start;
                Ok(None)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(start, anchor, Inside::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                self.begin(start, anchor, Inside::Map { entries: Vec::new(), key: None, merged: Vec::new() })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                // `]` and `}` have an extent, the end of indentation has none.
                if has_extent {
                    self.end = end;
                }
                let Some(frame) = self.open.pop() else { return Ok(None) };
                let done = self.close(frame)?;
                self.add(done)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = match tag.as_deref().and_then(granit_parser::Tag::core_suffix) {
                    Some("str") => false,
                    Some("int" | "bool" | "float" | "null") => true,
                    _ => style == ScalarStyle::Plain,
                };
                // A value that is left out stands behind its key or dash.
                let span = Span { start, end };
                self.end = end;
                let node = YamlNode { span, value: Value::Scalar { text: text.into(), plain } };
                let done = self.anchor(anchor, Done { node, nodes: 1, depth: 1 });
                self.add(done)
            }
            Event::Alias(id) => {
                let fault =
                    |message: &str, help| TreeError { span: Span { start, end }, message: message.to_owned(), help };
                let Some(target) = self.anchors.get(&id) else {
                    return Err(fault("this alias stands inside what it refers to", "write the value out"));
                };
                self.aliased += target.nodes;
                if self.aliased > MAX_ALIASED || self.open.len() + target.depth > MAX_DEPTH {
                    return Err(fault("the aliases of this document expand to too much", "write the values out"));
                }
                let value = Value::Shared(Arc::clone(&target.node));
                let node = YamlNode { span: Span { start, end }, value };
                let done = Done { node, nodes: target.nodes, depth: target.depth };
                self.add(done)
            }
            _ => Ok(None),
        }
    }

    fn begin(&mut self, start: TextPosition, anchor: usize, inside: Inside) -> Result<Option<YamlNode>, TreeError> {
        if self.open.len() >= MAX_DEPTH {
            let message = format!("nested more than {MAX_DEPTH} levels deep");
            return Err(TreeError {
                span: Span { start, end: start },
                message,
                help: "no Kubernetes object nests so deep",
            });
        }
        self.open.push(Frame { start, anchor, nodes: 1, depth: 1, inside });
        Ok(None)
    }

    /// Makes a node of a collection that has come to its end.
    fn close(&mut self, frame: Frame) -> Result<Done, TreeError> {
        let value = match frame.inside {
            Inside::List(items) => Value::List(items),
            Inside::Map { entries, merged, .. } => {
                let mut entries = distinct(entries)?;
                if !merged.is_empty() {
                    let mut keys: HashSet<Box<str>> = entries.iter().map(|entry| entry.key.clone()).collect();
                    for source in &merged {
                        merge(&mut entries, &mut keys, source)?;
                    }
                }
                Value::Map(entries)
            }
        };
        let span = Span { start: frame.start, end: self.end.max(frame.start) };
        let mut node = YamlNode { span, value };
        if self.is_item_of_list() {
            (self.trim)(&mut node);
        }
        Ok(self.anchor(frame.anchor, Done { node, nodes: frame.nodes, depth: frame.depth }))
    }

    /// Whether what has just been closed is an object of its own: the whole
    /// document, or an item of a `List`.
    fn is_item_of_list(&self) -> bool {
        match self.open.as_slice() {
            [] => true,
            [Frame { inside: Inside::Map { key: Some(key), .. }, .. }, Frame { inside: Inside::List(_), .. }] => {
                &*key.text == "items"
            }
            _ => false,
        }
    }

    /// Remembers a node under its anchor, if it has one.
    fn anchor(&mut self, anchor: usize, mut done: Done) -> Done {
        if anchor != 0 {
            let (span, node) = (done.node.span, Arc::new(done.node));
            let kept = Anchored { node: Arc::clone(&node), nodes: done.nodes, depth: done.depth };
            self.anchors.insert(anchor, kept);
            done.node = YamlNode { span, value: Value::Shared(node) };
        }
        done
    }

    /// Puts a complete node into the collection around it; the document, if
    /// there is none.
    fn add(&mut self, done: Done) -> Result<Option<YamlNode>, TreeError> {
        let Some(frame) = self.open.last_mut() else { return Ok(Some(done.node)) };
        frame.nodes += done.nodes;
        frame.depth = frame.depth.max(done.depth + 1);
        match &mut frame.inside {
            Inside::List(items) => items.push(done.node),
            Inside::Map { entries, key, merged } => match key.take() {
                None => *key = Some(as_key(&done.node)?),
                Some(Key { merge: true, .. }) => merged.push(done.node),
                Some(Key { text, at, .. }) => entries.push(MappingEntry { key: text, at, node: done.node }),
            },
        }
        Ok(None)
    }
}

/// A node as the key of a mapping.
fn as_key(node: &YamlNode) -> Result<Key, TreeError> {
    let at = node.span;
    match &node.resolved().value {
        Value::Scalar { text, plain } => Ok(Key { text: text.clone(), at, merge: *plain && &**text == "<<" }),
        _ => Err(TreeError {
            span: at,
            message: "a key must be text, not a list or mapping".to_owned(),
            help: "a template's {{ … }} must be rendered first",
        }),
    }
}

/// The entries, if no key comes twice: JSON has no answer to that, and
/// Kubernetes refuses it.
pub(super) fn distinct(entries: Vec<MappingEntry>) -> Result<Vec<MappingEntry>, TreeError> {
    let mut seen: HashSet<&str> = HashSet::with_capacity(entries.len());
    match entries.iter().find(|entry| !seen.insert(&entry.key)) {
        None => Ok(entries),
        Some(twice) => Err(TreeError {
            span: twice.at,
            message: format!("the key {:?} is there twice", twice.key),
            help: "join the two, or begin a new list item with \"-\", or a new document with \"---\"",
        }),
    }
}

/// Adds the entries of the mapping (or list of mappings) behind a `<<`; what
/// is there stays. `keys` are those of `entries`.
fn merge(entries: &mut Vec<MappingEntry>, keys: &mut HashSet<Box<str>>, source: &YamlNode) -> Result<(), TreeError> {
    let mappings = match &source.resolved().value {
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(source),
    };
    for mapping in mappings {
        let Value::Map(from) = &mapping.resolved().value else {
            return Err(TreeError {
                span: source.span,
                message: "\"<<\" takes a mapping, or a list of mappings".to_owned(),
                help: "",
            });
        };
        for entry in from {
            if keys.insert(entry.key.clone()) {
                entries.push(entry.clone());
            }
        }
    }
    Ok(())
}
