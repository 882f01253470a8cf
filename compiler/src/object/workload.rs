//! The workload to which a pod belongs.

use super::Labels;

/// The label by which a Deployment knows the pods of each of its templates: with the name of the
/// ReplicaSet it shows the Deployment's.
pub(super) const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// The kind and name of a workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    /// `Deployment`, `StatefulSet`, ….
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Workload {
    /// The workload behind a controlling owner. A Deployment names its
    /// ReplicaSets `NAME-HASH` and gives their pods the label
    /// `pod-template-hash: HASH`, so the pair names the Deployment for certain.
    #[must_use]
    pub(super) fn of_owner(kind: &str, name: &str, labels: &Labels) -> Self {
        let deployment = (labels.get(POD_TEMPLATE_HASH).filter(|_| kind == "ReplicaSet"))
            .and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'));
        match deployment {
            Some(deployment) => Self { kind: "Deployment".to_owned(), name: deployment.to_owned() },
            None => Self { kind: kind.to_owned(), name: name.to_owned() },
        }
    }
}
