//! Packets that no honest socket sends, whole with their IP headers.

use std::net::{IpAddr, SocketAddr};

/// What distinguishes our packets from others: a word and the number of the packet.
const WORD: &[u8; 7] = b"npcicmp";

/// How long a [`tag`] is.
const TAG: usize = WORD.len() + 1;

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;

/// What stands at the end of a packet of ours.
pub(crate) fn tag(number: u8) -> [u8; TAG] {
    let mut tag = [number; TAG];
    tag[..WORD.len()].copy_from_slice(WORD);
    tag
}

/// The number of a packet of ours, wherever its header ends.
pub(crate) fn number(bytes: &[u8]) -> Option<u8> {
    let at = bytes.windows(WORD.len()).rposition(|window| window == WORD)?;
    bytes.get(at + WORD.len()).copied()
}

/// What stands between the IPv6 header and ICMPv6, or among IPv4's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Between {
    /// Nothing.
    Nothing,
    /// IPv4: options that do nothing.
    Options,
    /// IPv6: destination options with this address where a header without them
    /// would quote a packet's destination.
    Extension(IpAddr),
}

/// An ICMP message of this type (v6: of ICMPv6), of this many bytes with the IP
/// header, which ends in a tag. `body` follows the checksum.
#[derive(Debug, Clone)]
pub(crate) struct Icmp<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hop_limit: u8,
    pub(crate) kind: u8,
    pub(crate) body: &'a [u8],
    pub(crate) between: Between,
    pub(crate) length: usize,
}

impl Icmp<'_> {
    pub(crate) fn build(&self, tagged: u8) -> Vec<u8> {
        let header = self.header();
        let mut message = vec![self.kind, 0, 0, 0];
        message.extend(self.body);
        message.resize(self.length - header.len() - TAG, 0);
        message.extend(tag(tagged));
        let checksum = match self.source {
            IpAddr::V4(_) => checksum(&message),
            IpAddr::V6(_) => {
                checksum(&[pseudo(self.source, self.destination, ICMPV6, message.len()), message.clone()].concat())
            }
        };
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        [header, message].concat()
    }

    fn header(&self) -> Vec<u8> {
        let (between, next) = match self.between {
            Between::Nothing => (Vec::new(), if self.source.is_ipv4() { ICMP } else { ICMPV6 }),
            Between::Options => (vec![1, 1, 1, 0], ICMP),
            Between::Extension(address) => {
                // An option that is to be passed over, with 44 bytes.
                let mut header = vec![ICMPV6, 5, 0x1e, 44];
                header.resize(32, 0);
                header.extend(octets(address));
                (header, DESTINATION_OPTIONS)
            }
        };
        let mut header = ip_header(self.source, self.destination, next, self.hop_limit, self.length);
        header[0] += u8::from(self.between == Between::Options);
        header.extend(between);
        header
    }
}

/// The packet that an error quotes: the begin of a datagram.
pub(crate) fn quoted(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut packet = ip_header(source.ip(), destination.ip(), UDP, 60, 1_300);
    if source.is_ipv4() {
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet.extend(source.port().to_be_bytes());
    packet.extend(destination.port().to_be_bytes());
    packet.extend([4, 0, 0, 0]);
    packet
}

/// A datagram that ends in a tag.
pub(crate) fn datagram(source: SocketAddr, destination: SocketAddr, tagged: u8) -> Vec<u8> {
    let length = 8 + TAG;
    let mut datagram = Vec::new();
    datagram.extend(source.port().to_be_bytes());
    datagram.extend(destination.port().to_be_bytes());
    datagram.extend(u16::try_from(length).unwrap().to_be_bytes());
    datagram.extend([0; 2]);
    datagram.extend(tag(tagged));
    let sum = checksum(&[pseudo(source.ip(), destination.ip(), UDP, length), datagram.clone()].concat());
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    let least = if source.is_ipv4() { 20 } else { 40 };
    [ip_header(source.ip(), destination.ip(), UDP, 64, least + length), datagram].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// IPv4's checksum is left to the kernel.
fn ip_header(source: IpAddr, destination: IpAddr, next: u8, hop_limit: u8, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).unwrap();
    let mut header = if source.is_ipv4() {
        let mut header = vec![0x45, 0];
        header.extend(length.to_be_bytes());
        header.extend([0, 0, 0, 0, hop_limit, next, 0, 0]);
        header
    } else {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend((length - 40).to_be_bytes());
        header.extend([next, hop_limit]);
        header
    };
    header.extend(octets(source));
    header.extend(octets(destination));
    header
}

/// What checksums cover besides (RFC 768; RFC 8200, section 8.1).
fn pseudo(source: IpAddr, destination: IpAddr, next: u8, length: usize) -> Vec<u8> {
    let mut pseudo = [octets(source), octets(destination)].concat();
    pseudo.extend(u32::try_from(length).unwrap().to_be_bytes());
    pseudo.extend([0, 0, 0, next]);
    pseudo
}

/// The checksum of IP, UDP and ICMP (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
