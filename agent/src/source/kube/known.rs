//! Which objects are known to exist, so that a list shows which are gone.
//!
//! A watch that broke off has reported no deletions meanwhile, so what a new
//! list does not hold is gone, unless that is held back ([`Held`]). A list that breaks
//! off itself shows nothing.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use npc_compiler::engine::PodKey;
use npc_compiler::object::Pod;
use tokio::time::Instant;

use crate::source::held::{Doubt, Held, Trust};

/// What is kept of an object beside its key.
pub(super) trait Kept: Copy {
    /// The addresses that no other object can have at the same time.
    fn addresses(self) -> impl Iterator<Item = IpAddr>;
}

impl Kept for () {
    fn addresses(self) -> impl Iterator<Item = IpAddr> {
        std::iter::empty()
    }
}

/// The addresses of a pod with a network of its own.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Addresses(Option<Ipv4Addr>, Option<Ipv6Addr>);

impl Addresses {
    pub(super) fn of(pod: &Pod) -> Self {
        if pod.host_network || pod.finished { Self::default() } else { Self(pod.ipv4, pod.ipv6) }
    }
}

impl Kept for Addresses {
    fn addresses(self) -> impl Iterator<Item = IpAddr> {
        self.0.map(IpAddr::V4).into_iter().chain(self.1.map(IpAddr::V6))
    }
}

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Known<K, V = ()> {
    all: HashMap<K, V>,
    /// What the list that is coming in has held so far, and when it began; `None`
    /// where none is.
    listed: Option<(Instant, HashMap<K, V>)>,
    held: Held<K>,
    /// The addresses of those that are held.
    claims: HashMap<IpAddr, K>,
}

impl<K, V> Default for Known<K, V> {
    fn default() -> Self {
        Self { all: HashMap::new(), listed: None, held: Held::default(), claims: HashMap::new() }
    }
}

/// What a complete list shows.
#[derive(Debug)]
pub(super) struct Shown<K> {
    /// What is gone.
    pub(super) gone: Vec<K>,
    /// How many removals are held back because of this list.
    pub(super) held: usize,
    /// How many exist after all, whose removal was held back.
    pub(super) returned: usize,
}

impl<K: Eq + Hash + Clone, V: Kept> Known<K, V> {
    /// A list begins; one that was coming in has broken off, and what it held
    /// exists all the same.
    pub(super) fn begin_list(&mut self, now: Instant) {
        if let Some((_, listed)) = self.listed.take() {
            self.held.release_all(listed.keys());
            self.all.extend(listed);
        }
        self.listed = Some((now, HashMap::new()));
    }

    /// An object exists. Answers those whose removal was held back and whose address it
    /// has by now: an address goes to another pod only after its last one is gone.
    pub(super) fn came(&mut self, key: K, kept: V) -> Vec<K> {
        match &mut self.listed {
            // The end of the list shows more.
            Some((_, listed)) => {
                listed.insert(key, kept);
                Vec::new()
            }
            None => {
                self.held.release(&key);
                self.all.insert(key, kept);
                self.displaced(kept)
            }
        }
    }

    /// Those that are held with an address of this object.
    fn displaced(&mut self, kept: V) -> Vec<K> {
        if self.claims.is_empty() {
            return Vec::new();
        }
        let displaced = kept.addresses().filter_map(|address| self.claims.remove(&address));
        displaced.filter(|key| self.held.release(key)).collect()
    }

    /// An object is gone.
    pub(super) fn went(&mut self, key: &K) {
        self.held.release(key);
        self.all.remove(key);
        if let Some((_, listed)) = &mut self.listed {
            listed.remove(key);
        }
    }

    /// The list is complete.
    pub(super) fn end_list(&mut self, doubt: Doubt, trust: Trust, now: Instant) -> Shown<K> {
        let Some((begun, listed)) = self.listed.take() else {
            return Shown { gone: Vec::new(), held: 0, returned: 0 };
        };
        let before = std::mem::replace(&mut self.all, listed);
        let returned = self.all.keys().filter(|key| !self.held.is_empty() && self.held.release(key)).count();
        let mut gone = self.held.confirmed(begun, trust);
        let known = before.len();
        let missing: Vec<(K, V)> = before.into_iter().filter(|(key, _)| !self.all.contains_key(key)).collect();
        let mut held = 0;
        if self.held.doubts(doubt, missing.len(), known, trust) {
            held = missing.len();
            for (key, kept) in missing {
                self.claims.extend(kept.addresses().map(|address| (address, key.clone())));
                self.held.hold(key, now);
            }
        } else {
            gone.extend(missing.into_iter().map(|(key, _)| key));
        }
        if !self.claims.is_empty() {
            let claiming: Vec<V> = self.all.values().copied().collect();
            gone.extend(claiming.into_iter().flat_map(|kept| self.displaced(kept)));
        }
        if self.held.is_empty() {
            self.claims.clear();
        }
        Shown { gone, held, returned }
    }

    /// What is gone because its removal was held back for the longest time.
    pub(super) fn expired(&mut self, trust: Trust, now: Instant) -> Vec<K> {
        self.held.expired(now, trust)
    }

    /// See [`Held::restart`].
    pub(super) fn restart_hold(&mut self, now: Instant) {
        self.held.restart(now);
    }

    /// When [`Known::expired`] has something.
    pub(super) fn expires(&self, trust: Trust) -> Option<Instant> {
        self.held.expires(trust)
    }

    /// How many removals are held back.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether none exists, those that are held aside.
    pub(super) fn exists_none(&self) -> bool {
        self.all.is_empty()
    }

    /// How many there are, with those that are held.
    pub(super) fn len(&self) -> usize {
        self.all.len() + self.held.len()
    }
}

/// A pod's key, small where its UID is a UUID, as every API server's is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum SmallKey {
    Uid([u8; 16]),
    Other(Box<PodKey>),
}

impl From<PodKey> for SmallKey {
    fn from(key: PodKey) -> Self {
        match key {
            PodKey::Uid(uid) => Self::Uid(uid.to_be_bytes()),
            other => Self::Other(Box::new(other)),
        }
    }
}

impl From<SmallKey> for PodKey {
    fn from(key: SmallKey) -> Self {
        match key {
            SmallKey::Uid(uid) => Self::Uid(u128::from_be_bytes(uid)),
            SmallKey::Other(other) => *other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::held::Times;

    const TRUST: Trust = Trust {
        times: Times {
            confirm_after: std::time::Duration::from_secs(30),
            at_most: std::time::Duration::from_secs(120),
        },
        is_own_cluster: true,
    };
    const HALF: Doubt = Doubt::MoreThanHalfOf(20);

    fn listed<V: Kept>(known: &mut Known<u32, V>, list: impl IntoIterator<Item = (u32, V)>, at: Instant) -> Shown<u32> {
        known.begin_list(at);
        for (key, kept) in list {
            known.came(key, kept);
        }
        known.end_list(HALF, TRUST, at)
    }

    fn keys(keys: impl IntoIterator<Item = u32>) -> impl IntoIterator<Item = (u32, ())> {
        keys.into_iter().map(|key| (key, ()))
    }

    #[test]
    fn what_a_list_does_not_hold_is_gone() {
        let (mut known, now) = (Known::default(), Instant::now());
        assert!(listed(&mut known, keys(1..=3), now).gone.is_empty());
        known.came(4, ());
        known.went(&1);
        let mut gone = listed(&mut known, keys([2, 5]), now).gone;
        gone.sort_unstable();
        assert_eq!(gone, [3, 4]);
        assert_eq!(known.len(), 2);
    }

    #[test]
    fn a_list_that_breaks_off_loses_no_deletion() {
        let (mut known, now) = (Known::default(), Instant::now());
        listed(&mut known, keys([1, 2]), now);
        known.begin_list(now);
        // One that only this list held, and that is gone before the next.
        known.came(3, ());
        let mut gone = listed(&mut known, keys([2]), now).gone;
        gone.sort_unstable();
        assert_eq!(gone, [1, 3]);
    }

    #[test]
    fn removals_are_held_and_confirmed_by_a_later_list() {
        let (mut known, now) = (Known::default(), Instant::now());
        let later = |seconds| now + std::time::Duration::from_secs(seconds);
        listed(&mut known, keys(1..=20), now);
        let shown = listed(&mut known, keys([1]), later(1));
        assert_eq!((shown.gone.len(), shown.held, known.held(), known.len()), (0, 19, 19, 20));
        // One is back, one more exists, and a watch reports that one of them is gone.
        known.came(2, ());
        known.came(99, ());
        known.went(&3);
        assert_eq!(known.held(), 17);
        let shown = listed(&mut known, keys([1, 2, 4, 99]), later(40));
        assert_eq!((shown.gone.len(), shown.returned, known.held(), known.len()), (16, 1, 0, 4));
    }

    #[test]
    fn an_address_that_another_pod_has_leaves_the_held_one() {
        let (mut known, now) = (Known::default(), Instant::now());
        let pod = |key: u32, last: u32| (key, Addresses(Some(Ipv4Addr::from(0x0a01_0000 + last)), None));
        listed(&mut known, (1..=20).map(|key| pod(key, key)), now);
        // A list of other pods, one of which has the address of pod 7.
        let shown = listed(&mut known, [pod(101, 7)], now);
        assert_eq!((shown.gone, known.held()), (vec![7], 19));
        // And a pod that comes by the watch has that of pod 8.
        let (key, kept) = pod(102, 8);
        assert_eq!((known.came(key, kept), known.held()), (vec![8], 18));
        assert_eq!(known.came(key, kept), Vec::<u32>::new());
    }
}
