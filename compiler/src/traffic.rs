//! What passes between two ends, by protocol and destination port.

use crate::object::Protocol;
use crate::ranges::RangeSet;

/// A set of ports.
pub type PortSet = RangeSet<u16>;

/// A set of packets by protocol and destination port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Traffic {
    /// Every IP protocol that has no ports in a NetworkPolicy: ICMP and all
    /// others. Only a rule without ports allows them.
    pub other: bool,
    /// The destination ports by protocol, in the order of [`Protocol::ALL`].
    ports: [PortSet; 3],
}

impl Traffic {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Every protocol and port.
    #[must_use]
    pub fn all() -> Self {
        Self { other: true, ports: Protocol::ALL.map(|_| RangeSet::range(0, u16::MAX)) }
    }

    /// A range of ports of one protocol.
    #[must_use]
    pub fn ports(protocol: Protocol, first: u16, last: u16) -> Self {
        let mut traffic = Self::none();
        traffic.ports[protocol as usize] = RangeSet::range(first, last);
        traffic
    }

    /// The ports of a protocol.
    #[must_use]
    pub fn of(&self, protocol: Protocol) -> &PortSet {
        &self.ports[protocol as usize]
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.other && self.ports.iter().all(RangeSet::is_empty)
    }

    /// Whether there is everything.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.other && self.ports.iter().all(|ports| ports.is_range(0, u16::MAX))
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a || b, RangeSet::union)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && b, RangeSet::intersection)
    }

    /// What is in this and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && !b, RangeSet::difference)
    }

    fn combine(&self, other: &Self, flag: fn(bool, bool) -> bool, set: fn(&PortSet, &PortSet) -> PortSet) -> Self {
        Self {
            other: flag(self.other, other.other),
            ports: Protocol::ALL.map(|protocol| set(self.of(protocol), other.of(protocol))),
        }
    }
}
