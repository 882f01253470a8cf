//! Names that a pod asks a DNS server for.

use super::Decision;
use crate::algebra::selector::Selector;
use crate::cluster::Cluster;
use crate::object::{DNS_PORT, Protocol};
use crate::policy::{Direction, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::End;

impl Question {
    /// Whether a pod asks its DNS server, and no rule of the policies that isolate it is about that:
    /// a rule for DNS was forgotten.
    pub(in crate::verdict::explain) fn is_without_dns(&self, cluster: &Cluster, decision: &Decision) -> bool {
        let Some((protocol @ (Protocol::Udp | Protocol::Tcp), port, last)) = self.traffic.single() else {
            return false;
        };
        // Behind a Service the server may listen on another port.
        let is_dns = port == last && (port == DNS_PORT || self.service_port == Some((protocol, DNS_PORT)));
        let direction = decision.direction;
        let is_about_port = |item: &PortMatch| match item {
            PortMatch::Range(_, first, last) => [DNS_PORT, port].iter().any(|port| (*first..=*last).contains(port)),
            // It may be that of the server's port.
            PortMatch::Named(..) => true,
            PortMatch::Nothing => false,
        };
        let is_about = |rule: &PolicyRule| match &rule.ports {
            Ports::Everything => self.means_the_namespace_or_address(cluster, rule),
            Ports::AnyOf(items) => items.iter().any(is_about_port),
        };
        let mut rules = decision.isolated_by.iter().flat_map(|id| cluster.policy(*id).rules(direction));
        let is_of_pods = matches!(self.to, Party::End(End::Pod(_)));
        is_dns && is_of_pods && direction == Direction::Egress && !rules.any(is_about)
    }

    /// Whether a rule means pods of the destination's namespace, or a block that has its address before
    /// exceptions.
    fn means_the_namespace_or_address(&self, cluster: &Cluster, rule: &PolicyRule) -> bool {
        let seen = self.to.seen(cluster, self.from, self.family);
        let Peers::AnyOf(peers) = &rule.peers else { return true };
        peers.iter().any(|peer| match peer {
            Peer::Pods(PodPeer { namespaces, .. }) => {
                let of_namespace = PodPeer { namespaces: namespaces.clone(), pods: Selector::default() };
                seen.classes.iter().any(|class| cluster.selects(&of_namespace, *class))
            }
            Peer::Block(block) => seen.address.is_some_and(|address| block.cidr.holds(address)),
            Peer::Nothing => false,
        })
    }
}
