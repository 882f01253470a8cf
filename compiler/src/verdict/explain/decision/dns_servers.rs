//! The DNS servers of a cluster, and the rules that are about others.

use std::net::IpAddr;

use crate::algebra::cidr;
use crate::algebra::traffic::Traffic;
use crate::cluster::backend::BackendEnd;
use crate::cluster::{Cluster, PodId};
use crate::object::{DNS_PORT, Pod, Protocol, Service, ServicePort};
use crate::policy::{Block, Peer, Peers, PolicyRule, PortMatch, Ports};

/// Where a cluster's DNS servers run, and how their pods are labelled.
const NAMESPACE: &str = "kube-system";
const LABEL: (&str, &str) = ("k8s-app", "kube-dns");

/// The label of the DNS caches of nodes. A pod asks that of its own node, which no policy denies.
pub(in crate::verdict::explain) const NODE_CACHE: (&str, &str) = ("k8s-app", "node-local-dns");

/// The DNS servers of the input: each with the port that it listens on.
pub(in crate::verdict::explain) struct Servers<'a> {
    /// The Service that leads to them.
    pub(in crate::verdict::explain) service: Option<&'a Service>,
    pub(in crate::verdict::explain) pods: Vec<(PodId, u16)>,
    /// The Service also leads to addresses that no pod in the input has.
    pub(in crate::verdict::explain) has_others: bool,
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
}

/// Whether a Service is that of the cluster's DNS.
pub(in crate::verdict::explain) fn is_dns(service: &Service) -> bool {
    service.namespace == NAMESPACE
        && service.ports.iter().any(|port| (port.protocol, port.port) == (Protocol::Udp, DNS_PORT))
}

pub(in crate::verdict::explain) fn is_labelled(pod: &Pod, (key, value): (&str, &str)) -> bool {
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
