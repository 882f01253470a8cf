//! The selectors that rules on this node name, and the index that leads from
//! labels to the few of them that could care.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use slab::Slab;

use super::intern::{Interner, Text};
use super::selector::{Compiled, Pair};
use super::store::{Class, ClassId, Store};
use crate::policy::{Namespaces, PodPeer};

/// A selector's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerId(usize);

/// Where pods are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    /// In this namespace.
    Own(Text),
    /// In namespaces with this label.
    Labelled(Pair),
    /// Anywhere.
    Any,
}

/// What a class must have for a selector to be worth a look: a scope, and a
/// label of the pods if the selector asks for one.
type Key = (Scope, Option<Pair>);

#[derive(Debug)]
enum Place {
    Own(Text),
    Selected(Compiled),
}

#[derive(Debug)]
struct Entry {
    peer: PodPeer,
    namespaces: Place,
    pods: Compiled,
    keys: Vec<Key>,
    uses: usize,
    /// The classes that it selects now.
    classes: BTreeSet<ClassId>,
}

/// The selectors in use.
#[derive(Debug, Default)]
pub(super) struct PeerIndex {
    entries: Slab<Entry>,
    by_peer: BTreeMap<PodPeer, PeerId>,
    by_key: FxHashMap<Key, Vec<PeerId>>,
    /// The selectors that select a class; a class without any is not here.
    of_class: FxHashMap<ClassId, Vec<PeerId>>,
}

impl PeerIndex {
    /// One use more of a selector.
    pub(super) fn keep(&mut self, store: &mut Store, peer: &PodPeer) -> PeerId {
        if let Some(id) = self.by_peer.get(peer) {
            self.entries[id.0].uses += 1;
            return *id;
        }
        let strings = &mut store.strings;
        let pods = Compiled::new(strings, &peer.pods);
        let namespaces = match &peer.namespaces {
            Namespaces::Own(name) => Place::Own(strings.keep(name)),
            Namespaces::Selected(selector) => Place::Selected(Compiled::new(strings, selector)),
        };
        let keys = keys(&namespaces, &pods);
        let entry =
            Entry { peer: peer.clone(), namespaces, pods, keys: keys.clone(), uses: 1, classes: BTreeSet::new() };
        let id = PeerId(self.entries.insert(entry));
        self.by_peer.insert(peer.clone(), id);
        for key in keys {
            self.by_key.entry(key).or_default().push(id);
        }
        let selected = self.search(store, id);
        for class in &selected {
            self.of_class.entry(*class).or_default().push(id);
        }
        self.entries[id.0].classes = selected;
        id
    }

    /// One use less.
    pub(super) fn release(&mut self, strings: &mut Interner, id: PeerId) {
        self.entries[id.0].uses -= 1;
        if self.entries[id.0].uses > 0 {
            return;
        }
        let entry = self.entries.remove(id.0);
        self.by_peer.remove(&entry.peer);
        for key in &entry.keys {
            remove(&mut self.by_key, key, id);
        }
        for class in &entry.classes {
            remove(&mut self.of_class, class, id);
        }
        match entry.namespaces {
            Place::Own(name) => strings.release(name),
            Place::Selected(selector) => selector.release(strings),
        }
        entry.pods.release(strings);
    }

    /// The classes that a selector selects.
    pub(super) fn classes(&self, id: PeerId) -> &BTreeSet<ClassId> {
        &self.entries[id.0].classes
    }

    /// The selectors that select a class.
    pub(super) fn of_class(&self, class: ClassId) -> &[PeerId] {
        self.of_class.get(&class).map_or(&[], Vec::as_slice)
    }

    /// Looks a new class up, or one whose namespace changed.
    pub(super) fn update(&mut self, store: &Store, id: ClassId) {
        let class = store.class(id);
        let mut now = Vec::new();
        let space = store.spaces.get(&class.namespace).and_then(|space| space.labels.as_deref());
        let labelled = space.unwrap_or_default().iter().map(|pair| Scope::Labelled(*pair));
        for scope in [Scope::Own(class.namespace), Scope::Any].into_iter().chain(labelled) {
            let labels = class.labels.iter().map(|pair| Some(*pair));
            for label in labels.chain([None]) {
                let found = self.by_key.get(&(scope, label)).into_iter().flatten();
                now.extend(found.filter(|peer| self.selects(store, **peer, class)));
            }
        }
        now.sort_unstable();
        now.dedup();
        for peer in self.forget(id) {
            if now.binary_search(&peer).is_err() {
                self.entries[peer.0].classes.remove(&id);
            }
        }
        for peer in &now {
            self.entries[peer.0].classes.insert(id);
        }
        if !now.is_empty() {
            self.of_class.insert(id, now);
        }
    }

    /// Takes a class out that is gone.
    pub(super) fn remove_class(&mut self, id: ClassId) {
        for peer in self.forget(id) {
            self.entries[peer.0].classes.remove(&id);
        }
    }

    fn forget(&mut self, id: ClassId) -> Vec<PeerId> {
        self.of_class.remove(&id).unwrap_or_default()
    }

    /// As [`crate::cluster::Cluster::selects`].
    fn selects(&self, store: &Store, id: PeerId, class: &Class) -> bool {
        let entry = &self.entries[id.0];
        let namespace = match &entry.namespaces {
            Place::Own(name) => *name == class.namespace,
            Place::Selected(selector) => {
                let space = store.spaces.get(&class.namespace);
                space.and_then(|space| space.labels.as_deref()).is_some_and(|labels| selector.matches(labels))
            }
        };
        namespace && entry.pods.matches(&class.labels)
    }

    /// The classes that a new selector selects: those of its namespaces.
    fn search(&self, store: &Store, id: PeerId) -> BTreeSet<ClassId> {
        let pods = |class: &&ClassId| self.entries[id.0].pods.matches(&store.class(**class).labels);
        match &self.entries[id.0].namespaces {
            Place::Own(name) => {
                let classes = store.spaces.get(name).map_or(&[][..], |space| &space.classes);
                classes.iter().filter(pods).copied().collect()
            }
            Place::Selected(selector) => {
                #[allow(clippy::iter_over_hash_type, reason = "the classes are sorted")]
                let spaces = store
                    .spaces
                    .values()
                    .filter(|space| space.labels.as_deref().is_some_and(|labels| selector.matches(labels)));
                spaces.flat_map(|space| &space.classes).filter(pods).copied().collect()
            }
        }
    }
}

fn keys(namespaces: &Place, pods: &Compiled) -> Vec<Key> {
    let scopes = match namespaces {
        Place::Own(name) => vec![Scope::Own(*name)],
        Place::Selected(selector) => match selector.needs() {
            Some(pairs) => pairs.into_iter().map(Scope::Labelled).collect(),
            None => vec![Scope::Any],
        },
    };
    let labels = pods.needs().map_or_else(|| vec![None], |pairs| pairs.into_iter().map(Some).collect());
    scopes.into_iter().flat_map(|scope| labels.iter().map(move |label| (scope, *label))).collect()
}

fn remove<K: std::hash::Hash + Eq>(index: &mut FxHashMap<K, Vec<PeerId>>, key: &K, id: PeerId) {
    if let Some(ids) = index.get_mut(key) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}
