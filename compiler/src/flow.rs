//! Verdicts: what passes from one end to another.

use std::net::IpAddr;

use crate::cluster::{Cluster, PodId};
use crate::group::{GroupId, Groups, OtherEnd};
use crate::object::Family;
use crate::policy::Direction;
use crate::traffic::Traffic;

/// One end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// An endpoint of the cluster.
    Pod(PodId),
    /// An address that belongs to no endpoint: a node's, or one outside.
    Address(IpAddr),
}

impl End {
    /// What an address stands for.
    #[must_use]
    pub fn of_address(cluster: &Cluster, address: IpAddr) -> Self {
        cluster.owner(address).map_or(Self::Address(address), Self::Pod)
    }

    /// Its address of a family.
    #[must_use]
    pub fn address(self, cluster: &Cluster, family: Family) -> Option<IpAddr> {
        match self {
            Self::Pod(pod) => cluster.address(pod, family),
            Self::Address(address) => Some(address).filter(|address| Family::of(address) == family),
        }
    }

    /// The group that decides about it in a direction; `None` where nothing
    /// isolates it.
    #[must_use]
    pub fn group(self, groups: &Groups, direction: Direction) -> Option<GroupId> {
        match self {
            Self::Pod(pod) => groups.of(pod, direction),
            Self::Address(_) => None,
        }
    }

    /// As the rules of the group at the other end see it.
    #[must_use]
    pub fn seen(self, cluster: &Cluster, family: Option<Family>) -> OtherEnd<'_> {
        let address = family.and_then(|family| self.address(cluster, family));
        match self {
            Self::Pod(pod) => OtherEnd { class: cluster.class_of(pod), address, ports: &cluster.pod(pod).ports },
            Self::Address(_) => OtherEnd { class: None, address, ports: &[] },
        }
    }
}

/// Why a flow is exempt from all policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exemption {
    /// A pod's traffic to itself.
    Itself,
    /// Traffic between a pod and the node that it runs on.
    OwnNode,
}

/// Whether policies have no say between two ends.
#[must_use]
pub fn exemption(cluster: &Cluster, from: End, to: End) -> Option<Exemption> {
    match (from, to) {
        _ if from == to => Some(Exemption::Itself),
        (End::Pod(pod), End::Address(address)) | (End::Address(address), End::Pod(pod)) => {
            cluster.is_own_node(pod, address).then_some(Exemption::OwnNode)
        }
        _ => None,
    }
}

/// What one direction's policies let pass from one end to another: for egress
/// those of the source, for ingress those of the destination. Family `None` is
/// that of ends without addresses, which no ipBlock can meet.
#[must_use]
pub fn directed(
    cluster: &Cluster,
    groups: &Groups,
    direction: Direction,
    from: End,
    to: End,
    family: Option<Family>,
) -> Traffic {
    let (subject, other) = match direction {
        Direction::Egress => (from, to),
        Direction::Ingress => (to, from),
    };
    match subject.group(groups, direction) {
        None => Traffic::all(),
        Some(group) => groups.get(group).traffic(cluster, other.seen(cluster, family)),
    }
}
