//! Flows to an address of Services. A `clusterIP` is one Service's. kube-proxy leads other addresses to
//! Services by their ports, and what comes to another port is for the pod or the host that has the address.

use std::net::IpAddr;

use super::entry::Entry;
use crate::algebra::traffic::Traffic;
use crate::object::{Family, Protocol, Service, ServicePort};
use crate::verdict::explain::answer::{Unanswerable, WarningFact};
use crate::verdict::explain::question::MissingFact;
use crate::verdict::explain::question::name::{Port, QuestionEnd};
use crate::verdict::explain::walk::ends::Unit;
use crate::verdict::explain::walk::{Destination, Route, Walk};

impl Walk<'_> {
    /// Flows to an address that Services have.
    pub(in crate::verdict::explain) fn by_address(
        &mut self,
        sources: &[Unit],
        address: IpAddr,
    ) -> Result<(), Unanswerable> {
        let cluster = self.ends.cluster;
        let family = Some(Family::of(&address));
        if let Some(service) = cluster.service_of_cluster_ip(address) {
            self.through(sources, service, None, family);
            return Ok(());
        }
        let has_asked = |of: &&Service| of.ports.iter().any(|port| self.asks_for(port));
        let asked: Vec<&Service> = cluster.services_at(address).filter(has_asked).collect();
        let is_named = matches!(self.port, Some(Port::Name(_)));
        let is_host = cluster.is_of_node_alone(address);
        if is_host && (!is_named || asked.is_empty()) {
            return self.by_one_address(sources, address);
        }
        if asked.is_empty() && !is_named {
            self.beside_services(sources, address, None);
            return Ok(());
        }
        // If none of them has the name, the first says so.
        let led = if asked.is_empty() { cluster.services_outside(address).take(1).collect() } else { asked };
        for service in &led {
            self.through(sources, service, Some(Entry::External(address, None)), family);
        }
        let rest = self.without_ports_of(&led);
        if !rest.is_none() {
            self.beside_services(sources, address, Some(&rest));
        }
        Ok(())
    }

    /// Flows to an address of Services by ports that kube-proxy leads to none of them, or to some of those
    /// ports: they go to the pod or the node that has the address. Of another one, which host has it
    /// is not known; what the client's policies deny is denied.
    fn beside_services(&mut self, sources: &[Unit], address: IpAddr, some: Option<&Traffic>) {
        let cluster = self.ends.cluster;
        let services: Vec<&Service> = cluster.services_outside(address).collect();
        let is_pod = !cluster.holders(address, None).is_empty();
        let names = services.iter().map(|of| of.full_name()).collect();
        let fact = [MissingFact::BesideServices(address, names)];
        let missing: &[MissingFact] = if is_pod { &[] } else { &fact };
        if some.is_none() && !is_pod {
            self.warn(services.into_iter().map(no_such_port).collect());
        }
        let mut destinations = Vec::new();
        for unit in self.ends.units(&QuestionEnd::Address(address)) {
            let traffic = some.cloned().or_else(|| self.ends.traffic(&unit, self.port));
            destinations.extend(traffic.map(|traffic| Destination::direct(unit, traffic)));
        }
        self.between(sources, &destinations, Route { port: self.port, missing, ..Route::default() });
    }

    /// What was asked for by numbers, without the ports of some Services.
    pub(super) fn without_ports_of(&self, services: &[&Service]) -> Traffic {
        let Some(Port::Numbers(protocol, first, last)) = self.port else { return Traffic::none() };
        let asked = Traffic::ports(protocol.unwrap_or(Protocol::Tcp), *first, *last);
        let ports = services.iter().flat_map(|of| &of.ports).map(|of| (of.protocol, of.port, of.port));
        asked.difference(&Traffic::of_ranges(ports))
    }

    /// Whether a port of a Service is among those that were asked for.
    pub(super) fn asks_for(&self, of: &ServicePort) -> bool {
        match self.port {
            None => true,
            Some(Port::Numbers(protocol, first, last)) => {
                (*first..=*last).contains(&of.port) && of.protocol == protocol.unwrap_or(Protocol::Tcp)
            }
            Some(Port::Name(name)) => of.name.as_ref() == Some(name),
            // A Service's address answers no ICMP.
            Some(Port::Icmp) => false,
        }
    }
}

/// That a Service lacks a port that was asked for.
pub(super) fn no_such_port(service: &Service) -> WarningFact {
    let Service { namespace, name, ports, .. } = service;
    WarningFact::NoSuchServicePort {
        namespace: namespace.clone(),
        name: name.clone(),
        ports: ports.iter().map(|port| (port.protocol, port.port)).collect(),
    }
}
