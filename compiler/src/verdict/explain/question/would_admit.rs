//! What the rules of a policy would admit that does not apply, or whose rules do not.

use super::Question;
use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::group::atoms;
use crate::object::{Pod, Protocol};
use crate::policy::{Direction, Peers, Policy, PolicyRule};

/// The traffic to the ports that the containers of a pod declare.
pub(in crate::verdict::explain) fn declared(pod: &Pod) -> Traffic {
    let ports = Protocol::ALL.into_iter().flat_map(|of| pod.declared_ports(of).map(move |port| (of, port, port)));
    Traffic::of_ranges(ports)
}

impl Question {
    /// Whether the rules of a policy admit all of this traffic in a direction, once the policy applies
    /// to the subject.
    #[must_use]
    pub fn would_admit(&self, cluster: &Cluster, policy: &Policy, direction: Direction, traffic: &Traffic) -> bool {
        let (subject, other) = self.ends(direction);
        let seen = other.seen(cluster, subject, self.family);
        // Names mean ports of the destination, for rules of both directions.
        let ports = self.to.ports(cluster);
        let means = |rule: &&PolicyRule| match &rule.peers {
            Peers::Everyone => true,
            peers @ Peers::AnyOf(_) => atoms(peers).iter().any(|atom| atom.holds(cluster, seen)),
        };
        let admitted = policy
            .rules(direction)
            .iter()
            .filter(means)
            .fold(Traffic::none(), |all, rule| all.union(&rule.traffic_to(ports)));
        traffic.difference(&admitted).is_none()
    }
}
