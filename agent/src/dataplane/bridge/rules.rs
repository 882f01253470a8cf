//! The rules of the table. They never change: which ports and addresses are meant,
//! sets say.

use super::super::nftables::steps::Comparison::{self, Equal, Greater, NotEqual};
use super::super::nftables::steps::{Meta, PacketHeader, Rule, Step};
use super::chains::{
    BridgeChain, BridgeSet, FORWARDED, FRAGMENTS, FROM_PODS, FROM_PODS_ARP, FROM_PODS_IPV4, FROM_PODS_IPV6, GUARDED,
    PINNED, PINNED_ARP, PINNED_IPV4, PINNED_IPV6, RECEIVED,
};

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ARP: [u8; 2] = [0x08, 0x06];

/// The fragment header, and what may follow one only to hide what is behind it: further
/// extension headers (RFC 8200, section 4; RFC 4302; RFC 6275).
const FRAGMENT: u8 = 44;
const HEADERS: [u8; 6] = [0, 43, FRAGMENT, 51, 60, 135];

const ICMPV6: u8 = 58;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Of routers and of hosts (RFC 4861, section 4).
const NEIGHBOUR_DISCOVERY: [u8; 5] =
    [133, ROUTER_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT, REDIRECT];

/// What a pod may send without an address: neighbour discovery, and reports of the groups that it
/// has joined. Without the reports, a bridge that snoops would not forward neighbour solicitations
/// to it.
const OF_THE_LINK: [u8; 6] = [131, 132, 133, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT, 143];

/// The longest payload that an ARP frame has: what Ethernet fills it up to.
const LONGEST_ARP: u32 = 46;

/// The first four bits of an IPv4 multicast address (RFC 5771).
const MULTICAST_IPV4: [u8; 1] = [0xe0];
/// All hosts of the link.
const BROADCAST_IPV4: [u8; 4] = [0xff; 4];
/// The first byte of IPv6 addresses that are for many.
const MANY_IPV6: u8 = 0xff;

/// For an IPv6 address, in a field of 16 bytes: whether it is link-local.
fn link_local(register: u32, comparison: Comparison) -> [Step; 2] {
    let (mut mask, mut prefix) = (vec![0; 16], vec![0; 16]);
    (mask[0], mask[1]) = (0xff, 0xc0);
    (prefix[0], prefix[1]) = (0xfe, 0x80);
    [Step::Mask(register, mask), Step::Is(comparison, register, prefix)]
}

fn ethertype(is: [u8; 2]) -> Vec<Step> {
    vec![Step::Payload(PacketHeader::Ethernet, 12, 2, 0), Step::Is(Equal, 0, is.to_vec())]
}

fn port(port: Meta, set: BridgeSet) -> Vec<Step> {
    vec![Step::Meta(port, 0), Step::In(set.name(), 0)]
}

/// The port, and beside it these bytes of a header, are no member of the set.
fn foreign(port: Meta, header: PacketHeader, offset: u32, length: u32, set: BridgeSet) -> Vec<Step> {
    vec![Step::Meta(port, 0), Step::Payload(header, offset, length, 1), Step::NotIn(set.name(), 0)]
}

/// These bytes of a header compare so.
fn bytes(header: PacketHeader, offset: u32, how: Comparison, with: &[u8]) -> Vec<Step> {
    let length = u32::try_from(with.len()).unwrap_or(u32::MAX);
    vec![Step::Payload(header, offset, length, 0), Step::Is(how, 0, with.to_vec())]
}

/// The Ethernet destination is a group.
fn for_many() -> Vec<Step> {
    vec![Step::Payload(PacketHeader::Ethernet, 0, 1, 0), Step::Mask(0, vec![1]), Step::Is(NotEqual, 0, vec![0])]
}

/// An IPv4 address at this place of its header is, or is not, a multicast one.
fn multicast_ipv4(offset: u32, how: Comparison) -> Vec<Step> {
    let mask = Step::Mask(0, vec![0xf0]);
    vec![Step::Payload(PacketHeader::Network, offset, 1, 0), mask, Step::Is(how, 0, MULTICAST_IPV4.to_vec())]
}

/// It is ICMPv6, behind any extension headers.
fn icmpv6() -> Vec<Step> {
    vec![Step::Meta(Meta::Protocol, 0), Step::Is(Equal, 0, vec![ICMPV6])]
}

fn icmpv6_of(kind: u8) -> Vec<Step> {
    [icmpv6(), bytes(PacketHeader::Transport, 0, Equal, &[kind])].concat()
}

/// The rules, each with the chain that it is in, in their order.
pub(super) fn rules() -> Vec<(BridgeChain, Rule)> {
    let mut all = Vec::new();
    let mut add = |chain, parts: &[Vec<Step>], verdict| {
        let mut steps = parts.concat();
        steps.push(verdict);
        all.push((chain, Rule(steps)));
    };
    add(RECEIVED, &[port(Meta::InputIndex, BridgeSet::Ports)], Step::Jump(FROM_PODS.name));
    add(RECEIVED, &[port(Meta::InputIndex, BridgeSet::Pinned)], Step::Jump(PINNED.name));
    add(FORWARDED, &[port(Meta::OutputIndex, BridgeSet::Guarded)], Step::Jump(GUARDED.name));
    let confined = [port(Meta::InputIndex, BridgeSet::Confined), port(Meta::OutputIndex, BridgeSet::Known)];
    add(FORWARDED, &confined, Step::Jump(GUARDED.name));
    from_pods(&mut add);
    pinned(&mut add);
    guarded(&mut add);
    all
}

/// What no pod sends.
fn from_pods(add: &mut impl FnMut(BridgeChain, &[Vec<Step>], Step)) {
    add(FROM_PODS, &[ethertype(IPV4)], Step::Goto(FROM_PODS_IPV4.name));
    add(FROM_PODS, &[ethertype(IPV6)], Step::Goto(FROM_PODS_IPV6.name));
    add(FROM_PODS, &[ethertype(ARP)], Step::Goto(FROM_PODS_ARP.name));
    // Tags (VLAN id 0 among them), MPLS, PPPoE, LLC and all else that iptables does not get.
    add(FROM_PODS, &[], Step::Drop);
    // ARP of anything but Ethernet and IPv4, and more than fits.
    add(FROM_PODS_ARP, &[bytes(PacketHeader::Network, 0, NotEqual, &[0, 1, 8, 0, 6, 4])], Step::Drop);
    let too_long = vec![
        Step::Meta(Meta::Length, 0),
        Step::NetworkOrder(0),
        Step::Is(Greater, 0, LONGEST_ARP.to_be_bytes().to_vec()),
    ];
    add(FROM_PODS_ARP, &[too_long], Step::Drop);
    // For a frame to many, conntrack confirms the copy that goes up to the node (br_nf_local_in),
    // even if FORWARD drops the other copies. What claims to be for one in such a frame would make
    // that one's denied flow ESTABLISHED; and so would an answer from the many.
    let for_one = [multicast_ipv4(16, NotEqual), bytes(PacketHeader::Network, 16, NotEqual, &BROADCAST_IPV4)].concat();
    add(FROM_PODS_IPV4, &[for_many(), for_one], Step::Drop);
    add(FROM_PODS_IPV4, &[multicast_ipv4(12, Equal)], Step::Drop);
    add(FROM_PODS_IPV4, &[bytes(PacketHeader::Network, 12, Equal, &BROADCAST_IPV4)], Step::Drop);
    add(FROM_PODS_IPV6, &[for_many(), bytes(PacketHeader::Network, 24, NotEqual, &[MANY_IPV6])], Step::Drop);
    add(FROM_PODS_IPV6, &[bytes(PacketHeader::Network, 8, Equal, &[MANY_IPV6])], Step::Drop);
    // What is cut into fragments behind further headers does not show here what it is, and
    // neighbour discovery in fragments not what it is about. The kernel reassembles it before
    // ip6tables filters it, and so does the receiver. No host sends either (RFC 6980).
    let fragment = || vec![Step::Extension(FRAGMENT, 0)];
    add(FROM_PODS_IPV6, &[fragment()], Step::Jump(FRAGMENTS.name));
    add(PINNED_IPV6, &[fragment()], Step::Jump(FRAGMENTS.name));
    for header in HEADERS {
        add(FRAGMENTS, &[fragment(), vec![Step::Is(Equal, 0, vec![header])]], Step::Drop);
    }
    for kind in NEIGHBOUR_DISCOVERY {
        add(FRAGMENTS, &[icmpv6_of(kind)], Step::Drop);
    }
    // No pod is a router.
    for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
        add(FROM_PODS_IPV6, &[icmpv6_of(kind)], Step::Drop);
    }
}

/// What a pod sends as another.
fn pinned(add: &mut impl FnMut(BridgeChain, &[Vec<Step>], Step)) {
    let sender = |header, offset| foreign(Meta::InputIndex, header, offset, 6, BridgeSet::Senders);
    add(PINNED, &[sender(PacketHeader::Ethernet, 6)], Step::Drop);
    add(PINNED, &[ethertype(IPV4)], Step::Goto(PINNED_IPV4.name));
    add(PINNED, &[ethertype(IPV6)], Step::Goto(PINNED_IPV6.name));
    add(PINNED, &[ethertype(ARP)], Step::Goto(PINNED_ARP.name));
    let said = |offset| bytes(PacketHeader::Network, offset, NotEqual, &[0; 4]);
    let not_own4 = |offset| foreign(Meta::InputIndex, PacketHeader::Network, offset, 4, BridgeSet::Addresses4);
    add(PINNED_ARP, &[sender(PacketHeader::Network, 8)], Step::Drop);
    // A pod that asks whether an address is taken claims none.
    add(PINNED_ARP, &[said(14), not_own4(14)], Step::Drop);
    add(PINNED_IPV4, &[said(12), not_own4(12)], Step::Drop);
    // One that asks for its address by DHCP has none.
    let unspecified4 = bytes(PacketHeader::Network, 12, Equal, &[0; 4]);
    add(PINNED_IPV4, &[unspecified4, bytes(PacketHeader::Network, 16, NotEqual, &[0xff; 4])], Step::Drop);

    let not_own6 = |header, offset| foreign(Meta::InputIndex, header, offset, 16, BridgeSet::Addresses6);
    let unspecified6 = |how| bytes(PacketHeader::Network, 8, how, &[0; 16]);
    let source =
        [unspecified6(NotEqual), link_local(0, NotEqual).to_vec(), not_own6(PacketHeader::Network, 8)].concat();
    add(PINNED_IPV6, &[source], Step::Drop);
    // It answers for its own addresses, and asks for itself only about those.
    let target = [
        vec![Step::Payload(PacketHeader::Transport, 8, 16, 0)],
        link_local(0, NotEqual).to_vec(),
        not_own6(PacketHeader::Transport, 8),
    ]
    .concat();
    add(PINNED_IPV6, &[icmpv6_of(NEIGHBOUR_ADVERTISEMENT), target.clone()], Step::Drop);
    add(PINNED_IPV6, &[unspecified6(Equal), icmpv6_of(NEIGHBOUR_SOLICITATION), target], Step::Drop);
    // By no address it sends what the link needs.
    let no_icmp = vec![Step::Meta(Meta::Protocol, 0), Step::Is(NotEqual, 0, vec![ICMPV6])];
    add(PINNED_IPV6, &[unspecified6(Equal), no_icmp], Step::Drop);
    let others = OF_THE_LINK.map(|kind| Step::Is(NotEqual, 0, vec![kind])).to_vec();
    let other = [icmpv6(), vec![Step::Payload(PacketHeader::Transport, 0, 1, 0)], others].concat();
    add(PINNED_IPV6, &[unspecified6(Equal), other], Step::Drop);
}

/// Drops what goes to an isolated pod and is for none of its own addresses. Drops what comes from
/// an isolated pod, where policies judge the destination address, in a frame to another station
/// than the one that has that address. What is for many, or link-local, ip6tables judges.
fn guarded(add: &mut impl FnMut(BridgeChain, &[Vec<Step>], Step)) {
    let not_own = |offset, length, set| foreign(Meta::OutputIndex, PacketHeader::Network, offset, length, set);
    add(GUARDED, &[ethertype(IPV4), not_own(16, 4, BridgeSet::Addresses4)], Step::Drop);
    let for_one = [
        bytes(PacketHeader::Network, 24, NotEqual, &[MANY_IPV6]),
        vec![Step::Payload(PacketHeader::Network, 24, 16, 0)],
        link_local(0, NotEqual).to_vec(),
    ]
    .concat();
    add(GUARDED, &[ethertype(IPV6), for_one, not_own(24, 16, BridgeSet::Addresses6)], Step::Drop);
}
