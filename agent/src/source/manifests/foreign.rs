//! What ordinary repositories hold beside Kubernetes objects: charts and their templates,
//! patches, encrypted files, dashboards, `package.json`.

use super::tree::{Node, Value};

/// What a document is that is no Kubernetes object as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OtherDocument {
    /// A template with `{{ … }}` in it, mostly of a Helm chart.
    Template,
    /// `Chart.yaml`, `values.yaml`.
    Chart,
    /// A part of an object that a kustomization changes, or a JSON patch.
    Patch,
    /// A Template of OpenShift, whose parameters are not filled in.
    OpenShiftTemplate,
    /// Encrypted by SOPS.
    Encrypted,
    /// Anything else: a dashboard, a configuration, `package.json`.
    Other,
}

impl OtherDocument {
    /// Whether objects that decide may be made of it.
    #[must_use]
    pub const fn may_decide(self) -> bool {
        matches!(self, Self::Template | Self::OpenShiftTemplate | Self::Encrypted)
    }
}

/// What is wrong with a document, as far as it tells broken objects from other things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DocumentFault {
    /// No YAML or JSON.
    Syntax,
    /// It has not the form of an object: apiVersion, kind, metadata.
    NoObject,
    /// It is a list of JSON patch operations, or a strategic merge patch.
    Patch,
    /// It is a Template of OpenShift.
    OpenShiftTemplate,
    /// A field does not fit its type.
    Mismatch,
    /// The same, in an object in which actions of a template stand.
    Template,
}

/// What marks a value that SOPS has encrypted.
pub(super) const ENCRYPTED: &str = "ENC[AES256_GCM";

/// What begins a template's action: of Helm, and a variable of envsubst or Flux.
pub(super) const ACTIONS: [&str; 2] = ["{{", "${"];

/// What a document with this fault is, if it is no broken object.
pub(super) fn classify(file: &str, text: &str, line: u32, fault: DocumentFault) -> Option<OtherDocument> {
    let document = around(text, line);
    if document.contains(ENCRYPTED) {
        return Some(OtherDocument::Encrypted);
    }
    match fault {
        DocumentFault::Syntax if document.contains(ACTIONS[0]) => Some(OtherDocument::Template),
        DocumentFault::Template => Some(OtherDocument::Template),
        DocumentFault::OpenShiftTemplate => Some(OtherDocument::OpenShiftTemplate),
        DocumentFault::Mismatch => None,
        DocumentFault::Syntax if mentions_object(document) => None,
        DocumentFault::Patch => Some(OtherDocument::Patch),
        DocumentFault::Syntax | DocumentFault::NoObject => Some(of_file(file)),
    }
}

/// What a file without objects is, by its name.
fn of_file(file: &str) -> OtherDocument {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    let is_chart = name.starts_with("values") || name.starts_with("chart.");
    if is_chart { OtherDocument::Chart } else { OtherDocument::Other }
}

/// Whether a text that cannot be parsed was meant to be an object.
fn mentions_object(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("apiversion") || text.lines().any(|line| line.trim_start().starts_with("kind:"))
}

/// The document that a line is in.
pub(super) fn around(text: &str, line: u32) -> &str {
    let (mut start, mut at) = (0, 0);
    for (number, of) in (1_u32..).zip(text.split_inclusive('\n')) {
        if of.starts_with("---") {
            if number > line {
                return &text[start..at];
            }
            start = at;
        }
        at += of.len();
    }
    &text[start..]
}

/// Whether a document is a list of JSON patch operations.
pub(super) fn is_json_patch(node: &Node) -> bool {
    match &node.resolved().value {
        Value::List(items) => {
            !items.is_empty() && items.iter().all(|item| item.get("op").is_some() && item.get("path").is_some())
        }
        _ => false,
    }
}

/// Whether a node is a strategic merge patch: it says by `$patch` what to do with a part of an object.
pub(super) fn is_merge_patch(node: &Node) -> bool {
    match &node.resolved().value {
        Value::List(items) => items.iter().any(is_merge_patch),
        Value::Map(entries) => entries.iter().any(|entry| &*entry.key == "$patch" || is_merge_patch(&entry.node)),
        Value::Scalar { .. } | Value::Shared(_) => false,
    }
}

/// Whether a template's action stands in some text of this node.
pub(super) fn has_action(node: &Node) -> bool {
    ACTIONS.iter().any(|action| has_text(node, action))
}

/// Whether SOPS has encrypted some text of this node.
pub(super) fn is_encrypted(node: &Node) -> bool {
    has_text(node, ENCRYPTED)
}

/// Whether a text stands in some text of this node.
fn has_text(node: &Node, part: &str) -> bool {
    match &node.resolved().value {
        Value::Scalar { text, .. } => text.contains(part),
        Value::List(items) => items.iter().any(|item| has_text(item, part)),
        Value::Map(entries) => entries.iter().any(|entry| entry.key.contains(part) || has_text(&entry.node, part)),
        Value::Shared(_) => false,
    }
}

/// The files that a kustomization names as patches.
pub(super) fn patches(kustomization: &Node) -> Vec<String> {
    let items = |key: &str| match kustomization.get(key).map(|list| &list.resolved().value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    let by_path =
        ["patches", "patchesJson6902"].into_iter().flat_map(items).filter_map(|item| item.get("path")?.text());
    let by_name = items("patchesStrategicMerge").iter().filter_map(Node::text);
    by_path.chain(by_name).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_of_a_line_is_found() {
        let text = "a: 1\n---\nb: 2\nc: 3\n---\nd: 4\n";
        for (line, document) in
            [(1, "a: 1\n"), (3, "---\nb: 2\nc: 3\n"), (4, "---\nb: 2\nc: 3\n"), (6, "---\nd: 4\n"), (9, "---\nd: 4\n")]
        {
            assert_eq!(around(text, line), document, "{line}");
        }
    }
}
