//! What ordinary repositories hold beside Kubernetes objects: charts and their templates,
//! patches, encrypted files, dashboards, `package.json`.

use std::collections::BTreeSet;

use npc_compiler::cluster::unread::FileFault;
use npc_compiler::object::consequence;

use super::tree::{Value, YamlNode};
use super::{pod_template, printed, types};

/// What a document is that is no Kubernetes object as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OtherDocument {
    /// A template with `{{ … }}` in it, mostly of a Helm chart.
    Template,
    /// Text with parameters that another program replaces: `${NAME}` of envsubst and Flux, `<NAME>`
    /// of a person.
    Parameters,
    /// A Template of OpenShift: a list of objects with parameters.
    OpenShiftTemplate,
    /// `Chart.yaml`, `values.yaml`.
    Chart,
    /// A part of an object that a kustomization changes, or a JSON patch.
    Patch,
    /// Encrypted by SOPS.
    Encrypted,
    /// What kubectl printed for people: a table, a description, an error.
    Printed,
    /// Anything else: a dashboard, a configuration, `package.json`.
    Other,
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
    /// It is an answer of the API server that says why there is no object.
    Status,
    /// A field does not fit its type.
    Mismatch,
    /// It is an object as another program has yet to make it.
    Unfinished(Unfinished),
}

impl OtherDocument {
    /// Whether it may hold objects that decide.
    #[must_use]
    pub fn may_decide(self) -> bool {
        self.why_unread().is_some()
    }

    /// Why the objects were not read that it may hold; none if it holds no object that decides.
    pub(super) const fn why_unread(self) -> Option<FileFault> {
        match self {
            Self::Template => Some(FileFault::Template),
            Self::Parameters => Some(FileFault::Parameters),
            Self::OpenShiftTemplate => Some(FileFault::OpenShiftTemplate),
            Self::Encrypted => Some(FileFault::Encrypted),
            Self::Printed => Some(FileFault::Printed),
            Self::Patch | Self::Chart | Self::Other => None,
        }
    }
}

/// Why an object is not the one that an API server would be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unfinished {
    /// It has to be decrypted.
    Encrypted,
    /// It is a strategic merge patch, which changes another object.
    Patch,
    /// Actions of a template stand in it.
    Template,
    /// Parameters stand in it.
    Parameters,
}

/// What marks a value that SOPS has encrypted.
const ENCRYPTED: &str = "ENC[AES256_GCM";

/// The field in which SOPS keeps what it needs to decrypt a file.
pub(super) const SOPS: &str = "sops";

/// What begins a parameter of envsubst, of Flux and of OpenShift's Templates.
const PARAMETER: &str = "${";

/// What begins the name of a directive of a strategic merge patch: `$patch`,
/// `$setElementOrder/containers`.
pub(super) const DIRECTIVE: char = '$';

/// What begins a template's action: of Go and Jinja, of Jinja alone, and of ERB.
const ACTIONS: [&str; 3] = ["{{", "{%", "<%"];

fn has_action(text: &str) -> bool {
    ACTIONS.iter().any(|action| text.contains(action))
}

/// Features of a document's text that show what the document is.
#[allow(clippy::struct_excessive_bools, reason = "each is a feature by itself")]
#[derive(Debug, Clone, Copy)]
pub(super) struct Features {
    /// SOPS has encrypted something in it.
    is_encrypted: bool,
    /// Actions of a template stand in it.
    has_action: bool,
    /// It was meant to be an object.
    mentions_object: bool,
    /// kubectl printed it for people.
    is_printed: bool,
}

impl Features {
    pub(super) fn of(document: &str) -> Self {
        Self {
            is_encrypted: document.contains(ENCRYPTED),
            has_action: has_action(document),
            mentions_object: mentions_object(document),
            is_printed: printed::is_printed(document),
        }
    }
}

/// What a document of a file is that has this fault, if it is no broken object.
pub(super) fn classify(file: &str, document: Features, fault: DocumentFault) -> Option<OtherDocument> {
    if document.is_encrypted {
        return Some(OtherDocument::Encrypted);
    }
    match fault {
        DocumentFault::Status => Some(OtherDocument::Printed),
        DocumentFault::Syntax | DocumentFault::NoObject if document.is_printed => Some(OtherDocument::Printed),
        DocumentFault::Syntax if document.has_action => Some(OtherDocument::Template),
        DocumentFault::Unfinished(of) => Some(of.document()),
        DocumentFault::Mismatch => None,
        DocumentFault::Syntax if document.mentions_object => None,
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
    let is_kind = |line: &str| {
        let Some(value) = line.trim_start().strip_prefix("kind") else { return false };
        // The colon may be what is missing.
        value.starts_with(':') || (value.starts_with(' ') && types::kind_that_is_read(value.trim()).is_some())
    };
    text.to_ascii_lowercase().contains("apiversion") || text.lines().any(is_kind)
}

/// Whether a document is a list of JSON patch operations.
pub(super) fn is_json_patch(node: &YamlNode) -> bool {
    match &node.resolved().value {
        Value::List(items) => {
            !items.is_empty() && items.iter().all(|item| item.get("op").is_some() && item.get("path").is_some())
        }
        _ => false,
    }
}

impl Unfinished {
    /// What a document with such an object is.
    pub(super) const fn document(self) -> OtherDocument {
        match self {
            Self::Encrypted => OtherDocument::Encrypted,
            Self::Patch => OtherDocument::Patch,
            Self::Template => OtherDocument::Template,
            Self::Parameters => OtherDocument::Parameters,
        }
    }
}

/// Whether an object is one that another program has yet to finish.
pub(super) fn unfinished(object: &YamlNode) -> Option<Unfinished> {
    unfinished_part(object).or_else(|| is_named_by_parameter(object).then_some(Unfinished::Parameters))
}

/// What of this stands in some text or key of a node.
fn unfinished_part(node: &YamlNode) -> Option<Unfinished> {
    match &node.resolved().value {
        Value::Scalar { text, .. } => of_text(text),
        Value::List(items) => items.iter().find_map(unfinished_part),
        Value::Map(entries) => entries.iter().find_map(|entry| {
            let is_directive = entry.key.starts_with(DIRECTIVE) && !entry.key.starts_with(PARAMETER);
            let of_key = if is_directive { Some(Unfinished::Patch) } else { of_text(&entry.key) };
            of_key.or_else(|| unfinished_part(&entry.node))
        }),
        Value::Shared(_) => None,
    }
}

/// The program that has yet to fill in this text, if one has.
fn of_text(text: &str) -> Option<Unfinished> {
    let is_plain = !text.bytes().any(|byte| matches!(byte, b'{' | b'[' | b'<'));
    match text {
        _ if is_plain => None,
        text if has_action(text) => Some(Unfinished::Template),
        text if text.contains(PARAMETER) => Some(Unfinished::Parameters),
        text if text.contains(ENCRYPTED) => Some(Unfinished::Encrypted),
        _ => None,
    }
}

/// Whether a text begins with what another program has yet to write.
pub(super) fn begins_unfinished(text: &str) -> bool {
    ["{{", "{%", ENCRYPTED, "$", "<", "%", "@", "__"].iter().any(|mark| text.starts_with(mark))
}

/// Whether a namespace is one that another program has yet to write.
pub(super) fn is_unfinished_namespace(namespace: &str) -> bool {
    of_text(namespace).is_some() || is_mark(namespace)
}

/// Whether the name or namespace of an object is a mark that a person or a program is to replace:
/// `<NAMESPACE>`, `$NS`, `%NS%`, `__NS__`. No API server ever took such a name.
fn is_named_by_parameter(object: &YamlNode) -> bool {
    let metadata = object.get("metadata");
    ["name", "generateName", "namespace"]
        .iter()
        .any(|key| metadata.and_then(|metadata| metadata.get(key)?.text()).is_some_and(is_mark))
}

/// Whether a name has characters that no API server takes, so that it marks a place to fill in.
fn is_mark(name: &str) -> bool {
    let has_mark = name.contains(['$', '<', '>', '%', '@', '[', ']', '{', '}', '(', ')', '#']);
    has_mark || (name.len() > 4 && name.starts_with("__") && name.ends_with("__"))
}

/// Whether the apiVersion or kind of a document is encrypted, as SOPS does it to all values unless it
/// is told which.
pub(super) fn is_encrypted(api_version: &str, kind: &str) -> bool {
    api_version.starts_with(ENCRYPTED) || kind.starts_with(ENCRYPTED)
}

/// Whether a document is a strategic merge patch: no object has such a field.
pub(super) fn is_merge_patch(node: &YamlNode) -> bool {
    node.get("$patch").is_some()
}

/// The first object that decides about connectivity and is an item of a list that stands for a
/// document. kubectl refuses such a list.
pub(super) fn object_in_list(node: &YamlNode) -> Option<&YamlNode> {
    let Value::List(items) = &node.resolved().value else { return None };
    items.iter().find(|item| {
        let text = |key| item.get(key).and_then(YamlNode::text).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let has_object = ["apiVersion", "metadata", "spec"].iter().any(|key| item.get(key).is_some());
        let (group, _) = api_version.split_once('/').unwrap_or_default();
        let is_deciding = types::kind_that_is_read(kind).is_some()
            || consequence(group, kind).is_some()
            || types::misspelt(api_version, kind).is_some()
            || pod_template::has_pod_spec(item);
        has_object && !kind.is_empty() && is_deciding
    })
}

/// The kinds of the objects that a Template of OpenShift makes, as far as they are read; none for one that
/// may be any.
pub(super) fn kinds_of_template(template: &YamlNode) -> BTreeSet<Option<&'static str>> {
    let Some(Value::List(objects)) = template.get("objects").map(|objects| &objects.resolved().value) else {
        return BTreeSet::new();
    };
    let kind_of = |object: &YamlNode| {
        let kind = object.get("kind").and_then(YamlNode::text)?;
        match types::kind_that_is_read(kind) {
            Some(kind) => Some(Some(kind)),
            None if begins_unfinished(kind) || kind.ends_with("List") => Some(None),
            None => pod_template::has_pod_template(object).then_some(Some(OTHER_WORKLOAD)),
        }
    };
    objects.iter().filter_map(kind_of).collect()
}

/// The kind as which a workload of another project counts that was not read. Without any kind, it
/// could be a policy too.
pub(super) const OTHER_WORKLOAD: &str = "Deployment";
