//! From a shape to bytes. Lengths and checksums are right, so that it is the
//! shape that decides, and not a check of the kernel's.

use std::net::IpAddr;

use npc_compiler::object::Family;

use super::shape::{
    AH, ARP, Arp, Body, Damage, ETHER_IP, FRAGMENT, Fragments, GRE, ICMP, ICMPV6, IPIP, IPV4, IPV6, MAGIC, MPLS_IN_IP,
    Packet, Quote, SIX_IN_FOUR, Shape, TCP, UDP, Upper,
};
use crate::lab::ones_complement;

/// The longest frame without tags that a link of the lab takes.
const LONGEST: usize = 1_514;

/// The number of the shape whose mark stands in these bytes.
pub(crate) fn find_mark(bytes: &[u8]) -> Option<u32> {
    let at = bytes.windows(MAGIC.len()).position(|window| window == MAGIC)? + MAGIC.len();
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl Shape {
    /// Its frames, with this mark all over their payload.
    #[must_use]
    pub fn frames(&self, mark: u32) -> Vec<Vec<u8>> {
        let mut head = [self.destination_mac.0, self.source_mac.0].concat();
        for tag in &self.tags {
            head.extend(tag.ethertype.to_be_bytes());
            head.extend((u16::from(tag.priority & 0xf) << 12 | tag.vlan & 0xfff).to_be_bytes());
        }
        let with = |inner: &[u8], packet: Vec<u8>| [head.as_slice(), inner, packet.as_slice()].concat();
        match &self.body {
            Body::Arp(arp) => vec![with(&ARP.to_be_bytes(), arp.bytes(mark))],
            Body::Ip(packet) => {
                let kind = if packet.family() == Family::V4 { IPV4 } else { IPV6 };
                packet.packets(mark).into_iter().map(|bytes| with(&kind.to_be_bytes(), bytes)).collect()
            }
            Body::Foreign(kind, packet) => {
                let wrapped = packet.packets(mark).into_iter().map(|bytes| {
                    let mut inner = kind.to_be_bytes().to_vec();
                    inner.extend(shim(*kind, packet.family(), bytes.len()));
                    with(&inner, bytes)
                });
                wrapped.collect()
            }
            Body::Llc(llc, snap, packet) => {
                let wrapped = packet.packets(mark).into_iter().map(|bytes| {
                    let snap = snap.map(|kind| [[0; 3].as_slice(), &kind.to_be_bytes()].concat()).unwrap_or_default();
                    let length = u16::try_from(llc.len() + snap.len() + bytes.len()).unwrap_or_default();
                    with(&[length.to_be_bytes().as_slice(), llc, &snap].concat(), bytes)
                });
                wrapped.collect()
            }
        }
    }

    /// Shortens it to what a link takes.
    #[must_use]
    pub fn fit(mut self) -> Self {
        let longest = self.frames(0).iter().map(|frame| frame.len() - 4 * self.tags.len()).max().unwrap_or_default();
        let excess = longest.saturating_sub(LONGEST).next_multiple_of(8);
        match &mut self.body {
            Body::Arp(arp) => arp.trailer = arp.trailer.saturating_sub(excess),
            Body::Ip(packet) | Body::Foreign(_, packet) | Body::Llc(_, _, packet) => {
                let innermost = match &mut packet.upper {
                    Upper::Tunnel(_, inner) | Upper::UdpTunnel(_, inner) => inner,
                    _ => packet,
                };
                innermost.payload = innermost.payload.saturating_sub(excess).max(8);
            }
        }
        self
    }
}

/// What stands between a foreign Ethernet type and the packet.
fn shim(kind: u16, family: Family, length: usize) -> Vec<u8> {
    match kind {
        // MPLS: one label, the explicit null of the family, bottom of the stack.
        0x8847 | 0x8848 => vec![0, 0, if family == Family::V4 { 1 } else { 0x21 }, 64],
        // PPPoE: session 1, the family's PPP protocol.
        0x8864 => {
            let length = u16::try_from(length + 2).unwrap_or_default().to_be_bytes();
            let ppp = if family == Family::V4 { 0x21 } else { 0x57 };
            vec![0x11, 0, 0, 1, length[0], length[1], 0, ppp]
        }
        _ => Vec::new(),
    }
}

fn marks(length: usize, mark: u32) -> Vec<u8> {
    let unit = [MAGIC, mark.to_be_bytes()].concat();
    unit.into_iter().cycle().take(length).collect()
}

impl Arp {
    fn bytes(&self, mark: u32) -> Vec<u8> {
        let mut bytes = [self.hardware.to_be_bytes(), self.protocol.to_be_bytes()].concat();
        bytes.extend([self.lengths.0, self.lengths.1]);
        bytes.extend(self.operation.to_be_bytes());
        for (mac, address) in [self.sender, self.target] {
            bytes.extend(mac.0);
            bytes.extend(address.octets());
        }
        bytes.extend(marks(self.trailer, mark));
        bytes
    }
}

impl Packet {
    /// Its packets on the wire: one, or its fragments.
    fn packets(&self, mark: u32) -> Vec<Vec<u8>> {
        let (protocol, upper) = self.upper(mark);
        match self.family() {
            Family::V4 => self.cut(&upper).into_iter().map(|cut| self.v4(protocol, &cut)).collect(),
            Family::V6 => self.v6(protocol, &upper),
        }
    }

    fn whole(&self, mark: u32) -> Vec<u8> {
        self.packets(mark).into_iter().next().unwrap_or_default()
    }

    fn cut<'b>(&self, bytes: &'b [u8]) -> Vec<Cut<'b>> {
        let all = |size: usize, overlap: usize| {
            let size = size.max(8).next_multiple_of(8);
            let at = (0..bytes.len()).step_by(size);
            let cut = at.map(|from| {
                let to = (from + size + overlap).min(bytes.len());
                Cut { offset: from / 8, more: from + size < bytes.len(), bytes: &bytes[from..to], is_fragment: true }
            });
            cut.collect::<Vec<_>>()
        };
        match self.fragments {
            Fragments::Whole => vec![Cut { offset: 0, more: false, bytes, is_fragment: false }],
            Fragments::Atomic => vec![Cut { offset: 0, more: false, bytes, is_fragment: true }],
            Fragments::First(size) => {
                let size = (size.max(8) / 8 * 8).min(bytes.len());
                vec![Cut { offset: 0, more: true, bytes: &bytes[..size], is_fragment: true }]
            }
            Fragments::Later(offset, more) => {
                let end = if more { bytes.len() / 8 * 8 } else { bytes.len() };
                vec![Cut { offset: usize::from(offset), more, bytes: &bytes[..end], is_fragment: true }]
            }
            Fragments::All(size) => all(size, 0),
            Fragments::Reversed(size) => all(size, 0).into_iter().rev().collect(),
            Fragments::Overlapping(size) => all(size, 8),
        }
    }

    fn v4(&self, protocol: u8, cut: &Cut<'_>) -> Vec<u8> {
        let words = u8::try_from(5 + self.options.len() / 4).unwrap_or(15).min(15);
        let options = &self.options[..usize::from(words - 5) * 4];
        let length = u16::try_from(usize::from(words) * 4 + cut.bytes.len()).unwrap_or(u16::MAX);
        let dont = u16::from(self.fragments == Fragments::Atomic) << 14;
        let offset = u16::try_from(cut.offset).unwrap_or_default() & 0x1fff;
        let mut header = vec![0x40 | words, 0];
        header.extend(length.to_be_bytes());
        header.extend(self.identification().to_be_bytes());
        header.extend((dont | u16::from(cut.more) << 13 | offset).to_be_bytes());
        header.extend([self.hop_limit, protocol, 0, 0]);
        header.extend(octets(self.source));
        header.extend(octets(self.destination));
        header.extend(options);
        self.damage(&mut header, 2);
        let sum = ones_complement(&header);
        let sum = if self.damage == Damage::Checksum { !sum } else { sum };
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [header.as_slice(), cut.bytes].concat()
    }

    fn v6(&self, protocol: u8, upper: &[u8]) -> Vec<Vec<u8>> {
        // What comes before a fragment header stays in each fragment (RFC 8200,
        // section 4.5); a list that has its own fragment header is left as it is.
        let mut chain = Vec::new();
        for (index, (kind, content)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(index + 1).map_or(FRAGMENT, |(kind, _)| *kind);
            chain.push((*kind, next, content.as_slice()));
        }
        self.cut(upper)
            .into_iter()
            .map(|cut| {
                let last = if cut.is_fragment { FRAGMENT } else { protocol };
                let mut inner = Vec::new();
                for (index, (kind, next, content)) in chain.iter().enumerate() {
                    let next = if index + 1 == chain.len() { last } else { *next };
                    inner.extend(extension(*kind, next, content));
                }
                if cut.is_fragment {
                    let offset = u16::try_from(cut.offset << 3).unwrap_or_default() | u16::from(cut.more);
                    inner.extend([protocol, 0]);
                    inner.extend(offset.to_be_bytes());
                    inner.extend(u32::from(self.identification()).to_be_bytes());
                }
                inner.extend(cut.bytes);
                let first = chain.first().map_or(last, |(kind, ..)| *kind);
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend(u16::try_from(inner.len()).unwrap_or(u16::MAX).to_be_bytes());
                packet.extend([first, self.hop_limit]);
                packet.extend(octets(self.source));
                packet.extend(octets(self.destination));
                self.damage(&mut packet, 4);
                packet.extend(inner);
                packet
            })
            .collect()
    }

    /// Writes what is wrong into a header whose length stands here.
    fn damage(&self, header: &mut [u8], length: usize) {
        match self.damage {
            Damage::Version(version) => header[0] = version << 4 | header[0] & 0xf,
            Damage::Words(words) => header[0] = header[0] & 0xf0 | words,
            Damage::Length(more) => {
                let claimed = u16::from_be_bytes([header[length], header[length + 1]]).wrapping_add_signed(more);
                // The least number stands for none at all, as of a jumbogram.
                let claimed = if more == i16::MIN { 0 } else { claimed };
                header[length..length + 2].copy_from_slice(&claimed.to_be_bytes());
            }
            Damage::None | Damage::Checksum => {}
        }
    }

    /// The same for all fragments of a packet, and another for most others.
    fn identification(&self) -> u16 {
        let bytes = format!("{:?}{}", self.upper, self.payload);
        ones_complement(bytes.as_bytes()) | 1
    }

    /// What follows the IP header, and its protocol number.
    fn upper(&self, mark: u32) -> (u8, Vec<u8>) {
        let payload = marks(self.payload, mark);
        match &self.upper {
            Upper::Udp(from, to) => (UDP, self.udp((*from, *to), &payload)),
            Upper::UdpTunnel(to, inner) => {
                let inner = [udp_shim(*to, inner.family()), inner.whole(mark)].concat();
                (UDP, self.udp((40_000, *to), &inner))
            }
            Upper::Tcp(from, to, flags) => {
                let mut segment = [from.to_be_bytes(), to.to_be_bytes()].concat();
                segment.extend(mark.to_be_bytes()); // sequence number
                segment.extend((!mark).to_be_bytes()); // acknowledged
                segment.extend([0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                segment.extend(payload);
                let sum = self.pseudo_checksum(TCP, &segment);
                segment[16..18].copy_from_slice(&sum.to_be_bytes());
                (TCP, segment)
            }
            Upper::Icmp(kind, code, quote) => {
                let mut message = vec![*kind, *code, 0, 0];
                message.extend([0, 0, 5, 0]); // an identifier, or an MTU of 1280
                if let Some(quote) = quote {
                    message.extend(quote.bytes());
                } else if self.family() == Family::V6 && (133..=137).contains(kind) {
                    message.extend(octets(self.source)); // a target
                }
                message.extend(payload);
                let (protocol, sum) = match self.family() {
                    Family::V4 => (ICMP, ones_complement(&message)),
                    Family::V6 => (ICMPV6, self.pseudo_checksum(ICMPV6, &message)),
                };
                message[2..4].copy_from_slice(&sum.to_be_bytes());
                (protocol, message)
            }
            Upper::Protocol(number) => (*number, payload),
            Upper::Tunnel(number, inner) => {
                let kind = if inner.family() == Family::V4 { IPV4 } else { IPV6 };
                let shim = match *number {
                    GRE => [[0, 0], kind.to_be_bytes()].concat(),
                    ETHER_IP => [[0x30, 0].as_slice(), &[0x02; 12], &kind.to_be_bytes()].concat(),
                    MPLS_IN_IP => shim(0x8847, inner.family(), 0),
                    IPIP | SIX_IN_FOUR => Vec::new(),
                    _ => vec![0; 4],
                };
                (*number, [shim, inner.whole(mark)].concat())
            }
        }
    }

    fn udp(&self, (from, to): (u16, u16), payload: &[u8]) -> Vec<u8> {
        let mut datagram = [from.to_be_bytes(), to.to_be_bytes()].concat();
        datagram.extend(u16::try_from(8 + payload.len()).unwrap_or(u16::MAX).to_be_bytes());
        datagram.extend([0; 2]);
        datagram.extend(payload);
        let sum = match self.pseudo_checksum(UDP, &datagram) {
            0 => 0xffff,
            sum => sum,
        };
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        datagram
    }

    fn pseudo_checksum(&self, protocol: u8, bytes: &[u8]) -> u16 {
        let mut all = [octets(self.source), octets(self.destination)].concat();
        all.extend([0, protocol]);
        all.extend(u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
        if all.len() % 2 == 1 {
            all.push(0);
        }
        all.extend(bytes);
        ones_complement(&all)
    }
}

/// What stands between UDP and the packet inside of it, by port.
fn udp_shim(port: u16, family: Family) -> Vec<u8> {
    let kind = if family == Family::V4 { IPV4 } else { IPV6 }.to_be_bytes();
    let ethernet = [[0x02; 12].as_slice(), &kind].concat();
    match port {
        4_789 | 8_472 => [[8, 0, 0, 0, 0, 0, 1, 0].as_slice(), &ethernet].concat(),
        6_081 => [[0, 0, 0x65, 0x58, 0, 0, 1, 0].as_slice(), &ethernet].concat(),
        _ => Vec::new(),
    }
}

/// A piece of a packet's content.
struct Cut<'b> {
    offset: usize,
    more: bool,
    bytes: &'b [u8],
    is_fragment: bool,
}

/// An extension header with its content, filled up to whole units (RFC 8200,
/// section 4; AH counts in words, RFC 4302, section 2.2).
fn extension(kind: u8, next: u8, content: &[u8]) -> Vec<u8> {
    let mut header = vec![next, 0];
    header.extend(content);
    if kind == FRAGMENT {
        header.resize(8, 0);
        return header;
    }
    header.resize(header.len().next_multiple_of(8).max(8), 0);
    let units = if kind == AH { header.len() / 4 - 2 } else { header.len() / 8 - 1 };
    header[1] = u8::try_from(units).unwrap_or_default();
    header
}

impl Quote {
    /// A packet's header and eight bytes or more of what it carried.
    fn bytes(&self) -> Vec<u8> {
        let mut ports = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()].concat();
        ports.extend([0, 64, 0, 0]);
        if self.protocol == TCP {
            ports.extend([0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        }
        let mut header;
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(_), _) => {
                header = vec![0x45, 0, 0, 84, 0, 1, 0, 0, 64, self.protocol, 0, 0];
                header.extend(octets(self.source.ip()));
                header.extend(octets(self.destination.ip()));
                let sum = ones_complement(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(_), _) => {
                header = vec![0x60, 0, 0, 0, 0, 64, self.protocol, 64];
                header.extend(octets(self.source.ip()));
                header.extend(octets(self.destination.ip()));
            }
        }
        header.extend(ports);
        header
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::net::SocketAddr;

    use super::super::shape::Mac;
    use super::*;

    fn packet(family: Family, upper: Upper) -> Packet {
        let (source, destination) = match family {
            Family::V4 => ("192.0.2.1", "198.51.100.2"),
            Family::V6 => ("2001:db8::1", "2001:db8::2"),
        };
        Packet {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            hop_limit: 64,
            options: Vec::new(),
            extensions: Vec::new(),
            fragments: Fragments::Whole,
            upper,
            payload: 1_600,
            damage: Damage::None,
        }
    }

    fn shape(packet: Packet) -> Shape {
        let (one, other) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        Shape { from: 0, to: 1, source_mac: one, destination_mac: other, tags: Vec::new(), body: Body::Ip(packet) }
    }

    #[test]
    fn every_fragment_bears_the_mark_and_fits_a_link() {
        for family in Family::ALL {
            for fragments in [Fragments::Whole, Fragments::All(8), Fragments::Reversed(48), Fragments::Overlapping(512)]
            {
                let shape = shape(Packet { fragments, ..packet(family, Upper::Udp(4_000, 53)) }).fit();
                let frames = shape.frames(0xdead_beef);
                assert!(frames.iter().all(|frame| frame.len() <= LONGEST), "{fragments:?}");
                // The first one of eight bytes has the header of UDP only.
                let marked = frames.iter().filter(|frame| find_mark(frame) == Some(0xdead_beef)).count();
                assert!(marked + 1 >= frames.len() && marked > 0, "{fragments:?}: {marked} of {}", frames.len());
            }
        }
    }

    #[test]
    fn checksums_come_out_as_zero_when_summed_again() {
        let quote = |from: &str, to: &str| {
            let (source, destination): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            Some(Quote { protocol: UDP, source, destination })
        };
        let error = Upper::Icmp(3, 4, quote("198.51.100.2:53", "192.0.2.1:4000"));
        let v4 = shape(Packet { payload: 8, ..packet(Family::V4, error) }).frames(7).remove(0);
        assert_eq!([ones_complement(&v4[14..34]), ones_complement(&v4[34..]), ones_complement(&v4[42..62])], [0; 3]);
        let error = Upper::Icmp(2, 0, quote("[2001:db8::2]:53", "[2001:db8::1]:4000"));
        let v6 = shape(Packet { payload: 8, ..packet(Family::V6, error) }).frames(7).remove(0);
        let length = u16::try_from(v6.len() - 54).unwrap().to_be_bytes();
        assert_eq!(ones_complement(&[&v6[22..54], &[0, ICMPV6], &length, &v6[54..]].concat()), 0);
    }

    #[test]
    fn extension_headers_lead_to_each_other() {
        let extensions = vec![(0, vec![1, 4, 0, 0, 0, 0]), (AH, vec![0; 14]), (FRAGMENT, vec![0; 6])];
        let frame = shape(Packet { extensions, ..packet(Family::V6, Upper::Udp(1, 2)) }).fit().frames(7).remove(0);
        assert_eq!(frame[20], 0, "hop-by-hop comes first");
        assert_eq!((frame[54], frame[55]), (AH, 0));
        assert_eq!((frame[62], frame[63]), (FRAGMENT, 2));
        assert_eq!(frame[78], UDP);
        assert_eq!(frame[86..88], 1_u16.to_be_bytes());
    }
}
