//! The sets that rules name now, and their members.

mod set;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use slab::Slab;

use self::set::{Content, NamedPorts, PeerSet, Whose};
use super::peers::{LabelsOf, PeerId, PeerIndex};
use super::store::Store;
use crate::algebra::cidr::{self, AddressSet};
use crate::cluster::group::Atom;
use crate::object::Family;
use crate::ruleset::members::count_of_sets;
use crate::ruleset::node::{Member, SetKind, SetName};
use crate::ruleset::options::Need;
use crate::ruleset::set_definition::{Definition, by_names};

/// A set's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SetId(usize);

/// Who uses a set for a chain that a namespace is expected to make.
pub(super) fn expecting(namespace: &str) -> Arc<str> {
    // No namespace has such a name.
    Arc::from(format!("{namespace}\0expected"))
}

/// Whether a user of a set is one of [`expecting`].
fn is_expecting(user: &str) -> bool {
    user.contains('\0')
}

/// What comes to a set that is loaded piece by piece.
#[derive(Debug)]
pub(super) struct Loaded {
    /// It is created first.
    pub(super) created: Option<(Family, SetKind)>,
    pub(super) added: Vec<Member>,
    /// What came before and is not meant any more.
    pub(super) removed: Vec<Member>,
    /// It has all its members now.
    pub(super) is_whole: bool,
}

/// What the sets and rules of a namespace count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Total {
    /// How many there are.
    sets: u64,
    /// By their members.
    members: u64,
    /// The rules of its chains that admit something.
    rules: u64,
}

/// The sets in use.
#[derive(Debug, Default)]
pub(super) struct PeerSets {
    entries: Slab<PeerSet>,
    by_name: BTreeMap<SetName, SetId>,
    /// The sets of peers that name a selector, sorted.
    of_peer: FxHashMap<PeerId, Vec<SetId>>,
    /// The sets of named ports, by family.
    named: [BTreeSet<SetId>; 2],
    /// Sets that were made since the last commit.
    fresh: BTreeSet<SetId>,
    /// Sets that lost their last use since the last commit.
    unused: BTreeSet<SetId>,
    /// What the sets in use count together, by namespace.
    totals: BTreeMap<Arc<str>, Total>,
    /// Namespaces whose total grew since the last [`PeerSets::take_grown`].
    grown: BTreeSet<Arc<str>>,
    /// How many ports all pods had when sets were last counted.
    all_ports: [u64; 2],
}

impl PeerSets {
    /// One use more of a set. A set that is known already does not have to be defined again.
    pub(super) fn keep(
        &mut self,
        store: &mut Store,
        peers: &mut PeerIndex,
        (family, namespace): (Family, &Arc<str>),
        name: &SetName,
        definition: Option<&Definition>,
    ) {
        if let Some(id) = self.by_name.get(name).copied() {
            let uses = self.entries[id.0].uses.entry(Arc::clone(namespace)).or_default();
            *uses += 1;
            let (is_first, count) = (*uses == 1, self.entries[id.0].count);
            self.unused.remove(&id);
            if is_first {
                self.add(namespace, Total { sets: 1, members: count.unwrap_or_default(), rules: 0 });
            }
            return;
        }
        let Some(definition) = definition else { return };
        let content = match definition {
            Definition::Peers { pods, addresses } => {
                Content::Peers(pods.iter().map(|peer| peers.keep(store, peer)).collect(), addresses.clone())
            }
            Definition::NamedPorts(entries) => {
                let whose = by_names(entries).into_iter().map(|(names, atoms)| {
                    let mut whose = Whose::default();
                    let mut blocks = Vec::new();
                    for atom in atoms {
                        match atom {
                            Atom::Everyone => whose.is_everyones = true,
                            Atom::Pods(peer) => drop(whose.peers.insert(peers.keep(store, peer))),
                            Atom::Block(block) => blocks.push(&block.addresses),
                        }
                    }
                    whose.blocks = AddressSet::union_of(blocks);
                    (Arc::clone(names), whose)
                });
                Content::Named(NamedPorts::new(whose.collect()))
            }
        };
        let kind = definition.kind();
        let uses = BTreeMap::from([(Arc::clone(namespace), 1)]);
        let (name_of, count) = (name.clone(), None);
        let (is_new, is_there) = (true, false);
        let entry = PeerSet { family, name: name_of, kind, content, uses, expected: 0, count, is_new, is_there };
        let id = SetId(self.entries.insert(entry));
        self.by_name.insert(name.clone(), id);
        if matches!(&self.entries[id.0].content, Content::Named(_)) {
            self.named[family as usize].insert(id);
        }
        for peer in self.entries[id.0].peers() {
            let sets = self.of_peer.entry(peer).or_default();
            if let Err(place) = sets.binary_search(&id) {
                sets.insert(place, id);
            }
        }
        self.fresh.insert(id);
        self.add(namespace, Total { sets: 1, ..Total::default() });
    }

    /// One use less; the set stays until [`PeerSets::sweep`], in case that it
    /// is wanted again.
    pub(super) fn release(&mut self, name: &SetName, namespace: &str) {
        let Some(id) = self.by_name.get(name) else { return };
        let entry = &mut self.entries[id.0];
        let Some(uses) = entry.uses.get_mut(namespace) else { return };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        entry.uses.remove(namespace);
        if entry.uses.is_empty() {
            self.unused.insert(*id);
        }
        if let Some(total) = self.totals.get_mut(namespace) {
            total.sets -= 1;
            total.members = total.members.saturating_sub(entry.count.unwrap_or_default());
            if *total == Total::default() {
                self.totals.remove(namespace);
            }
        }
    }

    fn add(&mut self, namespace: &Arc<str>, more: Total) {
        if more != Total::default() {
            let total = self.totals.entry(Arc::clone(namespace)).or_default();
            total.sets += more.sets;
            total.members = total.members.saturating_add(more.members);
            total.rules += more.rules;
            self.grown.insert(Arc::clone(namespace));
        }
    }

    /// The chains of a namespace have so many rules more that admit something.
    pub(super) fn add_rules(&mut self, namespace: &Arc<str>, rules: u64) {
        self.add(namespace, Total { rules, ..Total::default() });
    }

    /// They have so many fewer.
    pub(super) fn remove_rules(&mut self, namespace: &str, rules: u64) {
        if let Some(total) = self.totals.get_mut(namespace) {
            total.rules = total.rules.saturating_sub(rules);
            if *total == Total::default() {
                self.totals.remove(namespace);
            }
        }
    }

    /// Brings up to date what sets count. All peers have to be measured.
    pub(super) fn count(&mut self, store: &Store, peers: &mut PeerIndex) {
        for (peer, was, is) in peers.take_resized() {
            for id in self.of_peer.get(&peer).cloned().unwrap_or_default() {
                let entry = &self.entries[id.0];
                self.recount(id, entry.share_of(was), entry.share_of(is));
            }
        }
        let was = std::mem::replace(&mut self.all_ports, store.size.ports);
        for family in
            Family::ALL.into_iter().filter(|family| was[*family as usize] != store.size.ports[*family as usize])
        {
            for id in self.named[family as usize].clone() {
                if self.entries[id.0].asks_all() {
                    self.recount(id, was[family as usize], store.size.ports[family as usize]);
                }
            }
        }
        for id in self.fresh.clone() {
            let entry = &mut self.entries[id.0];
            if entry.count.is_some() {
                continue;
            }
            let count = entry.counted(store, peers);
            entry.count = Some(count);
            for namespace in entry.uses.keys().cloned().collect::<Vec<_>>() {
                self.add(&namespace, Total { members: count, ..Total::default() });
            }
        }
    }

    /// A part of a set's count changed from `was` to `is`.
    fn recount(&mut self, id: SetId, was: u64, is: u64) {
        let entry = &mut self.entries[id.0];
        let Some(count) = entry.count.as_mut().filter(|_| was != is) else { return };
        *count = count.saturating_sub(was).saturating_add(is);
        for namespace in entry.uses.keys() {
            let total = self.totals.entry(Arc::clone(namespace)).or_default();
            total.members = total.members.saturating_sub(was).saturating_add(is);
            if is > was {
                self.grown.insert(Arc::clone(namespace));
            }
        }
    }

    /// The namespaces whose sets or rules count more than they did, with what they count now.
    pub(super) fn take_grown(&mut self) -> Vec<(Arc<str>, Need)> {
        let grown = std::mem::take(&mut self.grown);
        grown.into_iter().map(|namespace| (Arc::clone(&namespace), self.total(&namespace))).collect()
    }

    /// A namespace is to be in the next [`PeerSets::take_grown`].
    pub(super) fn check_again(&mut self, namespace: &Arc<str>) {
        self.grown.insert(Arc::clone(namespace));
    }

    /// What a set in use counts, once that is known.
    pub(super) fn count_of(&self, name: &SetName) -> Option<u64> {
        self.by_name.get(name).and_then(|id| self.entries[id.0].count)
    }

    /// What the sets count together that have uses by this namespace, and its rules.
    pub(super) fn total(&self, namespace: &str) -> Need {
        let total = self.totals.get(namespace).copied().unwrap_or_default();
        Need { members: total.members.saturating_add(count_of_sets(total.sets)), rules: total.rules }
    }

    /// One use of a set is by a chain that is only expected.
    pub(super) fn expect(&mut self, name: &SetName) {
        if let Some(id) = self.by_name.get(name) {
            self.entries[id.0].expected += 1;
        }
    }

    /// Releases a set that only an expected chain asked.
    pub(super) fn expect_no_more(&mut self, name: &SetName, namespace: &str) {
        if let Some(id) = self.by_name.get(name) {
            self.entries[id.0].expected -= 1;
        }
        self.release(name, namespace);
    }

    /// Whether a set is in use, or was.
    pub(super) fn is_known(&self, name: &SetName) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether a set is there with all its members.
    pub(super) fn is_whole(&self, name: &SetName) -> bool {
        self.by_name.get(name).is_some_and(|id| !self.entries[id.0].is_new)
    }

    /// Whether sets that lost their last use wait for [`PeerSets::sweep`].
    pub(super) fn has_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    /// Takes out sets without a use. Of those that the state has, it takes out at most `most`, and answers their names.
    pub(super) fn sweep(&mut self, store: &mut Store, peers: &mut PeerIndex, most: usize) -> Vec<(Family, SetName)> {
        let mut gone = Vec::new();
        let (there, never): (Vec<SetId>, Vec<SetId>) = self.unused.iter().partition(|id| self.entries[id.0].is_there);
        let unused: Vec<SetId> = never.into_iter().chain(there.into_iter().take(most)).collect();
        for id in unused {
            self.unused.remove(&id);
            let entry = self.entries.remove(id.0);
            self.by_name.remove(&entry.name);
            self.fresh.remove(&id);
            self.named[entry.family as usize].remove(&id);
            for peer in entry.peers() {
                if let Some(sets) = self.of_peer.get_mut(&peer) {
                    if let Ok(place) = sets.binary_search(&id) {
                        sets.remove(place);
                    }
                    if sets.is_empty() {
                        self.of_peer.remove(&peer);
                    }
                }
            }
            for peer in entry.peers() {
                peers.release(&mut store.strings, peer);
            }
            if entry.is_there {
                gone.push((entry.family, entry.name));
            }
        }
        gone
    }

    /// The sets that are new since the last commit, with all their members; but not those that
    /// only expected chains ask.
    pub(super) fn materialise(
        &mut self,
        store: &Store,
        peers: &PeerIndex,
    ) -> Vec<(Family, SetName, SetKind, BTreeSet<Member>)> {
        let is_asked = |id: &SetId| self.entries[id.0].uses.values().sum::<usize>() > self.entries[id.0].expected;
        let asked: Vec<SetId> = self.fresh.iter().filter(|id| is_asked(id)).copied().collect();
        asked.into_iter().map(|id| self.make(id, store, peers)).collect()
    }

    /// A set with all its members, which it has from now on.
    fn make(&mut self, id: SetId, store: &Store, peers: &PeerIndex) -> (Family, SetName, SetKind, BTreeSet<Member>) {
        self.fresh.remove(&id);
        let entry = &mut self.entries[id.0];
        (entry.is_new, entry.is_there) = (false, true);
        let members = entry.members(store, peers);
        (entry.family, entry.name.clone(), entry.kind, members)
    }

    /// What is missing of a set that only expected chains ask, where the state has these members of
    /// it. At most this many members come at once.
    pub(super) fn load(
        &mut self,
        name: &SetName,
        (store, peers): (&Store, &PeerIndex),
        present: Option<&BTreeSet<Member>>,
        most: usize,
    ) -> Option<Loaded> {
        let id = *self.by_name.get(name)?;
        let entry = &mut self.entries[id.0];
        if !entry.is_new {
            return None;
        }
        let members = entry.members(store, peers);
        let has = |member: &&Member| present.is_some_and(|present| present.contains(*member));
        let mut added: Vec<Member> = members.iter().filter(|member| !has(member)).take(most + 1).cloned().collect();
        let is_whole = added.len() <= most;
        added.truncate(most);
        let removed = present.into_iter().flatten().filter(|member| !members.contains(*member)).cloned().collect();
        let created = (!entry.is_there).then_some((entry.family, entry.kind));
        (entry.is_new, entry.is_there) = (!is_whole, true);
        if is_whole {
            self.fresh.remove(&id);
        }
        Some(Loaded { created, added, removed, is_whole })
    }

    /// The sets, but for the new ones, that an address is in, and as what.
    pub(super) fn memberships(&self, store: &Store, peers: &PeerIndex, address: IpAddr) -> Vec<(SetId, Member)> {
        let holders = store.holders(address);
        let Some(first) = holders.first() else { return Vec::new() };
        let mut ids = self.selecting(store, peers, address, LabelsOf::Force);
        if store.namespaces_of_relabelled(holders).next().is_some() {
            let (force, newest) = (ids, self.selecting(store, peers, address, LabelsOf::Newest));
            ids = force.union(&newest).copied().collect();
            ids.retain(|id| {
                let is_selected = |labels: LabelsOf| match labels {
                    LabelsOf::Force => force.contains(id),
                    LabelsOf::Newest => newest.contains(id),
                };
                self.entries[id.0].takes(store, holders, is_selected)
            });
        }
        let mut found: Vec<_> = ids.into_iter().map(|id| (id, Member::Address(address))).collect();
        if !store.ports(*first).is_empty() {
            for id in &self.named[Family::of(&address) as usize] {
                if !self.entries[id.0].is_new {
                    let ports = self.entries[id.0].ports(store, peers, address);
                    found.extend(ports.into_iter().map(|member| (*id, member)));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found.shrink_to_fit();
        found
    }

    /// The sets of peers, but for the new ones, that select those who hold an address by these labels.
    fn selecting(&self, store: &Store, peers: &PeerIndex, address: IpAddr, labels: LabelsOf) -> BTreeSet<SetId> {
        let (family, holders) = (Family::of(&address), store.holders(address));
        let of_first = holders.first().map(|first| peers.of_pod(store, *first, labels)).unwrap_or_default();
        let of_all = of_first.iter().filter(|peer| peers.selects_all(store, **peer, holders, labels));
        let ids = of_all.flat_map(|peer| self.of_peer.get(peer).into_iter().flatten());
        let is_in = |id: &&SetId| {
            let entry = &self.entries[id.0];
            // A prefix holds its pods already.
            matches!(&entry.content, Content::Peers(_, prefixes)
                if entry.family == family && !entry.is_new && !prefixes.contains(cidr::number(address)))
        };
        ids.filter(is_in).copied().collect()
    }

    /// A set's family and name, if it is still there.
    pub(super) fn name(&self, id: SetId) -> Option<(Family, &SetName)> {
        self.entries.get(id.0).map(|entry| (entry.family, &entry.name))
    }
}
