//! A line of `iptables-restore`, as far as our rules go.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use npc_compiler::object::Protocol;
use npc_compiler::ruleset::node::SetName;

use super::{ChainId, Packet, number};

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

impl Rule {
    /// Chains that no rule has named before get a number.
    ///
    /// # Panics
    /// If the line is not one of ours.
    pub(super) fn parse(line: &str, numbers: &mut BTreeMap<String, ChainId>) -> Self {
        let mut rule = Self {
            never: false,
            mid_stream: false,
            itself: false,
            protocol: None,
            ports: None,
            ends: Vec::new(),
            sets: Vec::new(),
            action: Action::Return,
        };
        let mut words = line.split(' ').skip(2);
        let mut is_negated = false;
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{line}: {word} needs a value"));
            match word {
                "-m" => {
                    value();
                }
                "!" => {
                    is_negated = true;
                    continue;
                }
                // Packets that belong to no known connection only, and of no pod's
                // interface; neighbour discovery is not asked about.
                "--ctstate" => rule.never |= value() != "INVALID,NEW",
                "--icmpv6-type" | "--dst-type" | "--src-group" | "--hl-eq" | "--length" => {
                    value();
                    rule.never = true;
                }
                "--tcp-flags" => {
                    value();
                    value();
                    rule.mid_stream = true;
                }
                "--bytecode" => {
                    rule.itself = true;
                    while !value().ends_with('"') {}
                }
                "--comment" => {
                    let first = value();
                    let mut last = first;
                    while first.starts_with('"') && !last.ends_with('"') {
                        last = value();
                    }
                }
                "--limit" | "--limit-burst" | "--nflog-prefix" | "--nflog-group" => drop(value()),
                "-s" | "-d" => {
                    let prefix = value().parse().unwrap_or_else(|error| panic!("{line}: {error}"));
                    rule.ends.push((word == "-s", prefix));
                }
                "-p" => {
                    let name = value();
                    rule.protocol = Protocol::ALL.into_iter().find(|protocol| protocol.lower() == name);
                    rule.never |= rule.protocol.is_none();
                }
                "--dport" | "--dports" => {
                    let port = |text: &str| text.parse().unwrap_or_else(|_| panic!("{line}: port {text}"));
                    let range = |text: &str| match text.split_once(':') {
                        Some((first, last)) => (port(first), port(last)),
                        None => (port(text), port(text)),
                    };
                    rule.ports = Some(value().split(',').map(range).collect());
                }
                "--match-set" => {
                    let name = value();
                    let name = SetName::ours(name).unwrap_or_else(|| panic!("{line}: set {name} is not ours"));
                    let fields = match value() {
                        "src" | "src,src" => Fields::Source,
                        "dst" => Fields::Destination,
                        "dst,dst" => Fields::DestinationPort,
                        other => panic!("{line}: {other}"),
                    };
                    rule.sets.push((name, fields, !is_negated));
                }
                "-j" | "-g" => {
                    let target = value();
                    if target == "NFLOG" {
                        // The log target ends no packet's way.
                        rule.never = true;
                        continue;
                    }
                    rule.action = match (word, target) {
                        ("-j", "RETURN") => Action::Return,
                        ("-j", "DROP") => Action::Drop,
                        ("-j", chain) => Action::Jump(number(numbers, chain)),
                        (_, chain) => Action::Goto(number(numbers, chain)),
                    };
                }
                _ => panic!("{line}: {word}"),
            }
            is_negated = false;
        }
        rule
    }

    /// Whether a packet, be it one in the middle of a connection, matches all but
    /// the sets.
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
