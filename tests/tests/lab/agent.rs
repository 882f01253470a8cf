//! Real agents in the lab: what they let through is what the oracle allows,
//! before and after changes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use nix::sys::signal::Signal;
use npc_tests::lab::{Backend, Enforcer, Lab, Mode};

use crate::shop::{all_agree, edits_are_followed, shop};

fn start(mode: Mode, backend: Backend) -> Option<Lab> {
    let agent = Enforcer::for_test()?;
    Some(Lab::builder(shop()).mode(mode).backend(backend).enforcer(agent).start().unwrap())
}

fn the_shop_is_kept(mode: Mode, backend: Backend) {
    if let Some(mut lab) = start(mode, backend) {
        all_agree(&mut lab);
    }
}

#[test]
fn the_shop_is_kept_routed_by_nft() {
    the_shop_is_kept(Mode::Routed, Backend::Nft);
}

#[test]
fn the_shop_is_kept_routed_by_legacy() {
    the_shop_is_kept(Mode::Routed, Backend::Legacy);
}

#[test]
fn the_shop_is_kept_bridged_by_nft() {
    the_shop_is_kept(Mode::Bridge, Backend::Nft);
}

#[test]
fn the_shop_is_kept_bridged_by_legacy() {
    the_shop_is_kept(Mode::Bridge, Backend::Legacy);
}

#[test]
fn agents_follow_policies_and_labels() {
    let Some(mut lab) = start(Mode::Routed, Backend::Nft) else { return };
    edits_are_followed(&mut lab);
}

#[test]
fn a_killed_agent_leaves_its_rules_and_its_successor_keeps_them() {
    let Some(mut lab) = start(Mode::Bridge, Backend::Nft) else { return };
    let agent = lab.take_agent("node-2").unwrap().unwrap();
    agent.stop(Signal::SIGKILL).unwrap();
    let all = all_agree(&mut lab);
    lab.start_agents().unwrap();
    assert_eq!(all_agree(&mut lab), all, "after an agent came, a sample is not enough");
    lab.take_agent("node-1").unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
    lab.start_agent("node-1").unwrap();
    lab.wait_generation(0).unwrap();
    assert_eq!(all_agree(&mut lab), all, "and after another");
}

#[test]
fn a_lab_reports_that_policies_are_not_enforced() {
    let Some(mut lab) = start(Mode::Routed, Backend::Nft) else { return };
    let flush = ["iptables-nft", "-D", "FORWARD", "-j", "NPC-FORWARD"];
    let agent = lab.take_agent("node-1").unwrap().unwrap();
    agent.stop(Signal::SIGKILL).unwrap();
    lab.node("node-1").unwrap().exec(flush, "").unwrap();
    let judgement = lab.judge().unwrap();
    assert!(judgement.mismatches().count() > 0);
    // Only what crosses node-1 can have gone wrong, and only by arriving.
    for judged in judgement.mismatches() {
        let ends = [judged.probe.from, judged.probe.to].map(|place| &lab.places()[place]);
        assert!(ends.iter().any(|place| place.node() == lab.find("node/node-1").ok()), "{judged:?}");
        assert!(!judged.expected.allowed(), "{judged:?}");
    }
}
