//! Removals that a list implies, held back until they are believed.
//!
//! A list says what exists, so what it lacks is gone. But a list may be wrong as a
//! whole: an API server over an empty store, another cluster behind the load balancer.
//! Were it believed, all that policies closed would be open within seconds. So a list
//! that lacks much at once has its removals held back, while what is new or changed in
//! it applies at once. They are believed when a second list agrees, a while later and
//! over another connection, or after a longest time. A removal that a watch reports is
//! one object's and is never held.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// When removals are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// A list that begins so long after the first that lacked an object confirms that
    /// it is gone. Zero holds nothing back.
    pub confirm_after: Duration,
    /// After this time it is believed without a list that confirms it.
    pub at_most: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { confirm_after: Duration::from_secs(30), at_most: Duration::from_secs(120) }
    }
}

/// How many objects of a kind a list has to lack before it is doubted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Any.
    Any,
    /// All.
    All,
    /// More than half, if there were this many.
    MoreThanHalfOf(usize),
}

impl Doubt {
    /// Whether a list is doubted that lacks so many of so many objects.
    fn is_about(self, missing: usize, known: usize) -> bool {
        missing > 0
            && match self {
                Self::Any => true,
                Self::All => missing >= known,
                Self::MoreThanHalfOf(least) => known >= least && 2 * missing > known,
            }
    }
}

/// What speaks for believing a removal now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trust {
    pub(super) times: Times,
    /// The lists are of the cluster that this node belongs to.
    pub(super) is_own_cluster: bool,
}

/// The objects of one kind whose removal is held back, and since when.
#[derive(Debug)]
pub(super) struct Held<K> {
    since: HashMap<K, Instant>,
    /// No later than the first of these, so that an event costs no walk over all of them.
    first: Option<Instant>,
}

impl<K> Default for Held<K> {
    fn default() -> Self {
        Self { since: HashMap::new(), first: None }
    }
}

impl<K: Eq + Hash + Clone> Held<K> {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.since.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// Whether the removals of a list are held back that lacks so many of `known`
    /// objects beside those that are held already.
    pub(super) fn doubts(&self, doubt: Doubt, missing: usize, known: usize, trust: Trust) -> bool {
        if trust.times.confirm_after.is_zero() || missing == 0 {
            return false;
        }
        !trust.is_own_cluster || doubt.is_about(missing + self.len(), known + self.len())
    }

    /// Holds the removal of an object back from now on.
    pub(super) fn hold(&mut self, key: K, now: Instant) {
        self.since.entry(key).or_insert(now);
        self.first.get_or_insert(now);
    }

    /// All that is held is held from now on: until now nothing could be believed.
    pub(super) fn restart(&mut self, now: Instant) {
        self.since.values_mut().for_each(|since| *since = now);
        self.first = self.first.map(|_| now);
    }

    /// The object exists, or is known to be gone.
    pub(super) fn release(&mut self, key: &K) -> bool {
        self.since.remove(key).is_some()
    }

    /// These exist, or are known to be gone.
    pub(super) fn release_all<'a>(&mut self, keys: impl IntoIterator<Item = &'a K>)
    where
        K: 'a,
    {
        for key in keys {
            self.release(key);
        }
    }

    /// What a complete list confirms that began then and lacks all that is held.
    pub(super) fn confirmed(&mut self, begun: Instant, trust: Trust) -> Vec<K> {
        self.take(trust, |since| begun >= since + trust.times.confirm_after)
    }

    /// What has been held for the longest time.
    pub(super) fn expired(&mut self, now: Instant, trust: Trust) -> Vec<K> {
        self.take(trust, |since| now >= since + trust.times.at_most)
    }

    fn take(&mut self, trust: Trust, is_believed: impl Fn(Instant) -> bool) -> Vec<K> {
        if !trust.is_own_cluster {
            return Vec::new();
        }
        let mut believed = Vec::new();
        self.since.retain(|key, since| {
            let stays = !is_believed(*since);
            if !stays {
                believed.push(key.clone());
            }
            stays
        });
        self.first = self.since.values().min().copied();
        believed
    }

    /// When [`Held::expired`] may have something, if nothing else happens.
    pub(super) fn expires(&self, trust: Trust) -> Option<Instant> {
        let first = self.first.filter(|_| trust.is_own_cluster && !self.is_empty())?;
        Some(first + trust.times.at_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUST: Trust = Trust {
        times: Times { confirm_after: Duration::from_secs(30), at_most: Duration::from_secs(120) },
        is_own_cluster: true,
    };
    const DISTRUST: Trust = Trust { is_own_cluster: false, ..TRUST };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_list_is_doubted_that_lacks_much() {
        let held = Held::<u8>::default();
        for (doubt, missing, known, is_doubted) in [
            (Doubt::All, 1, 1, true),
            (Doubt::All, 4, 5, false),
            (Doubt::All, 0, 0, false),
            (Doubt::Any, 1, 9, true),
            (Doubt::MoreThanHalfOf(20), 19, 19, false),
            (Doubt::MoreThanHalfOf(20), 10, 20, false),
            (Doubt::MoreThanHalfOf(20), 11, 20, true),
        ] {
            assert_eq!(held.doubts(doubt, missing, known, TRUST), is_doubted, "{doubt:?} {missing} of {known}");
        }
        assert!(held.doubts(Doubt::All, 1, 100, DISTRUST), "of another cluster any list is doubted");
        let never = Trust { times: Times { confirm_after: Duration::ZERO, ..TRUST.times }, ..TRUST };
        assert!(!held.doubts(Doubt::All, 1, 1, never));
    }

    #[test]
    fn what_is_held_counts_as_missing() {
        let mut held = Held::default();
        (0..11).for_each(|key| held.hold(key, Instant::now()));
        // 9 are left, and the next list lacks one of them.
        assert!(held.doubts(Doubt::MoreThanHalfOf(20), 1, 9, TRUST));
    }

    #[test]
    fn a_removal_is_believed_when_a_later_list_agrees_or_after_the_longest_time() {
        let begin = Instant::now();
        let mut held = Held::default();
        held.hold('a', begin);
        held.hold('b', begin + seconds(10));
        assert!(held.confirmed(begin + seconds(29), TRUST).is_empty());
        assert_eq!(held.confirmed(begin + seconds(30), TRUST), ['a']);
        assert_eq!(held.expires(TRUST), Some(begin + seconds(130)));
        assert!(held.expired(begin + seconds(129), TRUST).is_empty());
        assert_eq!(held.expired(begin + seconds(130), TRUST), ['b']);
        assert!(held.is_empty() && held.expires(TRUST).is_none());
    }

    #[test]
    fn of_another_cluster_no_removal_is_ever_believed() {
        let begin = Instant::now();
        let mut held = Held::default();
        held.hold('a', begin);
        let later = begin + seconds(86_400);
        assert!(held.confirmed(later, DISTRUST).is_empty() && held.expired(later, DISTRUST).is_empty());
        assert_eq!(held.expires(DISTRUST), None);
        assert_eq!(held.expired(later, TRUST), ['a'], "until the own cluster is back");
    }

    #[test]
    fn the_time_runs_from_the_first_list_that_lacked_it() {
        let begin = Instant::now();
        let mut held = Held::default();
        held.hold('a', begin);
        held.hold('a', begin + seconds(100));
        assert_eq!(held.expires(TRUST), Some(begin + seconds(120)));
        assert!(held.release(&'a') && !held.release(&'a'));
    }
}
