//! Names that a pod asks a DNS server for.

use super::Decision;
use crate::algebra::selector::{Operator, Selector};
use crate::algebra::typo::may_mean_namespace;
use crate::cluster::group::atom;
use crate::cluster::{ClassId, Cluster};
use crate::object::{DNS_PORT, Labels, Protocol};
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};
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
            Ports::Everything => {
                self.means_the_namespace_or_address(cluster, rule) || self.misses_by_namespace(cluster, rule)
            }
            Ports::AnyOf(items) => items.iter().any(is_about_port) || self.names_the_server(cluster, rule),
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

    /// Whether a peer of a rule selects the destination, and not every pod or address.
    fn names_the_server(&self, cluster: &Cluster, rule: &PolicyRule) -> bool {
        let seen = self.to.seen(cluster, self.from, self.family);
        let Peers::AnyOf(peers) = &rule.peers else { return false };
        let narrow = peers.iter().filter(|peer| peer.is_narrow()).filter_map(atom);
        narrow.into_iter().any(|atom| atom.holds(cluster, seen))
    }

    /// Whether a peer of a rule is right but for the namespace, and is about that of the destination: it means
    /// that one but for a slip, or leaves it out, or is for every pod of the policy's own.
    fn misses_by_namespace(&self, cluster: &Cluster, rule: &PolicyRule) -> bool {
        let seen = self.to.seen(cluster, self.from, self.family);
        let Peers::AnyOf(peers) = &rule.peers else { return false };
        let may_mean = |peer: &PodPeer, class: ClassId| {
            let class = cluster.class(class);
            let none = Labels::new();
            let labels = cluster.namespace(&class.namespace).unwrap_or(&none);
            peer.pods.matches(&class.labels)
                && match &peer.namespaces {
                    // A selector of pods may mean pods of the policy's own namespace.
                    Namespaces::Own(_) => peer.pods.is_empty(),
                    Namespaces::Selected(selector) => {
                        may_mean_namespace(selector, &class.namespace, labels) || excludes(selector, labels)
                    }
                }
        };
        peers.iter().any(|peer| match peer {
            Peer::Pods(peer) => seen.classes.iter().any(|class| may_mean(peer, *class)),
            Peer::Block(_) | Peer::Nothing => false,
        })
    }
}

/// Whether a selector fails by labels only that it excludes.
fn excludes(selector: &Selector, labels: &Labels) -> bool {
    let mut failing = selector.requirements().filter(|requirement| !requirement.matches(labels));
    failing.all(|of| matches!(of.operator, Operator::NotIn(_) | Operator::DoesNotExist))
}
