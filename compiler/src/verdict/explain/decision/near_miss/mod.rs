//! Near misses: how far each rule is from admitting what was denied.
//!
//! The nearest rule is the one with the fewest parts that fail, and of those the one for
//! which fewest labels would have to change. [`RuleMatcher`] judges the parts of a rule.

pub(in crate::verdict::explain) mod conjunct;
mod peers;
mod ports;
mod rule_matcher;
pub(in crate::verdict::explain) mod translated_addresses;
pub(in crate::verdict::explain) mod want_and_got;

use std::cell::OnceCell;

use crate::algebra::traffic::Traffic;
use crate::cluster::group::Group;
use crate::cluster::{Cluster, PolicyId};
use crate::policy::{Direction, Peers};
use crate::verdict::flow::End;

use crate::verdict::explain::code::ReasonCode;
use crate::verdict::explain::decision::item_path::{ItemPath, RuleHalf};
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::party::Party;
use conjunct::Conjunct;
use rule_matcher::{RuleMatcher, block_distance, block_rank, slip_rank};

/// A rule that does not admit what was asked about, and by what it misses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The policy.
    pub policy: PolicyId,
    /// The rule's place in the policy's list for the direction.
    pub place: usize,
    /// The rule's path: `spec.ingress[1]`.
    pub path: String,
    /// The parts that fail, those of the peer first; at least one.
    pub conjuncts: Vec<Conjunct>,
    /// The path of the port that matches, if it does and there is one.
    pub matching_port: Option<ItemPath>,
    /// How many labels would have to change.
    pub labels: usize,
    /// Whether the rule is for some peers, not for everyone.
    pub names_peer: bool,
    /// Whether it admits DNS to everyone and nothing else, where something else was asked: it is about names.
    pub is_for_names: bool,
    /// How many items of the rule's peers and of its ports miss by as little as those of the parts.
    pub equal_items: [usize; 2],
}

impl Candidate {
    /// The code of its first miss.
    #[must_use]
    pub fn code(&self) -> Option<ReasonCode> {
        self.conjuncts.first().map(|conjunct| conjunct.code)
    }

    /// How many mistakes its author made, if each part that fails is one. A Service's address and its port are one: a
    /// client asks for both, and policies match neither.
    #[must_use]
    pub fn mistakes(&self) -> usize {
        let has = |code| self.conjuncts.iter().any(|of| of.code == code);
        let is_one = has(ReasonCode::IpBlockIsServiceAddress) && has(ReasonCode::PortIsServicePort);
        self.conjuncts.len() - usize::from(is_one)
    }

    /// Whether its ports admit what was asked, so that it fails by its peer only.
    #[must_use]
    pub fn matches_port(&self) -> bool {
        self.conjuncts.iter().all(|conjunct| conjunct.of() != RuleHalf::Port)
    }

    /// Whether the rule is about what was asked: its peer or its port matches, or one of them
    /// means the same by another name or protocol, or but for a slip of the pen.
    #[must_use]
    pub fn is_about(&self) -> bool {
        if self.is_for_names {
            return false;
        }
        // Of all ports a rule for some is about a part.
        let fails = |half| self.conjuncts.iter().any(|of| of.of() == half && !of.admits_a_part);
        let ports = || self.conjuncts.iter().filter(|conjunct| conjunct.of() == RuleHalf::Port);
        let peers = || self.conjuncts.iter().filter(|conjunct| conjunct.of() == RuleHalf::Peer);
        let means_the_same = |conjunct: &Conjunct| match conjunct.code {
            ReasonCode::PeerAndNotOr | ReasonCode::IpBlockIsServiceAddress => true,
            ReasonCode::PortNamedUnresolved => conjunct.is_asked_in_quotes,
            // Many Services have the same port: beside pods of another namespace with other labels it is another's.
            ReasonCode::PortIsServicePort | ReasonCode::PortNamedOtherProtocol => peers().count() <= 1,
            _ => false,
        };
        let are_slips = || peers().all(Conjunct::is_slip);
        let is_other_protocol = || ports().count() == 1 && ports().all(|of| of.code == ReasonCode::PortProtocol);
        // A rule without ports admits this port as any other, and all ports were asked about without a
        // thought of those of a rule. Then its peers have to be of the other end's kind, and, beside such
        // ports, to mean it but for the namespace or but for the pod.
        let is_for_some = || self.conjuncts.iter().any(|of| of.admits_a_part);
        let means_other_kind = || peers().any(Conjunct::is_of_other_kind);
        let shares_port = || {
            !fails(RuleHalf::Port)
                && (self.matching_port.is_some() || (!means_other_kind() && (!is_for_some() || peers().count() <= 1)))
        };
        !fails(RuleHalf::Peer)
            || shares_port()
            || self.conjuncts.iter().any(means_the_same)
            || is_other_protocol()
            || are_slips()
    }
}

/// A decision keeps at most this many candidates, and the number of all. A namespace may have
/// hundreds of policies that are equally near, and each flow has candidates of its own.
pub const NEAREST: usize = 8;

/// The rules that miss by least.
pub(in crate::verdict::explain) struct Nearest {
    /// At most [`NEAREST`], the nearest first.
    pub(in crate::verdict::explain) candidates: Vec<Candidate>,
    /// How many there are.
    pub(in crate::verdict::explain) count: usize,
    /// How many of these are as near as the first, also by labels.
    pub(in crate::verdict::explain) ties: usize,
}

/// The rules of a group that miss the traffic by least. Rules that would admit no end or no traffic
/// after any change at the other end are no candidates.
pub(in crate::verdict::explain) fn nearest(
    cluster: &Cluster,
    group: &Group,
    question: &Question,
    other: Party,
    denied: &Traffic,
) -> Nearest {
    let mut all = judged(cluster, group, question, other, denied);
    // A peer of another kind than the other end counts as one miss more, and so does a rule for DNS alone.
    let misses =
        |(candidate, is_far): &(Candidate, bool)| (candidate.mistakes() + usize::from(*is_far), !candidate.is_about());
    let distance = |candidate: &Candidate| {
        let conjuncts = &candidate.conjuncts;
        let block = (block_rank(conjuncts), block_distance(conjuncts));
        (block, candidate.labels, slip_rank(conjuncts), !candidate.names_peer)
    };
    all.sort_by_cached_key(|of| (misses(of), of.1, distance(&of.0)));
    let fewest = all.first().map(misses);
    all.retain(|of| Some(misses(of)) == fewest);
    let mut all: Vec<Candidate> = all.into_iter().map(|(candidate, _)| candidate).collect();
    let count = all.len();
    let ties = all.iter().take_while(|candidate| distance(candidate) == distance(&all[0])).count();
    // The answer about DNS depends on whether a rule admits the port, so one such rule stays.
    if let Some(place) = all.iter().position(Candidate::matches_port).filter(|place| *place >= NEAREST) {
        all.swap(NEAREST - 1, place);
    }
    all.truncate(NEAREST);
    // What was kept of hundreds is not to hold the room for all.
    all.shrink_to_fit();
    Nearest { candidates: all, count, ties }
}

/// Every rule that could admit anything, with what of it fails, and whether its nearest peer is of another
/// kind than the other end.
pub(in crate::verdict::explain) fn judged(
    cluster: &Cluster,
    group: &Group,
    question: &Question,
    other: Party,
    denied: &Traffic,
) -> Vec<(Candidate, bool)> {
    let direction = group.key.direction;
    // Names mean ports of the destination. A group's ingress rules mean what all its
    // endpoints resolve them to. Where several pods hold an address, these may be other
    // endpoints than the pod that is asked about.
    let seen = other.seen(cluster, question.ends(direction).0, question.family);
    let destination = match (direction, question.to) {
        (Direction::Egress, Party::End(_)) if !seen.classes.is_empty() => Some(seen.ports),
        (Direction::Ingress, Party::End(End::Pod(pod))) => Some(cluster.pod(pod).ports.as_slice()),
        _ => None,
    };
    let classes = seen.classes;
    let namespace = group.key.policies.first().map(|policy| cluster.policy(*policy).namespace.as_str());
    let judge = RuleMatcher {
        namespace: namespace.unwrap_or_default(),
        cluster,
        question,
        direction,
        other,
        classes,
        denied,
        destination,
        resolution: &group.key.resolution,
        service_ports: OnceCell::new(),
    };
    let mut all = Vec::new();
    for policy in &group.key.policies {
        for (place, rule) in cluster.policy(*policy).rules(direction).iter().enumerate() {
            let (Some(peers), Some(ports)) = (judge.peers(rule), judge.ports(rule)) else { continue };
            let is_for_names = judge.is_for_names(rule);
            let is_far = is_for_names || judge.is_far(&peers.conjuncts);
            let candidate = Candidate {
                policy: *policy,
                place,
                path: rule.path.clone(),
                conjuncts: [peers.conjuncts, ports.conjuncts].concat(),
                matching_port: ports.matching_port,
                labels: peers.labels,
                names_peer: rule.peers != Peers::Everyone,
                is_for_names,
                equal_items: [peers.equal, ports.equal],
            };
            all.push((candidate, is_far));
        }
    }
    all
}
