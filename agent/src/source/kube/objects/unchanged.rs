//! Large policies that a list holds as they were. They are not read again: a list of many
//! megabytes would take seconds, and a new policy behind them waits as long.
//!
//! **Invariant.** What is remembered of a policy is what the follower was given of it last. So
//! what the follower takes for gone is forgotten here: what was deleted, and what a complete
//! list lacked.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use super::decode::{Identity, Item};
use super::read::Piece;

/// Smaller objects are read as fast as they are recognised.
const LARGE: usize = 64 << 10;

/// The large objects of one kind, by their bytes.
#[derive(Debug, Default)]
pub(in super::super) struct Unchanged {
    is_used: bool,
    /// No tenant knows its key, so none can make two objects that have one hash.
    hasher: RandomState,
    objects: HashMap<u64, Identity>,
    hashes: HashMap<(String, String), u64>,
    /// What the list that is coming in has held so far; none where no list is.
    listed: Option<HashSet<u64>>,
}

impl Unchanged {
    /// Nothing is remembered unless `is_used`.
    pub(in super::super) fn new(is_used: bool) -> Self {
        Self { is_used, ..Self::default() }
    }

    /// A list begins.
    pub(in super::super) fn begin_list(&mut self) {
        self.listed = Some(HashSet::new());
    }

    /// A list is complete: what it did not hold does not exist.
    pub(in super::super) fn end_list(&mut self) {
        let Some(listed) = self.listed.take() else { return };
        self.objects.retain(|hash, _| listed.contains(hash));
        self.hashes.retain(|_, hash| listed.contains(hash));
    }

    /// The identity of the object with these bytes, if it is as it was before.
    pub(in super::super) fn find(&mut self, piece: Piece, bytes: &[u8]) -> Option<Identity> {
        let listed = self.listed.as_mut()?;
        if bytes.len() < LARGE || piece != Piece::Whole || self.objects.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one(bytes);
        let identity = self.objects.get(&hash)?.clone();
        listed.insert(hash);
        Some(identity)
    }

    /// The follower is given an object of these bytes.
    pub(in super::super) fn note<T>(&mut self, item: &Item<T>, bytes: &[u8]) {
        self.forget(&item.identity);
        if !self.is_used || bytes.len() < LARGE || item.content.is_err() {
            return;
        }
        let hash = self.hasher.hash_one(bytes);
        self.hashes.insert(key(&item.identity), hash);
        self.objects.insert(hash, item.identity.clone());
        if let Some(listed) = &mut self.listed {
            listed.insert(hash);
        }
    }

    /// An object is gone, or is different.
    pub(in super::super) fn forget(&mut self, identity: &Identity) {
        if self.hashes.is_empty() {
            return;
        }
        if let Some(hash) = self.hashes.remove(&key(identity)) {
            self.objects.remove(&hash);
        }
    }
}

fn key(identity: &Identity) -> (String, String) {
    (identity.namespace.clone(), identity.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str) -> Item<()> {
        let identity = Identity { name: name.to_owned(), ..Identity::default() };
        Item { identity, content: Ok(()), rescue: None, bytes: 0, room: None }
    }

    fn bytes(of: u8) -> Vec<u8> {
        vec![of; LARGE]
    }

    /// The name of what a list holds as it was.
    fn found(unchanged: &mut Unchanged, bytes: &[u8]) -> Option<String> {
        unchanged.find(Piece::Whole, bytes).map(|identity| identity.name)
    }

    #[test]
    fn an_object_is_as_it_was_only_if_it_was_given_last_with_these_bytes() {
        let mut unchanged = Unchanged::new(true);
        unchanged.note(&item("a"), &bytes(1));
        assert_eq!(found(&mut unchanged, &bytes(1)), None, "no list comes in");
        unchanged.begin_list();
        assert_eq!(found(&mut unchanged, &bytes(1)).as_deref(), Some("a"));
        assert_eq!(found(&mut unchanged, &bytes(2)), None);
        // It changes, and then is as before.
        unchanged.note(&item("a"), &bytes(2));
        assert_eq!(found(&mut unchanged, &bytes(1)), None);
        assert_eq!(found(&mut unchanged, &bytes(2)).as_deref(), Some("a"));
        assert_eq!(unchanged.find(Piece::Cut, &bytes(2)), None);
        // Its next version cannot be read, or is small.
        unchanged.note(&Item { content: Err("odd".to_owned()), ..item("a") }, &bytes(3));
        assert_eq!([1, 2, 3].map(|of| found(&mut unchanged, &bytes(of))), [None, None, None]);
        unchanged.note(&item("a"), &bytes(1));
        unchanged.note(&item("a"), &[1]);
        assert_eq!(found(&mut unchanged, &bytes(1)), None);
    }

    #[test]
    fn what_is_gone_is_not_as_it_was() {
        let mut unchanged = Unchanged::new(true);
        for (name, of) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
            unchanged.note(&item(name), &bytes(of));
        }
        unchanged.forget(&item("a").identity);
        // A list that breaks off shows nothing.
        unchanged.begin_list();
        assert_eq!(found(&mut unchanged, &bytes(2)).as_deref(), Some("b"));
        unchanged.begin_list();
        assert_eq!(found(&mut unchanged, &bytes(3)).as_deref(), Some("c"));
        unchanged.note(&item("d"), &bytes(5));
        unchanged.end_list();
        unchanged.begin_list();
        let found = [1, 2, 3, 4, 5].map(|of| found(&mut unchanged, &bytes(of)));
        assert_eq!(found, [None, None, Some("c".to_owned()), None, Some("d".to_owned())]);
    }
}
