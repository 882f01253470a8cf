//! Which objects are known to exist, so that a list shows which are gone.
//!
//! A watch that broke off has reported no deletions meanwhile, so what a new
//! list does not hold is gone, unless that is held back ([`HeldBack`]). A list that breaks
//! off itself shows nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use npc_compiler::engine::PodKey;
use npc_compiler::object::Pod;
use tokio::time::Instant;

use crate::source::held::{DoubtThreshold, HeldBack, Moment, Trust};
use crate::source::kube::objects::decode::Identity;
use crate::status::UnreadableObject;

/// What is kept of an object beside its key.
pub(in super::super) trait KeptData: Copy {
    /// The addresses that no other object can have at the same time.
    fn addresses(self) -> impl Iterator<Item = IpAddr>;
}

impl KeptData for () {
    fn addresses(self) -> impl Iterator<Item = IpAddr> {
        std::iter::empty()
    }
}

/// The addresses of a pod with a network of its own.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct PodAddresses(Option<Ipv4Addr>, Option<Ipv6Addr>);

impl PodAddresses {
    pub(in super::super) fn of(pod: &Pod) -> Self {
        if pod.host_network || pod.finished { Self::default() } else { Self(pod.ipv4, pod.ipv6) }
    }
}

impl KeptData for PodAddresses {
    fn addresses(self) -> impl Iterator<Item = IpAddr> {
        self.0.map(IpAddr::V4).into_iter().chain(self.1.map(IpAddr::V6))
    }
}

/// How many objects without a name are counted.
const MOST_UNNAMED: usize = 100;

/// The objects of one kind.
#[derive(Debug)]
pub(in super::super) struct KnownObjects<K, V = ()> {
    all: HashMap<K, V>,
    /// The list that is coming in.
    listing: Option<OpenList<K, V>>,
    held: HeldBack<K>,
    /// What is kept of those that are held.
    kept: HashMap<K, V>,
    /// The addresses of those that are held; several may share one.
    claims: HashMap<IpAddr, Vec<K>>,
    /// Those that cannot be read as the API server sent them last.
    unreadable: HashMap<K, UnreadableObject>,
    /// Objects of the last list that have no name that can be read.
    unnamed: Vec<UnreadableObject>,
}

/// A list that is coming in.
#[derive(Debug)]
struct OpenList<K, V> {
    begun: Instant,
    /// What it has held so far.
    objects: HashMap<K, V>,
    /// What it has held that shows no name.
    unnamed: Vec<UnreadableObject>,
}

impl<K, V> Default for KnownObjects<K, V> {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
            listing: None,
            held: HeldBack::default(),
            kept: HashMap::new(),
            claims: HashMap::new(),
            unreadable: HashMap::new(),
            unnamed: Vec::new(),
        }
    }
}

/// What a complete list shows.
#[derive(Debug)]
pub(in super::super) struct Shown<K> {
    /// What is gone.
    pub(in super::super) gone: Vec<K>,
    /// How many removals are held back because of this list.
    pub(in super::super) held: usize,
    /// How many exist after all, whose removal was held back.
    pub(in super::super) returned: usize,
}

impl<K: Eq + Hash + Clone, V: KeptData> KnownObjects<K, V> {
    /// A list begins; one that was coming in has broken off, and what it held
    /// exists all the same.
    pub(in super::super) fn begin_list(&mut self, now: Instant) {
        if let Some(listing) = self.listing.take() {
            for (key, kept) in listing.objects.into_iter().collect::<Vec<_>>() {
                self.release(&key);
                self.all.insert(key, kept);
            }
        }
        self.listing = Some(OpenList { begun: now, objects: HashMap::new(), unnamed: Vec::new() });
    }

    /// Whether a list is coming in.
    pub(in super::super) fn is_listing(&self) -> bool {
        self.listing.is_some()
    }

    /// An object exists. Answers those whose removal was held back and whose address it
    /// has: an address goes to another pod only after its last one is gone.
    pub(in super::super) fn came(&mut self, key: K, kept: V) -> Vec<K> {
        self.unreadable.remove(&key);
        self.exists(key, kept)
    }

    /// An object exists and cannot be read: it is kept as it was. Answers whether that is
    /// news.
    pub(in super::super) fn came_unreadable(&mut self, key: K, object: UnreadableObject) -> bool
    where
        V: Default,
    {
        let is_news = self.unreadable.get(&key).is_none_or(|known| known.error != object.error);
        self.came_unchanged(key.clone());
        self.unreadable.insert(key, object);
        is_news
    }

    /// An object exists as it was when it was read last.
    pub(in super::super) fn came_unchanged(&mut self, key: K)
    where
        V: Default,
    {
        self.unreadable.remove(&key);
        let kept = self.all.get(&key).or_else(|| self.kept.get(&key)).copied().unwrap_or_default();
        // Its addresses are old news, so they displace no other object.
        let _ = self.exists(key, kept);
    }

    /// Something exists that cannot be read and shows no name, so what a list lacks may
    /// be just this.
    pub(in super::super) fn came_unnamed(&mut self, object: UnreadableObject) {
        let unnamed = self.listing.as_mut().map_or(&mut self.unnamed, |listing| &mut listing.unnamed);
        if unnamed.len() < MOST_UNNAMED {
            unnamed.push(object);
        }
    }

    fn exists(&mut self, key: K, kept: V) -> Vec<K> {
        match &mut self.listing {
            // The end of the list shows more.
            Some(listing) => {
                listing.objects.insert(key, kept);
                Vec::new()
            }
            None => {
                self.release(&key);
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
        let keys: Vec<K> =
            kept.addresses().filter_map(|address| self.claims.get(&address)).flatten().cloned().collect();
        keys.into_iter().filter(|key| self.release(key)).collect()
    }

    /// Holds the removal of an object back.
    fn hold(&mut self, key: K, kept: V, moment: Moment) {
        for address in kept.addresses() {
            self.claims.entry(address).or_default().push(key.clone());
        }
        self.kept.insert(key.clone(), kept);
        self.held.hold(key, moment);
    }

    /// Holds the removal of an object no more. Returns whether it was held.
    fn release(&mut self, key: &K) -> bool {
        let was_held = self.held.release(key);
        self.forget_claims(key);
        was_held
    }

    fn forget_claims(&mut self, key: &K) {
        for address in self.kept.remove(key).into_iter().flat_map(KeptData::addresses) {
            if let Entry::Occupied(mut claims) = self.claims.entry(address) {
                claims.get_mut().retain(|claimant| claimant != key);
                if claims.get().is_empty() {
                    claims.remove();
                }
            }
        }
    }

    /// An object is gone.
    pub(in super::super) fn went(&mut self, key: &K) {
        self.release(key);
        self.unreadable.remove(key);
        self.all.remove(key);
        if let Some(listing) = &mut self.listing {
            listing.objects.remove(key);
        }
    }

    /// The list is complete.
    pub(in super::super) fn end_list(&mut self, doubt: DoubtThreshold, trust: Trust) -> Shown<K> {
        let Some(OpenList { begun, objects, unnamed }) = self.listing.take() else {
            return Shown { gone: Vec::new(), held: 0, returned: 0 };
        };
        let before = std::mem::replace(&mut self.all, objects);
        let mut returned = 0;
        if !self.held.is_empty() {
            let listed: Vec<K> = self.all.keys().cloned().collect();
            returned = listed.iter().filter(|key| self.release(key)).count();
        }
        self.unnamed = unnamed;
        let known = before.len();
        let missing: Vec<(K, V)> = before.into_iter().filter(|(key, _)| !self.all.contains_key(key)).collect();
        let (mut gone, mut held) = (Vec::new(), 0);
        if self.unnamed.is_empty() {
            gone = self.held.confirmed(begun, trust);
            for key in &gone {
                self.forget_claims(key);
            }
            if self.held.doubts(doubt, missing.len(), known, trust) {
                held = missing.len();
                for (key, kept) in missing {
                    self.hold(key, kept, trust.moment);
                }
            } else {
                gone.extend(missing.into_iter().map(|(key, _)| key));
            }
        } else {
            // Any of these may be the object without a name.
            self.all.extend(missing);
        }
        if !self.claims.is_empty() {
            let claiming: Vec<V> = self.all.values().copied().collect();
            gone.extend(claiming.into_iter().flat_map(|kept| self.displaced(kept)));
        }
        for key in &gone {
            self.unreadable.remove(key);
        }
        Shown { gone, held, returned }
    }

    /// What is gone because its removal was held back for the longest time.
    pub(in super::super) fn expired(&mut self, trust: Trust) -> Vec<K> {
        let expired = self.held.expired(trust);
        for key in &expired {
            self.forget_claims(key);
            self.unreadable.remove(key);
        }
        expired
    }

    /// See [`HeldBack::restart`].
    pub(in super::super) fn restart_hold(&mut self, moment: Moment) {
        self.held.restart(moment);
    }

    /// When [`KnownObjects::expired`] has something.
    pub(in super::super) fn expires(&self, trust: Trust) -> Option<Instant> {
        self.held.expires(trust)
    }

    /// How many removals are held back.
    pub(in super::super) fn held(&self) -> usize {
        self.held.len()
    }

    /// What cannot be read.
    pub(in super::super) fn unreadable(&self) -> impl Iterator<Item = &UnreadableObject> {
        self.unreadable.values().chain(&self.unnamed)
    }

    /// How many objects cannot be read.
    pub(in super::super) fn unreadable_count(&self) -> usize {
        self.unreadable.len() + self.unnamed.len()
    }

    /// Whether an object is known to exist, or was until a list that is doubted.
    pub(in super::super) fn contains(&self, key: &K) -> bool {
        self.all.contains_key(key)
            || self.kept.contains_key(key)
            || self.listing.as_ref().is_some_and(|listing| listing.objects.contains_key(key))
    }

    /// Whether none exists, those that are held aside.
    pub(in super::super) fn exists_none(&self) -> bool {
        self.all.is_empty()
    }

    /// How many there are, with those that are held.
    pub(in super::super) fn len(&self) -> usize {
        self.all.len() + self.held.len()
    }
}

/// A pod's key, small where its UID is a UUID, as every API server's is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in super::super) enum SmallKey {
    Uid([u8; 16]),
    Other(Box<PodKey>),
}

impl SmallKey {
    /// The key of the pod with this identity.
    pub(in super::super) fn of(identity: &Identity) -> Self {
        PodKey::from_parts(&identity.uid, &identity.namespace, &identity.name).into()
    }
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

    fn trust(now: Instant) -> Trust {
        let moment = Moment { now, answered: std::time::Duration::ZERO };
        Trust { times: Times::default(), is_own_cluster: true, is_answered: true, moment }
    }

    fn unreadable(name: &str) -> UnreadableObject {
        let [kind, namespace, error, effect] = ["Pod", "shop", "odd", "it stays"].map(str::to_owned);
        UnreadableObject { kind, namespace, name: name.to_owned(), error, effect }
    }

    const HALF: DoubtThreshold = DoubtThreshold::MoreThanHalfOf(20);

    fn listed<V: KeptData>(
        known: &mut KnownObjects<u32, V>,
        list: impl IntoIterator<Item = (u32, V)>,
        at: Instant,
    ) -> Shown<u32> {
        known.begin_list(at);
        for (key, kept) in list {
            known.came(key, kept);
        }
        known.end_list(HALF, trust(at))
    }

    fn keys(keys: impl IntoIterator<Item = u32>) -> impl IntoIterator<Item = (u32, ())> {
        keys.into_iter().map(|key| (key, ()))
    }

    #[test]
    fn what_a_list_does_not_hold_is_gone() {
        let (mut known, now) = (KnownObjects::default(), Instant::now());
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
        let (mut known, now) = (KnownObjects::default(), Instant::now());
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
        let (mut known, now) = (KnownObjects::default(), Instant::now());
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
        let (mut known, now) = (KnownObjects::default(), Instant::now());
        let pod = |key: u32, last: u32| (key, PodAddresses(Some(Ipv4Addr::from(0x0a01_0000 + last)), None));
        listed(&mut known, (1..=20).map(|key| pod(key, key)), now);
        // A list of other pods; one has the address of pod 7.
        let shown = listed(&mut known, [pod(101, 7)], now);
        assert_eq!((shown.gone, known.held()), (vec![7], 19));
        // And a pod that comes by the watch has that of pod 8.
        let (key, kept) = pod(102, 8);
        assert_eq!((known.came(key, kept), known.held()), (vec![8], 18));
        assert_eq!(known.came(key, kept), Vec::<u32>::new());
    }

    #[test]
    fn each_held_pod_leaves_whose_address_a_new_pod_has() {
        let (mut known, now) = (KnownObjects::default(), Instant::now());
        let pod = |key: u32, last: u32| (key, PodAddresses(Some(Ipv4Addr::from(0x0a01_0000 + last)), None));
        // Pods 7 and 8 share an address, as a pod that ends and its successor do.
        let pods = (1..=20).map(|key| pod(key, if key == 8 { 7 } else { key }));
        listed(&mut known, pods, now);
        assert_eq!(listed(&mut known, [], now).held, 20);
        let (key, kept) = pod(101, 7);
        let mut displaced = known.came(key, kept);
        displaced.sort_unstable();
        assert_eq!((displaced, known.held()), (vec![7, 8], 18));
    }

    #[test]
    fn a_pod_that_returned_from_a_hold_claims_only_its_address_of_then() {
        let (mut known, now) = (KnownObjects::default(), Instant::now());
        let pod = |key: u32, last: u32| (key, PodAddresses(Some(Ipv4Addr::from(0x0a01_0000 + last)), None));
        listed(&mut known, (1..=20).map(|key| pod(key, key)), now);
        listed(&mut known, [], now);
        // Pod 1 is there after all, with another address, and the next list lacks it again.
        let (key, kept) = pod(1, 99);
        known.came(key, kept);
        listed(&mut known, [], now);
        assert_eq!(known.held(), 20);
        let (key, kept) = pod(101, 1);
        assert_eq!(known.came(key, kept), Vec::<u32>::new(), "its old address is claimed no more");
        let (key, kept) = pod(102, 99);
        assert_eq!(known.came(key, kept), [1]);
    }

    #[test]
    fn an_object_that_cannot_be_read_exists_and_one_without_a_name_may_be_any() {
        let (mut known, now) = (KnownObjects::<u32>::default(), Instant::now());
        listed(&mut known, keys(1..=4), now);
        known.begin_list(now);
        known.came(1, ());
        known.came_unreadable(2, unreadable("2"));
        let mut gone = known.end_list(HALF, trust(now)).gone;
        gone.sort_unstable();
        assert_eq!((gone, known.unreadable_count()), (vec![3, 4], 1));
        known.begin_list(now);
        known.came_unnamed(unreadable(""));
        assert!(known.end_list(HALF, trust(now)).gone.is_empty(), "1 and 2 may be what has no name");
        assert_eq!((known.len(), known.unreadable_count()), (2, 2));
        assert_eq!(listed(&mut known, keys([2]), now).gone, [1]);
        assert_eq!(known.unreadable_count(), 0);
    }
}
