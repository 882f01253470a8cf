//! Verdicts: what passes from one end to another.

use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::object::Family;
use crate::policy::Direction;

pub use crate::cluster::end::End;

/// Why a flow is exempt from all policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
        (End::Pod(pod), End::Address(address) | End::Unread(address))
        | (End::Address(address) | End::Unread(address), End::Pod(pod)) => {
            // Where a pod and a node claim one address, it is the pod's.
            match cluster.holders(address, None) {
                [] => cluster.is_own_node(pod, address).then_some(Exemption::OwnNode),
                _ => (cluster.address(pod, Family::of(&address)) == Some(address)).then_some(Exemption::Itself),
            }
        }
        _ => None,
    }
}

/// Whether one end is a node's address and the other a pod that may run on that node, because the
/// input does not say on which node it runs.
#[must_use]
pub fn may_be_own_node(cluster: &Cluster, from: End, to: End) -> bool {
    [(from, to), (to, from)].iter().any(|(pod, address)| match (pod, address) {
        (End::Pod(pod), End::Address(address)) => cluster.pod(*pod).node.is_none() && cluster.is_node(*address),
        _ => false,
    })
}

/// Whether one end is a pod and the other an address that its own node may give to itself, of which no object says
/// that it does ([`Cluster::may_be_local`]).
#[must_use]
pub fn may_be_local(cluster: &Cluster, from: End, to: End) -> bool {
    match (from, to) {
        (End::Pod(_), End::Address(address) | End::Unread(address))
        | (End::Address(address) | End::Unread(address), End::Pod(_)) => cluster.may_be_local(address),
        _ => false,
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
    let other = other.seen(cluster, subject.node(cluster), family);
    (subject.groups(cluster, groups, direction, family).into_iter())
        .fold(Traffic::all(), |all, group| all.intersection(&groups.get(group).traffic(cluster, other)))
}
