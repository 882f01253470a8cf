//! The classes of endpoints: how pods are sorted into them, and which of them a selector may select.

use std::collections::BTreeMap;

use super::label_index::LabelIndex;
use super::selection::UnknownLabels;
use super::{Class, ClassId, PodId, index};
use crate::algebra::selector::Selector;
use crate::object::{Labels, Pod};

/// The classes of a namespace.
#[derive(Debug, Default)]
pub(super) struct ClassesOfNamespace {
    pub(super) all: Vec<ClassId>,
    by_label: LabelIndex<ClassId>,
}

impl ClassesOfNamespace {
    /// The classes among which those are that a selector selects, in order.
    pub(super) fn candidates(&self, selector: &Selector, classes: &[Class]) -> &[ClassId] {
        let found = self.by_label.candidates(selector, |add| {
            for id in &self.all {
                classes[id.0 as usize].labels.iter().for_each(|(key, value)| add(key, value, id));
            }
        });
        found.unwrap_or(&self.all)
    }
}

/// Sorts the endpoints into classes. Where no policy asks for labels of nodes, a pod that has none yet
/// is as one that has.
pub(super) fn classify(pods: &[Pod], ask_for_node_labels: bool) -> (Vec<Class>, Vec<Option<ClassId>>) {
    let mut endpoints = BTreeMap::<(&str, &Labels, UnknownLabels), Vec<PodId>>::new();
    for (i, pod) in pods.iter().enumerate().filter(|(_, pod)| pod.is_endpoint()) {
        let unknown = match UnknownLabels::of(pod) {
            UnknownLabels::OfNode if !ask_for_node_labels => UnknownLabels::None,
            unknown => unknown,
        };
        endpoints.entry((&pod.namespace, &pod.labels, unknown)).or_default().push(PodId(index(i)));
    }
    let mut class_of = vec![None; pods.len()];
    let mut classes = Vec::with_capacity(endpoints.len());
    for ((namespace, labels, unknown), endpoints) in endpoints {
        for pod in &endpoints {
            class_of[pod.0 as usize] = Some(ClassId(index(classes.len())));
        }
        classes.push(Class { namespace: namespace.to_owned(), labels: labels.clone(), unknown, endpoints });
    }
    (classes, class_of)
}
