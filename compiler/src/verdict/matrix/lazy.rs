//! The matrix of a cluster, for commands that ask about few of its pairs.
//!
//! The whole matrix asks each group about each face: in a cluster of 100,000 pods these are 2,500 million. What a change
//! opens is a question about the ends that it affects.

use std::cell::RefCell;
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use super::end_kind::{EndKind, KindId};
use super::group_row::{GroupRow, RowMaker};
use super::judge::Kinds;
use super::known_traffic::{TrafficId, TrafficTable};
use super::pair_verdicts::{BoundIds, JudgeKinds};
use super::row::{self, Row};
use super::{By, Endpoint, MatrixOptions, judged_alike, unjudged};
use crate::cluster::Cluster;
use crate::cluster::group::{GroupId, Groups};
use crate::policy::Direction;
use crate::verdict::flow::End;

/// Rows and columns by pod, whose pairs are judged when they are asked about.
pub(crate) struct LazyMatrix<'a> {
    cluster: &'a Cluster,
    endpoints: Vec<Endpoint>,
    rows: Vec<Row>,
    judge: LazyVerdicts<'a>,
}

impl<'a> LazyMatrix<'a> {
    /// The matrix by pod of a cluster with the groups of all its endpoints, and these addresses.
    pub(crate) fn new(cluster: &'a Cluster, groups: &'a Groups, addresses: Vec<IpAddr>) -> Self {
        let mut kinds = Kinds::new(cluster, groups);
        let options = MatrixOptions { by: By::Pod, addresses };
        let rows = unjudged(cluster, &options).into_iter().map(|row| row.row(&mut kinds, None));
        let (endpoints, rows) = rows.unzip();
        Self { cluster, endpoints, rows, judge: LazyVerdicts::new(kinds) }
    }

    /// Asks a group about all faces when it is asked about more than so many.
    #[cfg(test)]
    pub(crate) fn with_few(mut self, few: usize) -> Self {
        self.judge.few = few;
        self
    }

    /// As [`Matrix::endpoints`](super::Matrix::endpoints).
    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// As [`Matrix::ends`](super::Matrix::ends).
    pub(crate) fn ends(&self, endpoint: usize) -> impl Iterator<Item = End> {
        self.rows[endpoint].ends.iter().map(|of| of.end)
    }

    /// For each endpoint, the first that the same groups judge and that rules match alike. Unlike those of
    /// [`Matrix::alike`](super::Matrix::alike), such pods may be exempt from policies with different addresses.
    pub(crate) fn judged_alike(&self) -> Vec<usize> {
        judged_alike(&self.rows)
    }

    /// What a direction lets pass between a subject and another end, by family, unless they are exempt; none of a
    /// family that one of them does not have.
    pub(crate) fn directed(
        &self,
        known: &mut TrafficTable,
        direction: Direction,
        subject: usize,
        other: usize,
    ) -> [Option<BoundIds>; 2] {
        row::kind_pairs(&self.rows[subject], &self.rows[other])
            .map(|pair| pair.map(|(subject, other)| self.judge.directed(known, direction, subject, other)))
    }

    /// What passes from one endpoint to another, in the order of [`Matrix::FAMILIES`](super::Matrix::FAMILIES).
    pub(crate) fn bounds(&self, known: &mut TrafficTable, from: usize, to: usize) -> [BoundIds; 3] {
        row::between(self.cluster, &self.judge, known, &self.rows[from], &self.rows[to], from == to)
            .map(|sum| BoundIds { least: sum.least, most: known.union(sum.least, sum.most) })
    }
}

/// Judges pairs of kinds when they are asked about.
struct LazyVerdicts<'a> {
    kinds: Kinds<'a>,
    assumed: Vec<Option<usize>>,
    /// A group that is asked about more faces is asked about all.
    few: usize,
    made: RefCell<Made<'a>>,
}

/// What was made of groups so far.
struct Made<'a> {
    maker: RowMaker<'a>,
    groups: FxHashMap<GroupId, OfGroup>,
}

/// What a group admits.
enum OfGroup {
    /// To each of these faces.
    Few(Vec<(usize, BoundIds)>),
    /// To each face.
    All(GroupRow),
}

/// As [`LazyVerdicts::few`].
const FEW: usize = 32;

impl<'a> LazyVerdicts<'a> {
    fn new(kinds: Kinds<'a>) -> Self {
        let made = Made { maker: RowMaker::new(&kinds), groups: FxHashMap::default() };
        Self { assumed: kinds.assumed(), kinds, few: FEW, made: RefCell::new(made) }
    }

    fn at(&self, known: &mut TrafficTable, group: GroupId, face: usize) -> BoundIds {
        let mut made = self.made.borrow_mut();
        let Made { maker, groups } = &mut *made;
        let of_group = groups.entry(group).or_insert_with(|| OfGroup::Few(Vec::new()));
        if let OfGroup::Few(list) = of_group {
            if let Some((_, bounds)) = list.iter().find(|(of, _)| *of == face) {
                return *bounds;
            }
            if list.len() < self.few {
                let bounds = self.of_face(known, group, face);
                list.push((face, bounds));
                return bounds;
            }
            *of_group = OfGroup::All(maker.row(&self.kinds, self.kinds.groups.get(group), known));
        }
        match of_group {
            OfGroup::All(row) => {
                let least = row.admits.at(face);
                BoundIds { least, most: row.may_admit.at(known, least, face, self.assumed[face]) }
            }
            OfGroup::Few(_) => self.of_face(known, group, face),
        }
    }

    fn of_face(&self, known: &mut TrafficTable, group: GroupId, face: usize) -> BoundIds {
        let (cluster, seen) = (self.kinds.cluster, self.kinds.other_end_of_face(face));
        let group = self.kinds.groups.get(group);
        let least = known.id(&group.traffic(cluster, seen));
        BoundIds { least, most: known.id(&group.possible_traffic(cluster, seen, seen.new_family)) }
    }
}

impl JudgeKinds for LazyVerdicts<'_> {
    fn kind(&self, kind: KindId) -> &EndKind {
        &self.kinds.seen[kind.index()]
    }

    fn least(&self, known: &mut TrafficTable, group: GroupId, face: usize) -> TrafficId {
        self.at(known, group, face).least
    }

    fn most(&self, known: &mut TrafficTable, group: GroupId, face: usize) -> TrafficId {
        self.at(known, group, face).most
    }
}
