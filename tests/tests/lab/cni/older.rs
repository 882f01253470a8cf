//! Agents of an earlier version on a node with the CNI plugin.

use std::path::PathBuf;

use npc_tests::skip::{Lack, skipped};
use serde_json::json;

use super::node::{Mode, Node, OUTSIDE, binary};
use super::traffic::{listen, passes, reaches};
use super::{addresses, assert_has_flows, objects};

/// An earlier agent does not know the table of addresses with flows, and leaves it. Packets go on to write to
/// it, and today's agent counts on it again only after it has renewed it.
#[test]
fn pods_start_isolated_after_an_earlier_agent_took_over_from_one_with_a_flow_index() {
    let Some(previous) = std::env::var_os("NPC_PREVIOUS").map(PathBuf::from) else {
        let lack = "the npc of an earlier commit is missing: NPC_PREVIOUS=$(deploy/previous.sh) names it";
        skipped(Lack::Previous, &lack);
        return;
    };
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
