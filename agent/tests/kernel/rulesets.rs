//! Programs built by hand, small and with something of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_compiler::object::{Family, Protocol};
use npc_compiler::ruleset::node::{
    ChainName, FORWARD_CHAIN, FamilyRuleset, InterfaceName, Match, Member, NodeRuleset, Rule, Set, SetField, SetKind,
    SetName, Target,
};
use npc_compiler::ruleset::text;

/// An address of a family, by a small number.
pub(crate) fn address(family: Family, n: u16) -> IpAddr {
    let text = match family {
        Family::V4 => format!("10.0.{}.{}", n >> 8, n & 255),
        Family::V6 => format!("fd00::{n:x}"),
    };
    text.parse().unwrap()
}

pub(crate) fn set(kind: SetKind, members: impl IntoIterator<Item = Member>) -> Set {
    Set { kind, members: members.into_iter().collect::<BTreeSet<_>>(), meaning: String::new() }
}

fn rule(matches: Vec<Match>, target: Target) -> Rule {
    Rule { matches, target }
}

fn ruleset(family: impl Fn(Family) -> FamilyRuleset) -> NodeRuleset {
    NodeRuleset { v4: family(Family::V4), v6: family(Family::V6) }
}

/// Drops what comes for these addresses.
pub(crate) fn dropping(addresses: &[u16]) -> NodeRuleset {
    ruleset(|family| {
        let name = SetName::new(family, "dropped");
        let members = addresses.iter().map(|n| Member::Address(address(family, *n)));
        let matches = vec![Match::Set(name.clone(), SetField::Destination)];
        let chain = ChainName::ours(FORWARD_CHAIN).unwrap();
        FamilyRuleset {
            family,
            sets: BTreeMap::from([(name, set(SetKind::HashIp, members))]),
            chains: BTreeMap::from([(chain, vec![rule(matches, Target::Drop)])]),
        }
    })
}

/// Every kind of set, member, match and target that a ruleset may have.
pub(crate) fn everything() -> NodeRuleset {
    ruleset(everything_of)
}

fn everything_of(family: Family) -> FamilyRuleset {
    let (peers, blocks, ports) =
        (SetName::new(family, "peers"), SetName::new(family, "blocks"), SetName::new(family, "ports"));
    let prefixes = match family {
        Family::V4 => ["0.0.0.0/1", "128.0.0.0/1", "10.1.0.0/16", "192.0.2.128/25"],
        Family::V6 => ["::/1", "8000::/1", "2001:db8::/32", "2001:db8:0:0:8000::/65"],
    };
    let prefixes = prefixes.map(|text| Member::Prefix(text.parse().unwrap()));
    let host = Member::Address(address(family, 9));
    let named = Protocol::ALL.map(|protocol| Member::AddressPort(address(family, 1), protocol, 8080));
    let own = [("0.0.0.0/0", "::/0"), ("10.0.0.1/32", "fd00::1/128"), ("10.1.0.0/16", "fd00::/64")];
    let own = own.map(|(v4, v6)| if family == Family::V4 { v4 } else { v6 }.parse().unwrap());
    let interfaces = ["azv1", "an-interface.15"].map(|name| InterfaceName::new(name).unwrap());
    let own = own.into_iter().flat_map(|prefix| interfaces.map(|name| Member::of_interface(prefix, name)));
    let everybody = (1..=1000).map(|n| Member::Address(address(family, n)));
    let sets = BTreeMap::from([
        (peers.clone(), set(SetKind::HashIp, everybody)),
        (blocks.clone(), set(SetKind::HashNet, prefixes.into_iter().chain([host]))),
        (ports.clone(), set(SetKind::HashIpPort, named)),
        (SetName::new(family, "empty"), set(SetKind::HashNet, [])),
        (SetName::own(family), set(SetKind::HashNetIface, own)),
    ]);

    let source = Match::Source(address(family, 1).into());
    let destination = Match::Destination(address(family, 2).into());
    let wide = match family {
        Family::V4 => Match::Source("10.0.0.0/8".parse().unwrap()),
        Family::V6 => Match::Source("fe80::/10".parse().unwrap()),
    };
    let (from_peers, to_blocks) =
        (Match::Set(peers, SetField::Source), Match::Set(blocks.clone(), SetField::Destination));
    let mut leaf = vec![
        rule(vec![from_peers.clone()], Target::Return),
        rule(vec![Match::Set(ports, SetField::DestinationPort)], Target::Return),
        rule(vec![source, destination.clone()], Target::Return),
        rule(vec![wide, from_peers.clone(), to_blocks.clone()], Target::Return),
        rule(vec![destination, Match::Protocol(Protocol::Tcp), from_peers.clone()], Target::Return),
    ];
    let fifteen: Vec<(u16, u16)> = (0..7).map(|n| (n * 100 + 1, n * 100 + 50)).chain([(65535, 65535)]).collect();
    for protocol in Protocol::ALL {
        leaf.push(rule(vec![Match::Protocol(protocol)], Target::Return));
        for ranges in [vec![(80, 80)], vec![(8000, 8100)], vec![(1, 65535)], fifteen.clone()] {
            let matches = vec![Match::Protocol(protocol), Match::DestinationPorts(ranges), from_peers.clone()];
            leaf.push(rule(matches, Target::Return));
        }
    }
    let comments = ["word", "two words", "isolated by shop/db, shop/default-deny", "a.b:c;(d)", "42", "-", " x ", ""];
    let comments = comments.iter().map(|text| (*text).to_owned()).chain(["x".repeat(255), "x y".repeat(85)]);
    for comment in comments {
        leaf.push(rule(vec![Match::Comment(text::comment(&comment).into())], Target::Drop));
    }
    leaf.push(rule(Vec::new(), Target::Drop));

    let chain = |suffix: &str| ChainName::ours(&format!("NPC-{suffix}")).unwrap();
    let (tree, group, longest) = (chain("INGRESS"), chain("I-7g2q9x"), chain(&"x".repeat(ChainName::MAX - 4)));
    leaf.extend([4, 41, 47].map(|number| rule(vec![Match::ProtocolNumber(number)], Target::Drop)));
    for matches in [vec![], vec![Match::ProtocolNumber(4)], vec![Match::Protocol(Protocol::Udp)]] {
        leaf.push(rule([matches, vec![Match::Limited]].concat(), Target::Log));
    }
    let forged = vec![Match::FromPods, Match::NotInSet(SetName::own(family), SetField::SourceInterface)];
    let mut forward = vec![rule(forged, Target::Drop), rule(vec![Match::EstablishedOrRelated], Target::Return)];
    forward.push(rule(vec![Match::NotSyn, Match::NewOrInvalid, to_blocks.clone()], Target::Drop));
    if family == Family::V6 {
        forward.extend((133..=137).map(|kind| rule(vec![Match::Icmpv6Type(kind)], Target::Return)));
    }
    if family == Family::V4 {
        forward.push(rule(vec![Match::ToBroadcast], Target::Drop));
    }
    forward.push(rule(vec![Match::SourceIsDestination], Target::Return));
    forward.push(rule(vec![to_blocks], Target::Jump(tree.clone())));
    let chains = BTreeMap::from([
        (chain("FORWARD"), forward),
        (
            tree,
            vec![rule(vec![from_peers], Target::Goto(group.clone())), rule(Vec::new(), Target::Goto(longest.clone()))],
        ),
        (group, leaf),
        (longest, Vec::new()),
    ]);
    FamilyRuleset { family, sets, chains }
}
