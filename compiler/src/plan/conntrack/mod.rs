//! Established flows: which of them the rules of a node forbid now.
//!
//! Rules judge the first packet of a flow, and its other packets pass because
//! the kernel knows the flow. So when the rules get narrower, what the kernel
//! knows has to be judged again. It is judged by the very chains and sets that
//! are in the kernel: a flow is forbidden where they would drop its first
//! packet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::object::{Family, Protocol};
use crate::plan::{FamilyState, KernelState};
use crate::ruleset::node::{ChainName, FORWARD_CHAIN, Match, Member, SetField, SetName, Target};

mod scope;

pub use scope::{FlowScope, narrowed};

/// A flow as its first packet was when it was forwarded: after the kernel translated the
/// destination (a Service's address has become a pod's), and before it translates the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// The source address.
    pub source: IpAddr,
    /// The destination address, of the same family.
    pub destination: IpAddr,
    /// The number of its IP protocol.
    pub protocol: u8,
    /// The destination port, of a protocol that has ports.
    pub port: u16,
    /// Whether the kernel took it up in its middle. Then its first packet was any segment of a TCP
    /// connection, perhaps an answer.
    pub mid_stream: bool,
}

/// Whose addresses are whose on a node.
pub trait AddressOwners {
    /// Whether an endpoint of this node has it.
    fn is_local(&self, address: IpAddr) -> bool;

    /// Whether it is the node's own: what goes to or comes from there meets
    /// INPUT or OUTPUT, and is never forwarded.
    fn is_own(&self, address: IpAddr) -> bool;

    /// Whether it belonged to an endpoint of this node that has gone for good, and
    /// belongs to none now: its flows are those of the endpoint that is gone. Not
    /// so where another endpoint may have it, whose own flows may be among them.
    fn is_departed(&self, address: IpAddr) -> bool;
}

/// Judges flows by what the kernel of one node holds at one moment.
#[derive(Debug)]
pub struct FlowJudgement<'a, E> {
    state: &'a KernelState,
    ends: &'a E,
}

/// How a walk through chains ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WalkEnd {
    Returned,
    Dropped,
}

impl<'a, E: AddressOwners> FlowJudgement<'a, E> {
    /// Will judge by this state, which has to be one that npc made.
    #[must_use]
    pub fn new(state: &'a KernelState, ends: &'a E) -> Self {
        Self { state, ends }
    }

    /// Whether the first packet of a flow would be dropped now.
    ///
    /// What is between a pod and its own node is never forwarded, and what a
    /// pod sends to itself is always allowed, so neither is ever forbidden.
    #[must_use]
    pub fn forbids(&self, tuple: &FlowKey) -> bool {
        let FlowKey { source, destination, .. } = *tuple;
        if self.ends.is_departed(source) || self.ends.is_departed(destination) {
            return true;
        }
        if !self.ends.is_local(source) && !self.ends.is_local(destination) {
            return false;
        }
        let is_own = |address: IpAddr| address.is_loopback() || self.ends.is_own(address);
        if source == destination || is_own(source) || is_own(destination) {
            return false;
        }
        let family = Family::of(&source);
        let actual = self.state.family(family);
        actual.chains.contains_key(FORWARD_CHAIN) && walk(actual, &ChainName::forward(), tuple) == WalkEnd::Dropped
    }
}

/// Walks a chain and those that it leads to. No chain of ours leads back to one before
/// it.
fn walk(actual: &FamilyState, chain: &ChainName, tuple: &FlowKey) -> WalkEnd {
    for rule in actual.chains.get(chain).into_iter().flatten() {
        if !rule.matches.iter().all(|one| matches(actual, one, tuple)) {
            continue;
        }
        match &rule.target {
            Target::Return => return WalkEnd::Returned,
            // What npc did not write is not in a state that it made.
            Target::Log | Target::Foreign(_) => {}
            Target::Drop => return WalkEnd::Dropped,
            Target::Jump(next) => {
                if walk(actual, next, tuple) == WalkEnd::Dropped {
                    return WalkEnd::Dropped;
                }
            }
            Target::Goto(next) => return walk(actual, next, tuple),
        }
    }
    WalkEnd::Returned
}

/// Whether the first packet of a flow meets a condition. It opens its flow, unless
/// that was taken up in its middle, and conntrack has no entries for neighbour
/// discovery.
fn matches(actual: &FamilyState, one: &Match, tuple: &FlowKey) -> bool {
    let ported = Protocol::ALL.into_iter().find(|protocol| protocol.number() == tuple.protocol);
    match one {
        // By which interface it came, no entry says; what is forged is dropped
        // whether its flow is known or not. Errors and neighbour discovery have
        // no entries, and lengths and hop limits are asked of these alone.
        Match::EstablishedOrRelated
        | Match::Established
        | Match::RelatedError
        | Match::ErrorFromQuotedDestination
        | Match::Icmpv6Type(_)
        | Match::HopLimit255
        | Match::Length(..)
        | Match::NotLength(..)
        | Match::FromPods
        | Match::NotFromPods => false,
        Match::NotSyn => tuple.mid_stream && ported == Some(Protocol::Tcp),
        Match::NotInSet(name, field) => !is_in(actual, name, *field, ported, tuple),
        // Only of a pod and itself is it asked whether a flow was translated.
        Match::NewOrInvalid | Match::Translated | Match::Limited | Match::Comment(_) => true,
        Match::Source(prefix) => prefix.contains(tuple.source),
        Match::Destination(prefix) => prefix.contains(tuple.destination),
        Match::Protocol(protocol) => ported == Some(*protocol),
        Match::ProtocolNumber(number) => tuple.protocol == *number,
        Match::DestinationPorts(ranges) => {
            ported.is_some() && ranges.iter().any(|(first, last)| (*first..=*last).contains(&tuple.port))
        }
        // A network's own broadcast address takes its routes to recognise.
        Match::ToBroadcast => matches!(tuple.destination, IpAddr::V4(address) if address.is_broadcast()),
        Match::SourceIsDestination => tuple.source == tuple.destination,
        Match::Set(name, field) => is_in(actual, name, *field, ported, tuple),
    }
}

fn is_in(actual: &FamilyState, name: &SetName, field: SetField, ported: Option<Protocol>, tuple: &FlowKey) -> bool {
    let Some((_, members)) = actual.sets.get(name) else { return false };
    let address = match field {
        SetField::Source => tuple.source,
        SetField::Destination => tuple.destination,
        SetField::DestinationPort => {
            let member = |protocol| Member::AddressPort(tuple.destination, protocol, tuple.port);
            return ported.is_some_and(|protocol| members.contains(&member(protocol)));
        }
        SetField::SourceInterface => return false,
    };
    members.contains(&Member::Address(address)) || prefix_holds(members, address)
}

/// Whether one of the prefixes, which are disjoint, holds an address: it can
/// only be the last that does not begin behind it.
fn prefix_holds(members: &BTreeSet<Member>, address: IpAddr) -> bool {
    let last = members.range(..=Member::Prefix(address.into())).next_back();
    matches!(last, Some(Member::Prefix(prefix)) if prefix.contains(address))
}

#[cfg(test)]
mod tests;
