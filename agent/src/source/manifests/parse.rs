//! One file: its documents, as far as they can be read, and what is wrong
//! with the others.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::annotations::{self, Wrong};
use super::decode::{Notes, TypeMismatch};
use super::decode_text::{NotText, decode_text};
use super::documents::Documents;
use super::field::span_of;
use super::files;
use super::fix_fields::{LABELS, fix_fields};
use super::foreign::{self, DocumentFault, Features, Unfinished};
use super::json;
use super::kinds::{self, DocumentKind};
use super::parsed::{Parsed, ParsedObject};
use super::patch;
use super::problem::{ObjectRef, Problem, ProblemCode};
use super::references;
use super::replicas;
use super::span::{Span, TextPosition};
use super::tree::{self, Value, YamlNode};
use super::types::{self, Misspelt, misspelt};
use super::{pod_parts, pod_template};
use npc_compiler::algebra::syntax::{wrong_label_key, wrong_label_value};
use npc_compiler::object::{Consequence, Workload, consequence, is_cluster_scoped};

/// How deep `List`s may lie in `List`s.
const MAX_LISTS: usize = 8;

/// Reads a file. It answers for any bytes: what cannot be read is in the problems.
pub(in crate::source) fn parse(file: &Arc<str>, bytes: Vec<u8>, default_namespace: &str) -> Parsed {
    parse_counted(file, bytes, default_namespace, &AtomicUsize::new(0))
}

/// Reads a file, and counts its objects meanwhile.
pub(super) fn parse_counted(file: &Arc<str>, bytes: Vec<u8>, default_namespace: &str, count: &AtomicUsize) -> Parsed {
    let mut reader = DocumentReader::new(file, default_namespace, count);
    match decode_text(bytes) {
        Ok(text) => {
            let mut each = |document| match document {
                Ok(node) => reader.document(node, None, 0),
                Err(fault) => reader.fault(&fault),
            };
            match json::values(&text) {
                Some(values) => values.into_iter().for_each(|(at, value)| {
                    tree::documents(value, at, kinds::trim_early, &mut each);
                }),
                None => tree::documents(&text, TextPosition::FIRST, kinds::trim_early, &mut each),
            }
            reader.parsed.text = text;
        }
        Err(NotText { span, message, remedy, names_types }) => {
            if !names_types {
                reader.faults.push((reader.parsed.problems.len(), DocumentFault::NoObject));
            }
            reader.problem(ProblemCode::DocumentUnreadable, span, None, "", message, remedy);
        }
    }
    reader.finish()
}

pub(super) struct DocumentReader<'a> {
    default_namespace: &'a str,
    pub(super) parsed: Parsed,
    /// The problems, by their places, that may be of other things than objects.
    pub(super) faults: Vec<(usize, DocumentFault)>,
    /// How many objects were read so far.
    count: &'a AtomicUsize,
}

/// The apiVersion and kind of a document.
#[derive(Clone)]
struct TypeMeta {
    api_version: String,
    kind: String,
}

impl<'a> DocumentReader<'a> {
    pub(super) fn new(file: &Arc<str>, default_namespace: &'a str, count: &'a AtomicUsize) -> Self {
        Self { default_namespace, parsed: Parsed::empty(Arc::clone(file)), faults: Vec::new(), count }
    }
}

impl DocumentReader<'_> {
    fn problem(
        &mut self,
        code: ProblemCode,
        span: Span,
        object: Option<&ObjectRef>,
        path: &str,
        message: String,
        help: impl Into<String>,
    ) {
        self.parsed.problems.push(Problem {
            file: Arc::clone(&self.parsed.file),
            span: Some(span),
            code,
            object: object.cloned(),
            path: path.to_owned(),
            message,
            other: None,
            help: help.into(),
        });
    }

    /// A document that cannot be parsed.
    fn fault(&mut self, fault: &tree::TreeError) {
        self.faults.push((self.parsed.problems.len(), DocumentFault::Syntax));
        self.problem(ProblemCode::DocumentUnreadable, fault.span, None, "", fault.message.clone(), fault.help);
    }

    /// The file, with what its faulty documents are.
    fn finish(mut self) -> Parsed {
        let text = Arc::clone(&self.parsed.text);
        let documents = LazyCell::new(|| Documents::of(&text));
        let mut features = BTreeMap::new();
        for (problem, fault) in self.faults {
            let line = self.parsed.problems[problem].span.map_or(1, |span| span.start.line);
            let index = documents.index(line);
            let features = features.entry(index).or_insert_with(|| Features::of(documents.text(index)));
            let foreign = foreign::classify(&self.parsed.file, *features, fault);
            self.parsed.foreign.extend(foreign.map(|foreign| (problem, foreign)));
        }
        self.parsed
    }

    /// Reads an item of a `List`.
    pub(super) fn item(&mut self, node: YamlNode) {
        self.document(node, None, 1);
    }

    /// Reads a document, or an item of a list whose items are of one type.
    fn document(&mut self, mut node: YamlNode, of_list: Option<&TypeMeta>, lists: usize) {
        if node.is_null() {
            return;
        }
        let types = match self.types(&node, of_list) {
            Ok(Some(types)) => types,
            Ok(None) => return self.kustomization(&node),
            Err((span, message, help)) => {
                if let Some(object) = foreign::object_in_list(&node) {
                    let message = "objects stand in a list without kind: List, which kubectl refuses".to_owned();
                    let help =
                        "begin each with \"---\" in place of \"-\", or put the list under items: of a kind: List";
                    return self.problem(ProblemCode::DocumentUnreadable, object.span, None, "", message, help);
                }
                if foreign::is_json_patch(&node) {
                    self.faults.push((self.parsed.problems.len(), DocumentFault::Patch));
                } else if !is_meant_as_object(&node) {
                    self.faults.push((self.parsed.problems.len(), DocumentFault::NoObject));
                }
                return self.problem(ProblemCode::DocumentUnreadable, span, None, "", message, help);
            }
        };
        if types.api_version == "v1" && types.kind == "Status" {
            return self.status(&node);
        }
        if foreign::is_encrypted(&types.api_version, &types.kind) {
            return self.encrypted(node.span, None);
        }
        if foreign::is_merge_patch(&node) {
            return self.merge_patch(node.span, None);
        }
        if types.api_version.starts_with("kustomize.config.k8s.io/") {
            self.kustomization(&node);
        }
        if let Some(of) = types.kind.strip_suffix("List")
            && node.get("items").is_some()
        {
            let of = TypeMeta { api_version: types.api_version, kind: of.to_owned() };
            return self.list(node, (!of.kind.is_empty()).then_some(&of), lists);
        }
        if let Some(Misspelt { path, message, help }) = misspelt(&types.api_version, &types.kind) {
            let span = span_of(&node, path).0;
            return self.problem(ProblemCode::DocumentUnreadable, span, None, path, message, help);
        }
        let kind = DocumentKind::of(&types.api_version, &types.kind);
        let has_template = || {
            pod_template::has_pod_template(&node)
                || pod_template::has_other_pod_template(&types.api_version, &types.kind, &node)
        };
        if kind == DocumentKind::Other
            && ((has_template() && self.foreign_workload(&types, &node)) || self.foreign_parts(&types, &node))
        {
            return;
        }
        if kind == DocumentKind::Other {
            if let Some(Workload { kind, name }) = replicas::scaled_by(&types.api_version, &types.kind, &node) {
                let namespace = self.best_name(DocumentKind::Other, &types.kind, &node).namespace;
                self.parsed.scaled.push(ObjectRef::new(kind, namespace, name));
            }
            let qualified = kinds::qualified(&types.api_version, &types.kind);
            let has_pods = pod_template::makes_pods(&types.api_version, &types.kind, &node);
            if has_pods {
                self.parsed.pod_makers.insert(qualified.clone());
            }
            let group = types.api_version.split_once('/').map_or("", |(group, _)| group);
            let consequence = consequence(group, &types.kind);
            if has_pods || consequence.is_some() {
                let mut object = self.best_name(DocumentKind::Other, &types.kind, &node);
                if has_pods || consequence == Some(Consequence::MakesPods) {
                    self.parsed.pod_making.insert(object.clone());
                }
                if is_cluster_scoped(group, &types.kind) {
                    object.namespace.clear();
                }
                self.parsed.skipped_objects.entry(qualified.clone()).or_default().push((object, node.span));
            }
            if pod_template::is_openshift_template(&types.api_version, &types.kind) {
                self.parsed.openshift.get_or_insert_default().extend(foreign::kinds_of_template(&node));
            }
            *self.parsed.skipped.entry(qualified).or_default() += 1;
            if types.kind == "NetworkPolicy" && types.api_version.starts_with("extensions/") {
                let message = format!("no Kubernetes since 1.16 serves a NetworkPolicy of {}", types.api_version);
                let help = "write apiVersion: networking.k8s.io/v1";
                let span = span_of(&node, "apiVersion").0;
                let object = self.best_name(DocumentKind::Policy, &types.kind, &node);
                self.problem(ProblemCode::VersionGone, span, Some(&object), "apiVersion", message, help);
            }
            return;
        }
        kind.trim(&mut node);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.object(kind, &types.kind, node);
    }

    /// Reads an object of a kind that is not Kubernetes' own as a workload for each of its pod templates. Returns
    /// whether all can be read.
    fn foreign_parts(&mut self, types: &TypeMeta, node: &YamlNode) -> bool {
        let parts = pod_parts::parts(&types.api_version, &types.kind, node);
        if parts.is_empty() {
            return false;
        }
        let Some(mut objects) = pod_parts::objects(&types.kind, node, &parts) else { return false };
        for object in &mut objects {
            DocumentKind::Workload.trim(object);
        }
        let kind = kinds::foreign_workload(&types.api_version, &types.kind);
        let (file, namespace) = (&self.parsed.file, self.default_namespace);
        let is_read = |object: &YamlNode| {
            kinds::read(DocumentKind::Workload, &kind, object, file, namespace, &mut Notes::default()).is_ok()
        };
        let are_read = objects.iter().all(is_read);
        if are_read {
            self.count.fetch_add(1, Ordering::Relaxed);
            for object in objects {
                self.object(DocumentKind::Workload, &kind, object);
            }
        }
        are_read
    }

    /// Reads an object of a kind that is not Kubernetes' own as the workload that its pod template
    /// makes of it. Returns whether that can be read.
    fn foreign_workload(&mut self, types: &TypeMeta, node: &YamlNode) -> bool {
        let mut node = node.clone();
        pod_template::name_as_kubernetes_does(&mut node);
        DocumentKind::Workload.trim(&mut node);
        let kind = kinds::foreign_workload(&types.api_version, &types.kind);
        let (file, namespace) = (&self.parsed.file, self.default_namespace);
        let is_read = kinds::read(DocumentKind::Workload, &kind, &node, file, namespace, &mut Notes::default()).is_ok();
        if is_read {
            self.object(DocumentKind::Workload, &kind, node);
        }
        is_read
    }

    fn kustomization(&mut self, node: &YamlNode) {
        self.parsed.kustomization.get_or_insert_default().extend(patch::patches(node));
        self.parsed.used.extend(patch::used(node));
    }

    /// What a document says it is; `None` for a file that kustomize reads.
    fn types(
        &self,
        node: &YamlNode,
        of_list: Option<&TypeMeta>,
    ) -> Result<Option<TypeMeta>, (Span, String, &'static str)> {
        if !matches!(node.resolved().value, Value::Map(_)) {
            let help = "only Kubernetes objects are read";
            return Err((node.span, "not an object with apiVersion and kind".to_owned(), help));
        }
        let field = |key: &str| match node.get(key) {
            Some(value) if !value.is_null() => match value.text() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err((value.span, format!("{key} must be text"), "")),
            },
            _ => Ok(None),
        };
        match (field("apiVersion")?, field("kind")?) {
            (Some(api_version), Some(kind)) => Ok(Some(TypeMeta { api_version, kind })),
            // The API server leaves both out of the items of a PodList.
            (None, None) if of_list.is_some() => Ok(of_list.cloned()),
            // kustomize lets its own file go without both, and it stands in many a directory of manifests.
            (None, None) if is_kustomization(&self.parsed.file) => Ok(None),
            (None, _) => Err((node.span, "the object has no apiVersion".to_owned(), "give it an apiVersion")),
            (_, None) => Err((node.span, "the object has no kind".to_owned(), "give it a kind")),
        }
    }

    /// An answer of the API server that was kept in place of the objects that were asked for.
    fn status(&mut self, node: &YamlNode) {
        let said = node.get("message").and_then(YamlNode::text).map(|text| format!(": {text}")).unwrap_or_default();
        self.faults.push((self.parsed.problems.len(), DocumentFault::Status));
        let message = format!("it is an answer of the API server in place of objects{said}");
        self.problem(ProblemCode::DocumentUnreadable, node.span, None, "", message, "get the objects again");
    }

    fn list(&mut self, list: YamlNode, of: Option<&TypeMeta>, lists: usize) {
        let Value::Map(entries) = list.into_value() else { return };
        let Some(items) = entries.into_iter().find(|entry| &*entry.key == "items") else { return };
        if lists >= MAX_LISTS {
            let message = "lists of lists of lists".to_owned();
            return self.problem(ProblemCode::DocumentUnreadable, items.at, None, "items", message, "flatten them");
        }
        self.parsed.has_list = true;
        let is_null = items.node.is_null();
        match items.node.into_value() {
            Value::List(items) => items.into_iter().for_each(|item| self.document(item, of, lists + 1)),
            _ if is_null => {}
            _ => self.problem(
                ProblemCode::DocumentUnreadable,
                items.at,
                None,
                "items",
                "items must be a list".to_owned(),
                "",
            ),
        }
    }

    /// Reports labels of an object and of its pod template that no API server takes. They count
    /// as they stand, because commands and an agent that follows a directory judge what the file
    /// says.
    fn labels(&mut self, object: &ObjectRef, node: &YamlNode) {
        for path in LABELS {
            let found = path.split('.').try_fold(node, |node, key| node.get(key));
            let Some(Value::Map(entries)) = found.map(|found| &found.resolved().value) else { continue };
            for entry in entries {
                let value = if entry.node.is_null() { "" } else { entry.node.text().unwrap_or_default() };
                if let Some(message) = wrong_label_key(&entry.key).or_else(|| wrong_label_value(value)) {
                    let path = format!("{path}.{}", entry.key);
                    self.problem(ProblemCode::LabelInvalid, entry.at, Some(object), &path, message, "");
                }
            }
        }
    }

    /// An object that has to be decrypted, which is no broken one.
    fn encrypted(&mut self, span: Span, object: Option<&ObjectRef>) {
        let help = format!("sops -d {} decrypts it", self.parsed.file);
        self.unfinished(Unfinished::Encrypted, span, object, "it is encrypted by SOPS", help);
    }

    /// What changes another object, and is no broken one.
    fn merge_patch(&mut self, span: Span, object: Option<&ObjectRef>) {
        let message = "it is a strategic merge patch, which is no object";
        self.unfinished(Unfinished::Patch, span, object, message, "kustomize applies it".to_owned());
    }

    fn unfinished(&mut self, why: Unfinished, span: Span, object: Option<&ObjectRef>, message: &str, help: String) {
        self.faults.push((self.parsed.problems.len(), DocumentFault::Unfinished(why)));
        self.problem(ProblemCode::DocumentUnreadable, span, object, "", message.to_owned(), help);
    }

    fn object(&mut self, kind: DocumentKind, kind_name: &str, mut node: YamlNode) {
        // Annotations decide nothing, so a policy is in force even if they are wrong.
        let annotations = Some(&mut node).filter(|_| kind == DocumentKind::Policy).and_then(annotations::take);
        let unfinished = foreign::unfinished(&node);
        match unfinished {
            Some(Unfinished::Encrypted) => {
                return self.encrypted(node.span, Some(&self.best_name(kind, kind_name, &node)));
            }
            Some(Unfinished::Patch) => {
                return self.merge_patch(node.span, Some(&self.best_name(kind, kind_name, &node)));
            }
            Some(Unfinished::Template | Unfinished::Parameters) | None => {}
        }
        let mut notes = Notes::default();
        let read = kinds::read(kind, kind_name, &node, &self.parsed.file, self.default_namespace, &mut notes);
        let object = match &read {
            Ok(decoded) => ObjectRef::new(kind_name, &decoded.namespace, &decoded.name),
            Err(_) => self.best_name(kind, kind_name, &node),
        };
        for doubt in notes.doubts {
            self.problem(ProblemCode::ValueDoubtful, doubt.span, Some(&object), &doubt.path, doubt.message, doubt.help);
        }
        if read.is_ok() {
            self.labels(&object, &node);
            for Wrong { at, path, message, help } in annotations.iter().flat_map(annotations::wrong) {
                self.problem(ProblemCode::AnnotationInvalid, at, Some(&object), &path, message, help);
            }
            let references = Some(&node).filter(|_| kind == DocumentKind::Policy).map(references::wrong);
            for Wrong { at, path, message, help } in references.unwrap_or_default() {
                self.problem(ProblemCode::ValueDoubtful, at, Some(&object), &path, message, help);
            }
        }
        match read {
            Ok(decoded) => {
                // Little is asked for of objects other than policies, and there are a hundred
                // thousand.
                let is_needed = kind == DocumentKind::Policy;
                let namespace = node.at(&["metadata", "namespace"]).filter(|of| !of.is_null()).and_then(YamlNode::text);
                let has_namespace = kind.is_cluster_scoped() || namespace.is_some_and(|name| !name.is_empty());
                let node = if is_needed { node } else { fix_fields(kind, node) };
                self.parsed.items.push(ParsedObject {
                    object,
                    file: Arc::clone(&self.parsed.file),
                    node: Arc::new(node),
                    is_in_parts: false,
                    owner: decoded.owner,
                    workload_labels: decoded.workload_labels,
                    ordinals: decoded.ordinals,
                    has_namespace,
                    unfinished,
                    body: decoded.body,
                });
            }
            Err(TypeMismatch { span, path, message, help }) => {
                if kind == DocumentKind::Policy {
                    let subject = Some(&node).filter(|_| unfinished.is_none()).and_then(kinds::subject);
                    self.parsed.unread_subjects.push((object.clone(), subject));
                }
                let span = span.unwrap_or(node.span);
                let fault = unfinished.map_or(DocumentFault::Mismatch, DocumentFault::Unfinished);
                self.faults.push((self.parsed.problems.len(), fault));
                self.problem(ProblemCode::DocumentUnreadable, span, Some(&object), &path, message, help);
            }
        }
    }

    /// The name of an object that could not be read.
    fn best_name(&self, kind: DocumentKind, kind_name: &str, node: &YamlNode) -> ObjectRef {
        let metadata = |key| node.at(&["metadata", key]).and_then(YamlNode::text).unwrap_or_default();
        let namespace = match metadata("namespace") {
            _ if kind.is_cluster_scoped() => "",
            "" => self.default_namespace,
            namespace => namespace,
        };
        ObjectRef::new(kind_name, namespace, metadata("name"))
    }
}

/// Whether a document without apiVersion or kind looks like an object all the same.
fn is_meant_as_object(node: &YamlNode) -> bool {
    let has = |key| node.get(key).is_some_and(|value| !value.is_null());
    let is_read = |kind: &str| types::kind_that_is_read(kind).is_some();
    has("metadata") || node.get("kind").and_then(YamlNode::text).is_some_and(is_read)
}

/// Whether kustomize reads a file by its name.
fn is_kustomization(file: &str) -> bool {
    files::is_kustomization(file.rsplit('/').next().unwrap_or(file).as_bytes())
}
