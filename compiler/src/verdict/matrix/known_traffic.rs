//! Traffic by number, so that what is worked out about two of them is worked out once.

use std::sync::Arc;

use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::algebra::traffic::Traffic;

/// Traffic that is known, by its place in [`TrafficTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct TrafficId(u32);

impl TrafficId {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const ALL: Self = Self(1);
}

/// All traffic that came up, each once, and what was worked out about it.
#[derive(Debug)]
pub(crate) struct TrafficTable {
    traffic: IndexSet<Arc<Traffic>, FxBuildHasher>,
    unions: FxHashMap<(TrafficId, TrafficId), TrafficId>,
    intersections: FxHashMap<(TrafficId, TrafficId), TrafficId>,
    differences: FxHashMap<(TrafficId, TrafficId), TrafficId>,
}

impl TrafficTable {
    pub(crate) fn new() -> Self {
        let traffic = [Traffic::none(), Traffic::all()].into_iter().map(Arc::new).collect();
        Self {
            traffic,
            unions: FxHashMap::default(),
            intersections: FxHashMap::default(),
            differences: FxHashMap::default(),
        }
    }

    pub(crate) fn traffic(&self, id: TrafficId) -> Arc<Traffic> {
        Arc::clone(&self.traffic[id.0 as usize])
    }

    pub(crate) fn id(&mut self, traffic: &Traffic) -> TrafficId {
        let found = self.traffic.get_index_of(traffic);
        TrafficId(place(found.unwrap_or_else(|| self.traffic.insert_full(Arc::new(traffic.clone())).0)))
    }

    pub(crate) fn union(&mut self, a: TrafficId, b: TrafficId) -> TrafficId {
        match (a, b) {
            _ if a == b => return a,
            (TrafficId::NONE, other) | (other, TrafficId::NONE) => return other,
            (TrafficId::ALL, _) | (_, TrafficId::ALL) => return TrafficId::ALL,
            _ => {}
        }
        if let Some(known) = self.unions.get(&(a, b)) {
            return *known;
        }
        let made = self.traffic[a.0 as usize].union(&self.traffic[b.0 as usize]);
        let id = self.id(&made);
        self.unions.insert((a, b), id);
        id
    }

    pub(crate) fn intersection(&mut self, a: TrafficId, b: TrafficId) -> TrafficId {
        match (a, b) {
            _ if a == b => return a,
            (TrafficId::NONE, _) | (_, TrafficId::NONE) => return TrafficId::NONE,
            (TrafficId::ALL, other) | (other, TrafficId::ALL) => return other,
            _ => {}
        }
        if let Some(known) = self.intersections.get(&(a, b)) {
            return *known;
        }
        let made = self.traffic[a.0 as usize].intersection(&self.traffic[b.0 as usize]);
        let id = self.id(&made);
        self.intersections.insert((a, b), id);
        id
    }

    /// What is in the first and not in the second.
    pub(crate) fn difference(&mut self, a: TrafficId, b: TrafficId) -> TrafficId {
        if a == b || a == TrafficId::NONE || b == TrafficId::ALL {
            return TrafficId::NONE;
        }
        if b == TrafficId::NONE {
            return a;
        }
        if let Some(known) = self.differences.get(&(a, b)) {
            return *known;
        }
        let made = self.traffic[a.0 as usize].difference(&self.traffic[b.0 as usize]);
        let id = self.id(&made);
        self.differences.insert((a, b), id);
        id
    }
}

/// A place among things that are never 2^32.
#[allow(clippy::cast_possible_truncation, reason = "no cluster holds 2^32 objects of a kind")]
pub(super) fn place(place: usize) -> u32 {
    place as u32
}
