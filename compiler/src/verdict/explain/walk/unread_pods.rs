//! What is not known of an answer about many ends, because pods that it means too were not read.

use std::collections::BTreeSet;

use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::group::{Group, GroupId, Groups, OtherEnd};
use crate::cluster::unread::{Extent, Unread};
use crate::object::Family;
use crate::policy::Direction;
use crate::verdict::bounds::{Bounds, Verdict};
use crate::verdict::explain::answer::{Flow, FlowExplanation};
use crate::verdict::explain::question::MissingFact;
use crate::verdict::explain::question::name::{EndName, QuestionEnd};
use crate::verdict::explain::question::party::Party;

/// At most this many other ends are named with which it is not known what these pods exchange.
const NAMED: usize = 16;

/// Adds a flow of pods that were not read where the source, or the destination, means all pods of some
/// namespaces and such a pod may exchange something else than those of the input do.
pub(super) fn add(cluster: &Cluster, groups: &Groups, explanation: &mut FlowExplanation, ends: [&QuestionEnd<'_>; 2]) {
    let meant = ends.map(|end| all_pods_of(cluster, end));
    let known = explanation.verdict();
    let mut added = Vec::new();
    for (direction, extent) in [Direction::Egress, Direction::Ingress].into_iter().zip(meant) {
        let Some(extent) = &extent else { continue };
        let unread: Vec<Unread> = cluster.unread_pods_of(extent).cloned().collect();
        if unread.is_empty() {
            continue;
        }
        let own = if cluster.may_isolate_unread_of(extent, direction) {
            Bounds { least: Traffic::none(), most: Traffic::all() }
        } else {
            Bounds::everything()
        };
        let mut asked = BTreeSet::new();
        for flow in &explanation.flows {
            let Some((from, to)) = flow.parties else { continue };
            let (party, name) = match direction {
                Direction::Egress => (to, &flow.to),
                Direction::Ingress => (from, &flow.from),
            };
            if asked.len() == NAMED || !asked.insert((name.without_addresses(), flow.traffic.to_string())) {
                continue;
            }
            let verdict = own.and(&of_other(cluster, groups, party, direction.opposite())).verdict(&flow.traffic);
            if verdict == known && matches!(verdict, Verdict::Allowed | Verdict::Denied) {
                continue;
            }
            let (from, to) = match direction {
                Direction::Egress => (unread_name(extent), name.clone()),
                Direction::Ingress => (name.clone(), unread_name(extent)),
            };
            added.push(Flow {
                missing: vec![MissingFact::UnreadPods(unread.clone())],
                ..Flow::undecided(from, to, flow.traffic.clone(), Verdict::Unknown)
            });
        }
    }
    explanation.flows.extend(added);
}

/// The namespaces whose pods an end means, all of them, also those that were not read.
fn all_pods_of(cluster: &Cluster, end: &QuestionEnd<'_>) -> Option<Extent> {
    match end {
        QuestionEnd::Any => Some(Extent::Everywhere),
        QuestionEnd::Namespace { name, .. } => Some(Extent::In(name.clone())),
        QuestionEnd::Blocks(blocks) => {
            blocks.iter().any(|block| cluster.may_hold_unread(block)).then_some(Extent::Everywhere)
        }
        _ => None,
    }
}

/// What the policies of an end let it exchange, in a direction, with a pod that was not read.
fn of_other(cluster: &Cluster, groups: &Groups, party: Party, direction: Direction) -> Bounds {
    let family = Family::ALL.into_iter().find(|family| party.address(cluster, *family).is_some());
    let deciding = party.deciding(cluster, groups, direction, family);
    let seen = OtherEnd { classes: &[], address: None, ports: &[], new_family: None, is_unread: true };
    let fold = |ids: &[GroupId], of: &dyn Fn(&Group) -> Traffic| {
        ids.iter().fold(Traffic::all(), |all, id| all.intersection(&of(groups.get(*id))))
    };
    let least = fold(&deciding.least, &|group| group.traffic(cluster, seen));
    Bounds {
        least: if deciding.is_nothing_certain { Traffic::none() } else { least },
        most: fold(&deciding.most, &|group| group.possible_traffic(cluster, seen, family)),
    }
}

fn unread_name(extent: &Extent) -> EndName {
    let name = match extent {
        Extent::In(namespace) => format!("pods of namespace {namespace} that were not read"),
        Extent::Everywhere | Extent::AllBut(_) => "pods that were not read".to_owned(),
    };
    EndName { kind: "Pod".to_owned(), name, ..EndName::default() }
}
