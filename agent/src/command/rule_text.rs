//! Rules, peers and ports of policies in words: `8080 from app=prometheus in namespace monitoring`.

use ipnetwork::IpNetwork;
use npc_compiler::algebra::selector::{Operator, Selector};
use npc_compiler::object::{NAMESPACE_NAME_LABEL, Protocol};
use npc_compiler::policy::{Direction, IpBlock, Namespaces, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};

use super::words::shorten;

/// At most this many peers of a rule are written out.
const LISTED: usize = 3;

/// How peers and ports are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As in tables: `app=web in namespace shop`, `8080`, `53/udp`, `*`.
    Short,
    /// As what a policy means: `pods with app=web of namespace shop`, `TCP 8080`, `every UDP port`.
    Full,
}

/// A rule in short, as a sentence has it: `8080 from app=web in namespace shop`.
pub(super) fn rule(rule: &PolicyRule, direction: Direction) -> String {
    let way = direction.peers_field();
    let peers = match &rule.peers {
        Peers::Everyone => "everyone".to_owned(),
        Peers::AnyOf(peers) if peers.is_empty() => peer(&Peer::Nothing, Style::Short),
        Peers::AnyOf(peers) => {
            let peers = peers.iter().map(|of| peer(of, Style::Short)).collect::<Vec<_>>();
            shorten(&peers, LISTED, ", ")
        }
    };
    let ports = match &rule.ports {
        Ports::Everything => "all ports".to_owned(),
        Ports::AnyOf(of) => match of.as_slice() {
            // A star alone means every protocol.
            [one @ PortMatch::Range(Protocol::Tcp, ..)] if one.is_whole_protocol() => "every TCP port".to_owned(),
            _ => Some(ports(&rule.ports)).filter(|text| !text.is_empty()).unwrap_or_else(|| "no port".to_owned()),
        },
    };
    format!("{ports} {way} {peers}")
}

/// Ports in short; `*` for everything, nothing where none is understood.
pub(super) fn ports(ports: &Ports) -> String {
    match ports {
        Ports::Everything => "*".to_owned(),
        Ports::AnyOf(ports) => ports.iter().filter_map(|of| port(of, Style::Short)).collect::<Vec<_>>().join(","),
    }
}

/// A port; none where it is not understood.
pub(super) fn port(port: &PortMatch, style: Style) -> Option<String> {
    let (protocol, text) = match port {
        PortMatch::Range(protocol, ..) if port.is_whole_protocol() => match style {
            Style::Full => return Some(format!("every {} port", protocol.as_str())),
            Style::Short => (protocol, "*".to_owned()),
        },
        PortMatch::Range(protocol, first, last) if first == last => (protocol, first.to_string()),
        PortMatch::Range(protocol, first, last) => (protocol, format!("{first}-{last}")),
        // In quotes a number is a name.
        PortMatch::Named(protocol, name) if style == Style::Full && name.parse::<u16>().is_ok() => {
            (protocol, format!("port named {name:?}"))
        }
        PortMatch::Named(protocol, name) => (protocol, name.clone()),
        PortMatch::Nothing => return None,
    };
    Some(match (style, protocol) {
        (Style::Full, protocol) => format!("{} {text}", protocol.as_str()),
        (Style::Short, Protocol::Tcp) => text,
        (Style::Short, other) => format!("{text}/{}", other.lower()),
    })
}

/// A peer.
pub(super) fn peer(peer: &Peer, style: Style) -> String {
    let PodPeer { namespaces, pods } = match peer {
        Peer::Pods(peer) => peer,
        Peer::Block(block) => return block_text(block),
        Peer::Nothing => return "a peer that is not understood".to_owned(),
    };
    let (with, of) = match style {
        Style::Short => ("", "in"),
        Style::Full => ("pods with ", "of"),
    };
    let pods = if pods.is_empty() { "every pod".to_owned() } else { format!("{with}{pods}") };
    match namespaces {
        Namespaces::Own(name) => format!("{pods} {of} namespace {name}"),
        Namespaces::Selected(selector) if selector.is_empty() => format!("{pods} {of} every namespace"),
        Namespaces::Selected(selector) => match named(selector).filter(|_| style == Style::Short) {
            Some(name) => format!("{pods} {of} namespace {name}"),
            None => format!("{pods} {of} namespaces with {selector}"),
        },
    }
}

/// The one namespace that a selector asks for by its name.
fn named(selector: &Selector) -> Option<&str> {
    let mut requirements = selector.requirements();
    match (requirements.next(), requirements.next()) {
        (Some(one), None) if one.key == NAMESPACE_NAME_LABEL => match &one.operator {
            Operator::In(values) if values.len() == 1 => values.first().map(String::as_str),
            _ => None,
        },
        _ => None,
    }
}

/// An ipBlock as people write it.
fn block_text(block: &IpBlock) -> String {
    let mut text = block.cidr.network().to_string();
    if !block.except.is_empty() {
        let except: Vec<String> = block.except.iter().map(|cidr| IpNetwork::to_string(&cidr.network())).collect();
        text.push_str(" except ");
        text.push_str(&except.join(" "));
    }
    text
}
