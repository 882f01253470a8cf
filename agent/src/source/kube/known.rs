//! Which objects are known to be there, so that a list tells which are gone.
//!
//! A watch that broke off has told of no deletions meanwhile, so what a new
//! list does not hold is gone. A list that breaks off itself tells nothing.

use std::collections::HashSet;
use std::hash::Hash;

use npc_compiler::engine::PodKey;

/// The keys of the objects of one kind.
#[derive(Debug)]
pub(super) struct Known<K> {
    all: HashSet<K>,
    /// What the list that is coming in has held so far; `None` where none is.
    listed: Option<HashSet<K>>,
}

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self { all: HashSet::new(), listed: None }
    }
}

impl<K: Eq + Hash + Clone> Known<K> {
    /// A list begins; one that was coming in has broken off, and what it held
    /// is there all the same.
    pub(super) fn list_begins(&mut self) {
        self.list_breaks_off();
        self.listed = Some(HashSet::new());
    }

    fn list_breaks_off(&mut self) {
        self.all.extend(self.listed.take().into_iter().flatten());
    }

    /// An object is there.
    pub(super) fn came(&mut self, key: K) {
        match &mut self.listed {
            Some(listed) => drop(listed.insert(key)),
            None => drop(self.all.insert(key)),
        }
    }

    /// An object is gone.
    pub(super) fn went(&mut self, key: &K) {
        self.all.remove(key);
        if let Some(listed) = &mut self.listed {
            listed.remove(key);
        }
    }

    /// The list is complete; what was known and is not in it.
    pub(super) fn list_ends(&mut self) -> Vec<K> {
        let Some(listed) = self.listed.take() else { return Vec::new() };
        let before = std::mem::replace(&mut self.all, listed);
        before.into_iter().filter(|key| !self.all.contains(key)).collect()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

/// A pod's key, small where its UID is a UUID, as every API server's is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum SmallKey {
    Uid([u8; 16]),
    Other(Box<PodKey>),
}

impl From<PodKey> for SmallKey {
    fn from(key: PodKey) -> Self {
        match key {
            PodKey::Uid(uid) => Self::Uid(uid.to_be_bytes()),
            other => Self::Other(Box::new(other)),
        }
    }
}

impl From<SmallKey> for PodKey {
    fn from(key: SmallKey) -> Self {
        match key {
            SmallKey::Uid(uid) => Self::Uid(u128::from_be_bytes(uid)),
            SmallKey::Other(other) => *other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_list_does_not_hold_is_gone() {
        let mut known = Known::default();
        known.list_begins();
        for key in 1..=3 {
            known.came(key);
        }
        assert!(known.list_ends().is_empty());
        known.came(4);
        known.went(&1);
        known.list_begins();
        known.came(2);
        known.came(5);
        let mut gone = known.list_ends();
        gone.sort_unstable();
        assert_eq!(gone, [3, 4]);
        assert_eq!(known.len(), 2);
    }

    #[test]
    fn a_list_that_breaks_off_loses_no_deletion() {
        let mut known = Known::default();
        known.list_begins();
        known.came(1);
        known.came(2);
        assert!(known.list_ends().is_empty());
        known.list_begins();
        // One that only this list told of, and that is gone before the next.
        known.came(3);
        known.list_begins();
        known.came(2);
        let mut gone = known.list_ends();
        gone.sort_unstable();
        assert_eq!(gone, [1, 3]);
    }
}
