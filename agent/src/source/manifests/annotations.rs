//! What the API server's validation refuses in a policy's annotations. npc asks for none of them.
//!
//! Source: `ValidateAnnotations` and `TotalAnnotationSizeLimitB` in
//! `staging/src/k8s.io/apimachinery/pkg/api/validation/objectmeta.go` of Kubernetes; the API
//! reference has the same under "Annotations", syntax and character set.

use npc_compiler::algebra::syntax::wrong_label_key;

use super::scalar::Scalar;
use super::span::Span;
use super::tree::{Value, YamlNode};

/// How many bytes all keys and values of an object may have together.
const MOST: usize = 256 << 10;

/// What is wrong with an annotation, or with all of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) at: Span,
    pub(super) path: String,
    pub(super) message: String,
    pub(super) help: &'static str,
}

/// Takes the annotations out of an object.
pub(super) fn take(object: &mut YamlNode) -> Option<YamlNode> {
    let Value::Map(entries) = &mut object.value else { return None };
    let metadata = entries.iter_mut().find(|entry| &*entry.key == "metadata")?;
    let Value::Map(entries) = &mut metadata.node.value else { return None };
    let place = entries.iter().position(|entry| &*entry.key == "annotations")?;
    Some(entries.remove(place).node)
}

/// What the API server refuses of them.
pub(super) fn wrong(annotations: &YamlNode) -> Vec<Wrong> {
    const PATH: &str = "metadata.annotations";
    if annotations.is_null() {
        return Vec::new();
    }
    let of_all = |message: String, help| Wrong { at: annotations.span, path: PATH.to_owned(), message, help };
    let Value::Map(entries) = &annotations.resolved().value else {
        return vec![of_all("annotations must be a mapping".to_owned(), "")];
    };
    let mut found = Vec::new();
    let mut size = 0;
    for entry in entries {
        let mut add = |message: String, help| {
            found.push(Wrong { at: entry.at, path: format!("{PATH}.{}", entry.key), message, help });
        };
        // Unlike those of labels, prefixes may have upper-case letters.
        if wrong_label_key(&entry.key.to_lowercase()).is_some() {
            let name = &entry.key;
            add(
                format!(
                    "{name:?} is no annotation key: a name of at most 63 letters, digits, \"-\", \"_\" and \".\", after \
                     an optional DNS name and \"/\""
                ),
                "",
            );
        }
        let value = match entry.node.scalar() {
            Some(Scalar::Null) => Some(""),
            Some(Scalar::Text) => entry.node.text(),
            _ => None,
        };
        match value {
            Some(value) => size += entry.key.len() + value.len(),
            None => add("the value of an annotation is text".to_owned(), "put it in quotes"),
        }
    }
    if size > MOST {
        let message = format!("the annotations have {size} bytes; the API server takes {MOST}");
        found.push(of_all(message, "move what is long into a ConfigMap"));
    }
    found
}
