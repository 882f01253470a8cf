//! A part of a matrix: some sources, some destinations, some traffic. Only what is asked for is
//! judged.

use std::fmt;

use super::judge::{Kinds, Roles};
use super::reached::Reached;
use super::row::{self, Row};
use super::{By, Cell, Endpoint, Matrix, MatrixOptions, unjudged};
use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::verdict::flow::End;

/// A matrix of more pairs of classes than this is not made: its time grows with their number.
/// A class is all endpoints that no rule distinguishes.
pub const MOST_CELLS: usize = 50_000_000;

/// More pairs of endpoints than this are not listed one by one.
pub const MOST_PAIRS: usize = 10_000_000;

/// What of a matrix is shown.
pub struct MatrixFilter<'s> {
    /// Whether an endpoint is shown as a source and as a destination, by the ends that it
    /// stands for.
    pub shown: &'s dyn Fn(&[End]) -> (bool, bool),
    /// The traffic.
    pub traffic: Traffic,
}

impl fmt::Debug for MatrixFilter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MatrixFilter").field("traffic", &self.traffic).finish_non_exhaustive()
    }
}

/// Rules distinguish more endpoints than a matrix can compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// The classes of sources.
    pub sources: usize,
    /// The classes of destinations.
    pub destinations: usize,
}

/// What of a matrix is shown, by place.
#[derive(Debug)]
pub(super) struct ShownRows {
    /// Whether as a source and as a destination.
    endpoints: Vec<(bool, bool)>,
    traffic: Traffic,
}

impl ShownRows {
    /// Whether something of this traffic is shown.
    pub(super) fn shows_some_of(&self, traffic: &Traffic) -> bool {
        self.traffic.is_all() || !traffic.intersection(&self.traffic).is_none()
    }
}

/// The rows that are asked for, before they are judged.
struct MatrixPart<'a> {
    kinds: Kinds<'a>,
    endpoints: Vec<Endpoint>,
    rows: Vec<Row>,
    shown: ShownRows,
}

impl<'a> MatrixPart<'a> {
    fn of(cluster: &'a Cluster, groups: &'a Groups, options: &MatrixOptions, selection: &MatrixFilter<'_>) -> Self {
        let mut kinds = Kinds::new(cluster, groups);
        let (mut endpoints, mut rows) = (Vec::new(), Vec::new());
        let mut shown = ShownRows { endpoints: Vec::new(), traffic: selection.traffic.clone() };
        for row in unjudged(cluster, options) {
            let (source, destination) = (selection.shown)(&row.ends);
            if source || destination {
                let (endpoint, row) = row.row(&mut kinds, Some(Roles { source, destination }));
                endpoints.push(endpoint);
                rows.push(row);
                shown.endpoints.push((source, destination));
            }
        }
        Self { kinds, endpoints, rows, shown }
    }

    fn judged(self, cluster: &Cluster, by: By) -> Matrix<'_> {
        Matrix::judged(cluster, &self.kinds, by, self.endpoints, self.rows, Some(self.shown))
    }
}

impl<'a> Matrix<'a> {
    /// The part of a matrix that is asked for. Endpoints that are shown neither as a source nor
    /// as a destination are left out, and nothing is judged for them.
    ///
    /// # Errors
    /// If its classes make more than [`MOST_CELLS`] pairs.
    pub fn select(
        cluster: &'a Cluster,
        groups: &Groups,
        options: &MatrixOptions,
        selection: &MatrixFilter<'_>,
    ) -> Result<Self, TooLarge> {
        Self::within(cluster, groups, options, selection, MOST_CELLS)
    }

    /// As above, with a limit of its own.
    pub(super) fn within(
        cluster: &'a Cluster,
        groups: &Groups,
        options: &MatrixOptions,
        selection: &MatrixFilter<'_>,
        most: usize,
    ) -> Result<Self, TooLarge> {
        let part = MatrixPart::of(cluster, groups, options, selection);
        let alike = row::alike(cluster, &part.rows, |place| part.shown.endpoints[place]);
        let count =
            |is: fn((bool, bool)) -> bool| alike.iter().filter(|members| is(part.shown.endpoints[members[0]])).count();
        let (sources, destinations) = (count(|(from, _)| from), count(|(_, to)| to));
        if sources.saturating_mul(destinations) > most {
            return Err(TooLarge { sources, destinations });
        }
        Ok(part.judged(cluster, options.by))
    }

    /// As above, however large it is.
    pub(crate) fn part(
        cluster: &'a Cluster,
        groups: &Groups,
        options: &MatrixOptions,
        selection: &MatrixFilter<'_>,
    ) -> Self {
        MatrixPart::of(cluster, groups, options, selection).judged(cluster, options.by)
    }

    /// Whether an endpoint is shown as a source and as a destination.
    #[must_use]
    pub fn is_shown(&self, endpoint: usize) -> (bool, bool) {
        self.only.as_ref().map_or((true, true), |only| only.endpoints[endpoint])
    }

    /// What is shown of traffic.
    #[must_use]
    pub fn shown(&self, traffic: &Traffic) -> Traffic {
        self.only.as_ref().map_or_else(|| traffic.clone(), |only| traffic.intersection(&only.traffic))
    }

    /// How many endpoints are shown as sources and as destinations.
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        let places = 0..self.endpoints.len();
        let count = |is: fn((bool, bool)) -> bool| places.clone().filter(|place| is(self.is_shown(*place))).count();
        (count(|(from, _)| from), count(|(_, to)| to))
    }

    /// Whether more than [`MOST_PAIRS`] pairs of endpoints are listed.
    #[must_use]
    pub fn has_too_many_pairs(&self) -> bool {
        Reached::new(self).pairs(MOST_PAIRS) > MOST_PAIRS
    }

    /// What is shown of a cell.
    pub(super) fn shown_of(&self, mut cell: Cell) -> Option<Cell> {
        let Some(only) = &self.only else { return Some(cell) };
        if !only.endpoints[cell.from].0 || !only.endpoints[cell.to].1 {
            return None;
        }
        if only.traffic.is_all() {
            return Some(cell);
        }
        cell.traffic = cell.traffic.intersection(&only.traffic).into();
        cell.unknown = cell.unknown.intersection(&only.traffic);
        cell.differs = cell.differs.intersection(&only.traffic);
        // What may be allowed is shown too.
        (!cell.traffic.is_none() || !cell.unknown.is_none()).then_some(cell)
    }
}
