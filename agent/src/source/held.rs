//! Removals that a list implies, held back until they are confirmed or a longest time is over.
//!
//! A list says what exists, so what it lacks is gone. But a list may be wrong as a whole: an API
//! server over an empty store, another cluster behind the load balancer. If the agent applied it,
//! all that policies closed would be open within seconds. So a list that lacks much at once has its
//! removals held back, while what is new or changed in it applies at once. They are applied when a
//! second list agrees, a while later and over another connection, or after a longest time. A
//! removal that a watch reports is one object's and is never held.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// When held removals are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// A list confirms that an object is gone if it begins at least this long after the first list
    /// that lacked the object. Zero holds nothing back.
    pub confirm_after: Duration,
    /// After this time the removal is applied without a list that confirms it. Only the time counts
    /// in which the API server could have been asked for a list.
    pub at_most: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { confirm_after: Duration::from_secs(30), at_most: Duration::from_secs(120) }
    }
}

/// How many objects of a kind a list has to lack before it is doubted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DoubtThreshold {
    /// Any.
    Any,
    /// All.
    All,
    /// More than half, if there were this many.
    MoreThanHalfOf(usize),
}

impl DoubtThreshold {
    /// Whether a list is doubted that lacks `missing` of `known` objects.
    fn is_about(self, missing: usize, known: usize) -> bool {
        missing > 0
            && match self {
                Self::Any => true,
                Self::All => missing >= known,
                Self::MoreThanHalfOf(least) => known >= least && 2 * missing > known,
            }
    }
}

/// What decides whether a removal is applied now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trust {
    pub(super) times: Times,
    /// The lists are of the cluster that this node belongs to.
    pub(super) is_own_cluster: bool,
    /// The API server answers, so the longest time runs.
    pub(super) is_answered: bool,
    pub(super) moment: Moment,
}

/// A moment, by two clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Instant,
    /// How long the API server could have been asked for a list until now. Only this
    /// counts for the longest time: an outage is no evidence of anything.
    pub(super) answered: Duration,
}

/// The objects of one kind whose removal is held back, and since when.
///
/// What is held later is applied later, so no event costs a walk over all of them.
#[derive(Debug)]
pub(super) struct HeldBack<K> {
    places: HashMap<K, u64>,
    /// In the order in which they were held.
    queue: BTreeMap<u64, (K, Moment)>,
    next: u64,
}

impl<K> Default for HeldBack<K> {
    fn default() -> Self {
        Self { places: HashMap::new(), queue: BTreeMap::new(), next: 0 }
    }
}

impl<K: Eq + Hash + Clone> HeldBack<K> {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether the removals of a list are held back, if it lacks `missing` of `known` objects
    /// beside those that are held already.
    pub(super) fn doubts(&self, doubt: DoubtThreshold, missing: usize, known: usize, trust: Trust) -> bool {
        if trust.times.confirm_after.is_zero() || missing == 0 {
            return false;
        }
        !trust.is_own_cluster || doubt.is_about(missing + self.len(), known + self.len())
    }

    /// Holds the removal of an object back from now on.
    pub(super) fn hold(&mut self, key: K, moment: Moment) {
        if let Entry::Vacant(vacant) = self.places.entry(key.clone()) {
            vacant.insert(self.next);
            self.queue.insert(self.next, (key, moment));
            self.next += 1;
        }
    }

    /// All that is held counts as held from now on, because until now nothing could be applied.
    pub(super) fn restart(&mut self, moment: Moment) {
        self.queue.values_mut().for_each(|(_, since)| *since = moment);
    }

    /// The object exists, or is known to be gone.
    pub(super) fn release(&mut self, key: &K) -> bool {
        self.places.remove(key).is_some_and(|place| self.queue.remove(&place).is_some())
    }

    /// What a complete list confirms that began then and lacks all that is held.
    pub(super) fn confirmed(&mut self, begun: Instant, trust: Trust) -> Vec<K> {
        self.take(trust, |since| begun >= since.now + trust.times.confirm_after)
    }

    /// What has been held for the longest time.
    pub(super) fn expired(&mut self, trust: Trust) -> Vec<K> {
        self.take(trust, |since| trust.moment.answered >= since.answered + trust.times.at_most)
    }

    fn take(&mut self, trust: Trust, is_believed: impl Fn(Moment) -> bool) -> Vec<K> {
        let mut believed = Vec::new();
        while let Some(first) =
            self.queue.first_entry().filter(|first| trust.is_own_cluster && is_believed(first.get().1))
        {
            let (key, _) = first.remove();
            self.places.remove(&key);
            believed.push(key);
        }
        believed
    }

    /// When [`HeldBack::expired`] has something, if nothing else happens.
    pub(super) fn expires(&self, trust: Trust) -> Option<Instant> {
        let (_, (_, since)) = self.queue.first_key_value()?;
        trust.expires(*since)
    }
}

impl Trust {
    /// When the longest time is over for what is held since then; none while it does not
    /// run.
    pub(super) fn expires(self, since: Moment) -> Option<Instant> {
        let counted = self.moment.answered.saturating_sub(since.answered);
        let left = self.times.at_most.saturating_sub(counted);
        (self.is_own_cluster && self.is_answered).then(|| self.moment.now + left)
    }

    /// Whether it is over.
    pub(super) fn is_expired(self, since: Moment) -> bool {
        self.is_own_cluster && self.moment.answered >= since.answered + self.times.at_most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The moment this many seconds after the first one; the API server has answered all the while.
    fn at(begin: Instant, after: u64) -> Moment {
        Moment { now: begin + seconds(after), answered: seconds(after) }
    }

    fn trust(moment: Moment) -> Trust {
        let times = Times { confirm_after: seconds(30), at_most: seconds(120) };
        Trust { times, is_own_cluster: true, is_answered: true, moment }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_list_is_doubted_that_lacks_much() {
        let held = HeldBack::<u8>::default();
        let trust = trust(at(Instant::now(), 0));
        for (doubt, missing, known, is_doubted) in [
            (DoubtThreshold::All, 1, 1, true),
            (DoubtThreshold::All, 4, 5, false),
            (DoubtThreshold::All, 0, 0, false),
            (DoubtThreshold::Any, 1, 9, true),
            (DoubtThreshold::MoreThanHalfOf(20), 19, 19, false),
            (DoubtThreshold::MoreThanHalfOf(20), 10, 20, false),
            (DoubtThreshold::MoreThanHalfOf(20), 11, 20, true),
        ] {
            assert_eq!(held.doubts(doubt, missing, known, trust), is_doubted, "{doubt:?} {missing} of {known}");
        }
        let distrust = Trust { is_own_cluster: false, ..trust };
        assert!(held.doubts(DoubtThreshold::All, 1, 100, distrust), "of another cluster any list is doubted");
        let never = Trust { times: Times { confirm_after: Duration::ZERO, ..trust.times }, ..trust };
        assert!(!held.doubts(DoubtThreshold::All, 1, 1, never));
    }

    #[test]
    fn what_is_held_counts_as_missing() {
        let mut held = HeldBack::default();
        let now = at(Instant::now(), 0);
        (0..11).for_each(|key| held.hold(key, now));
        // 9 are left, and the next list lacks one of them.
        assert!(held.doubts(DoubtThreshold::MoreThanHalfOf(20), 1, 9, trust(now)));
    }

    #[test]
    fn a_removal_is_believed_when_a_later_list_agrees_or_after_the_longest_time() {
        let begin = Instant::now();
        let mut held = HeldBack::default();
        held.hold('a', at(begin, 0));
        held.hold('b', at(begin, 10));
        assert!(held.confirmed(begin + seconds(29), trust(at(begin, 29))).is_empty());
        assert_eq!(held.confirmed(begin + seconds(30), trust(at(begin, 30))), ['a']);
        assert_eq!(held.expires(trust(at(begin, 30))), Some(begin + seconds(130)));
        assert!(held.expired(trust(at(begin, 129))).is_empty());
        assert_eq!(held.expired(trust(at(begin, 130))), ['b']);
        assert!(held.is_empty() && held.expires(trust(at(begin, 130))).is_none());
    }

    #[test]
    fn the_longest_time_does_not_run_while_the_api_server_is_away() {
        let begin = Instant::now();
        let mut held = HeldBack::default();
        held.hold('a', at(begin, 0));
        // It was there for 60 s, and is away since.
        let away = Moment { now: begin + seconds(3600), answered: seconds(60) };
        assert_eq!(held.expires(Trust { is_answered: false, ..trust(away) }), None);
        assert!(held.expired(trust(away)).is_empty());
        assert_eq!(held.expires(trust(away)), Some(begin + seconds(3660)), "it is back");
        assert_eq!(held.expired(trust(Moment { now: begin + seconds(3660), answered: seconds(120) })), ['a']);
    }

    #[test]
    fn of_another_cluster_no_removal_is_ever_believed() {
        let begin = Instant::now();
        let mut held = HeldBack::default();
        held.hold('a', at(begin, 0));
        let later = trust(at(begin, 86_400));
        let distrust = Trust { is_own_cluster: false, ..later };
        assert!(held.confirmed(later.moment.now, distrust).is_empty() && held.expired(distrust).is_empty());
        assert_eq!(held.expires(distrust), None);
        assert_eq!(held.expired(later), ['a'], "until the own cluster is back");
    }

    #[test]
    fn the_time_runs_from_the_first_list_that_lacked_it() {
        let begin = Instant::now();
        let mut held = HeldBack::default();
        held.hold('a', at(begin, 0));
        held.hold('a', at(begin, 100));
        assert_eq!(held.expires(trust(at(begin, 100))), Some(begin + seconds(120)));
        assert!(held.release(&'a') && !held.release(&'a'));
        assert!(held.expired(trust(at(begin, 500))).is_empty() && held.is_empty());
    }
}
