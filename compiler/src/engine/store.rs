//! The pods of the whole cluster, small: labels as numbers, pods of one
//! namespace and labels as one class, and for each pod little more than its
//! UID, its name, its addresses and its class. Most pods of a cluster are on
//! other nodes, and all that is kept of them is here.

mod holders;

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use hashbrown::HashTable;
use ipnetwork::IpNetwork;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use slab::Slab;

use super::intern::{Interner, Text};
use super::key::PodKey;
use super::names::{NameId, Names};
use super::placeholder;
use super::ports::{PortList, PortLists};
use super::selector::{self, LabelPair, LabelPairs};
use crate::object::{ContainerPort, Family, Labels, Pod};
use crate::ruleset::members::MemberCount;
pub(super) use holders::StoredContest;

/// A pod's place; it is given anew after the pod is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PodSlot(u32);

/// A class's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassSlot(u32);

/// An endpoint, in 48 bytes, because there may be hundreds of thousands. What few pods have is
/// elsewhere.
#[derive(Debug)]
pub(super) struct StoredPod {
    /// The UID; [`NO_UID`] where the key is another, in [`Store::odd_keys`].
    uid: [u32; 4],
    name: NameId,
    pub(super) class: ClassSlot,
    /// The next and the previous pod of its class, in a ring.
    next: PodSlot,
    previous: PodSlot,
    pub(super) node: Option<Text>,
    /// The null address, which no pod has, if it has none.
    v4: Ipv4Addr,
    /// The place of its IPv6 address, plus one.
    v6: Option<NonZeroU32>,
    pub(super) ports: Option<PortList>,
}

/// The nil UUID, which no server gives.
const NO_UID: [u32; 4] = [0; 4];

/// The endpoints of one namespace with the same labels.
#[derive(Debug)]
pub(super) struct StoredClass {
    pub(super) namespace: Text,
    /// Its place among the classes of its namespace.
    place: u32,
    pub(super) labels: LabelPairs,
    /// One of its pods, from which the others are found.
    first: PodSlot,
    /// How many members all of its pods make.
    pub(super) size: MemberCount,
}

/// A namespace that is known, or that some pod lives in.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Its labels; none while it is not known.
    pub(super) labels: Option<LabelPairs>,
    pub(super) classes: Vec<ClassSlot>,
}

/// All endpoints, as one node sees them.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) strings: Interner,
    /// The name of this node.
    here: Text,
    pub(super) spaces: FxHashMap<Text, Space>,
    pods: Slab<StoredPod>,
    /// The keys that are no UUIDs.
    odd_keys: FxHashMap<PodSlot, PodKey>,
    by_key: HashTable<PodSlot>,
    names: Names,
    classes: Slab<StoredClass>,
    by_labels: HashTable<ClassSlot>,
    ports: PortLists,
    v6: Slab<Ipv6Addr>,
    terminating: FxHashSet<PodSlot>,
    /// The labels that events give to pods which wait: see [`super::large`]. They do not
    /// decide yet in which group a pod is.
    newest_labels: BTreeMap<PodSlot, LabelPairs>,
    /// When the pods of this node started.
    started: FxHashMap<PodSlot, i64>,
    /// The prefixes of the Nodes that are known.
    nodes: FxHashMap<Text, Box<[IpNetwork]>>,
    /// The endpoint that lists each address; one of them, where several do.
    owners: [HashTable<PodSlot>; 2],
    contests: BTreeMap<IpAddr, StoredContest>,
    /// How many members all pods make.
    pub(super) size: MemberCount,
}

fn id(place: usize) -> u32 {
    u32::try_from(place).unwrap_or_else(|_| unreachable!("no cluster has 2^32 pods"))
}

fn hash(value: impl std::hash::Hash) -> u64 {
    FxBuildHasher.hash_one(value)
}

fn words(uid: u128) -> [u32; 4] {
    [96, 64, 32, 0].map(|shift| u32::try_from(uid >> shift & u128::from(u32::MAX)).unwrap_or_default())
}

fn uuid(words: [u32; 4]) -> u128 {
    words.iter().fold(0, |uid, word| uid << 32 | u128::from(*word))
}

impl Store {
    /// The endpoints of a cluster without any, as the node of this name sees
    /// them.
    pub(super) fn new(node: &str) -> Self {
        let mut strings = Interner::default();
        Self {
            here: strings.keep(node),
            strings,
            spaces: FxHashMap::default(),
            pods: Slab::new(),
            odd_keys: FxHashMap::default(),
            by_key: HashTable::new(),
            names: Names::default(),
            classes: Slab::new(),
            by_labels: HashTable::new(),
            ports: PortLists::default(),
            v6: Slab::new(),
            terminating: FxHashSet::default(),
            newest_labels: BTreeMap::new(),
            started: FxHashMap::default(),
            nodes: FxHashMap::default(),
            owners: Default::default(),
            contests: BTreeMap::new(),
            size: MemberCount::default(),
        }
    }

    /// Whether a pod is on this node.
    pub(super) fn is_here(&self, pod: PodSlot) -> bool {
        self.pod(pod).node == Some(self.here)
    }

    /// Whether this node has this name.
    pub(super) fn is_this_node(&self, name: Option<&str>) -> bool {
        name == Some(self.strings.text(self.here))
    }

    pub(super) fn pod(&self, pod: PodSlot) -> &StoredPod {
        &self.pods[pod.0 as usize]
    }

    pub(super) fn class(&self, class: ClassSlot) -> &StoredClass {
        &self.classes[class.0 as usize]
    }

    /// The pods of a class.
    pub(super) fn members(&self, class: ClassSlot) -> impl Iterator<Item = PodSlot> {
        let first = self.class(class).first;
        let next = move |pod: &PodSlot| Some(self.pod(*pod).next).filter(|next| *next != first);
        std::iter::successors(Some(first), next)
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = (PodSlot, &StoredPod)> {
        self.pods.iter().map(|(place, pod)| (PodSlot(id(place)), pod))
    }

    /// The ports that a pod declares.
    pub(super) fn ports(&self, pod: PodSlot) -> &[ContainerPort] {
        self.pod(pod).ports.map(|list| self.ports.get(list)).unwrap_or_default()
    }

    /// The address of a family that a pod lists, even if another pod owns it.
    pub(super) fn listed(&self, pod: PodSlot, family: Family) -> Option<IpAddr> {
        let pod = self.pod(pod);
        match family {
            Family::V4 => Some(IpAddr::V4(pod.v4)).filter(|address| !address.is_unspecified()),
            Family::V6 => pod.v6.map(|place| IpAddr::V6(self.v6[place.get() as usize - 1])),
        }
    }

    /// Namespace, name and UID of a pod; of the one that it stands for, if it is a placeholder.
    pub(super) fn identity(&self, pod: PodSlot) -> [String; 3] {
        let entry = self.pod(pod);
        let namespace = self.strings.text(self.class(entry.class).namespace);
        let (namespace, uid) = placeholder::without_mark(namespace, self.key(pod).uid());
        [namespace.to_owned(), self.names.text(entry.name).to_owned(), uid]
    }

    fn key(&self, pod: PodSlot) -> PodKey {
        match self.pod(pod).uid {
            NO_UID => self.odd_keys[&pod].clone(),
            uid => PodKey::Uid(uuid(uid)),
        }
    }

    /// The hash of a pod's key.
    fn hash_of(pods: &Slab<StoredPod>, odd_keys: &FxHashMap<PodSlot, PodKey>, pod: PodSlot) -> u64 {
        match pods[pod.0 as usize].uid {
            NO_UID => hash(&odd_keys[&pod]),
            uid => hash(uid),
        }
    }

    pub(super) fn find(&self, key: &PodKey) -> Option<PodSlot> {
        let found = match key {
            PodKey::Uid(uid) if *uid != 0 => {
                let uid = words(*uid);
                self.by_key.find(hash(uid), |pod| self.pod(*pod).uid == uid)
            }
            key => self.by_key.find(hash(key), |pod| self.odd_keys.get(pod) == Some(key)),
        };
        found.copied()
    }

    /// The class of a namespace and labels, if some endpoint is of it.
    fn find_class(&self, namespace: Text, labels: &[(Text, Text)]) -> Option<ClassSlot> {
        let same = |class: &ClassSlot| {
            let class = self.class(*class);
            class.namespace == namespace && *class.labels == *labels
        };
        self.by_labels.find(hash((namespace, labels)), same).copied()
    }

    /// The class that a pod would be of, if some endpoint is of it.
    pub(super) fn class_of(&self, pod: &Pod) -> Option<ClassSlot> {
        self.find_class(self.strings.find(&pod.namespace)?, &selector::find(&self.strings, &pod.labels)?)
    }

    /// Puts an endpoint in that is not there. Its place, and its class if that
    /// is new.
    pub(super) fn insert(&mut self, pod: &Pod) -> (PodSlot, Option<ClassSlot>) {
        let place = PodSlot(id(self.pods.vacant_key()));
        let (class, is_new) = self.class_for(pod, place);
        let uid = match PodKey::of(pod) {
            PodKey::Uid(uid) if uid != 0 => words(uid),
            key => {
                self.odd_keys.insert(place, key);
                NO_UID
            }
        };
        let v6 = pod.ipv6.and_then(|address| NonZeroU32::new(id(self.v6.insert(address)) + 1));
        self.pods.insert(StoredPod {
            uid,
            name: self.names.keep(&pod.name),
            class,
            next: place,
            previous: place,
            node: pod.node.as_deref().map(|node| self.strings.keep(node)),
            v4: pod.ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED),
            v6,
            ports: self.ports.keep(&pod.ports),
        });
        if !is_new {
            self.join(place, self.class(class).first);
        }
        let size = self.size_of(place);
        self.size = self.size.plus(size);
        let total = &mut self.classes[class.0 as usize].size;
        *total = total.plus(size);
        if pod.terminating {
            self.terminating.insert(place);
        }
        if let Some(started) = pod.started.filter(|_| self.is_here(place)) {
            self.started.insert(place, started);
        }
        let (pods, odd_keys) = (&self.pods, &self.odd_keys);
        let of = |pod: &PodSlot| Self::hash_of(pods, odd_keys, *pod);
        self.by_key.insert_unique(of(&place), place, of);
        for family in Family::ALL {
            if let Some(address) = self.listed(place, family) {
                self.claim(address, place);
            }
        }
        (place, is_new.then_some(class))
    }

    /// How many members a pod makes.
    pub(super) fn size_of(&self, pod: PodSlot) -> MemberCount {
        MemberCount::of_pod(Family::ALL.map(|family| self.listed(pod, family).is_some()), self.ports(pod).len())
    }

    /// The class of a pod that comes to this place, and whether it is new.
    fn class_for(&mut self, pod: &Pod, place: PodSlot) -> (ClassSlot, bool) {
        let namespace = self.strings.keep(&pod.namespace);
        let labels = selector::keep(&mut self.strings, &pod.labels);
        if let Some(class) = self.find_class(namespace, &labels) {
            selector::release(&mut self.strings, &labels);
            self.strings.release(namespace);
            return (class, false);
        }
        let hashed = hash((namespace, &*labels));
        let siblings = &mut self.spaces.entry(namespace).or_default().classes;
        let class =
            StoredClass { namespace, labels, first: place, place: id(siblings.len()), size: MemberCount::default() };
        let class = ClassSlot(id(self.classes.insert(class)));
        siblings.push(class);
        let classes = &self.classes;
        self.by_labels.insert_unique(hashed, class, |class| {
            let class = &classes[class.0 as usize];
            hash((class.namespace, &*class.labels))
        });
        (class, true)
    }

    /// Puts a pod into the ring of another, before it.
    fn join(&mut self, pod: PodSlot, other: PodSlot) {
        let previous = std::mem::replace(&mut self.pods[other.0 as usize].previous, pod);
        self.pods[previous.0 as usize].next = pod;
        let entry = &mut self.pods[pod.0 as usize];
        (entry.next, entry.previous) = (other, previous);
    }

    /// Takes an endpoint out. Its class, if it was the last one of it.
    pub(super) fn remove(&mut self, pod: PodSlot) -> Option<ClassSlot> {
        let size = self.size_of(pod);
        self.size = self.size.minus(size);
        let class = self.pod(pod).class;
        let total = &mut self.classes[class.0 as usize].size;
        *total = total.minus(size);
        for family in Family::ALL {
            if let Some(address) = self.listed(pod, family) {
                self.give_up(address, pod);
            }
        }
        let hashed = Self::hash_of(&self.pods, &self.odd_keys, pod);
        if let Ok(found) = self.by_key.find_entry(hashed, |other| *other == pod) {
            found.remove();
        }
        let entry = self.pods.remove(pod.0 as usize);
        if entry.uid == NO_UID {
            self.odd_keys.remove(&pod);
        }
        self.terminating.remove(&pod);
        if let Some(labels) = self.newest_labels.remove(&pod) {
            selector::release(&mut self.strings, &labels);
        }
        self.started.remove(&pod);
        self.names.release(entry.name);
        if let Some(node) = entry.node {
            self.strings.release(node);
        }
        if let Some(place) = entry.v6 {
            self.v6.remove(place.get() as usize - 1);
        }
        if let Some(ports) = entry.ports {
            self.ports.release(ports);
        }
        if entry.next == pod {
            return Some(entry.class);
        }
        self.pods[entry.next.0 as usize].previous = entry.previous;
        self.pods[entry.previous.0 as usize].next = entry.next;
        let class = &mut self.classes[entry.class.0 as usize];
        if class.first == pod {
            class.first = entry.next;
        }
        None
    }

    /// Takes a class out that has no endpoint any more.
    pub(super) fn remove_class(&mut self, class: ClassSlot) {
        let entry = self.classes.remove(class.0 as usize);
        if let Ok(found) = self.by_labels.find_entry(hash((entry.namespace, &*entry.labels)), |other| *other == class) {
            found.remove();
        }
        if let Some(space) = self.spaces.get_mut(&entry.namespace) {
            space.classes.swap_remove(entry.place as usize);
            if let Some(moved) = space.classes.get(entry.place as usize) {
                self.classes[moved.0 as usize].place = entry.place;
            }
            if space.classes.is_empty() && space.labels.is_none() {
                self.spaces.remove(&entry.namespace);
            }
        }
        selector::release(&mut self.strings, &entry.labels);
        self.strings.release(entry.namespace);
    }

    /// Whether a namespace is known by just these labels, or is not known.
    pub(super) fn namespace_has(&self, name: &str, labels: Option<&Labels>) -> bool {
        let space = self.strings.find(name).and_then(|name| self.spaces.get(&name));
        match (space.and_then(|space| space.labels.as_deref()), labels) {
            (None, None) => true,
            (Some(known), Some(labels)) => {
                let text = |text| self.strings.text(text);
                let same = |(key, value): &(Text, Text)| labels.get(text(*key)).is_some_and(|v| v == text(*value));
                known.len() == labels.len() && known.iter().all(same)
            }
            _ => false,
        }
    }

    /// Makes a namespace known by its labels, or unknown.
    pub(super) fn set_namespace(&mut self, name: &str, labels: Option<&Labels>) {
        let name = self.strings.keep(name);
        let labels = labels.map(|labels| selector::keep(&mut self.strings, labels));
        let is_known = labels.is_some();
        let space = self.spaces.entry(name).or_default();
        let old = std::mem::replace(&mut space.labels, labels);
        if space.labels.is_none() && space.classes.is_empty() {
            self.spaces.remove(&name);
        }
        // A namespace that is known keeps its name.
        if let Some(old) = old {
            selector::release(&mut self.strings, &old);
            self.strings.release(name);
        }
        if !is_known {
            self.strings.release(name);
        }
    }

    /// These are the labels of a pod by an event that waits; `None` if none does, or they are those that
    /// the pod has.
    pub(super) fn set_newest_labels(&mut self, pod: PodSlot, labels: Option<&Labels>) {
        let labels = labels.map(|labels| selector::keep(&mut self.strings, labels));
        let is_same = labels.as_ref().is_some_and(|labels| *labels == self.class(self.pod(pod).class).labels);
        let before = match labels {
            Some(labels) if is_same => {
                selector::release(&mut self.strings, &labels);
                self.newest_labels.remove(&pod)
            }
            Some(labels) => self.newest_labels.insert(pod, labels),
            None => self.newest_labels.remove(&pod),
        };
        if let Some(before) = before {
            selector::release(&mut self.strings, &before);
        }
    }

    /// The labels of a pod by an event that waits, if they are others than it has.
    pub(super) fn newest_labels(&self, pod: PodSlot) -> Option<&[LabelPair]> {
        self.newest_labels.get(&pod).map(|labels| &**labels)
    }

    /// The pods whose labels are others by events that wait.
    pub(super) fn relabelled(&self) -> impl Iterator<Item = PodSlot> {
        self.newest_labels.keys().copied()
    }

    /// The namespaces of those of some pods whose labels are others by events that wait.
    pub(super) fn namespaces_of_relabelled<'s>(&'s self, pods: &'s [PodSlot]) -> impl Iterator<Item = &'s str> {
        let relabelled = pods.iter().filter(|pod| self.newest_labels.contains_key(pod));
        relabelled.map(|pod| self.strings.text(self.class(self.pod(*pod).class).namespace))
    }

    /// The addresses about which the Node of this name has a say.
    pub(super) fn concerned_by(&self, node: &str) -> Vec<IpAddr> {
        let Some(node) = self.strings.find(node) else { return Vec::new() };
        let concerned = |contest: &StoredContest| contest.claimants.iter().any(|pod| self.pod(*pod).node == Some(node));
        self.contests.iter().filter(|(_, contest)| concerned(contest)).map(|(address, _)| *address).collect()
    }

    /// The prefixes of this node's pods.
    pub(super) fn pod_cidrs(&self) -> &[IpNetwork] {
        self.nodes.get(&self.here).map_or(&[], |cidrs| cidrs)
    }

    /// Makes a Node known by the prefixes of its pods, or unknown.
    pub(super) fn set_node(&mut self, name: &str, pod_cidrs: Option<&[IpNetwork]>) {
        match pod_cidrs {
            Some(pod_cidrs) => {
                let name = self.strings.keep(name);
                if self.nodes.insert(name, pod_cidrs.into()).is_some() {
                    // It keeps its name once.
                    self.strings.release(name);
                }
            }
            None => {
                let Some(name) = self.strings.find(name) else { return };
                if self.nodes.remove(&name).is_some() {
                    self.strings.release(name);
                }
            }
        }
    }
}
