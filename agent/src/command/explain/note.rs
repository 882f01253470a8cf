//! Facts about the other end of a denied flow.

use npc_compiler::object::Pod;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{Candidate, Flow, Of, Part, Party};
use npc_compiler::verdict::flow::End;

use super::{Context, own_label};

/// Facts about the other end that its part of the rule is about.
pub(super) fn note(context: &Context<'_>, flow: &Flow, direction: Direction, candidate: &Candidate) -> Option<String> {
    let (from, to) = flow.parties?;
    let (party, role) = match direction {
        Direction::Ingress => (from, "source"),
        Direction::Egress => (to, "destination"),
    };
    let Party::End(End::Pod(pod)) = party else { return None };
    let pod = context.input.cluster.pod(pod);
    let words = |labels: &npc_compiler::object::Labels| {
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
    };
    let of_peer = |part| candidate.conjuncts.iter().any(|c| c.of == Of::Peer && c.part == part);
    let mut notes = Vec::new();
    if of_peer(Part::Namespace) {
        let labels = context.input.cluster.namespace(&pod.namespace).map(words).unwrap_or_default();
        notes.push(format!("the {role} is in namespace {} ({labels})", pod.namespace));
    }
    if of_peer(Part::Pod) {
        let labels = words(&pod.labels);
        let labels = if labels.is_empty() { "no labels".to_owned() } else { format!("the labels {labels}") };
        notes.push(format!("the {role} has {labels}"));
        notes.extend(own_label(context, pod, candidate));
    }
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// Where the label that a pod lacks stands on its workload, in place of its template.
fn own_label(context: &Context<'_>, pod: &Pod, candidate: &Candidate) -> Option<String> {
    let workload = pod.workload.as_ref()?;
    let conjuncts = candidate.conjuncts.iter().filter(|conjunct| conjunct.part == Part::Pod);
    let failed = conjuncts.flat_map(|conjunct| &conjunct.marks).filter_map(|mark| mark.requirement.as_ref());
    let mut keys = failed.filter(|failed| failed.value.is_none()).map(|failed| &failed.requirement.key);
    keys.find_map(|key| {
        let place = own_label::place(&context.input.loaded.positions, workload, &pod.namespace, key)?;
        let kind = workload.kind.to_lowercase();
        Some(format!("the {kind} itself has a label {key} ({place}), which its pods do not get"))
    })
}
