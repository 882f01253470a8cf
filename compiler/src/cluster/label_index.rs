//! Which things have a label, found without trying a selector on all of them.

use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::algebra::selector::{Operator, Selector};

/// After how many searches an index pays.
const SEARCHES: usize = 4;

/// Things by their labels. Where many selectors ask, each tried on each thing takes seconds: 10,000 peers on
/// 10,000 classes, or on 25,000 namespaces.
#[derive(Debug)]
pub(super) struct LabelIndex<T> {
    /// How often selectors asked.
    searches: AtomicUsize,
    /// Those that have a label, by the label's hash.
    by_label: OnceLock<FxHashMap<u64, Vec<T>>>,
}

impl<T> Default for LabelIndex<T> {
    fn default() -> Self {
        Self { searches: AtomicUsize::new(0), by_label: OnceLock::new() }
    }
}

impl<T: Clone> LabelIndex<T> {
    /// The things among which all those are that a selector selects, in the order in which `add_all` adds
    /// them. None where the selector asks for no label with one value, or where an index does not pay yet: then
    /// the caller tries all.
    pub(super) fn candidates(
        &self,
        selector: &Selector,
        add_all: impl FnOnce(&mut dyn FnMut(&str, &str, &T)),
    ) -> Option<&[T]> {
        let label = selector.requirements().find_map(|requirement| match &requirement.operator {
            Operator::In(values) => match &**values {
                [value] => Some(label_hash(&requirement.key, value)),
                _ => None,
            },
            Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
        })?;
        if self.searches.fetch_add(1, Ordering::Relaxed) < SEARCHES {
            return None;
        }
        let by_label = self.by_label.get_or_init(|| {
            let mut by_label = FxHashMap::<u64, Vec<T>>::default();
            add_all(&mut |key, value, thing| {
                by_label.entry(label_hash(key, value)).or_default().push(thing.clone());
            });
            by_label
        });
        Some(by_label.get(&label).map_or(&[][..], Vec::as_slice))
    }
}

fn label_hash(key: &str, value: &str) -> u64 {
    FxBuildHasher.hash_one((key, value))
}
