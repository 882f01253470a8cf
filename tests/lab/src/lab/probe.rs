//! What is sent, and what became of it.

use std::fmt;
use std::net::IpAddr;

use npc_compiler::object::{Family, Protocol};

/// What a probe is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payload {
    /// A connection to a TCP port, a datagram to a UDP port, an INIT to an
    /// SCTP port.
    Port(Protocol, u16),
    /// An echo request of the address's family.
    Icmp,
}

impl Payload {
    /// The four kinds, as a report counts them.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Port(protocol, _) => protocol.as_str(),
            Self::Icmp => "ICMP",
        }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(protocol, port) => write!(f, "{protocol} {port}"),
            Self::Icmp => f.write_str("ICMP"),
        }
    }
}

/// The way through a Service: the packet is sent to the Service's address and
/// port, and the node turns them into those of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Via {
    /// The Service's address.
    pub address: IpAddr,
    /// The Service's port.
    pub port: u16,
    /// Which of its backends: the lab's nodes balance by the DSCP field, so
    /// that a probe can choose.
    pub backend: u8,
}

/// One packet, or one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probe {
    /// The place that sends it.
    pub from: usize,
    /// The address that it is sent from. Any that is not the sender's own is
    /// forged, which only UDP can be. `None`: the one that the kernel chooses.
    pub source: Option<IpAddr>,
    /// The place where it should arrive.
    pub to: usize,
    /// The address there.
    pub address: IpAddr,
    /// What is sent, with the port at which it should arrive.
    pub payload: Payload,
    /// The Service that it goes through.
    pub via: Option<Via>,
    /// Whether `source` is not the sender's.
    pub forged: bool,
}

impl Probe {
    /// A probe from one place to an address of another.
    #[must_use]
    pub const fn new(from: usize, to: usize, address: IpAddr, payload: Payload) -> Self {
        Self { from, source: None, to, address, payload, via: None, forged: false }
    }

    /// Whether it goes to a link-local address.
    #[must_use]
    pub const fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local())
    }

    /// The family of its packets.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(&self.address)
    }
}

/// What became of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It arrived. A connection arrived when its first bytes did.
    Arrived,
    /// It arrived, but at another place.
    Astray(usize),
    /// Nothing arrived until everything had been quiet for a while.
    Nothing,
    /// It was refused on the way, by an answer that said no.
    Refused(String),
    /// It could not even be sent, which says nothing about anything.
    Unsent(String),
}
