//! On which nodes ends of flows are, as far as the input says.

use crate::cluster::Cluster;
use crate::cluster::backend::BackendEnd;
use crate::object::Service;
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::walk::ends::Unit;
use crate::verdict::explain::walk::{Destination, Walk};
use crate::verdict::flow::End;

impl Walk<'_> {
    /// The node of a backend, as far as the input says it.
    pub(super) fn node_of<'s>(&'s self, service: &Service, destination: &Destination) -> Option<&'s str> {
        let end = match destination.unit.party {
            Party::End(End::Pod(pod)) | Party::Host(pod) => BackendEnd::Pod(pod),
            Party::End(End::Address(address) | End::Unread(address)) => BackendEnd::Address(address),
            Party::OtherNode(_) => return None,
        };
        self.ends.cluster.node_of_backend(service, end)
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

    /// Whether a client and a backend are on one node, as far as the input says.
    pub(super) fn is_on_one_node(&self, source: &Unit, service: &Service, destination: &Destination) -> Option<bool> {
        if is_on_every_node(self.ends.cluster, &destination.unit) {
            return Some(true);
        }
        match (destination.unit.party, self.node_of(service, destination)) {
            // An address outside the cluster is on no node.
            (Party::End(End::Address(_) | End::Unread(_)), None) => Some(false),
            (_, node) => Some(self.node_of_source(source)? == node?),
        }
    }
}

/// Whether an end stands for a pod on each node.
pub(super) fn is_on_each_node(cluster: &Cluster, unit: &Unit) -> bool {
    unit.is_template && unit.party.pod().is_some_and(|pod| cluster.pod(pod).is_on_each_node())
}

/// Whether an end stands for a pod on each node, and no selector leaves a node out.
pub(super) fn is_on_every_node(cluster: &Cluster, unit: &Unit) -> bool {
    unit.is_template && unit.party.pod().is_some_and(|pod| cluster.pod(pod).is_on_every_node())
}
