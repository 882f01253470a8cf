//! How much of a large change is loaded at once: as much as holds others up for a moment only.

use std::time::Duration;

use npc_compiler::engine::Portion;
use npc_compiler::plan::{Plan, Step};

/// A change of one namespace that makes more rules and sets than this is loaded first.
pub(super) const LARGE: usize = 1_000;

/// A portion that takes less than the first is doubled, one that takes more than the second
/// is halved, if it took much longer than the fastest so far.
const GOOD: [Duration; 2] = [Duration::from_millis(40), Duration::from_millis(100)];

/// How many rules, or sets, a portion has at first, at least and at most.
const FIRST: usize = 250;
const LEAST: usize = 32;
const MOST: usize = 1_000;

/// How much is loaded at once.
#[derive(Debug)]
pub(super) struct Pace {
    sets: Share,
    rules: Share,
}

/// A number of rules or sets, and what the least of them took.
#[derive(Debug)]
struct Share {
    size: usize,
    /// A commit with legacy takes the time that the whole table needs, however few rules come.
    floor: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        let share = || Share { size: FIRST, floor: None };
        Self { sets: share(), rules: share() }
    }
}

impl Pace {
    /// What is to be loaded next.
    pub(super) fn portion(&self) -> Portion {
        Portion { sets: self.sets.size, rules: self.rules.size }
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
        // The table may have grown since, so an old floor rises.
        let floor = self.floor.map_or(time, |floor| (floor + floor / 8).min(time));
        self.floor = Some(floor);
        if time < GOOD[0].max(floor + floor / 4) {
            self.size = (self.size * 2).min(MOST);
        } else if time > GOOD[1].max(floor * 2) {
            self.size = (self.size / 2).max(LEAST);
        }
    }
}
