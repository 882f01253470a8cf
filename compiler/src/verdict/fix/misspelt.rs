//! Labels of pods that are misspelt, where a selector asks for the right ones.
//!
//! A value or a key that differs by little says that one of two is wrong, and not which. So the pods' label counts
//! as the wrong one only with evidence: their workload itself has the label as the rule asks for it, another policy
//! or a Service asks for it too, or the key is one that pods usually have. And nothing may ask for it as the pods
//! have it, or have it beside them.

use super::change::{Lacking, ObjectName};
use super::changed::View;
use super::label;
use super::peer::is_name;
use super::proposal::{Cause, Proposal};
use crate::algebra::selector::{Operator, Requirement, Selector};
use crate::algebra::typo::{asks_for, is_close, is_same_word};
use crate::cluster::{PodId, PolicyId};
use crate::object::{Labels, Pod};
use crate::policy::{Direction, Peer, Peers, Policy};

/// A label of pods that differs by little from one that is asked for.
struct Slip {
    /// As it is asked for.
    right: (String, String),
    /// As the pods have it.
    wrong: (String, String),
}

/// The labels of pods as a selector asks for them, where the pods have them misspelt.
pub(super) fn of_pods(
    view: View<'_>,
    direction: Direction,
    selector: &Selector,
    rule_of: PolicyId,
    pods: &[PodId],
    lacking: Lacking,
) -> Option<Proposal> {
    let pod = view.cluster.pod(*pods.first()?);
    let failing = selector.requirements().filter(|requirement| !requirement.matches(&pod.labels));
    let slips: Vec<Slip> = failing.map(|requirement| slip(requirement, &pod.labels)).collect::<Option<_>>()?;
    let mut causes = Vec::new();
    for slip in &slips {
        causes.push(cause(view, rule_of, pod, slip)?);
    }
    let labels: Labels = slips.into_iter().map(|slip| slip.right).collect();
    let proposal = label::with(view, direction, labels, pods, lacking)?;
    Some(Proposal { cause: causes.into_iter().max()?, ..proposal })
}

fn slip(requirement: &Requirement, has: &Labels) -> Option<Slip> {
    let Operator::In(values) = &requirement.operator else { return None };
    let key = &requirement.key;
    if let Some(value) = has.get(key) {
        let right = values.iter().find(|of| is_close(of, value) || is_same_word(of, value))?;
        return Some(Slip { right: (key.clone(), right.clone()), wrong: (key.clone(), value.clone()) });
    }
    let (wrong, value) = has.iter().find(|(of, value)| is_close(of, key) && values.contains(value))?;
    Some(Slip { right: (key.clone(), value.clone()), wrong: (wrong.clone(), value.clone()) })
}

/// What it mends to correct a label of pods; none where nothing shows that it is the pods' that is wrong.
fn cause(view: View<'_>, rule_of: PolicyId, pod: &Pod, Slip { right, wrong }: &Slip) -> Option<Cause> {
    let is_other_pod = |of: &Pod| of.namespace == pod.namespace && of.identity() != pod.identity();
    let has = |of: &Pod, (key, value): &(String, String)| of.labels.get(key) == Some(value);
    if asked_for(view, None, pod, wrong) || view.cluster.pods().any(|(_, of)| is_other_pod(of) && has(of, wrong)) {
        return None;
    }
    let is_on_workload = pod.workload.as_ref().is_some_and(|workload| {
        let object = ObjectName::new(&workload.kind, &pod.namespace, &workload.name);
        view.written.text(&object, &["metadata", "labels", &right.0]).as_ref() == Some(&right.1)
    });
    if is_on_workload || asked_for(view, Some(rule_of), pod, right) {
        return Some(Cause::Misplaced);
    }
    (right.0 != wrong.0 && is_name(&right.0) && !is_name(&wrong.0)).then_some(Cause::Mistake)
}

/// Whether a policy but for one, or a Service of the pod's namespace, asks for a label with this value.
fn asked_for(view: View<'_>, but: Option<PolicyId>, pod: &Pod, (key, value): &(String, String)) -> bool {
    let asks = |selector: &Selector| selector.requirements().any(|of| of.key == *key && asks_for(of, value));
    let of_policy = |policy: &Policy| {
        let rules = Direction::ALL.into_iter().flat_map(|direction| policy.rules(direction));
        let peers = rules.filter_map(|rule| if let Peers::AnyOf(peers) = &rule.peers { Some(peers) } else { None });
        (policy.namespace == pod.namespace && asks(&policy.subject))
            || peers.flatten().any(|peer| matches!(peer, Peer::Pods(peer) if asks(&peer.pods)))
    };
    view.cluster.policies().any(|(id, policy)| Some(id) != but && of_policy(policy))
        || view
            .cluster
            .services_in(&pod.namespace)
            .any(|service| service.selector.as_ref().is_some_and(|selector| selector.get(key) == Some(value)))
}
