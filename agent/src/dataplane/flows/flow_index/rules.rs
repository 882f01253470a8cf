//! The rules of the table: which packets note an address.

use ipnetwork::IpNetwork;
use npc_compiler::object::Family;

use crate::dataplane::nftables::family;
use crate::dataplane::nftables::steps::Comparison::{Equal, NotEqual};
use crate::dataplane::nftables::steps::{Meta, PacketHeader, Rule, STATE_ESTABLISHED, STATE_UNTRACKED, Step};

/// Where packets enter the table: those that the node forwards, gets and sends. A flow of the
/// node's own is forwarded later if its address moves to another host.
const BASES: [&str; 3] = ["INPUT", "FORWARD", "OUTPUT"];

/// The chains of the table, with the hooks of those by which packets enter it.
pub(super) const CHAINS: [(&str, Option<u32>); 7] = [
    (BASES[0], Some(1)),
    (BASES[1], Some(2)),
    (BASES[2], Some(3)),
    ("to-ip", None),
    ("from-ip", None),
    ("to-ip6", None),
    ("from-ip6", None),
];

/// Before the filter table, so that a packet is noted before any rule judges it. What an earlier
/// rule admitted is noted when a later one is in force.
pub(super) const PRIORITY: i32 = -1;

/// What counts packets whose address could not be noted, for people.
pub(super) const MISSED: &str = "missed";

/// The sets that packets write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FlowIndexSet {
    /// Noted addresses.
    V4,
    /// The same of IPv6.
    V6,
    /// The families of packets whose address could not be noted.
    Short,
}

impl FlowIndexSet {
    /// By their names.
    pub(super) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Short];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "flows4",
            Self::V6 => "flows6",
            Self::Short => "incomplete",
        }
    }

    /// How many bytes a member has.
    pub(super) const fn key_length(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
            Self::Short => 1,
        }
    }

    /// For `nft`, which prints members by it.
    pub(super) const fn key_type(self) -> u32 {
        match self {
            Self::V4 => 7,
            Self::V6 => 8,
            Self::Short => 2,
        }
    }

    /// How many members it has at most. A pod that sends to more addresses of the domain within the
    /// time in which the kernel forgets a flow has the agent work as without the table.
    pub(super) const fn size(self) -> u32 {
        match self {
            Self::V4 | Self::V6 => 65_536,
            Self::Short => 2,
        }
    }
}

/// One end of a packet: where its address is in the header, and the chain that notes it.
struct PacketEnd {
    set: FlowIndexSet,
    offset: u32,
    chain: &'static str,
}

const ENDS: [PacketEnd; 4] = [
    PacketEnd { set: FlowIndexSet::V4, offset: 16, chain: "to-ip" },
    PacketEnd { set: FlowIndexSet::V4, offset: 12, chain: "from-ip" },
    PacketEnd { set: FlowIndexSet::V6, offset: 24, chain: "to-ip6" },
    PacketEnd { set: FlowIndexSet::V6, offset: 8, chain: "from-ip6" },
];

/// The rules, each with the chain that it is in, in their order.
///
/// A flow whose packet is ESTABLISHED here began before, and what is exempt from tracking is none.
/// All others are noted, and not only the new ones: another program's rule may make a flow of one
/// that conntrack did not know.
///
/// Where an address cannot be noted, because the set is full or the kernel has no memory, the
/// family is. A packet for which the kernel has no room for that either is dropped.
pub(super) fn rules(domain: &[IpNetwork]) -> Vec<(&'static str, Rule)> {
    let mut all = Vec::new();
    let passed_over = vec![
        Step::FlowState(0),
        Step::Mask(0, (STATE_ESTABLISHED | STATE_UNTRACKED).to_ne_bytes().to_vec()),
        Step::Is(NotEqual, 0, vec![0; 4]),
        Step::Accept,
    ];
    all.extend(BASES.map(|base| (base, Rule(passed_over.clone()))));
    for end in &ENDS {
        let set = end.set;
        let address = || Step::Payload(PacketHeader::Network, end.offset, set.key_length(), 0);
        for network in domain.iter().filter(|network| network.is_ipv4() == (set == FlowIndexSet::V4)) {
            let (mask, prefix) = match network {
                IpNetwork::V4(v4) => (v4.mask().octets().to_vec(), v4.network().octets().to_vec()),
                IpNetwork::V6(v6) => (v6.mask().octets().to_vec(), v6.network().octets().to_vec()),
            };
            let steps = vec![
                Step::Meta(Meta::Family, 0),
                Step::Is(Equal, 0, vec![family::of(Family::of(&network.ip()))]),
                address(),
                Step::Mask(0, mask),
                Step::Is(Equal, 0, prefix),
                Step::Jump(end.chain),
            ];
            all.extend(BASES.map(|base| (base, Rule(steps.clone()))));
        }
        all.push((end.chain, Rule(vec![address(), Step::Add(set.name(), 0), Step::Return])));
        // Only what could not be noted comes here.
        all.push((end.chain, Rule(vec![Step::Count(MISSED)])));
        let short = vec![Step::Meta(Meta::Family, 0), Step::Add(FlowIndexSet::Short.name(), 0), Step::Return];
        all.push((end.chain, Rule(short)));
        all.push((end.chain, Rule(vec![Step::Drop])));
    }
    all
}
