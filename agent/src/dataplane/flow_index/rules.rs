//! The rules of the table: which packets note an address.

use ipnetwork::IpNetwork;

use super::super::nftables::family;
use super::super::nftables::steps::Comparison::{Equal, NotEqual};
use super::super::nftables::steps::{Header, Meta, Rule, STATE_ESTABLISHED, Step};

/// Where packets enter the table: as many do as FORWARD has.
pub(super) const FORWARD: &str = "FORWARD";

/// The chains of the table, with the hook of the one by which packets enter it.
pub(super) const CHAINS: [(&str, Option<u32>); 5] =
    [(FORWARD, Some(2)), ("to-ip", None), ("from-ip", None), ("to-ip6", None), ("from-ip6", None)];

/// Before the filter table, so that a packet is noted before any rule judges it. What an earlier
/// rule admitted is noted when a later one is in force.
pub(super) const PRIORITY: i32 = -1;

/// What counts packets whose address could not be noted.
pub(super) const MISSED: &str = "missed";

/// The sets of noted addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    V4,
    V6,
}

impl Set {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "flows4",
            Self::V6 => "flows6",
        }
    }

    /// How many bytes a member has.
    pub(super) const fn key_length(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// For `nft`, which prints members by it.
    pub(super) const fn key_type(self) -> u32 {
        match self {
            Self::V4 => 7,
            Self::V6 => 8,
        }
    }
}

/// One end of a packet: where its address is in the header, and the chain that notes it.
struct End {
    set: Set,
    offset: u32,
    chain: &'static str,
}

const ENDS: [End; 4] = [
    End { set: Set::V4, offset: 16, chain: "to-ip" },
    End { set: Set::V4, offset: 12, chain: "from-ip" },
    End { set: Set::V6, offset: 24, chain: "to-ip6" },
    End { set: Set::V6, offset: 8, chain: "from-ip6" },
];

/// The rules, each with the chain that it is in, in their order.
///
/// A flow whose packet is ESTABLISHED here began before, so these go on at once. All others are
/// noted, and not only the new ones: another program's rule may make a flow of one that conntrack
/// did not know.
pub(super) fn rules(domain: &[IpNetwork]) -> Vec<(&'static str, Rule)> {
    let established = vec![
        Step::FlowState(0),
        Step::Mask(0, STATE_ESTABLISHED.to_ne_bytes().to_vec()),
        Step::Is(NotEqual, 0, vec![0; 4]),
        Step::Accept,
    ];
    let mut all = vec![(FORWARD, Rule(established))];
    for end in &ENDS {
        let (set, number) = match end.set {
            Set::V4 => (Set::V4, family::IPV4),
            Set::V6 => (Set::V6, family::IPV6),
        };
        let address = || Step::Payload(Header::Network, end.offset, set.key_length(), 0);
        for network in domain.iter().filter(|network| network.is_ipv4() == (set == Set::V4)) {
            let (mask, prefix) = match network {
                IpNetwork::V4(v4) => (v4.mask().octets().to_vec(), v4.network().octets().to_vec()),
                IpNetwork::V6(v6) => (v6.mask().octets().to_vec(), v6.network().octets().to_vec()),
            };
            let steps = vec![
                Step::Meta(Meta::Family, 0),
                Step::Is(Equal, 0, vec![number]),
                address(),
                Step::Mask(0, mask),
                Step::Is(Equal, 0, prefix),
                Step::Jump(end.chain),
            ];
            all.push((FORWARD, Rule(steps)));
        }
        all.push((end.chain, Rule(vec![address(), Step::Add(set.name(), 0), Step::Return])));
        // Only what could not be noted comes here.
        all.push((end.chain, Rule(vec![Step::Count(MISSED)])));
    }
    all
}
