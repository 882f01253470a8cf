//! Unused chains of ours that could not be deleted, because another program refers to them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use npc_compiler::object::Family;
use npc_compiler::ruleset::node::ChainName;

/// How soon chains that could not go are tried again, and how seldom at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// The chains that are left, and when they are tried again: less and less often, because the program
/// that refers to them may do so for ever.
#[derive(Debug, Default)]
pub(in super::super) struct LeftChains {
    chains: BTreeSet<(Family, ChainName)>,
    due: Option<Instant>,
    wait: Duration,
}

impl LeftChains {
    /// A chain could not be deleted. All of them are tried again soon.
    pub(in super::super) fn insert(&mut self, family: Family, chain: ChainName) {
        self.chains.insert((family, chain));
        (self.due, self.wait) = (None, Duration::ZERO);
    }

    pub(in super::super) fn contains(&self, family: Family, chain: &ChainName) -> bool {
        self.chains.contains(&(family, chain.clone()))
    }

    /// All chains were read, so each that is left was found again, and a plan deletes it.
    pub(in super::super) fn clear(&mut self) {
        self.chains.clear();
    }

    /// Whether there are some, and they are to be tried again now.
    pub(in super::super) fn is_due(&self, now: Instant) -> bool {
        !self.chains.is_empty() && self.due.is_none_or(|due| due <= now)
    }

    /// Tries each of them again. Keeps those for which `is_left` answers true.
    pub(in super::super) fn retry(&mut self, now: Instant, mut is_left: impl FnMut(Family, &ChainName) -> bool) {
        self.chains.retain(|(family, chain)| is_left(*family, chain));
        self.wait = if self.chains.is_empty() { Duration::ZERO } else { (self.wait * 2).clamp(WAIT.0, WAIT.1) };
        self.due = Some(now + self.wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_that_is_left_is_tried_less_and_less_often() {
        let mut left = LeftChains::default();
        let mut now = Instant::now();
        assert!(!left.is_due(now));
        left.insert(Family::V4, ChainName::forward());
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert!(left.is_due(now));
            left.retry(now, |_, _| true);
            let begun = now;
            while !left.is_due(now) {
                now += Duration::from_secs(5);
            }
            waits.push((now - begun).as_secs());
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        // Another one is tried at once, and both are gone.
        left.insert(Family::V6, ChainName::forward());
        assert!(left.is_due(now) && left.contains(Family::V6, &ChainName::forward()));
        left.retry(now, |_, _| false);
        assert!(!left.is_due(now + WAIT.1));
    }
}
