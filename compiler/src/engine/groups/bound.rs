//! Which policies of this node's groups are over the bound on set members
//! ([`crate::ruleset::members`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Age, LocalGroups};
use crate::engine::live::LiveSets;
use crate::engine::peers::PeerIndex;
use crate::engine::store::Store;
use crate::policy::finding::Finding;
use crate::policy::{Direction, PodPeer};
use crate::ruleset::members::{self, Asking, Size, Sizes};
use crate::ruleset::name::Hash;

impl LocalGroups {
    /// What is said of policies that are over the bound to their owners.
    pub(in crate::engine) fn over_bound(&self) -> impl Iterator<Item = &Finding> {
        self.namespaces.values().flat_map(|here| here.over_bound.values())
    }

    /// The namespaces where some policies are over the bound, which are to be chosen anew.
    pub(in crate::engine) fn to_reconsider(&mut self) -> Vec<Arc<str>> {
        self.sizes.clear();
        let over = self.namespaces.iter().filter(|(_, here)| !here.over_bound.is_empty());
        over.map(|(namespace, _)| Arc::clone(namespace)).collect()
    }

    /// Chooses the policies of a namespace that are over the bound anew, at the next commit.
    pub(in crate::engine) fn reconsider(&mut self, namespace: Arc<str>) {
        self.reconsidered.insert(namespace);
    }

    /// Takes the rules of policies away where a namespace's sets count too much, and gives them
    /// back to others. Whether the groups are to be made anew.
    ///
    /// A group that is only retained goes before any policy is over the bound.
    pub(in crate::engine) fn bound(&mut self, store: &mut Store, peers: &PeerIndex, sets: &mut LiveSets) -> bool {
        let mut chosen = std::mem::take(&mut self.reconsidered);
        let mut is_changed = false;
        for (namespace, count) in sets.take_grown() {
            if count <= self.options.set_members.0 {
                continue;
            }
            if self.let_retained_go(&namespace) {
                is_changed = true;
                // It may still be too much.
                sets.grew(&namespace);
            } else {
                chosen.insert(namespace);
            }
        }
        for namespace in chosen {
            is_changed |= self.choose(&namespace, store, peers);
        }
        self.is_stale |= is_changed;
        is_changed
    }

    /// Lets the empty groups of a namespace go. Whether there were any.
    fn let_retained_go(&mut self, namespace: &str) -> bool {
        let Some(here) = self.namespaces.get(namespace) else { return false };
        let mut were_any = false;
        for direction in Direction::ALL {
            for hash in &here.groups[direction as usize] {
                let group = self.groups[direction as usize].get_mut(hash);
                if let Some(group) = group.filter(|group| group.pods.is_empty()) {
                    group.age = Age::Over;
                    self.changed[direction as usize].insert(*hash);
                    were_any = true;
                }
            }
        }
        were_any
    }

    /// Chooses which policies of a namespace are over the bound. Whether others are than before.
    fn choose(&mut self, namespace: &Arc<str>, store: &mut Store, peers: &PeerIndex) -> bool {
        let Some(here) = self.namespaces.get(namespace) else { return false };
        let mut groups = Vec::new();
        for direction in Direction::ALL {
            let of_direction = &self.groups[direction as usize];
            let living = here.groups[direction as usize].iter().filter_map(|hash| of_direction.get(hash));
            groups.extend(living.filter(|group| !group.pods.is_empty()).map(|group| Asking {
                direction,
                policies: group.policies.iter().map(|name| &*here.policies[name]).collect(),
                resolution: &group.resolution,
            }));
        }
        let mut sizes = InStore::new(store, peers, &mut self.sizes);
        let over = members::over(&groups, &self.options, &mut sizes);
        let is_same =
            here.over_bound.len() == over.len() && over.iter().all(|name| here.over_bound.contains_key(*name));
        if is_same {
            return false;
        }
        let over: Vec<(Arc<str>, Finding)> = over
            .into_iter()
            .filter_map(|name| here.policies.get_key_value(name))
            .map(|(name, policy)| (Arc::clone(name), members::finding(policy, &self.options, "a node")))
            .collect();
        let Some(here) = self.namespaces.get_mut(namespace) else { return false };
        let before = std::mem::replace(&mut here.over_bound, over.into_iter().collect());
        let moved: BTreeSet<&Arc<str>> = before
            .keys()
            .filter(|name| !here.over_bound.contains_key(*name))
            .chain(here.over_bound.keys().filter(|name| !before.contains_key(*name)))
            .collect();
        for direction in Direction::ALL {
            let groups = &self.groups[direction as usize];
            let is_concerned = |hash: &&Hash| {
                groups.get(*hash).is_some_and(|group| group.policies.iter().any(|name| moved.contains(name)))
            };
            for hash in here.groups[direction as usize].iter().filter(is_concerned) {
                self.changed[direction as usize].insert(*hash);
                self.edited[direction as usize].insert(*hash);
            }
        }
        true
    }
}

/// The sizes of peers among the pods that the engine knows.
pub(super) struct InStore<'a> {
    store: &'a mut Store,
    peers: &'a PeerIndex,
    /// Those of peers that no set has.
    known: &'a mut FxHashMap<PodPeer, Size>,
    /// Those that were asked for.
    asked: FxHashMap<PodPeer, Size>,
}

impl<'a> InStore<'a> {
    pub(super) fn new(store: &'a mut Store, peers: &'a PeerIndex, known: &'a mut FxHashMap<PodPeer, Size>) -> Self {
        Self { store, peers, known, asked: FxHashMap::default() }
    }
}

impl Sizes for InStore<'_> {
    fn of_peer(&mut self, peer: &PodPeer) -> Size {
        if let Some(asked) = self.asked.get(peer) {
            return *asked;
        }
        let size = self.peers.size_of(self.store, peer, self.known);
        self.asked.insert(peer.clone(), size);
        size
    }

    fn of_all(&mut self) -> Size {
        self.store.size
    }
}
