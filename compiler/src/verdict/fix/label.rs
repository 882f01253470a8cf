//! Labels that the other end lacks: of a namespace, of a pod, or of a workload's template.

use json_patch::PatchOperation;
use serde_json::json;

use super::change::{Change, Edit, ObjectName, add};
use super::proposal::{Cause, Proposal, Size};
use super::rollout::rollout;
use super::{View, written};
use crate::algebra::selector::{Operator, Selector};
use crate::cluster::PodId;
use crate::object::{Labels, Pod, ROLLOUT_HASH_LABEL, is_controller_label};
use crate::policy::{Direction, Namespaces, PodPeer};

/// The workloads whose pod templates can be changed, and the path of the template.
const TEMPLATES: [(&str, &[&str]); 6] = [
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
    ("DaemonSet", &["spec", "template"]),
    ("Deployment", &["spec", "template"]),
    ("ReplicaSet", &["spec", "template"]),
    ("ReplicationController", &["spec", "template"]),
    ("StatefulSet", &["spec", "template"]),
];

/// The labels that a namespace lacks. All its pods get what rules admit by them, so the change is
/// weighed as one of a policy.
pub(super) fn of_namespace(view: View<'_>, direction: Direction, peer: &PodPeer, namespace: &str) -> Option<Proposal> {
    let Namespaces::Selected(selector) = &peer.namespaces else { return None };
    let object = view.objects.namespaces.iter().find(|of| of.name == namespace)?;
    let is_implied = view.objects.implied_namespaces.contains(namespace);
    let labels = lacking(selector, &object.labels).filter(|_| !is_implied)?;
    // In a file the namespace may have no labels, not even that of its name.
    let operations = if object.labels.len() > 1 {
        label_operations(&["metadata", "labels"], &labels)
    } else {
        let mut whole = object.labels.clone();
        whole.extend(labels.clone());
        vec![add(&["metadata", "labels"], json!(whole))]
    };
    let object = ObjectName { kind: "Namespace".to_owned(), namespace: None, name: namespace.to_owned() };
    let change = Change { direction, object, edit: Edit::Labels(labels, json_patch::Patch(operations)), rollout: None };
    written::has_name(view, &change.object).then_some(Proposal { change, cause: Cause::Policy, size: Size::Wide })
}

/// Whether the workload of the pods has a label itself that its template lacks.
pub(super) fn is_on_workload(view: View<'_>, peer: &PodPeer, pods: &[PodId]) -> bool {
    let pod = view.cluster.pod(pods[0]);
    let lacking = lacking(&peer.pods, &pod.labels).unwrap_or_default();
    pod.workload.as_ref().is_some_and(|workload| {
        let object = ObjectName::new(&workload.kind, &pod.namespace, &workload.name);
        lacking.keys().any(|key| view.written.text(&object, &["metadata", "labels", key]).is_some())
    })
}

/// The labels that the pods of one workload lack, or one pod. None if no change of an object gives
/// them to the pods.
pub(super) fn of_pods(view: View<'_>, direction: Direction, peer: &PodPeer, pods: &[PodId]) -> Option<Proposal> {
    let of = |pod: &PodId| view.cluster.pod(*pod);
    let first = of(&pods[0]);
    let is_alike = |pod: &Pod| match (&first.workload, &pod.workload) {
        (Some(one), Some(other)) => one == other,
        _ => pod.name == first.name,
    };
    if first.only_in_slice || !pods.iter().all(|pod| is_alike(of(pod))) {
        return None;
    }
    let labels = lacking(&peer.pods, &first.labels)?;
    if labels.keys().any(|key| is_controller_label(key)) {
        return None;
    }
    let (object, path, rollout) = match &first.workload {
        // kubelet takes the labels of a static pod from its file, not from the API.
        None if first.config_hash.is_some() => return None,
        None => (ObjectName::new("Pod", &first.namespace, &first.name), vec!["metadata", "labels"], None),
        Some(workload) => {
            let (_, template) = TEMPLATES.iter().find(|(kind, _)| *kind == workload.kind)?;
            // A template without labels may lack metadata too.
            first.labels.keys().find(|key| !is_controller_label(key))?;
            // The ReplicaSet of a Rollout: the next ReplicaSet has the Rollout's template.
            if first.labels.contains_key(ROLLOUT_HASH_LABEL) {
                return None;
            }
            let object = ObjectName::new(&workload.kind, &first.namespace, &workload.name);
            let rollout = rollout(view.written, &object)?;
            (object, [template, &["metadata", "labels"][..]].concat(), rollout)
        }
    };
    let operations =
        if first.labels.is_empty() { vec![add(&path, json!(labels))] } else { label_operations(&path, &labels) };
    let change = Change { direction, object, edit: Edit::Labels(labels, json_patch::Patch(operations)), rollout };
    written::has_name(view, &change.object).then_some(Proposal { change, cause: Cause::Mistake, size: Size::Value })
}

fn label_operations(path: &[&str], labels: &Labels) -> Vec<PatchOperation> {
    labels.iter().map(|(key, value)| add(&[path, &[key.as_str()]].concat(), json!(value))).collect()
}

/// The labels with which a selector would match; none where labels that are there would have
/// to change.
fn lacking(selector: &Selector, has: &Labels) -> Option<Labels> {
    let mut labels = Labels::new();
    for requirement in selector.requirements().filter(|requirement| !requirement.matches(has)) {
        let value = match &requirement.operator {
            Operator::In(values) if !has.contains_key(&requirement.key) => values.first()?.clone(),
            Operator::Exists => "true".to_owned(),
            _ => return None,
        };
        labels.insert(requirement.key.clone(), value);
    }
    (!labels.is_empty()).then_some(labels)
}
