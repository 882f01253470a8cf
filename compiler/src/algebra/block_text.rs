//! A set of addresses as people write it: `0.0.0.0/0 except 10.0.0.0/8 172.16.0.0/12`, not
//! the dozens of prefixes that are left.

use std::fmt;

use ipnetwork::IpNetwork;

use crate::algebra::cidr::{self, AddressSet, Cidr};
use crate::object::Family;

/// A prefix without some others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenBlock {
    /// The prefix.
    pub prefix: IpNetwork,
    /// What of it is not meant.
    pub except: Vec<IpNetwork>,
}

impl WrittenBlock {
    /// Its text before a port: one of IPv6 stands in brackets.
    #[must_use]
    pub fn before_port(&self) -> String {
        if self.prefix.is_ipv6() { format!("[{self}]") } else { self.to_string() }
    }
}

/// Sets of more ranges than this are written as prefixes: the shortest text of a set takes
/// time that grows with the square of its ranges.
const MOST_RANGES: usize = 128;

/// The set as few prefixes, each with exceptions where that is shorter.
#[must_use]
pub fn written_blocks(family: Family, set: &AddressSet) -> Vec<WrittenBlock> {
    if set.ranges().len() > MOST_RANGES {
        let plain = |prefix| WrittenBlock { prefix, except: Vec::new() };
        return cidr::prefixes(family, set).into_iter().map(plain).collect();
    }
    let everything = Cidr::everything(family);
    let plain = shortest(&everything, set);
    // `0.0.0.0/0 except 10.0.0.0/8` and `10.1.0.0/16`: a part of an exception that is meant after all.
    let missing = shortest(&everything, &everything.addresses().difference(set));
    let mut nested =
        vec![WrittenBlock { prefix: everything.network(), except: missing.iter().map(|block| block.prefix).collect() }];
    let again = missing.into_iter().flat_map(|block| block.except);
    nested.extend(again.map(|prefix| WrittenBlock { prefix, except: Vec::new() }));
    if length(&nested) < length(&plain) { nested } else { plain }
}

/// How many prefixes there are to read.
#[must_use]
pub fn length(blocks: &[WrittenBlock]) -> usize {
    blocks.iter().map(|block| 1 + block.except.len()).sum()
}

fn shortest(within: &Cidr, set: &AddressSet) -> Vec<WrittenBlock> {
    let all = within.addresses();
    let part = set.intersection(&all);
    if part.is_empty() {
        return Vec::new();
    }
    let except = cidr::prefixes(within.family, &all.difference(&part));
    let whole = WrittenBlock { prefix: within.network(), except };
    let Some([left, right]) = within.halves().filter(|_| !whole.except.is_empty()) else { return vec![whole] };
    let mut parts = shortest(&left, &part);
    parts.extend(shortest(&right, &part));
    if length(std::slice::from_ref(&whole)) < length(&parts) { vec![whole] } else { parts }
}

/// `10.0.0.0/8`, `0.0.0.0/0 except 10.0.0.0/8 192.168.0.0/16`.
impl fmt::Display for WrittenBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.prefix)?;
        for (i, except) in self.except.iter().enumerate() {
            f.write_str(if i == 0 { " except " } else { " " })?;
            write!(f, "{except}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot parse its own input has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::algebra::ranges::RangeSet;

    fn set(prefixes: &[&str]) -> AddressSet {
        RangeSet::from_ranges(
            prefixes.iter().map(|text| Cidr::parse(text).map(|cidr| (cidr.first, cidr.last)).unwrap()),
        )
    }

    fn text(family: Family, set: &AddressSet) -> Vec<String> {
        written_blocks(family, set).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_internet_without_private_addresses_is_written_as_its_author_did() {
        let private = set(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]);
        let rest = set(&["0.0.0.0/0"]).difference(&private);
        assert_eq!(text(Family::V4, &rest), ["0.0.0.0/0 except 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16"]);
        assert_eq!(text(Family::V4, &private), ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]);
        assert_eq!(text(Family::V4, &set(&["203.0.113.0/25"])), ["203.0.113.0/25"]);
        assert_eq!(
            text(Family::V4, &rest.union(&set(&["10.1.0.0/16"]))),
            ["0.0.0.0/0 except 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16", "10.1.0.0/16"]
        );
        let some = set(&["10.0.0.0/8", "2001:db8::/127"]);
        assert_eq!(text(Family::V4, &some.intersection(&set(&["0.0.0.0/0"]))).len(), 1);
        assert_eq!(text(Family::V6, &set(&["::/0"]).difference(&set(&["fc00::/7"]))), ["::/0 except fc00::/7"]);
    }

    #[test]
    fn a_block_with_many_exceptions_is_written_as_one() {
        let excepts: Vec<String> = (0..100).map(|number| format!("52.{number}.0.0/24")).collect();
        let excepts = set(&excepts.iter().map(String::as_str).collect::<Vec<_>>());
        let written = written_blocks(Family::V4, &set(&["0.0.0.0/0"]).difference(&excepts));
        assert_eq!(written.iter().map(|block| block.except.len()).collect::<Vec<_>>(), [100]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_the_set(ranges in proptest::collection::vec((0_u32.., 0_u32..), 0..5)) {
            let ranges = ranges.into_iter().map(|(a, b)| (u128::from(a.min(b)), u128::from(a.max(b))));
            let set = RangeSet::from_ranges(ranges);
            let mut back = RangeSet::from_ranges([]);
            for block in written_blocks(Family::V4, &set) {
                let addresses = |network: &IpNetwork| Cidr::parse(&network.to_string()).unwrap().addresses();
                let except = block.except.iter().fold(RangeSet::from_ranges([]), |all, of| all.union(&addresses(of)));
                back = back.union(&addresses(&block.prefix).difference(&except));
            }
            prop_assert_eq!(back, set);
        }
    }
}
