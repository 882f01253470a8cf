//! Agents and plugins of an earlier version on a node with the CNI plugin.

use std::path::PathBuf;

use npc_tests::skip::{Lack, skipped};
use serde_json::json;

use super::node::{Mode, Node, OUTSIDE, binary};
use super::traffic::{listen, passes, reaches};
use super::{addresses, assert_has_flows, objects, the_policies_hold_at_once_with};

/// A program that `deploy/previous.sh` builds, in the folder of the earlier npc.
fn earlier(program: &str) -> Option<PathBuf> {
    let previous = std::env::var_os("NPC_PREVIOUS").map(PathBuf::from);
    let found = previous.and_then(|npc| Some(npc.parent()?.join(program))).filter(|program| program.exists());
    if found.is_none() {
        let lack = "programs of an earlier commit are missing: NPC_PREVIOUS=$(deploy/previous.sh) names one of them";
        skipped(Lack::Previous, &lack);
    }
    found
}

/// The first plugin, which a node may run for a while after an upgrade of the agent.
#[test]
fn the_policies_hold_at_once_with_the_first_plugin_and_todays_agent() {
    let Some(plugin) = earlier("cni/npc-cni") else { return };
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    node.plugin = Some(plugin);
    the_policies_hold_at_once_with(&node, &objects(&["web"]));
}

/// The first agent that serves the plugin, as after a rollback. What it saved is read by today's, and
/// what today's saved by it.
#[test]
fn the_policies_hold_at_once_with_todays_plugin_and_the_first_agent() {
    let Some(first) = earlier("cni/npc") else { return };
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    node.earlier_serves = true;
    node.program = Some(first.clone());
    the_policies_hold_at_once_with(&node, &objects(&["web"]));
    let mut web = node.sandbox("again", json!([]));
    node.write(&objects(&["again"]));
    for next in [None, Some(first), None] {
        if web.addresses().is_empty() {
            node.add(&mut web).unwrap();
        }
        node.kill_agent();
        node.program = next;
        node.start_agent();
        node.wait_ready();
        for to in addresses(OUTSIDE) {
            assert!(!passes(&web.netns, to, 9090) && reaches(&web.netns, to, 8080), "{to}");
        }
        node.check(&web).unwrap();
    }
    node.delete(&web).unwrap();
}

/// An earlier agent does not know the table of addresses with flows, and leaves it. Packets go on to write to
/// it, and today's agent counts on it again only after it has renewed it.
#[test]
fn pods_start_isolated_after_an_earlier_agent_took_over_from_one_with_a_flow_index() {
    let Some(previous) = earlier("npc") else { return };
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    let names = ["first", "second"];
    node.write(&objects(&names));
    listen(node.outside(), &[8080, 9090]);
    for name in names {
        node.start_agent();
        node.wait_ready();
        let mut pod = node.sandbox(name, json!([]));
        node.add(&mut pod).unwrap();
        for to in addresses(OUTSIDE) {
            assert!(!passes(&pod.netns, to, 9090), "{name}: {to}:9090 is denied");
            assert!(reaches(&pod.netns, to, 8080), "{name}: {to}:8080 is allowed");
        }
        assert_has_flows(&node, &pod.addresses());
        node.kill_agent();
        node.program = Some(previous.clone());
        node.start_agent();
        node.wait_ready();
        assert_eq!(node.netns().exec(["nft", "list", "tables", "inet"], "").unwrap(), "table inet npc\n");
        node.delete(&pod).unwrap();
        node.kill_agent();
        node.program = None;
    }
    // Of a node that was rolled back.
    node.netns().exec([binary("npc").to_str().unwrap(), "cleanup"], "").unwrap();
    assert_eq!(node.netns().exec(["nft", "list", "tables", "inet"], "").unwrap(), "");
}
