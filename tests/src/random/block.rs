//! Random `ipBlock`s, in every spelling that an API server ever took, and some
//! that none did.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::networking::v1::IPBlock;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::{collection::vec, option};

use super::{NODE_V4, NODE_V6, OUTSIDE, POD_V4, POD_V6};

/// Texts that are no CIDR.
const WRONG: [&str; 16] = [
    "",
    "10.0.0.1",
    "10.0.0.0/33",
    "10.0.0.0/-1",
    "10.0.0.0/+8",
    "10.0.0.0/",
    "10.0.0/24",
    "10.0.0.256/32",
    " 10.0.0.0/8",
    "10.0.0.0/8 ",
    "10.0.0.0.0/8",
    "fd00::/129",
    "fd00:::/64",
    "fe80::1%eth0/64",
    "::ffff:10.0.0/104",
    "fd00::10.0.0.0:1/64",
];

/// How an address and a length are written.
#[derive(Debug, Clone, Copy)]
enum Spelling {
    /// As today's API server wants it.
    Canonical,
    /// With host bits.
    HostBits,
    /// With leading zeros everywhere, and host bits.
    Zeros,
    /// IPv4 as IPv4-mapped IPv6; IPv6 without `::`.
    Long,
}

pub(super) fn block() -> impl Strategy<Value = IPBlock> {
    let excepts = prop_oneof![
        3 => Just(Vec::new()),
        3 => vec(except(), 1..=3),
    ];
    (base(), spelling(), excepts, option::weighted(0.12, text())).prop_map(
        |((address, length), spelling, excepts, instead)| {
            let except: Vec<String> = excepts.into_iter().map(|except| except.within(address, length)).collect();
            IPBlock {
                cidr: instead.unwrap_or_else(|| spell(address, length, spelling)),
                except: (!except.is_empty()).then_some(except),
            }
        },
    )
}

/// An exception, before it is known from what.
#[derive(Debug, Clone)]
enum Except {
    /// Somewhere in the block, this many bits smaller.
    Inside { towards: IpAddr, bits: u8, spelling: Spelling },
    /// Any text: a prefix outside of the block, of the other family or around the block, or a wrong one.
    Any(String),
}

impl Except {
    fn within(self, block: IpAddr, length: u8) -> String {
        match self {
            Self::Any(text) => text,
            Self::Inside { towards, bits, spelling } => {
                let address = graft(block, length, towards);
                let longest = if block.is_ipv4() { 32 } else { 128 };
                spell(address, length.saturating_add(bits).min(longest), spelling)
            }
        }
    }
}

fn except() -> impl Strategy<Value = Except> {
    let bits = prop_oneof![Just(0_u8), Just(1), Just(2), 0_u8..128];
    prop_oneof![
        6 => (address(), bits, spelling()).prop_map(|(towards, bits, spelling)| Except::Inside { towards, bits, spelling }),
        1 => text().prop_map(Except::Any),
    ]
}

/// The first `length` bits of `head`, and the rest of `tail` where it is of
/// the same family.
fn graft(head: IpAddr, length: u8, tail: IpAddr) -> IpAddr {
    match (head, tail) {
        (IpAddr::V4(head), IpAddr::V4(tail)) => {
            let hosts = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(head.to_bits() & !hosts | tail.to_bits() & hosts))
        }
        (IpAddr::V6(head), IpAddr::V6(tail)) => {
            let hosts = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(head.to_bits() & !hosts | tail.to_bits() & hosts))
        }
        _ => head,
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => cidr(),
        1 => select(&WRONG[..]).prop_map(str::to_owned),
    ]
}

fn cidr() -> impl Strategy<Value = String> {
    (base(), spelling()).prop_map(|((address, length), spelling)| spell(address, length, spelling))
}

fn base() -> impl Strategy<Value = (IpAddr, u8)> {
    let v4 = prop_oneof![select(vec![0_u8, 0, 1, 8, 8, 16, 24, 25, 30, 31, 32]), 0_u8..=32];
    let v6 = prop_oneof![select(vec![0_u8, 0, 1, 8, 8, 16, 64, 96, 112, 126, 127, 128]), 0_u8..=128];
    (address(), v4, v6).prop_map(|(address, v4, v6)| (address, if address.is_ipv4() { v4 } else { v6 }))
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        6 => select(&POD_V4[..]).prop_map(IpAddr::V4),
        4 => select(&POD_V6[..]).prop_map(IpAddr::V6),
        2 => select(NODE_V4.concat()).prop_map(IpAddr::V4),
        1 => select(&NODE_V6[..]).prop_map(IpAddr::V6),
        2 => select(&OUTSIDE[..]),
        1 => any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
    ]
}

fn spelling() -> impl Strategy<Value = Spelling> {
    prop_oneof![
        6 => Just(Spelling::Canonical),
        2 => Just(Spelling::HostBits),
        1 => Just(Spelling::Zeros),
        1 => Just(Spelling::Long),
    ]
}

fn spell(address: IpAddr, length: u8, spelling: Spelling) -> String {
    let zero: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    match (spelling, address) {
        (Spelling::Canonical, _) => format!("{}/{length}", graft(address, length, zero)),
        (Spelling::HostBits, _) => format!("{address}/{length}"),
        (Spelling::Zeros, IpAddr::V4(v4)) => {
            let [a, b, c, d] = v4.octets();
            format!("{a:03}.{b:03}.{c:03}.{d:03}/{length:03}")
        }
        (Spelling::Long, IpAddr::V4(v4)) => format!("::ffff:{v4}/{}", u32::from(length) + 96),
        (Spelling::Zeros, IpAddr::V6(v6)) => long(v6, length, 5),
        (Spelling::Long, IpAddr::V6(v6)) => long(v6, length, 4),
    }
}

/// All eight groups, each with this many digits at least.
fn long(address: Ipv6Addr, length: u8, digits: usize) -> String {
    let mut text = String::new();
    for group in address.segments() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{group:0digits$x}:");
    }
    text.pop();
    format!("{text}/{length}")
}
