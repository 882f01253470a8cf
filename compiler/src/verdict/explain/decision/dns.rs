//! Names that a pod asks a DNS server for.

use super::Decision;
use super::dns_servers::{Servers, admits_dns, means_another_server};
use crate::algebra::selector::{Operator, Selector};
use crate::algebra::traffic::Traffic;
use crate::algebra::typo::may_mean_namespace;
use crate::cluster::group::{Groups, atom};
use crate::cluster::{ClassId, Cluster, PodId};
use crate::object::{DNS_PORT, Labels, Protocol};
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer, PolicyRule, PortMatch, Ports};
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::question::would_admit::declared;
use crate::verdict::flow::End;

/// At most this many DNS servers are looked at.
const SERVERS: usize = 16;

impl Question {
    /// Whether a pod asks its DNS server, and no rule of the policies that isolate it is about that:
    /// a rule for DNS was forgotten.
    pub(in crate::verdict::explain) fn is_without_dns(&self, cluster: &Cluster, decision: &Decision) -> bool {
        let Some((_, port)) = self.dns_port() else { return false };
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
        let is_server = matches!(self.to, Party::End(End::Pod(pod)) if may_serve_names(cluster, pod));
        is_server && direction == Direction::Egress && !rules.any(is_about)
    }

    /// The port by which names are asked for, if the question is about that. Behind a Service the server may
    /// listen on another one.
    fn dns_port(&self) -> Option<(Protocol, u16)> {
        let (protocol, port, last) = self.traffic.single()?;
        let is_dns = port == DNS_PORT || self.service_port == Some((protocol, DNS_PORT));
        let has_dns = matches!(protocol, Protocol::Udp | Protocol::Tcp);
        (port == last && is_dns && has_dns).then_some((protocol, port))
    }

    /// Whether a pod that is denied this can resolve no name: it asks what may be a DNS server, and policies admit it to
    /// no other one for certain.
    pub(in crate::verdict::explain) fn leaves_no_dns(&self, cluster: &Cluster, groups: &Groups) -> bool {
        let (Some((protocol, _)), Party::End(End::Pod(_))) = (self.dns_port(), self.from) else { return false };
        let to = self.to.pod();
        let is_of_service = self.service_port.is_some_and(|(_, port)| port == DNS_PORT);
        if to.is_some_and(|pod| !is_of_service && !may_serve_names(cluster, pod)) {
            return false;
        }
        let servers = Servers::of(cluster);
        let is_open = |(pod, port): &(PodId, u16)| {
            let traffic = Traffic::ports(protocol, *port, *port);
            let question = Question::between(self.from, Party::End(End::Pod(*pod)), self.family, traffic.clone());
            matches!(question.passes(cluster, groups).verdict(&traffic), Verdict::Allowed | Verdict::Partial)
        };
        if (servers.has_others && to.is_some())
            || servers.pods.iter().filter(|(pod, _)| Some(*pod) != to).take(SERVERS).any(is_open)
        {
            return false;
        }
        let deciding = self.from.groups(cluster, groups, Direction::Egress, self.family);
        let policies = deciding.iter().flat_map(|group| &group.key.policies);
        let mut rules = policies.flat_map(|id| cluster.policy(*id).rules(Direction::Egress));
        // Without a server in the input, any end may be one to which a rule admits DNS.
        let is_known = !servers.pods.is_empty() || to.is_some_and(|pod| serves_names(cluster, pod));
        // A rule around this server was meant for it, even if the rule leaves something out.
        let is_for_another = |rule: &PolicyRule| {
            (means_another_server(cluster, rule) || (!is_known && admits_dns(rule)))
                && !self.means_the_namespace_or_address(cluster, rule)
        };
        !rules.any(is_for_another)
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

/// Whether a pod listens where DNS servers do, as far as objects say: a container or a Service has the port.
fn serves_names(cluster: &Cluster, id: PodId) -> bool {
    let pod = cluster.pod(id);
    let of_dns = [Protocol::Udp, Protocol::Tcp];
    of_dns.iter().any(|protocol| pod.declared_ports(*protocol).any(|port| port == DNS_PORT))
        || of_dns.iter().any(|protocol| cluster.is_behind_service(id, *protocol, DNS_PORT))
        || cluster.services_by_another_port(id).any(|(_, port, _)| port.port == DNS_PORT)
}

/// Whether a pod may be a DNS server. One that declares other ports alone is none.
pub(in crate::verdict) fn may_serve_names(cluster: &Cluster, id: PodId) -> bool {
    serves_names(cluster, id) || declared(cluster.pod(id)).is_none()
}

/// Whether a selector fails by labels only that it excludes.
fn excludes(selector: &Selector, labels: &Labels) -> bool {
    let mut failing = selector.requirements().filter(|requirement| !requirement.matches(labels));
    failing.all(|of| matches!(of.operator, Operator::NotIn(_) | Operator::DoesNotExist))
}
