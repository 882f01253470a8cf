//! Flows to a node's address: a port of it may lead to a Service or to a pod. And flows to the
//! loopback address, which never leave a pod.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::entry::{Entry, NodePort};
use crate::algebra::traffic::Traffic;
use crate::cluster::backend::HostPortAt;
use crate::cluster::{Cluster, PodId};
use crate::object::{Family, Pod, Protocol, Service};
use crate::policy::Direction;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::answer::{Flow, Unanswerable, Warning, Way};
use crate::verdict::explain::question::MissingFact;
use crate::verdict::explain::question::name::{EndName, Port, Target};
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::walk::ends::{Finder, Unit};
use crate::verdict::explain::walk::{Destination, Route, Walk};
use crate::verdict::flow::End;

/// So many ports of a node that lead elsewhere are judged one by one; of more, the node itself is
/// judged.
const PORTS_JUDGED: usize = 16;

/// So many addresses of a prefix that lead elsewhere are judged one by one.
const ADDRESSES_JUDGED: usize = 16;

/// The ports of nodes that Services get where their author names none.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

impl Walk<'_> {
    /// Flows to ports of a node that lead to Services or pods; whether it does.
    pub(in crate::verdict::explain) fn by_node(
        &mut self,
        sources: &[Unit],
        to: &Target<'_>,
        addresses: &[IpAddr],
    ) -> bool {
        let cluster = self.ends.cluster;
        let (protocol, first, last) = match self.port {
            Some(Port::Numbers(protocol, first, last)) => (Some(protocol.unwrap_or(Protocol::Tcp)), *first, *last),
            // No port of a node takes ICMP.
            Some(Port::Name(_) | Port::Icmp) => return false,
            None => (None, 1, u16::MAX),
        };
        let only = protocol.filter(|_| first == last);
        if let ([address], Some(only)) = (addresses, only)
            && self.by_unknown_node(sources, *address, only, first)
        {
            return true;
        }
        let is_node = |address: &&IpAddr| cluster.is_node(**address) && cluster.holders(**address, None).is_empty();
        let addresses: Vec<IpAddr> = addresses.iter().filter(is_node).copied().collect();
        if addresses.is_empty() {
            return false;
        }
        if let Some(only) = only {
            return self.by_port(sources, to, &addresses, only, first);
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
        let of_addresses = addresses.iter().flat_map(|address| cluster.services_at(*address)).flat_map(|service| {
            let name = format!("{}/{}", service.namespace, service.name);
            service.ports.iter().map(move |port| (port.protocol, port.port, name.clone()))
        });
        let ports: BTreeSet<(Protocol, u16, String)> =
            of_services.chain(of_addresses).chain(of_pods).filter(|(of, number, _)| is_asked(*of, *number)).collect();
        let numbers: BTreeSet<(Protocol, u16)> = ports.iter().map(|(of, number, _)| (*of, *number)).collect();
        if ports.is_empty() {
            return false;
        }
        if numbers.len() > PORTS_JUDGED {
            self.explanation.warn(Warning::NodePorts(ports.into_iter().collect()));
            return false;
        }
        let asked = protocol.map_or_else(Traffic::all, |protocol| Traffic::ports(protocol, first, last));
        let mut rest = asked;
        for (of, number) in numbers {
            if self.by_port(sources, to, &addresses, of, number) {
                rest = rest.difference(&Traffic::ports(of, number, number));
            }
        }
        if !rest.is_none() {
            let units = self.ends.units(to).into_iter();
            let destinations: Vec<Destination> = units.map(|unit| Destination::direct(unit, rest.clone())).collect();
            self.between(sources, &destinations, Route::default());
        }
        true
    }

    /// Flows to prefixes. Addresses of Services and ports of nodes lead elsewhere, so each gets the answer
    /// that it gets alone.
    pub(in crate::verdict::explain) fn by_prefixes(
        &mut self,
        sources: &[Unit],
        to: &Target<'_>,
    ) -> Result<(), Unanswerable> {
        let cluster = self.ends.cluster;
        let mut units = self.ends.units(to);
        if let Target::Blocks(blocks) = to {
            let holds = |address: &IpAddr| blocks.iter().any(|of| of.holds(*address));
            let of_services: BTreeSet<IpAddr> =
                cluster.services().flat_map(|service| &service.addresses).copied().filter(holds).collect();
            if of_services.len() > ADDRESSES_JUDGED {
                let services = cluster.services().filter(|service| service.addresses.iter().any(holds));
                let names = services.map(|of| format!("{}/{}", of.namespace, of.name)).collect();
                self.explanation.warn(Warning::HoldsServices(names));
            } else {
                for address in &of_services {
                    self.by_address(sources, *address)?;
                }
                // Those that are nodes' too are answered for.
                let is_of_service =
                    |unit: &Unit| matches!(unit.party, Party::End(End::Address(of)) if of_services.contains(&of));
                units.retain(|unit| unit.name.kind == "Block" || !is_of_service(unit));
                // A prefix of nothing but such addresses has no other one to ask about.
                units.retain(|unit| unit.name.kind != "Block" || !self.is_all_of_services(unit));
            }
        }
        if let Some(Port::Numbers(protocol, first, last)) = self.port
            && first == last
            && self.may_lead_elsewhere(protocol.unwrap_or(Protocol::Tcp), *first)
        {
            let is_node = |unit: &&Unit| matches!(unit.party, Party::End(End::Address(of)) if cluster.is_node(of));
            let nodes: Vec<Unit> = units.iter().filter(is_node).cloned().collect();
            for unit in nodes.iter().take(ADDRESSES_JUDGED) {
                let Party::End(End::Address(address)) = unit.party else { continue };
                if self.by_node(sources, &Target::Address(address), &[address]) {
                    units.retain(|of| of.party != unit.party);
                }
            }
            if nodes.len() > ADDRESSES_JUDGED {
                self.explanation.warn(Warning::HoldsNodes(*first));
            }
        }
        if units.is_empty() { Ok(()) } else { self.directly(sources, &units) }
    }

    /// Whether all addresses of a part of a prefix are those of Services.
    fn is_all_of_services(&self, unit: &Unit) -> bool {
        unit.name.prefixes().all(|prefix| self.ends.cluster.are_of_services(&prefix))
    }

    /// Whether a port of a node may lead to a Service or a pod.
    fn may_lead_elsewhere(&self, only: Protocol, number: u16) -> bool {
        let cluster = self.ends.cluster;
        let is_host_port = |pod: &Pod| pod.host_ports.iter().any(|of| (of.protocol, of.host_port) == (only, number));
        let at_nodes = || cluster.nodes().values().flatten();
        cluster.behind_node_port(only, number).is_some()
            || at_nodes().any(|address| cluster.service_at(*address, only, number).is_some())
            || cluster.endpoints().any(|(_, pod)| is_host_port(pod))
            || without_number(cluster, only, number).next().is_some()
    }

    /// Flows to one port of a node; whether it leads to a Service or a pod, or may.
    fn by_port(
        &mut self,
        sources: &[Unit],
        to: &Target<'_>,
        addresses: &[IpAddr],
        only: Protocol,
        number: u16,
    ) -> bool {
        let cluster = self.ends.cluster;
        // kube-proxy looks at external addresses first, and at node ports last.
        let is_external = |address: &IpAddr| cluster.service_at(*address, only, number).is_some();
        let (external, own): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().copied().partition(is_external);
        for address in &external {
            let Some((service, port)) = cluster.service_at(*address, only, number) else { continue };
            let entry = Entry::External(*address, Some((only, port.port)));
            self.through(sources, service, Some(entry), Some(Family::of(address)));
        }
        if !external.is_empty() {
            if !own.is_empty() && !self.by_port(sources, to, &own, only, number) {
                let is_own =
                    |unit: &Unit| matches!(unit.party, Party::End(End::Address(address)) if own.contains(&address));
                let units = self.ends.units(to).into_iter().filter(is_own);
                let traffic = Traffic::ports(only, number, number);
                let own: Vec<Destination> = units.map(|unit| Destination::direct(unit, traffic.clone())).collect();
                self.between(sources, &own, Route::default());
            }
            return true;
        }
        // A node has a rule for the port in the families of the Service only.
        let is_led = |service: &Service| {
            let only = service.routing.only_family;
            addresses.iter().any(|address| only.is_none_or(|only| only == Family::of(address)))
        };
        let behind = cluster.behind_node_port(only, number);
        if let Some((service, port)) = behind.filter(|(service, _)| is_led(service)) {
            let only_family = service.routing.only_family;
            let entries: Vec<IpAddr> = (Family::ALL.into_iter())
                .filter(|family| only_family.is_none_or(|only| only == *family))
                .filter_map(|family| addresses.iter().copied().find(|address| Family::of(address) == family))
                .collect();
            let place = self.explanation.flows.len();
            for address in &entries {
                let entry = NodePort { address: *address, protocol: only, number, service_port: port.port };
                self.through(sources, service, Some(Entry::NodePort(entry)), Some(Family::of(address)));
            }
            if entries.len() > 1 {
                self.merge_from(place);
            }
            return true;
        }
        if self.by_host_port(sources, addresses, only, number) {
            return true;
        }
        if NODE_PORTS.contains(&number) && cluster.has_unread_services() {
            self.unknown(sources, addresses[0], only, number, &MissingFact::NodePort(number));
            return true;
        }
        let may_be_chosen = addresses.iter().find_map(|address| {
            let services = self.of_unchosen_port(sources, *address, only, number);
            (!services.is_empty()).then_some((*address, services))
        });
        let Some((address, services)) = may_be_chosen else { return false };
        self.unknown(sources, address, only, number, &MissingFact::UnchosenNodePort(number, services));
        true
    }

    /// The Services to which a port of a node's address may lead because the input does not say their
    /// node ports. Those are left out that make no difference: all is allowed to their pods, and to the
    /// node itself.
    fn of_unchosen_port(&self, sources: &[Unit], address: IpAddr, only: Protocol, number: u16) -> Vec<String> {
        let Finder { cluster, groups } = self.ends;
        let is_open = |unit: &Unit| {
            let isolates = |family| !unit.party.groups(cluster, groups, Direction::Ingress, Some(family)).is_empty();
            let is_open = |family| {
                !isolates(family) && unit.party.deciding(cluster, groups, Direction::Ingress, Some(family)).is_nothing()
            };
            Family::ALL.into_iter().all(is_open)
        };
        let may_deny = |service: &&Service| {
            let backends = cluster.behind(service);
            backends.is_none_or(|ends| !self.ends.behind(ends).iter().all(is_open))
        };
        let is_of_family = |of: &&Service| of.routing.only_family.is_none_or(|only| only == Family::of(&address));
        let found: Vec<&Service> = without_number(cluster, only, number).filter(is_of_family).collect();
        if found.is_empty() {
            return Vec::new();
        }
        let node = self.at_address(address, only, number);
        let are_sources_open = self.are_allowed(sources, &node, Route::default());
        let services = found.into_iter().filter(|of| !are_sources_open || may_deny(of));
        services.map(|of| format!("{}/{}", of.namespace, of.name)).collect()
    }

    /// A port of a node itself.
    fn at_address(&self, address: IpAddr, only: Protocol, number: u16) -> Vec<Destination> {
        let units = self.ends.units(&Target::Address(address)).into_iter();
        units.map(|unit| Destination::direct(unit, Traffic::ports(only, number, number))).collect()
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
        for (address, destination) in leads_to {
            for (is_pod, mut sources) in self.by_node_of_source(sources) {
                let mut destinations = [destination.clone()];
                let mut missing = if is_known { Vec::new() } else { vec![MissingFact::HostPort(number)] };
                if is_pod {
                    let asked = (address, Traffic::ports(only, number, number));
                    missing.extend(self.judge_before(&mut sources, &mut destinations, asked));
                }
                // Where the pod is on another node, the packet is for the node itself.
                let route = Route { way: Some(&way), missing: &missing, may_pass: !is_known, ..Route::default() };
                self.between(&sources, &destinations, route);
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
        let may_be_chosen = || !self.of_unchosen_port(sources, address, only, number).is_empty();
        if !is_known() && !to_pod() && !may_be_a_service() && !may_be_chosen() {
            return false;
        }
        self.unknown(sources, address, only, number, &MissingFact::IsNode(address, number));
        true
    }

    /// Flows of which nothing is known.
    fn unknown(&mut self, sources: &[Unit], address: IpAddr, only: Protocol, number: u16, fact: &MissingFact) {
        let wholes: BTreeSet<EndName> = sources.iter().map(|unit| unit.whole.without_addresses()).collect();
        let to = EndName::of_address(address);
        let traffic = Traffic::ports(only, number, number);
        self.explanation.flows.extend(wholes.into_iter().map(|from| Flow {
            family: Some(Family::of(&address)),
            missing: vec![fact.clone()],
            ..Flow::undecided(from, to.clone(), traffic.clone(), Verdict::Unknown)
        }));
    }

    /// Flows with a node of which the input says no address; whether one of the ends is such a node.
    pub(in crate::verdict::explain) fn of_unaddressed_node(&mut self, from: &Target<'_>, to: &Target<'_>) -> bool {
        let unaddressed = |target: &Target<'_>| match target {
            Target::Node { name, addresses } if addresses.is_empty() => Some(name.clone()),
            _ => None,
        };
        let nodes: BTreeSet<String> = [from, to].into_iter().filter_map(unaddressed).collect();
        if nodes.is_empty() {
            return false;
        }
        let wholes = |target: &Target<'_>| -> BTreeSet<EndName> {
            if let Some(name) = unaddressed(target) {
                return BTreeSet::from([EndName { kind: "Node".to_owned(), name, ..EndName::default() }]);
            }
            self.ends.units(target).into_iter().map(|unit| unit.whole.without_addresses()).collect()
        };
        let traffic = self.port.and_then(Port::traffic).unwrap_or_else(Traffic::all);
        let (sources, destinations) = (wholes(from), wholes(to));
        for from in &sources {
            self.explanation.flows.extend(destinations.iter().map(|to| Flow {
                missing: nodes.iter().cloned().map(MissingFact::NodeAddress).collect(),
                ..Flow::undecided(from.clone(), to.clone(), traffic.clone(), Verdict::Unknown)
            }));
        }
        true
    }

    /// Flows of pods to the loopback address, which each sends to itself; whether all are pods.
    pub(in crate::verdict::explain) fn by_loopback(
        &mut self,
        sources: &[Unit],
        address: IpAddr,
    ) -> Result<bool, Unanswerable> {
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

/// The Services for which the API server may choose this port of nodes: none if another Service has it.
fn without_number(cluster: &Cluster, protocol: Protocol, number: u16) -> impl Iterator<Item = &Service> {
    let is_free = NODE_PORTS.contains(&number) && cluster.behind_node_port(protocol, number).is_none();
    let may_be = move |of: &&Service| is_free && of.routing.unchosen_node_ports.contains(&protocol);
    cluster.services().filter(may_be)
}

fn pod_name(cluster: &Cluster, pod: PodId) -> String {
    let pod = cluster.pod(pod);
    format!("{}/{}", pod.namespace, pod.name)
}

#[cfg(test)]
mod tests;
