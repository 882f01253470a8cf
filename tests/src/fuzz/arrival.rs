//! A frame that came in, and what it has to do with the shape whose mark it
//! bears.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::shape::{ICMP, ICMP_ERRORS, ICMPV6, IPV4, IPV6, Packet, Quote, Shape, TCP, UDP, Upper};
use super::world::World;
use crate::lab::Mode;
use npc_compiler::object::Family;

/// A frame with a shape's mark at a place that policies keep it from.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'s> {
    /// What was sent.
    pub shape: &'s Shape,
    /// Its packet, as the node's rules see it; nothing if they do not.
    pub packet: Option<&'s Packet>,
    /// The station where it came in; or the one that it was for, if a bridge
    /// that had not learned where that is gave what the node sent to all.
    pub at: usize,
    /// How many bytes followed its Ethernet header.
    pub bytes: usize,
    /// Whether its Ethernet destination was another station.
    pub is_others: bool,
    /// Source and destination that it came with.
    pub arrived: Option<(IpAddr, IpAddr)>,
    /// The answer that it is, if it is not what was sent.
    pub answer: Option<Answer>,
}

/// What another kernel sent because of a shape, with a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The station whose kernel answered, by the answer's source.
    pub of: Option<usize>,
    /// Whether it is an ICMP error.
    pub is_error: bool,
}

/// What a connection is known by: addresses, protocol, ports.
pub(crate) type FlowKey = (u8, IpAddr, u16, IpAddr, u16);

/// What arrivals are judged by.
#[derive(Debug)]
pub struct Ground<'w> {
    /// The places.
    pub world: &'w World,
    /// The flows that live.
    pub flows: &'w [Quote],
    /// Flows that forged sources may have begun, with nodes, and with pods that
    /// admit the sender that they claim: the kernel knows those from then on.
    begun: BTreeSet<FlowKey>,
    /// What a frame to many stations of a bridge may have begun: the copy for
    /// the node itself is confirmed without passing FORWARD.
    begun_by_many: BTreeSet<FlowKey>,
}

impl<'w> Ground<'w> {
    pub(crate) const fn new(world: &'w World, flows: &'w [Quote]) -> Self {
        Self { world, flows, begun: BTreeSet::new(), begun_by_many: BTreeSet::new() }
    }

    /// Remembers what a shape may have begun with a node.
    pub(crate) fn note(&mut self, shape: &Shape) {
        let Some(packet) = shape.delivered() else { return };
        let is_admitted = |place: usize| {
            self.world.stations[place].name.starts_with("node-") || self.world.admits(shape.from, packet, place)
        };
        if self.world.owner(packet.destination).is_some_and(is_admitted) {
            self.begun.insert(tuple(packet));
        }
        if self.world.mode == Mode::Bridge && shape.destination_mac.is_group() {
            self.begun_by_many.insert(tuple(packet));
        }
    }

    /// Whether a packet is of a flow that a frame to many stations may have
    /// begun.
    #[must_use]
    pub fn is_of_many(&self, packet: &Packet) -> bool {
        let (protocol, source, from, destination, to) = tuple(packet);
        [(protocol, source, from, destination, to), (protocol, destination, to, source, from)]
            .iter()
            .any(|tuple| self.begun_by_many.contains(tuple))
    }

    /// Whether a packet claims to be of a flow that the kernel knows.
    #[must_use]
    pub fn is_of_a_flow(&self, packet: &Packet) -> bool {
        let (protocol, source, from, destination, to) = tuple(packet);
        let known = |flow: &Quote| {
            let ends = [(flow.source.ip(), flow.source.port()), (flow.destination.ip(), flow.destination.port())];
            flow.protocol == protocol
                && (ends == [(source, from), (destination, to)] || ends == [(destination, to), (source, from)])
        };
        self.flows.iter().any(known)
            || self.begun.contains(&(protocol, destination, to, source, from))
            || self.begun.contains(&(protocol, source, from, destination, to))
    }

    /// Whether a place may send from an address: pods that are held to theirs
    /// may not from others.
    #[must_use]
    pub fn may_claim(&self, place: usize, source: IpAddr) -> bool {
        let is_held = self.world.anti_spoof && self.world.stations[place].node.is_some();
        !is_held || self.world.owner(source) == Some(place)
    }

    /// The packet of a shape, as a node's rules see it: on a bridge without
    /// tags, otherwise without those that the node takes off.
    fn seen<'s>(&self, shape: &'s Shape) -> Option<&'s Packet> {
        let is_to_node = shape.destination_mac == self.world.stations[shape.from].gateway;
        if is_to_node { shape.delivered() } else { shape.plain() }
    }

    /// Whether a frame is what the node made of a packet to the Service.
    fn is_by_service(&self, packet: &Packet, frame: &[u8]) -> bool {
        let arrived = addresses(frame).and_then(|(_, destination)| self.world.owner(destination));
        let is_backend = arrived.is_some() && arrived == self.world.find("v").ok();
        self.world.service.contains(&packet.destination) && is_backend && !is_icmp_error(frame)
    }

    /// The station whose kernel answers from this address.
    fn answers_from(&self, source: IpAddr, at: usize) -> Option<usize> {
        // A node's link-local addresses are on no list. In an error about a packet
        // to a Service it has the Service's.
        let is_nodes = match source {
            IpAddr::V6(source) => source.is_unicast_link_local(),
            IpAddr::V4(_) => false,
        } || self.world.service.contains(&source);
        let node = self.world.stations[at].node.or_else(|| self.world.find("node-1").ok());
        self.world.owner(source).or(node.filter(|_| is_nodes))
    }

    /// What a frame that came in is to a shape.
    #[must_use]
    pub fn arrival<'s>(&self, shape: &'s Shape, at: usize, frame: &[u8], is_others: bool) -> Arrival<'s> {
        let bytes = frame.len().saturating_sub(14);
        let is_flooded = is_others && !self.world.are_neighbours(shape.from, at);
        let meant = self.world.stations.iter().position(|station| frame.starts_with(&station.mac.0));
        let at = meant.filter(|_| is_flooded).unwrap_or(at);
        let arrived = addresses(frame);
        let sent = |packet: &Packet| arrived == Some((packet.source, packet.destination));
        let is_sent = match (shape.packet(), arrived) {
            (Some(packet), Some(_)) => {
                let inner = match &packet.upper {
                    Upper::Tunnel(_, inner) | Upper::UdpTunnel(_, inner) => sent(inner) && !is_icmp_error(frame),
                    _ => false,
                };
                // Of an odd frame the addresses may stand elsewhere.
                let is_odd =
                    shape.plain().is_none() && arrived.and_then(|(source, _)| self.world.owner(source)).is_none();
                sent(packet) || inner || is_odd || self.is_by_service(packet, frame)
            }
            _ => true,
        };
        let answer = (!is_sent).then(|| Answer {
            of: arrived.and_then(|(source, _)| self.answers_from(source, at)),
            is_error: is_icmp_error(frame),
        });
        Arrival { shape, packet: self.seen(shape), at, bytes, is_others, arrived, answer }
    }
}

/// Protocol, addresses and ports of a packet; what has no ports has zeros.
fn tuple(packet: &Packet) -> FlowKey {
    let (protocol, from, to) = match &packet.upper {
        Upper::Udp(from, to) => (UDP, *from, *to),
        Upper::UdpTunnel(to, _) => (UDP, 40_000, *to),
        Upper::Tcp(from, to, _) => (TCP, *from, *to),
        Upper::Icmp(..) if packet.family() == Family::V4 => (ICMP, 0, 0),
        Upper::Icmp(..) => (ICMPV6, 0, 0),
        Upper::Protocol(number) | Upper::Tunnel(number, _) => (*number, 0, 0),
    };
    let (protocol, from, to) = packet.tracked().map_or((protocol, from, to), |protocol| (protocol, 0, 0));
    (protocol, packet.source, from, packet.destination, to)
}

/// Source and destination of a frame's packet, if it carries one under a type
/// of its family.
fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let kind = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    let packet = frame.get(14..)?;
    match kind {
        IPV4 => {
            let at = |from: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(from..from + 4)?).ok()?));
            Some((at(12)?, at(16)?))
        }
        IPV6 => {
            let at = |from: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(from..from + 16)?).ok()?));
            Some((at(8)?, at(24)?))
        }
        _ => None,
    }
}

/// Whether a frame carries an ICMP error, without extension headers.
fn is_icmp_error(frame: &[u8]) -> bool {
    let byte = |at: usize| frame.get(at).copied().unwrap_or_default();
    match u16::from_be_bytes([byte(12), byte(13)]) {
        IPV4 => byte(23) == ICMP && ICMP_ERRORS.contains(&byte(14 + usize::from(byte(14) & 0xf) * 4)),
        IPV6 => byte(20) == ICMPV6 && byte(54) < 128,
        _ => false,
    }
}
