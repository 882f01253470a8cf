//! Flows that do not go straight to their destinations: through a Service, by a node port,
//! by a host port. What kube-proxy does decides
//! (<https://kubernetes.io/docs/reference/networking/virtual-ips/>).
//!
//! A node port, a load balancer's address or an external address leads to a Service from outside.
//! With `externalTrafficPolicy: Cluster` any node takes the traffic and sends it on with its own
//! address as the source, so a pod on another node gets packets from that node and not from the
//! client. The node replaces the source address after the FORWARD chain, so the pod's own node
//! still filters by the client's address. With `Local` a node leads to its own pods only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::address::no_such_port;
use super::entry::{Entry, NodePort};
use super::nodes::{end_of, is_on_each_node};
use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::backend::Backend;
use crate::cluster::without_backend::NoBackend;
use crate::object::{Exposure, Family, Protocol, Service, ServicePort, TargetPort};
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::answer::{Flow, Unanswerable, Via, WarningFact, Way};
use crate::verdict::explain::code::ReasonCode;
use crate::verdict::explain::question::name::{EndName, Port, QuestionEnd};
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::question::{MissingFact, OnNodes};
use crate::verdict::explain::walk::ends::Unit;
use crate::verdict::explain::walk::{Destination, Route, Walk};
use crate::verdict::flow::End;
use crate::verdict::zone::Zones;

impl Walk<'_> {
    /// Flows from a Service that leads to no pod, or from one where the input does not say where it leads.
    pub(in crate::verdict::explain) fn without_source(&mut self, service: &Service, to: &QuestionEnd<'_>) {
        let mut wholes: BTreeSet<EndName> = match to {
            QuestionEnd::Service(service) | QuestionEnd::ServiceAddress(service, _) => {
                BTreeSet::from([EndName::of_service(service)])
            }
            _ => self.ends.units(to).into_iter().map(|unit| unit.whole.without_addresses()).collect(),
        };
        wholes = wholes.into_iter().map(|name| EndName { addresses: Vec::new(), ..name }).collect();
        let traffic = self.port.and_then(Port::traffic).unwrap_or_else(Traffic::all);
        let is_known = self.ends.cluster.behind(service).is_some();
        let verdict = if is_known { Verdict::Denied } else { Verdict::Unknown };
        self.explanation.flows.extend(wholes.into_iter().map(|to| Flow {
            broken: is_known.then_some(ReasonCode::ServiceNoBackends),
            without_pod: is_known.then(|| self.ends.cluster.why_no_pod(service)),
            missing: if is_known { Vec::new() } else { vec![missing_backends(self.ends.cluster, service)] },
            ..Flow::undecided(EndName::of_service(service), to, traffic.clone(), verdict)
        }));
        let (namespace, name) = (service.namespace.clone(), service.name.clone());
        self.explanation.warn(WarningFact::SourceWithoutPods { namespace, name });
    }

    /// Flows through a Service to its backends; of one family, where an address was asked for:
    /// kube-proxy leads an address to endpoints of its own family only.
    pub(in crate::verdict::explain) fn through(
        &mut self,
        sources: &[Unit],
        service: &Service,
        entry: Option<Entry>,
        family: Option<Family>,
    ) {
        let cluster = self.ends.cluster;
        let sources = &Unit::of_family(sources, family);
        let behind = cluster.behind(service).unwrap_or_default();
        self.warn(self.ends.contested(&self.ends.behind(behind.iter().copied())));
        let is_meant = |of: &&ServicePort| match entry.and_then(Entry::service_port) {
            Some(entry) => (of.protocol, of.port) == entry,
            None => self.asks_for(of),
        };
        let ports: Vec<&ServicePort> = service.ports.iter().filter(is_meant).collect();
        let lacking = if entry.is_none() { self.without_ports_of(&[service]) } else { Traffic::none() };
        let via = |port: Option<&ServicePort>, backends| Via {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port: port.map(|port| port.port),
            target: port.map(|port| port.target.clone()),
            backends,
            without_backend: None,
        };
        if service.routing.external_name.is_some() {
            self.broken(sources, service, None, &Traffic::none(), &via(ports.first().copied(), 0));
            return;
        }
        if ports.is_empty() {
            let asked = match self.port {
                Some(Port::Numbers(protocol, first, last)) => {
                    Traffic::ports(protocol.unwrap_or(Protocol::Tcp), *first, *last)
                }
                Some(Port::Icmp) => Traffic::icmp(),
                Some(Port::Name(_)) | None => Traffic::none(),
            };
            self.broken(sources, service, Some(ReasonCode::ServicePortUnknown), &asked, &via(None, behind.len()));
            self.explanation.warn(no_such_port(service));
            return;
        }
        for port in ports {
            let backends = cluster.backends(service, port);
            let code = backends.as_ref().map(|_| ReasonCode::ServiceNoBackends);
            let mut backends = backends.unwrap_or_default();
            let of_other_family = |of: &Backend| of.family.zip(family).is_some_and(|(of, asked)| of != asked);
            let other_family = family.filter(|_| !backends.is_empty() && backends.iter().all(of_other_family));
            backends.retain(|backend| !of_other_family(backend));
            let traffic = Traffic::ports(port.protocol, port.port, port.port);
            if backends.is_empty() {
                let why = || other_family.map_or_else(|| cluster.why_none(service, port), NoBackend::OtherFamily);
                let without_backend = code.map(|_| why());
                self.broken(sources, service, code, &traffic, &Via { without_backend, ..via(Some(port), 0) });
                continue;
            }
            let ends = self.ends;
            let destinations = |backends: &[Backend]| -> Vec<Destination> {
                let units = ends.backends(backends).into_iter().zip(backends);
                let destination = |(unit, backend): (Unit, &Backend)| Destination {
                    unit: Unit { only: unit.only.or(family), ..unit },
                    traffic: Traffic::ports(port.protocol, backend.port, backend.port),
                    service_port: Some((port.protocol, port.port)),
                    before: None,
                };
                units.map(destination).collect()
            };
            let mut local = cluster.local_backends(service, port).unwrap_or_default();
            local.retain(|backend| !of_other_family(backend));
            let (all, local) = (destinations(&backends), destinations(&local));
            let via = via(Some(port), all.len());
            self.by_backends(sources, service, entry, (&all, &local), &via);
        }
        if !lacking.is_none() {
            self.broken(sources, service, Some(ReasonCode::ServicePortUnknown), &lacking, &via(None, behind.len()));
            self.explanation.warn(no_such_port(service));
        }
    }

    /// Flows to the backends of one port, by the ways that there are: to all of them, or to those of one
    /// node, where the traffic policy is Local.
    fn by_backends(
        &mut self,
        sources: &[Unit],
        service: &Service,
        entry: Option<Entry>,
        (destinations, local): (&[Destination], &[Destination]),
        via: &Via,
    ) {
        let sources = &self.taken_by_balancer(sources, service, entry, destinations, via);
        let cluster = self.ends.cluster;
        let node_port = entry.and_then(Entry::node_port);
        // A node hands what another node sends to its port on to its own backends only, if the
        // policy is Local: as what comes from outside.
        let is_of_other_node = |unit: &Unit| {
            let of_source = || cluster.nodes().get(self.node_of_source(unit)?);
            service.exposure == Exposure::OwnNode
                && !matches!(unit.party, Party::End(End::Pod(_)))
                && node_port.is_some_and(|port| of_source().is_some_and(|own| !own.contains(&port.address)))
        };
        let is_outside = |unit: &&Unit| match unit.party {
            Party::End(End::Address(address) | End::Unread(address)) if !cluster.is_node(address) => true,
            _ => is_of_other_node(unit),
        };
        let (outside, inside): (Vec<Unit>, Vec<Unit>) = sources.iter().cloned().partition(|unit| is_outside(&unit));
        let route = Route { via: Some(via), service: &service.addresses, ..Route::default() };
        // What came by an address of the balancer was looked at above.
        let outside = if entry.is_none() { self.taken_outside(outside, service, destinations, via) } else { outside };
        // What comes from outside to an external address of a node is taken by that node, as by a port of it.
        let node_port = node_port.or_else(|| {
            let Some(Entry::External(address, _)) = entry.filter(|_| !outside.is_empty()) else { return None };
            let (protocol, number) = destinations.first()?.service_port.filter(|_| cluster.is_node(address))?;
            Some(NodePort { address, protocol, number, service_port: number })
        });
        if !outside.is_empty() {
            match service.exposure {
                Exposure::AnyNode => self.by_any_node(&outside, destinations, node_port, via),
                Exposure::OwnNode => {
                    let on_node = |destination: &Destination| match node_port {
                        Some(entry) => {
                            let mut nodes = cluster.nodes().iter();
                            let node = nodes.find(|(_, of)| of.contains(&entry.address)).map(|(name, _)| name.as_str());
                            cluster.is_local(service, end_of(destination)?, node)
                        }
                        None => Some(true),
                    };
                    let on_node: Vec<Option<bool>> = local.iter().map(on_node).collect();
                    let mut next = on_node.into_iter();
                    let unknown = node_port.map_or(MissingFact::SameNode, |of| MissingFact::BackendNode(of.address));
                    let ends = (local, destinations);
                    self.on_one_node(&outside, (service, unknown), ends, via, false, |_| next.next().flatten());
                }
                Exposure::Inside => {
                    let Service { namespace, name, .. } = service;
                    let (namespace, name) = (namespace.clone(), name.clone());
                    self.explanation.warn(WarningFact::NotExposed { namespace, name });
                    self.between(&outside, destinations, route);
                }
            }
        }
        match entry {
            Some(entry) => {
                for (is_pod, sources) in self.by_node_of_source(&inside) {
                    match (entry, service.exposure) {
                        (Entry::NodePort(port), exposure) => {
                            let replaces = exposure == Exposure::AnyNode;
                            self.by_entry_node(sources, destinations, (service, via), Some(port), replaces);
                        }
                        (Entry::External(..), Exposure::AnyNode) if is_pod => {
                            self.by_entry_node(sources, destinations, (service, via), None, true);
                        }
                        (Entry::External(..), _) => self.between(&sources, destinations, route),
                    }
                }
            }
            None if service.routing.is_node_local => {
                for source in &inside {
                    let on_node = |destination: &Destination| self.is_on_one_node(source, service, destination);
                    let on_node: Vec<Option<bool>> = local.iter().map(on_node).collect();
                    let mut next = on_node.into_iter();
                    let source = std::slice::from_ref(source);
                    let (service, ends) = ((service, MissingFact::SameNode), (local, destinations));
                    self.on_one_node(source, service, ends, via, true, |_| next.next().flatten());
                }
            }
            _ if !inside.is_empty() => self.between(&inside, destinations, route),
            _ => {}
        }
    }

    /// Flows to the pods behind a headless Service: a client asks DNS for their addresses, and for
    /// a port of theirs.
    pub(in crate::verdict::explain) fn by_name(
        &mut self,
        sources: &[Unit],
        service: &Service,
    ) -> Result<(), Unanswerable> {
        let cluster = self.ends.cluster;
        let via = Via {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port: None,
            target: None,
            backends: 0,
            without_backend: None,
        };
        let Some(behind) = cluster.behind(service) else {
            self.broken(sources, service, None, &Traffic::none(), &via);
            return Ok(());
        };
        if behind.is_empty() {
            let without_backend = service.ports.first().map(|port| cluster.why_none(service, port));
            let via = Via { without_backend, ..via };
            self.broken(sources, service, Some(ReasonCode::ServiceNoBackends), &Traffic::none(), &via);
            return Ok(());
        }
        let is_renumbered = |port: &ServicePort| port.target != TargetPort::Number(port.port);
        if service.ports.iter().any(is_renumbered) {
            self.explanation
                .warn(WarningFact::Headless { namespace: service.namespace.clone(), name: service.name.clone() });
        }
        // By SRV records, a port's name leads to the number that the pods listen on.
        let is_meant = |port: &&ServicePort| match self.port {
            None => true,
            Some(Port::Name(name)) => port.name.as_ref() == Some(name),
            Some(_) => false,
        };
        let ports: Vec<&ServicePort> = service.ports.iter().filter(is_meant).collect();
        let mut destinations = Vec::new();
        for port in ports {
            let backends = cluster.backends(service, port).unwrap_or_default();
            let units = self.ends.backends(&backends).into_iter().zip(&backends);
            destinations.extend(units.map(|(unit, backend)| {
                Destination::direct(unit, Traffic::ports(port.protocol, backend.port, backend.port))
            }));
        }
        if destinations.is_empty() {
            let mut units = self.ends.behind(behind);
            for unit in &mut units {
                unit.only = unit.only.or(service.routing.only_family);
            }
            return self.directly(sources, &units);
        }
        self.warn(self.ends.contested(&self.ends.behind(behind)));
        self.between(sources, &destinations, Route::default());
        Ok(())
    }

    /// Flows to the backends on the node that takes the traffic. If the input does not say whether a backend is on that
    /// node, the flow to it is unknown.
    fn on_one_node(
        &mut self,
        sources: &[Unit],
        (service, unknown): (&Service, MissingFact),
        (destinations, all): (&[Destination], &[Destination]),
        via: &Via,
        is_internal: bool,
        mut is_there: impl FnMut(&Destination) -> Option<bool>,
    ) {
        let cluster = self.ends.cluster;
        let (mut there, mut perhaps) = (Vec::new(), Vec::new());
        for destination in destinations {
            match is_there(destination) {
                Some(true) => there.push(destination.clone()),
                Some(false) => {}
                None => perhaps.push(destination.clone()),
            }
        }
        if there.is_empty() && perhaps.is_empty() {
            let service_port = all.first().and_then(|of| of.service_port);
            let traffic = via.port.zip(service_port).map(|(port, (of, _))| Traffic::ports(of, port, port));
            let nodes: BTreeSet<&str> =
                all.iter().filter_map(end_of).flat_map(|end| cluster.local_nodes(service, end)).collect();
            let other = if nodes.is_empty() && all.iter().any(|of| self.node_of(service, of).is_some()) {
                NoBackend::NoNodeName { is_internal }
            } else {
                NoBackend::OtherNode { is_internal, nodes: nodes.into_iter().map(str::to_owned).collect() }
            };
            let via = Via { backends: 0, without_backend: Some(other), ..via.clone() };
            self.broken(sources, service, Some(ReasonCode::ServiceNoBackends), &traffic.unwrap_or_default(), &via);
            return;
        }
        let route = Route { via: Some(via), service: &service.addresses, ..Route::default() };
        // A pod that is on every node in its network is there, and so on the client's node.
        let (hosts, there): (Vec<Destination>, Vec<Destination>) = there.into_iter().partition(|of| {
            unknown == MissingFact::SameNode
                && matches!(of.unit.party, Party::Host(_))
                && is_on_each_node(cluster, &of.unit)
        });
        let is_pod = sources.iter().all(|source| matches!(source.party, Party::End(End::Pod(_))));
        if !hosts.is_empty() {
            let nodes = if is_pod { OnNodes::One } else { OnNodes::AsObjectsSay };
            self.between(sources, &hosts, Route { way: Some(&Way::SameNode), nodes, ..route });
        }
        // From a node, they are its own pods.
        let (own, there): (Vec<Destination>, Vec<Destination>) = there.into_iter().partition(|of| {
            unknown == MissingFact::SameNode
                && self.is_pod_of_each_node(&of.unit)
                && sources.iter().all(|source| self.is_node(source))
        });
        if !own.is_empty() {
            self.between(sources, &own, Route { way: Some(&Way::SameNode), nodes: OnNodes::One, ..route });
        }
        self.between(sources, &there, route);
        self.between(sources, &perhaps, Route { missing: &[unknown], ..route });
    }

    /// Flows that any node takes: by the backend's own node with the client's address, by
    /// another one with that node's.
    fn by_any_node(&mut self, sources: &[Unit], destinations: &[Destination], entry: Option<NodePort>, via: &Via) {
        let cluster = self.ends.cluster;
        let mut sources = sources.to_vec();
        let mut destinations = destinations.to_vec();
        if let Some(entry) = entry {
            for unit in &mut sources {
                unit.only = unit.only.or(Some(Family::of(&entry.address)));
            }
            let node = Party::End(End::Address(entry.address));
            let before = (node, Traffic::ports(entry.protocol, entry.number, entry.number));
            for destination in &mut destinations {
                destination.before = Some(before.clone());
            }
        }
        let mut by_node = BTreeMap::<Option<String>, Vec<Destination>>::new();
        for destination in destinations {
            let node = destination.unit.party.node(cluster).map(str::to_owned);
            by_node.entry(node).or_default().push(destination);
        }
        let zones = Zones::of(self.ends.groups);
        for (own, destinations) in by_node {
            let is_own = |address: &IpAddr| {
                own.as_ref().and_then(|own| cluster.nodes().get(own)).is_some_and(|of| of.contains(address))
            };
            let has_pod = destinations.iter().any(|destination| destination.unit.party.pod().is_some());
            let has_other = has_pod && entry.is_none_or(|entry| !is_own(&entry.address));
            let way = has_other.then_some(Way::OwnNode);
            self.between(&sources, &destinations, Route { via: Some(via), way: way.as_ref(), ..Route::default() });
            for family in Family::ALL.into_iter().filter(|_| has_other) {
                let of_family = |unit: &&Unit| unit.only.is_none_or(|only| only == family);
                let clients: Vec<Unit> = sources.iter().filter(of_family).cloned().collect();
                if clients.is_empty() {
                    continue;
                }
                // No rule distinguishes two nodes of one zone.
                let mut others = BTreeMap::<usize, (IpAddr, Vec<String>)>::new();
                for (name, addresses) in cluster.nodes().iter().filter(|(name, _)| own.as_ref() != Some(*name)) {
                    let is_meant = |address: &&IpAddr| {
                        Family::of(address) == family && entry.is_none_or(|entry| addresses.contains(&entry.address))
                    };
                    if let Some(address) = addresses.iter().find(is_meant) {
                        others
                            .entry(zones.place(*address))
                            .or_insert_with(|| (*address, Vec::new()))
                            .1
                            .push(name.clone());
                    }
                }
                let mut ways: Vec<(Option<IpAddr>, Vec<String>)> =
                    others.into_values().map(|(address, names)| (Some(address), names)).collect();
                if ways.is_empty() {
                    ways.push((None, Vec::new()));
                }
                let is_single = ways.len() == 1 && entry.is_none();
                for (address, names) in ways {
                    let by_other: Vec<Unit> = (clients.iter())
                        .map(|unit| Unit { party: Party::OtherNode(address), only: Some(family), ..unit.clone() })
                        .collect();
                    let way = Way::OtherNode(if is_single { Vec::new() } else { names });
                    self.between(
                        &by_other,
                        &destinations,
                        Route { via: Some(via), way: Some(&way), ..Route::default() },
                    );
                }
            }
        }
    }

    /// Flows that cannot exist, because the Service leads nowhere. Without a code: flows through a
    /// Service where the input does not say where it leads.
    pub(in crate::verdict::explain) fn broken(
        &mut self,
        sources: &[Unit],
        service: &Service,
        code: Option<ReasonCode>,
        traffic: &Traffic,
        via: &Via,
    ) {
        let to = EndName::of_service(service);
        let wholes: BTreeSet<EndName> = sources.iter().map(|unit| unit.whole.without_addresses()).collect();
        let verdict = if code.is_some() { Verdict::Denied } else { Verdict::Unknown };
        self.explanation.flows.extend(wholes.into_iter().map(|from| {
            Flow {
                via: Some(via.clone()),
                port_name: match self.port {
                    Some(Port::Name(name)) if code == Some(ReasonCode::ServicePortUnknown) => Some(name.clone()),
                    _ => None,
                },
                broken: code,
                without_pod: (code == Some(ReasonCode::ServiceNoBackends) && via.without_backend.is_none())
                    .then(|| self.ends.cluster.why_no_pod(service)),
                missing: if code.is_some() { Vec::new() } else { vec![missing_backends(self.ends.cluster, service)] },
                ..Flow::undecided(from, to.clone(), traffic.clone(), verdict)
            }
        }));
    }
}

/// Where a Service leads, as a fact that the input lacks.
fn missing_backends(cluster: &Cluster, service: &Service) -> MissingFact {
    let selector = service
        .selector
        .as_ref()
        .map(|labels| labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","));
    let why = cluster.why_unknown(service);
    MissingFact::Backends { external_name: service.routing.external_name.clone(), selector, why }
}
