//! What the rules of policies admit: which ends their peers mean, and what these may send or
//! get.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::new_address::NewAddress;
use super::selection::Selection;
use super::{ClassId, Cluster};
use crate::algebra::traffic::{PortSet, TUNNEL_PORTS, Traffic};
use crate::object::{ContainerPort, Family, Protocol};
use crate::policy::{Block, Direction, Peer, Peers, PodPeer, PolicyRule};

/// One peer of a rule: the ends that it means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// Everyone, inside and outside the cluster.
    Everyone,
    /// Pods by labels.
    Pods(PodPeer),
    /// Addresses.
    Block(Block),
}

/// What an atom may send or get.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Admitted {
    /// Traffic that rules admit by protocol and port number.
    pub traffic: Traffic,
    /// Ports that rules admit by names that the destination resolves. Only egress has them, because
    /// for ingress the destination is the group.
    pub named: BTreeSet<(Protocol, String)>,
    /// The [`TUNNEL_PORTS`] that a rule names by number: by a port, or by a
    /// range of ports that is not all of them.
    pub tunnels: PortSet,
    /// The TCP ports that a rule names by number: by a range of at most
    /// [`NAMED_RANGE`] ports. What such a rule admits goes to a server there,
    /// also in the middle of a connection.
    ///
    /// [`NAMED_RANGE`]: crate::algebra::traffic::NAMED_RANGE
    pub named_tcp: PortSet,
}

/// A named port and the numbers it has on a pod.
pub type Resolution = BTreeMap<(Protocol, String), BTreeSet<u16>>;

/// The other end of a flow, as the rules of a group match it.
#[derive(Debug, Clone, Copy)]
pub struct OtherEnd<'a> {
    /// The classes of the endpoints that hold its address: one; none if it is
    /// no endpoint; several where no object says which of them has it, and then
    /// a peer means it only if it means all of them.
    pub classes: &'a [ClassId],
    /// Its address in the family in question, if it has one yet.
    pub address: Option<IpAddr>,
    /// The container ports of these endpoints, that all of them have.
    pub ports: &'a [ContainerPort],
    /// The family of the address that it will have, where it has none yet and that is asked about.
    pub new_family: Option<Family>,
    /// Whether no object of the input has its address, but an object that was not read may have it.
    pub is_unread: bool,
}

impl OtherEnd<'_> {
    /// What its address will be of, where it has none yet.
    const fn new_address(&self) -> NewAddress {
        if self.classes.is_empty() && !self.is_unread { NewAddress::OfNode } else { NewAddress::OfPod }
    }
}

impl Admitted {
    /// What is admitted to a destination with these container ports.
    #[must_use]
    pub fn traffic_to(&self, ports: &[ContainerPort]) -> Traffic {
        let named = ports.iter().filter(|port| self.named.contains(&(port.protocol, port.name.clone())));
        let named = Traffic::of_ranges(named.map(|port| (port.protocol, port.port, port.port)));
        self.traffic.union(&named)
    }

    /// The [`TUNNEL_PORTS`] that it admits and no rule names.
    #[must_use]
    pub fn unnamed_tunnel_ports(&self) -> PortSet {
        self.traffic.of(Protocol::Udp).intersection(&tunnel_ports()).difference(&self.tunnels)
    }

    /// The same without tunnels that no rule names.
    pub(super) fn without_tunnels(&self) -> Self {
        let unnamed = self.unnamed_tunnel_ports();
        let unnamed = Traffic::of_ranges(unnamed.ranges().iter().map(|(first, last)| (Protocol::Udp, *first, *last)));
        Self { traffic: self.traffic.difference(&unnamed), ..self.clone() }
    }
}

/// [`TUNNEL_PORTS`] as a set.
pub(crate) fn tunnel_ports() -> PortSet {
    PortSet::from_ranges(TUNNEL_PORTS.map(|port| (port, port)))
}

impl Atom {
    /// Whether another end is meant for certain.
    #[must_use]
    pub fn holds(&self, cluster: &Cluster, other: OtherEnd<'_>) -> bool {
        match self {
            Self::Everyone => true,
            Self::Pods(peer) => {
                !other.classes.is_empty() && other.classes.iter().all(|class| cluster.selects(peer, *class))
            }
            Self::Block(block) => match other.address {
                Some(address) => block.holds(address),
                None => {
                    other.new_family == Some(block.family) && cluster.holds_each_new_address(block, other.new_address())
                }
            },
        }
    }

    /// Whether another end may be meant. An end without an address will have one of this
    /// family, or of either.
    #[must_use]
    pub fn may_hold(&self, cluster: &Cluster, other: OtherEnd<'_>, family: Option<Family>) -> bool {
        match (self, other.address) {
            (Self::Pods(peer), _) if other.is_unread => cluster.may_select_unread(peer),
            (Self::Pods(peer), _) => {
                let may_select = |class: &ClassId| cluster.selection(peer, *class) > Selection::No;
                !other.classes.is_empty() && other.classes.iter().all(may_select)
            }
            (Self::Block(block), None) => {
                family.is_none_or(|family| family == block.family)
                    && cluster.may_hold_a_new_address(block, other.new_address())
            }
            (Self::Everyone | Self::Block(_), _) => self.holds(cluster, other),
        }
    }
}

/// The atoms of a rule's peers.
pub(crate) fn atoms(peers: &Peers) -> Vec<Atom> {
    match peers {
        Peers::Everyone => vec![Atom::Everyone],
        Peers::AnyOf(peers) => peers.iter().filter_map(atom).collect(),
    }
}

/// The ends that a peer means; none where it is not understood.
pub(crate) fn atom(peer: &Peer) -> Option<Atom> {
    match peer {
        Peer::Pods(peer) => Some(Atom::Pods(peer.clone())),
        Peer::Block(written) => Some(Atom::Block(written.block.clone())),
        Peer::Nothing => None,
    }
}

/// The names in rules that their subjects resolve.
pub(crate) fn names_to_resolve<'a>(
    rules: impl IntoIterator<Item = &'a PolicyRule>,
    direction: Direction,
) -> BTreeSet<(Protocol, String)> {
    if direction == Direction::Egress {
        return BTreeSet::new();
    }
    let names = rules.into_iter().flat_map(PolicyRule::named_ports);
    names.map(|(protocol, name)| (protocol, name.to_owned())).collect()
}

/// What names are on a pod with these ports.
pub(crate) fn resolve(names: &BTreeSet<(Protocol, String)>, ports: &[ContainerPort]) -> Resolution {
    let mut resolution = Resolution::new();
    for port in ports {
        let key = (port.protocol, port.name.clone());
        if names.contains(&key) {
            resolution.entry(key).or_default().insert(port.port);
        }
    }
    resolution
}
