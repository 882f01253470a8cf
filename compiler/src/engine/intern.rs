//! Strings as numbers. A cluster says the same few keys and values over and
//! over; each is kept once, for as long as something names it.

use std::hash::BuildHasher;
use std::num::NonZeroU32;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

/// A string that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Text(NonZeroU32);

impl Text {
    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

#[derive(Debug)]
struct Interned {
    text: Box<str>,
    uses: u32,
}

/// The strings.
#[derive(Debug, Default)]
pub(super) struct Interner {
    entries: slab::Slab<Interned>,
    by_text: HashTable<Text>,
}

fn hash(text: &str) -> u64 {
    FxBuildHasher.hash_one(text)
}

impl Interner {
    /// The number of a string, which is kept until it is released as often as
    /// it was asked for here.
    pub(super) fn keep(&mut self, text: &str) -> Text {
        if let Some(known) = self.find(text) {
            self.entries[known.place()].uses += 1;
            return known;
        }
        let place = self.entries.insert(Interned { text: text.into(), uses: 1 }) + 1;
        let id = u32::try_from(place).ok().and_then(NonZeroU32::new);
        let id = Text(id.unwrap_or_else(|| unreachable!("2^32 strings do not fit in memory")));
        let entries = &self.entries;
        self.by_text.insert_unique(hash(text), id, |id| hash(&entries[id.place()].text));
        id
    }

    /// The number of a string that is kept.
    pub(super) fn find(&self, text: &str) -> Option<Text> {
        self.by_text.find(hash(text), |id| *self.entries[id.place()].text == *text).copied()
    }

    /// One use less.
    pub(super) fn release(&mut self, text: Text) {
        let entry = &mut self.entries[text.place()];
        entry.uses -= 1;
        if entry.uses == 0 {
            let entry = self.entries.remove(text.place());
            if let Ok(found) = self.by_text.find_entry(hash(&entry.text), |id| *id == text) {
                found.remove();
            }
        }
    }

    /// The string.
    pub(super) fn text(&self, text: Text) -> &str {
        &self.entries[text.place()].text
    }
}
