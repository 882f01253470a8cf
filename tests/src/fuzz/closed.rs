//! The closed list: what arrives though policies deny, why, and how many bytes
//! of it. docs/security.md lists the same names.

use npc_compiler::object::Family;

use super::arrival::{Arrival, Ground};
use super::shape::{Body, FRAGMENT, Packet};
use crate::lab::Mode;

/// The longest neighbour discovery on a bridge, with its IP header.
pub const NEIGHBOUR_DISCOVERY: usize = 128;
/// The longest ARP message on a bridge.
pub const ARP: usize = 46;
/// The longest ICMP error (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4).
pub const ICMP_ERROR: [usize; 2] = [576, 1_280];

/// One exception.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Whether it is the reason why this frame arrived.
    pub explains: fn(&Ground<'_>, &Arrival<'_>) -> bool,
}

/// What may arrive.
pub const CLOSED: [Entry; 9] = [
    Entry { name: "answer-of-a-node", explains: answer_of_a_node },
    Entry { name: "answer-of-a-pod", explains: answer_of_a_pod },
    Entry { name: "neighbour-discovery", explains: neighbour_discovery },
    Entry { name: "arp", explains: arp },
    Entry { name: "icmp-error", explains: icmp_error },
    Entry { name: "admitted", explains: admitted },
    Entry { name: "of-a-flow", explains: of_a_flow },
    Entry { name: "forged-self-by-service", explains: forged_self_by_service },
    Entry { name: "flooded-by-the-node", explains: flooded_by_the_node },
];

/// Names for what is on no list, to distinguish findings: the ways around that were
/// open once.
const ONCE_OPEN: [Entry; 9] = [
    Entry { name: "icmpv6-133-to-137", explains: icmpv6_133_to_137 },
    Entry { name: "odd-arp", explains: odd_arp },
    Entry { name: "foreign-frame", explains: foreign_frame },
    Entry { name: "forged-icmp-error", explains: forged_icmp_error },
    Entry { name: "source-is-destination", explains: source_is_destination },
    Entry { name: "another-destination-on-a-bridge", explains: another_destination },
    Entry { name: "unspecified-source-on-a-bridge", explains: unspecified_source },
    Entry { name: "neighbours-source-on-a-bridge", explains: neighbours_source },
    Entry { name: "begun-by-a-frame-to-many", explains: begun_by_many },
];

/// The name of what explains an arrival, and whether that is on the closed list;
/// nothing, if it is like nothing that arrived before.
#[must_use]
pub fn explain(ground: &Ground<'_>, arrival: &Arrival<'_>) -> Option<(&'static str, bool)> {
    let closed = CLOSED.iter().find(|entry| (entry.explains)(ground, arrival)).map(|entry| (entry.name, true));
    closed.or_else(|| {
        let open = ONCE_OPEN.iter().find(|entry| (entry.explains)(ground, arrival));
        open.map(|entry| (entry.name, false))
    })
}

/// A node answers what a pod sent to it in another's name: an echo reply, an
/// ICMP error.
fn answer_of_a_node(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    let of = arrival.answer.and_then(|answer| answer.of);
    of.is_some_and(|of| ground.world.stations[of].name.starts_with("node-"))
}

/// A pod answers what policies admitted, if all that it claimed is so.
fn answer_of_a_pod(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    let of = arrival.answer.and_then(|answer| answer.of);
    of.zip(arrival.packet).is_some_and(|(of, packet)| {
        let is_open = !ground.world.denies_egress(of) && !ground.world.denies_ingress(arrival.at);
        is_open || ground.world.admits(arrival.shape.from, packet, of)
    })
}

fn icmpv6<'s>(arrival: &Arrival<'s>) -> Option<(&'s Packet, u8)> {
    let packet = arrival.packet?;
    let (kind, _) = packet.icmp()?;
    (packet.family() == Family::V6 && arrival.answer.is_none()).then_some((packet, kind))
}

/// Neighbours on a bridge find each other.
fn neighbour_discovery(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    let short = arrival.bytes <= NEIGHBOUR_DISCOVERY && ground.world.are_neighbours(arrival.shape.from, arrival.at);
    short && icmpv6(arrival).is_some_and(|(packet, kind)| [133, 135, 136].contains(&kind) && packet.hop_limit == 255)
}

fn arp(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    let Body::Arp(arp) = &arrival.shape.body else { return false };
    let is_plain = arrival.shape.tags.is_empty() && (arp.hardware, arp.protocol, arp.lengths) == (1, 0x0800, (6, 4));
    is_plain && arrival.bytes <= ARP && ground.world.are_neighbours(arrival.shape.from, arrival.at)
}

/// An error about what the pod sent in a flow that lives: from beyond its node,
/// where routers are, or from the other end of that flow.
fn icmp_error(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    if let Some(answer) = arrival.answer {
        let family = arrival.shape.packet().map(Packet::family);
        return answer.is_error && arrival.bytes <= ICMP_ERROR[usize::from(family == Some(Family::V6))];
    }
    let Some(packet) = arrival.packet else { return false };
    let Some((_, Some(quote))) = packet.icmp() else { return false };
    let from = arrival.shape.from;
    let bound = ICMP_ERROR[usize::from(packet.family() == Family::V6)];
    let flow = ground.flows.iter().any(|flow| {
        let ends = [flow.source, flow.destination];
        flow.protocol == quote.protocol && ends.contains(&quote.source) && ends.contains(&quote.destination)
    });
    let is_ends = quote.destination.ip() == packet.source && ground.may_claim(from, packet.source);
    // A header of a fragment that is whole goes, before any rule sees it.
    let has_no_headers = packet.extensions.iter().all(|(kind, _)| *kind == FRAGMENT);
    let node = |place: usize| ground.world.stations[place].node;
    let is_beyond = node(from) != node(arrival.at) && ground.may_claim(from, packet.source);
    flow && packet.destination == quote.source.ip()
        && arrival.bytes <= bound
        && (is_beyond || is_ends && has_no_headers)
}

/// Policies admit it, if all is so that it claims and its sender may claim it:
/// they go by addresses, where the network does not hold pods to theirs.
fn admitted(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    let Some(packet) = arrival.packet.filter(|_| arrival.answer.is_none()) else { return false };
    let from = arrival.shape.from;
    ground.may_claim(from, packet.source) && ground.world.admits(from, packet, arrival.at)
}

/// A packet in the name of a flow's end is of the flow.
fn of_a_flow(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    let Some(packet) = arrival.packet.filter(|_| arrival.answer.is_none()) else { return false };
    let is_at = ground.world.owner(packet.destination) == Some(arrival.at);
    ground.may_claim(arrival.shape.from, packet.source) && is_at && ground.is_of_a_flow(packet)
}

/// A pod reaches itself through a Service. So does a packet with the pod's address as a forged source.
fn forged_self_by_service(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    let Some(packet) = arrival.packet else { return false };
    let is_self = ground.world.owner(packet.source) == Some(arrival.at);
    // The node has it come from itself: so does what answers that.
    let is_back = arrival.arrived.is_some_and(|(source, destination)| source == destination);
    let is_by_service =
        ground.world.service.contains(&packet.destination) || is_back && packet.source != packet.destination;
    ground.may_claim(arrival.shape.from, packet.source) && is_self && is_by_service
}

/// What the node hands to a pod whose port the bridge does not know goes to all ports, in
/// a frame for that pod.
fn flooded_by_the_node(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    let Some(packet) = arrival.packet.filter(|_| on_a_bridge(ground, arrival) && arrival.is_others) else {
        return false;
    };
    let from = arrival.shape.from;
    ground.world.owner(packet.destination).filter(|owner| *owner != arrival.at).is_some_and(|owner| {
        ground.may_claim(from, packet.source)
            && (ground.world.admits(from, packet, owner) || ground.is_of_a_flow(packet))
    })
}

fn icmpv6_133_to_137(_: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    icmpv6(arrival).is_some_and(|(_, kind)| (133..=137).contains(&kind))
}

fn on_a_bridge(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    ground.world.mode == Mode::Bridge && arrival.answer.is_none()
}

fn odd_arp(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    on_a_bridge(ground, arrival) && matches!(arrival.shape.body, Body::Arp(_))
}

fn foreign_frame(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    ground.world.mode == Mode::Bridge && arrival.packet.is_none()
}

fn forged_icmp_error(_: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    arrival.answer.is_none() && matches!(arrival.packet.and_then(Packet::icmp), Some((_, Some(_))))
}

fn source_is_destination(_: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    arrival.packet.is_some_and(|packet| packet.source == packet.destination)
}

fn another_destination(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    let others = |packet: &Packet| ground.world.owner(packet.destination) != Some(arrival.at);
    on_a_bridge(ground, arrival) && arrival.packet.is_some_and(others)
}

fn unspecified_source(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    on_a_bridge(ground, arrival) && arrival.packet.is_some_and(|packet| packet.source.is_unspecified())
}

fn neighbours_source(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    let is_neighbours = |packet: &Packet| {
        let owner = ground.world.owner(packet.source);
        owner.is_some_and(|owner| ground.world.are_neighbours(owner, arrival.shape.from))
            && (ground.world.admits(arrival.shape.from, packet, arrival.at) || ground.is_of_a_flow(packet))
    };
    on_a_bridge(ground, arrival) && arrival.packet.is_some_and(is_neighbours)
}

fn begun_by_many(ground: &Ground<'_>, arrival: &Arrival<'_>) -> bool {
    arrival.packet.is_some_and(|packet| ground.is_of_many(packet))
}
