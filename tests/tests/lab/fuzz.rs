//! Frames of every kind against pods that policies isolate, with real agents:
//! what arrives is on the closed list.
//!
//! `NPC_FUZZ_SHAPES` has more sent in all, `NPC_FUZZ_SEED` and `NPC_FUZZ_FIRST`
//! begin elsewhere; what a failure prints sends the same shape again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use nix::sys::signal::Signal;
use npc_tests::fuzz::closed::CLOSED;
use npc_tests::fuzz::shape::KINDS;
use npc_tests::fuzz::{Fuzzer, Report, UNKNOWN, world};
use npc_tests::lab::{Backend, Enforcer, Lab, Mode, can_run};

use crate::number;

/// How many shapes are sent in all, unless `NPC_FUZZ_SHAPES` says otherwise.
const SHAPES: u64 = 120_000;
/// Two modes, two backends, with and without `--anti-spoof`.
const COMBINATIONS: u32 = 8;

fn lab(mode: Mode, backend: Backend, anti_spoof: bool, enforcer: Enforcer) -> Lab {
    let arguments: &[&str] = if anti_spoof { &["--anti-spoof"] } else { &[] };
    let has_agent = enforcer != Enforcer::None;
    let mut lab = world::lab(mode, backend, enforcer, arguments).unwrap();
    if has_agent {
        lab.settle().unwrap();
    }
    lab
}

/// Sends this many shapes, or as many as the environment says, or the one that
/// it names.
fn send(fuzzer: &mut Fuzzer, shapes: u32) -> Report {
    let first = u32::try_from(number("NPC_FUZZ_FIRST", 0)).unwrap();
    fuzzer.run(number("NPC_FUZZ_SEED", 1), first, shapes).unwrap()
}

fn nothing_arrives(mode: Mode, backend: Backend) {
    let Some(agent) = Enforcer::for_test() else { return };
    let shapes = u32::try_from(number("NPC_FUZZ_SHAPES", SHAPES)).unwrap().div_ceil(COMBINATIONS);
    for anti_spoof in [false, true] {
        let lab = lab(mode, backend, anti_spoof, agent.clone());
        let report = send(&mut Fuzzer::new(&lab, anti_spoof).unwrap(), shapes);
        eprintln!("{mode:?} {backend:?} anti-spoof {anti_spoof}: {report}");
        assert_eq!(report.findings.len(), 0, "{mode:?} {backend:?} anti-spoof {anti_spoof}: {report}");
    }
}

#[test]
fn nothing_that_policies_deny_arrives_routed_by_nft() {
    nothing_arrives(Mode::Routed, Backend::Nft);
}

#[test]
fn nothing_that_policies_deny_arrives_routed_by_legacy() {
    nothing_arrives(Mode::Routed, Backend::Legacy);
}

#[test]
fn nothing_that_policies_deny_arrives_bridged_by_nft() {
    nothing_arrives(Mode::Bridge, Backend::Nft);
}

#[test]
fn nothing_that_policies_deny_arrives_bridged_by_legacy() {
    nothing_arrives(Mode::Bridge, Backend::Legacy);
}

/// If nothing arrived because it is not sent, or because no mark is seen, the
/// tests above would see nothing either.
#[test]
fn without_an_agent_every_part_of_the_grammar_arrives() {
    if !can_run() {
        return;
    }
    for mode in [Mode::Routed, Mode::Bridge] {
        let lab = lab(mode, Backend::Nft, false, Enforcer::None);
        let mut fuzzer = Fuzzer::new(&lab, false).unwrap();
        fuzzer.is_shrinking = false;
        let report = fuzzer.run(1, 0, 10_000).unwrap();
        let is_for_bridges = |kind: &str| ["arp", "foreign", "llc", "tag", "two tags", "group frame"].contains(&kind);
        let wanted = KINDS.into_iter().filter(|kind| mode == Mode::Bridge || !is_for_bridges(kind));
        let lacking: Vec<&str> = wanted.filter(|kind| report.kinds.get(kind).is_none_or(|count| *count < 5)).collect();
        assert_eq!(lacking, Vec::<&str>::new(), "{mode:?}: {:?}", report.kinds);
        assert!(report.of_kind(UNKNOWN).count() > 1_000, "{mode:?}: {report}");
    }
}

/// The rules of a family that keep something out, by number, as they are added.
fn rules(lab: &Lab, tool: &str, mode: Mode) -> Vec<(usize, String)> {
    let listed = lab.node("node-1").unwrap().exec([tool, "-S", "NPC-FORWARD"], "").unwrap();
    let rules = listed.lines().filter_map(|line| line.strip_prefix("-A NPC-FORWARD ")).enumerate();
    // Some are not alone in what they keep out: those for segments without a
    // connection, which are there for flows that were cut, and those for
    // link-local addresses and groups, which no router forwards.
    let others = ["fe80::/10", "ff00::/8", "224.0.0.0/4", "BROADCAST", "-s 0.0.0.0/32", "-s ::/128"];
    let is_keeping = |rule: &str| {
        let is_alone = !others.iter().any(|address| rule.contains(address));
        // Ports of a bridge are held by the table of the bridge family before.
        let is_first = mode == Mode::Routed || !rule.ends_with("NPC-SPOOF");
        let keeps = ["DROP", "NPC-EGRESS", "NPC-INGRESS", "NPC-SPOOF"].iter().any(|to| rule.ends_with(to));
        is_alone && is_first && keeps
    };
    rules.filter(|(_, rule)| is_keeping(rule)).map(|(at, rule)| (at + 1, rule.to_owned())).collect()
}

fn every_rule_is_missed(mode: Mode, backend: Backend) {
    const SHAPES: u32 = 3_000;
    let Some(agent) = Enforcer::for_test() else { return };
    let mut lab = lab(mode, backend, true, agent);
    let mut fuzzer = Fuzzer::new(&lab, true).unwrap();
    fuzzer.is_shrinking = false;
    let before = fuzzer.run(1, 0, SHAPES).unwrap().findings.len();
    lab.take_agent("node-1").unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
    for tool in ["iptables", "ip6tables"] {
        let tool = format!("{tool}-{}", backend.as_str());
        let restore = |line: &str| {
            let text = format!("*filter\n{line}\nCOMMIT\n");
            lab.node("node-1").unwrap().exec([&format!("{tool}-restore"), "--noflush"], &text).unwrap();
        };
        for (at, rule) in rules(&lab, &tool, mode) {
            restore(&format!("-D NPC-FORWARD {at}"));
            let report = fuzzer.run(1, 0, SHAPES).unwrap();
            assert!(report.findings.len() > before + 3, "without {rule}: {before} before, {}", report.findings.len());
            restore(&format!("-I NPC-FORWARD {at} {rule}"));
        }
    }
}

#[test]
fn every_rule_is_missed_routed_by_legacy() {
    every_rule_is_missed(Mode::Routed, Backend::Legacy);
}

#[test]
fn every_rule_is_missed_bridged_by_nft() {
    every_rule_is_missed(Mode::Bridge, Backend::Nft);
}

/// The closed list of docs/security.md and the one that the tests judge by have
/// the same names.
#[test]
fn the_closed_list_is_the_documents() {
    let document = include_str!("../../../docs/security.md");
    let lacking: Vec<&str> =
        CLOSED.iter().map(|entry| entry.name).filter(|name| !document.contains(&format!("`{name}`"))).collect();
    assert_eq!(lacking, Vec::<&str>::new());
}
