//! Services by their addresses and by what is behind them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Cluster;
use super::backend::BackendEnd;
use crate::algebra::cidr::{self, AddressSet, Cidr};
use crate::object::{Family, Protocol, Service, ServicePort};
use crate::policy::Block;

impl Cluster {
    /// All services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().flat_map(BTreeMap::values)
    }

    /// The services of a namespace, by name.
    pub fn services_in(&self, namespace: &str) -> impl Iterator<Item = &Service> {
        self.services.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// The service of this namespace and name.
    #[must_use]
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(namespace)?.get(name)
    }

    /// Whether all addresses of a prefix are those of services, and none of them is a node's besides.
    #[must_use]
    pub fn are_of_services(&self, prefix: &Cidr) -> bool {
        prefix.addresses().difference(&self.service_addresses[prefix.family as usize]).is_empty()
            && !self.node_addresses.iter().any(|address| prefix.holds(*address))
    }

    /// The first service that has an address.
    #[must_use]
    pub fn service_with_address(&self, address: IpAddr) -> Option<&Service> {
        // Most addresses are of no service, and that is cheap to see.
        if !self.is_service(address) {
            return None;
        }
        self.services().find(|service| service.addresses.contains(&address))
    }

    /// The service that has an address as its `clusterIP`. It is that of one service, and all its ports
    /// are the service's.
    #[must_use]
    pub fn service_of_cluster_ip(&self, address: IpAddr) -> Option<&Service> {
        let has = |of: &&Service| of.addresses.contains(&address) && !of.routing.external_addresses.contains(&address);
        Some(()).filter(|()| self.is_service(address)).and_then(|()| self.services().find(has))
    }

    /// The services that have an address as an external one or as that of their load balancer, by namespace
    /// and name. Several may share one by different ports, and it may be a node's: kube-proxy looks
    /// at the address together with the protocol and the port.
    pub fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &Service> {
        let services = Some(()).filter(|()| self.is_service(address)).into_iter().flat_map(|()| self.services());
        services.filter(move |of| of.routing.external_addresses.contains(&address))
    }

    /// The service to which kube-proxy leads what comes to a port of an external address, and its port.
    #[must_use]
    pub fn service_at(&self, address: IpAddr, protocol: Protocol, port: u16) -> Option<(&Service, &ServicePort)> {
        self.services_at(address).find_map(|service| {
            Some((service, service.ports.iter().find(|of| (of.protocol, of.port) == (protocol, port))?))
        })
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

    /// The service whose address is the only one of a prefix or block, and that address.
    #[must_use]
    pub fn service_alone_in(&self, family: Family, addresses: &AddressSet) -> Option<(&Service, IpAddr)> {
        let &[(first, last)] = addresses.ranges() else { return None };
        let address = cidr::address(family, first);
        let is_service = first == last && !self.is_node(address);
        self.service_with_address(address).filter(|_| is_service).map(|service| (service, address))
    }

    /// A service that leads to an end and has an address in a block, and that address.
    #[must_use]
    pub fn service_behind_block(&self, block: &Block, end: BackendEnd) -> Option<(&Service, IpAddr)> {
        let of_block = |service: &Service| service.addresses.iter().find(|address| block.holds(**address)).copied();
        // Where a service leads takes a look at all pods, so what is cheap to see comes first.
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
