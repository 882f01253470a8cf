//! Services by their addresses and by what is behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Cluster;
use super::backend::BackendEnd;
use crate::algebra::cidr::{self, AddressSet, Cidr};
use crate::object::{Family, Protocol, Service, ServicePort};
use crate::policy::Block;

/// Services by what leads to them, as places in the list of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServicesBy {
    /// The namespaces and names of all, in order.
    names: Vec<(String, String)>,
    /// By their `clusterIPs`.
    cluster_ips: BTreeMap<IpAddr, Vec<usize>>,
    /// By their external addresses, and those of their load balancers.
    outside: BTreeMap<IpAddr, Vec<usize>>,
    /// By these together with their ports.
    outside_ports: BTreeMap<(IpAddr, Protocol, u16), Vec<usize>>,
    /// By the addresses of load balancers that nodes do not take.
    proxied: BTreeMap<IpAddr, Vec<usize>>,
    /// By ports of nodes.
    node_ports: BTreeMap<(Protocol, u16), Vec<usize>>,
}

impl ServicesBy {
    pub(super) fn of<'s>(services: impl Iterator<Item = &'s Service>) -> Self {
        let mut by = Self::default();
        for (place, service) in services.enumerate() {
            by.names.push((service.namespace.clone(), service.name.clone()));
            let outside: BTreeSet<IpAddr> = service.routing.external_addresses.iter().copied().collect();
            for address in service.addresses.iter().filter(|address| !outside.contains(address)) {
                by.cluster_ips.entry(*address).or_default().push(place);
            }
            let ports: BTreeSet<(Protocol, u16)> = service.ports.iter().map(|of| (of.protocol, of.port)).collect();
            for address in &outside {
                by.outside.entry(*address).or_default().push(place);
                for (protocol, port) in &ports {
                    by.outside_ports.entry((*address, *protocol, *port)).or_default().push(place);
                }
            }
            for address in &service.routing.proxied_addresses {
                by.proxied.entry(*address).or_default().push(place);
            }
            for port in service.node_ports() {
                by.node_ports.entry(port).or_default().push(place);
            }
        }
        by
    }
}

impl Cluster {
    /// All services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.inventory.services.values().flat_map(BTreeMap::values)
    }

    /// The services of a namespace, by name.
    pub fn services_in(&self, namespace: &str) -> impl Iterator<Item = &Service> {
        self.inventory.services.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// The service of this namespace and name.
    #[must_use]
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.inventory.services.get(namespace)?.get(name)
    }

    /// Whether all addresses of a prefix are those of services, and none of them is a node's besides.
    #[must_use]
    pub fn are_of_services(&self, prefix: &Cidr) -> bool {
        prefix.addresses().difference(&self.inventory.service_addresses[prefix.family as usize]).is_empty()
            && !self.inventory.node_addresses.iter().any(|address| prefix.holds(*address))
    }

    /// The services at some places of the index.
    fn at_places(&self, places: Option<&Vec<usize>>) -> impl Iterator<Item = &Service> {
        let names = places.map_or(&[][..], Vec::as_slice).iter().map(|place| &self.inventory.services_by.names[*place]);
        names.filter_map(|(namespace, name)| self.service(namespace, name))
    }

    /// The service that has an address as its `clusterIP`. It is that of one service, and all its ports
    /// are the service's.
    #[must_use]
    pub fn service_of_cluster_ip(&self, address: IpAddr) -> Option<&Service> {
        self.at_places(self.inventory.services_by.cluster_ips.get(&address)).next()
    }

    /// The services that list an address as an external one or as that of their load balancer, by namespace
    /// and name, whether kube-proxy leads it to them or not.
    pub fn services_outside(&self, address: IpAddr) -> impl Iterator<Item = &Service> {
        self.at_places(self.inventory.services_by.outside.get(&address))
    }

    /// The services of [`Self::services_outside`] to which kube-proxy leads the address. Several may share one address
    /// by different ports, and the address may be a node's, because kube-proxy matches the address together with the
    /// protocol and the port. kube-proxy passes over a service without a `clusterIP` of the address's family.
    pub fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &Service> {
        self.services_outside(address).filter(move |of| of.has_family(Family::of(&address)))
    }

    /// The services to which kube-proxy may lead what comes to a port of an external address, and the port
    /// of each. Nothing keeps two from asking for the same, and which of them gets it is not said.
    pub fn services_by_port(
        &self,
        address: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> impl Iterator<Item = (&Service, &ServicePort)> {
        let services = self.at_places(self.inventory.services_by.outside_ports.get(&(address, protocol, port)));
        services.filter(move |of| of.has_family(Family::of(&address))).filter_map(move |service| {
            Some((service, service.ports.iter().find(|of| (of.protocol, of.port) == (protocol, port))?))
        })
    }

    /// The service that has an address as one of a load balancer that nodes do not take (`ipMode: Proxy`).
    #[must_use]
    pub fn service_with_proxied(&self, address: IpAddr) -> Option<&Service> {
        self.at_places(self.inventory.services_by.proxied.get(&address)).next()
    }

    /// The one service that an address stands for: no other has it, and it is no node's.
    #[must_use]
    pub fn service_alone_at(&self, address: IpAddr) -> Option<&Service> {
        if let Some(service) = self.service_of_cluster_ip(address) {
            return Some(service);
        }
        let mut services = self.services_at(address);
        let first = services.next().filter(|_| !self.is_node(address))?;
        services.next().is_none().then_some(first)
    }

    /// The service for which the only address of a prefix or block stands, and that address.
    #[must_use]
    pub fn service_alone_in(&self, family: Family, addresses: &AddressSet) -> Option<(&Service, IpAddr)> {
        let address = self.only_address(family, addresses)?;
        Some((self.service_alone_at(address)?, address))
    }

    /// The services that have a `clusterIP` from one address to another, and that.
    pub fn cluster_ips_between(&self, [first, last]: [IpAddr; 2]) -> impl Iterator<Item = (IpAddr, &Service)> {
        let by_address = &self.inventory.services_by.cluster_ips;
        let held = by_address.range(first..=last);
        held.filter_map(|(address, places)| Some((*address, self.at_places(Some(places)).next()?)))
    }

    /// The service whose `clusterIP` is the only address of a prefix or block, and that address. No packet has it where
    /// policies judge. For other addresses kube-proxy translates only what goes to ports of services, so packets to
    /// their other ports keep the address.
    #[must_use]
    pub fn cluster_ip_alone_in(&self, family: Family, addresses: &AddressSet) -> Option<(&Service, IpAddr)> {
        let address = self.only_address(family, addresses)?;
        Some((self.service_of_cluster_ip(address)?, address))
    }

    /// The one address of a set, where it is no node's.
    fn only_address(&self, family: Family, addresses: &AddressSet) -> Option<IpAddr> {
        let &[(first, last)] = addresses.ranges() else { return None };
        Some(cidr::address(family, first)).filter(|address| first == last && !self.is_node(*address))
    }

    /// The service and its port to which a port of every node leads.
    #[must_use]
    pub fn behind_node_port(&self, protocol: Protocol, number: u16) -> Option<(&Service, &ServicePort)> {
        self.at_places(self.inventory.services_by.node_ports.get(&(protocol, number))).find_map(|service| {
            let port = service.routing.node_ports.get(&(protocol, number))?;
            Some((service, service.ports.iter().find(|of| of.port == *port && of.protocol == protocol)?))
        })
    }

    /// The ports of every node that lead to services.
    pub fn node_ports(&self) -> impl Iterator<Item = (Protocol, u16, &Service)> {
        self.services()
            .flat_map(|service| service.node_ports().map(move |(protocol, number)| (protocol, number, service)))
    }

    /// A service that leads to an end and has an address in a block, and that address.
    #[must_use]
    pub fn service_behind_block(&self, block: &Block, end: BackendEnd) -> Option<(&Service, IpAddr)> {
        let of_block = |service: &Service| service.addresses.iter().find(|address| block.holds(**address)).copied();
        // Computing where a service leads reads all pods, so cheap checks come first.
        let may_lead = |service: &Service| match end {
            BackendEnd::Pod(id) => service.selector.is_none() || service.asks_for(&self.pod(id).labels),
            BackendEnd::Address(_) => service.selector.is_none(),
        };
        let leads = |service: &Service| self.behind(service).is_some_and(|behind| behind.contains(&end));
        let found = |service| Some((service, of_block(service)?));
        let is_it = |of: &(&Service, IpAddr)| may_lead(of.0) && leads(of.0);
        match end {
            BackendEnd::Pod(id) => self.services_in(&self.pod(id).namespace).filter_map(found).find(is_it),
            BackendEnd::Address(_) => self.services().filter_map(found).find(is_it),
        }
    }
}
