//! Tests of the interpreter on rulesets written by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use npc_compiler::ruleset::node::{Set, SetKind};

use super::*;

fn rule(matches: impl Into<Vec<Match>>, target: Target) -> Rule {
    Rule { matches: matches.into(), target }
}

fn chain_name(suffix: &str) -> ChainName {
    ChainName::ours(&format!("NPC-{suffix}")).expect("a name of ours")
}

fn ruleset(chains: &[(&str, &[Rule])], sets: &[(&str, SetKind, &[Member])]) -> NodeRuleset {
    let family = |family| FamilyRuleset {
        family,
        sets: BTreeMap::new(),
        chains: BTreeMap::from([(chain_name("FORWARD"), Vec::new())]),
    };
    let mut v4 = family(Family::V4);
    for (name, rules) in chains {
        v4.chains.insert(chain_name(name), rules.to_vec());
    }
    for (name, kind, members) in sets {
        let set =
            Set { kind: *kind, members: members.iter().cloned().collect::<BTreeSet<_>>(), meaning: String::new() };
        v4.sets.insert(SetName::new(Family::V4, name), set);
    }
    NodeRuleset { v4, v6: family(Family::V6) }
}

fn packet() -> Packet {
    let (source, destination) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    Packet::first(source, destination, Payload::Port(Protocol::Tcp, 80))
}

fn set(name: &str, field: SetField) -> Match {
    Match::Set(SetName::new(Family::V4, name), field)
}

fn outcome(ruleset: &NodeRuleset, packet: &Packet) -> Outcome {
    assert_eq!(faults(ruleset), Vec::<String>::new());
    run(ruleset, packet).outcome
}

#[test]
fn a_return_after_goto_lands_after_the_jump() {
    let ruleset = ruleset(
        &[
            ("FORWARD", &[rule([], Target::Jump(chain_name("A"))), rule([], Target::Drop)]),
            ("A", &[rule([], Target::Goto(chain_name("B"))), rule([], Target::Return)]),
            ("B", &[rule([], Target::Return), rule([], Target::Drop)]),
        ],
        &[],
    );
    let run = run(&ruleset, &packet());
    assert_eq!(run.outcome, Outcome::Dropped);
    let trace: Vec<_> = run.trace.iter().map(|(chain, index)| (chain.as_str(), *index)).collect();
    assert_eq!(trace, [("NPC-FORWARD", 0), ("NPC-A", 0), ("NPC-B", 0), ("NPC-FORWARD", 1)]);
}

#[test]
fn the_end_of_a_chain_that_was_gone_to_is_not_continued_where_goto_stood() {
    let ruleset = ruleset(
        &[
            ("FORWARD", &[rule([], Target::Jump(chain_name("A")))]),
            ("A", &[rule([], Target::Goto(chain_name("B"))), rule([], Target::Drop)]),
            ("B", &[]),
        ],
        &[],
    );
    assert_eq!(outcome(&ruleset, &packet()), Outcome::Returned);
}

#[test]
fn a_goto_from_the_first_chain_returns_to_the_rules_of_others() {
    let ruleset = ruleset(
        &[
            ("FORWARD", &[rule([], Target::Goto(chain_name("A"))), rule([], Target::Drop)]),
            ("A", &[rule([], Target::Return)]),
        ],
        &[],
    );
    assert_eq!(outcome(&ruleset, &packet()), Outcome::Returned);
}

#[test]
fn sets_are_asked_about_the_field_named() {
    let member = Member::Address(packet().source);
    let sets: &[(&str, SetKind, &[Member])] = &[("s", SetKind::HashIp, &[member])];
    let by_source = ruleset(&[("FORWARD", &[rule([set("s", SetField::Source)], Target::Drop)])], sets);
    let by_destination = ruleset(&[("FORWARD", &[rule([set("s", SetField::Destination)], Target::Drop)])], sets);
    assert_eq!(outcome(&by_source, &packet()), Outcome::Dropped);
    assert_eq!(outcome(&by_destination, &packet()), Outcome::Returned);
}

#[test]
fn a_prefix_contains_its_addresses_and_a_port_member_needs_all_three() {
    let prefix = Member::Prefix("10.0.0.0/30".parse().unwrap());
    let port = Member::AddressPort(packet().destination, Protocol::Tcp, 80);
    let sets: &[(&str, SetKind, &[Member])] =
        &[("n", SetKind::HashNet, &[prefix]), ("p", SetKind::HashIpPort, &[port])];
    let matches = [set("n", SetField::Source), set("p", SetField::DestinationPort)];
    let ruleset = ruleset(&[("FORWARD", &[rule(matches, Target::Drop)])], sets);
    assert_eq!(outcome(&ruleset, &packet()), Outcome::Dropped);
    let others = [
        Packet { source: "10.0.0.4".parse().unwrap(), ..packet() },
        Packet { destination: "10.0.0.3".parse().unwrap(), ..packet() },
        Packet { payload: Payload::Port(Protocol::Udp, 80), ..packet() },
        Packet { payload: Payload::Port(Protocol::Tcp, 81), ..packet() },
        Packet { payload: Payload::Icmp(8), ..packet() },
    ];
    for other in others {
        assert_eq!(outcome(&ruleset, &other), Outcome::Returned, "{other:?}");
    }
}

#[test]
fn what_the_kernel_would_refuse_is_a_fault() {
    let too_many: Vec<(u16, u16)> = (1..=16).map(|port| (port * 2, port * 2)).collect();
    let ports = |ranges| [Match::Protocol(Protocol::Tcp), Match::DestinationPorts(ranges)];
    let zero = Member::Prefix("0.0.0.0/0".parse().unwrap());
    let host = Member::Prefix("10.0.0.1/32".parse().unwrap());
    let bad: [(&str, NodeRuleset); 7] = [
        ("no chain", ruleset(&[("FORWARD", &[rule([], Target::Jump(chain_name("A")))])], &[])),
        ("circle", ruleset(&[("FORWARD", &[rule([], Target::Jump(chain_name("FORWARD")))])], &[])),
        ("no such set", ruleset(&[("FORWARD", &[rule([set("s", SetField::Source)], Target::Drop)])], &[])),
        ("too many ports", ruleset(&[("FORWARD", &[rule(ports(too_many), Target::Drop)])], &[])),
        (
            "before a protocol",
            ruleset(&[("FORWARD", &[rule([Match::DestinationPorts(vec![(1, 2)])], Target::Drop)])], &[]),
        ),
        ("length 0", ruleset(&[], &[("n", SetKind::HashNet, &[zero])])),
        ("as an address", ruleset(&[], &[("n", SetKind::HashNet, &[host])])),
    ];
    for (fault, ruleset) in bad {
        let found = faults(&ruleset);
        assert!(found.iter().any(|found| found.contains(fault)), "{fault}: {found:?}");
    }
}
