//! Policies that would change the answer and have no effect, in words.

use std::collections::BTreeSet;

use npc_compiler::cluster::PolicyId;
use npc_compiler::cluster::selection::WhyNone;
use npc_compiler::verdict::explain::FlowExplanation;

use crate::command::input::Input;
use crate::command::words::policy_name;

/// So many policies are named.
const NAMED: usize = 3;

/// Warnings of the policies that select no pod, in the namespaces and directions in which no policy
/// isolates an end.
pub(in crate::command::explain) fn without_subjects(input: &Input, explanation: &FlowExplanation) -> Vec<String> {
    let cluster = &input.cluster;
    let text = |(id, why): (&PolicyId, &WhyNone)| {
        let policy = cluster.policy(*id);
        let only = match why {
            WhyNone::OnlyHostNetworkPods => "only hostNetwork pods, to which no policy applies",
            WhyNone::NoPod => "no pod of the input",
        };
        let (name, selector) = (policy_name(cluster, *id), &policy.subject);
        format!("networkpolicy {name} selects {only} (podSelector {selector}), so it isolates none")
    };
    let mut all: Vec<String> = explanation.without_subjects.iter().take(NAMED).map(text).collect();
    if let more @ 1.. = explanation.without_subjects.len().saturating_sub(NAMED) {
        all.push(format!("{more} more policies of these namespaces select no pod either"));
    }
    all
}

/// Warnings of the policies that would admit what is denied, and that a later one of the same name replaces.
pub(in crate::command::explain) fn replaced(input: &Input, explanation: &FlowExplanation) -> Vec<String> {
    let mut all = BTreeSet::new();
    for of in &explanation.replaced {
        let policies = &input.cluster.hints().replaced_policies;
        let (Some(policy), Some(replaced)) = (policies.get(of.place), input.loaded.replaced.get(of.place)) else {
            continue;
        };
        let (namespace, name, place) = (&policy.namespace, &policy.name, &replaced.place);
        let counts = input.loaded.positions.locate("NetworkPolicy", namespace, name, "");
        let counts = counts.map(|place| format!(" at {place}")).unwrap_or_default();
        all.insert(format!(
            "networkpolicy {namespace}/{name} at {place} would admit this for {}, and does not count: the one{counts} has \
             the same name; give one of them another name",
            of.direction.section()
        ));
    }
    let more = all.len().saturating_sub(NAMED);
    let more = (more > 0).then(|| format!("{more} more policies would admit this and do not count either"));
    all.into_iter().take(NAMED).chain(more).collect()
}
