//! Policies that would change the answer and have no effect, in words.

use std::collections::BTreeSet;

use npc_agent::finding::Finding;
use npc_agent::source::manifests::ObjectRef;
use npc_compiler::cluster::PolicyId;
use npc_compiler::cluster::selection::WhyNone;
use npc_compiler::verdict::explain::FlowExplanation;

use crate::command::input::Input;
use crate::command::warning::{Warning, WarningCode};
use crate::command::words::policy_name;

/// At most this many policies are named.
const NAMED: usize = 3;

/// Warnings of the policies that select no pod, in the namespaces and directions in which no policy
/// isolates an end.
pub(in crate::command::explain) fn without_subjects(input: &Input, explanation: &FlowExplanation) -> Vec<Warning> {
    let (cluster, code) = (&input.cluster, WarningCode::SubjectEmpty);
    let found = |(id, why): (&PolicyId, &WhyNone)| {
        let policy = cluster.policy(*id);
        let only = match why {
            WhyNone::OnlyHostNetworkPods => "only hostNetwork pods, to which no policy applies",
            WhyNone::NoPod => "no pod of the input",
        };
        let (name, selector) = (policy_name(cluster, *id), &policy.subject);
        let object = ObjectRef::new("NetworkPolicy", &policy.namespace, &policy.name);
        let path = "spec.podSelector".to_owned();
        let place = input.loaded.positions.locate_object(&object, &path);
        let problem = format!("selects {only} (podSelector {selector})");
        let finding = Finding { path, ..code.of_object(problem, object, place.as_ref()) };
        let text = format!("networkpolicy {name} selects {only} (podSelector {selector}), so it isolates none");
        (text, finding)
    };
    let mut found = explanation.without_subjects.iter().map(found);
    let mut all: Vec<Warning> =
        found.by_ref().take(NAMED).map(|(text, finding)| Warning::of_each(code, text, vec![finding])).collect();
    let more: Vec<Finding> = found.map(|(_, finding)| finding).collect();
    if !more.is_empty() {
        let text = format!("{} more policies of these namespaces select no pod either", more.len());
        all.push(Warning::of_each(code, text, more));
    }
    all
}

/// Warnings of the policies that would admit what is denied, and that a later one of the same name replaces.
pub(in crate::command::explain) fn replaced(input: &Input, explanation: &FlowExplanation) -> Vec<Warning> {
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
    // Which these are the findings of the input say, with both places.
    let warning = |text| Warning::of_finding(WarningCode::DuplicateName.as_str(), text);
    all.into_iter().take(NAMED).chain(more).map(warning).collect()
}
