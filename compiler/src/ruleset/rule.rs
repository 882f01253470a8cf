//! A rule as data.

use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::object::Protocol;
use crate::ruleset::names::{ChainName, SetName};

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
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
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
    /// `-m conntrack --ctstate INVALID,NEW`: all but that and what another
    /// program exempts from tracking.
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
    /// slots, where a range takes two.
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
    /// `-m comment --comment TEXT`; at most 255 bytes. Shared, because a rule of a state is
    /// one of a delta first.
    Comment(Arc<str>),
}

/// Which fields of a packet a set is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
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
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Target {
    /// `-j RETURN`: back to the chain that jumped here. Never ACCEPT: rules of
    /// others after ours still count.
    Return,
    /// `-j DROP`
    Drop,
    /// `-j NFLOG` with the chain's name: reports the packet to programs that listen. The
    /// packet then meets the next rule.
    Log,
    /// `-j CHAIN`
    Jump(ChainName),
    /// `-g CHAIN`: as a jump, but its RETURN lands where ours would.
    Goto(ChainName),
    /// What a kernel holds in a chain of ours and npc does not write. Such a rule has no
    /// matches, and differs from every rule that is wanted.
    Foreign(Foreign),
}

/// A rule in a chain of ours that npc did not write, or not so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Foreign {
    /// The line that iptables prints of it, from behind its chain's name.
    Line(Box<str>),
    /// iptables cannot print it: another program wrote it, with nft or by an extension
    /// that is not installed.
    Unprintable,
}

impl Rule {
    /// A rule that npc does not write.
    #[must_use]
    pub const fn foreign(what: Foreign) -> Self {
        Self { matches: Vec::new(), target: Target::Foreign(what) }
    }

    /// Whether npc cannot read it, so nothing is known of the sets and chains that it names.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        matches!(self.target, Target::Foreign(_))
    }

    /// The chain to which a packet that matches goes for good.
    #[must_use]
    pub const fn goes_to(&self) -> Option<&ChainName> {
        match &self.target {
            Target::Goto(chain) => Some(chain),
            _ => None,
        }
    }

    /// The chain to which such a packet goes, for good or to come back.
    #[must_use]
    pub const fn leads_to(&self) -> Option<&ChainName> {
        match &self.target {
            Target::Goto(chain) | Target::Jump(chain) => Some(chain),
            _ => None,
        }
    }

    /// The sets that it asks, in order.
    pub fn sets(&self) -> impl Iterator<Item = &SetName> {
        self.matches.iter().filter_map(Match::set)
    }

    /// The same rule with other sets in place of its own, where `other` has one; `None` if it has
    /// none for any of them.
    #[must_use]
    pub fn with_sets<'a>(&self, other: impl Fn(&SetName) -> Option<&'a SetName>) -> Option<Self> {
        self.sets().any(|set| other(set).is_some()).then(|| {
            let mut rule = self.clone();
            for set in rule.matches.iter_mut().filter_map(Match::set_mut) {
                if let Some(other) = other(set) {
                    set.clone_from(other);
                }
            }
            rule
        })
    }
}

impl Match {
    /// The set that it asks, if it asks one.
    #[must_use]
    pub const fn set(&self) -> Option<&SetName> {
        match self {
            Self::Set(name, _) | Self::NotInSet(name, _) => Some(name),
            _ => None,
        }
    }

    const fn set_mut(&mut self) -> Option<&mut SetName> {
        match self {
            Self::Set(name, _) | Self::NotInSet(name, _) => Some(name),
            _ => None,
        }
    }
}
