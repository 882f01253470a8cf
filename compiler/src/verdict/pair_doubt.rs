//! What of a pair set the input leaves open: which policies isolate its subjects, and which of its peers rules
//! mean, where they ask for labels that controllers add and files do not say.

use std::collections::{BTreeMap, BTreeSet};

use crate::algebra::cidr::AddressSet;
use crate::algebra::traffic::Traffic;
use crate::cluster::group::{Group, GroupId, Groups};
use crate::cluster::new_address::NewAddress;
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::object::Family;
use crate::policy::{Direction, Peer, Peers};
use crate::verdict::bounds::Deciding;
use crate::verdict::flow::End;
use crate::verdict::outside::{Outside, OutsideBounds, outside_by};
use crate::verdict::pairs::{PairSet, PairSetVerdict, Region};

/// What is said of a pair set, or of a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PairVerdict {
    /// It passes, as far as this direction goes.
    Allowed,
    /// The input does not say.
    Unknown,
    /// It is dropped.
    Denied,
}

/// A part of a pair set that has one answer.
#[derive(Debug)]
pub struct PairSetPart {
    /// What holds for it.
    pub verdict: PairVerdict,
    /// Its traffic.
    pub traffic: Traffic,
    /// Its peers.
    pub peers: Region,
    /// The rules that may admit it, where that is not known.
    pub rules: BTreeSet<(PolicyId, String)>,
}

/// The policies that may isolate a pod, beside those that do, and the groups that decide about it, by family; nothing
/// where there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PossibleIsolation {
    /// These policies.
    pub policies: Vec<PolicyId>,
    /// Others may be there that were not read.
    pub is_unread: bool,
    deciding: [Deciding; 2],
}

impl PossibleIsolation {
    /// What may isolate this pod.
    #[must_use]
    pub fn of(cluster: &Cluster, groups: &Groups, pod: PodId, direction: Direction) -> Self {
        let Some(class) = cluster.class_of(pod) else { return Self::default() };
        let policies = cluster.possible_policies_of(class, direction);
        let is_unread = cluster.has_unread_policies_of(cluster.class(class));
        if policies.is_empty() && !is_unread {
            return Self::default();
        }
        let deciding = |family| End::Pod(pod).deciding(cluster, groups, direction, Some(family));
        Self { policies, is_unread, deciding: Family::ALL.map(deciding) }
    }

    fn is_any(&self) -> bool {
        self.is_unread || !self.policies.is_empty()
    }
}

/// Whether the input leaves open what selects some endpoint, or which address it has. Where it does not, nothing is in
/// doubt.
#[must_use]
pub fn has_open_ends(cluster: &Cluster) -> bool {
    let is_open = |pod: PodId| cluster.class_of(pod).is_some_and(|class| cluster.is_open(class));
    cluster.endpoints().any(|(pod, _)| cluster.is_bare(pod) || is_open(pod))
}

/// The subjects of a pair set, by what may isolate them beside the policies that do.
#[must_use]
pub fn by_possible(cluster: &Cluster, groups: &Groups, set: &PairSet) -> BTreeMap<PossibleIsolation, Vec<PodId>> {
    let mut subjects = BTreeMap::<PossibleIsolation, Vec<PodId>>::new();
    for pod in &set.subjects {
        subjects.entry(PossibleIsolation::of(cluster, groups, *pod, set.direction)).or_default().push(*pod);
    }
    subjects
}

/// The parts of a pair set. `possible`: what may isolate its subjects beside the policies that do.
#[must_use]
pub fn parts(
    cluster: &Cluster,
    groups: &Groups,
    set: &PairSet,
    possible: &PossibleIsolation,
    isolating: &BTreeSet<PolicyId>,
) -> Vec<PairSetPart> {
    if possible.is_any() {
        return bounded(cluster, groups, set, possible);
    }
    let whole = |verdict| PairSetPart {
        verdict,
        traffic: set.traffic.clone(),
        peers: set.peers.clone(),
        rules: BTreeSet::new(),
    };
    if set.verdict == PairSetVerdict::Allowed {
        return vec![whole(PairVerdict::Allowed)];
    }
    let mut denied = whole(PairVerdict::Denied);
    let mut parts = BTreeMap::<(PairVerdict, Traffic, BTreeSet<(PolicyId, String)>), Vec<PodId>>::new();
    for (pod, (admitted, rules)) in perhaps_admitted(cluster, set, isolating) {
        let Ok(place) = denied.peers.pods.binary_search(&pod) else { continue };
        let unknown = admitted.intersection(&set.traffic);
        if unknown.is_none() {
            continue;
        }
        denied.peers.pods.remove(place);
        let rest = set.traffic.difference(&unknown);
        if !rest.is_none() {
            parts.entry((PairVerdict::Denied, rest, BTreeSet::new())).or_default().push(pod);
        }
        parts.entry((PairVerdict::Unknown, unknown, rules)).or_default().push(pod);
    }
    let made = parts.into_iter().map(|((said, traffic, rules), pods)| {
        let peers = Region { pods, ..Region::default() };
        PairSetPart { verdict: said, traffic, peers, rules }
    });
    let has_more = !denied.peers.pods.is_empty() || !denied.peers.outside.is_empty();
    Some(denied).filter(|_| has_more).into_iter().chain(made).collect()
}

/// The parts of a pair set whose subjects other policies may isolate too. Traffic that all of these policies admit
/// passes, and traffic that none of them admits does not.
fn bounded(cluster: &Cluster, groups: &Groups, set: &PairSet, possible: &PossibleIsolation) -> Vec<PairSetPart> {
    let mut all = BTreeMap::<(PairVerdict, Traffic), Region>::new();
    let deciding = &possible.deciding[set.family as usize];
    let together = |ids: &[GroupId], admitted: &dyn Fn(&Group) -> Traffic| {
        ids.iter().fold(Traffic::all(), |all, id| all.intersection(&admitted(groups.get(*id))))
    };
    let node = set.subjects.first().and_then(|pod| cluster.pod(*pod).node.as_deref());
    for pod in &set.peers.pods {
        let seen = End::Pod(*pod).seen(cluster, node, Some(set.family));
        let least = if deciding.is_nothing_certain {
            Traffic::none()
        } else {
            together(&deciding.least, &|group| group.traffic(cluster, seen))
        };
        let most = together(&deciding.most, &|group| group.possible_traffic(cluster, seen, Some(set.family)));
        for part in parts_of(&set.traffic, &least, &most) {
            all.entry(part).or_default().pods.push(*pod);
        }
    }
    for (addresses, least, most) in zones(groups, set, possible) {
        for part in parts_of(&set.traffic, &least, &most) {
            let outside = &mut all.entry(part).or_default().outside;
            *outside = outside.union(&addresses);
        }
    }
    let part = |((said, traffic), peers)| PairSetPart { verdict: said, traffic, peers, rules: BTreeSet::new() };
    all.into_iter().map(part).collect()
}

/// The parts of some traffic, by what passes at least and at most.
fn parts_of(traffic: &Traffic, least: &Traffic, most: &Traffic) -> impl Iterator<Item = (PairVerdict, Traffic)> {
    let allowed = traffic.intersection(least);
    let rest = traffic.difference(least);
    let parts = [
        (PairVerdict::Allowed, allowed),
        (PairVerdict::Unknown, rest.intersection(most)),
        (PairVerdict::Denied, rest.difference(most)),
    ];
    parts.into_iter().filter(|(_, traffic)| !traffic.is_none())
}

/// The addresses outside of a pair set, by what passes at least and at most.
fn zones(groups: &Groups, set: &PairSet, possible: &PossibleIsolation) -> Vec<(AddressSet, Traffic, Traffic)> {
    let mut zones = vec![(set.peers.outside.clone(), Traffic::none(), Traffic::none())];
    let OutsideBounds { allowed, unknown, .. } = outside_by(groups, &BTreeSet::from([possible.deciding.clone()]));
    let entries = allowed.iter().map(|of| (true, of)).chain(unknown.iter().map(|of| (false, of)));
    for (is_certain, Outside { addresses, traffic }) in entries {
        let meant = match addresses {
            None => set.peers.outside.clone(),
            Some((family, addresses)) if *family == set.family => addresses.clone(),
            Some(_) => continue,
        };
        zones = zones
            .into_iter()
            .flat_map(|(addresses, least, most)| {
                let within = if is_certain { least.union(traffic) } else { least.clone() };
                let most_within = most.union(traffic);
                [(addresses.intersection(&meant), within, most_within), (addresses.difference(&meant), least, most)]
            })
            .filter(|(addresses, ..)| !addresses.is_empty())
            .collect();
    }
    zones.retain(|(addresses, ..)| !addresses.is_empty());
    zones
}

/// What rules may admit to or from pods, and which rules, where the input does not say whether the rules mean these
/// pods, because of their labels or because they have no address yet.
fn perhaps_admitted(
    cluster: &Cluster,
    set: &PairSet,
    isolating: &BTreeSet<PolicyId>,
) -> BTreeMap<PodId, (Traffic, BTreeSet<(PolicyId, String)>)> {
    let mut all = BTreeMap::<PodId, (Traffic, BTreeSet<(PolicyId, String)>)>::new();
    let subject = set.subjects.first().map(|pod| cluster.pod(*pod));
    let bare: Vec<PodId> = set.peers.pods.iter().copied().filter(|pod| cluster.is_bare(*pod)).collect();
    for id in isolating {
        for rule in cluster.policy(*id).rules(set.direction) {
            let Peers::AnyOf(peers) = &rule.peers else { continue };
            let meant = peers.iter().flat_map(|peer| perhaps_meant(cluster, peer, &bare, set.family));
            for pod in meant {
                let destination = match set.direction {
                    Direction::Ingress => subject,
                    Direction::Egress => Some(cluster.pod(pod)),
                };
                let traffic = rule.traffic_to(destination.map_or(&[][..], |pod| pod.ports.as_slice()));
                let (admitted, rules) = all.entry(pod).or_insert_with(|| (Traffic::none(), BTreeSet::new()));
                *admitted = admitted.union(&traffic);
                rules.insert((*id, rule.path.clone()));
            }
        }
    }
    all
}

/// The pods that a peer may mean, as far as the input says; those without an address are `bare`.
fn perhaps_meant(cluster: &Cluster, peer: &Peer, bare: &[PodId], family: Family) -> Vec<PodId> {
    match peer {
        Peer::Pods(peer) => {
            let classes = cluster.possibly_selected(peer).into_iter();
            classes.flat_map(|class| &cluster.class(class).endpoints).copied().collect()
        }
        Peer::Block(written) if written.block.family == family && cluster.assigns_family(family) => {
            let is_meant = cluster.may_hold_a_new_address(&written.block, NewAddress::OfPod);
            if is_meant { bare.to_vec() } else { Vec::new() }
        }
        Peer::Block(_) | Peer::Nothing => Vec::new(),
    }
}
