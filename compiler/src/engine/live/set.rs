//! One set that rules name: what it holds, and what members that makes now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::algebra::cidr::{self, AddressSet};
use crate::engine::peers::{PeerId, PeerIndex};
use crate::engine::store::{PodId, Store};
use crate::object::{ContainerPort, Family, Protocol};
use crate::ruleset::members::{Size, count_of_prefixes};
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
pub(super) struct LiveSet {
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

impl LiveSet {
    /// Its peers, as often as it keeps each.
    pub(super) fn peers(&self) -> Vec<PeerId> {
        match &self.content {
            Content::Peers(peers, _) => peers.clone(),
            Content::Named(named) => named.entries.iter().flat_map(|(_, whose)| &whose.peers).copied().collect(),
        }
    }

    /// What a peer of this size counts in it.
    pub(super) const fn share_of(&self, size: Size) -> u64 {
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
    pub(super) fn ports(&self, store: &Store, peers: &PeerIndex, address: IpAddr) -> Vec<Member> {
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
