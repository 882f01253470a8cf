//! Prefixes: reading them as leniently as the API does, cutting exceptions
//! out of them, and writing sets of addresses as the fewest prefixes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::algebra::ranges::RangeSet;
use crate::object::Family;

/// A set of addresses of one family; IPv4 addresses are numbers below 2^32.
pub type AddressSet = RangeSet<u128>;

/// An address as a number.
#[must_use]
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of a family with this number.
#[must_use]
pub fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// The greatest number of a family's addresses.
#[must_use]
pub const fn last_number(family: Family) -> u128 {
    match family {
        Family::V4 => u32::MAX as u128,
        Family::V6 => u128::MAX,
    }
}

/// Whether the set holds every address of the family.
#[must_use]
pub fn is_everything(family: Family, set: &AddressSet) -> bool {
    set.is_range(0, last_number(family))
}

/// How many bits an address of the family has.
const fn bits(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// A prefix: its family, first and last address, and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The family; IPv4 for IPv4-mapped IPv6 text.
    pub family: Family,
    /// The number of the first address; host bits are zero.
    pub first: u128,
    /// The number of the last address.
    pub last: u128,
    /// The prefix length.
    pub length: u8,
}

impl Cidr {
    fn new(family: Family, number: u128, length: u8) -> Self {
        let host = bits(family) - length;
        let mask = if host == 128 { u128::MAX } else { (1_u128 << host) - 1 };
        Self { family, first: number & !mask, last: number | mask, length }
    }

    /// The prefix of a length that holds the address with a number.
    pub(super) fn of(family: Family, number: u128, length: u8) -> Self {
        Self::new(family, number, length.min(bits(family)))
    }

    /// The prefix that holds one address.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        let family = Family::of(&address);
        Self::new(family, number(address), bits(family))
    }

    /// A network as a prefix.
    #[must_use]
    pub fn of_network(network: &IpNetwork) -> Self {
        let first = network.network();
        Self::new(Family::of(&first), number(first), network.prefix())
    }

    /// The prefix of all addresses of a family.
    #[must_use]
    pub fn everything(family: Family) -> Self {
        Self::new(family, 0, 0)
    }

    /// Reads a prefix as the API means it, which is how the IP parser of Go
    /// before 1.17 read it (`netutils.ParseCIDRSloppy`): leading zeros are
    /// decimal, host bits are dropped, and an IPv4-mapped IPv6 prefix of 96
    /// bits or more is an IPv4 prefix. Today's API server refuses such text,
    /// older ones stored it.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (address, length) = text.split_once('/').ok_or_else(|| {
            let is_address = sloppy_v4(text).is_some() || sloppy_v6(text).is_some();
            if is_address {
                "a prefix length is missing, as in 10.0.0.0/8"
            } else {
                "it is no address, and an ipBlock takes no names"
            }
        })?;
        let (family, number) = match sloppy_v4(address) {
            Some(v4) => (Family::V4, u128::from(v4)),
            None => (Family::V6, sloppy_v6(address).ok_or("this is neither an IPv4 nor an IPv6 address")?),
        };
        let length = decimal(length, u32::from(bits(family))).ok_or("the prefix length is not a number in range")?;
        let length = u8::try_from(length).map_err(|_| "the prefix length is not a number in range")?;
        Ok(match family {
            Family::V6 if length >= 96 && number >> 32 == 0xffff => {
                Self::new(Family::V4, number & u128::from(u32::MAX), length - 96)
            }
            _ => Self::new(family, number, length),
        })
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.family == Family::of(&address) && (self.first..=self.last).contains(&number(address))
    }

    /// The addresses of the prefix.
    #[must_use]
    pub fn addresses(&self) -> AddressSet {
        RangeSet::range(self.first, self.last)
    }

    /// Its two halves; none of a single address.
    #[must_use]
    pub fn halves(&self) -> Option<[Self; 2]> {
        let length = self.length.checked_add(1).filter(|length| *length <= bits(self.family))?;
        Some([Self::new(self.family, self.first, length), Self::new(self.family, self.last, length)])
    }

    /// As a network; its text is canonical.
    #[must_use]
    pub fn network(&self) -> IpNetwork {
        network(self.family, self.first, self.length)
    }
}

/// A decimal number of at most `max`, leading zeros allowed.
fn decimal(text: &str, max: u32) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = text.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    digits.parse().ok().filter(|n| *n <= max)
}

/// Four decimal octets, leading zeros allowed and without meaning.
fn sloppy_v4(text: &str) -> Option<u32> {
    let mut octets = text.split('.');
    let mut number = 0;
    for _ in 0..4 {
        number = number << 8 | decimal(octets.next()?, 255)?;
    }
    octets.next().is_none().then_some(number)
}

/// An IPv6 address, possibly with more than four digits in a group where they
/// are leading zeros, and possibly with an IPv4 tail; no zone.
fn sloppy_v6(text: &str) -> Option<u128> {
    let group = |digits: &str| -> Option<u16> {
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let significant = digits.trim_start_matches('0');
        if significant.is_empty() { Some(0) } else { u16::from_str_radix(significant, 16).ok() }
    };
    // The groups of one side of the `::`; an IPv4 tail makes two.
    let side = |text: &str, tail: bool| -> Option<Vec<u16>> {
        if text.is_empty() {
            return Some(Vec::new());
        }
        let mut groups = Vec::new();
        let mut parts = text.split(':').peekable();
        while let Some(part) = parts.next() {
            if tail && parts.peek().is_none() && part.contains('.') {
                let v4 = sloppy_v4(part)?.to_be_bytes();
                groups.push(u16::from_be_bytes([v4[0], v4[1]]));
                groups.push(u16::from_be_bytes([v4[2], v4[3]]));
            } else {
                groups.push(group(part)?);
            }
        }
        Some(groups)
    };
    let groups = match text.split_once("::") {
        None => side(text, true)?,
        Some((left, right)) => {
            let (left, right) = (side(left, false)?, side(right, true)?);
            // `::` stands for at least one group.
            let zeros = 8_usize.checked_sub(left.len() + right.len()).filter(|zeros| *zeros > 0)?;
            left.into_iter().chain(std::iter::repeat_n(0, zeros)).chain(right).collect()
        }
    };
    (groups.len() == 8).then(|| groups.into_iter().fold(0, |number, group| number << 16 | u128::from(group)))
}

fn network(family: Family, first: u128, length: u8) -> IpNetwork {
    let made = match address(family, first) {
        IpAddr::V4(address) => Ipv4Network::new(address, length).map(IpNetwork::V4),
        IpAddr::V6(address) => Ipv6Network::new(address, length).map(IpNetwork::V6),
    };
    made.unwrap_or_else(|_| unreachable!("a length of at most {} bits", bits(family)))
}

/// The fewest prefixes that hold exactly the addresses of the set, in order.
#[must_use]
pub fn prefixes(family: Family, set: &AddressSet) -> Vec<IpNetwork> {
    let mut prefixes = Vec::new();
    for &(first, last) in set.ranges() {
        let mut next = Some(first).filter(|first| *first <= last);
        while let Some(start) = next {
            // The greatest block that starts here is limited by the alignment
            // of its start and by the room that is left.
            let aligned = start.trailing_zeros().min(u32::from(bits(family)));
            let room = match (last - start).checked_add(1) {
                Some(count) => count.ilog2(),
                None => 128,
            };
            let host = aligned.min(room);
            let length = bits(family) - u8::try_from(host).unwrap_or(bits(family));
            let block = Cidr::new(family, start, length);
            prefixes.push(block.network());
            next = block.last.checked_add(1).filter(|next| *next <= last);
        }
    }
    prefixes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot parse its own input has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Option<String> {
        Cidr::parse(text).ok().map(|cidr| cidr.network().to_string())
    }

    #[test]
    fn text_is_read_as_the_api_means_it() {
        for (text, meaning) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("010.0.0.0/8", "10.0.0.0/8"),
            ("0010.00.0.0/08", "10.0.0.0/8"),
            ("192.168.1.5/24", "192.168.1.0/24"),
            ("1.2.3.4/32", "1.2.3.4/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::1/64", "2001:db8::/64"),
            ("2001:0db8:00000::/32", "2001:db8::/32"),
            ("::ffff:1.2.3.0/120", "1.2.3.0/24"),
            ("::ffff:1.2.3.4/96", "0.0.0.0/0"),
            ("::ffff:102:300/120", "1.2.3.0/24"),
            ("::ffff:1.2.3.0/80", "::/80"),
            ("::1.2.3.4/128", "::102:304/128"),
            ("1:2:3:4:5:6:7:8/128", "1:2:3:4:5:6:7:8/128"),
            ("1:2:3:4:5:6:7::/128", "1:2:3:4:5:6:7:0/128"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(meaning), "{text}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0/8",
            "10.0.0.0.0/8",
            "256.0.0.0/8",
            " 10.0.0.0/8",
            "10.0.0.0/8 ",
            "10.0.0.0/8/8",
            "a.b.c.d/8",
            "::/129",
            ":::/8",
            "1::2::3/8",
            "fe80::1%eth0/64",
            "1:2:3:4:5:6:7:8::/8",
            "::1:2:3:4:5:6:7:8/8",
            "12345::/16",
            "1.2.3.4::/8",
            ":1::/8",
            "1:/8",
            "0x10.0.0.0/8",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    fn sets() -> impl Strategy<Value = (Family, AddressSet)> {
        let v4 = proptest::collection::vec((any::<u32>(), any::<u32>()), 0..4)
            .prop_map(|r| (Family::V4, r.into_iter().map(|(a, b)| (a.into(), b.into())).collect::<Vec<_>>()));
        let v6 = proptest::collection::vec((any::<u128>(), any::<u128>()), 0..4).prop_map(|r| (Family::V6, r));
        let near = proptest::collection::vec((0_u32..40, 0_u32..40), 0..6)
            .prop_map(|r| (Family::V4, r.into_iter().map(|(a, b)| (u128::from(a), u128::from(b))).collect::<Vec<_>>()));
        let edges = Just((Family::V6, vec![(0, 0), (5, u128::MAX)]));
        let all = prop_oneof![Just((Family::V4, vec![(0, u32::MAX.into())])), Just((Family::V6, vec![(0, u128::MAX)]))];
        prop_oneof![4 => v4, 4 => v6, 4 => near, 1 => edges, 1 => all]
            .prop_map(|(family, ranges)| (family, RangeSet::from_ranges(ranges)))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn prefixes_hold_exactly_the_set_and_cannot_be_fewer((family, set) in sets()) {
            let cover = prefixes(family, &set);
            let back: Vec<Cidr> = cover.iter().map(|n| Cidr::parse(&n.to_string()).unwrap()).collect();
            prop_assert_eq!(RangeSet::from_ranges(back.iter().map(|c| (c.first, c.last))), set);
            // Disjoint and in order; and minimal: of two neighbours that are
            // halves of one greater prefix, that prefix would do.
            for pair in back.windows(2) {
                prop_assert!(pair[0].last < pair[1].first);
                let halves = pair[0].length == pair[1].length
                    && pair[0].length > 0
                    && Cidr::new(family, pair[0].first, pair[0].length - 1).last == pair[1].last;
                prop_assert!(!halves, "{:?} could be one", pair);
            }
        }
    }
}
