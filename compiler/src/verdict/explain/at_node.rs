//! Flows to a node's address: a port of it may lead to a Service or to a pod. And flows to the
//! loopback address, which never leave a pod.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::answer::{Flow, Unanswerable, Warning, Way};
use super::ends::Unit;
use super::entry::{Entry, NodePort};
use super::judged_pairs::JudgedPairs;
use super::name::{EndName, Port, Target};
use super::question::MissingFact;
use super::walk::{Destination, Route, Walk};
use crate::algebra::traffic::Traffic;
use crate::cluster::backend::HostPortAt;
use crate::cluster::{Cluster, PodId};
use crate::object::{Family, Protocol, Service};
use crate::verdict::bounds::Verdict;

/// So many ports of a node that lead elsewhere are judged one by one; of more, the node itself is
/// judged.
const PORTS_JUDGED: usize = 16;

/// The ports of nodes that Services get where their author names none.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

impl Walk<'_> {
    /// Flows to ports of a node that lead to Services or pods; whether it does.
    pub(super) fn by_node(
        &mut self,
        sources: &[Unit],
        to: &Target<'_>,
        addresses: &[IpAddr],
    ) -> Result<bool, Unanswerable> {
        let cluster = self.ends.cluster;
        let (protocol, first, last) = match self.port {
            Some(Port::Numbers(protocol, first, last)) => (Some(protocol.unwrap_or(Protocol::Tcp)), *first, *last),
            // No port of a node takes ICMP.
            Some(Port::Name(_) | Port::Icmp) => return Ok(false),
            None => (None, 1, u16::MAX),
        };
        let only = protocol.filter(|_| first == last);
        if let ([address], Some(only)) = (addresses, only)
            && self.by_unknown_node(sources, *address, only, first)
        {
            return Ok(true);
        }
        let is_node = |address: &&IpAddr| cluster.is_node(**address) && cluster.holders(**address, None).is_empty();
        let addresses: Vec<IpAddr> = addresses.iter().filter(is_node).copied().collect();
        if addresses.is_empty() {
            return Ok(false);
        }
        if let Some(only) = only {
            return Ok(self.by_port(sources, &addresses, only, first));
        }
        let is_asked = |of: Protocol, number: u16| {
            protocol.is_none_or(|protocol| of == protocol) && (first..=last).contains(&number)
        };
        let of_services = cluster.node_ports().map(|(of, number, service)| {
            let name = format!("{}/{}", service.namespace, service.name);
            (of, number, name)
        });
        let of_pods = addresses.iter().flat_map(|address| cluster.host_ports_at(*address));
        let of_pods = of_pods.filter(|(_, _, at)| matches!(at, HostPortAt::Here | HostPortAt::Perhaps));
        let of_pods = of_pods.map(|(pod, port, _)| (port.protocol, port.host_port, pod_name(cluster, pod)));
        let ports: BTreeSet<(Protocol, u16, String)> =
            of_services.chain(of_pods).filter(|(of, number, _)| is_asked(*of, *number)).collect();
        let numbers: BTreeSet<(Protocol, u16)> = ports.iter().map(|(of, number, _)| (*of, *number)).collect();
        if ports.is_empty() {
            return Ok(false);
        }
        if numbers.len() > PORTS_JUDGED {
            self.explanation.warn(Warning::NodePorts(ports.into_iter().collect()));
            return Ok(false);
        }
        let asked = protocol.map_or_else(Traffic::all, |protocol| Traffic::ports(protocol, first, last));
        let mut rest = asked;
        for (of, number) in numbers {
            if self.by_port(sources, &addresses, of, number) {
                rest = rest.difference(&Traffic::ports(of, number, number));
            }
        }
        if !rest.is_none() {
            let units = self.ends.units(to)?.into_iter();
            let destinations: Vec<Destination> = units.map(|unit| Destination::direct(unit, rest.clone())).collect();
            self.between(sources, &destinations, Route::default());
        }
        Ok(true)
    }

    /// Flows to one port of a node; whether it leads to a Service or a pod, or may.
    fn by_port(&mut self, sources: &[Unit], addresses: &[IpAddr], only: Protocol, number: u16) -> bool {
        let cluster = self.ends.cluster;
        let of_family = |service: &Service| {
            let is_of = |address: &&IpAddr| service.routing.only_family.is_none_or(|only| only == Family::of(address));
            addresses.iter().find(is_of).copied()
        };
        let behind = cluster.behind_node_port(only, number);
        if let Some((service, port, address)) =
            behind.and_then(|(service, port)| Some((service, port, of_family(service)?)))
        {
            let entry = NodePort { address, protocol: only, number, service_port: port.port };
            self.through(sources, service, Some(Entry::NodePort(entry)), Some(Family::of(&address)));
            return true;
        }
        if self.by_host_port(sources, addresses, only, number) {
            return true;
        }
        let may_be_a_service = NODE_PORTS.contains(&number) && cluster.has_unread_services();
        if may_be_a_service {
            self.unknown(sources, addresses[0], only, number, &MissingFact::NodePort(number));
            return true;
        }
        let choosing = services_without_number(cluster, only, number);
        if !choosing.is_empty() {
            let fact = MissingFact::ChosenNodePort { port: number, services: choosing };
            self.unknown(sources, addresses[0], only, number, &fact);
            return true;
        }
        false
    }

    /// Flows to a host port; whether it leads to a pod, or may.
    fn by_host_port(&mut self, sources: &[Unit], addresses: &[IpAddr], only: Protocol, number: u16) -> bool {
        let cluster = self.ends.cluster;
        let (mut here, mut perhaps, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new());
        let mut is_bound = false;
        for address in addresses {
            let ports = cluster.host_ports_at(*address);
            for (pod, port, at) in ports.filter(|(_, of, _)| (of.protocol, of.host_port) == (only, number)) {
                let mut unit = self.ends.pods(&[pod]).remove(0);
                unit.only = Some(Family::of(address));
                let destination = Destination::direct(unit, Traffic::ports(only, port.port, port.port));
                match at {
                    HostPortAt::Here => here.push((*address, destination)),
                    HostPortAt::Perhaps => perhaps.push((*address, destination)),
                    HostPortAt::OtherNode | HostPortAt::OtherAddress => {
                        is_bound |= at == HostPortAt::OtherAddress;
                        elsewhere.push((pod_name(cluster, pod), cluster.pod(pod).node.clone()));
                    }
                }
            }
        }
        let is_known = !here.is_empty();
        let leads_to = if is_known { here } else { perhaps };
        if leads_to.is_empty() {
            if !elsewhere.is_empty() {
                elsewhere.sort();
                elsewhere.dedup();
                self.explanation.warn(Warning::HostPortElsewhere { port: number, pods: elsewhere, is_bound });
            }
            return false;
        }
        let name = |(_, destination): &(IpAddr, Destination)| Some(pod_name(cluster, destination.unit.party.pod()?));
        let pods: BTreeSet<String> = leads_to.iter().filter_map(name).collect();
        self.explanation.warn(Warning::HostPort { port: number, pods: pods.into_iter().collect() });
        let way = Way::HostPort(number);
        let before = self.explanation.flows.len();
        for (address, destination) in leads_to {
            for (is_pod, mut sources) in self.by_node_of_source(sources) {
                let mut destinations = [destination.clone()];
                let mut missing = if is_known { Vec::new() } else { vec![MissingFact::HostPort(number)] };
                if is_pod {
                    let asked = (address, Traffic::ports(only, number, number));
                    missing.extend(self.judge_before(&mut sources, &mut destinations, asked));
                }
                let route = Route { way: Some(&way), missing: &missing, ..Route::default() };
                self.between(&sources, &destinations, route);
            }
        }
        if !is_known {
            // The pod may be on another node, and then the flow is one to this node itself.
            for flow in self.explanation.flows[before..].iter_mut().filter(|flow| flow.verdict == Verdict::Denied) {
                (flow.verdict, flow.asked) = (Verdict::Unknown, JudgedPairs::default());
                flow.missing.push(MissingFact::HostPort(number));
            }
        }
        true
    }

    /// A flow to a port of an address that the input does not call a node's, where the port leads
    /// to a Service or a pod if it is one; whether it is such a port, and the nodes are not known.
    fn by_unknown_node(&mut self, sources: &[Unit], address: IpAddr, only: Protocol, number: u16) -> bool {
        let cluster = self.ends.cluster;
        if cluster.is_node(address) || cluster.knows_nodes() || !cluster.holders(address, None).is_empty() {
            return false;
        }
        let to_pod = || {
            let mut ports = cluster.host_ports_at(address);
            ports.any(|(_, of, at)| (of.protocol, of.host_port) == (only, number) && at != HostPortAt::OtherAddress)
        };
        let may_be_a_service = || {
            let may = |kind: &str| cluster.unread().iter().any(|of| of.may_be(kind));
            NODE_PORTS.contains(&number) && may("Service") && may("Node")
        };
        let is_known = || cluster.behind_node_port(only, number).is_some();
        let is_chosen = || !services_without_number(cluster, only, number).is_empty();
        if !is_known() && !to_pod() && !may_be_a_service() && !is_chosen() {
            return false;
        }
        self.unknown(sources, address, only, number, &MissingFact::IsNode(address, number));
        true
    }

    /// Flows of which nothing is known.
    fn unknown(&mut self, sources: &[Unit], address: IpAddr, only: Protocol, number: u16, fact: &MissingFact) {
        let wholes: BTreeSet<EndName> = sources.iter().map(|unit| unit.whole.without_addresses()).collect();
        let to = EndName::of_address(address);
        self.explanation.flows.extend(wholes.into_iter().map(|from| Flow {
            from,
            to: to.clone(),
            via: None,
            way: None,
            family: Some(Family::of(&address)),
            traffic: Traffic::ports(only, number, number),
            seen_by_source: None,
            port_name: None,
            verdict: Verdict::Unknown,
            broken: None,
            missing: vec![fact.clone()],
            decisions: None,
            parties: None,
            asked: JudgedPairs::default(),
            alike: None,
        }));
    }

    /// Flows of pods to the loopback address, which each sends to itself; whether all are pods.
    pub(super) fn by_loopback(&mut self, sources: &[Unit], address: IpAddr) -> Result<bool, Unanswerable> {
        let is_pod = |unit: &Unit| unit.party.pod().is_some();
        if !address.is_loopback() || !sources.iter().all(is_pod) {
            return Ok(false);
        }
        for source in sources {
            // Not another replica of its template.
            let source = Unit { is_template: false, ..source.clone() };
            self.directly(std::slice::from_ref(&source), std::slice::from_ref(&source))?;
        }
        self.explanation.warn(Warning::Loopback(address));
        Ok(true)
    }
}

/// The Services for which the API server may choose this port of nodes, by namespace and name.
fn services_without_number(cluster: &Cluster, protocol: Protocol, number: u16) -> Vec<String> {
    let services = cluster.services().filter(|service| service.routing.chosen_node_ports.contains(&protocol));
    let names = services.map(|service| format!("{}/{}", service.namespace, service.name));
    if NODE_PORTS.contains(&number) { names.collect() } else { Vec::new() }
}

fn pod_name(cluster: &Cluster, pod: PodId) -> String {
    let pod = cluster.pod(pod);
    format!("{}/{}", pod.namespace, pod.name)
}
