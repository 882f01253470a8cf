//! CIDR text as the API server has always read it, before it became strict:
//! Go's `net.ParseCIDR` of 1.16 with `net.IPNet.Contains`. Stored objects
//! still hold what it let in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A block of addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its first address.
    pub first: IpAddr,
    /// The bits of the address that are fixed.
    pub length: u8,
}

impl Block {
    /// Reads `ADDRESS/LENGTH`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let length = decimal(length)?;
        if let Some(octets) = ipv4(address) {
            return (length <= 32).then(|| Self::masked(IpAddr::from(octets), length));
        }
        let octets = ipv6(address)?;
        if length > 128 {
            return None;
        }
        // `IPNet.Contains` takes a network whose masked address is an
        // IPv4-mapped one for an IPv4 network.
        Some(match Ipv6Addr::from(octets).to_ipv4_mapped() {
            Some(mapped) if length >= 96 => Self::masked(IpAddr::V4(mapped), length - 96),
            _ => Self::masked(IpAddr::from(octets), length),
        })
    }

    /// Whether the address is in the block; never for another family.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                Self::masked(address, u32::from(self.length)).first == self.first
            }
            _ => false,
        }
    }

    /// Its last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => {
                let hosts = u32::MAX.checked_shr(self.length.into()).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() | hosts))
            }
            IpAddr::V6(first) => {
                let hosts = u128::MAX.checked_shr(self.length.into()).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | hosts))
            }
        }
    }

    /// The block around an address: bits from `length` on become zero.
    fn masked(address: IpAddr, length: u32) -> Self {
        let first = match address {
            IpAddr::V4(address) => {
                let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & !hosts))
            }
            IpAddr::V6(address) => {
                let hosts = u128::MAX.checked_shr(length).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !hosts))
            }
        };
        Self { first, length: u8::try_from(length).unwrap_or(u8::MAX) }
    }
}

/// Digits and nothing else, with any number of leading zeros. (`str::parse`
/// would also take a plus sign.)
fn decimal(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // What overflows is far beyond every limit that the callers have.
    text.parse().ok()
}

/// Four decimal octets; `010` is ten.
fn ipv4(text: &str) -> Option<[u8; 4]> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = u8::try_from(decimal(parts.next()?)?).ok()?;
    }
    parts.next().is_none().then_some(octets)
}

/// Groups of hexadecimal digits, one `::` that stands for at least one group
/// of zeros, and maybe an IPv4 address at the end. Groups may have leading
/// zeros beyond four digits.
fn ipv6(text: &str) -> Option<[u8; 16]> {
    let (head, tail) = match text.split_once("::") {
        None => (octets_of_groups(text)?, None),
        // A second `::` leaves an empty group behind, which does not parse.
        // With `::` an IPv4 address stands at the very end, after it.
        Some((head, _)) if head.contains('.') => return None,
        Some((head, tail)) => (octets_of_groups_or_none(head)?, Some(octets_of_groups_or_none(tail)?)),
    };
    let mut all = [0; 16];
    match tail {
        None if head.len() == 16 => all.copy_from_slice(&head),
        Some(tail) if head.len() + tail.len() <= 14 => {
            all[..head.len()].copy_from_slice(&head);
            all[16 - tail.len()..].copy_from_slice(&tail);
        }
        _ => return None,
    }
    Some(all)
}

fn octets_of_groups_or_none(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() { Some(Vec::new()) } else { octets_of_groups(text) }
}

fn octets_of_groups(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let mut groups = text.split(':').peekable();
    while let Some(group) = groups.next() {
        if group.contains('.') {
            octets.extend(ipv4(group)?);
            return groups.next().is_none().then_some(octets);
        }
        if group.is_empty() || !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let digits = group.trim_start_matches('0');
        let number = if digits.is_empty() { 0 } else { u16::from_str_radix(digits, 16).ok()? };
        octets.extend(number.to_be_bytes());
    }
    Some(octets)
}
