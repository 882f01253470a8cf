//! How much of a large change is loaded at once: as much as holds others up for a moment only.

use std::time::Duration;

use npc_compiler::engine::Portion;
use npc_compiler::plan::{Plan, Step};

/// A change of one namespace that makes more rules and sets than this is loaded first.
pub(super) const LARGE: usize = 1_000;

/// If a change may make more rules and sets than this, what it makes is found out beside the loop. For a smaller one,
/// finding it out takes some milliseconds, and the change does not have to wait behind that of another namespace.
pub(super) const BESIDE: usize = 8 * LARGE;

/// A portion that takes less than the first is followed by a larger one, one that takes more than
/// the second by a smaller one, if that is of use.
const GOOD: [Duration; 2] = [Duration::from_millis(40), Duration::from_millis(100)];

/// How many rules, or sets, a portion may have, and the place of how many the first one has.
const SIZES: [usize; 6] = [32, 64, 125, 250, 500, 1_000];
const FIRST: usize = 3;

/// What a portion of a size took is of use for so many portions. The table grows while others are
/// loaded.
const FRESH: u32 = 12;

/// How much is loaded at once.
#[derive(Debug, Default)]
pub(super) struct LoadPace {
    sets: Share,
    rules: Share,
}

/// A number of rules or sets.
///
/// What a portion takes may grow with its size, and then a smaller one holds others up for less
/// long. Or it is what the whole table takes, as with legacy, and then smaller ones only make all of
/// it last longer. So what a size took is compared with what its neighbours took.
#[derive(Debug)]
struct Share {
    /// The size's place.
    size: usize,
    /// What the last portion of each size took, and before how many portions that was.
    took: [Option<(Duration, u32)>; SIZES.len()],
}

impl Default for Share {
    fn default() -> Self {
        Self { size: FIRST, took: [None; SIZES.len()] }
    }
}

impl LoadPace {
    /// What is to be loaded next.
    pub(super) fn portion(&self) -> Portion {
        Portion { sets: SIZES[self.sets.size], rules: SIZES[self.rules.size] }
    }

    /// Takes in how long a portion took.
    pub(super) fn took(&mut self, plan: &Plan, time: Duration) {
        match plan.steps.last() {
            Some(Step::Sets(_)) => self.sets.took(time),
            Some(Step::Chains(..)) => self.rules.took(time),
            Some(Step::Grace) | None => {}
        }
    }
}

impl Share {
    fn took(&mut self, time: Duration) {
        for known in &mut self.took {
            *known = known.map(|(time, age)| (time, age + 1)).filter(|(_, age)| *age < FRESH);
        }
        self.took[self.size] = Some((time, 0));
        self.size = self.next(time);
    }

    /// The place of the next size, after this one took so long.
    fn next(&self, time: Duration) -> usize {
        let (smaller, larger) = (self.size.checked_sub(1), Some(self.size + 1).filter(|size| *size < SIZES.len()));
        let known = |size: usize| self.took[size].map(|(time, _)| time);
        // Twice as much for less than a third more, or half of it for less than three quarters.
        let is_cheap = |larger: usize| known(larger).map(|larger| larger * 3 < time * 4);
        let is_worth = |smaller: usize| known(smaller).map(|smaller| smaller * 4 < time * 3);
        if time < GOOD[0] {
            return larger.filter(|size| known(*size).is_none_or(|time| time <= GOOD[1])).unwrap_or(self.size);
        }
        if time <= GOOD[1] {
            return self.size;
        }
        match (smaller.map(is_worth), larger.map(is_cheap)) {
            (_, Some(Some(true))) => self.size + 1,
            (Some(Some(true) | None), _) => self.size - 1,
            (_, Some(None)) => self.size + 1,
            _ => self.size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads this many portions into a kernel; the time for a size depends on how much was loaded
    /// before. Answers the sizes, and what each took.
    fn load(portions: usize, kernel: impl Fn(f64, f64) -> f64) -> Vec<(usize, Duration)> {
        let mut share = Share::default();
        let mut loaded = 0;
        let mut all = Vec::new();
        for _ in 0..portions {
            let size = SIZES[share.size];
            let millis = kernel(f64::from(u32::try_from(size).expect("it is small")), f64::from(loaded));
            let time = Duration::from_secs_f64(millis / 1e3);
            share.took(time);
            loaded += u32::try_from(size).expect("it is small");
            all.push((size, time));
        }
        all
    }

    fn longest(loads: &[(usize, Duration)]) -> u128 {
        loads.iter().map(|(_, time)| time.as_millis()).max().unwrap_or_default()
    }

    #[test]
    fn a_portion_shrinks_where_the_time_grows_with_it() {
        // Each rule takes as long as the sets beside it are many.
        for (millis, most) in [(0.2, 100), (0.4, 100), (0.8, 100), (1.6, 103), (3.0, 100)] {
            let loads = load(100, |size, _| millis * size);
            assert!(longest(&loads[4..]) <= most, "{millis} ms for each: {:?}", &loads[..8]);
        }
        let loads = load(100, |size, _| 0.01 * size);
        assert!(loads[3..].iter().all(|(size, _)| *size == 1_000), "{loads:?}");
    }

    #[test]
    fn a_portion_grows_where_each_takes_what_the_whole_table_needs() {
        for table in [60.0, 150.0, 800.0] {
            let loads = load(40, |size, _| table + 0.001 * size);
            let rules: usize = loads.iter().map(|(size, _)| *size).sum();
            let least = if table < 100.0 { 40 * 250 } else { 40 * 700 };
            assert!(rules >= least, "{table}: {rules} rules, {loads:?}");
        }
        // And the table grows with what is loaded.
        let loads = load(60, |size, loaded| 20.0 + 0.01 * loaded + 0.01 * size);
        assert!(loads.iter().map(|(size, _)| *size).sum::<usize>() > 60 * 600, "{loads:?}");
    }

    #[test]
    fn a_portion_takes_no_more_than_twice_what_the_smallest_takes_or_what_is_good() {
        for fixed in [0.0, 10.0, 50.0, 100.0, 200.0, 500.0] {
            for each in [0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0] {
                let loads = load(200, |size, _| fixed + each * size);
                let least = fixed + each * 32.0;
                let most = Duration::from_secs_f64((2.1 * least).max(101.0) / 1e3);
                // A size that was too large is tried again only now and then.
                let over = loads[6..].iter().filter(|(_, time)| *time > most).count();
                assert!(over * FRESH as usize / 2 <= loads.len(), "{fixed} + {each}: {over} of {loads:?}");
            }
        }
    }

    #[test]
    fn one_portion_that_took_long_for_another_reason_changes_little() {
        let mut share = Share::default();
        for _ in 0..8 {
            share.took(Duration::from_millis(30));
        }
        share.took(Duration::from_secs(2));
        for _ in 0..8 {
            share.took(Duration::from_millis(30));
        }
        assert!(SIZES[share.size] >= 500, "{share:?}");
    }
}
