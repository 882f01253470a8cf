//! Addresses of a block that kube-proxy translates: no packet that policies judge has them.

use std::fmt;
use std::net::IpAddr;

use crate::cluster::Cluster;
use crate::cluster::backend::BackendEnd;
use crate::object::Service;
use crate::policy::{Direction, IpBlock};
use crate::verdict::explain::question::Question;
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::End;

/// The shortest prefix that may be written for a cluster's Services: kubeadm gives them a /12.
const SERVICES: u8 = 12;

/// An address that a block holds and that never matches, because it is translated before policies are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Translated {
    /// That of a Service, which leads to the other end: its address, namespace and name.
    OfService(IpAddr, String, String),
    /// That of the Service that was asked for.
    AskedService(IpAddr),
    /// That of the node that was asked for.
    AskedNode(IpAddr),
}

impl fmt::Display for Translated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfService(address, namespace, name) => write!(f, "the address {address} of {namespace}/svc/{name}"),
            Self::AskedService(address) => write!(f, "the Service's address {address}"),
            Self::AskedNode(address) => write!(f, "the node's address {address}"),
        }
    }
}

impl Translated {
    /// The address in a block that leads to the other end, or was asked about in its place, but that policies never
    /// match. In egress it is the address that a client sends to, in ingress that of a Service, from which no packet
    /// comes.
    pub(in crate::verdict::explain) fn of_block(
        written: &IpBlock,
        cluster: &Cluster,
        question: &Question,
        direction: Direction,
        other: Party,
    ) -> Option<Self> {
        let block = &written.block;
        // kube-proxy leads an address to backends of its own family only.
        if question.family.is_some_and(|family| family != block.family) {
            return None;
        }
        let end = match other {
            Party::End(End::Pod(pod)) | Party::Host(pod) => Some(BackendEnd::Pod(pod)),
            Party::End(End::Address(address)) => Some(BackendEnd::Address(address)),
            Party::End(End::Unread(_)) | Party::OtherNode(_) => None,
        };
        // A wide block holds addresses of Services by the way.
        let is_wide = written.cidr.network().prefix() < SERVICES;
        let of_end = || {
            let (service, address) = cluster.service_behind_block(block, end.filter(|_| !is_wide)?)?;
            Some(of_service(service, address))
        };
        match direction {
            Direction::Egress => {
                let asked = question.service_addresses.iter().find(|address| block.holds(**address));
                asked.map(|address| Self::asked(*address, cluster)).or_else(of_end)
            }
            Direction::Ingress if matches!(end, Some(BackendEnd::Pod(_))) => of_end(),
            // A block of many addresses may mean others than the Service's.
            Direction::Ingress => {
                let (service, address) = cluster.service_alone_in(block.family, &block.addresses)?;
                Some(of_service(service, address))
            }
        }
    }

    /// The address that the client sends to.
    fn asked(address: IpAddr, cluster: &Cluster) -> Self {
        if cluster.is_service(address) || !cluster.is_node(address) {
            return Self::AskedService(address);
        }
        Self::AskedNode(address)
    }
}

fn of_service(service: &Service, address: IpAddr) -> Translated {
    Translated::OfService(address, service.namespace.clone(), service.name.clone())
}
