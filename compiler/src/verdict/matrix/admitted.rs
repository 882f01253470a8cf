//! What a group admits to each face of other ends, in as little memory as the faces need that
//! differ from most.
//!
//! A cluster of 100,000 pods has 50,000 groups and as many faces. Most groups treat nearly all
//! faces alike, so a table of all groups and faces would repeat one value 2,500 million times.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::known_traffic::{TrafficId, TrafficTable};
use crate::cluster::group::Atom;

/// What one group admits, by face.
#[derive(Debug, Default)]
pub(super) struct AdmittedRow {
    /// To every face that [`Self::rest`] does not list.
    base: TrafficId,
    rest: Rest,
}

#[derive(Debug)]
enum Rest {
    /// The faces that get something else, sorted.
    Few(Box<[(usize, TrafficId)]>),
    /// What each face gets.
    Each(Box<[TrafficId]>),
}

impl Default for Rest {
    fn default() -> Self {
        Self::Few(Box::default())
    }
}

impl AdmittedRow {
    /// What the group admits to a face.
    pub(super) fn at(&self, face: usize) -> TrafficId {
        match &self.rest {
            Rest::Few(list) if list.is_empty() => self.base,
            Rest::Few(list) => list.binary_search_by_key(&face, |(of, _)| *of).map_or(self.base, |at| list[at].1),
            Rest::Each(all) => all[face],
        }
    }

    /// How many values it stores for faces.
    #[cfg(test)]
    pub(super) fn stored(&self) -> usize {
        match &self.rest {
            Rest::Few(list) => list.len(),
            Rest::Each(all) => all.len(),
        }
    }
}

/// A row that is being made. It is used again for the next one.
#[derive(Debug)]
pub(super) struct RowDraft {
    base: TrafficId,
    /// What is added to single faces.
    more: Vec<TrafficId>,
    /// The faces to which something is added.
    touched: Vec<usize>,
}

/// A list of pairs takes four times the memory of a table for each face that it lists.
const LISTED: usize = 4;

impl RowDraft {
    pub(super) fn new(faces: usize) -> Self {
        Self { base: TrafficId::NONE, more: vec![TrafficId::NONE; faces], touched: Vec::new() }
    }

    pub(super) fn add_to_all(&mut self, known: &mut TrafficTable, traffic: TrafficId) {
        self.base = known.union(self.base, traffic);
    }

    pub(super) fn add(&mut self, known: &mut TrafficTable, face: usize, traffic: TrafficId) {
        if traffic == TrafficId::NONE {
            return;
        }
        if self.more[face] == TrafficId::NONE {
            self.touched.push(face);
        }
        self.more[face] = known.union(self.more[face], traffic);
    }

    /// The row; the draft is empty again.
    pub(super) fn finish(&mut self, known: &mut TrafficTable) -> AdmittedRow {
        let (base, faces) = (std::mem::take(&mut self.base), self.more.len());
        self.touched.sort_unstable();
        let mut listed = Vec::with_capacity(self.touched.len());
        for face in self.touched.drain(..) {
            let traffic = known.union(base, std::mem::take(&mut self.more[face]));
            if traffic != base {
                listed.push((face, traffic));
            }
        }
        let rest = if listed.len() > faces / LISTED {
            let mut each = vec![base; faces];
            for (face, traffic) in listed {
                each[face] = traffic;
            }
            Rest::Each(each.into())
        } else {
            Rest::Few(listed.into())
        };
        AdmittedRow { base, rest }
    }
}

/// The faces that atoms mean, remembered because many groups have the same atoms.
#[derive(Debug, Default)]
pub(super) struct HeldFaces<'g> {
    by_atom: FxHashMap<&'g Atom, Rc<[usize]>>,
    remembered: usize,
}

/// At most this many faces are remembered, 32 MB of them. Those of further atoms are found anew each time.
const REMEMBERED: usize = 4_000_000;

impl<'g> HeldFaces<'g> {
    pub(super) fn of(&mut self, atom: &'g Atom, find: impl FnOnce() -> Vec<usize>) -> Rc<[usize]> {
        if let Some(faces) = self.by_atom.get(atom) {
            return Rc::clone(faces);
        }
        let faces: Rc<[usize]> = find().into();
        if self.remembered + faces.len() <= REMEMBERED {
            self.remembered += faces.len();
            self.by_atom.insert(atom, Rc::clone(&faces));
        }
        faces
    }
}
