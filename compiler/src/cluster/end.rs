//! One end of a flow: a pod or an address, as the cluster knows it.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::group::{GroupId, Groups, OtherEnd};
use super::{Cluster, PodId};
use crate::object::Family;
use crate::policy::Direction;

/// One end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum End {
    /// An endpoint of the cluster.
    Pod(PodId),
    /// An address that belongs to no endpoint: a node's, or one outside. Or one
    /// that several endpoints hold, which are judged together then.
    Address(IpAddr),
    /// An address that no object of the input has, and that a pod or a Service may have that
    /// was not read ([`Cluster::may_be_unread`]).
    Unread(IpAddr),
}

impl End {
    /// What an address stands for.
    #[must_use]
    pub fn of_address(cluster: &Cluster, address: IpAddr) -> Self {
        match cluster.holders(address, cluster.node_of_contested(address)) {
            [pod] => Self::Pod(*pod),
            _ => Self::Address(address),
        }
    }

    /// What an address stands for that is asked about by itself: it may belong to something
    /// that was not read.
    #[must_use]
    pub fn of_asked_address(cluster: &Cluster, address: IpAddr) -> Self {
        match Self::of_address(cluster, address) {
            Self::Address(address) if cluster.may_be_unread(address) => Self::Unread(address),
            end => end,
        }
    }

    /// Its address of a family.
    #[must_use]
    pub fn address(self, cluster: &Cluster, family: Family) -> Option<IpAddr> {
        match self {
            Self::Pod(pod) => cluster.address(pod, family),
            Self::Address(address) | Self::Unread(address) => {
                Some(address).filter(|address| Family::of(address) == family)
            }
        }
    }

    /// The node that it is on, as far as its object says, or those of all pods that list
    /// the address.
    #[must_use]
    pub fn node(self, cluster: &Cluster) -> Option<&str> {
        match self {
            Self::Pod(pod) => cluster.pod(pod).node.as_deref(),
            Self::Address(address) | Self::Unread(address) => cluster.node_of_contested(address),
        }
    }

    /// The address by which it is known: an address is what it is in questions
    /// about no family, too.
    fn known_by(self, cluster: &Cluster, family: Option<Family>) -> Option<IpAddr> {
        match self {
            Self::Pod(pod) => family.and_then(|family| cluster.address(pod, family)),
            Self::Address(address) | Self::Unread(address) => Some(address),
        }
    }

    /// The groups that decide about it in a direction, sorted; none where
    /// nothing isolates it. Several only where several pods hold its address:
    /// what passes then is what each of them lets pass.
    #[must_use]
    pub fn groups(
        self,
        cluster: &Cluster,
        groups: &Groups,
        direction: Direction,
        family: Option<Family>,
    ) -> SmallVec<[GroupId; 1]> {
        let pods = self.judged_as(cluster, family).into_iter();
        let mut found: SmallVec<[GroupId; 1]> = pods.filter_map(|pod| groups.of(pod, direction)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The pods as which it is judged: several only where several hold its address.
    pub(crate) fn judged_as(self, cluster: &Cluster, family: Option<Family>) -> SmallVec<[PodId; 1]> {
        let holders =
            self.known_by(cluster, family).map_or(&[][..], |address| cluster.holders(address, self.node(cluster)));
        match (self, holders) {
            (Self::Pod(pod), [] | [_]) => SmallVec::from_elem(pod, 1),
            (_, holders) => holders.iter().copied().collect(),
        }
    }

    /// This end as the rules of the group at the other end, on a node, match it.
    #[must_use]
    pub fn seen<'c>(self, cluster: &'c Cluster, from: Option<&str>, family: Option<Family>) -> OtherEnd<'c> {
        let address = family.and_then(|family| self.address(cluster, family));
        let none = OtherEnd { classes: &[], address, ports: &[], new_family: None, is_unread: false };
        match (self, self.known_by(cluster, family).and_then(|address| cluster.classes_and_ports(address, from))) {
            (_, Some((classes, ports))) => OtherEnd { classes, ports, ..none },
            (Self::Pod(pod), None) => {
                let new_family = family.filter(|_| address.is_none() && cluster.is_bare(pod));
                OtherEnd { classes: cluster.classes_of(pod), ports: &cluster.pod(pod).ports, new_family, ..none }
            }
            (Self::Address(_), None) => none,
            (Self::Unread(_), None) => OtherEnd { is_unread: true, ..none },
        }
    }
}
