//! A prefix as an end of a flow: the zones that no rule can tell apart, each
//! with one address that stands for it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_compiler::algebra::cidr::{self, AddressSet, Cidr};
use npc_compiler::algebra::ranges::RangeSet;
use npc_compiler::cluster::group::{Atom, Groups};
use npc_compiler::object::Family;

/// Addresses that are treated alike.
pub(super) struct Zone {
    /// Any of them.
    pub(super) address: IpAddr,
    /// All of them, as prefixes.
    pub(super) text: String,
}

/// Cuts a prefix at the edges of all blocks, and takes out the addresses that
/// are somebody's.
pub(super) fn zones(groups: &Groups, block: &Cidr, taken: &BTreeSet<IpAddr>) -> Vec<Zone> {
    let family = block.family;
    let mut starts = BTreeSet::from([block.first]);
    for atom in groups.iter().flat_map(|(_, group)| group.admitted.keys()) {
        if let Atom::Block(edges) = atom
            && edges.family == family
        {
            for (first, last) in edges.addresses.ranges() {
                starts.insert(*first);
                starts.extend(last.checked_add(1));
            }
        }
    }
    let starts: Vec<u128> = starts.range(block.first..=block.last).copied().collect();
    let taken = taken.iter().filter(|address| Family::of(address) == family).map(|address| cidr::number(*address));
    let taken: AddressSet = RangeSet::from_ranges(taken.map(|number| (number, number)));
    let zone = |(i, first): (usize, &u128)| {
        let last = starts.get(i + 1).map_or(block.last, |next| next - 1);
        let free = RangeSet::range(*first, last).difference(&taken);
        let (address, _) = free.ranges().first()?;
        // The text means those that are nobody's.
        let prefixes = cidr::prefixes(family, &RangeSet::range(*first, last));
        let text = prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        Some(Zone { address: cidr::address(family, *address), text })
    };
    starts.iter().enumerate().filter_map(zone).collect()
}
