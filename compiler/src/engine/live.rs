//! The sets that rules name now, and their members.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use slab::Slab;

use super::peers::{PeerId, PeerIndex};
use super::store::{PodId, Store};
use crate::algebra::cidr::{self, AddressSet};
use crate::cluster::group::Atom;
use crate::object::{ContainerPort, Family, Protocol};
use crate::ruleset::members::{Size, count_of_prefixes, count_of_sets};
use crate::ruleset::node::{Member, SetKind, SetName};
use crate::ruleset::set_definition::{self, Definition, PortNames, by_names};

/// A set's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SetId(usize);

/// Whose port a name is looked up on.
#[derive(Debug, Default)]
struct Whose {
    is_everyones: bool,
    peers: BTreeSet<PeerId>,
    blocks: AddressSet,
}

impl Whose {
    /// Whether it is looked up on the pods that hold an address.
    fn holds(&self, store: &Store, index: &PeerIndex, address: IpAddr, holders: &[PodId]) -> bool {
        let of_class = holders.first().map_or(&[][..], |first| index.of_class(store.pod(*first).class));
        let is_meant = |peer: &PeerId| index.selects_all(store, *peer, holders);
        let by_peers = || {
            if self.peers.len() < of_class.len() {
                self.peers.iter().any(is_meant)
            } else {
                of_class.iter().any(|peer| self.peers.contains(peer) && is_meant(peer))
            }
        };
        self.is_everyones || self.blocks.contains(cidr::number(address)) || by_peers()
    }
}

/// Names of ports, and on whose pods they are looked up.
#[derive(Debug)]
struct NamedPorts {
    /// Peers that share their names share them here too: peers times names may be a
    /// thousand times what a policy says.
    entries: Vec<(PortNames, Whose)>,
    /// The entries that have a name.
    by_name: BTreeMap<(Protocol, String), Vec<usize>>,
}

impl NamedPorts {
    fn new(entries: Vec<(PortNames, Whose)>) -> Self {
        let mut by_name = BTreeMap::<(Protocol, String), Vec<usize>>::new();
        for (place, (names, _)) in entries.iter().enumerate() {
            for name in &**names {
                by_name.entry(name.clone()).or_default().push(place);
            }
        }
        Self { entries, by_name }
    }

    /// On whose pods a port is looked up.
    fn of<'a>(&'a self, port: &ContainerPort) -> impl Iterator<Item = &'a Whose> {
        let places = self.by_name.get(&(port.protocol, port.name.clone()));
        places.into_iter().flatten().map(|place| &self.entries[*place].1)
    }
}

#[derive(Debug)]
enum Content {
    /// The addresses of these peers' pods, and these prefixes.
    Peers(Vec<PeerId>, AddressSet),
    /// Ports by protocol and name.
    Named(NamedPorts),
}

#[derive(Debug)]
struct Entry {
    family: Family,
    name: SetName,
    kind: SetKind,
    content: Content,
    /// How many uses each namespace has of it.
    uses: BTreeMap<Arc<str>, usize>,
    /// How many of the uses are by chains that are expected and that no packet meets yet.
    expected: usize,
    /// What it counts for the bound on set members, once that is known.
    count: Option<u64>,
    /// Its members are to be found: at the next commit, or while it is loaded if only
    /// expected chains ask it.
    is_new: bool,
    /// The state has it, though maybe not with all its members.
    is_there: bool,
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

/// What sets count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Total {
    /// How many there are.
    sets: u64,
    /// By their members.
    members: u64,
}

/// The sets in use.
#[derive(Debug, Default)]
pub(super) struct LiveSets {
    entries: Slab<Entry>,
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
    /// Namespaces whose total grew since the last [`LiveSets::take_grown`].
    grown: BTreeSet<Arc<str>>,
    /// How many ports all pods had when sets were last counted.
    all_ports: [u64; 2],
}

impl LiveSets {
    /// One use more of a set.
    pub(super) fn keep(
        &mut self,
        store: &mut Store,
        peers: &mut PeerIndex,
        (family, namespace): (Family, &Arc<str>),
        name: &SetName,
        definition: &Definition,
    ) {
        if let Some(id) = self.by_name.get(name).copied() {
            let uses = self.entries[id.0].uses.entry(Arc::clone(namespace)).or_default();
            *uses += 1;
            let (is_first, count) = (*uses == 1, self.entries[id.0].count);
            self.unused.remove(&id);
            if is_first {
                self.add(namespace, Total { sets: 1, members: count.unwrap_or_default() });
            }
            return;
        }
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
        let entry = Entry { family, name: name_of, kind, content, uses, expected: 0, count, is_new, is_there };
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
        self.add(namespace, Total { sets: 1, members: 0 });
    }

    /// One use less; the set stays until [`LiveSets::sweep`], in case that it
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
            self.grown.insert(Arc::clone(namespace));
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
                self.add(&namespace, Total { sets: 0, members: count });
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

    /// The namespaces whose sets count more than they did, with what they count now.
    pub(super) fn take_grown(&mut self) -> Vec<(Arc<str>, u64)> {
        let grown = std::mem::take(&mut self.grown);
        grown.into_iter().map(|namespace| (Arc::clone(&namespace), self.total(&namespace))).collect()
    }

    /// A namespace is to be in the next [`LiveSets::take_grown`].
    pub(super) fn check_again(&mut self, namespace: &Arc<str>) {
        self.grown.insert(Arc::clone(namespace));
    }

    /// What a set in use counts, once that is known.
    pub(super) fn count_of(&self, name: &SetName) -> Option<u64> {
        self.by_name.get(name).and_then(|id| self.entries[id.0].count)
    }

    /// What the sets count together that have uses by this namespace.
    pub(super) fn total(&self, namespace: &str) -> u64 {
        let total = self.totals.get(namespace).copied().unwrap_or_default();
        total.members.saturating_add(count_of_sets(total.sets))
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

    /// Whether a set is there with all its members.
    pub(super) fn is_whole(&self, name: &SetName) -> bool {
        self.by_name.get(name).is_some_and(|id| !self.entries[id.0].is_new)
    }

    /// Whether sets that lost their last use wait for [`LiveSets::sweep`].
    pub(super) fn has_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    /// Takes out what has no use: of what the state has so many at most, whose names it answers.
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

    /// What is missing of a set that only expected chains ask, where the state has these
    /// members of it. So many members at most come at once.
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
        let Some(first) = holders.first().filter(|_| store.are_peers(holders)) else { return Vec::new() };
        let family = Family::of(&address);
        let mut found = Vec::new();
        for peer in peers.of_class(store.pod(*first).class) {
            if !peers.selects_all(store, *peer, holders) {
                continue;
            }
            for id in self.of_peer.get(peer).into_iter().flatten() {
                let entry = &self.entries[id.0];
                let Content::Peers(_, prefixes) = &entry.content else { continue };
                // A prefix holds its pods already.
                if entry.family == family && !entry.is_new && !prefixes.contains(cidr::number(address)) {
                    found.push((*id, Member::Address(address)));
                }
            }
        }
        if !store.ports(*first).is_empty() {
            for id in &self.named[family as usize] {
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

    /// A set's family and name, if it is still there.
    pub(super) fn name(&self, id: SetId) -> Option<(Family, &SetName)> {
        self.entries.get(id.0).map(|entry| (entry.family, &entry.name))
    }
}

impl Entry {
    /// Its peers, as often as it keeps each.
    fn peers(&self) -> Vec<PeerId> {
        match &self.content {
            Content::Peers(peers, _) => peers.clone(),
            Content::Named(named) => named.entries.iter().flat_map(|(_, whose)| &whose.peers).copied().collect(),
        }
    }

    /// What a peer of this size counts in it.
    const fn share_of(&self, size: Size) -> u64 {
        match self.content {
            Content::Peers(..) => size.addresses[self.family as usize],
            Content::Named(_) => size.ports[self.family as usize],
        }
    }

    /// Whether it is a set of named ports of any pods.
    fn asks_all(&self) -> bool {
        let is_any = |whose: &Whose| whose.is_everyones || !whose.blocks.is_empty();
        matches!(&self.content, Content::Named(named) if named.entries.iter().any(|(_, whose)| is_any(whose)))
    }

    /// What it counts, as [`members::count`](crate::ruleset::members::count).
    fn counted(&self, store: &Store, peers: &PeerIndex) -> u64 {
        let own = match &self.content {
            Content::Peers(_, prefixes) => count_of_prefixes(self.family, prefixes),
            Content::Named(_) if self.asks_all() => store.size.ports[self.family as usize],
            Content::Named(_) => 0,
        };
        let of_peers = self.peers().into_iter().map(|peer| self.share_of(peers.size(peer)));
        of_peers.fold(own, u64::saturating_add)
    }

    fn members(&self, store: &Store, peers: &PeerIndex) -> BTreeSet<Member> {
        match &self.content {
            Content::Peers(of, prefixes) => {
                // Each class once: many peers may select the same ones.
                let mut classes = BTreeSet::new();
                for peer in of {
                    classes.extend(peers.classes(*peer));
                }
                let pods = classes.into_iter().flat_map(|class| store.members(class));
                let own = pods.filter_map(|pod| store.address(pod, self.family));
                let is_meant = |address: &IpAddr| match store.holders(*address) {
                    holders if !store.are_peers(holders) => false,
                    [_] => true,
                    holders => of.iter().any(|peer| peers.selects_all(store, *peer, holders)),
                };
                let own = own.filter(|address| !prefixes.contains(cidr::number(*address)) && is_meant(address));
                let own = own.map(Member::Address);
                own.chain(set_definition::prefixes(self.family, prefixes).into_iter().map(Member::from)).collect()
            }
            Content::Named(_) => {
                let pods = store.pods().filter(|(id, _)| !store.ports(*id).is_empty());
                let addresses = pods.filter_map(|(id, _)| store.address(id, self.family));
                addresses.flat_map(|address| self.ports(store, peers, address)).collect()
            }
        }
    }

    /// The members that the named ports of the pod that holds an address make;
    /// of several pods, the ports that all of them have.
    fn ports(&self, store: &Store, peers: &PeerIndex, address: IpAddr) -> Vec<Member> {
        let Content::Named(entries) = &self.content else { return Vec::new() };
        let holders = store.holders(address);
        let Some((first, others)) = holders.split_first().filter(|_| store.are_peers(holders)) else {
            return Vec::new();
        };
        let of_all = |port: &&ContainerPort| others.iter().all(|pod| store.ports(*pod).contains(port));
        let is_named =
            |port: &&ContainerPort| entries.of(port).any(|whose| whose.holds(store, peers, address, holders));
        let ports = store.ports(*first).iter().filter(of_all).filter(is_named);
        ports.map(|port| Member::AddressPort(address, port.protocol, port.port)).collect()
    }
}
