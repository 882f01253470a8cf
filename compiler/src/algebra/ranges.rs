//! Exact set algebra on numbers: sets of ports, and sets of addresses, as
//! sorted, disjoint, inclusive ranges that never touch.

use std::fmt::Debug;

/// A number with a next one.
pub trait Number: Copy + Ord + Debug {
    /// The number after this one; `None` after the last.
    fn next(self) -> Option<Self>;
    /// The number before this one; `None` before the first.
    fn previous(self) -> Option<Self>;
}

macro_rules! number {
    ($($t:ty),*) => {$(
        impl Number for $t {
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}

number!(u8, u16, u128);

/// A set of numbers in its one canonical form, so that equal sets are equal
/// values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeSet<T> {
    ranges: Vec<(T, T)>,
}

impl<T> Default for RangeSet<T> {
    fn default() -> Self {
        Self { ranges: Vec::new() }
    }
}

impl<T: Number> RangeSet<T> {
    /// The numbers from `first` to `last`, both included; nothing if `last`
    /// is less than `first`.
    #[must_use]
    pub fn range(first: T, last: T) -> Self {
        Self { ranges: if first <= last { vec![(first, last)] } else { Vec::new() } }
    }

    /// The union of ranges in any order, overlapping or not.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = (T, T)>) -> Self {
        let mut sorted: Vec<(T, T)> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        sorted.sort_unstable();
        let mut ranges: Vec<(T, T)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match ranges.last_mut() {
                Some(previous) if previous.1.next().is_none_or(|next| first <= next) => {
                    previous.1 = previous.1.max(last);
                }
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }

    /// The ranges, in order.
    #[must_use]
    pub fn ranges(&self) -> &[(T, T)] {
        &self.ranges
    }

    /// Whether the set has no number.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether the set is exactly the numbers from `first` to `last`.
    #[must_use]
    pub fn is_range(&self, first: T, last: T) -> bool {
        self.ranges == [(first, last)]
    }

    /// Whether the number is in the set.
    #[must_use]
    pub fn contains(&self, number: T) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        after > 0 && number <= self.ranges[after - 1].1
    }

    /// The numbers that are in any of the sets. Many sets are united by this at once: one
    /// by one costs their number squared.
    #[must_use]
    pub fn union_of<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self
    where
        T: 'a,
    {
        Self::from_ranges(sets.into_iter().flat_map(|set| set.ranges.iter().copied()))
    }

    /// The numbers that are in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        if self.is_empty() {
            return other.clone();
        }
        Self::from_ranges(self.ranges.iter().chain(&other.ranges).copied())
    }

    /// The numbers that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (few, many) = if self.ranges.len() <= other.ranges.len() { (self, other) } else { (other, self) };
        let mut many = many.ranges.as_slice();
        let mut ranges = Vec::new();
        for &(first, last) in &few.ranges {
            many = from(many, first);
            let overlapping = many.iter().take_while(|other| other.0 <= last);
            ranges.extend(overlapping.map(|other| (first.max(other.0), last.min(other.1))));
        }
        Self { ranges }
    }

    /// The numbers that are in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len());
        let mut cuts = other.ranges.as_slice();
        for &(mut first, last) in &self.ranges {
            // Cuts that end before this range end before all later ones too.
            cuts = from(cuts, first);
            let mut rest = true;
            for cut in cuts.iter().take_while(|cut| cut.0 <= last) {
                if let Some(before) = cut.0.previous().filter(|before| *before >= first) {
                    ranges.push((first, before));
                }
                match cut.1.next().filter(|after| *after <= last) {
                    Some(after) => first = after,
                    None => {
                        rest = false;
                        break;
                    }
                }
            }
            if rest {
                ranges.push((first, last));
            }
        }
        Self { ranges }
    }
}

/// The ranges that do not end before a number. It reads few of those that do, so a short set and a
/// long one are compared at the cost of the short one.
fn from<T: Number>(ranges: &[(T, T)], first: T) -> &[(T, T)] {
    let mut step = 1;
    while ranges.get(step - 1).is_some_and(|range| range.1 < first) {
        step *= 2;
    }
    // All before half of the step end before it; what is at the step does not.
    let (known, end) = (step / 2, step.min(ranges.len()));
    let place = known + ranges[known..end].partition_point(|range| range.1 < first);
    &ranges[place..]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Vec<(u8, u8)>> {
        // Small numbers so that ranges meet, and both ends of the type.
        let number = prop_oneof![0_u8..20, 236_u8..=255];
        proptest::collection::vec((number.clone(), number), 0..8)
    }

    fn members(ranges: &[(u8, u8)]) -> BTreeSet<u8> {
        ranges.iter().filter(|(a, b)| a <= b).flat_map(|(a, b)| *a..=*b).collect()
    }

    fn is_canonical(set: &RangeSet<u8>) -> bool {
        set.ranges.iter().all(|(a, b)| a <= b)
            && set.ranges.windows(2).all(|w| u16::from(w[0].1) + 1 < u16::from(w[1].0))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_algebra_is_that_of_sets_of_numbers(a in ranges(), b in ranges()) {
            let (x, y) = (RangeSet::from_ranges(a.clone()), RangeSet::from_ranges(b.clone()));
            let (a, b) = (members(&a), members(&b));
            let same = |set: &RangeSet<u8>, numbers: BTreeSet<u8>| {
                assert!(is_canonical(set), "{set:?}");
                assert_eq!(members(set.ranges()), numbers);
                for number in 0..=u8::MAX {
                    assert_eq!(set.contains(number), numbers.contains(&number), "{number} of {set:?}");
                }
            };
            same(&x, a.clone());
            same(&x.union(&y), &a | &b);
            same(&x.intersection(&y), &a & &b);
            same(&x.difference(&y), &a - &b);
            same(&RangeSet::union_of([&x, &y, &x]), &a | &b);
        }
    }
}
