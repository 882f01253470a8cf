//! Where each object stands in the files, and each field of a policy.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::field::{shared_text_of, span_of};
use super::long;
use super::problem::ObjectRef;
use super::span::{Span, TextPosition};
use super::tree::{self, YamlNode};

/// Where a field stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The file as it was named, `-` for standard input.
    pub file: Arc<str>,
    /// From the field's key, or the list item's first character, to the end
    /// of its value.
    pub span: Span,
    /// Whether the field itself was found. Otherwise this is the nearest
    /// field around it that the file has.
    pub exact: bool,
}

impl Location {
    /// The line, from 1.
    #[must_use]
    pub const fn line(&self) -> u32 {
        self.span.start.line
    }

    /// The column, from 1.
    #[must_use]
    pub const fn column(&self) -> u32 {
        self.span.start.column
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line(), self.column())
    }
}

/// The places of all objects that were read from files, those of the fields of policies,
/// and the files' text.
#[derive(Debug, Clone, Default)]
pub struct Positions {
    objects: BTreeMap<ObjectRef, ReadFrom>,
    sources: BTreeMap<Arc<str>, FileText>,
}

/// The text of a file; of a long list only the parts that places are asked for in, by the lines
/// in which they begin.
#[derive(Debug, Clone, Default)]
struct FileText {
    text: Arc<str>,
    parts: Arc<BTreeMap<u32, Box<str>>>,
}

/// Where one object was read.
#[derive(Debug, Clone)]
pub(super) struct ReadFrom {
    pub(super) file: Arc<str>,
    pub(super) node: Arc<YamlNode>,
    /// Its fields are read again from the text when they are asked for.
    pub(super) is_in_parts: bool,
}

impl Positions {
    pub(super) fn add_source(&mut self, file: Arc<str>, text: Arc<str>, parts: BTreeMap<u32, Box<str>>) {
        self.sources.insert(file, FileText { text, parts: Arc::new(parts) });
    }

    pub(super) fn add_object(&mut self, object: ObjectRef, origin: ReadFrom) {
        self.objects.insert(object, origin);
    }

    pub(in crate::source) fn merge(&mut self, other: Self) {
        self.objects.extend(other.objects);
        self.sources.extend(other.sources);
    }

    /// Where a field of an object stands. A path is written as the API writes
    /// it, list indexes from 0: `spec.ingress[1].from[0].podSelector`; the
    /// empty path is the object. Where the object has no such field, the
    /// nearest one around it that it has. `None` for an object that was not
    /// read from a file.
    #[must_use]
    pub fn locate(&self, kind: &str, namespace: &str, name: &str, path: &str) -> Option<Location> {
        self.locate_object(&ObjectRef::new(kind, namespace, name), path)
    }

    /// As [`Self::locate`], for an object reference.
    #[must_use]
    pub fn locate_object(&self, object: &ObjectRef, path: &str) -> Option<Location> {
        let origin = self.objects.get(object)?;
        let (span, exact) = match self.read_again(origin) {
            Some(node) => span_of(&node, path),
            None => span_of(&origin.node, path),
        };
        Some(Location { file: Arc::clone(&origin.file), span, exact })
    }

    /// Where the text of a field stands, if it is a YAML anchor's, which other places of the document may
    /// use too. Of other objects than policies as in [`Self::text`].
    #[must_use]
    pub fn shared_text(&self, object: &ObjectRef, path: &str) -> Option<Location> {
        let origin = self.objects.get(object)?;
        let read = self.read_again(origin);
        let span = shared_text_of(read.as_ref().unwrap_or(&origin.node), path)?;
        Some(Location { file: Arc::clone(&origin.file), span, exact: true })
    }

    /// The text of a scalar of an object, by the keys and the indexes that lead to it. Of objects that are no
    /// policies, npc keeps only the fields that a change needs.
    #[must_use]
    pub fn text(&self, object: &ObjectRef, path: &[&str]) -> Option<String> {
        let origin = self.objects.get(object)?;
        let read = self.read_again(origin);
        let node = read.as_ref().unwrap_or(&origin.node);
        node.at(path)?.text().map(str::to_owned)
    }

    /// What a field of a policy holds, as it is written.
    #[must_use]
    pub fn value(&self, object: &ObjectRef, path: &[&str]) -> Option<serde_json::Value> {
        let origin = self.objects.get(object)?;
        let read = self.read_again(origin);
        Some(read.as_ref().unwrap_or(&origin.node).at(path)?.json())
    }

    /// The metadata of an object, read again from the text: all of it as it is written. None for an object that was
    /// not read from a file, or where its text alone does not say it: it has a YAML alias of what stands before.
    #[must_use]
    pub fn metadata(&self, object: &ObjectRef) -> Option<serde_json::Value> {
        let origin = self.objects.get(object)?;
        let Span { start, end } = origin.node.span;
        let mut text = String::new();
        for number in start.line..=end.line {
            let Some(line) = self.line(&origin.file, number) else { break };
            let upto = if number == end.line { end.column.saturating_sub(1) as usize } else { usize::MAX };
            // A list item or a value begins in the middle of a line, and keeps its indentation.
            let before = if number == start.line { start.column.saturating_sub(1) as usize } else { 0 };
            text.extend(line.chars().take(upto).enumerate().map(|(i, char)| if i < before { ' ' } else { char }));
            text.push('\n');
        }
        let mut read = None;
        tree::documents(&text, TextPosition::FIRST, |_| {}, &mut |document| read = read.take().or(document.ok()));
        Some(read?.get("metadata")?.json())
    }

    /// The tree of an object, if only its text is kept.
    fn read_again(&self, origin: &ReadFrom) -> Option<YamlNode> {
        if !origin.is_in_parts {
            return None;
        }
        let line = origin.node.span.start.line;
        let part = self.sources.get(&origin.file)?.parts.get(&line)?;
        let mut read = None;
        long::document(part, line, &mut |document| read = document.ok());
        read
    }

    /// A line of a file, without its end. Of a long list only lines of some objects are known.
    #[must_use]
    pub fn line(&self, file: &str, line: u32) -> Option<&str> {
        let source = self.sources.get(file)?;
        let part = source.parts.range(..=line).next_back();
        let (first, mut rest): (u32, &str) = part.map_or((1, &source.text), |(first, part)| (*first, part));
        // Few lines are asked for, and the places of all would take a tenth of the text. To YAML
        // a carriage return alone ends a line too.
        for _ in first..line {
            let end = rest.find(['\n', '\r'])?;
            let length = if rest[end..].starts_with("\r\n") { 2 } else { 1 };
            rest = &rest[end + length..];
        }
        let end = rest.find(['\n', '\r']).unwrap_or(rest.len());
        (line > 0 && !rest.is_empty()).then(|| &rest[..end])
    }
}
