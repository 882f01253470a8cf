//! One policy alone: what it selects, what it admits, and what of it has no effect.

use std::collections::BTreeSet;

use super::not_isolating;
use crate::cluster::group::Groups;
use crate::cluster::selection::WhyNone;
use crate::cluster::{ClassId, Cluster, PodId, PolicyId};
use crate::object::Protocol;
use crate::policy::finding::FindingCode;
use crate::policy::{Direction, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};
use crate::verdict::explain::decision::misleading::MisleadingPolicy;

/// What there is to say of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyExplanation {
    /// The pods that it selects.
    pub selects: Vec<PodId>,
    /// The pods that it may select: it asks for labels that the input does not say.
    pub may_select: Vec<PodId>,
    /// The hostNetwork pods that its podSelector fits, so that it does not select them.
    pub hosts: Vec<PodId>,
    /// Whether pods that were not read may be among those that it selects.
    pub may_select_unread: bool,
    /// The directions in which it isolates.
    pub isolates: Vec<Direction>,
    /// The nodes on which a bound leaves no room for its rules, or every node if the list is empty. Its rules admit
    /// nothing there.
    pub without_rules: Option<Vec<String>>,
    /// Its rules, also those of a direction in which it does not isolate.
    pub rules: Vec<RuleExplanation>,
    /// If it selects nothing: the pod that it looks as if it meant, and why it does not.
    pub meant: Option<(PodId, MisleadingPolicy)>,
}

/// What there is to say of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleExplanation {
    /// Its direction.
    pub direction: Direction,
    /// The rule.
    pub rule: PolicyRule,
    /// Its peers, in their order; none of a rule for everyone, and of one that is not understood.
    pub peers: Vec<PeerExplanation>,
    /// Its ports, in their order; none of a rule for every port.
    pub ports: Vec<PortExplanation>,
    /// Whether it admits nothing now.
    pub is_without_effect: bool,
}

/// What there is to say of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerExplanation {
    /// The pods that it selects.
    pub selects: Vec<PodId>,
    /// The pods that it may select: the input does not say.
    pub may_select: Vec<PodId>,
    /// Whether pods that were not read may be among those that it selects.
    pub may_select_unread: bool,
    /// Why it means nothing now.
    pub without_effect: Option<PeerWithoutEffect>,
}

/// Why a peer means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum PeerWithoutEffect {
    /// It selects no pod.
    SelectsNone(WhyNone),
    /// It is a block that holds a Service's address alone, which no packet has when policies judge it.
    ServiceAddress,
    /// It is not understood.
    NotUnderstood,
}

/// What there is to say of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortExplanation {
    /// What a name means at the pods of the input.
    pub numbers: BTreeSet<u16>,
    /// Why it means nothing now.
    pub without_effect: Option<PortWithoutEffect>,
}

/// Why a port means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum PortWithoutEffect {
    /// No pod that is meant has a port of this name.
    NoPodHasName,
    /// It is not understood.
    NotUnderstood,
}

/// Explains a policy. The groups are those of all endpoints ([`Groups::of_cluster`]).
#[must_use]
pub fn explain_policy(cluster: &Cluster, groups: &Groups, id: PolicyId) -> PolicyExplanation {
    let policy = cluster.policy(id);
    let subject = policy.subject_peer();
    let [selects, may_select] = selected(cluster, &subject);
    let may_select_unread = cluster.may_select_unread(&subject);
    let selects_none = cluster.why_selects_none(&subject).is_some();
    // A policy for every pod means hostNetwork pods.
    let hosts = cluster.host_pods_of(&subject).filter(|_| !policy.subject.is_empty());
    let without_rules = without_rules(cluster, id);
    // Nothing is left of them if all pods that the policy selects are where there is no room.
    let are_left_out = without_rules.as_ref().is_some_and(|nodes| {
        let is_there = |pod: &PodId| cluster.pod(*pod).node.as_ref().is_some_and(|node| nodes.contains(node));
        nodes.is_empty() || selects.iter().chain(&may_select).all(is_there)
    });
    let subjects = Subjects { pods: selects.iter().chain(&may_select).copied().collect(), may_select_unread };
    let rule = |direction: Direction, rule: &PolicyRule| {
        let is_in_force = policy.isolates(direction) && !selects_none && !are_left_out;
        explain_rule(cluster, &subjects, direction, rule, is_in_force)
    };
    let of_direction = |direction: &Direction| {
        let direction = *direction;
        policy.rules(direction).iter().map(move |of| (direction, of))
    };
    let rules = Direction::ALL.iter().flat_map(of_direction).map(|(direction, of)| rule(direction, of)).collect();
    PolicyExplanation {
        hosts: hosts.map(|(id, _)| id).collect(),
        isolates: policy.isolating().collect(),
        rules,
        meant: if selects_none { not_isolating::meant_pod(cluster, groups, id) } else { None },
        selects,
        may_select,
        may_select_unread,
        without_rules,
    }
}

/// The pods that a policy is about.
struct Subjects {
    /// Those that it selects or may select.
    pods: Vec<PodId>,
    may_select_unread: bool,
}

fn explain_rule(
    cluster: &Cluster,
    subjects: &Subjects,
    direction: Direction,
    rule: &PolicyRule,
    is_in_force: bool,
) -> RuleExplanation {
    let all: &[Peer] = if let Peers::AnyOf(peers) = &rule.peers { peers } else { &[] };
    let peers: Vec<PeerExplanation> = all.iter().map(|peer| explain_peer(cluster, peer)).collect();
    // The pods whose ports the rule's names mean.
    let (ends, are_all_read): (Vec<PodId>, bool) = match (direction, &rule.peers) {
        (Direction::Ingress, _) => (subjects.pods.clone(), !subjects.may_select_unread),
        (Direction::Egress, Peers::Everyone) => (cluster.endpoints().map(|(id, _)| id).collect(), true),
        (Direction::Egress, Peers::AnyOf(_)) => {
            let pods = peers.iter().flat_map(|peer| peer.selects.iter().chain(&peer.may_select));
            (pods.copied().collect(), !peers.iter().any(|peer| peer.may_select_unread))
        }
    };
    let named: &[PortMatch] = if let Ports::AnyOf(ports) = &rule.ports { ports } else { &[] };
    let ports: Vec<PortExplanation> =
        named.iter().map(|port| explain_port(cluster, port, &ends, are_all_read)).collect();
    let is_of_no_peer = rule.peers != Peers::Everyone && peers.iter().all(|peer| peer.without_effect.is_some());
    let is_of_no_port = !ports.is_empty() && ports.iter().all(|port| port.without_effect.is_some());
    let is_without_effect = !is_in_force || is_of_no_peer || is_of_no_port;
    RuleExplanation { direction, rule: rule.clone(), peers, ports, is_without_effect }
}

fn explain_peer(cluster: &Cluster, peer: &Peer) -> PeerExplanation {
    let [selects, may_select] = match peer {
        Peer::Pods(peer) => selected(cluster, peer),
        Peer::Block(_) | Peer::Nothing => [Vec::new(), Vec::new()],
    };
    let without_effect = match peer {
        Peer::Pods(peer) => cluster.why_selects_none(peer).map(PeerWithoutEffect::SelectsNone),
        Peer::Nothing => Some(PeerWithoutEffect::NotUnderstood),
        Peer::Block(block) => cluster
            .cluster_ip_alone_in(block.cidr.family, &block.cidr.addresses())
            .map(|_| PeerWithoutEffect::ServiceAddress),
    };
    let may_select_unread = matches!(peer, Peer::Pods(peer) if cluster.may_select_unread(peer));
    PeerExplanation { selects, may_select, may_select_unread, without_effect }
}

fn explain_port(cluster: &Cluster, port: &PortMatch, ends: &[PodId], are_all_read: bool) -> PortExplanation {
    let numbers = match port {
        PortMatch::Named(protocol, name) => numbers_named(cluster, ends, *protocol, name),
        PortMatch::Range(..) | PortMatch::Nothing => BTreeSet::new(),
    };
    let without_effect = match port {
        PortMatch::Named(..) if numbers.is_empty() && are_all_read => Some(PortWithoutEffect::NoPodHasName),
        PortMatch::Nothing => Some(PortWithoutEffect::NotUnderstood),
        PortMatch::Named(..) | PortMatch::Range(..) => None,
    };
    PortExplanation { numbers, without_effect }
}

/// What the name of a port means at these pods; nothing if no pod has a port of the name and protocol.
pub(in crate::verdict) fn numbers_named(
    cluster: &Cluster,
    pods: &[PodId],
    protocol: Protocol,
    name: &str,
) -> BTreeSet<u16> {
    let ports = pods.iter().flat_map(|id| &cluster.pod(*id).ports);
    ports.filter(|port| port.is_named(protocol, name)).map(|port| port.port).collect()
}

/// The pods that a peer selects, and those that it may select.
fn selected(cluster: &Cluster, peer: &PodPeer) -> [Vec<PodId>; 2] {
    let pods = |classes: Vec<ClassId>| -> Vec<PodId> {
        classes.into_iter().flat_map(|class| cluster.class(class).endpoints.iter().copied()).collect()
    };
    [cluster.selected(peer), cluster.possibly_selected(peer)].map(pods)
}

/// Where there is no room for the rules of a policy.
fn without_rules(cluster: &Cluster, id: PolicyId) -> Option<Vec<String>> {
    let nodes: Vec<String> = cluster.nodes_without_rules_of(id).map(str::to_owned).collect();
    let is_everywhere = || cluster.findings_of(id).any(|finding| finding.code == FindingCode::PolicyTooLarge);
    (!nodes.is_empty() || is_everywhere()).then_some(nodes)
}
