//! Packets: what a probe carries, and the packets that no socket makes for us
//! (SCTP INIT, echo requests, datagrams with a forged source).

use std::net::{IpAddr, SocketAddr};

use npc_compiler::object::Family;

/// Marks our packets, so that they are known from others.
const MAGIC: &[u8; 8] = b"npc-lab\x01";
/// The length of a probe's mark.
pub(super) const MARK: usize = MAGIC.len() + 4;

/// The IP protocol numbers that the lab speaks.
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;
pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;
/// A packet with its IP header, of any protocol.
pub(super) const RAW: u8 = 255;

/// What a probe carries: it says which one it is.
pub(super) fn mark(id: u32) -> [u8; MARK] {
    let mut mark = [0; MARK];
    mark[..MAGIC.len()].copy_from_slice(MAGIC);
    mark[MAGIC.len()..].copy_from_slice(&id.to_be_bytes());
    mark
}

/// The probe whose mark stands in these bytes.
pub(super) fn find_mark(bytes: &[u8]) -> Option<u32> {
    let at = bytes.windows(MAGIC.len()).position(|window| window == MAGIC)? + MAGIC.len();
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An SCTP packet with one INIT chunk, as opens an association. The mark rides
/// in a padding parameter (RFC 4820).
pub(super) fn sctp_init(source: u16, destination: u16, id: u32) -> Vec<u8> {
    let padding = u16::try_from(4 + MARK).unwrap_or_default();
    let mut packet = Vec::with_capacity(64);
    packet.extend(source.to_be_bytes());
    packet.extend(destination.to_be_bytes());
    packet.extend([0; 8]); // verification tag 0: it opens an association; checksum comes below
    packet.extend([1, 0]); // INIT, no flags
    packet.extend((20 + padding).to_be_bytes());
    packet.extend((id | 1).to_be_bytes()); // initiate tag, never 0
    packet.extend(65_535_u32.to_be_bytes()); // receiver window
    packet.extend(1_u16.to_be_bytes()); // outbound streams
    packet.extend(1_u16.to_be_bytes()); // inbound streams
    packet.extend(id.to_be_bytes()); // first TSN
    packet.extend(0x8005_u16.to_be_bytes()); // padding
    packet.extend(padding.to_be_bytes());
    packet.extend(mark(id));
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

/// Whether an SCTP packet's checksum is right, translated addresses and all.
pub(super) fn sctp_is_sound(packet: &[u8]) -> bool {
    let Some(checksum) = packet.get(8..12) else { return false };
    let mut zeroed = packet.to_vec();
    zeroed[8..12].fill(0);
    crc32c(&zeroed).to_le_bytes() == checksum
}

/// An echo request of either family. The kernel fills in ICMPv6's checksum,
/// which covers addresses that only it knows.
pub(super) fn echo_request(family: Family, id: u32) -> Vec<u8> {
    let kind = match family {
        Family::V4 => 8,
        Family::V6 => 128,
    };
    let identifier = u16::try_from(id & 0xffff).unwrap_or_default();
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend(1_u16.to_be_bytes());
    packet.extend(mark(id));
    if family == Family::V4 {
        let checksum = ones_complement(&packet);
        packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

/// Whether an ICMP message is an echo request.
pub(super) fn is_echo_request(family: Family, message: &[u8]) -> bool {
    message.first() == Some(if family == Family::V4 { &8 } else { &128 })
}

/// What follows the IP header, which IPv4 raw sockets deliver and IPv6 ones do
/// not.
pub(super) fn past_header(family: Family, packet: &[u8]) -> &[u8] {
    match family {
        Family::V6 => packet,
        Family::V4 => {
            let words = packet.first().map_or(0, |first| usize::from(first & 0x0f));
            packet.get(words * 4..).unwrap_or_default()
        }
    }
}

/// A whole IP packet with a UDP datagram from `source`, which may be forged, and
/// this in the DSCP field. `None` where the families differ.
pub(super) fn forged_datagram(source: SocketAddr, destination: SocketAddr, dscp: u8, id: u32) -> Option<Vec<u8>> {
    datagram(source, destination, dscp, &mark(id))
}

/// A whole IP packet with a UDP datagram of any message, which is not marked. `None` if the families differ.
#[must_use]
pub fn whole_datagram(source: SocketAddr, destination: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
    datagram(source, destination, 0, message)
}

fn datagram(source: SocketAddr, destination: SocketAddr, dscp: u8, message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(8 + message.len()).ok()?;
    let mut datagram = Vec::with_capacity(usize::from(length));
    datagram.extend(source.port().to_be_bytes());
    datagram.extend(destination.port().to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0; 2]);
    datagram.extend(message);
    let (mut pseudo, header) = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let mut header = vec![0x45, dscp << 2];
            header.extend((20 + length).to_be_bytes());
            header.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
            header.extend(&addresses);
            let checksum = ones_complement(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            (addresses, header)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let mut header = vec![0x60 | dscp >> 2, dscp << 6, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([UDP, 64]);
            header.extend(&addresses);
            (addresses, header)
        }
        _ => return None,
    };
    pseudo.extend([0, UDP]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend(&datagram);
    let checksum = match ones_complement(&pseudo) {
        0 => 0xffff,
        checksum => checksum,
    };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    Some([header, datagram].concat())
}

/// The checksum of IP, UDP and ICMP (RFC 1071).
#[must_use]
pub fn ones_complement(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The checksum of SCTP (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_rfc_3720_examples() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn an_init_is_sound_and_bears_its_mark() {
        let packet = sctp_init(4711, 9999, 0xdead_beef);
        assert!(sctp_is_sound(&packet));
        assert_eq!(packet.len() % 4, 0);
        assert_eq!(find_mark(&packet), Some(0xdead_beef));
        let mut broken = packet;
        broken[20] ^= 1;
        assert!(!sctp_is_sound(&broken));
    }

    #[test]
    fn checksums_come_out_as_zero_when_summed_again() {
        assert_eq!(ones_complement(&echo_request(Family::V4, 7)), 0);
        let from = "192.0.2.1:5".parse().unwrap();
        let packet = forged_datagram(from, "198.51.100.2:53".parse().unwrap(), 1, 9).unwrap();
        assert_eq!(ones_complement(&packet[..20]), 0);
        assert_eq!(find_mark(past_header(Family::V4, &packet)), Some(9));
        assert_eq!(forged_datagram(from, "[2001:db8::1]:53".parse().unwrap(), 1, 9), None);
    }

    #[test]
    fn other_bytes_hold_no_mark() {
        assert_eq!(find_mark(b"GET / HTTP/1.1"), None);
        assert_eq!(find_mark(&mark(3)[..10]), None);
    }
}
