//! Policies that do not count, because a later one of the input has the same name.

use std::collections::BTreeSet;

use npc_compiler::policy::Policy;
use npc_compiler::verdict::explain::{FlowExplanation, Party, Question, Reason};
use npc_compiler::verdict::flow::End;

use crate::command::input::Input;

/// So many are named.
const NAMED: usize = 3;

/// Warnings of those that would admit what is denied.
pub(super) fn warnings(input: &Input, explanation: &FlowExplanation) -> Vec<String> {
    let replaced = input.loaded.replaced.iter().map(|of| (Policy::read(&of.policy).0, &of.place));
    let replaced: Vec<_> = replaced.collect();
    if replaced.is_empty() {
        return Vec::new();
    }
    let mut all = BTreeSet::new();
    for flow in &explanation.flows {
        let Some((from, to)) = flow.parties else { continue };
        let question = Question::between(from, to, flow.family, flow.traffic.clone());
        for (decision, party) in flow.decisions.iter().flatten().zip([from, to]) {
            let (Reason::Denied(_), Party::End(End::Pod(pod))) = (decision.reason, party) else { continue };
            let pod = input.cluster.pod(pod);
            let would_admit = |policy: &Policy| {
                policy.namespace == pod.namespace
                    && policy.isolates(decision.direction)
                    && policy.subject.matches(&pod.labels)
                    && question.would_admit(&input.cluster, policy, decision.direction, &question.traffic)
            };
            for (policy, place) in replaced.iter().filter(|(policy, _)| would_admit(policy)) {
                let Policy { namespace, name, .. } = policy;
                let counts = input.loaded.positions.locate("NetworkPolicy", namespace, name, "");
                let counts = counts.map(|place| format!(" at {place}")).unwrap_or_default();
                all.insert(format!(
                    "networkpolicy {namespace}/{name} at {place} would admit this for {}, and does not count: the one{counts} \
                     has the same name; give one of them another name",
                    decision.direction.section()
                ));
            }
        }
    }
    let more = all.len().saturating_sub(NAMED);
    let more = (more > 0).then(|| format!("{more} more policies would admit this and do not count either"));
    all.into_iter().take(NAMED).chain(more).collect()
}
