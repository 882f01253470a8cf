//! Services by their addresses and by what is behind them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Cluster;
use super::backend::BackendEnd;
use crate::algebra::cidr::{self, AddressSet, Cidr};
use crate::object::{Family, Service};
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

    /// Whether all addresses of a prefix are those of services.
    #[must_use]
    pub fn are_of_services(&self, prefix: &Cidr) -> bool {
        prefix.addresses().difference(&self.service_addresses[prefix.family as usize]).is_empty()
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

    /// The service whose address is the only one of a prefix or block, and that address.
    #[must_use]
    pub fn service_alone_in(&self, family: Family, addresses: &AddressSet) -> Option<(&Service, IpAddr)> {
        let &[(first, last)] = addresses.ranges() else { return None };
        let address = cidr::address(family, first);
        self.service_with_address(address).filter(|_| first == last).map(|service| (service, address))
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
