//! Labels that the other end lacks: of a namespace, of a pod, or of a workload's template.

use std::collections::BTreeSet;

use json_patch::PatchOperation;
use serde_json::json;

use super::added::Added;
use super::change::{Change, Edit, Lacking, ObjectName, add, replace, test};
use super::changed::View;
use super::proposal::{Cause, Proposal, Size};
use super::propose::TRIED;
use super::rollout::{Rollout, TemplateReach, template_reach};
use crate::algebra::selector::{Operator, Requirement, Selector};
use crate::cluster::{PodId, PolicyId};
use crate::object::{Labels, Pod, ROLLOUT_HASH_LABEL, Service, is_controller_label};
use crate::policy::{Direction, Peer, Peers, Policy};

/// The workloads whose pod templates can be changed, and the path of the template.
const TEMPLATES: [(&str, &[&str]); 6] = [
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
    ("DaemonSet", &["spec", "template"]),
    ("Deployment", &["spec", "template"]),
    ("ReplicaSet", &["spec", "template"]),
    ("ReplicationController", &["spec", "template"]),
    ("StatefulSet", &["spec", "template"]),
];

/// The labels by which workloads are told from each other. A pod that gets that of another
/// workload is taken for one of its pods.
const IDENTITY: [&str; 6] = ["app", "app.kubernetes.io/instance", "app.kubernetes.io/name", "k8s-app", "name", "run"];

/// What the last part of a label's key is, where its value is the name of a namespace.
const NAMESPACE_NAMES: [&str; 4] = ["name", "namespace", "namespace-name", "ns"];

/// The namespaces that every cluster has.
const OF_EVERY_CLUSTER: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// The labels that a namespace lacks. All its pods get what rules admit by them, so the change is
/// weighed as one of a policy, unless no other namespace has them: then the rule can mean none but this
/// one.
pub(super) fn of_namespace(
    view: View<'_>,
    direction: Direction,
    selector: &Selector,
    namespace: &str,
    choice: usize,
) -> Option<Proposal> {
    let has = &view.objects_but_policies().namespaces.iter().find(|of| of.name == namespace)?.labels;
    let is_implied = view.objects_but_policies().implied_namespaces.contains(namespace);
    let labels = lacking(selector, has, choice).filter(|_| !is_implied)?;
    if labels.iter().any(|(key, value)| is_not_its_own(view, namespace, key, value)) {
        return None;
    }
    let object = ObjectName { kind: "Namespace".to_owned(), namespace: None, name: namespace.to_owned() };
    let operations = own_labels(view, &object, has, &labels);
    let edit = Edit::Labels(labels, json_patch::Patch(operations), Lacking::Peer);
    let change = Change { direction, object, edit, rollout: None, adds: Added::default() };
    let cause = if view.cluster.has_namespace_with(selector) { Cause::Policy } else { Cause::Mistake };
    view.has_name(&change.object).then_some(Proposal { change, cause, size: Size::Wide })
}

/// Whether a label is none that a namespace may be given for a rule: one by which another namespace is known,
/// so that every policy that means the other one would mean this one too, or one by which Kubernetes knows
/// namespaces or decides what their pods may do.
fn is_not_its_own(view: View<'_>, namespace: &str, key: &str, value: &str) -> bool {
    let (domain, last) = key.rsplit_once('/').unwrap_or(("", key));
    let is_of_kubernetes = ["kubernetes.io", "k8s.io"]
        .iter()
        .any(|of| domain.strip_suffix(of).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    let names_another = || {
        NAMESPACE_NAMES.contains(&last) || OF_EVERY_CLUSTER.contains(&value) || view.cluster.namespace(value).is_some()
    };
    (is_of_kubernetes && domain != "app.kubernetes.io") || (value != namespace && names_another())
}

/// The operations that give an object labels of its own. A file may state none where the object of the cluster
/// has some, and to add a map there would replace them: then the patch fails on every object but one with the
/// metadata of the file.
fn own_labels(view: View<'_>, object: &ObjectName, has: &Labels, labels: &Labels) -> Vec<PatchOperation> {
    // Each namespace of a cluster has labels: its name.
    let has_labels = object.kind == "Namespace" || has.keys().any(|key| !is_controller_label(key));
    let path = ["metadata", "labels"];
    match view.written.metadata(object) {
        Some(metadata) if !metadata["labels"].is_object() => {
            vec![test(&path[..1], metadata), add(&path, json!(labels))]
        }
        None if !has_labels => vec![add(&path, json!(labels))],
        _ => label_operations(&path, labels, has),
    }
}

/// Whether the workload of the pods has the labels itself that its template lacks.
pub(super) fn is_on_workload(view: View<'_>, selector: &Selector, pods: &[PodId]) -> bool {
    let Some(pod) = pods.first().map(|pod| view.cluster.pod(*pod)) else { return false };
    let lacking = lacking(selector, &pod.labels, 0).unwrap_or_default();
    pod.workload.as_ref().is_some_and(|workload| {
        let object = ObjectName::new(&workload.kind, &pod.namespace, &workload.name);
        let value = |key: &str| view.written.text(&object, &["metadata", "labels", key]);
        !lacking.is_empty() && selector_holds(selector, &pod.labels, lacking.keys(), value)
    })
}

/// Whether a selector matches with the values that a workload has itself of these keys.
fn selector_holds<'a>(
    selector: &Selector,
    has: &Labels,
    keys: impl Iterator<Item = &'a String>,
    value: impl Fn(&str) -> Option<String>,
) -> bool {
    let mut labels = has.clone();
    labels.extend(keys.filter_map(|key| Some((key.clone(), value(key)?))));
    selector.matches(&labels)
}

/// The workload of pods that lack labels, and these labels, if its template cannot change.
pub(super) fn of_unchanging_template(
    view: View<'_>,
    selector: &Selector,
    pods: &[PodId],
) -> Option<(ObjectName, Labels)> {
    let pod = view.cluster.pod(*pods.first()?);
    let workload = pod.workload.as_ref().filter(|workload| workload.kind == "Job")?;
    let object = ObjectName::new(&workload.kind, &pod.namespace, &workload.name);
    Some((object, lacking(selector, &pod.labels, 0)?))
}

/// Whether a label of pods is one by which others are known: a name of a workload, or a label by
/// which a Service or, of pods without an owner, a workload selects.
pub(super) fn names_another(view: View<'_>, pods: &[PodId], change: &Change) -> bool {
    let Edit::Labels(labels, ..) = &change.edit else { return false };
    let is_identity = |key: &str| IDENTITY.contains(&key);
    labels.iter().any(|(key, value)| is_identity(key) && !is_own_name(view, pods, key, value))
        || pods.iter().any(|pod| services(view, view.cluster.pod(*pod), labels).next().is_some())
        || pods.iter().any(|pod| may_be_adopted(view, view.cluster.pod(*pod), labels))
}

/// Whether another policy than that of a rule asks for a label of a change.
pub(super) fn is_asked_for_elsewhere(view: View<'_>, rule_of: PolicyId, change: &Change) -> bool {
    let Edit::Labels(labels, ..) = &change.edit else { return false };
    let asks = |selector: &Selector| {
        let mut positive =
            selector.requirements().filter(|of| matches!(of.operator, Operator::In(_) | Operator::Exists));
        positive.any(|of| labels.contains_key(&of.key) && of.matches(labels))
    };
    let selects = |policy: &Policy| {
        let rules = Direction::ALL.into_iter().flat_map(|direction| policy.rules(direction));
        let peers = rules.filter_map(|rule| if let Peers::AnyOf(peers) = &rule.peers { Some(peers) } else { None });
        let mut peers = peers.flatten();
        asks(&policy.subject) || peers.any(|peer| matches!(peer, Peer::Pods(peer) if asks(&peer.pods)))
    };
    view.cluster.policies().any(|(id, policy)| id != rule_of && selects(policy))
}

/// Whether a pod without an owner would get labels that pods of a workload have: the controller of that takes a pod that its
/// selector selects for one of its own, and deletes one that is too many.
fn may_be_adopted(view: View<'_>, pod: &Pod, labels: &Labels) -> bool {
    let has_them = |of: &Pod| labels.iter().all(|(key, value)| of.labels.get(key) == Some(value));
    let is_other = |of: &Pod| of.namespace == pod.namespace && of.workload.is_some();
    pod.workload.is_none() && view.cluster.pods().any(|(_, of)| is_other(of) && has_them(of))
}

/// Whether pods that no label tells from others would get one with the name of their workload, which no
/// other pod of their namespace has.
fn is_own_name(view: View<'_>, pods: &[PodId], key: &str, value: &str) -> bool {
    let is_without_identity = |pod: &Pod| !IDENTITY.iter().any(|key| pod.labels.contains_key(*key));
    let mut pods = pods.iter().map(|id| view.cluster.pod(*id)).peekable();
    let Some(namespace) = pods.peek().map(|first| &first.namespace) else { return true };
    let is_named = |pod: &Pod| pod.namespace == *namespace && pod.identity().1 == value && is_without_identity(pod);
    let has_it = |pod: &Pod| pod.namespace == *namespace && pod.labels.get(key).is_some_and(|of| of == value);
    pods.all(is_named) && !view.cluster.pods().any(|(_, pod)| has_it(pod))
}

/// The workload of pods that were made after an older template, and the labels that a selector asks for and the
/// template has by now: no change gives them to the pods but that they are made anew.
pub(super) fn of_newer_template(view: View<'_>, selector: &Selector, pods: &[PodId]) -> Option<(ObjectName, Labels)> {
    let pod = pods.iter().map(|pod| view.cluster.pod(*pod)).find(|pod| !selector.matches(&pod.labels))?;
    let workload = pod.workload.as_ref()?;
    let object = ObjectName::new(&workload.kind, &pod.namespace, &workload.name);
    let failing = selector.requirements().filter(|requirement| !requirement.matches(&pod.labels));
    let value = |of: &Requirement| Some((of.key.clone(), view.written.template_label(&object, &of.key)?));
    let labels: Labels = failing.filter_map(value).collect();
    let mut with = pod.labels.clone();
    with.extend(labels.clone());
    (!labels.is_empty() && selector.matches(&with)).then_some((object, labels))
}

/// The Services that select a pod only with these labels more, by namespace and name.
fn services<'a>(view: View<'a>, pod: &'a Pod, labels: &'a Labels) -> impl Iterator<Item = (String, String)> + 'a {
    let mut with = pod.labels.clone();
    with.extend(labels.clone());
    let is_new = move |service: &&Service| service.asks_for(&with) && !service.asks_for(&pod.labels);
    let new = view.cluster.services_in(&pod.namespace).filter(is_new);
    new.map(|service| (service.namespace.clone(), service.name.clone()))
}

/// The Services that get pods as backends by the labels of changes.
pub(super) fn new_backends(view: View<'_>, changes: &[Change]) -> Vec<(String, String)> {
    let mut all = BTreeSet::new();
    for change in changes {
        if let Edit::Labels(labels, ..) = &change.edit {
            let pods = view.objects_but_policies().pods.iter().filter(|pod| change.is_of(pod));
            all.extend(pods.flat_map(|pod| services(view, pod, labels)));
        }
    }
    all.into_iter().collect()
}

/// The labels that the pods of one workload lack, or one pod. None if no change of an object gives
/// them to the pods.
pub(super) fn of_pods(
    view: View<'_>,
    direction: Direction,
    selector: &Selector,
    pods: &[PodId],
    lacking_end: Lacking,
    choice: usize,
) -> Option<Proposal> {
    let first = view.cluster.pod(*pods.first()?);
    let mut labels = lacking(selector, &first.labels, choice)?;
    if let Some(workload) = first.workload.as_ref().filter(|_| is_on_workload(view, selector, pods)) {
        let object = ObjectName::new(&workload.kind, &first.namespace, &workload.name);
        for (key, value) in &mut labels {
            if let Some(own) = view.written.text(&object, &["metadata", "labels", key]) {
                *value = own;
            }
        }
    }
    with(view, direction, labels, pods, lacking_end)
}

/// The pods of one workload, or one pod, with these labels. None if no change of an object gives them to the pods.
pub(super) fn with(
    view: View<'_>,
    direction: Direction,
    labels: Labels,
    pods: &[PodId],
    lacking_end: Lacking,
) -> Option<Proposal> {
    let of = |pod: &PodId| view.cluster.pod(*pod);
    let first = of(pods.first()?);
    let is_alike = |pod: &Pod| match (&first.workload, &pod.workload) {
        (Some(one), Some(other)) => one == other,
        _ => pod.name == first.name,
    };
    if first.only_in_slice || !pods.iter().all(|pod| is_alike(of(pod))) {
        return None;
    }
    if labels.keys().any(|key| is_controller_label(key)) {
        return None;
    }
    let (object, path, rollout) = match &first.workload {
        // kubelet takes the labels of a static pod from its file, not from the API.
        None if first.config_hash.is_some() => return None,
        None => (ObjectName::new("Pod", &first.namespace, &first.name), vec!["metadata", "labels"], None),
        Some(workload) => {
            let (_, template) = TEMPLATES.iter().find(|(kind, _)| *kind == workload.kind)?;
            // The ReplicaSet of a Rollout: the next ReplicaSet has the Rollout's template.
            if first.labels.contains_key(ROLLOUT_HASH_LABEL) {
                return None;
            }
            let object = ObjectName::new(&workload.kind, &first.namespace, &workload.name);
            // The selector of a workload cannot change, and has to select its template.
            let is_selected = |key: &String| {
                first.labels.contains_key(key)
                    && view.written.has_field(&object, &["spec", "selector", "matchLabels", key])
            };
            if labels.keys().any(is_selected) {
                return None;
            }
            // A template in a file that has no pods yet needs nothing.
            let runs = pods.iter().any(|pod| !of(pod).is_template());
            let rollout = match template_reach(view.written, &object) {
                TemplateReach::NotAll => return None,
                TemplateReach::By(rollout) => Some(rollout),
                TemplateReach::Replaced => runs.then_some(Rollout::Replaces),
            };
            (object, [template, &["metadata", "labels"][..]].concat(), rollout)
        }
    };
    let has_labels = first.labels.keys().any(|key| !is_controller_label(key));
    let operations = match (&first.workload, has_labels) {
        (None, _) => own_labels(view, &object, &first.labels, &labels),
        (Some(_), true) => label_operations(&path, &labels, &first.labels),
        (Some(_), false) => with_parents(view, &object, &path, &labels),
    };
    let edit = Edit::Labels(labels, json_patch::Patch(operations), lacking_end);
    let change = Change { direction, object, edit, rollout, adds: Added::default() };
    view.has_name(&change.object).then_some(Proposal { change, cause: Cause::Mistake, size: Size::Value })
}

/// Adds the labels of a template that has none, with `metadata` where it lacks that.
fn with_parents(view: View<'_>, object: &ObjectName, path: &[&str], labels: &Labels) -> Vec<PatchOperation> {
    let metadata = &path[..path.len() - 1];
    if view.written.has_field(object, metadata) {
        return vec![add(path, json!(labels))];
    }
    vec![add(metadata, json!({ "labels": labels }))]
}

/// Gives labels to what has others, in place of those of the same key.
fn label_operations(path: &[&str], labels: &Labels, has: &Labels) -> Vec<PatchOperation> {
    let operation = |(key, value): (&String, &String)| {
        let path = [path, &[key.as_str()]].concat();
        if has.contains_key(key) { replace(&path, json!(value)) } else { add(&path, json!(value)) }
    };
    labels.iter().map(operation).collect()
}

/// How many choices of values for a selector are tried: as many as its longest list has values.
pub(super) fn choices(selector: &Selector) -> usize {
    let values = |of: &Requirement| if let Operator::In(values) = &of.operator { values.len() } else { 1 };
    selector.requirements().map(values).max().unwrap_or(1).min(TRIED)
}

/// The labels with which a selector would match, with the value at a place of each list of values; none where
/// labels that are there would have to change.
fn lacking(selector: &Selector, has: &Labels, choice: usize) -> Option<Labels> {
    let mut labels = Labels::new();
    for requirement in selector.requirements().filter(|requirement| !requirement.matches(has)) {
        let value = match &requirement.operator {
            Operator::In(values) if !has.contains_key(&requirement.key) => {
                values.get(choice).or(values.last())?.clone()
            }
            Operator::Exists => "true".to_owned(),
            _ => return None,
        };
        labels.insert(requirement.key.clone(), value);
    }
    (!labels.is_empty()).then_some(labels)
}
