//! On which nodes ends of flows are, as far as the input says.

use std::net::IpAddr;

use crate::cluster::Cluster;
use crate::cluster::backend::BackendEnd;
use crate::object::{Family, Service};
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::walk::ends::Unit;
use crate::verdict::explain::walk::{Destination, Walk};
use crate::verdict::flow::End;

/// An address of a node, and the end that is asked about by it: the node, or a hostNetwork pod, which has
/// the same address.
#[derive(Debug, Clone)]
pub(super) struct NodeEnd {
    pub(super) address: IpAddr,
    pub(super) unit: Unit,
}

impl NodeEnd {
    pub(super) const fn family(&self) -> Family {
        Family::of(&self.address)
    }
}

impl Walk<'_> {
    /// The node of a backend, as far as the input says it.
    pub(super) fn node_of<'s>(&'s self, service: &Service, destination: &Destination) -> Option<&'s str> {
        self.ends.cluster.node_of_backend(service, end_of(destination)?)
    }

    /// The node that a source is on or is.
    pub(super) fn node_of_source(&self, source: &Unit) -> Option<&str> {
        let cluster = self.ends.cluster;
        match source.party {
            Party::End(End::Address(address) | End::Unread(address)) => {
                let of = cluster.nodes().iter().find(|(_, addresses)| addresses.contains(&address));
                of.map(|(name, _)| name.as_str())
            }
            party => party.node(cluster),
        }
    }

    /// Whether kube-proxy of a client's node takes a backend for one of its own, as far as the input says.
    pub(super) fn is_on_one_node(&self, source: &Unit, service: &Service, destination: &Destination) -> Option<bool> {
        self.ends.cluster.is_local(service, end_of(destination)?, self.node_of_source(source))
    }
}

/// Whether an end stands for a pod on each node.
pub(super) fn is_on_each_node(cluster: &Cluster, unit: &Unit) -> bool {
    unit.is_template && unit.party.pod().is_some_and(|pod| cluster.pod(pod).is_on_each_node())
}

/// The place where a Service leads that a destination is.
pub(super) fn end_of(destination: &Destination) -> Option<BackendEnd> {
    match destination.unit.party {
        Party::End(End::Pod(pod)) | Party::Host(pod) => Some(BackendEnd::Pod(pod)),
        Party::End(End::Address(address) | End::Unread(address)) => Some(BackendEnd::Address(address)),
        Party::OtherNode(_) => None,
    }
}
