//! What passes between two kinds of ends, from what every group makes of every kind.

use rustc_hash::FxHashMap;

use super::admitted::AdmittedRow;
use super::end_kind::{EndKind, KindId};
use super::known_traffic::{TrafficId, TrafficTable};
use crate::cluster::group::GroupId;
use crate::policy::Direction;

/// Judges pairs of kinds.
#[derive(Debug)]
pub(crate) struct PairVerdicts {
    pub(super) kinds: Vec<EndKind>,
    /// By group.
    pub(super) admits: Vec<AdmittedRow>,
    /// By group.
    pub(super) may_admit: Vec<MayAdmit>,
    /// By face: of an end without an address, the place in [`MayAdmit::to_bare`] of the
    /// family that it is assumed to have.
    pub(super) assumed: Vec<Option<usize>>,
}

/// The place in [`MayAdmit::to_bare`] of ends of either family.
pub(super) const ASSUMED_NONE: usize = 2;

/// What a group may admit beyond what it does for certain.
#[derive(Debug, Default)]
pub(super) struct MayAdmit {
    /// To ends without an address, by the family that it will have: IPv4, IPv6, either.
    pub(super) to_bare: [TrafficId; 3],
    /// To these faces, with what is certain.
    pub(super) to_face: FxHashMap<usize, TrafficId>,
}

/// What passes between two ends, at least and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BoundIds {
    pub(crate) least: TrafficId,
    pub(crate) most: TrafficId,
}

/// Judges pairs of kinds.
pub(crate) trait JudgeKinds {
    /// A kind.
    fn kind(&self, kind: KindId) -> &EndKind;

    /// What a group exchanges with ends that have a face, for certain.
    fn least(&self, known: &mut TrafficTable, group: GroupId, face: usize) -> TrafficId;

    /// What a group admits at most.
    fn most(&self, known: &mut TrafficTable, group: GroupId, face: usize) -> TrafficId;

    /// What passes between ends of two kinds at least and at most, unless they are exempt.
    fn bounds(&self, known: &mut TrafficTable, from: KindId, to: KindId) -> BoundIds {
        let egress = self.directed(known, Direction::Egress, from, to);
        let ingress = self.directed(known, Direction::Ingress, to, from);
        let least = known.intersection(egress.least, ingress.least);
        let most = known.intersection(egress.most, ingress.most);
        BoundIds { least, most }
    }

    /// What a direction lets pass between two kinds at least and at most, unless they are exempt.
    fn directed(&self, known: &mut TrafficTable, direction: Direction, subject: KindId, other: KindId) -> BoundIds {
        let (subject, other) = (self.kind(subject), self.kind(other));
        let own = other.faces.iter().find(|(viewer, _)| subject.node == Some(*viewer));
        let face = own.map_or(other.face, |(_, face)| *face).0 as usize;
        let open = subject.open[direction as usize].as_deref();
        let (least, most) = match open {
            Some(open) => (&open.least, &open.most),
            None => (&subject.groups[direction as usize], &subject.groups[direction as usize]),
        };
        let mut bounds = BoundIds { least: TrafficId::ALL, most: TrafficId::ALL };
        for group in least {
            let traffic = self.least(known, *group, face);
            bounds.least = known.intersection(bounds.least, traffic);
        }
        for group in most {
            let traffic = self.most(known, *group, face);
            bounds.most = known.intersection(bounds.most, traffic);
        }
        if open.is_some_and(|open| open.is_nothing_certain) {
            bounds.least = TrafficId::NONE;
        }
        bounds
    }
}

impl PairVerdicts {
    /// What a group exchanges with ends of a kind, on most nodes.
    pub(crate) fn admitted(&self, group: GroupId, other: KindId) -> TrafficId {
        self.admits[group.0 as usize].at(self.kinds[other.index()].face.0 as usize)
    }

    /// How many values are stored for groups and faces.
    #[cfg(test)]
    pub(crate) fn stored(&self) -> usize {
        self.admits.iter().map(AdmittedRow::stored).sum()
    }

    /// Whether the input says all that decides between these kinds.
    pub(crate) fn is_certain(&self) -> bool {
        self.kinds.iter().all(|kind| kind.open.iter().all(Option::is_none))
            && self.assumed.iter().all(Option::is_none)
            && self.may_admit.iter().all(|may| may.to_face.is_empty())
    }
}

impl JudgeKinds for PairVerdicts {
    fn kind(&self, kind: KindId) -> &EndKind {
        &self.kinds[kind.index()]
    }

    fn least(&self, _: &mut TrafficTable, group: GroupId, face: usize) -> TrafficId {
        self.admits[group.0 as usize].at(face)
    }

    fn most(&self, known: &mut TrafficTable, group: GroupId, face: usize) -> TrafficId {
        let certain = self.admits[group.0 as usize].at(face);
        self.may_admit[group.0 as usize].at(known, certain, face, self.assumed[face])
    }
}

impl MayAdmit {
    /// What a group admits to a face at most, by what it admits for certain and the place of the family that an end
    /// without an address is assumed to have.
    pub(super) fn at(
        &self,
        known: &mut TrafficTable,
        certain: TrafficId,
        face: usize,
        assumed: Option<usize>,
    ) -> TrafficId {
        let traffic = self.to_face.get(&face).copied().unwrap_or(certain);
        assumed.map_or(traffic, |slot| known.union(traffic, self.to_bare[slot]))
    }
}
