//! YAML in, and out as Helm's `toYaml` writes it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

/// What distinguishes an object from others: version, kind, namespace, name.
pub(crate) type Key = String;

/// Objects by what distinguishes them.
pub(crate) type Objects = BTreeMap<Key, Value>;

pub(crate) fn key(object: &Value) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let parts = [&object["apiVersion"], &object["kind"], &metadata["namespace"], &metadata["name"]];
    parts.map(text).join(" ")
}

/// The documents of a text, empty ones left out.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("not YAML: {error}\n{text}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// The documents of a file, one kind of object or another.
pub(crate) fn file(path: &Path) -> Vec<Value> {
    documents(&fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// By their keys; two of one key are a mistake.
pub(crate) fn objects(documents: impl IntoIterator<Item = Value>) -> Objects {
    let mut objects = Objects::new();
    for document in documents {
        let key = key(&document);
        assert!(objects.insert(key.clone(), document).is_none(), "{key} is there twice");
    }
    objects
}

/// As `toYaml` writes it: keys sorted, lists not indented, no newline at the end.
pub(crate) fn text(value: &Value) -> String {
    let mut lines = Vec::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(map, 0, &mut lines),
        Value::Array(items) if !items.is_empty() => sequence(items, 0, &mut lines),
        scalar => lines.push(flow(scalar)),
    }
    lines.join("\n")
}

fn mapping(map: &Map<String, Value>, indent: usize, lines: &mut Vec<String>) {
    let sorted: BTreeMap<&String, &Value> = map.iter().collect();
    for (name, value) in sorted {
        let name = format!("{:indent$}{}:", "", flow(&Value::String(name.clone())));
        match value {
            Value::Object(map) if !map.is_empty() => {
                lines.push(name);
                mapping(map, indent + 2, lines);
            }
            Value::Array(items) if !items.is_empty() => {
                lines.push(name);
                sequence(items, indent, lines);
            }
            scalar => lines.push(format!("{name} {}", flow(scalar))),
        }
    }
}

fn sequence(items: &[Value], indent: usize, lines: &mut Vec<String>) {
    for item in items {
        let mut inner = Vec::new();
        match item {
            Value::Object(map) if !map.is_empty() => mapping(map, indent + 2, &mut inner),
            Value::Array(items) if !items.is_empty() => sequence(items, indent + 2, &mut inner),
            scalar => inner.push(format!("{:1$}{2}", "", indent + 2, flow(scalar))),
        }
        inner[0].replace_range(indent..indent + 2, "- ");
        lines.append(&mut inner);
    }
}

/// A scalar, or an empty list or map. A text stands plain where it reads as one.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) if reads_as(text) == Some(value.clone()) => text.clone(),
        other => other.to_string(),
    }
}

fn reads_as(text: &str) -> Option<Value> {
    serde_saphyr::from_str(text).ok().filter(|_| !text.is_empty() && !text.contains([':', '#', '\n']))
}
