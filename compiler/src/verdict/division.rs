//! Addresses that belong to no endpoint, divided by what is exchanged with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::algebra::cidr::{self, AddressSet};
use crate::algebra::ranges::RangeSet;
use crate::algebra::traffic::Traffic;
use crate::cluster::group::{Admitted, Atom};
use crate::object::Family;

/// All addresses of a family that belong to no endpoint, by what is exchanged
/// with them: disjoint, and together everything.
pub type Division = BTreeMap<Traffic, AddressSet>;

/// The division of a family's addresses by what some rules admit. Named ports never mean
/// an address that belongs to no endpoint.
pub fn outside<'a>(admitted: impl IntoIterator<Item = (&'a Atom, &'a Arc<Admitted>)>, family: Family) -> Division {
    let mut base = Traffic::none();
    // Blocks with equal ports are joined first: a policy with hundreds of
    // blocks mostly has few lists of ports.
    let mut blocks = BTreeMap::<&Traffic, Vec<(u128, u128)>>::new();
    for (atom, admitted) in admitted {
        match atom {
            Atom::Everyone => base = base.union(&admitted.traffic),
            Atom::Block(block) if block.family == family => {
                blocks.entry(&admitted.traffic).or_default().extend(block.addresses.ranges());
            }
            Atom::Block(_) | Atom::Pods(_) => {}
        }
    }
    let mut parts = BTreeMap::from([(base, RangeSet::range(0, cidr::last_number(family)))]);
    for (traffic, ranges) in blocks {
        let addresses = RangeSet::from_ranges(ranges);
        let mut cut = Division::new();
        let mut put = |traffic: Traffic, part: AddressSet| {
            if !part.is_empty() {
                let entry = cut.entry(traffic).or_default();
                *entry = entry.union(&part);
            }
        };
        for (had, part) in parts {
            put(had.union(traffic), part.intersection(&addresses));
            put(had, part.difference(&addresses));
        }
        parts = cut;
    }
    parts
}

/// What both of two divisions let pass.
#[must_use]
pub fn both(one: &Division, other: &Division) -> Division {
    combine(one, other, Traffic::intersection)
}

/// What either of two divisions lets pass.
#[must_use]
pub fn either(one: &Division, other: &Division) -> Division {
    combine(one, other, Traffic::union)
}

/// What the one of two divisions lets pass and the other does not.
#[must_use]
pub fn but(one: &Division, other: &Division) -> Division {
    combine(one, other, Traffic::difference)
}

fn combine(one: &Division, other: &Division, join: impl Fn(&Traffic, &Traffic) -> Traffic) -> Division {
    let mut all = Division::new();
    for (a, addresses) in one {
        for (b, more) in other {
            let part = addresses.intersection(more);
            if !part.is_empty() {
                let entry = all.entry(join(a, b)).or_default();
                *entry = entry.union(&part);
            }
        }
    }
    all
}
