//! What of a pair set the input leaves open: which policies isolate its subjects, and which of its peers rules
//! mean, where they ask for labels that controllers add and files do not say.

use std::collections::{BTreeMap, BTreeSet};

use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::{Cluster, PodId, PolicyId};
use npc_compiler::policy::{Direction, Peer, Peers};
use npc_compiler::verdict::pairs::{PairSet, PairSetVerdict, Region};

use crate::command::words::policy_name;

/// What is said of a pair set, or of a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Said {
    Allowed,
    Unknown,
    Denied,
}

/// A part of a pair set of which one thing is said.
pub(super) struct Part {
    pub(super) said: Said,
    pub(super) traffic: Traffic,
    pub(super) peers: Region,
    /// The rules that may admit it, where that is not known.
    pub(super) rules: BTreeSet<String>,
}

/// The policies that may isolate a pod, beside those that do.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Possible {
    pub(super) policies: Vec<PolicyId>,
    /// Others may be there that were not read.
    pub(super) is_unread: bool,
}

impl Possible {
    pub(super) fn of(cluster: &Cluster, pod: PodId, direction: Direction) -> Self {
        let Some(class) = cluster.class_of(pod) else { return Self::default() };
        Self {
            policies: cluster.possible_policies_of(class, direction),
            is_unread: cluster.has_unread_policies_of(cluster.class(class)),
        }
    }

    pub(super) fn is_any(&self) -> bool {
        self.is_unread || !self.policies.is_empty()
    }
}

/// Whether the input leaves open what selects some endpoint. Where it does not, nothing is in doubt.
pub(super) fn has_open_ends(cluster: &Cluster) -> bool {
    let mut classes = cluster.endpoints().filter_map(|(pod, _)| cluster.class_of(pod));
    classes.any(|class| cluster.is_open(class))
}

/// Whether the input says all that decides about a pair set.
pub(super) fn is_certain(cluster: &Cluster, set: &PairSet, isolating: &BTreeSet<PolicyId>) -> bool {
    let is_open = |pod: &PodId| Possible::of(cluster, *pod, set.direction).is_any();
    let is_isolated = !isolating.is_empty();
    let subjects = (set.verdict == PairSetVerdict::Allowed && is_isolated) || !set.subjects.iter().any(is_open);
    subjects && parts(cluster, set, false, isolating).iter().all(|part| part.said != Said::Unknown)
}

/// The parts of a pair set. `may_be_isolated`: other policies may isolate its subjects too, beside these.
pub(super) fn parts(
    cluster: &Cluster,
    set: &PairSet,
    may_be_isolated: bool,
    isolating: &BTreeSet<PolicyId>,
) -> Vec<Part> {
    let whole = |said| Part { said, traffic: set.traffic.clone(), peers: set.peers.clone(), rules: BTreeSet::new() };
    match set.verdict {
        // Where a policy isolates already, another one admits more and takes nothing away.
        PairSetVerdict::Allowed if may_be_isolated && isolating.is_empty() => return vec![whole(Said::Unknown)],
        PairSetVerdict::Allowed => return vec![whole(Said::Allowed)],
        PairSetVerdict::Denied if may_be_isolated => return vec![whole(Said::Unknown)],
        PairSetVerdict::Denied => {}
    }
    let mut denied = whole(Said::Denied);
    let mut parts = BTreeMap::<(Said, Traffic, BTreeSet<String>), Vec<PodId>>::new();
    for (pod, (admitted, rules)) in perhaps_admitted(cluster, set, isolating) {
        let Ok(place) = denied.peers.pods.binary_search(&pod) else { continue };
        let unknown = admitted.intersection(&set.traffic);
        if unknown.is_none() {
            continue;
        }
        denied.peers.pods.remove(place);
        let rest = set.traffic.difference(&unknown);
        if !rest.is_none() {
            parts.entry((Said::Denied, rest, BTreeSet::new())).or_default().push(pod);
        }
        parts.entry((Said::Unknown, unknown, rules)).or_default().push(pod);
    }
    let made = parts.into_iter().map(|((said, traffic, rules), pods)| {
        let peers = Region { pods, ..Region::default() };
        Part { said, traffic, peers, rules }
    });
    let has_more = !denied.peers.pods.is_empty() || !denied.peers.outside.is_empty();
    Some(denied).filter(|_| has_more).into_iter().chain(made).collect()
}

/// What rules may admit to or from pods of which the input does not say whether they mean these, and which rules.
fn perhaps_admitted(
    cluster: &Cluster,
    set: &PairSet,
    isolating: &BTreeSet<PolicyId>,
) -> BTreeMap<PodId, (Traffic, BTreeSet<String>)> {
    let mut all = BTreeMap::<PodId, (Traffic, BTreeSet<String>)>::new();
    let subject = set.subjects.first().map(|pod| cluster.pod(*pod));
    for id in isolating {
        for rule in cluster.policy(*id).rules(set.direction) {
            let Peers::AnyOf(peers) = &rule.peers else { continue };
            let peers = peers.iter().filter_map(|peer| if let Peer::Pods(peer) = peer { Some(peer) } else { None });
            for class in peers.flat_map(|peer| cluster.possibly_selected(peer)) {
                for pod in &cluster.class(class).endpoints {
                    let destination = match set.direction {
                        Direction::Ingress => subject,
                        Direction::Egress => Some(cluster.pod(*pod)),
                    };
                    let traffic = rule.traffic_to(destination.map_or(&[][..], |pod| pod.ports.as_slice()));
                    let (admitted, rules) = all.entry(*pod).or_insert_with(|| (Traffic::none(), BTreeSet::new()));
                    *admitted = admitted.union(&traffic);
                    rules.insert(format!("{} {}", policy_name(cluster, *id), rule.path));
                }
            }
        }
    }
    all
}
