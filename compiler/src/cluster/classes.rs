//! The classes of endpoints: how pods are sorted into them, and which of them a selector may select.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::selection::UnknownLabels;
use super::{Class, ClassId, PodId, index};
use crate::algebra::selector::{Operator, Selector};
use crate::object::{Labels, Pod};

/// The classes of a namespace.
#[derive(Debug, Default)]
pub(super) struct ClassesOfNamespace {
    pub(super) all: Vec<ClassId>,
    /// How often selectors were tried on all of them.
    searches: AtomicUsize,
    /// Those that have a label, by the label's hash.
    by_label: OnceLock<FxHashMap<u64, Vec<ClassId>>>,
}

impl ClassesOfNamespace {
    /// The classes among which those are that a selector selects, in order. Where many
    /// selectors ask, an index by labels answers: each of 10,000 peers tried on each of
    /// 10,000 classes takes seconds.
    pub(super) fn candidates(&self, selector: &Selector, classes: &[Class]) -> Vec<ClassId> {
        /// After how many searches an index pays.
        const SEARCHES: usize = 4;
        let label = selector.requirements().find_map(|requirement| match &requirement.operator {
            Operator::In(values) => match &**values {
                [value] => Some(label_hash(&requirement.key, value)),
                _ => None,
            },
            Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
        });
        let Some(label) = label.filter(|_| self.searches.fetch_add(1, Ordering::Relaxed) >= SEARCHES) else {
            return self.all.clone();
        };
        let by_label = self.by_label.get_or_init(|| {
            let mut by_label = FxHashMap::<u64, Vec<ClassId>>::default();
            for id in &self.all {
                for (key, value) in &classes[id.0 as usize].labels {
                    by_label.entry(label_hash(key, value)).or_default().push(*id);
                }
            }
            by_label
        });
        by_label.get(&label).cloned().unwrap_or_default()
    }
}

fn label_hash(key: &str, value: &str) -> u64 {
    FxBuildHasher.hash_one((key, value))
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
