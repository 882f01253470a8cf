//! The selectors that rules on this node name, and the index that leads from
//! labels to the few of them that could care.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use slab::Slab;
use smallvec::SmallVec;

use super::intern::{Interner, Text};
use super::selector::{Compiled, LabelPair};
use super::store::{ClassSlot, PodSlot, Store};
use crate::policy::{Namespaces, PodPeer};
use crate::ruleset::members::MemberCount;

/// A selector's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerId(u32);

/// By which of its labels a pod is a peer, while events of its namespace wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelsOf {
    /// Those that decide about its group.
    Force,
    /// Those of the last event about it, which may wait.
    Newest,
}

/// Where pods are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum NamespaceScope {
    /// In this namespace.
    Own(Text),
    /// In namespaces with this label.
    Labelled(LabelPair),
    /// Anywhere.
    Any,
}

/// What a class must have for a selector to be worth a look: a scope, and a
/// label of the pods if the selector asks for one.
type SelectorKey = (NamespaceScope, Option<LabelPair>);

#[derive(Debug, PartialEq, Eq, Hash)]
enum Place {
    Own(Text),
    Selected(Compiled),
}

#[derive(Debug)]
struct IndexedPeer {
    namespaces: Place,
    pods: Compiled,
    uses: usize,
    /// The classes that it selects now.
    classes: BTreeSet<ClassSlot>,
    /// How many members their pods make.
    size: MemberCount,
    known: KnownPods,
}

/// What is known of the pods of a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KnownPods {
    Nothing,
    /// [`IndexedPeer::size`], as of now.
    Size,
    /// The classes, and the size.
    Classes,
}

/// A few selectors; most classes and keys have no more.
type PeerIds = SmallVec<[PeerId; 4]>;

/// The selectors in use.
#[derive(Debug, Default)]
pub(super) struct PeerIndex {
    entries: Slab<IndexedPeer>,
    by_content: HashTable<PeerId>,
    by_key: FxHashMap<SelectorKey, PeerIds>,
    /// The selectors that select a class; a class without any is not here.
    of_class: FxHashMap<ClassSlot, PeerIds>,
    /// Selectors that are new since the last [`PeerIndex::settle`].
    fresh: Vec<PeerId>,
    /// Selectors whose pods make other members now, with the size at the last
    /// [`PeerIndex::take_resized`].
    resized: FxHashMap<PeerId, MemberCount>,
}

/// A selector that is new alone is tried on every class of its namespaces. Of more than
/// this many, each class is led to those that could care by the index.
const FEW: usize = 4;

impl PeerIndex {
    /// One use more of a selector. Which classes a new one selects is known after the next
    /// [`PeerIndex::settle`].
    pub(super) fn keep(&mut self, store: &mut Store, peer: &PodPeer) -> PeerId {
        let strings = &mut store.strings;
        let (namespaces, pods) = compile(strings, peer);
        let hashed = hash(&namespaces, &pods);
        if let Some(id) = self.by_content.find(hashed, |id| self.is(*id, &namespaces, &pods)).copied() {
            self.entries[id.place()].uses += 1;
            give_back(strings, namespaces, pods);
            return id;
        }
        let keys = keys(&namespaces, &pods);
        let (classes, size, known) = (BTreeSet::new(), MemberCount::default(), KnownPods::Nothing);
        let place = self.entries.insert(IndexedPeer { namespaces, pods, uses: 1, classes, size, known });
        let id = PeerId(u32::try_from(place).unwrap_or_else(|_| unreachable!("2^32 selectors")));
        let entries = &self.entries;
        self.by_content.insert_unique(hashed, id, |id| {
            let entry = &entries[id.place()];
            hash(&entry.namespaces, &entry.pods)
        });
        for key in keys {
            insert(self.by_key.entry(key).or_default(), id);
        }
        self.fresh.push(id);
        id
    }

    /// Finds how many members the pods of new selectors make. Which classes very many of them
    /// select is not kept: thousands of selectors may select each of thousands of classes, and most
    /// of the sets that ask them may turn out to be too large.
    pub(super) fn measure(&mut self, store: &Store) {
        let new = self.fresh(|known| known == KnownPods::Nothing);
        if new.len() <= FEW {
            self.find_classes(store, &new);
            return;
        }
        for id in &new {
            // A class may have come to it since it is kept.
            self.resize(*id, |_| MemberCount::default());
        }
        self.each_selected(store, &new, |index, id, class| {
            index.resize(id, |size| size.plus(store.class(class).size));
        });
        for id in new {
            self.entries[id.place()].known = KnownPods::Size;
        }
    }

    /// Finds the classes that new selectors select.
    pub(super) fn settle(&mut self, store: &Store) {
        let new = self.fresh(|known| known != KnownPods::Classes);
        self.find_classes(store, &new);
        self.fresh.clear();
    }

    /// The new selectors whose [`KnownPods`] is wanted.
    fn fresh(&mut self, is_wanted: impl Fn(KnownPods) -> bool) -> Vec<PeerId> {
        let entries = &self.entries;
        self.fresh.sort_unstable();
        self.fresh.dedup();
        // Some may have been released. Of the others not all may be settled before many more come.
        self.fresh.retain(|id| entries.get(id.place()).is_some_and(|entry| entry.known != KnownPods::Classes));
        self.fresh.iter().copied().filter(|id| is_wanted(entries[id.place()].known)).collect()
    }

    fn find_classes(&mut self, store: &Store, ids: &[PeerId]) {
        for id in ids {
            self.resize(*id, |_| MemberCount::default());
            self.entries[id.place()].known = KnownPods::Classes;
        }
        self.each_selected(store, ids, |index, id, class| {
            index.entries[id.place()].classes.insert(class);
            insert(index.of_class.entry(class).or_default(), id);
            index.resize(id, |size| size.plus(store.class(class).size));
        });
    }

    /// Pods or classes are different, so selectors whose classes are not known yet are to be
    /// measured again.
    fn unmeasure(&mut self) {
        for id in self.fresh(|known| known == KnownPods::Size) {
            self.entries[id.place()].known = KnownPods::Nothing;
        }
    }

    /// Does something with each class that some selectors select.
    fn each_selected(&mut self, store: &Store, ids: &[PeerId], mut work: impl FnMut(&mut Self, PeerId, ClassSlot)) {
        if ids.len() <= FEW {
            for id in ids {
                let entry = &self.entries[id.place()];
                for class in search(store, &entry.namespaces, &entry.pods) {
                    work(self, *id, class);
                }
            }
            return;
        }
        let mut by_key = FxHashMap::<SelectorKey, PeerIds>::default();
        let mut spaces = BTreeSet::new();
        for id in ids {
            let entry = &self.entries[id.place()];
            for key in keys(&entry.namespaces, &entry.pods) {
                by_key.entry(key).or_default().push(*id);
            }
            match &entry.namespaces {
                Place::Own(name) => spaces.extend(store.spaces.get_key_value(name).map(|(name, _)| *name)),
                Place::Selected(_) => spaces.extend(store.spaces.keys()),
            }
        }
        for class in spaces.iter().flat_map(|name| &store.spaces[name].classes) {
            for id in self.candidates_of(&by_key, store, *class) {
                work(self, id, *class);
            }
        }
    }

    fn resize(&mut self, id: PeerId, change: impl FnOnce(MemberCount) -> MemberCount) {
        let size = &mut self.entries[id.place()].size;
        let before = std::mem::replace(size, change(*size));
        self.resized.entry(id).or_insert(before);
    }

    /// A pod of this size comes to a class.
    pub(super) fn pod_comes(&mut self, class: ClassSlot, size: MemberCount) {
        self.unmeasure();
        for id in self.of_class(class).to_vec() {
            self.resize(id, |total| total.plus(size));
        }
    }

    /// A pod of this size goes from a class.
    pub(super) fn pod_goes(&mut self, class: ClassSlot, size: MemberCount) {
        self.unmeasure();
        for id in self.of_class(class).to_vec() {
            self.resize(id, |total| total.minus(size));
        }
    }

    /// The selectors whose pods make other members than when this was last asked: each with the
    /// size at that time and the size now.
    pub(super) fn take_resized(&mut self) -> Vec<(PeerId, MemberCount, MemberCount)> {
        let resized = std::mem::take(&mut self.resized);
        let mut all: Vec<_> = resized.into_iter().map(|(id, before)| (id, before, self.size(id))).collect();
        all.sort_unstable_by_key(|(id, ..)| *id);
        all
    }

    /// How many members the pods make that a selector selects.
    pub(super) fn size(&self, id: PeerId) -> MemberCount {
        self.entries[id.place()].size
    }

    /// How many members the pods make that each of some selectors selects, whether it is in use
    /// or not.
    pub(super) fn sizes_of<'p>(
        &mut self,
        store: &mut Store,
        peers: impl IntoIterator<Item = &'p PodPeer>,
    ) -> FxHashMap<&'p PodPeer, MemberCount> {
        let mut seen = FxHashSet::default();
        let peers: Vec<&PodPeer> = peers.into_iter().filter(|peer| seen.insert(*peer)).collect();
        let sizes = self.sizes(store, peers.iter().copied());
        peers.into_iter().zip(sizes).collect()
    }

    /// The sizes of several selectors, in their order.
    pub(super) fn sizes<'p>(
        &mut self,
        store: &mut Store,
        peers: impl Iterator<Item = &'p PodPeer>,
    ) -> Vec<MemberCount> {
        let ids: Vec<PeerId> = peers.map(|peer| self.keep(store, peer)).collect();
        self.measure(store);
        let sizes = ids.iter().map(|id| self.size(*id)).collect();
        for id in ids {
            self.release(&mut store.strings, id);
        }
        sizes
    }

    fn is(&self, id: PeerId, namespaces: &Place, pods: &Compiled) -> bool {
        let entry = &self.entries[id.place()];
        entry.namespaces == *namespaces && entry.pods == *pods
    }

    /// One use less.
    pub(super) fn release(&mut self, strings: &mut Interner, id: PeerId) {
        self.entries[id.place()].uses -= 1;
        if self.entries[id.place()].uses > 0 {
            return;
        }
        let entry = self.entries.remove(id.place());
        self.resized.remove(&id);
        if let Ok(found) = self.by_content.find_entry(hash(&entry.namespaces, &entry.pods), |other| *other == id) {
            found.remove();
        }
        for key in keys(&entry.namespaces, &entry.pods) {
            remove(&mut self.by_key, &key, id);
        }
        for class in &entry.classes {
            remove(&mut self.of_class, class, id);
        }
        give_back(strings, entry.namespaces, entry.pods);
    }

    /// The classes that a selector selects.
    pub(super) fn classes(&self, id: PeerId) -> &BTreeSet<ClassSlot> {
        &self.entries[id.place()].classes
    }

    /// The selectors that select a class.
    pub(super) fn of_class(&self, class: ClassSlot) -> &[PeerId] {
        self.of_class.get(&class).map_or(&[], |peers| peers.as_slice())
    }

    /// Whether a selector selects all of some pods by these labels of them.
    pub(super) fn selects_all(&self, store: &Store, id: PeerId, pods: &[PodSlot], labels: LabelsOf) -> bool {
        pods.iter().all(|pod| {
            let class = store.pod(*pod).class;
            match store.newest_labels(*pod).filter(|_| labels == LabelsOf::Newest) {
                Some(labels) => self.selects(store, id, store.class(class).namespace, labels),
                None => self.entries[id.place()].classes.contains(&class),
            }
        })
    }

    /// The selectors that select a pod by these labels of it.
    pub(super) fn of_pod(&self, store: &Store, pod: PodSlot, labels: LabelsOf) -> Cow<'_, [PeerId]> {
        let class = store.pod(pod).class;
        match store.newest_labels(pod).filter(|_| labels == LabelsOf::Newest) {
            Some(labels) => {
                Cow::Owned(self.candidates(&self.by_key, store, store.class(class).namespace, labels).into_vec())
            }
            None => Cow::Borrowed(self.of_class(class)),
        }
    }

    /// Looks a new class up, or one whose namespace changed.
    pub(super) fn update(&mut self, store: &Store, id: ClassSlot) {
        self.unmeasure();
        let now = self.candidates_of(&self.by_key, store, id);
        let size = store.class(id).size;
        for peer in self.forget(id) {
            if now.binary_search(&peer).is_err() {
                self.entries[peer.place()].classes.remove(&id);
                self.resize(peer, |total| total.minus(size));
            }
        }
        for peer in &now {
            if self.entries[peer.place()].classes.insert(id) {
                self.resize(*peer, |total| total.plus(size));
            }
        }
        if !now.is_empty() {
            self.of_class.insert(id, now);
        }
    }

    /// The selectors of an index that select a class, sorted.
    fn candidates_of(&self, by_key: &FxHashMap<SelectorKey, PeerIds>, store: &Store, id: ClassSlot) -> PeerIds {
        let class = store.class(id);
        self.candidates(by_key, store, class.namespace, &class.labels)
    }

    /// The selectors of an index that select pods with these labels in a namespace, sorted.
    fn candidates(
        &self,
        by_key: &FxHashMap<SelectorKey, PeerIds>,
        store: &Store,
        namespace: Text,
        labels: &[LabelPair],
    ) -> PeerIds {
        let mut found = PeerIds::new();
        let space = store.spaces.get(&namespace).and_then(|space| space.labels.as_deref());
        let labelled = space.unwrap_or_default().iter().map(|pair| NamespaceScope::Labelled(*pair));
        for scope in [NamespaceScope::Own(namespace), NamespaceScope::Any].into_iter().chain(labelled) {
            for label in labels.iter().map(|pair| Some(*pair)).chain([None]) {
                let peers = by_key.get(&(scope, label)).into_iter().flatten();
                found.extend(peers.filter(|peer| self.selects(store, **peer, namespace, labels)).copied());
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Takes a class out that is gone.
    pub(super) fn remove_class(&mut self, id: ClassSlot) {
        for peer in self.forget(id) {
            self.entries[peer.place()].classes.remove(&id);
        }
    }

    fn forget(&mut self, id: ClassSlot) -> PeerIds {
        self.of_class.remove(&id).unwrap_or_default()
    }

    /// As [`crate::cluster::Cluster::selects`].
    fn selects(&self, store: &Store, id: PeerId, namespace: Text, labels: &[LabelPair]) -> bool {
        let entry = &self.entries[id.place()];
        let is_of_namespace = match &entry.namespaces {
            Place::Own(name) => *name == namespace,
            Place::Selected(selector) => {
                let space = store.spaces.get(&namespace);
                space.and_then(|space| space.labels.as_deref()).is_some_and(|labels| selector.matches(labels))
            }
        };
        is_of_namespace && entry.pods.matches(labels)
    }
}

/// The classes that a selector selects: those of its namespaces.
fn search(store: &Store, namespaces: &Place, pods: &Compiled) -> BTreeSet<ClassSlot> {
    let selected = |class: &&ClassSlot| pods.matches(&store.class(**class).labels);
    match namespaces {
        Place::Own(name) => {
            let classes = store.spaces.get(name).map_or(&[][..], |space| &space.classes);
            classes.iter().filter(selected).copied().collect()
        }
        Place::Selected(selector) => {
            #[allow(clippy::iter_over_hash_type, reason = "the classes are sorted")]
            let spaces = store
                .spaces
                .values()
                .filter(|space| space.labels.as_deref().is_some_and(|labels| selector.matches(labels)));
            spaces.flat_map(|space| &space.classes).filter(selected).copied().collect()
        }
    }
}

/// A selector with its strings kept; [`give_back`] them.
fn compile(strings: &mut Interner, peer: &PodPeer) -> (Place, Compiled) {
    let pods = Compiled::new(strings, &peer.pods);
    let namespaces = match &peer.namespaces {
        Namespaces::Own(name) => Place::Own(strings.keep(name)),
        Namespaces::Selected(selector) => Place::Selected(Compiled::new(strings, selector)),
    };
    (namespaces, pods)
}

impl PeerId {
    fn place(self) -> usize {
        self.0 as usize
    }
}

fn hash(namespaces: &Place, pods: &Compiled) -> u64 {
    FxBuildHasher.hash_one((namespaces, pods))
}

/// Releases the strings of a selector.
fn give_back(strings: &mut Interner, namespaces: Place, pods: Compiled) {
    match namespaces {
        Place::Own(name) => strings.release(name),
        Place::Selected(selector) => selector.release(strings),
    }
    pods.release(strings);
}

fn keys(namespaces: &Place, pods: &Compiled) -> Vec<SelectorKey> {
    let scopes = match namespaces {
        Place::Own(name) => vec![NamespaceScope::Own(*name)],
        Place::Selected(selector) => match selector.needs() {
            Some(pairs) => pairs.into_iter().map(NamespaceScope::Labelled).collect(),
            None => vec![NamespaceScope::Any],
        },
    };
    let labels = pods.needs().map_or_else(|| vec![None], |pairs| pairs.into_iter().map(Some).collect());
    scopes.into_iter().flat_map(|scope| labels.iter().map(move |label| (scope, *label))).collect()
}

/// Puts a selector among others, sorted and each once: a namespace may have tens of
/// thousands under one key.
fn insert(ids: &mut PeerIds, id: PeerId) {
    if let Err(place) = ids.binary_search(&id) {
        ids.insert(place, id);
    }
}

fn remove<K: std::hash::Hash + Eq>(index: &mut FxHashMap<K, PeerIds>, key: &K, id: PeerId) {
    if let Some(ids) = index.get_mut(key) {
        if let Ok(place) = ids.binary_search(&id) {
            ids.remove(place);
        }
        if ids.is_empty() {
            index.remove(key);
        }
    }
}
