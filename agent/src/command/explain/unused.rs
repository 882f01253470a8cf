//! Policies that select no pod, where one that isolates an end would change the answer.

use std::collections::BTreeSet;

use npc_compiler::cluster::PolicyId;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{FlowExplanation, Reason};

use crate::command::input::Input;
use crate::command::words::policy_name;

/// So many policies of a namespace are looked through, and so many named.
const LOOKED_THROUGH: usize = 1000;
const NAMED: usize = 3;

/// Warnings of the policies that select nothing in the namespaces and directions in which no policy
/// isolates an end.
pub(super) fn warnings(input: &Input, explanation: &FlowExplanation) -> Vec<String> {
    let cluster = &input.cluster;
    let mut open = BTreeSet::<(&str, Direction)>::new();
    let mut said = BTreeSet::<PolicyId>::new();
    for flow in &explanation.flows {
        for (decision, end) in flow.decisions.iter().flatten().zip([&flow.from, &flow.to]) {
            if let (Reason::DefaultAllow, Some(namespace), false) = (decision.reason, &end.namespace, end.host_network)
            {
                open.insert((namespace.as_str(), decision.direction));
            }
            said.extend(decision.beside.iter().map(|beside| beside.policy));
        }
    }
    let mut unused = BTreeSet::new();
    for (namespace, direction) in open {
        for (id, policy) in cluster.policies_in(namespace).take(LOOKED_THROUGH) {
            let means = policy.subject_peer();
            let selects_nothing = || cluster.selects_none(&means);
            if policy.isolates(direction)
                && !said.contains(&id)
                && selects_nothing()
                && !cluster.may_select_unread(&means)
            {
                unused.insert(id);
            }
        }
    }
    let text = |id: &PolicyId| {
        let policy = cluster.policy(*id);
        let only = if cluster.host_pods_of(&policy.subject_peer()).next().is_some() {
            "only pods in their nodes' networks, to which no policy applies"
        } else {
            "no pod of the input"
        };
        format!(
            "networkpolicy {} selects {only} (podSelector {}), so it isolates none",
            policy_name(cluster, *id),
            policy.subject
        )
    };
    let mut all: Vec<String> = unused.iter().take(NAMED).map(text).collect();
    if let more @ 1.. = unused.len().saturating_sub(NAMED) {
        all.push(format!("{more} more policies of these namespaces select no pod either"));
    }
    all
}
