//! What a frame is made of: typed, so that a list of exceptions can ask for the
//! parts, and printed whole, so that a person can read what arrived.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use npc_compiler::object::Family;

/// What every mark begins with; the number of the shape follows. Eight bytes,
/// so that a fragment of any size holds a whole one.
pub(super) const MAGIC: [u8; 4] = [0xf0, 0x5a, 0xed, 0x4e];

/// The Ethernet types of what pods may send.
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const ARP: u16 = 0x0806;

/// Protocol numbers (IANA, "Assigned Internet Protocol Numbers").
pub(crate) const ICMP: u8 = 1;
pub(crate) const IPIP: u8 = 4;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SIX_IN_FOUR: u8 = 41;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const GRE: u8 = 47;
pub(crate) const AH: u8 = 51;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const ETHER_IP: u8 = 97;
pub(crate) const MPLS_IN_IP: u8 = 137;

/// The types of ICMP errors: unreachable, source quench, redirect, time exceeded,
/// parameter problem. ICMPv6 has those below 128.
pub(crate) const ICMP_ERRORS: [u8; 5] = [3, 4, 5, 11, 12];

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All stations of a network.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it names a group of stations.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&bytes.join(":"))
    }
}

/// A frame, or the frames of one packet in fragments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The place that sends it.
    pub from: usize,
    /// The place that it is meant for; its addresses may name another.
    pub to: usize,
    /// The Ethernet source that it claims.
    pub source_mac: Mac,
    /// The station that gets it.
    pub destination_mac: Mac,
    /// VLAN tags, the outer first.
    pub tags: Vec<Tag>,
    /// What follows.
    pub body: Body,
}

/// A VLAN tag (IEEE 802.1Q, 802.1ad).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// Its Ethernet type: 0x8100, 0x88a8, 0x9100.
    pub ethertype: u16,
    /// Priority and drop eligibility, 4 bits.
    pub priority: u8,
    /// The VLAN, 12 bits.
    pub vlan: u16,
}

/// What an Ethernet frame carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// ARP, or what has its Ethernet type.
    Arp(Arp),
    /// A packet under the type of its family.
    Ip(Packet),
    /// A packet under a type of its own (MPLS, PPPoE, the other family's, …).
    Foreign(u16, Packet),
    /// A packet behind LLC: DSAP, SSAP, control, and SNAP's type.
    Llc([u8; 3], Option<u16>, Packet),
}

/// An ARP message (RFC 826).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arp {
    /// The hardware type; 1 is Ethernet.
    pub hardware: u16,
    /// The protocol type; 0x0800 is IPv4.
    pub protocol: u16,
    /// Lengths of a hardware and a protocol address.
    pub lengths: (u8, u8),
    /// 1 asks, 2 answers, others exist.
    pub operation: u16,
    /// The station whose addresses it gives.
    pub sender: (Mac, Ipv4Addr),
    /// The station whose addresses it asks for.
    pub target: (Mac, Ipv4Addr),
    /// Bytes after it.
    pub trailer: usize,
}

/// An IP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The source that it claims.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// Hop limit or TTL.
    pub hop_limit: u8,
    /// IPv4's options; whole words.
    pub options: Vec<u8>,
    /// IPv6's extension headers: the type and the content after the length.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// How it is cut.
    pub fragments: Fragments,
    /// The protocol that it carries.
    pub upper: Upper,
    /// How many bytes of marks end it.
    pub payload: usize,
    /// What is wrong with its header.
    pub damage: Damage,
}

/// What is wrong with a packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Nothing.
    None,
    /// The version that it claims.
    Version(u8),
    /// IPv4: how many words the header claims to have.
    Words(u8),
    /// So many bytes claimed more or less than there are.
    Length(i16),
    /// IPv4's checksum is wrong.
    Checksum,
}

impl Packet {
    /// Its family.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(&self.destination)
    }
}

/// How a packet is cut into fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragments {
    /// Not at all.
    Whole,
    /// A fragment header around the whole (RFC 6946); IPv4: "don't fragment".
    Atomic,
    /// The first one only, of this many bytes.
    First(usize),
    /// One from this offset on, in units of 8 bytes, with more to come or not.
    Later(u16, bool),
    /// All of them, of this many bytes each.
    All(usize),
    /// All of them, the last one first.
    Reversed(usize),
    /// All of them, each reaching 8 bytes into the next.
    Overlapping(usize),
}

/// What an IP packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upper {
    /// A datagram between ports.
    Udp(u16, u16),
    /// A segment between ports with these flags.
    Tcp(u16, u16, u8),
    /// ICMP or ICMPv6 by the packet's family: type, code and what it quotes.
    Icmp(u8, u8, Option<Quote>),
    /// A protocol number and nothing that we would know.
    Protocol(u8),
    /// A packet inside of another: the protocol number says how.
    Tunnel(u8, Box<Packet>),
    /// A packet inside of UDP to this port: VXLAN, Geneve, GUE, …
    UdpTunnel(u16, Box<Packet>),
}

/// The first bytes of a packet, as an ICMP error has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// TCP or UDP.
    pub protocol: u8,
    /// Where the quoted packet came from.
    pub source: SocketAddr,
    /// Where it went to.
    pub destination: SocketAddr,
}

impl Shape {
    /// The packet in it, however it is wrapped.
    #[must_use]
    pub const fn packet(&self) -> Option<&Packet> {
        match &self.body {
            Body::Arp(_) => None,
            Body::Ip(packet) | Body::Foreign(_, packet) | Body::Llc(_, _, packet) => Some(packet),
        }
    }

    /// The packet, if the frame is one that iptables gets: no tag, and the type of the packet's
    /// family.
    #[must_use]
    pub fn plain(&self) -> Option<&Packet> {
        self.untagged().filter(|_| self.tags.is_empty())
    }

    /// The packet for the station that gets the frame: Linux takes a tag of VLAN 0 off.
    #[must_use]
    pub fn delivered(&self) -> Option<&Packet> {
        let is_off = |tag: &Tag| tag.vlan == 0 && [0x8100, 0x88a8].contains(&tag.ethertype);
        self.untagged().filter(|_| self.tags.iter().all(is_off))
    }

    const fn untagged(&self) -> Option<&Packet> {
        match &self.body {
            Body::Ip(packet) => Some(packet),
            Body::Foreign(kind, packet) => match (*kind, packet.family()) {
                (IPV4, Family::V4) | (IPV6, Family::V6) => Some(packet),
                _ => None,
            },
            Body::Arp(_) | Body::Llc(..) => None,
        }
    }
}

/// What a shape can have, by which a test sees that every part of the grammar
/// leaves its sender.
pub const KINDS: [&str; 18] = [
    "arp",
    "foreign",
    "llc",
    "tag",
    "two tags",
    "options",
    "extension",
    "fragments",
    "atomic fragment",
    "udp",
    "tcp",
    "icmp error",
    "neighbour discovery",
    "icmp",
    "protocol",
    "tunnel",
    "udp tunnel",
    "group frame",
];

impl Shape {
    /// Which of the [`KINDS`] it has.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        let mut kinds = Vec::new();
        let mut add = |is: bool, kind| kinds.extend(is.then_some(kind));
        add(self.destination_mac.is_group(), "group frame");
        add(self.tags.len() == 1, "tag");
        add(self.tags.len() > 1, "two tags");
        add(matches!(self.body, Body::Arp(_)), "arp");
        add(matches!(self.body, Body::Llc(..)), "llc");
        add(matches!(self.body, Body::Foreign(..)) && self.untagged().is_none(), "foreign");
        let Some(packet) = self.plain() else { return kinds };
        add(!packet.options.is_empty(), "options");
        add(!packet.extensions.is_empty(), "extension");
        add(packet.fragments == Fragments::Atomic && packet.family() == Family::V6, "atomic fragment");
        add(!matches!(packet.fragments, Fragments::Whole | Fragments::Atomic), "fragments");
        kinds.push(match &packet.upper {
            Upper::Udp(..) => "udp",
            Upper::Tcp(..) => "tcp",
            Upper::Icmp(_, _, Some(_)) => "icmp error",
            Upper::Icmp(133..=137, ..) if packet.family() == Family::V6 => "neighbour discovery",
            Upper::Icmp(..) => "icmp",
            Upper::Protocol(_) => "protocol",
            Upper::Tunnel(..) => "tunnel",
            Upper::UdpTunnel(..) => "udp tunnel",
        });
        kinds
    }
}

impl Packet {
    /// The ICMP type and what is quoted, if it is ICMP.
    #[must_use]
    pub const fn icmp(&self) -> Option<(u8, Option<Quote>)> {
        match self.upper {
            Upper::Icmp(kind, _, quote) => Some((kind, quote)),
            _ => None,
        }
    }

    /// The protocol that connection tracking takes it for: the first header that
    /// is none of the extensions that it knows.
    #[must_use]
    pub fn tracked(&self) -> Option<u8> {
        let known = [0, ROUTING, FRAGMENT, AH, 60];
        let unknown = self.extensions.iter().map(|(kind, _)| *kind).find(|kind| !known.contains(kind));
        match self.upper {
            // The payload is read as such a header, and its first byte as the next.
            Upper::Protocol(kind) if self.family() == Family::V6 && known.contains(&kind) => unknown.or(Some(MAGIC[0])),
            _ => unknown,
        }
    }
}
