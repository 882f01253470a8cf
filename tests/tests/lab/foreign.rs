//! Rules of other programs that iptables cannot read, in real kernels with real
//! packets: what passes is what the oracle allows, whether the rules were there
//! before the agents or come while they run.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use nix::sys::signal::Signal;
use npc_tests::lab::{Backend, Enforcer, Lab, Mode};

use crate::shop::{all_agree, shop};

const NODES: [&str; 2] = ["node-1", "node-2"];

fn start(mode: Mode) -> Option<Lab> {
    let lab = Lab::builder(shop()).mode(mode).backend(Backend::Nft).enforcer(Enforcer::for_test()?);
    Some(lab.start().unwrap())
}

/// Lets everything pass that is forwarded, in words that iptables does not know.
fn open(lab: &Lab, node: &str, verb: &str) {
    for family in ["ip", "ip6"] {
        let accept = "ct state { new, established, related, invalid, untracked } accept";
        lab.node(node).unwrap().exec(["nft", verb, "rule", family, "filter", "FORWARD", accept], "").unwrap();
    }
}

fn rules_that_come_while_agents_run(mode: Mode) {
    let Some(mut lab) = start(mode) else { return };
    for node in NODES {
        open(&lab, node, "insert");
    }
    for node in NODES {
        let agent = lab.agent(node).unwrap().unwrap();
        agent.wait_log("the jump from FORWARD is not its first rule").unwrap();
        agent.wait_log("drift repaired").unwrap();
    }
    all_agree(&mut lab);
}

#[test]
fn rules_that_come_while_agents_run_open_nothing_routed() {
    rules_that_come_while_agents_run(Mode::Routed);
}

#[test]
fn rules_that_come_while_agents_run_open_nothing_bridged() {
    rules_that_come_while_agents_run(Mode::Bridge);
}

#[test]
fn rules_that_were_there_before_agents_open_nothing() {
    let Some(mut lab) = start(Mode::Routed) else { return };
    for node in NODES {
        lab.take_agent(node).unwrap().unwrap().stop(Signal::SIGTERM).unwrap();
        for tool in ["iptables-nft", "ip6tables-nft"] {
            let text = "*filter\n-F\n-X\nCOMMIT\n";
            lab.node(node).unwrap().exec([&format!("{tool}-restore"), "--noflush"], text).unwrap();
            // What iptables makes anew when it is used.
            lab.node(node).unwrap().exec([tool, "-P", "FORWARD", "ACCEPT"], "").unwrap();
        }
        open(&lab, node, "add");
    }
    assert!(lab.judge().unwrap().mismatches().count() > 0, "nothing is enforced");
    lab.start_agents().unwrap();
    all_agree(&mut lab);
}
