//! Whether one rule admits all that another one does, for any set of pods.

use crate::algebra::traffic::Traffic;
use crate::object::Protocol;
use crate::policy::{Namespaces, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};

/// Whether a rule covers another one.
pub(super) fn covers(rule: &PolicyRule, other: &PolicyRule) -> bool {
    peers(&rule.peers, &other.peers) && ports(&rule.ports, &other.ports)
}

/// Whether npc understood all of a rule.
pub(super) fn is_understood(rule: &PolicyRule) -> bool {
    !rule.has_unread_peers() && !rule.has_unread_ports()
}

fn peers(peers: &Peers, others: &Peers) -> bool {
    match (peers, others) {
        (Peers::Everyone, _) => true,
        (Peers::AnyOf(_), Peers::Everyone) => false,
        (Peers::AnyOf(peers), Peers::AnyOf(others)) => {
            others.iter().all(|other| peers.iter().any(|of| peer(of, other)))
        }
    }
}

fn peer(one: &Peer, other: &Peer) -> bool {
    match (one, other) {
        (Peer::Pods(one), Peer::Pods(other)) => one == other || pods(one, other),
        (Peer::Block(one), Peer::Block(other)) => {
            one.block.family == other.block.family && other.block.addresses.difference(&one.block.addresses).is_empty()
        }
        _ => false,
    }
}

/// Whether an empty selector, which selects all, makes the difference.
fn pods(one: &PodPeer, other: &PodPeer) -> bool {
    let has_namespaces = one.namespaces == other.namespaces
        || matches!(&one.namespaces, Namespaces::Selected(selector) if selector.is_empty());
    has_namespaces && (one.pods.is_empty() || one.pods == other.pods)
}

fn ports(ports: &Ports, others: &Ports) -> bool {
    let (ports, others) = match (ports, others) {
        (Ports::Everything, _) => return true,
        (Ports::AnyOf(_), Ports::Everything) => return false,
        (Ports::AnyOf(ports), Ports::AnyOf(others)) => (ports, others),
    };
    let ranges = ports.iter().filter_map(|port| match port {
        PortMatch::Range(protocol, first, last) => Some((*protocol, *first, *last)),
        PortMatch::Named(..) | PortMatch::Nothing => None,
    });
    let by_number = Traffic::of_ranges(ranges);
    let all_of = |protocol: Protocol| Traffic::ports(protocol, Traffic::PORTS.0, Traffic::PORTS.1);
    let holds = |part: &Traffic| part.difference(&by_number).is_none();
    others.iter().all(|other| match other {
        PortMatch::Range(protocol, first, last) => holds(&Traffic::ports(*protocol, *first, *last)),
        PortMatch::Named(protocol, _) => ports.contains(other) || holds(&all_of(*protocol)),
        PortMatch::Nothing => false,
    })
}
