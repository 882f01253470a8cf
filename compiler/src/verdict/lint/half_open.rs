//! Rules whose traffic the policies at the other end do not admit at all.

use std::collections::BTreeSet;

use super::{Mistake, MistakeCode};
use crate::cluster::group::Groups;
use crate::cluster::{ClassId, Cluster, PodId, PolicyId};
use crate::object::Family;
use crate::policy::{Direction, PolicyRule};
use crate::verdict::explain::{Party, Question};
use crate::verdict::flow::End;

/// At most this many pods of a class are asked for the numbers of their ports.
const ASKED: usize = 20;

/// Rules between more pairs of classes than this are not looked at.
const PAIRS: usize = 400;

pub(super) fn find(cluster: &Cluster, groups: &Groups, id: PolicyId, found: &mut Vec<Mistake>) {
    let policy = cluster.policy(id);
    let subjects = cluster.selected(&policy.subject_peer());
    if subjects.is_empty() {
        return;
    }
    for (direction, rule) in policy.rules_in_force() {
        let Some(others) = others(cluster, rule) else { continue };
        if subjects.len().saturating_mul(others.len()) > PAIRS {
            continue;
        }
        let passes = subjects
            .iter()
            .any(|subject| others.iter().any(|other| passes(cluster, groups, direction, rule, (*subject, *other))));
        if !passes {
            let (end, way) = match direction {
                Direction::Egress => ("destinations", "ingress"),
                Direction::Ingress => ("sources", "egress"),
            };
            let problem = format!(
                "the policies of its {end} ({}) admit nothing of it by {way}",
                isolating(cluster, direction.opposite(), &others)
            );
            found.push(Mistake {
                policy: id,
                path: rule.path.clone(),
                code: MistakeCode::HalfOpen,
                problem,
                is_doubt: false,
            });
        }
    }
}

/// The classes that a rule admits; none where it admits other ends too, or no pod.
fn others(cluster: &Cluster, rule: &PolicyRule) -> Option<Vec<ClassId>> {
    let peers = rule.only_pod_peers()?;
    if peers.iter().any(|peer| cluster.may_select_unread(peer) || !cluster.possibly_selected(peer).is_empty()) {
        return None;
    }
    let classes: BTreeSet<ClassId> = peers.iter().flat_map(|peer| cluster.selected(peer)).collect();
    (!classes.is_empty()).then(|| classes.into_iter().collect())
}

/// Whether the other end lets some of the traffic pass that a rule admits, or may do so.
fn passes(
    cluster: &Cluster,
    groups: &Groups,
    direction: Direction,
    rule: &PolicyRule,
    (subject, other): (ClassId, ClassId),
) -> bool {
    // A pod of a class stands for all: no policy distinguishes them, but for the names of ports.
    let (from, to) = match direction {
        Direction::Egress => (subject, other),
        Direction::Ingress => (other, subject),
    };
    let party = |pod: &PodId| Party::End(End::Pod(*pod));
    let Some(from) = cluster.class(from).endpoints.first() else { return true };
    cluster.class(to).endpoints.iter().take(ASKED).any(|to| {
        let admitted = rule.traffic_to(&cluster.pod(*to).ports);
        let in_family = |family: Option<Family>| {
            let question = Question::between(party(from), party(to), family, admitted.clone());
            let most = question.bounds(cluster, groups, direction.opposite()).most;
            !most.intersection(&admitted).is_none()
        };
        // That its ports mean nothing is another mistake.
        admitted.is_none() || [None, Some(Family::V4), Some(Family::V6)].into_iter().any(in_family)
    })
}

/// The names of the policies that isolate classes in a direction.
fn isolating(cluster: &Cluster, direction: Direction, classes: &[ClassId]) -> String {
    /// At most this many are named.
    const NAMED: usize = 3;
    let policies: BTreeSet<PolicyId> =
        classes.iter().flat_map(|class| cluster.policies_of(*class, direction)).collect();
    let name = |id: &PolicyId| {
        let policy = cluster.policy(*id);
        format!("{}/{}", policy.namespace, policy.name)
    };
    let mut names: Vec<String> = policies.iter().take(NAMED).map(name).collect();
    if let more @ 1.. = policies.len().saturating_sub(NAMED) {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}
