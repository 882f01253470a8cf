//! A rule, as far as it tells packets of no known connection apart.

use ipnetwork::IpNetwork;
use npc_compiler::object::Protocol;
use npc_compiler::ruleset::node::{self, ChainName, Match, SetField, SetName, Target};

use super::{ChainId, Packet};

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    never: bool,
    mid_stream: bool,
    itself: bool,
    protocol: Option<Protocol>,
    ports: Option<Vec<(u16, u16)>>,
    ends: Vec<(bool, IpNetwork)>,
    /// The sets that are asked in order, about which fields, and whether the
    /// packet has to be in.
    pub(super) sets: Vec<(SetName, Fields, bool)>,
    pub(super) action: Action,
}

/// What it does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    Return,
    Drop,
    Jump(ChainId),
    Goto(ChainId),
}

/// The fields of a packet that a set is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fields {
    Source,
    Destination,
    DestinationPort,
}

impl Fields {
    /// An interface is not asked about.
    const fn of(field: SetField) -> Self {
        match field {
            SetField::Source | SetField::SourceInterface => Self::Source,
            SetField::Destination => Self::Destination,
            SetField::DestinationPort => Self::DestinationPort,
        }
    }
}

impl Rule {
    /// A rule of npc; `number` gives the chain of a name its number.
    ///
    /// # Panics
    /// If it is another program's.
    pub(super) fn of(rule: &node::Rule, mut number: impl FnMut(&ChainName) -> ChainId) -> Self {
        let mut read = Self {
            never: false,
            mid_stream: false,
            itself: false,
            protocol: None,
            ports: None,
            ends: Vec::new(),
            sets: Vec::new(),
            action: match &rule.target {
                // A rule that logs ends no packet's way.
                Target::Return | Target::Log => Action::Return,
                Target::Drop => Action::Drop,
                Target::Jump(chain) => Action::Jump(number(chain)),
                Target::Goto(chain) => Action::Goto(number(chain)),
                Target::Foreign(foreign) => panic!("a rule of another program: {foreign:?}"),
            },
        };
        read.never = rule.target == Target::Log;
        for part in &rule.matches {
            match part {
                Match::NewOrInvalid | Match::Limited | Match::Comment(_) => {}
                // Packets of a known connection, those of pods' interfaces, errors and neighbour
                // discovery are not asked about.
                Match::EstablishedOrRelated
                | Match::Established
                | Match::RelatedError
                | Match::Translated
                | Match::Icmpv6Type(_)
                | Match::ProtocolNumber(_)
                | Match::ToBroadcast
                | Match::ErrorFromQuotedDestination
                | Match::HopLimit255
                | Match::Length(..)
                | Match::NotLength(..)
                | Match::FromPods
                | Match::NotFromPods => read.never = true,
                Match::Source(prefix) => read.ends.push((true, *prefix)),
                Match::Destination(prefix) => read.ends.push((false, *prefix)),
                Match::Protocol(protocol) => read.protocol = Some(*protocol),
                Match::NotSyn => (read.protocol, read.mid_stream) = (Some(Protocol::Tcp), true),
                Match::DestinationPorts(ports) => read.ports = Some(ports.clone()),
                Match::SourceIsDestination => read.itself = true,
                Match::Set(set, field) => read.sets.push((set.clone(), Fields::of(*field), true)),
                Match::NotInSet(set, field) => read.sets.push((set.clone(), Fields::of(*field), false)),
            }
        }
        read
    }

    /// Whether a packet, also one in the middle of a connection, matches all but the sets.
    pub(super) fn matches(&self, packet: &Packet, is_mid_stream: bool) -> bool {
        let port = packet.port;
        !self.never
            && (is_mid_stream || !self.mid_stream)
            && (!self.itself || packet.source == packet.destination)
            && self.protocol.is_none_or(|protocol| port.is_some_and(|(of, _)| of == protocol))
            && self.ports.as_ref().is_none_or(|ports| {
                port.is_some_and(|(_, port)| ports.iter().any(|(first, last)| (*first..=*last).contains(&port)))
            })
            && self.ends.iter().all(|(source, prefix)| {
                let address = if *source { packet.source } else { packet.destination };
                prefix.contains(address)
            })
    }
}
