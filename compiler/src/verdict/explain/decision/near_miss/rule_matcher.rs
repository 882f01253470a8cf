//! Finds the parts of a rule that do not match the flow.
//!
//! A rule is an AND of its peer (namespace and pod labels, or a block) and its
//! port (protocol, and number or name). All parts are judged, without stopping
//! at the first that fails.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use crate::algebra::cidr;
use crate::algebra::traffic::Traffic;
use crate::cluster::group::Resolution;
use crate::cluster::{ClassId, Cluster};
use crate::object::{ContainerPort, DNS_PORT, Family, Protocol};
use crate::policy::{Direction, PolicyRule, PortMatch, Ports};

use super::conjunct::Conjunct;
use super::want_and_got::{Got, Want};
use crate::verdict::explain::code::ReasonCode;
use crate::verdict::explain::decision::item_path::ItemPath;
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::party::Party;

/// A question, and what rules are judged by.
pub(in crate::verdict::explain) struct RuleMatcher<'a> {
    /// The namespace of the policies.
    pub(in crate::verdict::explain) namespace: &'a str,
    pub(in crate::verdict::explain) cluster: &'a Cluster,
    pub(in crate::verdict::explain) question: &'a Question,
    pub(in crate::verdict::explain) direction: Direction,
    pub(in crate::verdict::explain) other: Party,
    /// The classes of the endpoints that the other end may be.
    pub(in crate::verdict::explain) classes: &'a [ClassId],
    pub(in crate::verdict::explain) denied: &'a Traffic,
    /// The container ports of the destination, if it is an endpoint.
    pub(in crate::verdict::explain) destination: Option<&'a [ContainerPort]>,
    /// What the named ports of ingress rules mean to the group.
    pub(in crate::verdict::explain) resolution: &'a Resolution,
    /// The ports of Services that lead to the port of the destination that is asked about, once a rule
    /// with another number asks.
    pub(in crate::verdict::explain) service_ports: OnceCell<BTreeSet<(Protocol, u16)>>,
}

/// A part of a rule as it was judged: what of its nearest item fails, and how many items are as near.
pub(in crate::verdict::explain) struct Half {
    /// What fails of the nearest item.
    pub(in crate::verdict::explain) conjuncts: Vec<Conjunct>,
    /// How many labels would have to change.
    pub(in crate::verdict::explain) labels: usize,
    /// The path of the item of `ports` that matches.
    pub(in crate::verdict::explain) matching_port: Option<ItemPath>,
    /// How many items are as near.
    pub(in crate::verdict::explain) equal: usize,
}

impl Half {
    /// A half that admits every end, or every port.
    pub(super) const fn everything() -> Self {
        Self { conjuncts: Vec::new(), labels: 0, matching_port: None, equal: 0 }
    }
}

impl RuleMatcher<'_> {
    /// Whether what fails has nothing to do with the other end: a block where that is a pod whose address it
    /// does not hold, because authors name pods by selectors, and a selector where it is an address.
    pub(in crate::verdict::explain) fn is_far(&self, conjuncts: &[Conjunct]) -> bool {
        (!self.classes.is_empty() && block_rank(conjuncts) > 0) || conjuncts.iter().any(Conjunct::is_of_other_kind)
    }

    /// Whether a rule admits DNS to everyone and nothing else, where something else was asked. Most policies for egress have
    /// one, beside the rules that their author thinks of.
    pub(in crate::verdict::explain) fn is_for_names(&self, rule: &PolicyRule) -> bool {
        let Ports::AnyOf(ports) = &rule.ports else { return false };
        let is_dns = |port: &PortMatch| matches!(port, PortMatch::Range(_, DNS_PORT, DNS_PORT));
        let dns = [Protocol::Udp, Protocol::Tcp].map(|protocol| Traffic::ports(protocol, DNS_PORT, DNS_PORT));
        self.direction == Direction::Egress
            && !ports.is_empty()
            && ports.iter().all(is_dns)
            && !rule.peers.is_narrow()
            && dns.iter().all(|dns| self.denied.intersection(dns).is_none())
    }
}

/// How far what fails is from a slip of its author, the nearest first: an item that means the same in
/// another way is nearer than one that may be right for others.
pub(in crate::verdict::explain) fn slip_rank(conjuncts: &[Conjunct]) -> u8 {
    let rank = |of: &Conjunct| match of.code {
        ReasonCode::PeerAndNotOr | ReasonCode::PortIsServicePort => 0,
        ReasonCode::PortProtocol | ReasonCode::PortNamedOtherProtocol => 1,
        ReasonCode::PeerLabelMissing | ReasonCode::PeerLabelValue if of.is_slip() => 1,
        ReasonCode::PortNamedUnresolved => 2,
        ReasonCode::PortRange => 3,
        _ => 4,
    };
    conjuncts.iter().map(rank).min().unwrap_or_default()
}

/// By how many parts the address of the other end differs from blocks that do not hold it, from the first part that differs
/// on: octets of IPv4, groups of IPv6. Of several blocks the author means the one that is near.
pub(in crate::verdict::explain) fn block_distance(conjuncts: &[Conjunct]) -> usize {
    let distance = |of: &Conjunct| match (of.code, &of.want, &of.got) {
        (ReasonCode::IpBlockOutside, Want::Block(block), Got::Address(address)) => {
            let (bits, part) = if block.family == Family::V4 { (32, 8) } else { (128, 16) };
            let differ = 128 - (block.first ^ cidr::number(*address)).leading_zeros();
            differ.min(bits).div_ceil(part) as usize
        }
        // A block is what admits a node.
        (ReasonCode::PeerHostNetwork, ..) if !of.means_host => usize::MAX,
        _ => 0,
    };
    conjuncts.iter().map(distance).max().unwrap_or(0)
}

/// How far what fails is from an address: an exception of a block that holds it, a block of its family,
/// one of the other family.
pub(in crate::verdict::explain) fn block_rank(conjuncts: &[Conjunct]) -> u8 {
    let rank = |of: &Conjunct| match of.code {
        ReasonCode::IpBlockFamily => 2,
        ReasonCode::PeerHostNetwork if of.means_host => 0,
        ReasonCode::IpBlockOutside | ReasonCode::PeerHostNetwork => 1,
        _ => 0,
    };
    conjuncts.iter().map(rank).max().unwrap_or(0)
}
