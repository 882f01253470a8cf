//! Zones: the intervals into which the edges of all ipBlocks cut the addresses of a
//! family. No rule distinguishes two addresses of one zone, so one address stands for all
//! of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::algebra::cidr::{self, AddressSet, Cidr};
use crate::algebra::ranges::RangeSet;
use crate::cluster::group::{Atom, Groups};
use crate::cluster::{Cluster, PolicyId};
use crate::object::Family;
use crate::policy::{Direction, Peer, Peers};

/// The zones of both families. Those of one family are disjoint, sorted, and together
/// all its addresses.
#[derive(Debug, Clone)]
pub struct Zones {
    /// The first address of each zone, by family; the first of all is 0.
    starts: [Vec<u128>; 2],
}

impl Zones {
    /// The zones that the ipBlocks of these groups make.
    #[must_use]
    pub fn of(groups: &Groups) -> Self {
        let mut starts = [vec![0], vec![0]];
        for atom in groups.all().flat_map(|(_, group)| group.admitted.keys()) {
            if let Atom::Block(block) = atom {
                starts[block.family as usize].extend(edges(&block.addresses));
            }
        }
        for family in Family::ALL {
            tidy(&mut starts[family as usize], family);
        }
        Self { starts }
    }

    /// The zones of these groups, cut besides where the `cidr` or an `except` of their policies begins or ends:
    /// what is denied on both sides of such an edge is denied for different reasons.
    #[must_use]
    pub fn as_written(cluster: &Cluster, groups: &Groups) -> Self {
        let mut zones = Self::of(groups);
        let policies: BTreeSet<PolicyId> =
            groups.all().flat_map(|(_, group)| group.key.policies.iter().copied()).collect();
        for policy in policies.into_iter().map(|id| cluster.policy(id)) {
            let rules = Direction::ALL.into_iter().flat_map(|direction| policy.rules(direction));
            let peers = rules.filter_map(|rule| if let Peers::AnyOf(peers) = &rule.peers { Some(peers) } else { None });
            for peer in peers.flatten() {
                let Peer::Block(written) = peer else { continue };
                for cidr in std::iter::once(&written.cidr).chain(&written.except) {
                    zones.starts[cidr.family as usize].extend(edges(&cidr.addresses()));
                }
            }
        }
        for family in Family::ALL {
            tidy(&mut zones.starts[family as usize], family);
        }
        zones
    }

    /// Cuts at the edges of these addresses too.
    pub fn cut(&mut self, family: Family, addresses: &AddressSet) {
        let starts = &mut self.starts[family as usize];
        starts.extend(edges(addresses));
        tidy(starts, family);
    }

    /// The first address of each zone of a family.
    #[must_use]
    pub fn starts(&self, family: Family) -> &[u128] {
        &self.starts[family as usize]
    }

    /// The place of an address's zone among [`Self::starts`].
    #[must_use]
    pub fn place(&self, address: IpAddr) -> usize {
        let starts = self.starts(Family::of(&address));
        starts.partition_point(|start| *start <= cidr::number(address)) - 1
    }

    /// The zones of a family as inclusive ranges.
    pub fn ranges(&self, family: Family) -> impl Iterator<Item = (u128, u128)> {
        let starts = self.starts(family);
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([cidr::last_number(family)]);
        starts.iter().copied().zip(ends)
    }

    /// What a prefix and each zone have in common, where that is anything.
    pub fn within(&self, prefix: &Cidr) -> impl Iterator<Item = (u128, u128)> {
        let (first, last) = (prefix.first, prefix.last);
        self.ranges(prefix.family)
            .map(move |(start, end)| (start.max(first), end.min(last)))
            .filter(|(start, end)| start <= end)
    }
}

/// 169.254.0.0/16 (RFC 3927). A node may have one of these addresses without saying so.
const LINK_LOCAL: (u128, u128) = (0xa9fe_0000, 0xa9fe_ffff);

/// An address of an inclusive range that is none of these; `None` if all of it is taken.
///
/// It stands for the whole range, so it is a link-local one of IPv4 only if there are no others.
#[must_use]
pub fn free_address(family: Family, (first, last): (u128, u128), taken: &AddressSet) -> Option<IpAddr> {
    let free = RangeSet::range(first, last).difference(taken);
    let first_of = |of: &AddressSet| of.ranges().first().map(|(first, _)| cidr::address(family, *first));
    let ordinary = match family {
        Family::V4 => first_of(&free.difference(&RangeSet::range(LINK_LOCAL.0, LINK_LOCAL.1))),
        Family::V6 => None,
    };
    ordinary.or_else(|| first_of(&free))
}

fn edges(addresses: &AddressSet) -> impl Iterator<Item = u128> {
    addresses.ranges().iter().flat_map(|(first, last)| [Some(*first), last.checked_add(1)]).flatten()
}

fn tidy(starts: &mut Vec<u128>, family: Family) {
    starts.sort_unstable();
    starts.dedup();
    // What begins after the last address of a family is no zone.
    while starts.last().is_some_and(|start| *start > cidr::last_number(family)) {
        starts.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::cluster;

    fn zones(blocks: &str) -> Zones {
        let policy = format!(r#"ns/p {{"podSelector": {{}}, "ingress": [{{"from": [{blocks}]}}]}}"#);
        let cluster = cluster(&["ns/a 10.0.0.1 @n1"], &[&policy]);
        Zones::of(&Groups::of_cluster(&cluster))
    }

    #[test]
    fn zones_cover_all_addresses_and_end_at_the_edges_of_blocks() {
        let found = zones(
            r#"{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}, {"ipBlock": {"cidr": "255.0.0.0/8"}}"#,
        );
        let text = |family: Family| -> Vec<String> {
            let address = |number| cidr::address(family, number).to_string();
            found.ranges(family).map(|(first, last)| format!("{} {}", address(first), address(last))).collect()
        };
        assert_eq!(
            text(Family::V4),
            [
                "0.0.0.0 9.255.255.255",
                "10.0.0.0 10.255.255.255",
                "11.0.0.0 254.255.255.255",
                "255.0.0.0 255.255.255.255"
            ]
        );
        assert_eq!(text(Family::V6), [":: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
        for (place, (first, last)) in found.ranges(Family::V4).enumerate() {
            assert_eq!(found.place(cidr::address(Family::V4, first)), place);
            assert_eq!(found.place(cidr::address(Family::V4, last)), place);
        }
    }

    #[test]
    fn as_written_zones_end_at_excepts_too() {
        let policy = r#"ns/p {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.128/25"]}}]}]}"#;
        let cluster = cluster(&["ns/a 10.1.0.1 @n1"], &[policy]);
        let groups = Groups::of_cluster(&cluster);
        let text = |zones: &Zones| -> Vec<String> {
            zones.starts(Family::V4).iter().map(|start| cidr::address(Family::V4, *start).to_string()).collect()
        };
        assert_eq!(text(&Zones::of(&groups)), ["0.0.0.0", "10.0.0.0", "10.0.0.128"]);
        assert_eq!(text(&Zones::as_written(&cluster, &groups)), ["0.0.0.0", "10.0.0.0", "10.0.0.128", "10.0.1.0"]);
    }

    #[test]
    fn a_prefix_is_cut_where_zones_end_and_a_taken_address_does_not_stand_for_its_zone() {
        let found = zones(r#"{"ipBlock": {"cidr": "10.0.0.128/25"}}"#);
        let prefix = Cidr::parse("10.0.0.0/24").expect("a prefix");
        let number = |text: &str| cidr::number(text.parse().expect("an address"));
        let parts: Vec<_> = found.within(&prefix).collect();
        assert_eq!(parts, [(number("10.0.0.0"), number("10.0.0.127")), (number("10.0.0.128"), number("10.0.0.255"))]);
        let taken = RangeSet::range(number("10.0.0.128"), number("10.0.0.200"));
        assert_eq!(free_address(Family::V4, parts[1], &taken), "10.0.0.201".parse().ok());
        assert_eq!(free_address(Family::V4, parts[1], &RangeSet::range(0, u128::from(u32::MAX))), None);
        let [none, link_local] = [RangeSet::default(), RangeSet::range(0xa9fe_0000, 0xa9fe_ffff)];
        let free = |range: (u128, u128), taken| free_address(Family::V4, range, taken);
        assert_eq!(free((0xa9fe_a9ff, u128::from(u32::MAX)), &none), "169.255.0.0".parse().ok());
        assert_eq!(free((0xa9fe_a9ff, 0xa9fe_ffff), &none), "169.254.169.255".parse().ok());
        assert_eq!(free((0xa9fe_a9ff, 0xa9fe_ffff), &link_local), None);
    }
}
