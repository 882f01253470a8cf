//! Ports of a rule that admit nothing anywhere, as far as pods declare their ports: the port of a
//! Service, or a number of the wrong protocol. Their author meant another port for all that the rule
//! means, so the rule gets that port, and not the one flow a rule of its own.

use super::propose::Proposer;
use crate::cluster::Cluster;
use crate::object::{DNS_PORT, Pod, Protocol};
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer, Policy, PolicyRule};
use crate::verdict::explain::{Candidate, ReasonCode};

impl Proposer<'_> {
    /// Whether the port by which alone a rule misses is one that its author wrote for the port that was
    /// asked for.
    pub(super) fn misses_by_dead_port(&self, candidate: &Candidate, policy: &Policy, rule: &PolicyRule) -> bool {
        let ([conjunct], Some((asked, port, last))) = (candidate.conjuncts.as_slice(), self.denied.traffic.single())
        else {
            return false;
        };
        let Some(number) = conjunct.number.filter(|_| port == last) else { return false };
        match conjunct.code {
            ReasonCode::PortIsServicePort => !self.may_lead_to(policy, rule, asked, number),
            // DNS asks by UDP, and a protocol that is left out is TCP.
            ReasonCode::PortProtocol if self.direction == Direction::Egress && port == DNS_PORT => true,
            ReasonCode::PortProtocol => {
                let others = Protocol::ALL.into_iter().filter(|of| *of != asked);
                self.destinations_declare(asked, port)
                    && !others.into_iter().any(|protocol| self.may_lead_to(policy, rule, protocol, number))
            }
            _ => false,
        }
    }

    /// Whether all destinations that were asked about declare a port.
    fn destinations_declare(&self, protocol: Protocol, port: u16) -> bool {
        let pods = self.pairs.iter().map(|pair| pair.question(self.direction).to.pod());
        let declares = |pod: &Pod| pod.declared_ports(protocol).any(|declared| declared == port);
        pods.into_iter().all(|pod| pod.is_some_and(|pod| declares(self.view.cluster.pod(pod))))
    }

    /// Whether a port may be one that something listens on that a rule leads to: a pod declares it, a
    /// Service leads to it, nothing says which ports a pod has, or the rule may lead to others than these
    /// pods of the input.
    fn may_lead_to(&self, policy: &Policy, rule: &PolicyRule, protocol: Protocol, port: u16) -> bool {
        let cluster = self.view.cluster;
        let subject = [Peer::Pods(policy.subject_peer())];
        let destinations = match (self.direction, &rule.peers) {
            (Direction::Ingress, _) => &subject[..],
            (Direction::Egress, Peers::AnyOf(peers)) => peers.as_slice(),
            (Direction::Egress, Peers::Everyone) => return true,
        };
        destinations.iter().any(|peer| match peer {
            Peer::Nothing => false,
            Peer::Block(_) => true,
            Peer::Pods(peer) => {
                cluster.may_select_unread(peer)
                    || cluster.has_pod_makers()
                    || !cluster.possibly_selected(peer).is_empty()
                    || cluster.pods().any(|(id, pod)| {
                        let is_declared = || pod.declared_ports(protocol).any(|declared| declared == port);
                        let is_target = || cluster.is_behind_service(id, protocol, port);
                        // If no object says a port of a pod, every port may be one.
                        let declares_none = || pod.ports.is_empty() && pod.unnamed_ports.is_empty();
                        let is_any = || declares_none() && !cluster.is_behind_some_service(id);
                        pod.is_endpoint() && is_meant(cluster, peer, pod) && (is_declared() || is_target() || is_any())
                    })
            }
        })
    }
}

/// Whether a peer means a pod, by the labels that the input says.
pub(super) fn is_meant(cluster: &Cluster, peer: &PodPeer, pod: &Pod) -> bool {
    let is_in = |namespace: &str| match &peer.namespaces {
        Namespaces::Own(own) => own == namespace,
        Namespaces::Selected(of) => cluster.namespace(namespace).is_some_and(|labels| of.matches(labels)),
    };
    peer.pods.matches(&pod.labels) && is_in(&pod.namespace)
}
