//! Policies that would change an answer, and have no effect: they select no pod, or a later one has the
//! same name.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::selection::WhyNone;
use crate::cluster::{Cluster, PolicyId};
use crate::policy::{Direction, Policy};
use crate::verdict::explain::answer::{FlowExplanation, ReplacedPolicy};
use crate::verdict::explain::decision::Reason;
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::End;

/// At most this many policies of a namespace are looked through.
const LOOKED_THROUGH: usize = 1000;

/// The policies that select no pod and why, in the namespaces and directions in which no policy isolates an end.
/// Those that the decisions name already are left out.
pub(in crate::verdict::explain) fn without_subjects(
    cluster: &Cluster,
    explanation: &FlowExplanation,
) -> BTreeMap<PolicyId, WhyNone> {
    let mut open = BTreeSet::<(&str, Direction)>::new();
    let mut said = BTreeSet::<PolicyId>::new();
    for flow in &explanation.flows {
        for (decision, end) in flow.decisions.iter().flatten().zip([&flow.from, &flow.to]) {
            if let (Reason::DefaultAllow, Some(namespace), false) = (decision.reason, &end.namespace, end.host_network)
            {
                open.insert((namespace.as_str(), decision.direction));
            }
            said.extend(decision.misleading.iter().map(|of| of.policy));
        }
    }
    let of_namespace = |(namespace, direction)| {
        let policies = cluster.policies_in(namespace).take(LOOKED_THROUGH);
        policies.filter(move |(_, policy)| policy.isolates(direction))
    };
    let unsaid = open.into_iter().flat_map(of_namespace).filter(|(id, _)| !said.contains(id));
    unsaid.filter_map(|(id, policy)| Some((id, cluster.why_selects_none(&policy.subject_peer())?))).collect()
}

/// The replaced policies that would admit what is denied.
pub(in crate::verdict::explain) fn replaced(
    cluster: &Cluster,
    explanation: &FlowExplanation,
) -> BTreeSet<ReplacedPolicy> {
    let replaced = &cluster.hints().replaced_policies;
    let mut found = BTreeSet::new();
    if replaced.is_empty() {
        return found;
    }
    for flow in &explanation.flows {
        let Some((from, to)) = flow.parties else { continue };
        let question = Question::between(from, to, flow.family, flow.traffic.clone());
        for (decision, party) in flow.decisions.iter().flatten().zip([from, to]) {
            let (Reason::Denied(_), Party::End(End::Pod(pod))) = (decision.reason, party) else { continue };
            let (direction, pod) = (decision.direction, cluster.pod(pod));
            let would_admit = |policy: &Policy| {
                policy.namespace == pod.namespace
                    && policy.isolates(direction)
                    && policy.subject.matches(&pod.labels)
                    && question.would_admit(cluster, policy, direction, &question.traffic)
            };
            let admitting = replaced.iter().enumerate().filter(|(_, policy)| would_admit(policy));
            found.extend(admitting.map(|(place, _)| ReplacedPolicy { place, direction }));
        }
    }
    found
}
