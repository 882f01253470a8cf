//! Runs a packet through a node's ruleset as the kernel would: chains with jump,
//! goto and RETURN, and look-ups in sets. With [`faults`] it also says what the
//! kernel would refuse to load, so that a ruleset that "passes" here can be
//! loaded there.

mod fault;

use std::net::{IpAddr, Ipv4Addr};

use npc_compiler::object::{Family, Protocol};
use npc_compiler::ruleset::node::{
    ChainName, FORWARD_CHAIN, FamilyRuleset, InterfaceName, Match, Member, NodeRuleset, Rule, SetField, SetKind,
    SetName, Target,
};

pub use fault::faults;

/// What conntrack says of a packet's flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConntrackState {
    /// Its first packet.
    New,
    /// A later one, either way.
    Established,
    /// Of another flow that belongs to a known one, as an ICMP error does.
    Related,
    /// A later TCP segment of a flow that conntrack does not know.
    Stray,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// A protocol with ports; the destination port.
    Port(Protocol, u16),
    /// ICMP, or ICMPv6 in an IPv6 packet, of this type.
    Icmp(u8),
    /// Another IP protocol that carries packets.
    Tunnel(u8),
    /// Any other IP protocol.
    Other,
}

/// A packet that is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// The source address.
    pub source: IpAddr,
    /// The destination address, of the same family.
    pub destination: IpAddr,
    /// Its payload.
    pub payload: Payload,
    /// Its flow's state.
    pub state: ConntrackState,
    /// The interface of pods that it came by, if it was one.
    pub interface: Option<InterfaceName>,
    /// Its hop limit (IPv6).
    pub hop_limit: u8,
    /// Its length with its IP header.
    pub length: u16,
    /// The node has translated the destination of its flow.
    pub translated: bool,
    /// For an ICMP error: the destination of the packet that it quotes, if it stands where headers
    /// without extensions have it.
    pub quoted_destination: Option<IpAddr>,
}

impl Packet {
    /// The first packet of a flow, forwarded by a router and of no interface of
    /// pods, short and not translated.
    #[must_use]
    pub fn first(source: IpAddr, destination: IpAddr, payload: Payload) -> Self {
        Self {
            source,
            destination,
            payload,
            state: ConntrackState::New,
            interface: None,
            hop_limit: 63,
            length: 100,
            translated: false,
            quoted_destination: None,
        }
    }
}

/// How our chains leave a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Back in FORWARD, where the rules of others follow.
    Returned,
    /// Dropped.
    Dropped,
}

/// A packet's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run<'a> {
    /// Its end.
    pub outcome: Outcome,
    /// The rules that matched, each with its chain and index.
    pub trace: Vec<(&'a ChainName, usize)>,
}

/// Runs a packet from the start of [`FORWARD_CHAIN`].
///
/// # Panics
/// If the ruleset is not one that the kernel would load; ask [`faults`] first.
#[must_use]
pub fn run<'a>(ruleset: &'a NodeRuleset, packet: &Packet) -> Run<'a> {
    let ruleset = ruleset.family(Family::of(&packet.source));
    let mut trace = Vec::new();
    // Where RETURN continues: chains that jumped, and the rule after the jump.
    let mut callers: Vec<(&ChainName, &[Rule], usize)> = Vec::new();
    let (mut chain, mut rules) = enter(ruleset, FORWARD_CHAIN);
    let mut index = 0;
    loop {
        let rule = rules.get(index);
        if let Some(rule) = rule {
            if !matches_all(ruleset, rule, packet) {
                index += 1;
                continue;
            }
            trace.push((chain, index));
        }
        // The end of a chain is a RETURN.
        match rule.map_or(&Target::Return, |rule| &rule.target) {
            Target::Drop => return Run { outcome: Outcome::Dropped, trace },
            Target::Return => match callers.pop() {
                None => return Run { outcome: Outcome::Returned, trace },
                Some(caller) => (chain, rules, index) = caller,
            },
            Target::Jump(to) => {
                callers.push((chain, rules, index + 1));
                ((chain, rules), index) = (enter(ruleset, to.as_str()), 0);
            }
            Target::Goto(to) => ((chain, rules), index) = (enter(ruleset, to.as_str()), 0),
            Target::Log => index += 1,
            Target::Foreign(what) => panic!("{chain} rule {index}: no ruleset of ours has {what:?}"),
        }
    }
}

fn enter<'a>(ruleset: &'a FamilyRuleset, name: &str) -> (&'a ChainName, &'a [Rule]) {
    let found = ruleset.chains.get_key_value(name);
    let (name, rules) = found.unwrap_or_else(|| panic!("no chain {name}"));
    (name, rules)
}

fn matches_all(ruleset: &FamilyRuleset, rule: &Rule, packet: &Packet) -> bool {
    rule.matches.iter().all(|one| matches(ruleset, one, packet))
}

fn matches(ruleset: &FamilyRuleset, one: &Match, packet: &Packet) -> bool {
    match one {
        Match::EstablishedOrRelated => matches!(packet.state, ConntrackState::Established | ConntrackState::Related),
        Match::Established => packet.state == ConntrackState::Established,
        Match::RelatedError => packet.state == ConntrackState::Related && matches!(packet.payload, Payload::Icmp(_)),
        Match::Translated => packet.translated,
        Match::HopLimit255 => packet.source.is_ipv6() && packet.hop_limit == 255,
        Match::Length(first, last) => (*first..=*last).contains(&packet.length),
        Match::NotLength(first, last) => !(*first..=*last).contains(&packet.length),
        Match::ErrorFromQuotedDestination => {
            matches!(packet.payload, Payload::Icmp(_)) && packet.quoted_destination == Some(packet.source)
        }
        Match::NewOrInvalid => matches!(packet.state, ConntrackState::New | ConntrackState::Stray),
        Match::NotSyn => {
            packet.state != ConntrackState::New && matches!(packet.payload, Payload::Port(Protocol::Tcp, _))
        }
        Match::ProtocolNumber(number) => packet.payload == Payload::Tunnel(*number),
        Match::Source(prefix) => prefix.contains(packet.source),
        Match::Destination(prefix) => prefix.contains(packet.destination),
        Match::Icmpv6Type(number) => packet.source.is_ipv6() && packet.payload == Payload::Icmp(*number),
        Match::Protocol(wanted) => matches!(packet.payload, Payload::Port(protocol, _) if protocol == *wanted),
        Match::DestinationPorts(ranges) => match packet.payload {
            Payload::Port(_, port) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&port)),
            Payload::Icmp(_) | Payload::Tunnel(_) | Payload::Other => false,
        },
        // A network's own broadcast address takes its routes to recognise.
        Match::ToBroadcast => packet.destination == Ipv4Addr::BROADCAST,
        Match::SourceIsDestination => packet.source == packet.destination,
        Match::Set(name, field) => in_set(ruleset, name, *field, packet),
        Match::NotInSet(name, field) => !in_set(ruleset, name, *field, packet),
        Match::FromPods => packet.interface.is_some(),
        Match::NotFromPods => packet.interface.is_none(),
        // The first of them is within any limit.
        Match::Comment(_) | Match::Limited => true,
    }
}

fn in_set(ruleset: &FamilyRuleset, name: &SetName, field: SetField, packet: &Packet) -> bool {
    let set = ruleset.sets.get(name).unwrap_or_else(|| panic!("no set {name}"));
    let address = match field {
        SetField::Source | SetField::SourceInterface => packet.source,
        SetField::Destination | SetField::DestinationPort => packet.destination,
    };
    match set.kind {
        SetKind::HashIp => set.members.contains(&Member::Address(address)),
        SetKind::HashNet => {
            let is_in = |member: &Member| matches!(member, Member::Prefix(prefix) if prefix.contains(address));
            set.members.contains(&Member::Address(address)) || set.members.iter().any(is_in)
        }
        SetKind::HashIpPort => match packet.payload {
            Payload::Port(protocol, port) => set.members.contains(&Member::AddressPort(address, protocol, port)),
            _ => false,
        },
        SetKind::HashNetIface => set.members.iter().any(|member| match member {
            Member::PrefixInterface(both) => both.0.contains(address) && packet.interface == Some(both.1),
            _ => false,
        }),
    }
}

#[cfg(test)]
#[path = "interpreter/tests.rs"]
mod tests;
