//! A node's agent is replaced by one that lays its first chain out anew, and by an
//! older one again. What the older one wrote, and for which cluster, lies beside
//! this test. After every write each packet gets the old verdict or the new one.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_agent::source::manifests;
use npc_compiler::cluster::Cluster;
use npc_compiler::object::{Family, Protocol};
use npc_compiler::plan::{FamilyState, KernelState, Plan};
use npc_compiler::ruleset::layout::{self, RulesetOptions};
use npc_compiler::ruleset::node::{ChainName, FamilyRuleset, InterfaceName, Match, Member, NodeRuleset, Set, SetKind};
use npc_compiler::ruleset::text;
use npc_tests::interpreter::{ConntrackState, Outcome, Packet, Payload, faults, run};
use npc_tests::model::Model;

const BEFORE: &str = include_str!("before.txt");
const CLUSTER: &str = include_str!("cluster.yaml");

/// What a kernel holds by which `ipset restore` and two `iptables-restore` were
/// fed with this, IPv4's first.
fn state(text: &str) -> KernelState {
    let mut state = KernelState::default();
    let mut sections = text.split("*filter\n");
    text::read_sets(sections.next().unwrap(), &mut state);
    for (family, section) in Family::ALL.into_iter().zip(sections) {
        let actual = state.family_mut(family);
        actual.chains = text::chains(family, section);
        assert!(!actual.sets.is_empty() && !actual.chains.is_empty(), "{family}");
        assert_eq!(actual.chains.values().flatten().find(|rule| rule.is_foreign()), None);
    }
    state
}

/// The ruleset whose text a kernel holds.
fn ruleset(state: &KernelState) -> NodeRuleset {
    let family = |family, actual: &FamilyState| {
        let set = |(kind, members): &(SetKind, BTreeSet<Member>)| Set {
            kind: *kind,
            members: members.clone(),
            meaning: String::new(),
        };
        FamilyRuleset {
            family,
            sets: actual.sets.iter().map(|(name, actual)| (name.clone(), set(actual))).collect(),
            chains: actual.chains.clone(),
        }
    };
    let ruleset = NodeRuleset { v4: family(Family::V4, &state.v4), v6: family(Family::V6, &state.v6) };
    assert_eq!(faults(&ruleset), Vec::<String>::new());
    ruleset
}

/// Everything that the first chain distinguishes, between pods and an address
/// outside.
fn packets(family: Family) -> Vec<Packet> {
    let ends: &[&str] = match family {
        Family::V4 => &["10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1"],
        Family::V6 => &["fd00::1", "fd00::2", "fd00::3", "2001:db8::1"],
    };
    let ends: Vec<IpAddr> = ends.iter().map(|end| end.parse().unwrap()).collect();
    let errors: &[u8] = if family == Family::V4 { &[3, 5] } else { &[1, 133, 134, 135, 136, 137] };
    let ports = [5432, 80].map(|port| Payload::Port(Protocol::Tcp, port));
    let payloads = || ports.into_iter().chain(errors.iter().map(|kind| Payload::Icmp(*kind)));
    let mut packets = Vec::new();
    for (source, destination) in ends.iter().flat_map(|from| ends.iter().map(move |to| (*from, *to))) {
        for (payload, state) in payloads().flat_map(|payload| {
            [ConntrackState::New, ConntrackState::Established, ConntrackState::Related, ConntrackState::Stray]
                .map(|state| (payload, state))
        }) {
            for interface in [None, InterfaceName::new("azv1")] {
                for (hop_limit, length) in [(64, 100), (255, 100), (255, 1_200), (255, 1_400)] {
                    for (translated, quoted) in [(true, Some(source)), (false, Some(destination)), (false, None)] {
                        let first = Packet::first(source, destination, payload);
                        let quoted_destination = quoted;
                        let packet =
                            Packet { state, interface, hop_limit, length, translated, quoted_destination, ..first };
                        packets.push(packet);
                    }
                }
            }
        }
    }
    packets
}

/// Carries the plan from one state to another out; how many packets have another
/// verdict in the end.
fn watch(old: &KernelState, new: &KernelState) -> usize {
    let plan = Plan::between(old, new);
    let [before, after] = [old, new].map(ruleset);
    let mut differ = 0;
    for family in Family::ALL {
        let verdict = |ruleset: &NodeRuleset, packet: &Packet| run(ruleset, packet).outcome == Outcome::Returned;
        let packets: Vec<(Packet, [bool; 2])> = packets(family)
            .into_iter()
            .map(|packet| (packet, [verdict(&before, &packet), verdict(&after, &packet)]))
            .collect();
        differ += packets.iter().filter(|(_, [before, after])| before != after).count();
        let mut model = Model::new(family, old.family(family));
        model.apply(&plan, |model, what, _| {
            let mut now = old.clone();
            *(if family == Family::V4 { &mut now.v4 } else { &mut now.v6 }) = model.actual();
            let now = ruleset(&now);
            for (packet, verdicts) in &packets {
                let seen = verdict(&now, packet);
                assert!(verdicts.contains(&seen), "{packet:?}: {seen} after {what}, neither of {verdicts:?}");
            }
        });
        assert_eq!(&model.actual(), new.family(family));
    }
    differ
}

#[test]
fn what_an_older_agent_wrote_becomes_what_this_one_writes_and_back_with_nothing_between() {
    let objects = manifests::parse_text("cluster.yaml", CLUSTER, &manifests::ReadOptions::default()).unwrap().objects;
    let desired = KernelState::from(&layout::ruleset(&Cluster::new(&objects), "node-1", &RulesetOptions::default()));
    let before = state(BEFORE);
    // It is the older layout, of this very cluster.
    let first = &before.v4.chains[&ChainName::forward()][0];
    assert_eq!(first.matches, [Match::EstablishedOrRelated]);
    assert_eq!(before.v4.sets, desired.v4.sets);
    assert!(watch(&before, &desired) > 0);
    // An agent of before takes what it does not want away, as this one does.
    assert!(watch(&desired, &before) > 0);
}
