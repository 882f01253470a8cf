//! How many pods a workload has at once. What one pod of several sends to the others is judged, what
//! a pod sends to itself is not.

use npc_compiler::object::Workload;

use super::decode::{Notes, TypeMismatch, field};
use super::tree::YamlNode;

/// How many pods a workload has at once; none where that is not known: of a DaemonSet, and of a kind that is not
/// Kubernetes' own and leaves it to its default. The API's default is 1
/// (<https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/>). The pods of a suspended Job come when
/// it is resumed, as it stands.
pub(super) fn of_workload(kind: &str, node: &YamlNode, notes: &mut Notes) -> Result<Option<i32>, TypeMismatch> {
    match kind {
        "DaemonSet" => Ok(None),
        "Job" => of_job(node, &["spec"], notes).map(Some),
        "Deployment" | "StatefulSet" | "ReplicaSet" | "ReplicationController" => {
            let replicas: Option<i32> = field(node, &["spec", "replicas"], notes)?;
            Ok(replicas.or(Some(1)))
        }
        _ => field(node, &["spec", "replicas"], notes),
    }
}

/// How a StatefulSet names its pods: by ordinals, and in DNS by a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordinals {
    /// The ordinal of the first pod.
    pub first: i32,
    /// How many pods there are; none where an autoscaler decides.
    pub count: Option<i32>,
    /// `serviceName`: the Service by which DNS names the pods.
    pub service: Option<String>,
}

impl Ordinals {
    /// Whether a pod may have this ordinal.
    #[must_use]
    pub fn may_have(&self, ordinal: i32) -> bool {
        ordinal >= self.first && self.count.is_none_or(|count| ordinal - self.first < count)
    }
}

/// The ordinals that a StatefulSet gives its pods
/// (<https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#ordinal-index>).
pub(super) fn of_stateful_set(node: &YamlNode, notes: &mut Notes) -> Result<Ordinals, TypeMismatch> {
    let first: Option<i32> = field(node, &["spec", "ordinals", "start"], notes)?;
    let service: Option<String> = field(node, &["spec", "serviceName"], notes)?;
    let service = service.filter(|name| !name.is_empty());
    Ok(Ordinals { first: first.unwrap_or(0), count: of_workload("StatefulSet", node, notes)?, service })
}

/// How many pods a Job has at once: `parallelism`, and no more than are to complete.
fn of_job(node: &YamlNode, spec: &[&str], notes: &mut Notes) -> Result<i32, TypeMismatch> {
    let parallelism: Option<i32> = field(node, &[spec, &["parallelism"]].concat(), notes)?;
    let completions: Option<i32> = field(node, &[spec, &["completions"]].concat(), notes)?;
    let at_once = parallelism.unwrap_or(1);
    Ok(completions.filter(|completions| *completions > 0).map_or(at_once, |completions| at_once.min(completions)))
}

/// How many pods a CronJob has at once: those of one Job, unless its Jobs may overlap, which they may
/// where it does not say otherwise.
pub(super) fn of_cron_job(node: &YamlNode, notes: &mut Notes) -> Result<Option<i32>, TypeMismatch> {
    let number = of_job(node, &["spec", "jobTemplate", "spec"], notes)?;
    let policy: Option<String> = field(node, &["spec", "concurrencyPolicy"], notes)?;
    let may_overlap = !matches!(policy.as_deref(), Some("Forbid" | "Replace"));
    Ok(Some(number).filter(|number| *number == 0 || !may_overlap))
}

/// The workload whose number of replicas an object changes, where it is an autoscaler that may make
/// more than one.
pub(super) fn scaled_by(api_version: &str, kind: &str, node: &YamlNode) -> Option<Workload> {
    let at = |path: &[&str]| node.at(path).and_then(YamlNode::text);
    let (group, _) = api_version.split_once('/')?;
    let (most, default_kind) = match (group, kind) {
        ("autoscaling", "HorizontalPodAutoscaler") => ("maxReplicas", None),
        ("keda.sh", "ScaledObject") => ("maxReplicaCount", Some("Deployment")),
        _ => return None,
    };
    let target = |key| at(&["spec", "scaleTargetRef", key]);
    let (kind, name) = (target("kind").or(default_kind)?.to_owned(), target("name")?.to_owned());
    (at(&["spec", most]) != Some("1")).then_some(Workload { kind, name })
}
