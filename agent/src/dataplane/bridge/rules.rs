//! The chains and rules of the table, as expressions of nf_tables. They never
//! change: which ports and addresses are meant, sets say.

use super::super::nftables::{Attributes, LIST_ELEMENT, WriteAttributes, data, expression, rule, verdict};

/// A chain of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    /// Its name.
    pub(super) name: &'static str,
    /// The number of the hook by which frames enter it; the others are led to.
    pub(super) hook: Option<u32>,
}

/// Ahead of all that others do, br_netfilter's hooks among it, which lead to
/// iptables at priority 0.
pub(super) const PRIORITY: i32 = -300;

/// Frames that a port of a bridge receives.
const RECEIVED: Chain = Chain { name: "PREROUTING", hook: Some(0) };
/// Frames that a bridge hands from one port to another.
const FORWARDED: Chain = Chain { name: "FORWARD", hook: Some(2) };

// One question of a set leads a frame to its chain, and one of its type on: asked in
// each rule, they would cost more than all else (measured: 1.8 µs a frame instead of 0.5).
const FROM_PODS: Chain = led_to("from-pods");
const FROM_PODS_ARP: Chain = led_to("from-pods-arp");
const FROM_PODS_IPV4: Chain = led_to("from-pods-ip");
const FROM_PODS_IPV6: Chain = led_to("from-pods-ip6");
const FRAGMENTS: Chain = led_to("fragments");
const HELD: Chain = led_to("held");
const HELD_ARP: Chain = led_to("held-arp");
const HELD_IPV4: Chain = led_to("held-ip");
const HELD_IPV6: Chain = led_to("held-ip6");
const GUARDED: Chain = led_to("guarded");

const fn led_to(name: &'static str) -> Chain {
    Chain { name, hook: None }
}

/// All of them.
pub(super) const CHAINS: [Chain; 12] = [
    RECEIVED,
    FORWARDED,
    FROM_PODS,
    FROM_PODS_ARP,
    FROM_PODS_IPV4,
    FROM_PODS_IPV6,
    FRAGMENTS,
    HELD,
    HELD_ARP,
    HELD_IPV4,
    HELD_IPV6,
    GUARDED,
];

/// The sets that rules ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    /// Ports of pods.
    Ports,
    /// Ports held to their own sources.
    Held,
    /// Ports to which nothing goes but what is for their own addresses.
    Guarded,
    /// Ports from which nothing goes to a known one but what is for its own addresses.
    Confined,
    /// Ports of which the addresses are known.
    Known,
    /// A port and its pod's Ethernet address.
    Senders,
    /// A port and an IPv4 address of its pod.
    Addresses4,
    /// A port and an IPv6 address of its pod.
    Addresses6,
}

impl Set {
    pub(super) const ALL: [Self; 8] = [
        Self::Ports,
        Self::Held,
        Self::Guarded,
        Self::Confined,
        Self::Known,
        Self::Senders,
        Self::Addresses4,
        Self::Addresses6,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Held => "held",
            Self::Guarded => "guarded",
            Self::Confined => "confined",
            Self::Known => "known",
            Self::Senders => "senders",
            Self::Addresses4 => "addresses4",
            Self::Addresses6 => "addresses6",
        }
    }

    /// How many bytes a member has. Each of its fields fills whole registers of
    /// four.
    pub(super) const fn key_length(self) -> usize {
        match self {
            Self::Ports | Self::Held | Self::Guarded | Self::Confined | Self::Known => 4,
            Self::Senders => 12,
            Self::Addresses4 => 8,
            Self::Addresses6 => 20,
        }
    }

    /// For `nft`, which prints members by it: its numbers of types, six bits each.
    pub(super) const fn key_type(self) -> u32 {
        const INTERFACE: u32 = 20;
        match self {
            Self::Ports | Self::Held | Self::Guarded | Self::Confined | Self::Known => INTERFACE,
            Self::Senders => INTERFACE << 6 | 9,
            Self::Addresses4 => INTERFACE << 6 | 7,
            Self::Addresses6 => INTERFACE << 6 | 8,
        }
    }
}

/// One step of a rule. Registers are counted in fours of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Loads a fact about the frame.
    Meta(Meta, u32),
    /// Loads bytes of a header.
    Payload(Header, u32, u32, u32),
    /// Loads the first byte of an IPv6 extension header; not so where there is none of
    /// this number.
    Extension(u8, u32),
    /// Keeps these bits.
    Mask(u32, Vec<u8>),
    /// From the order of this machine to that of the network, four bytes.
    NetworkOrder(u32),
    /// Goes on if it is so.
    Is(Comparison, u32, Vec<u8>),
    /// Goes on if a set has what begins in a register.
    In(Set, u32),
    /// Goes on if it has not.
    NotIn(Set, u32),
    Drop,
    /// To a chain, and back after it.
    Jump(Chain),
    /// To a chain, and from there back to where this one was jumped from.
    Goto(Chain),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meta {
    Length = 0,
    InputIndex = 4,
    OutputIndex = 5,
    Protocol = 16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    Ethernet = 0,
    Network = 1,
    Transport = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal = 0,
    NotEqual = 1,
    Greater = 4,
}
use Comparison::{Equal, Greater, NotEqual};

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

/// What a pod sends by no address: neighbour discovery, and the groups that it
/// listens to, without which a bridge that snoops would not hand it neighbour
/// solicitations.
const OF_THE_LINK: [u8; 6] = [131, 132, 133, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT, 143];

/// The longest payload that an ARP frame has: what Ethernet fills it up to.
const LONGEST_ARP: u32 = 46;

/// The first four bits of an IPv4 multicast address (RFC 5771).
const MULTICAST_IPV4: [u8; 1] = [0xe0];
/// All hosts of the link.
const BROADCAST_IPV4: [u8; 4] = [0xff; 4];
/// The first byte of IPv6 addresses that are for many.
const MANY_IPV6: u8 = 0xff;

/// Of an IPv6 address, in a field of 16 bytes: whether it is link-local.
fn link_local(register: u32, comparison: Comparison) -> [Step; 2] {
    let (mut mask, mut prefix) = (vec![0; 16], vec![0; 16]);
    (mask[0], mask[1]) = (0xff, 0xc0);
    (prefix[0], prefix[1]) = (0xfe, 0x80);
    [Step::Mask(register, mask), Step::Is(comparison, register, prefix)]
}

fn ethertype(is: [u8; 2]) -> Vec<Step> {
    vec![Step::Payload(Header::Ethernet, 12, 2, 0), Step::Is(Equal, 0, is.to_vec())]
}

fn port(port: Meta, set: Set) -> Vec<Step> {
    vec![Step::Meta(port, 0), Step::In(set, 0)]
}

/// The port, and beside it these bytes of a header, are no member of the set.
fn foreign(port: Meta, header: Header, offset: u32, length: u32, set: Set) -> Vec<Step> {
    vec![Step::Meta(port, 0), Step::Payload(header, offset, length, 1), Step::NotIn(set, 0)]
}

/// These bytes of a header compare so.
fn bytes(header: Header, offset: u32, how: Comparison, with: &[u8]) -> Vec<Step> {
    let length = u32::try_from(with.len()).unwrap_or(u32::MAX);
    vec![Step::Payload(header, offset, length, 0), Step::Is(how, 0, with.to_vec())]
}

/// The Ethernet destination is a group.
fn for_many() -> Vec<Step> {
    vec![Step::Payload(Header::Ethernet, 0, 1, 0), Step::Mask(0, vec![1]), Step::Is(NotEqual, 0, vec![0])]
}

/// An IPv4 address at this place of its header is, or is not, a multicast one.
fn multicast_ipv4(offset: u32, how: Comparison) -> Vec<Step> {
    let mask = Step::Mask(0, vec![0xf0]);
    vec![Step::Payload(Header::Network, offset, 1, 0), mask, Step::Is(how, 0, MULTICAST_IPV4.to_vec())]
}

/// It is ICMPv6, behind whatever extension headers.
fn icmpv6() -> Vec<Step> {
    vec![Step::Meta(Meta::Protocol, 0), Step::Is(Equal, 0, vec![ICMPV6])]
}

fn icmpv6_of(kind: u8) -> Vec<Step> {
    [icmpv6(), bytes(Header::Transport, 0, Equal, &[kind])].concat()
}

/// The rules, each with the chain that it is in, in their order.
pub(super) fn rules() -> Vec<(Chain, Rule)> {
    let mut all = Vec::new();
    let mut add = |chain, parts: &[Vec<Step>], verdict| {
        let mut steps = parts.concat();
        steps.push(verdict);
        all.push((chain, Rule(steps)));
    };
    add(RECEIVED, &[port(Meta::InputIndex, Set::Ports)], Step::Jump(FROM_PODS));
    add(RECEIVED, &[port(Meta::InputIndex, Set::Held)], Step::Jump(HELD));
    add(FORWARDED, &[port(Meta::OutputIndex, Set::Guarded)], Step::Jump(GUARDED));
    let confined = [port(Meta::InputIndex, Set::Confined), port(Meta::OutputIndex, Set::Known)];
    add(FORWARDED, &confined, Step::Jump(GUARDED));
    from_pods(&mut add);
    held(&mut add);
    guarded(&mut add);
    all
}

/// What no pod sends.
fn from_pods(add: &mut impl FnMut(Chain, &[Vec<Step>], Step)) {
    add(FROM_PODS, &[ethertype(IPV4)], Step::Goto(FROM_PODS_IPV4));
    add(FROM_PODS, &[ethertype(IPV6)], Step::Goto(FROM_PODS_IPV6));
    add(FROM_PODS, &[ethertype(ARP)], Step::Goto(FROM_PODS_ARP));
    // Tags (VLAN id 0 among them), MPLS, PPPoE, LLC and all else that iptables does
    // not see.
    add(FROM_PODS, &[], Step::Drop);
    // ARP of anything but Ethernet and IPv4, and more than fits.
    add(FROM_PODS_ARP, &[bytes(Header::Network, 0, NotEqual, &[0, 1, 8, 0, 6, 4])], Step::Drop);
    let too_long = vec![
        Step::Meta(Meta::Length, 0),
        Step::NetworkOrder(0),
        Step::Is(Greater, 0, LONGEST_ARP.to_be_bytes().to_vec()),
    ];
    add(FROM_PODS_ARP, &[too_long], Step::Drop);
    // The copy of a frame for many that goes up to the node is confirmed by conntrack
    // (br_nf_local_in), whatever FORWARD says of the others. What claims to be for one
    // in such a frame would make that one's denied flow ESTABLISHED; and so would an
    // answer from the many.
    let for_one = [multicast_ipv4(16, NotEqual), bytes(Header::Network, 16, NotEqual, &BROADCAST_IPV4)].concat();
    add(FROM_PODS_IPV4, &[for_many(), for_one], Step::Drop);
    add(FROM_PODS_IPV4, &[multicast_ipv4(12, Equal)], Step::Drop);
    add(FROM_PODS_IPV4, &[bytes(Header::Network, 12, Equal, &BROADCAST_IPV4)], Step::Drop);
    add(FROM_PODS_IPV6, &[for_many(), bytes(Header::Network, 24, NotEqual, &[MANY_IPV6])], Step::Drop);
    add(FROM_PODS_IPV6, &[bytes(Header::Network, 8, Equal, &[MANY_IPV6])], Step::Drop);
    // What is cut into fragments behind further headers does not tell here what it is, and
    // neighbour discovery in fragments not what it is about. It is whole again before
    // ip6tables sees it, and at the receiver. No host sends either (RFC 6980).
    let fragment = || vec![Step::Extension(FRAGMENT, 0)];
    add(FROM_PODS_IPV6, &[fragment()], Step::Jump(FRAGMENTS));
    add(HELD_IPV6, &[fragment()], Step::Jump(FRAGMENTS));
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
fn held(add: &mut impl FnMut(Chain, &[Vec<Step>], Step)) {
    let sender = |header, offset| foreign(Meta::InputIndex, header, offset, 6, Set::Senders);
    add(HELD, &[sender(Header::Ethernet, 6)], Step::Drop);
    add(HELD, &[ethertype(IPV4)], Step::Goto(HELD_IPV4));
    add(HELD, &[ethertype(IPV6)], Step::Goto(HELD_IPV6));
    add(HELD, &[ethertype(ARP)], Step::Goto(HELD_ARP));
    let said = |offset| bytes(Header::Network, offset, NotEqual, &[0; 4]);
    let not_own4 = |offset| foreign(Meta::InputIndex, Header::Network, offset, 4, Set::Addresses4);
    add(HELD_ARP, &[sender(Header::Network, 8)], Step::Drop);
    // A pod that asks whether an address is taken claims none.
    add(HELD_ARP, &[said(14), not_own4(14)], Step::Drop);
    add(HELD_IPV4, &[said(12), not_own4(12)], Step::Drop);
    // One that asks for its address by DHCP has none.
    let unspecified4 = bytes(Header::Network, 12, Equal, &[0; 4]);
    add(HELD_IPV4, &[unspecified4, bytes(Header::Network, 16, NotEqual, &[0xff; 4])], Step::Drop);

    let not_own6 = |header, offset| foreign(Meta::InputIndex, header, offset, 16, Set::Addresses6);
    let unspecified6 = |how| bytes(Header::Network, 8, how, &[0; 16]);
    let source = [unspecified6(NotEqual), link_local(0, NotEqual).to_vec(), not_own6(Header::Network, 8)].concat();
    add(HELD_IPV6, &[source], Step::Drop);
    // It answers for its own addresses, and asks for itself only about those.
    let target = [
        vec![Step::Payload(Header::Transport, 8, 16, 0)],
        link_local(0, NotEqual).to_vec(),
        not_own6(Header::Transport, 8),
    ]
    .concat();
    add(HELD_IPV6, &[icmpv6_of(NEIGHBOUR_ADVERTISEMENT), target.clone()], Step::Drop);
    add(HELD_IPV6, &[unspecified6(Equal), icmpv6_of(NEIGHBOUR_SOLICITATION), target], Step::Drop);
    // By no address it sends what the link needs.
    let no_icmp = vec![Step::Meta(Meta::Protocol, 0), Step::Is(NotEqual, 0, vec![ICMPV6])];
    add(HELD_IPV6, &[unspecified6(Equal), no_icmp], Step::Drop);
    let others = OF_THE_LINK.map(|kind| Step::Is(NotEqual, 0, vec![kind])).to_vec();
    let other = [icmpv6(), vec![Step::Payload(Header::Transport, 0, 1, 0)], others].concat();
    add(HELD_IPV6, &[unspecified6(Equal), other], Step::Drop);
}

/// What goes to an isolated pod and is for none of its own addresses; or what comes
/// from one, of which the policies judge the destination, in a frame for another than
/// has that. What is for many, or link-local, ip6tables judges.
fn guarded(add: &mut impl FnMut(Chain, &[Vec<Step>], Step)) {
    let not_own = |offset, length, set| foreign(Meta::OutputIndex, Header::Network, offset, length, set);
    add(GUARDED, &[ethertype(IPV4), not_own(16, 4, Set::Addresses4)], Step::Drop);
    let for_one = [
        bytes(Header::Network, 24, NotEqual, &[MANY_IPV6]),
        vec![Step::Payload(Header::Network, 24, 16, 0)],
        link_local(0, NotEqual).to_vec(),
    ]
    .concat();
    add(GUARDED, &[ethertype(IPV6), for_one, not_own(24, 16, Set::Addresses6)], Step::Drop);
}

/// The numbers of expressions' attributes.
mod attribute {
    pub(super) const META_REGISTER: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const PAYLOAD_REGISTER: u16 = 1;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LENGTH: u16 = 4;
    pub(super) const EXTENSION_REGISTER: u16 = 1;
    pub(super) const EXTENSION_NUMBER: u16 = 2;
    pub(super) const EXTENSION_OFFSET: u16 = 3;
    pub(super) const EXTENSION_LENGTH: u16 = 4;
    pub(super) const COMPARE_REGISTER: u16 = 1;
    pub(super) const COMPARE_HOW: u16 = 2;
    pub(super) const COMPARE_WITH: u16 = 3;
    pub(super) const LOOKUP_SET: u16 = 1;
    pub(super) const LOOKUP_REGISTER: u16 = 2;
    pub(super) const LOOKUP_FLAGS: u16 = 5;
    pub(super) const BITWISE_FROM: u16 = 1;
    pub(super) const BITWISE_TO: u16 = 2;
    pub(super) const BITWISE_LENGTH: u16 = 3;
    pub(super) const BITWISE_MASK: u16 = 4;
    pub(super) const BITWISE_XOR: u16 = 5;
    pub(super) const ORDER_FROM: u16 = 1;
    pub(super) const ORDER_TO: u16 = 2;
    pub(super) const ORDER_HOW: u16 = 3;
    pub(super) const ORDER_LENGTH: u16 = 4;
    pub(super) const ORDER_SIZE: u16 = 5;
    pub(super) const IMMEDIATE_REGISTER: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
}

/// What a rule asks, and what becomes of the frame then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule(Vec<Step>);

impl Rule {
    /// Its list of expressions, as an attribute of the rule.
    pub(super) fn put(&self, bytes: &mut Vec<u8>) {
        bytes.put_nested(rule::EXPRESSIONS, |list| {
            for step in &self.0 {
                list.put_nested(LIST_ELEMENT, |one| step.put(one));
            }
        });
    }

    /// Whether a rule's list of expressions, as the kernel has it, is this one.
    /// The kernel adds attributes with defaults; what we wrote is in it unchanged.
    pub(super) fn is(&self, listed: Attributes<'_>) -> bool {
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        let values = |list: Attributes<'_>| -> Option<Vec<(String, Vec<u8>)>> {
            let each = list.each().map(|one| {
                let one = Attributes(one.ok()?.1);
                Some((one.text(expression::NAME).ok()??.to_owned(), one.get(expression::DATA).ok()??.to_vec()))
            });
            each.collect()
        };
        let ours = Attributes(&bytes).nested(rule::EXPRESSIONS).ok().and_then(values);
        let (Some(ours), Some(theirs)) = (ours, values(listed)) else { return false };
        ours.len() == theirs.len()
            && ours.iter().zip(&theirs).all(|((our_name, ours), (their_name, theirs))| {
                our_name == their_name && contains(Attributes(theirs), Attributes(ours))
            })
    }
}

/// Whether all of these attributes are among those.
fn contains(all: Attributes<'_>, some: Attributes<'_>) -> bool {
    some.each().all(|one| one.is_ok_and(|(kind, value)| all.get(kind).is_ok_and(|found| found == Some(value))))
}

impl Step {
    fn put(&self, bytes: &mut Vec<u8>) {
        let mut named = |name: &str, inside: &dyn Fn(&mut Vec<u8>)| {
            bytes.put_text(expression::NAME, name);
            bytes.put_nested(expression::DATA, |data| inside(data));
        };
        match self {
            Self::Meta(key, to) => named("meta", &|data| {
                data.put_u32(attribute::META_REGISTER, register(*to));
                data.put_u32(attribute::META_KEY, *key as u32);
            }),
            Self::Payload(header, offset, length, to) => named("payload", &|data| {
                data.put_u32(attribute::PAYLOAD_REGISTER, register(*to));
                data.put_u32(attribute::PAYLOAD_BASE, *header as u32);
                data.put_u32(attribute::PAYLOAD_OFFSET, *offset);
                data.put_u32(attribute::PAYLOAD_LENGTH, *length);
            }),
            Self::Extension(number, to) => named("exthdr", &|data| {
                data.put_u32(attribute::EXTENSION_REGISTER, register(*to));
                data.put(attribute::EXTENSION_NUMBER, &[*number]);
                data.put_u32(attribute::EXTENSION_OFFSET, 0);
                data.put_u32(attribute::EXTENSION_LENGTH, 1);
            }),
            Self::Mask(at, mask) => named("bitwise", &|data| {
                data.put_u32(attribute::BITWISE_FROM, register(*at));
                data.put_u32(attribute::BITWISE_TO, register(*at));
                data.put_u32(attribute::BITWISE_LENGTH, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                put_value(data, attribute::BITWISE_MASK, mask);
                put_value(data, attribute::BITWISE_XOR, &vec![0; mask.len()]);
            }),
            Self::NetworkOrder(at) => named("byteorder", &|data| {
                data.put_u32(attribute::ORDER_FROM, register(*at));
                data.put_u32(attribute::ORDER_TO, register(*at));
                data.put_u32(attribute::ORDER_HOW, 1);
                data.put_u32(attribute::ORDER_LENGTH, 4);
                data.put_u32(attribute::ORDER_SIZE, 4);
            }),
            Self::Is(how, at, value) => named("cmp", &|data| {
                data.put_u32(attribute::COMPARE_REGISTER, register(*at));
                data.put_u32(attribute::COMPARE_HOW, *how as u32);
                put_value(data, attribute::COMPARE_WITH, value);
            }),
            Self::In(set, at) | Self::NotIn(set, at) => named("lookup", &|data| {
                data.put_text(attribute::LOOKUP_SET, set.name());
                data.put_u32(attribute::LOOKUP_REGISTER, register(*at));
                data.put_u32(attribute::LOOKUP_FLAGS, u32::from(matches!(self, Self::NotIn(..))));
            }),
            Self::Drop | Self::Jump(_) | Self::Goto(_) => named("immediate", &|data| {
                data.put_u32(attribute::IMMEDIATE_REGISTER, 0);
                let (code, chain) = match self {
                    Self::Jump(chain) => (verdict::JUMP, Some(chain)),
                    Self::Goto(chain) => (verdict::GOTO, Some(chain)),
                    _ => (verdict::DROP, None),
                };
                let mut inside = Vec::new();
                inside.put(verdict::CODE, &code.to_be_bytes());
                if let Some(chain) = chain {
                    inside.put_text(verdict::CHAIN, chain.name);
                }
                // Without the flag of attributes that hold others, as the kernel
                // lists it.
                data.put_nested(attribute::IMMEDIATE_DATA, |value| value.put(data::VERDICT, &inside));
            }),
        }
    }
}

fn put_value(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.put_nested(kind, |inside| inside.put(data::VALUE, value));
}

/// The number of a register, by which the kernel lists it, too: those of sixteen
/// bytes have numbers of their own.
const fn register(of_four: u32) -> u32 {
    if of_four.is_multiple_of(4) { of_four / 4 + 1 } else { of_four + 8 }
}
