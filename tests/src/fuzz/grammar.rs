//! Random shapes. A seed and a number give one shape, independent of earlier shapes.
//!
//! Most parts of a shape are ordinary, so that what is odd in it is not hidden
//! behind something that drops it anyhow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fastrand::Rng;
use npc_compiler::object::Family;

use super::shape::{ARP, Arp, Body, IPV4, IPV6, Mac, Quote, Shape, Tag};
use super::world::{OUTSIDE, World};
use crate::lab::Mode;

/// Ethernet types that are none of IPv4, IPv6 and ARP: MPLS, PPPoE, RARP, LLDP,
/// EAPOL, MACsec, TRILL, ERSPAN, BATMAN, loopback, experiments.
const FOREIGN: [u16; 16] = [
    0x8847, 0x8848, 0x8863, 0x8864, 0x8035, 0x88cc, 0x888e, 0x88e5, 0x22f3, 0x88be, 0x4305, 0x9000, 0x88b5, 0x6558,
    0x894f, 0x0101,
];
/// Groups of stations: IPv4 and IPv6 multicast, spanning tree, LLDP, the like.
const GROUPS: [[u8; 6]; 6] = [
    [0x01, 0x00, 0x5e, 0, 0, 1],
    [0x33, 0x33, 0, 0, 0, 1],
    [0x01, 0x80, 0xc2, 0, 0, 0],
    [0x01, 0x80, 0xc2, 0, 0, 0x0e],
    [0x03, 0, 0, 0, 0, 1],
    [0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc],
];

/// Makes shapes for one world.
#[derive(Debug)]
pub(crate) struct Grammar<'w> {
    pub(crate) world: &'w World,
    pub(crate) flows: &'w [Quote],
    seed: u64,
}

impl<'w> Grammar<'w> {
    /// Shapes of this seed, which may name these flows.
    #[must_use]
    pub(crate) const fn new(world: &'w World, flows: &'w [Quote], seed: u64) -> Self {
        Self { world, flows, seed }
    }

    /// The shape of this number.
    #[must_use]
    pub(crate) fn shape(&self, index: u32) -> Shape {
        let mut rng = Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(index)));
        // The first numbers of neighbouring seeds are alike.
        rng.u64(..);
        let (from, to) = self.world.denied[rng.usize(..self.world.denied.len())];
        let (sender, target) = (&self.world.stations[from], &self.world.stations[to]);
        let way = if self.world.are_neighbours(from, to) { target.mac } else { sender.gateway };
        let destination_mac = match rng.u8(..20) {
            0 => Mac::BROADCAST,
            1 => Mac(GROUPS[rng.usize(..GROUPS.len())]),
            2 => sender.gateway,
            3 => self.world.stations[rng.usize(..self.world.stations.len())].mac,
            4 if rng.u8(..4) == 0 => Mac([2, 0, 0, 9, rng.u8(..), rng.u8(..)]),
            _ => way,
        };
        let source_mac = match rng.u8(..40) {
            0 => self.world.stations[rng.usize(..self.world.stations.len())].mac,
            1 => Mac([2, 0, 0, 8, rng.u8(..), rng.u8(..)]),
            _ => sender.mac,
        };
        let tags = self.tags(&mut rng);
        let body = self.body(&mut rng, from, to);
        Shape { from, to, source_mac, destination_mac, tags, body }.fit()
    }

    fn tags(&self, rng: &mut Rng) -> Vec<Tag> {
        let count = match (self.world.mode, rng.u8(..40)) {
            (_, 0) => 2,
            (_, 1) => 3,
            (Mode::Bridge, 2..=6) | (Mode::Routed, 2) => 1,
            _ => 0,
        };
        let tag = |rng: &mut Rng| Tag {
            ethertype: [0x8100, 0x8100, 0x88a8, 0x9100][rng.usize(..4)],
            priority: if rng.bool() { 0 } else { rng.u8(..16) },
            vlan: [0, 0, 1, 5, 4_095, rng.u16(..4_096)][rng.usize(..6)],
        };
        (0..count).map(|_| tag(rng)).collect()
    }

    fn body(&self, rng: &mut Rng, from: usize, to: usize) -> Body {
        let bridged = self.world.mode == Mode::Bridge;
        match rng.u8(..40) {
            0 | 1 if bridged => Body::Arp(self.arp(rng, from, to)),
            0 => Body::Arp(self.arp(rng, from, to)),
            2 | 3 if bridged => Body::Foreign(FOREIGN[rng.usize(..FOREIGN.len())], self.packet(rng, from, to)),
            3 => Body::Foreign(rng.u16(0x0600..), self.packet(rng, from, to)),
            4 => {
                // The other family's type, or ARP's.
                let kind = [IPV4, IPV6, ARP][rng.usize(..3)];
                Body::Foreign(kind, self.packet(rng, from, to))
            }
            5 | 6 if bridged || rng.u8(..4) == 0 => {
                let (llc, snap) = match rng.u8(..5) {
                    0 => ([0xaa, 0xaa, 3], Some(IPV4)),
                    1 => ([0xaa, 0xaa, 3], Some([IPV6, ARP, 0x8100][rng.usize(..3)])),
                    2 => ([0x42, 0x42, 3], None), // spanning tree
                    3 => ([0x06, 0x06, 3], None), // IP without SNAP
                    _ => ([rng.u8(..), rng.u8(..), rng.u8(..)], None),
                };
                Body::Llc(llc, snap, self.packet(rng, from, to))
            }
            _ => Body::Ip(self.packet(rng, from, to)),
        }
    }

    fn arp(&self, rng: &mut Rng, from: usize, to: usize) -> Arp {
        let v4 = |place: usize| match self.world.stations[place].address(Family::V4) {
            Some(IpAddr::V4(address)) => address,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let any = rng.usize(..self.world.stations.len());
        let mut arp = Arp {
            hardware: 1,
            protocol: IPV4,
            lengths: (6, 4),
            operation: [1, 2][rng.usize(..2)],
            sender: (self.world.stations[from].mac, v4(if rng.u8(..4) == 0 { any } else { from })),
            target: (self.world.stations[to].mac, v4(to)),
            trailer: [8, 16, 18, 18, 19, 100, 1_400][rng.usize(..7)],
        };
        match rng.u8(..8) {
            0 => arp.hardware = [0, 6, 24, 32, 0xffff][rng.usize(..5)],
            1 => arp.protocol = [IPV6, 0x8100, 0, rng.u16(..)][rng.usize(..4)],
            2 => arp.lengths = [(0, 0), (8, 4), (6, 16), (255, 255)][rng.usize(..4)],
            3 => arp.operation = [0, 3, 4, 8, 9, 23, rng.u16(..)][rng.usize(..7)],
            _ => {}
        }
        arp
    }

    /// Whether no other may send from an address. Those that are isolated for
    /// one direction only are not forged: an answer to such a packet would be
    /// part of a flow that they may have.
    pub(crate) fn is_never_forged(&self, source: IpAddr, from: usize) -> bool {
        let owner = self.world.owner(source).filter(|owner| *owner != from);
        owner.is_some_and(|owner| ["i", "e"].contains(&self.world.stations[owner].name.as_str()))
    }

    /// A source: mostly the sender's own.
    pub(crate) fn source(&self, rng: &mut Rng, from: usize, destination: IpAddr) -> IpAddr {
        let family = Family::of(&destination);
        let own = self.world.stations[from].address(family).unwrap_or(unspecified(family));
        match rng.u8(..24) {
            0 | 1 => {
                let place = rng.usize(..self.world.stations.len());
                self.world.stations[place].address(family).unwrap_or(own)
            }
            2 => self.node_of(from, family).unwrap_or(own),
            3 => destination,
            4 => unspecified(family),
            5 => outside(rng, family),
            6 => odd(rng, family),
            7 => self.world.stations[from].link_local.filter(|_| family == Family::V6).map_or(own, Into::into),
            _ => own,
        }
    }

    /// A destination: mostly the target's own.
    pub(crate) fn destination(&self, rng: &mut Rng, (from, to): (usize, usize), family: Family) -> IpAddr {
        let target = &self.world.stations[to];
        let own = target.address(family).unwrap_or(unspecified(family));
        match rng.u8(..24) {
            0 => match family {
                Family::V4 => self.world.subnet_broadcast(to).into(),
                Family::V6 => odd(rng, family),
            },
            1 => odd(rng, family),
            2 => target.link_local.filter(|_| family == Family::V6).map_or(own, Into::into),
            3 => self.node_of(to, family).unwrap_or(own),
            4 => {
                let mut services = self.world.service.iter().copied();
                services.find(|address| Family::of(address) == family).unwrap_or(own)
            }
            5 => {
                let place = rng.usize(..self.world.stations.len());
                self.world.stations[place].address(family).unwrap_or(own)
            }
            6 => self.node_of(from, family).unwrap_or(own),
            7 => outside(rng, family),
            _ => own,
        }
    }

    fn node_of(&self, place: usize, family: Family) -> Option<IpAddr> {
        let node = &self.world.stations[self.world.stations[place].node?];
        // On a bridge a node has a second address, the pods' gateway.
        node.addresses.iter().copied().rfind(|address| Family::of(address) == family)
    }

    /// A flow that an error can quote, or a packet can claim to be of: mostly
    /// one of the target's.
    pub(crate) fn flow(&self, rng: &mut Rng, (from, to): (usize, usize), family: Family) -> Quote {
        let of = |place: usize, flow: &Quote| {
            let owns = |at: SocketAddr| self.world.owner(at.ip()) == Some(place);
            Family::of(&flow.source.ip()) == family && (owns(flow.source) || owns(flow.destination))
        };
        let wanted = if rng.u8(..5) == 0 { from } else { to };
        let mut known: Vec<Quote> = self.flows.iter().copied().filter(|flow| of(wanted, flow)).collect();
        if known.is_empty() || rng.u8(..12) == 0 {
            known = self.flows.iter().copied().filter(|flow| Family::of(&flow.source.ip()) == family).collect();
        }
        let quote = known.get(rng.usize(..known.len().max(1))).copied();
        let nothing = SocketAddr::new(unspecified(family), 1);
        let quote = quote.unwrap_or(Quote { protocol: 17, source: nothing, destination: nothing });
        // An error about what the target sent, mostly; it may be of either direction.
        let sent = self.world.owner(quote.source.ip()) == Some(to);
        if sent == (rng.u8(..8) != 0) {
            return quote;
        }
        Quote { source: quote.destination, destination: quote.source, ..quote }
    }
}

pub(crate) const fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// An address of the outside.
fn outside(rng: &mut Rng, family: Family) -> IpAddr {
    let all: Vec<IpAddr> = OUTSIDE.iter().filter_map(|text| text.parse().ok()).collect();
    let of: Vec<IpAddr> = all.into_iter().filter(|address| Family::of(address) == family).collect();
    of[rng.usize(..of.len())]
}

/// Addresses that no set holds: broadcast, multicast, link-local, loopback,
/// mapped, of no host.
fn odd(rng: &mut Rng, family: Family) -> IpAddr {
    const V4: [[u8; 4]; 10] = [
        [255, 255, 255, 255],
        [224, 0, 0, 1],
        [224, 0, 0, 251],
        [239, 1, 2, 3],
        [169, 254, 1, 1],
        [169, 254, 7, 7],
        [127, 0, 0, 1],
        [0, 0, 0, 7],
        [240, 0, 0, 1],
        [10, 244, 0, 200],
    ];
    const V6: [&str; 10] = [
        "ff02::1",
        "ff02::2",
        "ff02::16",
        "ff02::1:ff00:4",
        "ff05::2",
        "ff0e::1",
        "fe80::1",
        "::1",
        "::ffff:10.244.0.5",
        "fd00:244::c8",
    ];
    match family {
        Family::V4 => V4[rng.usize(..V4.len())].into(),
        Family::V6 => V6[rng.usize(..V6.len())].parse().map_or(unspecified(family), IpAddr::V6),
    }
}
