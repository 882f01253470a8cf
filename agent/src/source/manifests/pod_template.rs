//! Pod templates: the pods that they make, and those of kinds that are not read.

use k8s_openapi::api::core::v1 as core;
use npc_compiler::object::{Pod, Workload, consequence};

use super::decode::{Notes, TypeMismatch, field};
use super::tree::{Value, YamlNode};

/// Whether an object of a kind that is not read has a pod template where Kubernetes' own
/// workloads have theirs. Its pods are then those that a Deployment of it would have.
pub(super) fn has_pod_template(node: &YamlNode) -> bool {
    has_containers(node, "template")
}

/// Whether an object of a kind that npc does not know by its name has a pod template in the field that other
/// projects call so.
pub(super) fn has_other_pod_template(api_version: &str, kind: &str, node: &YamlNode) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    consequence(group, kind).is_none()
        && !has_templates_only(api_version, kind)
        && node.at(&["spec", "template"]).is_none()
        && has_containers(node, OTHER_NAME)
}

fn has_containers(node: &YamlNode, field: &str) -> bool {
    let containers = node.at(&["spec", field, "spec", "containers"]);
    containers.is_some_and(|containers| matches!(containers.resolved().value, Value::List(_)))
}

/// What kinds of other projects call the field of their pod template that Kubernetes calls `template`.
const OTHER_NAME: &str = "podTemplate";

/// Calls the field of the pod template `template`, as Kubernetes does.
pub(super) fn name_as_kubernetes_does(object: &mut YamlNode) {
    let Value::Map(fields) = &mut object.value else { return };
    let Some(spec) = fields.iter_mut().find(|entry| &*entry.key == "spec") else { return };
    let Value::Map(fields) = &mut spec.node.value else { return };
    if fields.iter().all(|entry| &*entry.key != "template")
        && let Some(template) = fields.iter_mut().find(|entry| &*entry.key == OTHER_NAME)
    {
        template.key = "template".into();
    }
}

/// Whether a pod's `spec.containers` stands anywhere in a node.
pub(super) fn has_pod_spec(node: &YamlNode) -> bool {
    match &node.resolved().value {
        Value::Map(entries) => entries.iter().any(|entry| {
            let containers = (&*entry.key == "spec").then(|| entry.node.get("containers")).flatten();
            containers.is_some_and(|of| matches!(of.resolved().value, Value::List(_))) || has_pod_spec(&entry.node)
        }),
        Value::List(items) => items.iter().any(has_pod_spec),
        Value::Scalar { .. } | Value::Shared(_) => false,
    }
}

/// Whether the controller of an object makes pods, as far as a pod's `spec.containers` tells.
pub(super) fn makes_pods(api_version: &str, kind: &str, node: &YamlNode) -> bool {
    !has_templates_only(api_version, kind) && has_pod_spec(node)
}

/// Whether an object is a Template of OpenShift, whose groups were once of v1.
pub(super) fn is_openshift_template(api_version: &str, kind: &str) -> bool {
    kind == "Template" && (api_version == "v1" || api_version.starts_with("template.openshift.io/"))
}

/// Whether objects of a kind have templates or examples of pods and make no pods. Such kinds are
/// policies about pods, definitions of kinds, containers that are added to pods, and a template by
/// itself.
pub(super) fn has_templates_only(api_version: &str, kind: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let is_kyverno = group == "kyverno.io" || group.ends_with(".kyverno.io");
    let is_rule = is_kyverno || group.ends_with("gatekeeper.sh") || group == "admissionregistration.k8s.io";
    // AnalysisTemplate, WorkflowTemplate; TrainingRuntime, ClusterServingRuntime: others refer to them.
    is_rule
        || ((kind.ends_with("Template") || kind.ends_with("Runtime")) && consequence(group, kind).is_none())
        || is_openshift_template(api_version, kind)
        || matches!(
            (group, kind),
            ("", "PodTemplate")
                | ("apps", "ControllerRevision")
                | ("apiextensions.k8s.io", "CustomResourceDefinition")
                | ("apps.kruise.io", "SidecarSet")
        )
}

/// The pod that a workload would make; it has the workload's name.
pub(super) fn template(
    kind: &str,
    name: &str,
    namespace: &str,
    node: &YamlNode,
    path: &[&str],
    notes: &mut Notes,
) -> Result<Pod, TypeMismatch> {
    if node.at(path).is_none_or(YamlNode::is_null) {
        let help = "it makes no pods without one; add it, or leave the object out";
        let message = "the workload has no pod template".to_owned();
        return Err(TypeMismatch { span: Some(node.span), path: path.join("."), message, help });
    }
    let template: core::PodTemplateSpec = field(node, path, notes)?;
    let mut labels = template.metadata.and_then(|metadata| metadata.labels).unwrap_or_default();
    if kind == "Job" {
        // The job controller's own; policies may select by them.
        for key in ["batch.kubernetes.io/job-name", "job-name"] {
            labels.entry(key.to_owned()).or_insert_with(|| name.to_owned());
        }
    }
    // What other projects' controllers add and follows from the name.
    let known = match kind {
        "DeploymentConfig" => Some("deploymentconfig"),
        "Service.serving.knative.dev" => Some("serving.knative.dev/service"),
        _ => None,
    };
    labels.extend(known.map(|key| (key.to_owned(), name.to_owned())));
    let spec = template.spec.unwrap_or_default();
    let mut pod = Pod::from_template(namespace.to_owned(), name.to_owned(), labels, spec);
    pod.workload = Some(Workload { kind: kind.to_owned(), name: name.to_owned() });
    let of_job = path.split_last().and_then(|(_, spec)| node.at(spec)).filter(|_| matches!(kind, "Job" | "CronJob"));
    let mode = of_job.and_then(|spec| spec.get("completionMode"));
    pod.has_no_index = of_job.is_some() && mode.is_none_or(|mode| mode.is_null() || mode.text() == Some("NonIndexed"));
    Ok(pod)
}
