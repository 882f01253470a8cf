//! What the input says that decides no verdict, and that may be why one is as it is: explanations name it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Cluster;
use crate::object::{Labels, Workload};
use crate::policy::Policy;

/// A workload and its namespace.
pub type WorkloadName = (String, Workload);

/// What the input says beside the objects that decide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// The labels that workloads have themselves, in `metadata.labels`, as far as they are known. Their pods
    /// do not get these.
    pub workload_labels: BTreeMap<WorkloadName, Labels>,
    /// The labels of the templates of workloads whose pods are in the input themselves. A pod that was made after an
    /// older template lacks what the template got since.
    pub template_labels: BTreeMap<WorkloadName, Labels>,
    /// The workloads that are to have no pods (`replicas: 0`), and the labels of their templates.
    pub without_pods: Vec<(WorkloadName, Labels)>,
    /// Policies that do not count, because a later one has the same name.
    pub replaced_policies: Vec<Policy>,
}

impl Hints {
    /// The first workload of a namespace that is to have no pods and whose pods would have such labels.
    pub fn workload_without_pods(&self, namespace: &str, fits: impl Fn(&Labels) -> bool) -> Option<&WorkloadName> {
        let mut of_namespace = self.without_pods.iter().filter(|((of, _), _)| of == namespace);
        of_namespace.find(|(_, labels)| fits(labels)).map(|(name, _)| name)
    }
}

impl Cluster {
    /// The same cluster with these hints, which the input gives besides its objects.
    #[must_use]
    pub fn with_hints(mut self, hints: Hints) -> Self {
        self.hints = Arc::new(hints);
        self
    }

    /// What the input says that decides nothing.
    #[must_use]
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// The label of this key that a workload has itself.
    #[must_use]
    pub fn workload_label(&self, namespace: &str, workload: &Workload, key: &str) -> Option<&str> {
        let labels = self.hints.workload_labels.get(&(namespace.to_owned(), workload.clone()))?;
        labels.get(key).map(String::as_str)
    }

    /// The label of this key in the template of a workload, where the input has pods that the workload made.
    #[must_use]
    pub fn template_label(&self, namespace: &str, workload: &Workload, key: &str) -> Option<&str> {
        let labels = self.hints.template_labels.get(&(namespace.to_owned(), workload.clone()))?;
        labels.get(key).map(String::as_str)
    }
}
