//! Addresses that a node with isolated pods forwards nothing from or to. Policies cannot change that: a packet with
//! such an address does not show which pods it reaches, or which pod sends it.
//!
//! Both the rules and the answers of commands use this definition.
//!
//! The kernel of every host drops packets with some other addresses, so rules need not. Answers of commands have these
//! too.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::algebra::cidr::Cidr;
use crate::object::Family;

/// What such an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unforwarded {
    /// No address: a host sends from it that has none yet (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.2).
    Unspecified,
    /// An address of one link, beyond which no router forwards it (RFC 4291, section 2.5.6).
    LinkLocal,
    /// A group of hosts (RFC 5771; RFC 4291, section 2.7).
    Multicast,
    /// All hosts of a network (RFC 919).
    Broadcast,
    /// Of the host itself (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3).
    Loopback,
    /// Of the sender's own network (`0.0.0.0/8`; RFC 791, section 3.2), as only a host has it that is not configured yet.
    ThisNetwork,
}

impl Unforwarded {
    /// Whether the kernel of every host drops what has such an address as its source, or destination. The
    /// others only rules of nodes with isolated pods drop.
    #[must_use]
    pub const fn is_dropped_by_hosts(self, is_source: bool) -> bool {
        match self {
            Self::Loopback | Self::ThisNetwork => true,
            Self::Multicast | Self::Broadcast => is_source,
            Self::Unspecified => !is_source,
            Self::LinkLocal => false,
        }
    }
}

/// `fe80::/10`.
pub const LINK_LOCAL: IpNetwork =
    IpNetwork::V6(Ipv6Network::new_checked(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10).unwrap());

/// The IPv4 address of a host that has none.
pub const UNSPECIFIED_V4: IpNetwork = IpNetwork::V4(Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 32).unwrap());

/// The IPv6 address of a host that has none.
pub const UNSPECIFIED_V6: IpNetwork = IpNetwork::V6(Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 128).unwrap());

const MULTICAST_V4: IpNetwork = IpNetwork::V4(Ipv4Network::new_checked(Ipv4Addr::new(224, 0, 0, 0), 4).unwrap());
const MULTICAST_V6: IpNetwork =
    IpNetwork::V6(Ipv6Network::new_checked(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8).unwrap());

/// The broadcast address of every network. Those of single networks depend on a node's routes.
const BROADCAST: IpNetwork = IpNetwork::V4(Ipv4Network::new_checked(Ipv4Addr::BROADCAST, 32).unwrap());

const LOOPBACK_V4: IpNetwork = IpNetwork::V4(Ipv4Network::new_checked(Ipv4Addr::new(127, 0, 0, 0), 8).unwrap());
const LOOPBACK_V6: IpNetwork = IpNetwork::V6(Ipv6Network::new_checked(Ipv6Addr::LOCALHOST, 128).unwrap());
const THIS_NETWORK: IpNetwork = IpNetwork::V4(Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 8).unwrap());

/// Prefixes with what their addresses are.
type Prefixes = &'static [(Unforwarded, IpNetwork)];

const SOURCES_V4: Prefixes = &[(Unforwarded::Unspecified, UNSPECIFIED_V4)];
const SOURCES_V6: Prefixes = &[(Unforwarded::Unspecified, UNSPECIFIED_V6), (Unforwarded::LinkLocal, LINK_LOCAL)];
const DESTINATIONS_V4: Prefixes = &[(Unforwarded::Multicast, MULTICAST_V4), (Unforwarded::Broadcast, BROADCAST)];
const DESTINATIONS_V6: Prefixes = &[(Unforwarded::LinkLocal, LINK_LOCAL), (Unforwarded::Multicast, MULTICAST_V6)];

/// What every host drops by its source (`martian source` in the kernel's log).
const MARTIAN_SOURCES: Prefixes = &[
    (Unforwarded::Multicast, MULTICAST_V4),
    (Unforwarded::Broadcast, BROADCAST),
    (Unforwarded::Loopback, LOOPBACK_V4),
    (Unforwarded::ThisNetwork, THIS_NETWORK),
    (Unforwarded::Loopback, LOOPBACK_V6),
    (Unforwarded::Multicast, MULTICAST_V6),
];

/// What every host drops by its destination, if it comes from another one.
const MARTIAN_DESTINATIONS: Prefixes = &[
    (Unforwarded::Unspecified, UNSPECIFIED_V4),
    (Unforwarded::Loopback, LOOPBACK_V4),
    (Unforwarded::ThisNetwork, THIS_NETWORK),
    (Unforwarded::Unspecified, UNSPECIFIED_V6),
    (Unforwarded::Loopback, LOOPBACK_V6),
];

/// The prefixes from which nothing is forwarded.
#[must_use]
pub const fn sources(family: Family) -> &'static [(Unforwarded, IpNetwork)] {
    match family {
        Family::V4 => SOURCES_V4,
        Family::V6 => SOURCES_V6,
    }
}

/// The prefixes to which nothing is forwarded. Rules know a node's other broadcast addresses too, by its routes.
#[must_use]
pub const fn destinations(family: Family) -> &'static [(Unforwarded, IpNetwork)] {
    match family {
        Family::V4 => DESTINATIONS_V4,
        Family::V6 => DESTINATIONS_V6,
    }
}

/// What all addresses of a prefix are, if nothing that comes from them reaches another host.
#[must_use]
pub fn of_source(block: &Cidr) -> Option<Unforwarded> {
    of(sources(block.family), block).or_else(|| of(MARTIAN_SOURCES, block))
}

/// What all addresses of a prefix are, if nothing that goes to them leaves a host.
#[must_use]
pub fn of_destination(block: &Cidr) -> Option<Unforwarded> {
    of(destinations(block.family), block).or_else(|| of(MARTIAN_DESTINATIONS, block))
}

/// What all addresses of a prefix are, if all are of one of these prefixes.
fn of(prefixes: &[(Unforwarded, IpNetwork)], block: &Cidr) -> Option<Unforwarded> {
    let holds = |network: &IpNetwork| {
        let all = Cidr::of_network(network);
        all.family == block.family && all.first <= block.first && block.last <= all.last
    };
    prefixes.iter().find(|(_, network)| holds(network)).map(|(what, _)| *what)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn an_address_is_of_the_prefix_that_holds_it_in_its_own_direction() {
        let of = |text: &str| {
            let address: IpAddr = text.parse().expect("an address");
            let block = Cidr::of_address(address);
            (of_source(&block), of_destination(&block))
        };
        let both = |what| (Some(what), Some(what));
        assert_eq!(of("224.0.0.251"), both(Unforwarded::Multicast));
        assert_eq!(of("239.255.255.255"), both(Unforwarded::Multicast));
        assert_eq!(of("255.255.255.255"), both(Unforwarded::Broadcast));
        assert_eq!(of("240.0.0.1"), (None, None));
        assert_eq!(of("0.0.0.0"), both(Unforwarded::Unspecified));
        assert_eq!(of("0.0.0.1"), both(Unforwarded::ThisNetwork));
        assert_eq!(of("1.0.0.0"), (None, None));
        assert_eq!(of("127.0.0.53"), both(Unforwarded::Loopback));
        assert_eq!(of("fe80::1"), both(Unforwarded::LinkLocal));
        assert_eq!(of("fec0::1"), (None, None));
        assert_eq!(of("ff02::fb"), both(Unforwarded::Multicast));
        assert_eq!(of("::"), both(Unforwarded::Unspecified));
        assert_eq!(of("::1"), both(Unforwarded::Loopback));
        assert_eq!(of("::2"), (None, None));
        assert_eq!(of("169.254.20.10"), (None, None));
    }

    #[test]
    fn a_prefix_is_only_what_all_of_it_is() {
        let of = |text: &str| of_destination(&Cidr::parse(text).expect("a prefix"));
        assert_eq!(of("224.0.0.0/24"), Some(Unforwarded::Multicast));
        assert_eq!(of("192.0.0.0/2"), None);
        assert_eq!(of("0.0.0.0/8"), Some(Unforwarded::ThisNetwork));
        assert_eq!(of("0.0.0.0/7"), None);
    }

    #[test]
    fn rules_drop_only_what_hosts_do_not_drop_anyway() {
        for family in Family::ALL {
            assert!(sources(family).iter().all(|(what, _)| !what.is_dropped_by_hosts(true)));
            assert!(destinations(family).iter().all(|(what, _)| !what.is_dropped_by_hosts(false)));
        }
    }
}
