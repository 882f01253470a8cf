//! Names that a pod asks a DNS server for.

use super::decision::Decision;
use super::party::Party;
use super::question::Question;
use crate::algebra::cidr;
use crate::algebra::selector::Selector;
use crate::cluster::Cluster;
use crate::object::{Family, Protocol};
use crate::policy::{Direction, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};
use crate::verdict::flow::End;

/// The port of DNS.
const DNS: u16 = 53;

impl Question {
    /// Whether a pod asks its DNS server, and no rule of the policies that isolate it is about that:
    /// a rule for DNS was forgotten.
    pub(super) fn is_without_dns(&self, cluster: &Cluster, decision: &Decision) -> bool {
        let Some((protocol @ (Protocol::Udp | Protocol::Tcp), port, last)) = self.traffic.single() else {
            return false;
        };
        // Behind a Service the server may listen on another port.
        let is_dns = port == last && (port == DNS || self.service_port == Some((protocol, DNS)));
        let direction = decision.direction;
        let is_about_port = |item: &PortMatch| match item {
            PortMatch::Range(_, first, last) => [DNS, port].iter().any(|port| (*first..=*last).contains(port)),
            // It may be that of the server's port.
            PortMatch::Named(..) => true,
            PortMatch::Nothing => false,
        };
        let is_about = |rule: &PolicyRule| match &rule.ports {
            Ports::Everything => self.means_the_namespace(cluster, rule) || self.leaves_out_the_server(cluster, rule),
            Ports::AnyOf(items) => items.iter().any(is_about_port),
        };
        let mut rules = decision.isolated_by.iter().flat_map(|id| cluster.policy(*id).rules(direction));
        let is_of_pods = matches!(self.to, Party::End(End::Pod(_)));
        is_dns && is_of_pods && direction == Direction::Egress && !rules.any(is_about)
    }

    /// Whether a block of a rule holds the server's address but for an except: that is why, and not that a
    /// rule was forgotten.
    fn leaves_out_the_server(&self, cluster: &Cluster, rule: &PolicyRule) -> bool {
        let Some(address) = self.to.seen(cluster, self.from, self.family).address else { return false };
        let (family, number) = (Family::of(&address), cidr::number(address));
        let Peers::AnyOf(peers) = &rule.peers else { return false };
        peers.iter().any(|peer| match peer {
            Peer::Block(block) => block.cidr.family == family && block.cidr.addresses().contains(number),
            Peer::Pods(_) | Peer::Nothing => false,
        })
    }

    /// Whether a rule means pods of the destination's namespace.
    fn means_the_namespace(&self, cluster: &Cluster, rule: &PolicyRule) -> bool {
        let seen = self.to.seen(cluster, self.from, self.family);
        let Peers::AnyOf(peers) = &rule.peers else { return true };
        peers.iter().any(|peer| match peer {
            Peer::Pods(PodPeer { namespaces, .. }) => {
                let of_namespace = PodPeer { namespaces: namespaces.clone(), pods: Selector::default() };
                seen.classes.iter().any(|class| cluster.selects(&of_namespace, *class))
            }
            Peer::Block(_) | Peer::Nothing => false,
        })
    }
}
