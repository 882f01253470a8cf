//! Services by their addresses and by what is behind them.

use std::net::IpAddr;

use super::Cluster;
use super::backend::BackendEnd;
use crate::algebra::cidr;
use crate::object::{Family, Pod, Service};
use crate::policy::Block;

impl Cluster {
    /// All services, by namespace.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().flatten()
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

    /// A service that leads to an end and has an address in a block, and that address.
    #[must_use]
    pub fn service_behind_block(&self, block: &Block, end: BackendEnd) -> Option<(&Service, IpAddr)> {
        let holds = |address: &&IpAddr| {
            Family::of(address) == block.family && block.addresses.contains(cidr::number(**address))
        };
        let of_block = |service: &Service| service.addresses.iter().find(holds).copied();
        // Where a service leads takes a look at all pods, so what is cheap to see comes first.
        let may_lead = |service: &Service| match end {
            BackendEnd::Pod(id) => may_lead_to(service, self.pod(id)),
            BackendEnd::Address(_) => service.selector.is_none(),
        };
        let leads = |service: &Service| self.behind(service).is_some_and(|behind| behind.contains(&end));
        let found = |service| Some((service, of_block(service)?));
        let is_it = |of: &(&Service, IpAddr)| may_lead(of.0) && leads(of.0);
        match end {
            BackendEnd::Pod(id) => {
                let here = self.services.get(&self.pod(id).namespace).into_iter().flatten();
                here.filter_map(found).find(is_it)
            }
            BackendEnd::Address(_) => self.services().filter_map(found).find(is_it),
        }
    }
}

/// Whether a service's selector does not keep a pod of its namespace from being behind it.
fn may_lead_to(service: &Service, pod: &Pod) -> bool {
    let mut required = service.selector.iter().flatten();
    required.all(|(key, value)| pod.labels.get(key) == Some(value))
}
