//! What ordinary repositories hold beside Kubernetes objects: charts and their templates,
//! patches, encrypted files, dashboards, `package.json`.
//!
//! A command that reads a folder passes over these, and names each kind of thing once with
//! the command that helps. A broken Kubernetes object stays an error. An agent passes over
//! nothing: what it cannot read keeps its last good state.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use npc_compiler::cluster::unread::{Extent, Unread};

use super::parse::Parsed;
use super::problem::Severity;
use super::tree::{Node, Value};
use super::types;

/// What a document is that is no Kubernetes object as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Foreign {
    /// A template with `{{ … }}` in it, mostly of a Helm chart.
    Template,
    /// `Chart.yaml`, `values.yaml`.
    Chart,
    /// A part of an object that a kustomization changes, or a JSON patch.
    Patch,
    /// Encrypted by SOPS.
    Encrypted,
    /// Anything else: a dashboard, a configuration, `package.json`.
    Other,
}

/// What was passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassedOver {
    /// The files, by what they hold.
    pub files: BTreeMap<Foreign, BTreeSet<Arc<str>>>,
    /// The folders whose kustomization is not applied.
    pub kustomizations: BTreeSet<PathBuf>,
    /// The kinds that decide about connectivity and may be among it.
    pub unread: Vec<Unread>,
}

impl PassedOver {
    /// Adds what was passed over in another input.
    pub(in crate::source) fn merge(&mut self, other: Self) {
        for (foreign, files) in other.files {
            self.files.entry(foreign).or_default().extend(files);
        }
        self.kustomizations.extend(other.kustomizations);
        self.unread.extend(other.unread);
    }
}

/// What is wrong with a document, as far as it tells broken objects from other things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No YAML or JSON.
    Syntax,
    /// It has not the form of an object: apiVersion, kind, metadata.
    NoObject,
    /// It is a list of JSON patch operations.
    JsonPatch,
    /// A field does not fit its type.
    Mismatch,
}

/// What marks a value that SOPS has encrypted.
const ENCRYPTED: &str = "ENC[AES256_GCM";

/// What begins a template's action.
pub(super) const ACTION: &str = "{{";

/// What a document with this fault is, if it is no broken object.
pub(super) fn classify(file: &str, text: &str, line: u32, fault: Fault) -> Option<Foreign> {
    let document = around(text, line);
    if document.contains(ENCRYPTED) {
        return Some(Foreign::Encrypted);
    }
    match fault {
        Fault::Syntax | Fault::Mismatch if document.contains(ACTION) => Some(Foreign::Template),
        Fault::Mismatch => None,
        Fault::Syntax if mentions_object(document) => None,
        Fault::JsonPatch => Some(Foreign::Patch),
        Fault::Syntax | Fault::NoObject => Some(of_file(file)),
    }
}

/// What a file without objects is, by its name.
fn of_file(file: &str) -> Foreign {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    let is_chart = name.starts_with("values") || name.starts_with("chart.");
    if is_chart { Foreign::Chart } else { Foreign::Other }
}

/// Whether a text that cannot be parsed was meant to be an object.
fn mentions_object(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("apiversion") || text.lines().any(|line| line.trim_start().starts_with("kind:"))
}

/// The document that a line is in.
fn around(text: &str, line: u32) -> &str {
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

/// Whether a template's action stands in some text of this node.
pub(super) fn has_action(node: &Node) -> bool {
    match &node.resolved().value {
        Value::Scalar { text, .. } => text.contains(ACTION),
        Value::List(items) => items.iter().any(has_action),
        Value::Map(entries) => entries.iter().any(|entry| entry.key.contains(ACTION) || has_action(&entry.node)),
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

/// Takes what is no object out of the files.
pub(super) fn pass_over(files: &mut [Parsed]) -> PassedOver {
    let mut passed = PassedOver::default();
    let mut patches = BTreeSet::new();
    for file in files.iter() {
        let Some(named) = &file.kustomization else { continue };
        let folder = Path::new(&*file.file).parent().unwrap_or(Path::new(""));
        passed.kustomizations.insert(if folder.as_os_str().is_empty() { ".".into() } else { folder.to_owned() });
        patches.extend(named.iter().map(|patch| plain(&folder.join(patch))));
    }
    for file in files {
        let mut add = |foreign: Foreign| {
            passed.files.entry(foreign).or_default().insert(Arc::clone(&file.file));
        };
        if patches.contains(&plain(Path::new(&*file.file))) {
            add(Foreign::Patch);
            (file.items, file.problems) = (Vec::new(), Vec::new());
            continue;
        }
        let mut unread = BTreeSet::new();
        let mut note = |foreign: Foreign, line: u32| {
            add(foreign);
            if matches!(foreign, Foreign::Template | Foreign::Encrypted) {
                unread.extend(kinds(around(&file.text, line)));
            }
        };
        let mut index = 0;
        let foreign: BTreeMap<usize, Foreign> = file.foreign.drain(..).collect();
        file.problems.retain(|problem| {
            let foreign = foreign.get(&index).filter(|_| problem.severity() == Severity::Error);
            index += 1;
            if let Some(foreign) = foreign {
                note(*foreign, problem.span.map_or(1, |span| span.start.line));
            }
            foreign.is_none()
        });
        if file.text.contains(ACTION) {
            file.items.retain(|item| {
                let is_template = has_action(&item.node);
                if is_template {
                    note(Foreign::Template, item.node.span.start.line);
                }
                !is_template
            });
        }
        passed.unread.extend(unread.into_iter().map(|kind| Unread {
            kind: Some(kind.to_owned()),
            namespace: Extent::Everywhere,
            why: format!("{} is a template that is not rendered, or encrypted", file.file),
        }));
    }
    passed
}

/// The kinds that are read and that a text names.
fn kinds(text: &str) -> BTreeSet<&'static str> {
    let named = text.lines().filter_map(|line| line.trim_start().strip_prefix("kind:"));
    named.filter_map(|kind| types::kind_that_is_read(kind.trim().trim_matches(['"', '\'']))).collect()
}

/// A path without `.` and `..`, as far as its text tells.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
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

    #[test]
    fn a_template_names_the_kinds_that_it_may_make() {
        let text = "{{ if .Values.x }}\nkind: NetworkPolicy\n---\nkind: \"Deployment\"\nkind: ConfigMap\n";
        assert_eq!(Vec::from_iter(kinds(text)), ["Deployment", "NetworkPolicy"]);
    }

    #[test]
    fn paths_are_compared_without_their_detours() {
        for (path, expected) in [("r/prod/./a.yaml", "r/prod/a.yaml"), ("r/prod/../b/a", "r/b/a"), ("../a", "../a")] {
            assert_eq!(plain(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
