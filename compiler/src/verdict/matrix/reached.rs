//! Which destinations each source reaches, found by classes of endpoints.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::Matrix;

/// The destinations of sources, remembered by class because the sources of one class have the
/// same ones, but for themselves.
pub(super) struct Reached<'m, 'a> {
    matrix: &'m Matrix<'a>,
    /// The endpoints that no rule distinguishes.
    alike: Vec<Vec<usize>>,
    /// By endpoint.
    class: Vec<usize>,
    /// The classes that are shown as destinations.
    destinations: Vec<usize>,
    by_class: FxHashMap<usize, Rc<[usize]>>,
    remembered: usize,
}

/// At most this many destinations are remembered, 32 MB of them.
const REMEMBERED: usize = 4_000_000;

impl<'m, 'a> Reached<'m, 'a> {
    pub(super) fn new(matrix: &'m Matrix<'a>) -> Self {
        let alike = matrix.alike();
        let mut class = vec![0; matrix.endpoints.len()];
        for (place, members) in alike.iter().enumerate() {
            for member in members {
                class[*member] = place;
            }
        }
        // The endpoints of one class are shown alike.
        let destinations = (0..alike.len()).filter(|place| matrix.is_shown(alike[*place][0]).1).collect();
        Self { matrix, alike, class, destinations, by_class: FxHashMap::default(), remembered: 0 }
    }

    /// The destinations that a source may reach, sorted. The source itself is always among
    /// them, because what passes within an endpoint is its own matter.
    pub(super) fn by(&mut self, from: usize) -> Rc<[usize]> {
        let class = self.class[from];
        let reached = match self.by_class.get(&class) {
            Some(reached) => Rc::clone(reached),
            None => {
                let reached = self.by_class_of(class);
                if self.remembered + reached.len() > REMEMBERED {
                    self.by_class.clear();
                    self.remembered = 0;
                }
                self.remembered += reached.len();
                self.by_class.insert(class, Rc::clone(&reached));
                reached
            }
        };
        match reached.binary_search(&from) {
            Ok(_) => reached,
            Err(place) => reached[..place].iter().chain([&from]).chain(&reached[place..]).copied().collect(),
        }
    }

    fn by_class_of(&self, class: usize) -> Rc<[usize]> {
        let mut reached: Vec<usize> = self.classes(class).flat_map(|to| &self.alike[to]).copied().collect();
        reached.sort_unstable();
        reached.into()
    }

    /// How many pairs of different endpoints exchange something or may; counting ends above a
    /// limit.
    pub(super) fn pairs(&self, most: usize) -> usize {
        let mut pairs = 0_usize;
        for (class, members) in self.alike.iter().enumerate() {
            let sources = members.len();
            for to in self.classes(class) {
                pairs = pairs.saturating_add(sources.saturating_mul(self.alike[to].len()));
            }
            if pairs > most {
                break;
            }
        }
        pairs
    }

    /// Those of the shown classes that a class reaches.
    fn classes(&self, from: usize) -> impl Iterator<Item = usize> {
        let source = self.alike[from][0];
        let destinations = if self.matrix.is_shown(source).0 { self.destinations.as_slice() } else { &[] };
        destinations.iter().copied().filter(move |to| {
            let destination = match (from == *to, self.alike[*to].as_slice()) {
                (true, [_, another, ..]) => *another,
                (_, members) => members[0],
            };
            self.matrix.is_open(source, destination)
        })
    }
}
