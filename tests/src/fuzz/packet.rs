//! The IP part of the grammar: addresses, options and extension headers,
//! fragments, and what a packet carries.

use std::net::{IpAddr, Ipv6Addr};

use fastrand::Rng;
use npc_compiler::object::Family;

use super::grammar::Grammar;
use super::shape::{
    AH, Damage, ETHER_IP, FRAGMENT, Fragments, GRE, ICMP_ERRORS, IPIP, MPLS_IN_IP, Packet, Quote, ROUTING, SIX_IN_FOUR,
    TCP, Upper,
};

/// Sizes of what ends a packet: around every bound that a rule may have.
const SIZES: [usize; 16] = [8, 8, 8, 16, 32, 40, 64, 72, 80, 128, 256, 512, 552, 576, 1_256, 1_448];
/// Ports that mean something: those of flows, of policies, of the Service, of
/// name servers, of DHCP.
const PORTS: [u16; 14] = [5_000, 5_001, 80, 53, 67, 68, 546, 547, 5_353, 6_200, 6_000, 7_000, 7_001, 123];
/// Where UDP carries packets: VXLAN, Geneve, GUE, FOU, GTP, MPLS, Teredo,
/// WireGuard, L2TP, ESP.
const TUNNELS: [u16; 12] = [4_789, 8_472, 6_081, 6_080, 5_555, 2_152, 6_635, 3_544, 51_820, 1_701, 4_500, 4_790];
/// Protocols with a meaning: beside those that have shapes of their own ICMP of
/// the other family, IGMP, DCCP, RSVP, ESP, AH, MTP, PIM, VRRP, L2TP, SCTP,
/// mobility, UDP-Lite, HIP, shim6, WESP, no next header, hop-by-hop, raw.
const PROTOCOLS: [u8; 28] =
    [0, 1, 2, 4, 6, 17, 33, 41, 43, 44, 46, 47, 50, 51, 58, 59, 60, 92, 94, 97, 103, 112, 115, 132, 135, 136, 137, 255];
/// Flags of segments: nothing, FIN, SYN, RST, SYN and ACK, ACK, PSH and ACK,
/// FIN and SYN, all, xmas, SYN and RST, ECN's.
const FLAGS: [u8; 12] = [0x00, 0x01, 0x02, 0x04, 0x12, 0x10, 0x18, 0x03, 0xff, 0x29, 0x06, 0xc2];

impl Grammar<'_> {
    /// A packet from one station that is meant for another.
    pub(super) fn packet(&self, rng: &mut Rng, from: usize, to: usize) -> Packet {
        let family = Family::ALL[rng.usize(..2)];
        let destination = self.destination(rng, (from, to), family);
        let source = self.source(rng, from, destination);
        let mut packet = Packet {
            source,
            destination,
            hop_limit: hop_limit(rng),
            options: Vec::new(),
            extensions: Vec::new(),
            fragments: fragments(rng),
            upper: Upper::Protocol(0),
            payload: SIZES[rng.usize(..SIZES.len())],
            damage: damage(rng),
        };
        if rng.u8(..5) == 0 {
            match family {
                Family::V4 => packet.options = options(rng, destination),
                Family::V6 => packet.extensions = extensions(rng, destination),
            }
        }
        packet.upper = match rng.u8(..20) {
            0..=2 => Upper::Udp(port(rng), port(rng)),
            3..=5 => Upper::Tcp(port(rng), port(rng), FLAGS[rng.usize(..FLAGS.len())]),
            6..=12 => self.icmp(rng, &mut packet, (from, to)),
            13 | 14 => Upper::Protocol(PROTOCOLS[rng.usize(..PROTOCOLS.len())]),
            15 => Upper::Protocol(rng.u8(..)),
            16 | 17 => self.tunnel(rng, (from, to)),
            _ => self.of_a_flow(rng, &mut packet, (from, to)),
        };
        if self.is_never_forged(packet.source, from) {
            packet.source = self.world.stations[from].address(family).unwrap_or(packet.source);
        }
        packet
    }
}

impl Grammar<'_> {
    fn icmp(&self, rng: &mut Rng, packet: &mut Packet, (from, to): (usize, usize)) -> Upper {
        let family = packet.family();
        let code = if rng.bool() { 0 } else { rng.u8(..16) };
        let kind = match (family, rng.u8(..10)) {
            (Family::V4, 0..=4) => [3, 3, 3, 4, 5, 11, 12][rng.usize(..7)],
            (Family::V6, 0..=3) => rng.u8(1..=4),
            (Family::V6, 4..=7) => {
                // As neighbour discovery has it, half of the time.
                if rng.bool() {
                    packet.hop_limit = 255;
                }
                rng.u8(133..=137)
            }
            (Family::V4, 5 | 6) => [0, 8][rng.usize(..2)],
            (Family::V6, 8) => [128, 129, 130, 131, 132, 143, 148, 151][rng.usize(..8)],
            _ => rng.u8(..),
        };
        let is_error = match family {
            Family::V4 => ICMP_ERRORS.contains(&kind),
            Family::V6 => kind < 128,
        };
        let quote = is_error.then(|| self.flow(rng, (from, to), family));
        // The kernel takes an error only where the quoted packet came from.
        if let Some(quote) = quote.filter(|_| rng.u8(..4) != 0) {
            packet.destination = quote.source.ip();
            if rng.u8(..4) == 0 {
                packet.source = quote.destination.ip();
            }
        }
        Upper::Icmp(kind, code, quote)
    }

    fn tunnel(&self, rng: &mut Rng, (from, to): (usize, usize)) -> Upper {
        let family = Family::ALL[rng.usize(..2)];
        let destination = self.destination(rng, (from, to), family);
        let inner = Packet {
            source: self.source(rng, from, destination),
            destination,
            hop_limit: 64,
            options: Vec::new(),
            extensions: Vec::new(),
            fragments: Fragments::Whole,
            upper: Upper::Udp(port(rng), port(rng)),
            payload: SIZES[rng.usize(..SIZES.len())],
            damage: Damage::None,
        };
        if rng.bool() {
            return Upper::UdpTunnel(TUNNELS[rng.usize(..TUNNELS.len())], Box::new(inner));
        }
        let own = if family == Family::V4 { IPIP } else { SIX_IN_FOUR };
        Upper::Tunnel([own, own, GRE, ETHER_IP, MPLS_IN_IP, 115][rng.usize(..6)], Box::new(inner))
    }

    /// A packet with the addresses and ports of a flow that lives.
    fn of_a_flow(&self, rng: &mut Rng, packet: &mut Packet, pair: (usize, usize)) -> Upper {
        let Quote { protocol, source, destination } = self.flow(rng, pair, packet.family());
        // A flow is quoted as its victim sends it; this goes to the victim.
        packet.destination = source.ip();
        if rng.bool() {
            packet.source = destination.ip();
        }
        if protocol == TCP {
            return Upper::Tcp(destination.port(), source.port(), FLAGS[rng.usize(..FLAGS.len())]);
        }
        Upper::Udp(destination.port(), source.port())
    }
}

fn port(rng: &mut Rng) -> u16 {
    if rng.bool() { PORTS[rng.usize(..PORTS.len())] } else { rng.u16(1..) }
}

fn hop_limit(rng: &mut Rng) -> u8 {
    match rng.u8(..12) {
        0 | 1 => 255,
        2 => [0, 1, 2][rng.usize(..3)],
        3 => rng.u8(..),
        _ => 64,
    }
}

fn damage(rng: &mut Rng) -> Damage {
    match rng.u8(..80) {
        0 => Damage::Version([0, 4, 5, 6, 15][rng.usize(..5)]),
        1 => Damage::Words([0, 4, 6, 15][rng.usize(..4)]),
        2 => Damage::Length([-16, -1, 1, 8, 1_000, i16::MIN][rng.usize(..6)]),
        3 => Damage::Checksum,
        _ => Damage::None,
    }
}

fn fragments(rng: &mut Rng) -> Fragments {
    match rng.u8(..32) {
        0 => Fragments::Atomic,
        1 => Fragments::First([8, 16, 24, 48, 512][rng.usize(..5)]),
        2 => Fragments::Later([1, 2, 3, 185, 8_000][rng.usize(..5)], rng.bool()),
        3 => Fragments::All([8, 16, 24, 48, 512][rng.usize(..5)]),
        4 => Fragments::Reversed([8, 16, 48, 512][rng.usize(..4)]),
        5 => Fragments::Overlapping([8, 16, 48, 512][rng.usize(..4)]),
        _ => Fragments::Whole,
    }
}

/// IPv4 options: router alert, record route, timestamp, source routes, security,
/// unknown ones, nothing but ends.
fn options(rng: &mut Rng, destination: IpAddr) -> Vec<u8> {
    let IpAddr::V4(to) = destination else { return Vec::new() };
    let [a, b, c, d] = to.octets();
    match rng.u8(..8) {
        0 => vec![0x94, 4, 0, 0],
        1 => vec![7, 7, 4, 0, 0, 0, 0, 0],
        2 => vec![0x44, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        3 => vec![0x83, 7, 4, a, b, c, d, 0],
        4 => vec![0x89, 7, 4, a, b, c, d, 0],
        5 => vec![0x82, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        6 => vec![rng.u8(..), 4, rng.u8(..), rng.u8(..)],
        _ => vec![1; 40],
    }
}

/// IPv6 extension headers in a row: hop-by-hop, destination options, routing of
/// several types, fragment, AH, mobility, HIP, shim6, unknown.
fn extensions(rng: &mut Rng, destination: IpAddr) -> Vec<(u8, Vec<u8>)> {
    let IpAddr::V6(to) = destination else { return Vec::new() };
    let count = [1, 1, 1, 2, 3, 8][rng.usize(..6)];
    (0..count).map(|place| extension(rng, place, to)).collect()
}

fn extension(rng: &mut Rng, place: usize, to: Ipv6Addr) -> (u8, Vec<u8>) {
    let padding = vec![1, 4, 0, 0, 0, 0];
    match rng.u8(..10) {
        // Only at the beginning is hop-by-hop valid (RFC 8200, section 4.1).
        0 | 1 if place == 0 || rng.u8(..4) == 0 => (0, padding),
        2 if place == 0 => (0, vec![5, 2, 0, 0, 1, 0]), // router alert
        3 => {
            let mut content = vec![[0, 2, 3, 4][rng.usize(..4)], rng.u8(..3), 0, 0, 0, 0];
            content.extend(to.octets());
            (ROUTING, content)
        }
        4 => (FRAGMENT, vec![0, 0, 0, 0, 0, 9]),
        5 => (AH, vec![0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
        6 => (135, padding),
        7 => ([139, 140, 253, 254][rng.usize(..4)], padding),
        8 => (60, [padding, vec![0x1e, 0xc0, 0, 0, 0, 0, 0, 0]].concat()),
        _ => (60, padding),
    }
}
