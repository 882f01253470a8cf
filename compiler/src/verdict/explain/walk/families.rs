//! The address families in which two ends may exchange packets.

use smallvec::SmallVec;

use super::ends::Unit;
use crate::cluster::Cluster;
use crate::object::Family;

/// The families in which an end may exchange packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::verdict::explain) struct Families {
    /// Those in which it may have an address, as far as the question says.
    may_be: [bool; 2],
    /// Those in which it has an address.
    has: [bool; 2],
    /// It has no address at all.
    pub(in crate::verdict::explain) is_bare: bool,
}

impl Families {
    pub(in crate::verdict::explain) fn of(cluster: &Cluster, unit: &Unit) -> Self {
        let may_be = Family::ALL.map(|family| unit.only.is_none_or(|only| only == family));
        let has = Family::ALL.map(|family| may_be[family as usize] && unit.party.address(cluster, family).is_some());
        Self { may_be, has, is_bare: !unit.party.has_address(cluster) }
    }

    /// The families in which two ends may exchange packets; none in place of both, where neither
    /// end has an address.
    pub(in crate::verdict::explain) fn judged(self, other: Self) -> SmallVec<[Option<Family>; 3]> {
        let may = |family: Family| {
            let at = family as usize;
            let (a, b) = (self.has[at], other.has[at]);
            self.may_be[at] && other.may_be[at] && (a || self.is_bare) && (b || other.is_bare) && (a || b)
        };
        let mut judged: SmallVec<[Option<Family>; 3]> =
            Family::ALL.into_iter().filter(|family| may(*family)).map(Some).collect();
        if self.is_bare && other.is_bare {
            judged.push(None);
        }
        judged
    }
}

/// The families in which a pair of ends may exchange packets.
pub(in crate::verdict::explain) fn judged(cluster: &Cluster, from: &Unit, to: &Unit) -> SmallVec<[Option<Family>; 3]> {
    Families::of(cluster, from).judged(Families::of(cluster, to))
}
