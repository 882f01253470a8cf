//! Decodes a [`YamlNode`] into Kubernetes' types, and says where it does not fit.
//!
//! Decoding follows the type that is wanted, as the API server does: nothing
//! (`null`) is the empty value of any type, `yes` is a boolean where a boolean
//! is wanted, and a number where text is wanted is an error.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::scalar::{Scalar, resolve};
use super::span::Span;
use super::tree::{MappingEntry, Value, YamlNode};

/// Why a node does not fit its type, and which one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TypeMismatch {
    /// The node; `None` until the error reaches the node that it is about.
    pub(super) span: Option<Span>,
    pub(super) path: String,
    pub(super) message: String,
    pub(super) help: &'static str,
}

impl fmt::Display for TypeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TypeMismatch {}

impl de::Error for TypeMismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { span: None, path: String::new(), message: message.to_string(), help: "" }
    }
}

/// What decoding notices beside the value.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Paths of fields that the type does not have.
    pub(super) unknown: Vec<String>,
    /// Values that were taken, but may not mean what their author thinks.
    pub(super) doubts: Vec<DoubtfulValue>,
}

/// A value that may not mean what its author thinks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DoubtfulValue {
    pub(super) path: String,
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) help: &'static str,
}

impl Notes {
    /// Notes that a policy has no spec. The API takes that for an empty one. A spec in its metadata is said
    /// to be there.
    pub(super) fn doubt_without_spec(&mut self, policy: &YamlNode) {
        if policy.get("spec").is_none_or(YamlNode::is_null) && policy.at(&["metadata", "spec"]).is_none() {
            self.doubts.push(DoubtfulValue {
                path: "spec".to_owned(),
                span: policy.span,
                message:
                    "there is none, so the policy isolates every pod of its namespace for ingress and allows nothing"
                        .to_owned(),
                help: "if that is meant, write spec: {podSelector: {}}",
            });
        }
    }
}

/// Decodes the field at a path; the empty value where it is absent.
pub(super) fn field<T: de::DeserializeOwned + Default>(
    node: &YamlNode,
    path: &[&str],
    notes: &mut Notes,
) -> Result<T, TypeMismatch> {
    match node.at(path) {
        Some(field) => decode(field, &path.join("."), notes),
        None => Ok(T::default()),
    }
}

/// Decodes a node that stands at `path` in its object.
pub(super) fn decode<T: de::DeserializeOwned>(
    node: &YamlNode,
    path: &str,
    notes: &mut Notes,
) -> Result<T, TypeMismatch> {
    let shared = RefCell::new(std::mem::take(notes));
    let result = T::deserialize(De { node, path: &Path::Root(path), notes: &shared });
    *notes = shared.into_inner();
    result
}

/// The path from the object to a node, written out only where it is asked for.
enum Path<'a> {
    Root(&'a str),
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(path) => f.write_str(path),
            Self::Key(Path::Root(""), key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

#[derive(Clone, Copy)]
struct De<'de, 'p> {
    node: &'de YamlNode,
    path: &'p Path<'p>,
    notes: &'p RefCell<Notes>,
}

impl<'de> De<'de, '_> {
    /// Puts the place on an error that has none yet.
    fn here(self, mut error: TypeMismatch) -> TypeMismatch {
        if error.span.is_none() {
            error.span = Some(self.node.span);
            error.path = self.path.to_string();
        }
        error
    }

    fn wanted(self, what: &str) -> TypeMismatch {
        let (found, help) = match &self.node.resolved().value {
            Value::List(_) => ("a list".to_owned(), ""),
            Value::Map(_) if what == "a list" => ("a mapping".to_owned(), "begin the item with \"- \""),
            Value::Map(_) => ("a mapping".to_owned(), ""),
            Value::Scalar { text, plain: true } => {
                let help = if what == "text" { "put it in quotes" } else { "" };
                (format!("{} ({})", resolve(text).value.name(), shorten(text)), help)
            }
            Value::Scalar { text, plain: false } => {
                let help = if matches!(what, "a number" | "true or false") { "leave out the quotes" } else { "" };
                (format!("text ({:?})", shorten(text)), help)
            }
            Value::Shared(_) => ("an alias".to_owned(), ""),
        };
        self.here(TypeMismatch { help, ..de::Error::custom(format_args!("expected {what}, found {found}")) })
    }

    fn list<V: Visitor<'de>>(self, items: &'de [YamlNode], visitor: V) -> Result<V::Value, TypeMismatch> {
        let items = Items { items: items.iter().enumerate(), parent: self };
        visitor.visit_seq(items).map_err(|error| self.here(error))
    }

    fn doubt(self, message: String, help: &'static str) {
        let doubt = DoubtfulValue { path: self.path.to_string(), span: self.node.span, message, help };
        self.notes.borrow_mut().doubts.push(doubt);
    }

    /// Doubts a number that begins with 0, as `010` does, which YAML takes for octal.
    fn doubt_octal(self, number: i64) {
        let Value::Scalar { text, plain: true } = &self.node.resolved().value else { return };
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let message = format!("{text} is {number}: what begins with 0 is octal");
            self.doubt(message, "write the number without a 0 before it");
        }
    }

    fn number<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        let result = match self.node.scalar() {
            Some(Scalar::Null) => visitor.visit_i64(0),
            Some(Scalar::Int(number)) => {
                self.doubt_octal(number);
                visitor.visit_i64(number)
            }
            Some(Scalar::Float(number)) => match whole(number) {
                Some(number) => visitor.visit_i64(number),
                None => visitor.visit_f64(number),
            },
            _ => return Err(self.wanted("a number")),
        };
        result.map_err(|error| self.here(error))
    }
}

/// A text short enough for a message.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// What a port is.
const PORT: &str = "a whole number or a name";

/// The integer that a float is, as JSON knows no difference between them.
#[expect(clippy::cast_possible_truncation, reason = "the range is tested, and floats below 2^53 convert exactly")]
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

impl<'de> Deserializer<'de> for De<'de, '_> {
    type Error = TypeMismatch;

    /// Only where the type itself says what it takes: a port, which is a
    /// number or a name.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        match &self.node.resolved().value {
            Value::List(_) | Value::Map(_) => Err(self.wanted(PORT)),
            Value::Scalar { text, plain: false } => visitor.visit_str(text).map_err(|error| self.here(error)),
            Value::Scalar { text, plain: true } => match resolve(text).value {
                Scalar::Null => visitor.visit_unit(),
                Scalar::Bool(_) if !resolve(text).sure => return self.deserialize_str(visitor),
                Scalar::Bool(_) => return Err(self.wanted(PORT)),
                Scalar::Float(number) if whole(number).is_none() => return Err(self.wanted(PORT)),
                Scalar::Int(_) | Scalar::Float(_) => return self.number(visitor),
                Scalar::Text => visitor.visit_str(text),
            }
            .map_err(|error| self.here(error)),
            Value::Shared(_) => Err(self.wanted("a value")),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        match self.node.scalar() {
            Some(Scalar::Null) => visitor.visit_bool(false),
            Some(Scalar::Bool(value)) => visitor.visit_bool(value),
            _ => Err(self.wanted("true or false")),
        }
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        self.number(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        self.number(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        let Value::Scalar { text, plain } = &self.node.resolved().value else { return Err(self.wanted("text")) };
        if *plain {
            let word = resolve(text);
            match word.value {
                Scalar::Null => return visitor.visit_str("").map_err(|error| self.here(error)),
                Scalar::Text => {}
                _ if word.sure => return Err(self.wanted("text")),
                other => {
                    let message = format!("taken as the text {text:?}, but kubectl reads {}", other.name());
                    self.doubt(message, "put it in quotes");
                }
            }
        }
        visitor.visit_str(text).map_err(|error| self.here(error))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TypeMismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        match &self.node.resolved().value {
            Value::List(items) => self.list(items, visitor),
            _ if self.node.is_null() => self.list(&[], visitor),
            _ => Err(self.wanted("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypeMismatch> {
        let entries: &'de [MappingEntry] = match &self.node.resolved().value {
            Value::Map(entries) => entries,
            _ if self.node.is_null() => {
                if matches!(self.path, Path::Index(..)) {
                    self.doubt("an empty list item, which the API reads as {}".to_owned(), "write {}, or remove it");
                }
                &[]
            }
            _ => return Err(self.wanted("a mapping")),
        };
        let entries = Entries { rest: entries.iter(), current: None, parent: self };
        visitor.visit_map(entries).map_err(|error| self.here(error))
    }

    /// Asked for the value of a field that the type does not have.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        self.notes.borrow_mut().unknown.push(self.path.to_string());
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

struct Items<'de, 'p> {
    items: std::iter::Enumerate<std::slice::Iter<'de, YamlNode>>,
    parent: De<'de, 'p>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = TypeMismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, TypeMismatch> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let child = De { node, path: &Path::Index(self.parent.path, index), notes: self.parent.notes };
        seed.deserialize(child).map_err(|error| child.here(error)).map(Some)
    }
}

struct Entries<'de, 'p> {
    rest: std::slice::Iter<'de, MappingEntry>,
    current: Option<&'de MappingEntry>,
    parent: De<'de, 'p>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = TypeMismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TypeMismatch> {
        self.current = self.rest.next();
        let Some(entry) = self.current else { return Ok(None) };
        let key: de::value::StrDeserializer<'_, TypeMismatch> = (&*entry.key).into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, TypeMismatch> {
        let Some(entry) = self.current.take() else { return Err(de::Error::custom("a value without a key")) };
        let path = Path::Key(self.parent.path, &entry.key);
        let child = De { node: &entry.node, path: &path, notes: self.parent.notes };
        seed.deserialize(child).map_err(|error| child.here(error))
    }
}
