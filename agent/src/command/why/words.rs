//! Rules, chains and sets of npc in words.

use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::{ChainRole, Match, Rule, SetField, SetName, SetRole, Target};
use npc_compiler::ruleset::text::Named;

/// What a set with this role is.
pub(super) const fn set(role: SetRole) -> &'static str {
    match role {
        SetRole::Isolated(_) => "isolated set",
        SetRole::Dispatch(_) | SetRole::DispatchGroup(_) => "dispatch set",
        SetRole::Peers => "peer set",
        SetRole::NamedPorts => "named ports of peers",
        SetRole::Own => "what may come from the interfaces of pods",
        SetRole::Seed => "its name keeps the secret by which groups stand in the dispatch tree",
        SetRole::Shadow => "holds the new members of another set while rules change",
        SetRole::Alias => "stands in for a set whose name another program took",
        SetRole::Probe => "made to find out what this kernel supports",
        SetRole::Unknown => "set of another version of npc",
    }
}

/// The direction that a set is about.
pub(super) const fn set_direction(role: SetRole) -> Option<Direction> {
    match role {
        SetRole::Isolated(direction) | SetRole::Dispatch(direction) | SetRole::DispatchGroup(direction) => {
            Some(direction)
        }
        SetRole::Peers
        | SetRole::NamedPorts
        | SetRole::Own
        | SetRole::Seed
        | SetRole::Shadow
        | SetRole::Alias
        | SetRole::Probe
        | SetRole::Unknown => None,
    }
}

/// What a rule of a chain does, with the meanings of its sets.
pub(super) fn rule(rule: &Rule, of_chain: ChainRole, meaning: impl Fn(&SetName) -> String) -> String {
    let group = if let ChainRole::Group(direction) = of_chain { Some(direction) } else { None };
    let mut packets = Vec::new();
    let mut names_peers = false;
    let mut matches = rule.matches.iter().peekable();
    while let Some(one) = matches.next() {
        let words = match one {
            Match::Protocol(protocol) => match matches.peek() {
                Some(Match::DestinationPorts(ports)) => {
                    let ports: Vec<String> = ports.iter().map(|range| range_text(*range)).collect();
                    format!("{} {}", protocol.lower(), ports.join(","))
                }
                _ => format!("all {}", protocol.lower()),
            },
            Match::DestinationPorts(_) | Match::Limited | Match::Comment(_) | Match::NewOrInvalid => continue,
            Match::NotSyn => "TCP packets that do not begin a connection".to_owned(),
            Match::ProtocolNumber(number) => format!("IP protocol {number}"),
            Match::EstablishedOrRelated | Match::Established => "packets of known flows".to_owned(),
            Match::RelatedError => "ICMP errors about known flows".to_owned(),
            Match::Translated => "with a translated destination".to_owned(),
            Match::Source(prefix) => format!("from {prefix}"),
            Match::Destination(prefix) => format!("to {prefix}"),
            Match::Icmpv6Type(kind) => format!("ICMPv6 type {kind}"),
            Match::ToBroadcast => "to broadcast addresses".to_owned(),
            Match::SourceIsDestination => "whose source is their destination".to_owned(),
            Match::ErrorFromQuotedDestination => "that quote a packet to their source".to_owned(),
            Match::HopLimit255 => "with hop limit 255".to_owned(),
            Match::Length(first, last) => format!("of {first} to {last} bytes"),
            Match::NotLength(first, last) => format!("not of {first} to {last} bytes"),
            Match::Set(name, field) => {
                names_peers = true;
                format!("{} {}", preposition(*field), meaning(name))
            }
            Match::NotInSet(name, field) => format!("not {} {}", preposition(*field), meaning(name)),
            Match::FromPods => "from a pod's interface".to_owned(),
            Match::NotFromPods => "not from a pod's interface".to_owned(),
        };
        packets.push(words);
    }
    if let (Some(direction), Target::Return) = (group, &rule.target) {
        let says_what = |one: &Match| matches!(one, Match::Protocol(_) | Match::Set(_, SetField::DestinationPort));
        if !rule.matches.iter().any(says_what) {
            packets.insert(0, "everything".to_owned());
        }
        if !names_peers {
            packets.push(format!("{} everyone", direction.peers_field()));
        }
        return packets.join(" ");
    }
    let packets = if packets.is_empty() { "everything else".to_owned() } else { packets.join(" ") };
    let why = match rule.matches.last() {
        Some(Match::Comment(text)) if Named::of(rule).is_none() => format!(" ({text})"),
        _ => String::new(),
    };
    match &rule.target {
        Target::Foreign(_) => "a rule that npc did not write".to_owned(),
        target => format!("{packets}: {}{why}", end(target)),
    }
}

/// What becomes of a packet.
fn end(target: &Target) -> String {
    match target {
        Target::Return => "returns to where the packet came from".to_owned(),
        Target::Drop => "dropped".to_owned(),
        Target::Log => "logged (--log-denied)".to_owned(),
        Target::Goto(chain) | Target::Jump(chain)
            if matches!(chain.role(), ChainRole::Deny(_) | ChainRole::DenyStray) =>
        {
            "denied".to_owned()
        }
        Target::Jump(chain) => format!("asks {chain}"),
        Target::Goto(chain) => format!("goes on in {chain}"),
        Target::Foreign(_) => String::new(),
    }
}

const fn preposition(field: SetField) -> &'static str {
    match field {
        SetField::Source | SetField::SourceInterface => "from",
        SetField::Destination | SetField::DestinationPort => "to",
    }
}

fn range_text((first, last): (u16, u16)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
