//! What a file holds, read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use npc_compiler::algebra::selector::Selector;
use npc_compiler::object::{Labels, Workload};

use super::foreign::{OtherDocument, Unfinished};
use super::kinds::ManifestObject;
use super::patch::Patch;
use super::problem::{ObjectRef, Problem, ProblemCode};
use super::replicas::Ordinals;
use super::span::Span;
use super::tree::YamlNode;

/// What a file holds.
#[derive(Debug, Clone)]
pub(in crate::source) struct Parsed {
    pub(super) file: Arc<str>,
    pub(super) text: Arc<str>,
    pub(super) items: Vec<ParsedObject>,
    pub(in crate::source) problems: Vec<Problem>,
    pub(super) skipped: BTreeMap<String, usize>,
    /// The skipped objects whose kinds decide about connectivity, and where they stand.
    pub(super) skipped_objects: BTreeMap<String, Vec<(ObjectRef, Span)>>,
    /// Those of the skipped kinds whose objects have a pod's containers.
    pub(super) pod_makers: BTreeSet<String>,
    /// The objects that were passed over and whose controllers make pods.
    pub(super) pod_making: BTreeSet<ObjectRef>,
    /// The pod selectors of policies that could be read only in part.
    pub(super) unread_subjects: Vec<(ObjectRef, Option<Selector>)>,
    /// The kinds of the objects that its Templates of OpenShift make, if it has any; none for an object of
    /// any kind.
    pub(super) openshift: Option<BTreeSet<Option<&'static str>>>,
    /// The workloads that autoscalers scale.
    pub(super) scaled: Vec<ObjectRef>,
    /// The problems, by their places, of documents that are no broken objects.
    pub(super) foreign: Vec<(usize, OtherDocument)>,
    /// For a long list, only these parts of the text are kept, by the lines in which they begin.
    pub(super) parts: BTreeMap<u32, Box<str>>,
    /// Of a file for kustomize: its patches.
    pub(super) kustomization: Option<Vec<Patch>>,
    /// Of a file for kustomize: the folders and files that it takes objects from.
    pub(super) used: Vec<String>,
    /// It has a list of objects, though it may be one without items.
    pub(super) has_list: bool,
}

/// An object of a file.
#[derive(Debug, Clone)]
pub(super) struct ParsedObject {
    pub(super) object: ObjectRef,
    pub(super) file: Arc<str>,
    pub(super) node: Arc<YamlNode>,
    /// Its fields stand in [`Parsed::parts`] only.
    pub(super) is_in_parts: bool,
    /// Its document names its namespace, or it lives outside namespaces.
    pub(super) has_namespace: bool,
    /// What another program has yet to do to it.
    pub(super) unfinished: Option<Unfinished>,
    /// The workload that owns it.
    pub(super) owner: Option<Workload>,
    /// The labels that a workload has itself; none of another object.
    pub(super) workload_labels: Option<Labels>,
    /// How a StatefulSet names its pods; none of another object.
    pub(super) ordinals: Option<Ordinals>,
    pub(super) body: ManifestObject,
}

impl Parsed {
    pub(super) fn empty(file: Arc<str>) -> Self {
        Self {
            file,
            text: Arc::default(),
            items: Vec::new(),
            problems: Vec::new(),
            skipped: BTreeMap::new(),
            skipped_objects: BTreeMap::new(),
            pod_makers: BTreeSet::new(),
            pod_making: BTreeSet::new(),
            unread_subjects: Vec::new(),
            openshift: None,
            scaled: Vec::new(),
            foreign: Vec::new(),
            parts: BTreeMap::new(),
            kustomization: None,
            used: Vec::new(),
            has_list: false,
        }
    }

    /// Adds what was read of the next part of the same file.
    pub(super) fn append(&mut self, next: Self) {
        let Self {
            file: _,
            // Only a file that is read as a whole has it.
            text: _,
            items,
            problems,
            skipped,
            skipped_objects,
            pod_makers,
            pod_making,
            unread_subjects,
            openshift,
            scaled,
            foreign,
            parts,
            kustomization,
            used,
            has_list,
        } = next;
        self.foreign.extend(foreign.into_iter().map(|(place, of)| (self.problems.len() + place, of)));
        self.items.extend(items);
        self.problems.extend(problems);
        for (kind, count) in skipped {
            *self.skipped.entry(kind).or_default() += count;
        }
        for (kind, objects) in skipped_objects {
            self.skipped_objects.entry(kind).or_default().extend(objects);
        }
        self.pod_makers.extend(pod_makers);
        self.pod_making.extend(pod_making);
        self.unread_subjects.extend(unread_subjects);
        if let Some(kinds) = openshift {
            self.openshift.get_or_insert_default().extend(kinds);
        }
        self.scaled.extend(scaled);
        self.used.extend(used);
        self.has_list |= has_list;
        self.parts.extend(parts);
        if let Some(patches) = kustomization {
            self.kustomization.get_or_insert_default().extend(patches);
        }
    }

    /// Whether no object was read.
    pub(in crate::source) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The same objects, with no word about what is wrong.
    pub(in crate::source) fn silent(&self) -> Self {
        Self { problems: Vec::new(), foreign: Vec::new(), ..self.clone() }
    }

    /// A file that could not be read at all.
    pub(in crate::source) fn failed(path: &Path, message: &str, help: &str) -> Self {
        let mut parsed = Self::empty(path.to_string_lossy().into());
        parsed.problems.push(Problem {
            file: Arc::clone(&parsed.file),
            span: None,
            code: ProblemCode::DocumentUnreadable,
            object: None,
            path: String::new(),
            message: message.to_owned(),
            other: None,
            help: help.to_owned(),
        });
        parsed
    }
}
