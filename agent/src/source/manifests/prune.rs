//! The part of an object that npc asks for, taken out of its text before a tree is built.
//!
//! Nine tenths of a live pod are fields that say nothing about connectivity. A list of 100,000
//! pods is read in time because these fields never become nodes.
//! What is broken inside them is not noticed.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::kept_fields::Keep;
use super::span::Span;
use super::tree::{MappingEntry, Value, YamlNode, distinct};

/// Builds of a JSON object what is kept of it. All nodes have one place, that of the object.
///
/// None where the text is no JSON, or has what only [`tree::documents`](super::tree::documents)
/// reads as kubectl does.
pub(super) fn json(text: &str, span: Span, keep: &'static Keep) -> Option<YamlNode> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let node = Pruned { span, keep }.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(node)
}

#[derive(Clone, Copy)]
struct Pruned {
    span: Span,
    keep: &'static Keep,
}

impl Pruned {
    const fn scalar(self, text: Box<str>, plain: bool) -> YamlNode {
        YamlNode { span: self.span, value: Value::Scalar { text, plain } }
    }
}

impl<'de> DeserializeSeed<'de> for Pruned {
    type Value = YamlNode;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<YamlNode, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pruned {
    type Value = YamlNode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<YamlNode, E> {
        Ok(self.scalar(value.to_string().into(), true))
    }

    fn visit_i64<E>(self, value: i64) -> Result<YamlNode, E> {
        Ok(self.scalar(value.to_string().into(), true))
    }

    fn visit_u64<E>(self, value: u64) -> Result<YamlNode, E> {
        Ok(self.scalar(value.to_string().into(), true))
    }

    fn visit_str<E>(self, value: &str) -> Result<YamlNode, E> {
        Ok(self.scalar(value.into(), false))
    }

    fn visit_unit<E>(self) -> Result<YamlNode, E> {
        Ok(self.scalar("null".into(), true))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<YamlNode, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(YamlNode { span: self.span, value: Value::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<YamlNode, A::Error> {
        let mut entries = Vec::new();
        while let Some(Key(key)) = map.next_key::<Key<'_>>()? {
            let keep = match self.keep {
                Keep::All => Some(self.keep),
                Keep::Fields(fields) => fields.iter().find(|(field, _)| *field == key).map(|(_, keep)| keep),
            };
            match keep {
                Some(keep) => {
                    let node = map.next_value_seed(Self { keep, ..self })?;
                    entries.push(MappingEntry { key: key.into(), at: self.span, node });
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let entries = distinct(entries).map_err(|fault| A::Error::custom(fault.message))?;
        Ok(YamlNode { span: self.span, value: Value::Map(entries) })
    }
}

/// A key, copied only if it is escaped.
struct Key<'de>(Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfKey;
        impl<'de> Visitor<'de> for OfKey {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(OfKey)
    }
}

/// Whether a key is the name of a field or of an annotation, written as it is.
fn is_plain(key: &str) -> bool {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte);
    key.starts_with(|first: char| first.is_ascii_alphanumeric()) && key.bytes().all(is_sign)
}

/// The lines of a block mapping of YAML whose fields are kept; its keys stand in this column,
/// from 0.
///
/// A field ends before the next line that is not indented further. This holds for all values: texts
/// over several lines and nested collections are indented further than their key. None where the
/// lines are not plainly keys and items, as kubectl writes them.
pub(super) fn yaml(text: &str, column: usize, keep: &'static Keep) -> Option<String> {
    let mut kept = String::new();
    let mut levels = vec![(column, keep)];
    // The key whose value is under way: its column, and whether the value is kept.
    let mut whole: Option<(usize, bool)> = None;
    // The key whose value begins in the next line.
    let mut opened: Option<(usize, &'static Keep)> = None;
    for line in text.split_inclusive('\n') {
        let body = line.trim_start_matches(' ');
        let indent = line.len() - body.len();
        let is_item = body.starts_with("- ");
        let is_blank = body.trim_end().is_empty();
        if let Some((of, is_kept)) = whole {
            if is_blank || indent > of || (indent == of && (is_item || body.starts_with("-\n"))) {
                if is_kept {
                    kept.push_str(line);
                }
                continue;
            }
            whole = None;
        }
        if is_blank {
            continue;
        }
        let (entry, column) = if is_item { (&body[2..], indent + 2) } else { (body, indent) };
        if let Some((of, keep)) = opened.take()
            && (indent > of || (indent == of && is_item))
        {
            levels.push((column, keep));
        }
        while levels.last().is_some_and(|(level, _)| *level > column) {
            levels.pop();
        }
        let (_, Keep::Fields(fields)) = levels.last().filter(|(level, _)| *level == column)? else { return None };
        let (key, value) = entry.split_once(':')?;
        if !is_plain(key) || !value.starts_with([' ', '\n']) {
            return None;
        }
        let field = fields.iter().find(|(field, _)| *field == key).map(|(_, keep)| keep);
        match field {
            Some(field) => {
                kept.push_str(line);
                match field {
                    Keep::Fields(_) if value.trim().is_empty() => opened = Some((column, field)),
                    _ => whole = Some((column, true)),
                }
            }
            None => {
                // The item goes on with its other fields.
                if is_item {
                    kept.push_str(&line[..=indent]);
                    kept.push('\n');
                }
                whole = Some((column, false));
            }
        }
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTES: Keep = Keep::Fields(&[("example.io/a.b-c_d", Keep::All)]);
    const KEEP: Keep = Keep::Fields(&[
        ("kind", Keep::All),
        ("metadata", Keep::Fields(&[("name", Keep::All), ("labels", Keep::All), ("annotations", NOTES)])),
        ("items", Keep::Fields(&[("name", Keep::All), ("ports", Keep::Fields(&[("port", Keep::All)]))])),
    ]);

    #[test]
    fn a_field_of_yaml_goes_with_all_that_is_indented_further() {
        for (text, expected) in [
            ("kind: A\nspec:\n  a: 1\nmetadata:\n  name: x\n", "kind: A\nmetadata:\n  name: x\n"),
            ("kind: A\nspec:\n- a\n- b: 1\nmetadata:\n  name: x\n", "kind: A\nmetadata:\n  name: x\n"),
            ("metadata:\n  note: |\n    name: y\n\n   odd\n  name: x\n", "metadata:\n  name: x\n"),
            (
                "metadata:\n  labels:\n    spec: a\n    text: >\n      b\n\n      c\n",
                "metadata:\n  labels:\n    spec: a\n    text: >\n      b\n\n      c\n",
            ),
            (
                "metadata:\n  annotations:\n    a/b: x\n    example.io/a.b-c_d: y\n    note: |\n      z\n  name: x\n",
                "metadata:\n  annotations:\n    example.io/a.b-c_d: y\n  name: x\n",
            ),
            ("items:\n- image: a\n  name: b\n- name: c\n  image: d\n", "items:\n-\n  name: b\n- name: c\n"),
            (
                "items:\n  - name: c\n    ports:\n    - x: 1\n      port: 2\n    args:\n    - a\nkind: A\n",
                "items:\n  - name: c\n    ports:\n    -\n      port: 2\nkind: A\n",
            ),
            ("metadata: {name: x, note: y}\nkind: A\n", "metadata: {name: x, note: y}\nkind: A\n"),
            ("metadata:\nkind: A\n", "metadata:\nkind: A\n"),
        ] {
            assert_eq!(yaml(text, 0, &KEEP).as_deref(), Some(expected), "{text}");
        }
        for odd in [
            "\"kind\": A\n",
            "? kind\n",
            "-kind: A\n",
            "metadata:\n  annotations:\n    \"a\": b\n",
            "# a\nkind: A\n",
            "<<: *a\n",
            "items:\n- - name: a\n",
            "kind:A\n",
            " kind: A\n",
        ] {
            assert_eq!(yaml(odd, 0, &KEEP), None, "{odd}");
        }
    }
}
