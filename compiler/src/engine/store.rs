//! The pods of the whole cluster, small: labels as numbers, pods of one
//! namespace and labels as one class, and for each pod little more than its
//! UID, its addresses and its class.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::{FxBuildHasher, FxHashMap};
use slab::Slab;

use super::intern::{Interner, Text};
use super::selector::{self, Pairs};
use crate::object::{ContainerPort, Family, Labels, Pod};

/// A pod's place; it is given anew after the pod is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PodId(u32);

/// A class's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassId(u32);

/// What tells a pod from all others, its successors under its name included.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodKey {
    /// The UID that the API server gave.
    Uid(u128),
    /// Any other UID.
    Text(Box<str>),
    /// Namespace and name, for pods from files that have no UID.
    Name(Box<str>, Box<str>),
}

impl PodKey {
    /// The key of a pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        if pod.uid.is_empty() {
            return Self::Name(pod.namespace.as_str().into(), pod.name.as_str().into());
        }
        uuid(&pod.uid).map_or_else(|| Self::Text(pod.uid.as_str().into()), Self::Uid)
    }

    /// The UID as the object has it.
    fn uid(&self) -> String {
        match self {
            Self::Uid(uid) => {
                let hex = format!("{uid:032x}");
                [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
            }
            Self::Text(text) => text.to_string(),
            Self::Name(..) => String::new(),
        }
    }
}

/// A UUID in its canonical text, and in no other.
fn uuid(text: &str) -> Option<u128> {
    let dashes = [8, 13, 18, 23];
    let canonical = text.len() == 36
        && text.bytes().enumerate().all(|(i, byte)| {
            if dashes.contains(&i) { byte == b'-' } else { byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte) }
        });
    canonical.then(|| u128::from_str_radix(&text.replace('-', ""), 16).ok()).flatten()
}

/// An endpoint.
#[derive(Debug)]
pub(super) struct Entry {
    key: PodKey,
    name: Box<str>,
    pub(super) class: ClassId,
    /// Its place among the pods of its class.
    place: u32,
    pub(super) node: Option<Text>,
    v4: Option<Ipv4Addr>,
    v6: Option<Box<Ipv6Addr>>,
    pub(super) ports: Option<Arc<[ContainerPort]>>,
    terminating: bool,
}

impl Entry {
    pub(super) fn listed(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.as_deref().map(|address| IpAddr::V6(*address)),
        }
    }

    /// The ports that it declares.
    pub(super) fn ports(&self) -> &[ContainerPort] {
        self.ports.as_deref().unwrap_or_default()
    }
}

/// The endpoints of one namespace with the same labels.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) namespace: Text,
    pub(super) labels: Pairs,
    pub(super) pods: Vec<PodId>,
    /// Its place among the classes of its namespace.
    place: u32,
}

/// A namespace that is known, or that some pod lives in.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Its labels; none while it is not known.
    pub(super) labels: Option<Pairs>,
    pub(super) classes: Vec<ClassId>,
}

/// All endpoints.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) strings: Interner,
    pub(super) spaces: FxHashMap<Text, Space>,
    pods: Slab<Entry>,
    by_key: HashTable<u32>,
    classes: Slab<Class>,
    by_labels: HashTable<u32>,
    owners_v4: FxHashMap<Ipv4Addr, PodId>,
    owners_v6: FxHashMap<Ipv6Addr, PodId>,
    /// All who list an address, where more than one does.
    contested: BTreeMap<IpAddr, Vec<PodId>>,
    /// Lists of ports, each kept once.
    ports: FxHashMap<Arc<[ContainerPort]>, u32>,
}

fn id(place: usize) -> u32 {
    u32::try_from(place).unwrap_or_else(|_| unreachable!("no cluster has 2^32 pods"))
}

fn hash(value: impl std::hash::Hash) -> u64 {
    FxBuildHasher.hash_one(value)
}

impl Store {
    pub(super) fn pod(&self, id: PodId) -> &Entry {
        &self.pods[id.0 as usize]
    }

    pub(super) fn class(&self, id: ClassId) -> &Class {
        &self.classes[id.0 as usize]
    }

    /// Namespace, name and UID of a pod.
    pub(super) fn identity(&self, pod: PodId) -> [String; 3] {
        let entry = self.pod(pod);
        let namespace = self.strings.text(self.class(entry.class).namespace);
        [namespace.to_owned(), entry.name.to_string(), entry.key.uid()]
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = (PodId, &Entry)> {
        self.pods.iter().map(|(place, pod)| (PodId(id(place)), pod))
    }

    pub(super) fn find(&self, key: &PodKey) -> Option<PodId> {
        self.by_key.find(hash(key), |id| self.pods[*id as usize].key == *key).map(|id| PodId(*id))
    }

    /// The endpoint that an address belongs to.
    pub(super) fn owner(&self, address: IpAddr) -> Option<PodId> {
        match address {
            IpAddr::V4(address) => self.owners_v4.get(&address).copied(),
            IpAddr::V6(address) => self.owners_v6.get(&address).copied(),
        }
    }

    /// The address of a family that a pod lists and owns.
    pub(super) fn address(&self, pod: PodId, family: Family) -> Option<IpAddr> {
        self.pod(pod).listed(family).filter(|address| self.owner(*address) == Some(pod))
    }

    /// The class of a namespace and labels, if some endpoint is of it.
    fn find_class(&self, namespace: Text, labels: &[(Text, Text)]) -> Option<ClassId> {
        let same = |id: &u32| {
            let class = &self.classes[*id as usize];
            class.namespace == namespace && *class.labels == *labels
        };
        self.by_labels.find(hash((namespace, labels)), same).map(|id| ClassId(*id))
    }

    /// Puts an endpoint in that is not there. Its place, and its class if that
    /// is new.
    pub(super) fn insert(&mut self, pod: &Pod) -> (PodId, Option<ClassId>) {
        let namespace = self.strings.keep(&pod.namespace);
        let labels = selector::keep(&mut self.strings, &pod.labels);
        let (class, is_new) = match self.find_class(namespace, &labels) {
            Some(class) => {
                selector::release(&mut self.strings, &labels);
                self.strings.release(namespace);
                (class, false)
            }
            None => {
                let place = hash((namespace, &*labels));
                let siblings = &mut self.spaces.entry(namespace).or_default().classes;
                let class = Class { namespace, labels, pods: Vec::new(), place: id(siblings.len()) };
                let class = ClassId(id(self.classes.insert(class)));
                siblings.push(class);
                let classes = &self.classes;
                self.by_labels.insert_unique(place, class.0, |id| {
                    let class = &classes[*id as usize];
                    hash((class.namespace, &*class.labels))
                });
                (class, true)
            }
        };
        let ports = (!pod.ports.is_empty()).then(|| self.keep_ports(&pod.ports));
        let members = &mut self.classes[class.0 as usize].pods;
        let entry = Entry {
            key: PodKey::of(pod),
            name: pod.name.as_str().into(),
            class,
            place: id(members.len()),
            node: pod.node.as_deref().map(|node| self.strings.keep(node)),
            v4: pod.ipv4,
            v6: pod.ipv6.map(Box::new),
            ports,
            terminating: pod.terminating,
        };
        let place = hash(&entry.key);
        let pod = PodId(id(self.pods.insert(entry)));
        members.push(pod);
        let pods = &self.pods;
        self.by_key.insert_unique(place, pod.0, |id| hash(&pods[*id as usize].key));
        for family in Family::ALL {
            if let Some(address) = self.pod(pod).listed(family) {
                self.claim(address, pod);
            }
        }
        (pod, is_new.then_some(class))
    }

    /// Takes an endpoint out. Its class and the class itself, if it was the
    /// last one of it.
    pub(super) fn remove(&mut self, pod: PodId) -> Option<ClassId> {
        for family in Family::ALL {
            if let Some(address) = self.pod(pod).listed(family) {
                self.give_up(address, pod);
            }
        }
        let entry = self.pods.remove(pod.0 as usize);
        if let Ok(found) = self.by_key.find_entry(hash(&entry.key), |id| *id == pod.0) {
            found.remove();
        }
        if let Some(node) = entry.node {
            self.strings.release(node);
        }
        if let Some(ports) = &entry.ports {
            self.release_ports(ports);
        }
        let class = &mut self.classes[entry.class.0 as usize];
        class.pods.swap_remove(entry.place as usize);
        if let Some(moved) = class.pods.get(entry.place as usize) {
            self.pods[moved.0 as usize].place = entry.place;
        }
        class.pods.is_empty().then_some(entry.class)
    }

    /// Takes a class out that has no endpoint any more.
    pub(super) fn remove_class(&mut self, class: ClassId) {
        let entry = self.classes.remove(class.0 as usize);
        if let Ok(found) = self.by_labels.find_entry(hash((entry.namespace, &*entry.labels)), |id| *id == class.0) {
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

    fn keep_ports(&mut self, ports: &[ContainerPort]) -> Arc<[ContainerPort]> {
        if let Some((kept, _)) = self.ports.get_key_value(ports) {
            let kept = Arc::clone(kept);
            *self.ports.entry(Arc::clone(&kept)).or_default() += 1;
            return kept;
        }
        let kept: Arc<[ContainerPort]> = ports.into();
        self.ports.insert(Arc::clone(&kept), 1);
        kept
    }

    fn release_ports(&mut self, ports: &Arc<[ContainerPort]>) {
        if let Some(uses) = self.ports.get_mut(ports) {
            *uses -= 1;
            if *uses == 0 {
                self.ports.remove(ports);
            }
        }
    }

    fn set_owner(&mut self, address: IpAddr, owner: Option<PodId>) {
        match (address, owner) {
            (IpAddr::V4(address), Some(pod)) => drop(self.owners_v4.insert(address, pod)),
            (IpAddr::V6(address), Some(pod)) => drop(self.owners_v6.insert(address, pod)),
            (IpAddr::V4(address), None) => drop(self.owners_v4.remove(&address)),
            (IpAddr::V6(address), None) => drop(self.owners_v6.remove(&address)),
        }
    }

    fn claim(&mut self, address: IpAddr, pod: PodId) {
        match self.owner(address) {
            None => self.set_owner(address, Some(pod)),
            Some(owner) => {
                let claimants = self.contested.entry(address).or_insert_with(|| vec![owner]);
                claimants.push(pod);
                self.elect(address);
            }
        }
    }

    fn give_up(&mut self, address: IpAddr, pod: PodId) {
        match self.contested.get_mut(&address) {
            None => self.set_owner(address, None),
            Some(claimants) => {
                claimants.retain(|claimant| *claimant != pod);
                self.elect(address);
                if self.contested.get(&address).is_some_and(|claimants| claimants.len() < 2) {
                    self.contested.remove(&address);
                }
            }
        }
    }

    /// The same choice that [`crate::cluster`] makes.
    fn elect(&mut self, address: IpAddr) {
        let claim = |pod: &&PodId| {
            let entry = self.pod(**pod);
            let namespace = self.strings.text(self.class(entry.class).namespace);
            (!entry.terminating, entry.key.uid(), namespace, &entry.name)
        };
        let owner = self.contested.get(&address).and_then(|claimants| claimants.iter().max_by_key(claim)).copied();
        self.set_owner(address, owner);
    }
}
