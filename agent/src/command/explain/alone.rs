//! Policies that look as if they isolated an endpoint that is asked about alone, and do not.

use std::collections::BTreeSet;

use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::backend::BackendEnd;
use npc_compiler::cluster::group::Groups;
use npc_compiler::cluster::{Cluster, PodId, PolicyId};
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{Beside, Party, Question, Reason, Target};
use npc_compiler::verdict::flow::End;

use super::own_label;
use crate::command::input::Input;

/// So many kinds of pods are looked at for one that a policy means.
const KINDS: usize = 200;

/// The policies that look as if they isolated the pods of a target, by direction.
pub(super) fn near(input: &Input, groups: &Groups, target: &Target<'_>) -> Vec<(Direction, Beside)> {
    let cluster = &input.cluster;
    let pods = pods_of(cluster, target);
    let mut found: Vec<(Direction, Beside)> = Vec::new();
    for direction in Direction::ALL {
        let is_open = |pod: &&PodId| cluster.class_of(**pod).is_some() && groups.of(**pod, direction).is_none();
        let Some(pod) = pods.iter().find(is_open) else { continue };
        for beside in of_pod(input, groups, *pod, direction) {
            // A policy for both directions is said once.
            if found
                .iter()
                .all(|(_, had)| (had.policy, had.code, &had.path) != (beside.policy, beside.code, &beside.path))
            {
                found.push((direction, beside));
            }
        }
    }
    found
}

/// A pod that a policy which selects nothing looks as if it meant, and why it does not.
pub(super) fn meant(input: &Input, groups: &Groups, id: PolicyId) -> Option<(PodId, Beside)> {
    let cluster = &input.cluster;
    let policy = cluster.policy(id);
    let direction = policy.isolating().next()?;
    let mut kinds = BTreeSet::new();
    let (own, others): (Vec<_>, Vec<_>) = cluster.endpoints().partition(|(_, pod)| pod.namespace == policy.namespace);
    let firsts = own.into_iter().chain(others).filter(|(id, _)| kinds.insert(cluster.class_of(*id)));
    firsts.take(KINDS).filter(|(pod, _)| groups.of(*pod, direction).is_none()).find_map(|(pod, _)| {
        let beside = of_pod(input, groups, pod, direction).into_iter().find(|beside| beside.policy == id)?;
        Some((pod, beside))
    })
}

/// The policies that look as if they isolated a pod that none isolates.
fn of_pod(input: &Input, groups: &Groups, pod: PodId, direction: Direction) -> Vec<Beside> {
    let (pod_end, other) = (Party::End(End::Pod(pod)), Party::OtherNode(None));
    let (from, to) = if direction == Direction::Ingress { (other, pod_end) } else { (pod_end, other) };
    let decision = Question::between(from, to, None, Traffic::all()).decide(&input.cluster, groups, direction);
    if decision.reason != Reason::DefaultAllow {
        return Vec::new();
    }
    let own = own_label::policy(input, input.cluster.pod(pod), direction, |_| true);
    let mut all = decision.beside;
    all.retain(|beside| own.as_ref().is_none_or(|own| own.code != beside.code));
    all.extend(own);
    all
}

fn pods_of(cluster: &Cluster, target: &Target<'_>) -> Vec<PodId> {
    match target {
        Target::Pod(pod) => vec![*pod],
        Target::Pods(pods) => pods.clone(),
        Target::Service(service) => {
            let pod = |end| if let BackendEnd::Pod(pod) = end { Some(pod) } else { None };
            cluster.behind(service).unwrap_or_default().into_iter().filter_map(pod).collect()
        }
        _ => Vec::new(),
    }
}
