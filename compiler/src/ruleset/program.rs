//! The node program: the sets and chains that one node's kernel should hold,
//! as plain data with deterministic names, and its text for `ipset restore`
//! and `iptables-restore`.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::object::{Family, Protocol};
use crate::policy::Direction;
use crate::ruleset::short::Short;

/// What every chain of ours begins with.
pub const CHAIN_PREFIX: &str = "NPC-";

/// The chain that the built-in FORWARD chain jumps to first.
pub const FORWARD_CHAIN: &str = "NPC-FORWARD";

/// What every IPv4 set of ours begins with.
pub const SET_PREFIX_V4: &str = "npc4-";

/// What every IPv6 set of ours begins with.
pub const SET_PREFIX_V6: &str = "npc6-";

/// What the name of [`SetName::own`] ends with.
const OWN: &str = "own";

/// A name of a chain in the filter table: at most 28 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName(Short<{ ChainName::MAX }>);

/// A name of an ipset: at most 31 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName(Short<{ SetName::MAX }>);

impl ChainName {
    /// The kernel's limit (`XT_EXTENSION_MAXNAMELEN` less the final zero).
    pub const MAX: usize = 28;

    /// A chain of ours: [`CHAIN_PREFIX`] and this suffix.
    ///
    /// # Panics
    /// If the name would be too long; suffixes are made from hashes and fixed
    /// words, never from what a user chose.
    #[must_use]
    pub fn new(suffix: &str) -> Self {
        let name = Short::of(&[CHAIN_PREFIX, suffix]);
        Self(name.unwrap_or_else(|| panic!("chain name {CHAIN_PREFIX}{suffix} is too long")))
    }

    /// The chain that leads to the groups of a direction.
    #[must_use]
    pub fn entry(direction: Direction) -> Self {
        Self::new(match direction {
            Direction::Ingress => "INGRESS",
            Direction::Egress => "EGRESS",
        })
    }

    /// The chain that drops the TCP segments of connections that the kernel
    /// does not know, where nothing tells which end is the server.
    #[must_use]
    pub fn stray() -> Self {
        Self::new("STRAY")
    }

    /// The chain that a group of a direction asks about such a segment, before
    /// its rules without ports: whether its endpoint is isolated in the other
    /// direction too.
    #[must_use]
    pub fn stray_of(direction: Direction) -> Self {
        Self::new(match direction {
            Direction::Ingress => "STRAY-INGRESS",
            Direction::Egress => "STRAY-EGRESS",
        })
    }

    /// The chain in which the packets end that the groups of a direction deny.
    /// Its rules never change, so the kernel's count of them goes on.
    #[must_use]
    pub fn deny(direction: Direction) -> Self {
        Self::new(match direction {
            Direction::Ingress => "DENY-INGRESS",
            Direction::Egress => "DENY-EGRESS",
        })
    }

    /// The chain in which the segments end that [`ChainName::stray`] is about,
    /// for the same reason.
    #[must_use]
    pub fn deny_stray() -> Self {
        Self::new("DENY-STRAY")
    }

    /// The chain that drops what comes from a pod's interface with a source that
    /// is not the pod's.
    #[must_use]
    pub fn spoof() -> Self {
        Self::new("SPOOF")
    }

    /// The chain that judges ICMP errors about flows that the kernel knows.
    #[must_use]
    pub fn related() -> Self {
        Self::new("RELATED")
    }

    /// [`FORWARD_CHAIN`].
    #[must_use]
    pub fn forward() -> Self {
        Self::new(&FORWARD_CHAIN[CHAIN_PREFIX.len()..])
    }

    /// The direction of the group whose chain this is, if it is a group's.
    #[must_use]
    pub fn direction_of_group(&self) -> Option<Direction> {
        match self.as_str().strip_prefix(CHAIN_PREFIX)?.get(..2)? {
            "I-" => Some(Direction::Ingress),
            "E-" => Some(Direction::Egress),
            _ => None,
        }
    }

    /// Whether it belongs to the tree that leads to the groups of a direction.
    #[must_use]
    pub fn is_of_tree(&self) -> bool {
        let suffix = self.as_str().get(CHAIN_PREFIX.len()..).unwrap_or_default();
        matches!(suffix, "INGRESS" | "EGRESS") || suffix.starts_with("IT-") || suffix.starts_with("ET-")
    }

    /// A name read back from a kernel, if it is one of ours.
    #[must_use]
    pub fn ours(name: &str) -> Option<Self> {
        Short::of(&[name]).filter(|_| name.starts_with(CHAIN_PREFIX)).map(Self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl SetName {
    /// The kernel's limit (`IPSET_MAXNAMELEN` less the final zero).
    pub const MAX: usize = 31;

    /// A set of ours: the family's prefix and this suffix.
    ///
    /// # Panics
    /// If the name would be too long; suffixes are made from hashes and fixed
    /// words, never from what a user chose.
    #[must_use]
    pub fn new(family: Family, suffix: &str) -> Self {
        let prefix = match family {
            Family::V4 => SET_PREFIX_V4,
            Family::V6 => SET_PREFIX_V6,
        };
        let name = Short::of(&[prefix, suffix]);
        Self(name.unwrap_or_else(|| panic!("set name {prefix}{suffix} is too long")))
    }

    /// The set of a node's endpoints that are isolated in a direction.
    #[must_use]
    pub fn gate(family: Family, direction: Direction) -> Self {
        Self::new(
            family,
            match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            },
        )
    }

    /// A set of the tree that leads to the groups of a direction.
    #[must_use]
    pub fn of_tree(family: Family, direction: Direction, place: &str) -> Self {
        let direction = match direction {
            Direction::Ingress => 'i',
            Direction::Egress => 'e',
        };
        Self::new(family, &format!("{direction}-{place}"))
    }

    /// The set of what may come from the interfaces of pods.
    #[must_use]
    pub fn own(family: Family) -> Self {
        Self::new(family, OWN)
    }

    /// Whether it is the set of what may come from the interfaces of pods.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.suffix() == OWN
    }

    /// Whether it is a gate or a set of a tree, of either direction.
    #[must_use]
    pub fn is_of_tree(&self) -> bool {
        Direction::ALL.into_iter().any(|direction| self.is_of(direction))
    }

    /// Whether it is the gate of a direction.
    #[must_use]
    pub fn is_gate(&self) -> bool {
        matches!(self.suffix(), "ingress" | "egress")
    }

    /// Whether it is the gate or a set of the tree of a direction.
    #[must_use]
    pub fn is_of(&self, direction: Direction) -> bool {
        let (gate, tree) = match direction {
            Direction::Ingress => ("ingress", "i-"),
            Direction::Egress => ("egress", "e-"),
        };
        self.suffix() == gate || self.suffix().starts_with(tree)
    }

    /// The name without what all sets of a family begin with.
    fn suffix(&self) -> &str {
        &self.as_str()[SET_PREFIX_V4.len()..]
    }

    /// The name of a set that stands in for this one while a plan is carried
    /// out; one that is not taken, because a plan may have been cut short.
    #[must_use]
    pub fn shadow(&self, family: Family, taken: impl Fn(&Self) -> bool) -> Self {
        let shadow = |letter| Self::new(family, &format!("{letter}-{}", self.suffix()));
        // Set names begin with e, i, n, o or p.
        let mut letters = "stuvwxyz".chars().map(shadow);
        letters.find(|name| !taken(name)).unwrap_or_else(|| shadow('s'))
    }

    /// A name read back from a kernel and its family, if it is one of ours.
    #[must_use]
    pub fn ours(name: &str) -> Option<(Self, Family)> {
        let families = [(SET_PREFIX_V4, Family::V4), (SET_PREFIX_V6, Family::V6)];
        let (_, family) = families.into_iter().find(|(prefix, _)| name.starts_with(prefix))?;
        Some((Self(Short::of(&[name])?), family))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
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

/// A chain is looked up by its name; the order is that of the text.
impl Borrow<str> for ChainName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything of ours in one node's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// IPv4: `iptables`, sets of `family inet`.
    pub v4: FamilyProgram,
    /// IPv6: `ip6tables`, sets of `family inet6`.
    pub v6: FamilyProgram,
}

impl Program {
    /// The part of one family.
    #[must_use]
    pub fn family(&self, family: Family) -> &FamilyProgram {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// One family's sets and chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyProgram {
    /// The family.
    pub family: Family,
    /// The sets by name.
    pub sets: BTreeMap<SetName, Set>,
    /// The chains of the filter table by name. [`FORWARD_CHAIN`] is always
    /// among them; the jump to it is not part of a program.
    pub chains: BTreeMap<ChainName, Vec<Rule>>,
}

/// One ipset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its type, which never changes under one name.
    pub kind: SetKind,
    /// Its members.
    pub members: BTreeSet<Member>,
    /// What it stands for, in words, for who reads the program.
    pub meaning: String,
}

/// The type of a set; see ipset(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// One member of a set. There may be millions, so the kind of which there are few
/// must not make all of them larger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// An address, of `hash:ip` and (as a host prefix) of `hash:net`.
    Address(IpAddr),
    /// A prefix of `hash:net`, never of length 0, which the kernel refuses, and
    /// never of one address, which the kernel does not tell from the address.
    Prefix(IpNetwork),
    /// An address with a port, of `hash:ip,port`.
    AddressPort(IpAddr, Protocol, u16),
    /// A prefix, be it of one address, with an interface, of `hash:net,iface`.
    /// The kernel takes one prefix with at most 64 interfaces.
    PrefixInterface(Arc<(IpNetwork, InterfaceName)>),
}

impl Member {
    /// The member of `hash:net,iface` for a prefix and an interface.
    #[must_use]
    pub fn of_interface(prefix: IpNetwork, interface: InterfaceName) -> Self {
        Self::PrefixInterface(Arc::new((prefix, interface)))
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

/// One rule: all matches hold ⇒ the target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// What a packet must be; in this order on the command line, cheap first.
    pub matches: Vec<Match>,
    /// What happens then.
    pub target: Target,
}

/// One condition of a rule; see iptables-extensions(8).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Match {
    /// `-m conntrack --ctstate ESTABLISHED,RELATED`
    EstablishedOrRelated,
    /// `-m conntrack --ctstate ESTABLISHED`
    Established,
    /// An ICMP error (ICMPv6 in IPv6) about a flow that conntrack knows:
    /// `-p icmp -m conntrack --ctstate RELATED`. An ICMPv6 redirect counts as
    /// one, a connection that a helper expects does not.
    RelatedError,
    /// This node has translated the destination of the packet's flow:
    /// `-m conntrack --ctstate DNAT`.
    Translated,
    /// `-m conntrack --ctstate INVALID,NEW`: all but that and what somebody
    /// exempts from tracking.
    NewOrInvalid,
    /// `-s PREFIX`
    Source(IpNetwork),
    /// `-d PREFIX`
    Destination(IpNetwork),
    /// `-p ipv6-icmp -m icmp6 --icmpv6-type TYPE`
    Icmpv6Type(u8),
    /// `-p PROTOCOL`
    Protocol(Protocol),
    /// `-p NUMBER`, of a protocol without ports.
    ProtocolNumber(u8),
    /// A TCP segment that opens no connection:
    /// `-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN`
    NotSyn,
    /// Destination ports, after [`Match::Protocol`]: sorted, disjoint inclusive
    /// ranges; `--dport` for one, `-m multiport --dports` for more, at most 15
    /// slots of which a range takes two.
    DestinationPorts(Vec<(u16, u16)>),
    /// `-m addrtype --dst-type BROADCAST`
    ToBroadcast,
    /// The source address equals the destination address:
    /// `-m bpf --bytecode …`.
    SourceIsDestination,
    /// An ICMP error (and no redirect) whose quoted packet went to the address
    /// that the error comes from: `-m bpf --bytecode …`. One behind IPv6
    /// extension headers is none.
    ErrorFromQuotedDestination,
    /// No router has forwarded the packet: `-m hl --hl-eq 255`, of IPv6.
    HopLimit255,
    /// The packet with its IP header has so many bytes, inclusive:
    /// `-m length --length FIRST:LAST`.
    Length(u16, u16),
    /// It has fewer or more: `-m length ! --length FIRST:LAST`.
    NotLength(u16, u16),
    /// `-m set --match-set NAME src|dst|dst,dst`
    Set(SetName, SetField),
    /// `-m set ! --match-set NAME …`
    NotInSet(SetName, SetField),
    /// It comes from an interface of pods, which the agent has put into its
    /// device group: `-m devgroup --src-group GROUP`.
    FromPods,
    /// It does not: `-m devgroup ! --src-group GROUP`.
    NotFromPods,
    /// `-m limit`: only so many packets in a second, of all that meet the rule.
    Limited,
    /// `-m comment --comment TEXT`; at most 255 bytes.
    Comment(String),
}

/// Which fields of a packet a set is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetField {
    /// The source address.
    Source,
    /// The destination address.
    Destination,
    /// The destination address, protocol and port.
    DestinationPort,
    /// The source address and the interface that it comes from.
    SourceInterface,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `-j RETURN`: back to the chain that jumped here. Never ACCEPT: rules of
    /// others after ours still count.
    Return,
    /// `-j DROP`
    Drop,
    /// `-j NFLOG` with the chain's name: tells whoever listens of the packet,
    /// which then meets the next rule.
    Log,
    /// `-j CHAIN`
    Jump(ChainName),
    /// `-g CHAIN`: as a jump, but its RETURN lands where ours would.
    Goto(ChainName),
}
