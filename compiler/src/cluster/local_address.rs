//! Addresses that nodes give to themselves, and that no Node lists: those of a DNS cache on each node
//! (NodeLocal DNSCache). What a pod sends to such an address of its own node never leaves the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::Ipv4Network;

use super::{Cluster, PodId, index};
use crate::algebra::cidr::Cidr;
use crate::object::Pod;

/// Where clouds have a server for what describes a machine, which networks forward to.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// The addresses of one link (RFC 3927).
const LINK_LOCAL: Ipv4Network = Ipv4Network::new_checked(Ipv4Addr::new(169, 254, 0, 0), 16).unwrap();

/// The hostNetwork pods that say that they listen at an address of their nodes, by the address.
pub(super) fn listeners(pods: &[Pod]) -> BTreeMap<IpAddr, Vec<PodId>> {
    let mut found = BTreeMap::<IpAddr, Vec<PodId>>::new();
    for (place, pod) in pods.iter().enumerate().filter(|(_, pod)| pod.host_network && !pod.finished) {
        for address in &pod.local_addresses {
            found.entry(*address).or_default().push(PodId(index(place)));
        }
    }
    found
}

impl Cluster {
    /// The hostNetwork pods that say that they listen at an address of their nodes.
    #[must_use]
    pub fn listeners_at(&self, address: IpAddr) -> &[PodId] {
        self.inventory.listeners.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The addresses at which hostNetwork pods say that they listen.
    pub fn listened_at(&self) -> impl Iterator<Item = IpAddr> {
        self.inventory.listeners.keys().copied()
    }

    /// What these pods are called, sorted.
    #[must_use]
    pub fn names_of_listeners(&self, address: IpAddr) -> Vec<String> {
        let name = |id: &PodId| {
            let pod = self.pod(*id);
            format!("{}/{}", pod.namespace, pod.identity().1)
        };
        let names: BTreeSet<String> = self.listeners_at(address).iter().map(name).collect();
        names.into_iter().collect()
    }

    /// Whether a hostNetwork pod of a pod's node listens at this address of the node.
    pub(super) fn is_listened_at_by_own_node(&self, id: PodId, address: IpAddr) -> bool {
        // An address of a Service is the node's only while that pod runs.
        let listeners = self.listeners_at(address).iter().filter(|_| !self.is_service(address));
        let own = self.pod(id).node.as_deref();
        listeners
            .map(|of| self.pod(*of))
            .any(|of| of.is_on_every_node() || (own.is_some() && of.node.as_deref() == own))
    }

    /// Whether an address may be one that a pod's own node gives to itself: a link-local one of which no object says
    /// whose it is, or one at which pods of other nodes say that they listen.
    #[must_use]
    pub fn may_be_local(&self, address: IpAddr) -> bool {
        let is_link_local = matches!(address, IpAddr::V4(of) if of.is_link_local() && of != METADATA);
        (is_link_local || !self.listeners_at(address).is_empty())
            && !self.is_node(address)
            && !self.is_service(address)
            && self.holders(address, None).is_empty()
    }

    /// The addresses of a prefix of link-local ones that are no others' like: at which hostNetwork pods say that they
    /// listen, and that of the clouds' server.
    #[must_use]
    pub fn special_in(&self, block: &Cidr) -> Vec<IpAddr> {
        let all = Cidr::of_network(&LINK_LOCAL.into());
        if all.family != block.family || block.first < all.first || block.last > all.last {
            return Vec::new();
        }
        let listeners = self.listened_at().filter(|address| !self.is_service(*address));
        listeners.chain([METADATA.into()]).filter(|address| block.holds(*address)).collect()
    }
}
