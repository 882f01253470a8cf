//! A part of a matrix: some sources, some destinations, some traffic.

use super::{Cell, Matrix};
use crate::algebra::traffic::Traffic;

/// What of a matrix is shown.
#[derive(Debug, Clone)]
pub struct Restriction {
    /// The sources, by their places in [`Matrix::endpoints`].
    pub from: Vec<bool>,
    /// The destinations.
    pub to: Vec<bool>,
    /// The traffic.
    pub traffic: Traffic,
}

impl Matrix<'_> {
    /// Shows only this from now on. Endpoints that are neither go, so the places of the
    /// others change.
    pub fn restrict(&mut self, mut only: Restriction) {
        let keep: Vec<bool> = only.from.iter().zip(&only.to).map(|(from, to)| *from || *to).collect();
        let kept = || {
            let mut keep = keep.iter().copied();
            move || keep.next().unwrap_or(false)
        };
        let (mut endpoints, mut rows, mut from, mut to) = (kept(), kept(), kept(), kept());
        self.endpoints.retain(|_| endpoints());
        self.rows.retain(|_| rows());
        only.from.retain(|_| from());
        only.to.retain(|_| to());
        self.only = Some(only);
    }

    /// Whether an endpoint is shown as a source and as a destination.
    #[must_use]
    pub fn is_shown(&self, endpoint: usize) -> (bool, bool) {
        self.only.as_ref().map_or((true, true), |only| (only.from[endpoint], only.to[endpoint]))
    }

    /// What is shown of traffic.
    #[must_use]
    pub fn shown(&self, traffic: &Traffic) -> Traffic {
        self.only.as_ref().map_or_else(|| traffic.clone(), |only| traffic.intersection(&only.traffic))
    }

    /// What is shown of a cell.
    pub(super) fn shown_of(&self, mut cell: Cell) -> Option<Cell> {
        let Some(only) = &self.only else { return Some(cell) };
        if !only.from[cell.from] || !only.to[cell.to] {
            return None;
        }
        cell.traffic = cell.traffic.intersection(&only.traffic).into();
        cell.unknown = cell.unknown.intersection(&only.traffic);
        cell.differs = cell.differs.intersection(&only.traffic);
        // What may be allowed is shown too.
        (!cell.traffic.is_none() || !cell.unknown.is_none()).then_some(cell)
    }
}
