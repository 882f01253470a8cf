//! What a question names, and what ends are called in its answer.

use std::net::IpAddr;

use crate::algebra::cidr::{AddressSet, Cidr};
use crate::algebra::traffic::Traffic;
use crate::cluster::PodId;
use crate::object::{Family, Protocol, Service};

/// What a question is about, on one side.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum QuestionEnd<'a> {
    /// One pod.
    Pod(PodId),
    /// The pods of a workload.
    Pods(Vec<PodId>),
    /// All pods of a namespace, also those that were not read.
    Namespace {
        /// The namespace's name.
        name: String,
        /// Its pods in the input.
        pods: Vec<PodId>,
    },
    /// A Service: as a destination all its backends by its ports, as a source its
    /// backends.
    Service(&'a Service),
    /// A Service by one of its addresses; the same, but that external addresses have ways of
    /// their own.
    ServiceAddress(&'a Service, IpAddr),
    /// A node's addresses.
    Node {
        /// The node's name.
        name: String,
        /// What the input says of its addresses.
        addresses: Vec<IpAddr>,
    },
    /// One address: that of a pod or a node, or one outside.
    Address(IpAddr),
    /// All addresses of prefixes.
    Blocks(Vec<Cidr>),
    /// All addresses, and the endpoints that have none yet.
    Any,
    /// All addresses that neither a pod nor a node has.
    Outside,
}

/// The ports of the destination that a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Port {
    /// From the first to the last, of one protocol: TCP where none was given.
    Numbers(Option<Protocol>, u16, u16),
    /// Those of this name.
    Name(String),
    /// None: ICMP, and ICMPv6.
    Icmp,
}

impl Port {
    /// The traffic that it means at any destination; none of a name, which each destination gives its own
    /// ports.
    pub(in crate::verdict::explain) fn traffic(&self) -> Option<Traffic> {
        match self {
            Self::Numbers(protocol, first, last) => {
                Some(Traffic::ports(protocol.unwrap_or(Protocol::Tcp), *first, *last))
            }
            Self::Icmp => Some(Traffic::icmp()),
            Self::Name(_) => None,
        }
    }
}

/// What an end is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EndName {
    /// `Pod`, the workload's kind, `Node`, `Service`, `Address`, or `Block` for a part of
    /// a prefix.
    pub kind: String,
    /// The namespace, where it is in one.
    pub namespace: Option<String>,
    /// The object's name, or the address, or the prefixes.
    pub name: String,
    /// Its addresses, sorted.
    pub addresses: Vec<IpAddr>,
    /// Whether it is a hostNetwork pod.
    pub host_network: bool,
    /// The prefixes of a part of a prefix; none of another end.
    pub prefixes: Vec<Cidr>,
}

impl EndName {
    /// The same without addresses: the name of a whole that consists of several ends.
    #[must_use]
    pub fn without_addresses(&self) -> Self {
        Self { addresses: Vec::new(), ..self.clone() }
    }

    /// Whether both name one end, by the same or by different addresses.
    #[must_use]
    pub fn is_same_end(&self, other: &Self) -> bool {
        let Self { kind, namespace, name, addresses: _, host_network, prefixes: _ } = self;
        (kind, namespace, name, host_network) == (&other.kind, &other.namespace, &other.name, &other.host_network)
    }

    /// What an address is called that no object of the input has.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        Self { kind: "Address".to_owned(), name: address.to_string(), addresses: vec![address], ..Self::default() }
    }

    /// What prefixes are called together.
    pub(in crate::verdict::explain) fn of_prefixes(prefixes: Vec<Cidr>) -> Self {
        let texts: Vec<String> = prefixes.iter().map(|prefix| prefix.network().to_string()).collect();
        Self { kind: "Block".to_owned(), name: texts.join(","), prefixes, ..Self::default() }
    }

    /// Whether it is a part of a prefix.
    #[must_use]
    pub const fn is_part(&self) -> bool {
        !self.prefixes.is_empty()
    }

    /// Whether it is a part of a prefix, namely all addresses of this one.
    #[must_use]
    pub fn is_all_of(&self, prefix: &Cidr) -> bool {
        let is_of_family = |of: &Cidr| of.family == prefix.family;
        self.is_part()
            && self.prefixes.iter().all(is_of_family)
            && self.addresses_of(prefix.family) == prefix.addresses()
    }

    /// The addresses of a family in its prefixes.
    pub(in crate::verdict::explain) fn addresses_of(&self, family: Family) -> AddressSet {
        let of_family = self.prefixes.iter().filter(|prefix| prefix.family == family);
        AddressSet::from_ranges(of_family.map(|prefix| (prefix.first, prefix.last)))
    }

    /// Takes in another part of a prefix, so that it names both.
    pub(in crate::verdict::explain) fn join(&mut self, part: &Self) {
        self.name = format!("{},{}", self.name, part.name);
        self.prefixes.extend(&part.prefixes);
    }

    /// What a Service is called.
    pub(in crate::verdict::explain) fn of_service(service: &Service) -> Self {
        Self {
            kind: "Service".to_owned(),
            namespace: Some(service.namespace.clone()),
            name: service.name.clone(),
            addresses: service.addresses.clone(),
            ..Self::default()
        }
    }
}
