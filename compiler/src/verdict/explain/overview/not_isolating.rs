//! Policies that look as if they isolated a pod that none isolates.

use std::collections::BTreeSet;

use crate::algebra::traffic::Traffic;
use crate::cluster::group::Groups;
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::policy::Direction;
use crate::verdict::explain::decision::Reason;
use crate::verdict::explain::decision::misleading::MisleadingPolicy;
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::End;

/// At most this many kinds of pods are looked at for one that a policy means.
const KINDS: usize = 200;

/// The policies that look as if they isolated these pods, each with the first direction in which it does.
pub(in crate::verdict::explain) fn of_pods(
    cluster: &Cluster,
    groups: &Groups,
    pods: &[PodId],
) -> Vec<(Direction, MisleadingPolicy)> {
    let mut found: Vec<(Direction, MisleadingPolicy)> = Vec::new();
    for direction in Direction::ALL {
        let is_open = |pod: &&PodId| cluster.class_of(**pod).is_some() && groups.of(**pod, direction).is_none();
        let Some(pod) = pods.iter().find(is_open) else { continue };
        for policy in of_pod(cluster, groups, *pod, direction) {
            let key = |of: &MisleadingPolicy| (of.policy, of.code(), of.path.clone());
            if found.iter().all(|(_, had)| key(had) != key(&policy)) {
                found.push((direction, policy));
            }
        }
    }
    found
}

/// A pod that a policy which selects nothing looks as if it meant, and why it does not.
pub(in crate::verdict::explain) fn meant_pod(
    cluster: &Cluster,
    groups: &Groups,
    id: PolicyId,
) -> Option<(PodId, MisleadingPolicy)> {
    let policy = cluster.policy(id);
    let direction = policy.isolating().next()?;
    let mut kinds = BTreeSet::new();
    let (own, others): (Vec<_>, Vec<_>) = cluster.endpoints().partition(|(_, pod)| pod.namespace == policy.namespace);
    let firsts = own.into_iter().chain(others).filter(|(id, _)| kinds.insert(cluster.class_of(*id)));
    firsts.take(KINDS).filter(|(pod, _)| groups.of(*pod, direction).is_none()).find_map(|(pod, _)| {
        let misleading = of_pod(cluster, groups, pod, direction).into_iter().find(|of| of.policy == id)?;
        Some((pod, misleading))
    })
}

/// The policies that look as if they isolated a pod, for any other end.
fn of_pod(cluster: &Cluster, groups: &Groups, pod: PodId, direction: Direction) -> Vec<MisleadingPolicy> {
    let (pod, other) = (Party::End(End::Pod(pod)), Party::OtherNode(None));
    let (from, to) = if direction == Direction::Ingress { (other, pod) } else { (pod, other) };
    let decision = Question::between(from, to, None, Traffic::all()).decide(cluster, groups, direction);
    if decision.reason == Reason::DefaultAllow { decision.misleading } else { Vec::new() }
}
