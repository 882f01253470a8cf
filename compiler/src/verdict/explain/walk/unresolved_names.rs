//! Whether a client that asks for a Service by its name can resolve the name at all: a policy that
//! admits the flow and forgets DNS is the usual reason why a request times out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use indexmap::IndexMap;

use super::Walk;
use super::ends::{Finder, Unit};
use super::families::Families;
use crate::algebra::cidr;
use crate::algebra::traffic::Traffic;
use crate::cluster::backend::BackendEnd;
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::object::{DNS_PORT, Family, Pod, Protocol, Service, ServicePort};
use crate::policy::{Block, Direction, Peer, Peers, PolicyRule, PortMatch, Ports};
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::answer::{DnsServer, Warning};
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::name::EndName;
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::End;

/// Where a cluster's DNS servers run, and how their pods are labelled.
const NAMESPACE: &str = "kube-system";
const LABEL: (&str, &str) = ("k8s-app", "kube-dns");

/// The label of the DNS caches of nodes. A pod asks that of its own node, which no policy denies.
const NODE_CACHE: (&str, &str) = ("k8s-app", "node-local-dns");

/// So many sources are looked at; a question about more is none about one client.
const SOURCES: usize = 64;

/// The DNS servers of the input: each with the port that it listens on.
pub(in crate::verdict::explain) struct Servers<'a> {
    /// The Service that leads to them.
    service: Option<&'a Service>,
    pub(in crate::verdict::explain) pods: Vec<(PodId, u16)>,
    /// The Service leads to addresses of which the input has no pod too.
    pub(in crate::verdict::explain) has_others: bool,
}

impl Walk<'_> {
    /// Warns where sources cannot resolve the name of the Service that was asked for.
    pub(in crate::verdict::explain) fn warn_of_unresolved_names(&mut self, sources: &[Unit], to: &Service) {
        let cluster = self.ends.cluster;
        let mut wholes = IndexMap::<EndName, &Unit>::new();
        for source in sources.iter().take(SOURCES + 1) {
            wholes.entry(source.whole.without_addresses()).or_insert(source);
        }
        let has_cache = || cluster.pods().any(|(_, pod)| is_labelled(pod, NODE_CACHE));
        if sources.len() > SOURCES || is_dns(to) || has_cache() {
            return;
        }
        let servers = Servers::of(cluster);
        if servers.has_others {
            return;
        }
        let mut denied = IndexMap::<_, Vec<EndName>>::new();
        for (whole, source) in wholes {
            if let Some(by) = self.denied_dns(source, &servers) {
                denied.entry(by).or_default().push(whole);
            }
        }
        let server = servers.name(cluster);
        let warning = |((direction, policies), from)| Warning::NamesUnresolved {
            from,
            service: EndName::of_service(to).without_addresses(),
            direction,
            policies,
            server: server.clone(),
        };
        self.warn(denied.into_iter().map(warning).collect());
    }

    /// The policies that keep a source from every DNS server, those of the source or of the servers; none
    /// where nothing does for certain.
    fn denied_dns(&self, source: &Unit, servers: &Servers<'_>) -> Option<(Direction, Vec<PolicyId>)> {
        let by_source = || Some((Direction::Egress, self.denied_by_source(source, servers)?));
        by_source().or_else(|| Some((Direction::Ingress, self.denied_by_servers(source, servers)?)))
    }

    /// The policies of the servers that keep a source from each of them.
    fn denied_by_servers(&self, source: &Unit, servers: &Servers<'_>) -> Option<Vec<PolicyId>> {
        let cluster = self.ends.cluster;
        let is_denied = |(pod, port): &(PodId, u16)| self.is_denied(Direction::Ingress, source, *pod, *port);
        // A hostNetwork pod, or a client outside, may ask another server.
        if !matches!(source.party, Party::End(End::Pod(_))) {
            return None;
        }
        if servers.pods.is_empty() || !servers.pods.iter().all(is_denied) {
            return None;
        }
        // A cache on the node, or a server outside, would be asked in their place.
        let asks_another = |id: &PolicyId| {
            cluster.policy(*id).rules(Direction::Egress).iter().any(|of| means_another_server(cluster, of))
        };
        if self.isolating(source, Direction::Egress).iter().any(asks_another) {
            return None;
        }
        let servers = self.ends.pods(&servers.pods.iter().map(|(pod, _)| *pod).collect::<Vec<_>>());
        let policies: BTreeSet<PolicyId> =
            servers.iter().flat_map(|server| self.isolating(server, Direction::Ingress)).collect();
        Some(policies.into_iter().collect())
    }

    /// The policies that isolate an end for certain, sorted.
    fn isolating(&self, end: &Unit, direction: Direction) -> Vec<PolicyId> {
        let groups = end.party.groups(self.ends.cluster, self.ends.groups, direction, None);
        let policies: BTreeSet<PolicyId> =
            groups.into_iter().flat_map(|group| group.key.policies.iter().copied()).collect();
        policies.into_iter().collect()
    }

    /// The policies of a source that keep it from every DNS server.
    fn denied_by_source(&self, source: &Unit, servers: &Servers<'_>) -> Option<Vec<PolicyId>> {
        let cluster = self.ends.cluster;
        let policies = self.isolating(source, Direction::Egress);
        let rules = || policies.iter().flat_map(|id| cluster.policy(*id).rules(Direction::Egress));
        if policies.is_empty() {
            return None;
        }
        let is_denied = if servers.pods.is_empty() {
            // Any end may be the server, so no rule may be about the port.
            !rules().any(admits_dns) && source.party.pod().is_some_and(|pod| self.is_certain(pod))
        } else {
            !rules().any(|rule| means_another_server(cluster, rule))
                && servers.pods.iter().all(|(pod, port)| self.is_denied(Direction::Egress, source, *pod, *port))
        };
        is_denied.then_some(policies)
    }

    /// Whether all policies that may select a pod are known.
    fn is_certain(&self, pod: PodId) -> bool {
        End::Pod(pod).deciding(self.ends.cluster, self.ends.groups, Direction::Egress, None).is_certain()
    }

    /// Whether a direction denies what goes to a DNS server, in every family.
    fn is_denied(&self, direction: Direction, source: &Unit, pod: PodId, port: u16) -> bool {
        let Finder { cluster, groups } = self.ends;
        let server = self.ends.pods(&[pod]).remove(0);
        let traffic = Traffic::ports(Protocol::Udp, port, port);
        let denies = |family: &Option<Family>| {
            let question = Question::between(source.party, server.party, *family, traffic.clone());
            question.bounds(cluster, groups, direction).verdict(&traffic) == Verdict::Denied
        };
        let families = Families::of(cluster, source).judged(Families::of(cluster, &server));
        !families.is_empty() && families.iter().all(denies)
    }
}

impl<'a> Servers<'a> {
    pub(in crate::verdict::explain) fn of(cluster: &'a Cluster) -> Self {
        let service = cluster.services().find(|service| is_dns(service));
        let (mut pods, mut has_others) = (Vec::<(PodId, u16)>::new(), false);
        let is_asked = |port: &&ServicePort| (port.protocol, port.port) == (Protocol::Udp, DNS_PORT);
        for port in service.iter().flat_map(|service| &service.ports).filter(is_asked) {
            let backends = service.and_then(|service| cluster.backends(service, port)).unwrap_or_default();
            has_others |= backends.iter().any(|backend| matches!(backend.end, BackendEnd::Address(_)));
            pods.extend(backends.iter().filter_map(|backend| match backend.end {
                BackendEnd::Pod(pod) => Some((pod, backend.port)),
                BackendEnd::Address(_) => None,
            }));
        }
        let labelled = cluster.pods().filter(|(_, pod)| is_labelled(pod, LABEL) && !pod.finished);
        pods.extend(labelled.map(|(id, _)| (id, DNS_PORT)).filter(|_| service.is_none()));
        Self { service, pods, has_others }
    }

    /// What to ask about.
    fn name(&self, cluster: &Cluster) -> Option<DnsServer> {
        if let Some(service) = self.service {
            return Some(DnsServer { name: EndName::of_service(service).without_addresses(), port: DNS_PORT });
        }
        let (id, port) = *self.pods.first()?;
        let pod = cluster.pod(id);
        let (kind, name) = pod.identity();
        let (kind, namespace, name) = (kind.to_owned(), Some(pod.namespace.clone()), name.to_owned());
        Some(DnsServer { name: EndName { kind, namespace, name, ..EndName::default() }, port })
    }
}

/// Whether a Service is that of the cluster's DNS.
fn is_dns(service: &Service) -> bool {
    service.namespace == NAMESPACE
        && service.ports.iter().any(|port| (port.protocol, port.port) == (Protocol::Udp, DNS_PORT))
}

fn is_labelled(pod: &Pod, (key, value): (&str, &str)) -> bool {
    pod.namespace == NAMESPACE && pod.labels.get(key).is_some_and(|of| of == value)
}

/// Whether a rule admits DNS to some end.
pub(in crate::verdict) fn admits_dns(rule: &PolicyRule) -> bool {
    let is_named = |port: &PortMatch| matches!(port, PortMatch::Named(..));
    let names_port = matches!(&rule.ports, Ports::AnyOf(ports) if ports.iter().any(is_named));
    names_port || !rule.traffic_to(&[]).intersection(&Traffic::ports(Protocol::Udp, DNS_PORT, DNS_PORT)).is_none()
}

/// Whether a rule is about DNS and means addresses that are none of the input's Services: a cache
/// on the node, or a server outside that the pod's `dnsConfig` names.
pub(in crate::verdict::explain) fn means_another_server(cluster: &Cluster, rule: &PolicyRule) -> bool {
    let Peers::AnyOf(peers) = &rule.peers else { return false };
    let is_of_services = |block: &Block| cluster.service_alone_in(block.family, &block.addresses).is_some();
    let is_local = |block: &Block| {
        let is_link_local = |number: u128| match cidr::address(block.family, number) {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let mut ranges = block.addresses.ranges().iter();
        ranges.all(|(first, last)| is_link_local(*first) && is_link_local(*last))
    };
    let has_ports = !matches!(rule.ports, Ports::Everything);
    let is_other = |peer: &Peer| match peer {
        Peer::Block(of) => (has_ports && !is_of_services(&of.block)) || is_local(&of.block),
        Peer::Pods(_) | Peer::Nothing => false,
    };
    admits_dns(rule) && peers.iter().any(is_other)
}
