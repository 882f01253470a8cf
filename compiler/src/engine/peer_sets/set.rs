//! One set that rules name: what it holds, and what members that makes now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::is_expecting;
use crate::algebra::cidr::{self, AddressSet};
use crate::engine::peers::{LabelsOf, PeerId, PeerIndex};
use crate::engine::store::{PodSlot, Store};
use crate::object::{ContainerPort, Family, Protocol};
use crate::ruleset::members::{MemberCount, count_of_prefixes};
use crate::ruleset::node::{Member, SetKind, SetName};
use crate::ruleset::set_definition::{self, PortNames};

/// Whose port a name is looked up on.
#[derive(Debug, Default)]
pub(super) struct Whose {
    pub(super) is_everyones: bool,
    pub(super) peers: BTreeSet<PeerId>,
    pub(super) blocks: AddressSet,
}

impl Whose {
    /// Whether it is looked up on the pods that hold an address.
    fn holds(&self, store: &Store, index: &PeerIndex, address: IpAddr, labels: LabelsOf) -> bool {
        let holders = store.holders(address);
        let is_meant = |peer: &PeerId| index.selects_all(store, *peer, holders, labels);
        let by_peers = || {
            let of_first = holders.first().map(|first| index.of_pod(store, *first, labels)).unwrap_or_default();
            if self.peers.len() < of_first.len() {
                self.peers.iter().any(is_meant)
            } else {
                of_first.iter().any(|peer| self.peers.contains(peer) && is_meant(peer))
            }
        };
        self.is_everyones || self.blocks.contains(cidr::number(address)) || by_peers()
    }
}

/// Names of ports, and on whose pods they are looked up.
#[derive(Debug)]
pub(super) struct NamedPorts {
    /// Peers that share their names share them here too: peers times names may be a
    /// thousand times what a policy says.
    pub(super) entries: Vec<(PortNames, Whose)>,
    /// The entries that have a name.
    pub(super) by_name: BTreeMap<(Protocol, String), Vec<usize>>,
}

impl NamedPorts {
    pub(super) fn new(entries: Vec<(PortNames, Whose)>) -> Self {
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
pub(super) enum Content {
    /// The addresses of these peers' pods, and these prefixes.
    Peers(Vec<PeerId>, AddressSet),
    /// Ports by protocol and name.
    Named(NamedPorts),
}

#[derive(Debug)]
pub(super) struct PeerSet {
    pub(super) family: Family,
    pub(super) name: SetName,
    pub(super) kind: SetKind,
    pub(super) content: Content,
    /// How many uses each namespace has of it.
    pub(super) uses: BTreeMap<Arc<str>, usize>,
    /// How many of the uses are by chains that are expected and that no packet meets yet.
    pub(super) expected: usize,
    /// What it counts for the bound on set members, once that is known.
    pub(super) count: Option<u64>,
    /// Its members are to be found: at the next commit, or while it is loaded if only
    /// expected chains ask it.
    pub(super) is_new: bool,
    /// The state has it, though maybe not with all its members.
    pub(super) is_there: bool,
}

impl PeerSet {
    /// Its peers, as often as it keeps each.
    pub(super) fn peers(&self) -> Vec<PeerId> {
        match &self.content {
            Content::Peers(peers, _) => peers.clone(),
            Content::Named(named) => named.entries.iter().flat_map(|(_, whose)| &whose.peers).copied().collect(),
        }
    }

    /// Whether those who hold an address are in it, if it selects them by these labels.
    ///
    /// Events of one namespace keep their order: policies of a pod's own namespace go by the labels of
    /// events that do not wait. For all others it would be a right that it keeps by waiting, so they go by
    /// the newest labels. A set that both use takes nothing away from either.
    pub(super) fn takes(&self, store: &Store, holders: &[PodSlot], is_selected: impl Fn(LabelsOf) -> bool) -> bool {
        let is_own = |user: &str| store.namespaces_of_relabelled(holders).any(|namespace| namespace == user);
        if store.namespaces_of_relabelled(holders).next().is_none() {
            return is_selected(LabelsOf::Force);
        }
        let users = || self.uses.keys().filter(|user| !is_expecting(user));
        match (users().any(|user| is_own(user)), users().any(|user| !is_own(user))) {
            (true, true) => is_selected(LabelsOf::Force) && is_selected(LabelsOf::Newest),
            (false, true) => is_selected(LabelsOf::Newest),
            (_, false) => is_selected(LabelsOf::Force),
        }
    }

    /// What a peer of this size counts in it.
    pub(super) const fn share_of(&self, size: MemberCount) -> u64 {
        match self.content {
            Content::Peers(..) => size.addresses[self.family as usize],
            Content::Named(_) => size.ports[self.family as usize],
        }
    }

    /// Whether it is a set of named ports of any pods.
    pub(super) fn asks_all(&self) -> bool {
        let is_any = |whose: &Whose| whose.is_everyones || !whose.blocks.is_empty();
        matches!(&self.content, Content::Named(named) if named.entries.iter().any(|(_, whose)| is_any(whose)))
    }

    /// What it counts, as [`members::count`](crate::ruleset::members::count).
    pub(super) fn counted(&self, store: &Store, peers: &PeerIndex) -> u64 {
        let own = match &self.content {
            Content::Peers(_, prefixes) => count_of_prefixes(self.family, prefixes),
            Content::Named(_) if self.asks_all() => store.size.ports[self.family as usize],
            Content::Named(_) => 0,
        };
        let of_peers = self.peers().into_iter().map(|peer| self.share_of(peers.size(peer)));
        of_peers.fold(own, u64::saturating_add)
    }

    pub(super) fn members(&self, store: &Store, peers: &PeerIndex) -> BTreeSet<Member> {
        match &self.content {
            Content::Peers(of, prefixes) => {
                // Each class once: many peers may select the same ones.
                let mut classes = BTreeSet::new();
                for peer in of {
                    classes.extend(peers.classes(*peer));
                }
                let pods = classes.into_iter().flat_map(|class| store.members(class));
                let own = pods.filter_map(|pod| store.address(pod, self.family));
                let relabelled = store.relabelled().filter_map(|pod| store.address(pod, self.family));
                let selects = |address: &IpAddr, labels| {
                    of.iter().any(|peer| peers.selects_all(store, *peer, store.holders(*address), labels))
                };
                let is_meant = |address: &IpAddr| match store.holders(*address) {
                    [pod] if store.newest_labels(*pod).is_none() => true,
                    holders => self.takes(store, holders, |labels| selects(address, labels)),
                };
                let own = own.filter(|address| is_meant(address)).chain(relabelled.filter(|address| is_meant(address)));
                let own = own.filter(|address| !prefixes.contains(cidr::number(*address))).map(Member::Address);
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
    pub(super) fn ports(&self, store: &Store, peers: &PeerIndex, address: IpAddr) -> Vec<Member> {
        let Content::Named(entries) = &self.content else { return Vec::new() };
        let holders = store.holders(address);
        let Some((first, others)) = holders.split_first() else { return Vec::new() };
        let of_all = |port: &&ContainerPort| others.iter().all(|pod| store.ports(*pod).contains(port));
        let is_named = |port: &&ContainerPort| {
            let is_named_by = |labels| entries.of(port).any(|whose| whose.holds(store, peers, address, labels));
            self.takes(store, holders, is_named_by)
        };
        let ports = store.ports(*first).iter().filter(of_all).filter(is_named);
        ports.map(|port| Member::AddressPort(address, port.protocol, port.port)).collect()
    }
}
