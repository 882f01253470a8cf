//! An end of a flow that is asked about.

use std::net::IpAddr;

use crate::cluster::group::{Group, Groups, OtherEnd};
use crate::cluster::new_address::NewAddress;
use crate::cluster::{Cluster, PodId};
use crate::object::{ContainerPort, Family};
use crate::policy::Direction;
use crate::verdict::bounds::Deciding;
use crate::verdict::flow::End;

/// An end of a flow that is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Party {
    /// An endpoint or an address.
    End(End),
    /// A hostNetwork pod, with its node's address where it is known.
    Host(PodId),
    /// A node that is not the other end's, by its address; without one, the input does not
    /// say it.
    OtherNode(Option<IpAddr>),
}

impl Party {
    /// Its address of a family.
    #[must_use]
    pub fn address(self, cluster: &Cluster, family: Family) -> Option<IpAddr> {
        match self {
            Self::End(end) => end.address(cluster, family),
            Self::Host(pod) => cluster.pod(pod).address(family),
            Self::OtherNode(address) => address.filter(|address| Family::of(address) == family),
        }
    }

    /// Whether it has an address of any family.
    #[must_use]
    pub fn has_address(self, cluster: &Cluster) -> bool {
        Family::ALL.into_iter().any(|family| self.address(cluster, family).is_some())
    }

    /// What its address will be of, where it has none yet.
    pub(in crate::verdict::explain) const fn new_address(self) -> NewAddress {
        match self {
            Self::End(End::Pod(_)) => NewAddress::OfPod,
            Self::End(End::Address(_) | End::Unread(_)) | Self::Host(_) | Self::OtherNode(_) => NewAddress::OfNode,
        }
    }

    /// The pod that it is.
    #[must_use]
    pub const fn pod(self) -> Option<PodId> {
        match self {
            Self::End(End::Pod(pod)) | Self::Host(pod) => Some(pod),
            Self::End(End::Address(_) | End::Unread(_)) | Self::OtherNode(_) => None,
        }
    }

    /// The named ports of its containers, by which rules name ports; a hostNetwork pod has none
    /// for rules.
    pub(in crate::verdict::explain) fn ports(self, cluster: &Cluster) -> &[ContainerPort] {
        match self {
            Self::End(End::Pod(pod)) => &cluster.pod(pod).ports,
            Self::End(End::Address(_) | End::Unread(_)) | Self::Host(_) | Self::OtherNode(_) => &[],
        }
    }

    pub(in crate::verdict::explain) fn seen(
        self,
        cluster: &Cluster,
        from: Self,
        family: Option<Family>,
    ) -> OtherEnd<'_> {
        match self {
            Self::End(end) => end.seen(cluster, from.node(cluster), family),
            Self::Host(_) | Self::OtherNode(_) => {
                let address = family.and_then(|family| self.address(cluster, family));
                let new_family = family.filter(|_| !self.has_address(cluster));
                OtherEnd { classes: &[], address, ports: &[], new_family, is_unread: false }
            }
        }
    }

    /// The groups that decide about it together for certain; none where nothing isolates
    /// it.
    pub(in crate::verdict::explain) fn groups<'g>(
        self,
        cluster: &Cluster,
        groups: &'g Groups,
        direction: Direction,
        family: Option<Family>,
    ) -> Vec<&'g Group> {
        match self {
            Self::End(end) => {
                let found = end.groups(cluster, groups, direction, family);
                found.into_iter().map(|group| groups.get(group)).collect()
            }
            Self::Host(_) | Self::OtherNode(_) => Vec::new(),
        }
    }

    /// The groups that decide about it at least and at most.
    pub(in crate::verdict::explain) fn deciding(
        self,
        cluster: &Cluster,
        groups: &Groups,
        direction: Direction,
        family: Option<Family>,
    ) -> Deciding {
        match self {
            Self::End(end) => end.deciding(cluster, groups, direction, family),
            Self::Host(_) | Self::OtherNode(_) => Deciding::default(),
        }
    }

    /// The node that it is on or is, as far as its pod says.
    pub(in crate::verdict::explain) fn node(self, cluster: &Cluster) -> Option<&str> {
        self.pod().and_then(|pod| cluster.pod(pod).node.as_deref())
    }
}
