//! A set as data: its type and members.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::object::Protocol;
use crate::ruleset::short::Short;

/// One ipset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its type, which never changes under one name.
    pub kind: SetKind,
    /// Its members.
    pub members: BTreeSet<Member>,
    /// What it stands for, in words, for people who read the ruleset.
    pub meaning: String,
}

/// The type of a set; see ipset(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum SetKind {
    /// `hash:ip`
    HashIp,
    /// `hash:net`
    HashNet,
    /// `hash:ip,port`
    HashIpPort,
    /// `hash:net,iface`
    HashNetIface,
}

impl SetKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::HashIp, Self::HashNet, Self::HashIpPort, Self::HashNetIface];

    /// As ipset spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HashIp => "hash:ip",
            Self::HashNet => "hash:net",
            Self::HashIpPort => "hash:ip,port",
            Self::HashNetIface => "hash:net,iface",
        }
    }
}

/// One member of a set. There may be millions, so the rare kind must not make all of them larger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Member {
    /// An address, of `hash:ip` and (as a host prefix) of `hash:net`.
    Address(IpAddr),
    /// A prefix of `hash:net`, never of length 0, which the kernel refuses, and
    /// never of one address, which the kernel does not distinguish from the address.
    Prefix(IpNetwork),
    /// An address with a port, of `hash:ip,port`.
    AddressPort(IpAddr, Protocol, u16),
    /// A prefix, which may be of one address, with an interface, of `hash:net,iface`. The kernel
    /// takes one prefix with at most 64 interfaces.
    PrefixInterface(Arc<(IpNetwork, InterfaceName)>),
}

impl Member {
    /// The member of `hash:net,iface` for a prefix and an interface.
    #[must_use]
    pub fn of_interface(prefix: IpNetwork, interface: InterfaceName) -> Self {
        Self::PrefixInterface(Arc::new((prefix, interface)))
    }

    /// Whether it is an address, or a prefix that the address lies in; ports and interfaces aside.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        match self {
            Self::Address(one) | Self::AddressPort(one, ..) => *one == address,
            Self::Prefix(prefix) => prefix.contains(address),
            Self::PrefixInterface(both) => both.0.contains(address),
        }
    }
}

/// The member of `hash:net` for a prefix.
impl From<IpNetwork> for Member {
    fn from(prefix: IpNetwork) -> Self {
        let is_address = prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 };
        if is_address { Self::Address(prefix.ip()) } else { Self::Prefix(prefix) }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Prefix(prefix) => write!(f, "{prefix}"),
            // By number: ipset looks names up in /etc/protocols, which a small
            // image does not have.
            Self::AddressPort(address, protocol, port) => write!(f, "{address},{}:{port}", protocol.number()),
            // ipset prints no length of one address.
            Self::PrefixInterface(both) => write!(f, "{},{}", Self::from(both.0), both.1),
        }
    }
}

/// A name of a network interface: at most 15 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(Short<{ InterfaceName::MAX }>);

impl InterfaceName {
    /// The kernel's limit (`IFNAMSIZ` less the final zero).
    pub const MAX: usize = 15;

    /// A name, if it is one that an interface can have.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        Short::of(&[name]).filter(|_| !name.is_empty()).map(Self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_holds_the_addresses_that_it_matches() {
        let [inside, outside]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [192, 0, 2, 1].into()];
        let prefix: IpNetwork = "10.0.0.0/8".parse().expect("a prefix");
        let interface = InterfaceName::new("azv1").expect("a name");
        for member in [
            Member::Address(inside),
            Member::Prefix(prefix),
            Member::AddressPort(inside, Protocol::Tcp, 80),
            Member::of_interface(prefix, interface),
        ] {
            assert!(member.holds(inside) && !member.holds(outside), "{member}");
        }
    }
}
