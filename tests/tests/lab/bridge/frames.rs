//! Frames: what pods may send each other, and what they may not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use npc_compiler::object::Family;
use npc_tests::lab::Lab;

use super::wire::{LAST, MAGIC};

/// What is let in is UDP to this port.
pub(crate) const ADMITTED: u16 = 9_998;
const OTHER: u16 = 9_999;
const SOURCE: u16 = 7_000;

/// A pod's addresses.
pub(crate) struct Pod {
    pub(crate) mac: [u8; 6],
    pub(crate) v4: Ipv4Addr,
    v6: Ipv6Addr,
    link: Ipv6Addr,
}

impl Pod {
    /// A router that has this one's IPv6 addresses.
    pub(crate) fn router(self) -> Self {
        Self { mac: [2, 0, 0, 9, 0, 2], v4: Ipv4Addr::new(10, 99, 0, 1), ..self }
    }

    /// The next pod, by a link of the same Ethernet address.
    pub(crate) fn with_addresses_of(self, other: &Self) -> Self {
        Self { v4: other.v4, v6: other.v6, ..self }
    }
}

pub(crate) fn pod(lab: &Lab, name: &str) -> Pod {
    let number = lab.find(name).unwrap();
    let place = &lab.places()[number];
    let (Some(IpAddr::V4(v4)), Some(IpAddr::V6(v6))) = (place.address(Family::V4), place.address(Family::V6)) else {
        panic!("{name} has both")
    };
    let link = place.link_local().unwrap();
    let octets = link.octets();
    // As its link-local address is made of it.
    let mac = [octets[8] ^ 2, octets[9], octets[10], octets[13], octets[14], octets[15]];
    Pod { mac, v4, v6, link }
}

fn marked(number: u8) -> Vec<u8> {
    [MAGIC, &[number][..]].concat()
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// An IPv4 packet with a datagram, whose checksum of 0 is none.
pub(crate) fn datagram4(from: Ipv4Addr, to: Ipv4Addr, port: u16, number: u8) -> Vec<u8> {
    between4(from, to, [SOURCE, port], number)
}

fn between4(from: Ipv4Addr, to: Ipv4Addr, ports: [u16; 2], number: u8) -> Vec<u8> {
    let data = marked(number);
    let length = u16::try_from(8 + data.len()).unwrap();
    let mut header = vec![0x45, 0];
    header.extend((20 + length).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let checksum = sum(&header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header.extend(ports.into_iter().flat_map(u16::to_be_bytes));
    header.extend([length.to_be_bytes(), [0; 2]].concat());
    header.extend(data);
    header
}

/// An IPv6 packet, with its checksum `at` so many bytes into the payload, behind
/// `options` of destination options.
fn packet6(
    from: Ipv6Addr,
    to: Ipv6Addr,
    hops: u8,
    next: u8,
    at: usize,
    mut payload: Vec<u8>,
    options: bool,
) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let pseudo =
        [&from.octets()[..], &to.octets(), &[0, 0], &length.to_be_bytes(), &[0, 0, 0, next], &payload].concat();
    payload[at..at + 2].copy_from_slice(&sum(&pseudo).to_be_bytes());
    let (next, payload) =
        if options { (60, [vec![next, 0, 1, 4, 0, 0, 0, 0], payload].concat()) } else { (next, payload) };
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

fn datagram6(from: Ipv6Addr, to: Ipv6Addr, port: u16, number: u8) -> Vec<u8> {
    between6(from, to, [SOURCE, port], number)
}

fn between6(from: Ipv6Addr, to: Ipv6Addr, ports: [u16; 2], number: u8) -> Vec<u8> {
    let data = marked(number);
    let length = u16::try_from(8 + data.len()).unwrap();
    let [source, destination] = ports.map(u16::to_be_bytes);
    let payload = [&source[..], &destination, &length.to_be_bytes(), &[0; 2], &data].concat();
    packet6(from, to, 64, 17, 6, payload, false)
}

/// ICMPv6 of neighbour discovery with a target, and our mark in an option that no
/// receiver knows.
fn discovery(from: Ipv6Addr, to: Ipv6Addr, kind: u8, target: Ipv6Addr, number: u8, options: bool) -> Vec<u8> {
    let mut payload = vec![kind, 0, 0, 0, 0x60, 0, 0, 0];
    payload.extend(target.octets());
    if kind == 137 {
        payload.extend(to.octets());
    }
    payload.extend([253, 2]);
    payload.extend(marked(number));
    payload.resize(payload.len().next_multiple_of(8), 0);
    packet6(from, to, 255, 58, 2, payload, options)
}

/// An echo request from this address.
pub(crate) fn echo_request(source: Ipv6Addr, from: &Pod, to: &Pod) -> Vec<u8> {
    let payload = [&[128, 0, 0, 0, 0, 7, 0, 1][..], &marked(1)].concat();
    frame(to.mac, from.mac, &[IPV6], &packet6(source, to.v6, 64, 58, 2, payload, false))
}

/// A router advertisement of a default route.
fn advertisement(from: Ipv6Addr, number: u8, options: bool) -> Vec<u8> {
    let mut payload = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    payload.extend([253, 2]);
    payload.extend(marked(number));
    payload.resize(32, 0);
    packet6(from, ALL_NODES, 255, 58, 2, payload, options)
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// An ARP request, filled up to `length`.
pub(crate) fn arp(head: [u8; 6], mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr, number: u8, length: usize) -> Vec<u8> {
    let mut payload = [&head[..], &[0, 1], &mac, &from.octets(), &[0; 6], &to.octets(), &marked(number)].concat();
    payload.resize(length.max(payload.len()), 0);
    payload
}

pub(crate) const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

pub(crate) fn frame(to: [u8; 6], from: [u8; 6], types: &[u16], payload: &[u8]) -> Vec<u8> {
    let types: Vec<u8> = types.iter().flat_map(|kind| kind.to_be_bytes()).collect();
    let mut frame = [&to[..], &from, &types, payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// What iptables does not see, and what only routers send: from one pod to
/// another, each with its name.
pub(crate) fn foreign(from: &Pod, to: &Pod) -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<(&'static str, Vec<u8>)> = Vec::new();
    let mut number = 0;
    let mut next = || {
        number += 1;
        number
    };
    let ip = |number| datagram4(from.v4, to.v4, OTHER, number);
    let tags: [(&str, &[u16]); 7] = [
        ("802.1Q, id 0", &[0x8100, 0, IPV4]),
        ("802.1Q, id 0, twice", &[0x8100, 0, 0x8100, 0, IPV4]),
        ("802.1ad, id 0", &[0x88a8, 0, IPV4]),
        ("802.1ad and 802.1Q", &[0x88a8, 0, 0x8100, 0, IPV4]),
        ("802.1Q, id 7", &[0x8100, 7, IPV4]),
        ("MPLS", &[0x8847, 0, 0x0140]),
        ("PPPoE", &[0x8864, 0x1100, 1, 30, 0x0021]),
    ];
    for (name, types) in tags {
        all.push((name, frame(to.mac, from.mac, types, &ip(next()))));
    }
    let llc = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &ip(next())].concat();
    let length = u16::try_from(llc.len()).unwrap();
    all.push(("LLC", frame(to.mac, from.mac, &[length], &llc)));
    let tagged6 = datagram6(from.v6, to.v6, OTHER, next());
    all.push(("802.1Q, id 0, IPv6", frame(to.mac, from.mac, &[0x8100, 0, IPV6], &tagged6)));
    let mut of_arp = |name, head, length| {
        let arp = arp(head, from.mac, from.v4, to.v4, next(), length);
        all.push((name, frame(to.mac, from.mac, &[ARP], &arp)));
    };
    of_arp("ARP of 47 bytes", ETHERNET_IPV4, 47);
    of_arp("ARP of 1,400 bytes", ETHERNET_IPV4, 1_400);
    of_arp("ARP of another link", [0, 7, 8, 0, 6, 4], 46);
    of_arp("ARP of another protocol", [0, 1, 0x86, 0xdd, 6, 16], 46);
    of_arp("ARP with long addresses", [0, 1, 8, 0, 12, 4], 46);
    let many = [0x33, 0x33, 0, 0, 0, 1];
    for (name, options) in [("router advertisement", false), ("router advertisement behind options", true)] {
        all.push((name, frame(many, from.mac, &[IPV6], &advertisement(from.link, next(), options))));
    }
    for (name, options) in [("redirect", false), ("redirect behind options", true)] {
        let redirect = discovery(from.link, to.v6, 137, from.link, next(), options);
        all.push((name, frame(to.mac, from.mac, &[IPV6], &redirect)));
    }
    // In frames for one: to no address of its own.
    let [a, b, c, _] = to.v4.octets();
    let broadcast = datagram4(from.v4, Ipv4Addr::new(a, b, c, 255), OTHER, next());
    all.push(("subnet broadcast", frame(to.mac, from.mac, &[IPV4], &broadcast)));
    let mut other = to.v6.segments();
    other[7] ^= 0x5555;
    let other = datagram6(from.v6, Ipv6Addr::from(other), OTHER, next());
    all.push(("another IPv6 address", frame(to.mac, from.mac, &[IPV6], &other)));
    all
}

/// Packets that policies may admit to somewhere, in frames for another.
pub(crate) fn elsewhere(from: &Pod, to: &Pod) -> Vec<(&'static str, Vec<u8>)> {
    let (v4, v6) = (Ipv4Addr::new(192, 0, 2, 77), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 77));
    vec![
        ("IPv4", frame(to.mac, from.mac, &[IPV4], &datagram4(from.v4, v4, ADMITTED, 1))),
        ("IPv6", frame(to.mac, from.mac, &[IPV6], &datagram6(from.v6, v6, ADMITTED, 2))),
    ]
}

/// What a port is held to with `--anti-spoof`: what a pod sends as its neighbour.
pub(crate) fn as_neighbour(from: &Pod, to: &Pod, neighbour: &Pod) -> Vec<(&'static str, Vec<u8>)> {
    let arp = |mac, from, number| arp(ETHERNET_IPV4, mac, from, to.v4, number, 46);
    let none = Ipv6Addr::UNSPECIFIED;
    vec![
        ("IPv4", frame(to.mac, from.mac, &[IPV4], &datagram4(neighbour.v4, to.v4, ADMITTED, 1))),
        ("IPv6", frame(to.mac, from.mac, &[IPV6], &datagram6(neighbour.v6, to.v6, ADMITTED, 2))),
        ("MAC", frame(to.mac, neighbour.mac, &[IPV4], &datagram4(from.v4, to.v4, ADMITTED, 3))),
        ("ARP by address", frame(to.mac, from.mac, &[ARP], &arp(from.mac, neighbour.v4, 4))),
        ("ARP by MAC", frame(to.mac, from.mac, &[ARP], &arp(neighbour.mac, from.v4, 5))),
        ("NA", frame(to.mac, from.mac, &[IPV6], &discovery(from.v6, to.v6, 136, neighbour.v6, 6, false))),
        ("NA by link", frame(to.mac, from.mac, &[IPV6], &discovery(from.link, to.v6, 136, neighbour.v6, 7, true))),
        ("NS as it", frame(to.mac, from.mac, &[IPV6], &discovery(neighbour.v6, to.v6, 135, to.v6, 8, false))),
        ("DAD of it", frame(to.mac, from.mac, &[IPV6], &discovery(none, ALL_NODES, 135, neighbour.v6, 9, false))),
        ("unspecified", frame(to.mac, from.mac, &[IPV4], &datagram4([0; 4].into(), to.v4, ADMITTED, 10))),
        ("unspecified IPv6", frame(to.mac, from.mac, &[IPV6], &datagram6(none, to.v6, ADMITTED, 11))),
    ]
}

/// A neighbour advertisement in its neighbour's name, cut in two, so that its target is in
/// another fragment than its type.
pub(crate) fn in_two(from: &Pod, to: &Pod, neighbour: &Pod) -> [Vec<u8>; 2] {
    let whole = discovery(from.v6, to.v6, 136, neighbour.v6, 1, false);
    let (header, payload) = whole.split_at(40);
    let (first, rest) = payload.split_at(8);
    let fragment = |part: &[u8], offset: u16| {
        let mut packet = header.to_vec();
        let length = u16::try_from(8 + part.len()).unwrap();
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet[6] = 44;
        packet.extend([58, 0]);
        packet.extend(offset.to_be_bytes());
        packet.extend([0, 0, 7, 7]);
        packet.extend(part);
        frame(to.mac, from.mac, &[IPV6], &packet)
    };
    [fragment(first, 1), fragment(rest, 8)]
}

/// What a pod may always send.
pub(crate) fn own(from: &Pod, to: &Pod) -> Vec<(&'static str, Vec<u8>)> {
    let arp = |from_v4, number| arp(ETHERNET_IPV4, from.mac, from_v4, to.v4, number, 46);
    let none = Ipv6Addr::UNSPECIFIED;
    vec![
        ("IPv4", frame(to.mac, from.mac, &[IPV4], &datagram4(from.v4, to.v4, ADMITTED, 1))),
        ("IPv6", frame(to.mac, from.mac, &[IPV6], &datagram6(from.v6, to.v6, ADMITTED, 2))),
        ("ARP", frame([0xff; 6], from.mac, &[ARP], &arp(from.v4, 3))),
        ("ARP probe", frame([0xff; 6], from.mac, &[ARP], &arp([0; 4].into(), 4))),
        ("NS", frame(to.mac, from.mac, &[IPV6], &discovery(from.v6, to.v6, 135, to.v6, 5, false))),
        ("NS by link", frame(to.mac, from.mac, &[IPV6], &discovery(from.link, to.v6, 135, to.v6, 6, false))),
        ("NA", frame(to.mac, from.mac, &[IPV6], &discovery(from.v6, to.v6, 136, from.v6, 7, false))),
        (
            "DAD",
            frame([0x33, 0x33, 0, 0, 0, 1], from.mac, &[IPV6], &discovery(none, ALL_NODES, 135, from.v6, 8, false)),
        ),
    ]
}

/// What makes the denied flows of [`answers`] known to conntrack: frames for many, of
/// which the copy for the node is confirmed. First what one pod sends in the other's
/// name, then what the other sends itself.
pub(crate) fn openers(from: &Pod, to: &Pod) -> [Vec<Vec<u8>>; 2] {
    let reply = [OTHER, SOURCE];
    let all = [0xff; 6];
    let in_its_name = vec![
        frame(all, from.mac, &[IPV4], &between4(to.v4, from.v4, reply, 101)),
        frame([0x33, 0x33, 0, 0, 0, 1], from.mac, &[IPV6], &between6(to.v6, from.v6, reply, 102)),
    ];
    let its_own = vec![
        frame([1, 0, 0x5e, 0, 0, 251], to.mac, &[IPV4], &between4(to.v4, MANY4, reply, 103)),
        frame([0x33, 0x33, 0, 0, 0, 1], to.mac, &[IPV6], &between6(to.v6, ALL_NODES, reply, 104)),
    ];
    [in_its_name, its_own]
}

/// What is no answer to any packet that a policy let through.
pub(crate) fn answers(from: &Pod, to: &Pod) -> Vec<(&'static str, Vec<u8>)> {
    let ports = [SOURCE, OTHER];
    vec![
        ("IPv4", frame(to.mac, from.mac, &[IPV4], &between4(from.v4, to.v4, ports, 1))),
        ("IPv6", frame(to.mac, from.mac, &[IPV6], &between6(from.v6, to.v6, ports, 2))),
        ("IPv4 from many", frame(to.mac, from.mac, &[IPV4], &between4(MANY4, to.v4, ports, 3))),
        ("IPv6 from many", frame(to.mac, from.mac, &[IPV6], &between6(ALL_NODES, to.v6, ports, 4))),
    ]
}

const MANY4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// A pod's own frame that is always let in.
pub(crate) fn last(from: &Pod, to: &Pod) -> Vec<u8> {
    frame(to.mac, from.mac, &[IPV4], &datagram4(from.v4, to.v4, ADMITTED, LAST))
}
