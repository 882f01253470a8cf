//! Addresses of a block that kube-proxy translates: no packet that policies judge has them.

use std::net::IpAddr;

use super::party::Party;
use super::rule_matcher::RuleMatcher;
use crate::algebra::cidr;
use crate::cluster::backend::BackendEnd;
use crate::object::Family;
use crate::policy::{Direction, IpBlock};
use crate::verdict::flow::End;

impl RuleMatcher<'_> {
    /// What of a block leads to the other end, or was asked about in its place, and is no address that
    /// policies see: in egress the address that a client sends to, in ingress that of a Service, from
    /// which no packet comes.
    pub(super) fn translated(&self, written: &IpBlock) -> Option<String> {
        let block = &written.block;
        let end = match self.other {
            Party::End(End::Pod(pod)) | Party::Host(pod) => Some(BackendEnd::Pod(pod)),
            Party::End(End::Address(address)) => Some(BackendEnd::Address(address)),
            Party::End(End::Unread(_)) | Party::OtherNode(_) => None,
        };
        let of_service = || {
            let (service, address) = self.cluster.service_behind_block(block, end?)?;
            Some(format!("the address {address} of {}/svc/{}", service.namespace, service.name))
        };
        match self.direction {
            Direction::Egress => {
                let is_in_block = |address: &&IpAddr| {
                    Family::of(address) == block.family && block.addresses.contains(cidr::number(**address))
                };
                let asked = self.question.service_addresses.iter().find(is_in_block);
                asked.map(|address| self.asked(*address)).or_else(of_service)
            }
            Direction::Ingress if matches!(end, Some(BackendEnd::Pod(_))) => of_service(),
            // A block of many addresses may mean others than the Service's.
            Direction::Ingress => {
                let [(first, last)] = block.addresses.ranges() else { return None };
                let address = cidr::address(block.family, *first);
                let service = self.cluster.service_with_address(address).filter(|_| first == last)?;
                Some(format!("the address {address} of {}/svc/{}", service.namespace, service.name))
            }
        }
    }

    /// The address that the client sends to.
    fn asked(&self, address: IpAddr) -> String {
        if self.cluster.is_service(address) || !self.cluster.is_node(address) {
            return format!("the Service's address {address}");
        }
        format!("the node's address {address}")
    }
}
