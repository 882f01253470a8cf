//! What passes between two ends, by protocol and destination port.

use std::fmt;

use crate::algebra::ranges::RangeSet;
use crate::object::Protocol;

pub use crate::algebra::tunnel::{TUNNEL_PORTS, TUNNELS};

/// The most ports that a range may have for a rule to name them. A wider one does not say which end
/// listens: a client's own port may well be one of them.
pub const NAMED_RANGE: u16 = 1024;

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
    /// The first and the last port that a policy can name. No socket has port 0:
    /// it passes with all others and never by itself.
    pub const PORTS: (u16, u16) = (1, u16::MAX);

    /// No traffic.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Traffic of every protocol and port.
    #[must_use]
    pub fn all() -> Self {
        let (first, last) = Self::PORTS;
        Self { other: true, ports: Protocol::ALL.map(|_| RangeSet::range(first, last)) }
    }

    /// What has no ports: ICMP, ICMPv6 and every other protocol without them.
    #[must_use]
    pub fn icmp() -> Self {
        Self { other: true, ..Self::none() }
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

    /// Whether this is no traffic.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.other && self.ports.iter().all(RangeSet::is_empty)
    }

    /// Whether this is the traffic of every protocol and port.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.other && self.ports.iter().all(|ports| ports.is_range(Self::PORTS.0, Self::PORTS.1))
    }

    /// The ports of a protocol that packets can have, as sorted, disjoint, inclusive ranges.
    pub fn port_ranges(&self, protocol: Protocol) -> impl Iterator<Item = (u16, u16)> + '_ {
        let ranges = self.of(protocol).ranges().iter().map(|(first, last)| ((*first).max(1), *last));
        ranges.filter(|(first, last)| first <= last)
    }

    /// How many ports of all protocols there are; traffic without ports counts as one.
    #[must_use]
    pub fn breadth(&self) -> u32 {
        let ranges = Protocol::ALL.into_iter().flat_map(|protocol| self.port_ranges(protocol));
        ranges.map(|(first, last)| u32::from(last - first) + 1).sum::<u32>() + u32::from(self.other)
    }

    /// The one protocol and range of ports that there is; none where there are
    /// several, or traffic without ports.
    #[must_use]
    pub fn single(&self) -> Option<(Protocol, u16, u16)> {
        let mut ranges = Protocol::ALL
            .into_iter()
            .flat_map(|protocol| self.of(protocol).ranges().iter().map(move |(first, last)| (protocol, *first, *last)));
        ranges.next().filter(|_| !self.other && ranges.next().is_none())
    }

    /// What is in any of these.
    #[must_use]
    pub fn union_of<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let all: Vec<&Self> = all.into_iter().collect();
        Self {
            other: all.iter().any(|traffic| traffic.other),
            ports: Protocol::ALL.map(|protocol| RangeSet::union_of(all.iter().map(|traffic| traffic.of(protocol)))),
        }
    }

    /// The ports of these ranges by protocol, in any order, overlapping or not.
    #[must_use]
    pub fn of_ranges(ranges: impl IntoIterator<Item = (Protocol, u16, u16)>) -> Self {
        let mut of_protocol = [Vec::new(), Vec::new(), Vec::new()];
        for (protocol, first, last) in ranges {
            of_protocol[protocol as usize].push((first, last));
        }
        Self { other: false, ports: of_protocol.map(RangeSet::from_ranges) }
    }

    /// The traffic that is in one of the two, or in both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a || b, RangeSet::union)
    }

    /// The traffic that is in both.
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

/// As people write it: `*` everything, `5432` a TCP port, `53/udp`,
/// `8000-8100`, `*/sctp` a whole protocol, `icmp` what has no ports.
impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("*");
        }
        let mut comma = "";
        let mut item = |text: fmt::Arguments<'_>| {
            write!(f, "{comma}{text}")?;
            comma = ",";
            Ok(())
        };
        for protocol in Protocol::ALL {
            let suffix = match protocol {
                Protocol::Tcp => "",
                Protocol::Udp => "/udp",
                Protocol::Sctp => "/sctp",
            };
            for &(first, last) in self.of(protocol).ranges() {
                match (first, last) {
                    (0 | 1, u16::MAX) => item(format_args!("*/{}", protocol.lower()))?,
                    // No packet is sent to port 0.
                    (0, 0) => {}
                    _ if first == last => item(format_args!("{first}{suffix}"))?,
                    _ => item(format_args!("{}-{last}{suffix}", first.max(1)))?,
                }
            }
        }
        if self.other {
            item(format_args!("icmp"))?;
        }
        if comma.is_empty() { f.write_str("nothing") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_reads_as_people_write_it() {
        let tcp = |first, last| Traffic::ports(Protocol::Tcp, first, last);
        let mixed = tcp(5432, 5432).union(&Traffic::ports(Protocol::Udp, 53, 53)).union(&tcp(8000, 8100));
        assert_eq!(mixed.to_string(), "5432,8000-8100,53/udp");
        assert_eq!(Traffic::all().to_string(), "*");
        assert_eq!(Traffic::none().to_string(), "nothing");
        assert_eq!(tcp(0, u16::MAX).to_string(), "*/tcp");
        assert_eq!(tcp(1, u16::MAX).to_string(), "*/tcp");
        assert_eq!(tcp(0, 0).to_string(), "nothing");
        let rest = Traffic::all().difference(&tcp(80, 80));
        assert_eq!(rest.to_string(), "1-79,81-65535,*/udp,*/sctp,icmp");
    }
}
