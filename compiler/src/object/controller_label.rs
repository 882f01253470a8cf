//! The labels that a workload's controller adds to the pods that it makes. A template does
//! not say them, so a selector that asks for one is undecided until the pods exist.

use super::workload::{POD_TEMPLATE_HASH, Workload};

/// A label that a controller adds to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControllerLabel {
    /// Its key.
    pub key: &'static str,
    /// The kinds of workloads whose controllers add it; empty for any kind that is not
    /// Kubernetes' own.
    kinds: &'static [&'static str],
    /// Every pod of such a workload has it.
    pub is_always_there: bool,
    /// The controller adds it only where the template has no label with this key.
    pub(crate) yields_to_template: bool,
    values: Values,
}

/// What is known of a label's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    Any,
    /// `NAME-` and the pod's ordinal.
    NameAndOrdinal,
    Ordinal,
    /// `NAME-` and something.
    NameAndSuffix,
}

const fn label(
    key: &'static str,
    kinds: &'static [&'static str],
    is_always_there: bool,
    values: Values,
) -> ControllerLabel {
    ControllerLabel { key, kinds, is_always_there, yields_to_template: false, values }
}

/// The label of the pods of a Job whose completions are indexed (`completionMode: Indexed`).
pub(crate) const COMPLETION_INDEX_LABEL: &str = "batch.kubernetes.io/job-completion-index";

/// The label of a StatefulSet's pod with its ordinal.
pub(super) const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The label of a StatefulSet's pod with its name.
pub(super) const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";

/// All of them. Sources: `AddPodLabel…` in Kubernetes' controllers, and
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/>.
const LABELS: [ControllerLabel; 10] = [
    // Older controllers do not add it.
    label(POD_INDEX_LABEL, &["StatefulSet"], false, Values::Ordinal),
    label("batch.kubernetes.io/controller-uid", &["Job", "CronJob"], true, Values::Any),
    label(COMPLETION_INDEX_LABEL, &["Job", "CronJob"], false, Values::Ordinal),
    // A Job's own is known: it is the Job's name.
    label("batch.kubernetes.io/job-name", &["CronJob"], true, Values::NameAndSuffix),
    label("controller-revision-hash", &["StatefulSet", "DaemonSet"], true, Values::Any),
    label("controller-uid", &["Job", "CronJob"], true, Values::Any),
    label("job-name", &["CronJob"], true, Values::NameAndSuffix),
    label("pod-template-generation", &["DaemonSet"], false, Values::Any),
    label(POD_TEMPLATE_HASH, &["Deployment"], true, Values::Any),
    label(POD_NAME_LABEL, &["StatefulSet"], true, Values::NameAndOrdinal),
];

/// Kinds whose controllers add the labels above and no others.
const KNOWN_KINDS: [&str; 7] =
    ["CronJob", "DaemonSet", "Deployment", "Job", "ReplicaSet", "ReplicationController", "StatefulSet"];

/// The label of Argo's Rollouts in place of `pod-template-hash`.
pub(crate) const ROLLOUT_HASH_LABEL: &str = "rollouts-pod-template-hash";

/// How a Service of Knative is called among the workloads, and the kind that it makes.
const KNATIVE: [&str; 2] = ["Service.serving.knative.dev", "Configuration"];

/// The kinds of KubeRay whose pods have its labels.
const RAY: [&str; 3] = ["RayCluster", "RayJob", "RayService"];

/// The jobs of Kubeflow's training operator.
const KUBEFLOW: [&str; 6] = ["JAXJob", "MPIJob", "PaddleJob", "PyTorchJob", "TFJob", "XGBoostJob"];

/// Labels of controllers that are not Kubernetes' own. That OpenShift's `deploymentconfig` and
/// Knative's `serving.knative.dev/service` have the workload's name is known.
const FOREIGN: [ControllerLabel; 22] = [
    ControllerLabel { yields_to_template: true, ..label("app", &KNATIVE, true, Values::Any) },
    label("apps.kruise.io/cloneset-instance-id", &["CloneSet"], true, Values::Any),
    label("deployment", &["DeploymentConfig"], true, Values::NameAndOrdinal),
    label(ROLLOUT_HASH_LABEL, &["Rollout"], true, Values::Any),
    label("serving.knative.dev/configuration", &KNATIVE, true, Values::Any),
    label("serving.knative.dev/configurationGeneration", &KNATIVE, true, Values::Any),
    label("serving.knative.dev/revision", &KNATIVE, true, Values::Any),
    label("leaderworkerset.sigs.k8s.io/name", &["LeaderWorkerSet"], true, Values::Any),
    label("leaderworkerset.sigs.k8s.io/group-index", &["LeaderWorkerSet"], true, Values::Any),
    label("leaderworkerset.sigs.k8s.io/worker-index", &["LeaderWorkerSet"], true, Values::Any),
    label("jobset.sigs.k8s.io/jobset-name", &["JobSet"], true, Values::Any),
    label("jobset.sigs.k8s.io/replicatedjob-name", &["JobSet"], true, Values::Any),
    label("ray.io/cluster", &RAY, true, Values::Any),
    label("ray.io/group", &RAY, true, Values::Any),
    label("ray.io/node-type", &RAY, true, Values::Any),
    label("ray.io/is-ray-node", &RAY, true, Values::Any),
    label("training.kubeflow.org/job-name", &KUBEFLOW, true, Values::Any),
    label("training.kubeflow.org/job-role", &KUBEFLOW, false, Values::Any),
    label("training.kubeflow.org/replica-index", &KUBEFLOW, true, Values::Any),
    label("training.kubeflow.org/replica-type", &KUBEFLOW, true, Values::Any),
    label("volcano.sh/job-name", &["Job.batch.volcano.sh"], true, Values::Any),
    label("volcano.sh/task-spec", &["Job.batch.volcano.sh"], true, Values::Any),
];

/// The labels that the API server copies to a pod from its node when it binds it
/// (<https://kubernetes.io/docs/reference/labels-annotations-taints/#topologykubernetesiozone>).
const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// Whether a pod gets a label with this key from its node.
#[must_use]
pub fn is_topology_label(key: &str) -> bool {
    TOPOLOGY.contains(&key)
}

/// The labels that the controller of a workload of this kind adds.
pub fn controller_labels(kind: &str) -> impl Iterator<Item = &'static ControllerLabel> {
    let is_known = KNOWN_KINDS.contains(&kind);
    let of_foreign = FOREIGN.iter().filter(move |label| label.kinds.contains(&kind));
    of_foreign.chain(LABELS.iter().filter(move |label| !is_known || label.kinds.contains(&kind)))
}

/// Whether some controller adds a label with this key.
#[must_use]
pub fn is_controller_label(key: &str) -> bool {
    // An author may give the plainest of them too.
    let of_foreign = FOREIGN.iter().filter(|label| !matches!(label.key, "app" | "deployment"));
    LABELS.iter().chain(of_foreign).any(|label| label.key == key)
}

impl ControllerLabel {
    /// Whether a pod of the workload may have the label with this value.
    #[must_use]
    pub fn may_be(&self, workload: &Workload, value: &str) -> bool {
        if !KNOWN_KINDS.contains(&workload.kind.as_str()) && !self.kinds.contains(&workload.kind.as_str()) {
            return true;
        }
        let is_ordinal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let suffix = || value.strip_prefix(workload.name.as_str()).and_then(|rest| rest.strip_prefix('-'));
        match self.values {
            Values::Any => true,
            Values::Ordinal => is_ordinal(value),
            Values::NameAndOrdinal => suffix().is_some_and(is_ordinal),
            Values::NameAndSuffix => suffix().is_some_and(|rest| !rest.is_empty()),
        }
    }

    /// The label's value on the pods of the workload, as far as it follows from the workload's name:
    /// `nightly-<number>`.
    #[must_use]
    pub fn pattern(&self, workload: &Workload) -> Option<String> {
        let name = &workload.name;
        match self.values {
            Values::NameAndOrdinal | Values::NameAndSuffix if self.is_certain(workload) => {
                Some(format!("{name}-<number>"))
            }
            _ => None,
        }
    }

    /// Whether it is there for certain on a pod of the workload.
    #[must_use]
    pub fn is_certain(&self, workload: &Workload) -> bool {
        self.is_always_there && self.kinds.contains(&workload.kind.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, key: &str) -> Option<&'static ControllerLabel> {
        controller_labels(kind).find(|label| label.key == key)
    }

    #[test]
    fn a_statefulset_names_its_pods_after_itself() {
        let store = Workload { kind: "StatefulSet".to_owned(), name: "store".to_owned() };
        let label = of("StatefulSet", "statefulset.kubernetes.io/pod-name").expect("the label");
        assert!(label.may_be(&store, "store-0") && label.is_certain(&store));
        for other in ["store", "store-", "store-a", "stores-0", "other-0"] {
            assert!(!label.may_be(&store, other), "{other}");
        }
        assert_eq!(of("Deployment", "statefulset.kubernetes.io/pod-name"), None);
    }

    #[test]
    fn a_controller_that_is_not_kubernetes_own_may_add_any_of_them() {
        let rollout = Workload { kind: "Rollout".to_owned(), name: "web".to_owned() };
        let label = of("Rollout", "rollouts-pod-template-hash").expect("the label");
        assert!(label.may_be(&rollout, "x") && label.is_certain(&rollout));
        assert_eq!(of("CloneSet", "rollouts-pod-template-hash"), None, "that is of Rollouts");
        let config = Workload { kind: "DeploymentConfig".to_owned(), name: "dc".to_owned() };
        let label = of("DeploymentConfig", "deployment").expect("the label");
        assert!(label.may_be(&config, "dc-1") && !label.may_be(&config, "other-1") && label.is_certain(&config));
        assert!(of("Rollout", "pod-template-hash").is_some_and(|label| !label.is_certain(&rollout)));
        assert!(is_controller_label("job-name") && !is_controller_label("app"));
    }

    #[test]
    fn labels_of_other_projects_are_those_of_their_own_kinds() {
        assert_eq!(of("Rollout", "deployment"), None);
        assert_eq!(of("Deployment", "serving.knative.dev/service"), None);
        assert!(of("CloneSet", "apps.kruise.io/cloneset-instance-id").is_some());
        assert_eq!(of("Service.serving.knative.dev", "rollouts-pod-template-hash"), None);
    }
}
