//! CHECK after another program has changed what npc wrote.

use serde_json::json;

use super::addresses;
use super::node::{Mode, Node, OUTSIDE, Pod, wait};
use super::traffic::{listen, passes, reaches};

/// How often a change is made before CHECK must have found it. The agent may have repaired one before.
const TRIES: usize = 40;

/// What another program runs in the node's network namespace.
type Spoiling = Vec<String>;

fn words(line: &str) -> Spoiling {
    line.split(' ').map(str::to_owned).collect()
}

/// The jump from FORWARD, as the command that removes it.
fn remove_jump(node: &Node, program: &str) -> Spoiling {
    let listed = node.netns().exec([program, "-S", "FORWARD"], "").unwrap();
    let jump = listed.lines().find(|line| line.contains("-j NPC-FORWARD")).unwrap_or_else(|| panic!("{listed}"));
    assert!(!jump.contains('"'), "{jump}");
    words(&format!("{program} {}", jump.replacen("-A", "-D", 1)))
}

/// The chain of the rules of the only group in a direction.
fn empty_group(node: &Node, program: &str) -> Spoiling {
    let listed = node.netns().exec([program, "-S"], "").unwrap();
    let chain = listed.lines().filter_map(|line| line.strip_prefix("-N ")).find(|name| name.starts_with("NPC-I-"));
    words(&format!("{program} -F {}", chain.unwrap_or_else(|| panic!("{listed}"))))
}

/// Does this to the kernel until a CHECK finds it.
fn check_fails_after(node: &Node, web: &Pod, spoiling: &Spoiling) {
    for _ in 0..TRIES {
        // Where the agent has not put it back yet, there is nothing to remove.
        let _ = node.netns().exec(spoiling, "");
        if let Err(error) = node.check(web) {
            assert!(error.contains("\"code\":11"), "{spoiling:?}: {error}");
            assert!(error.contains("another program had changed npc's rules or sets"), "{spoiling:?}: {error}");
            assert!(error.contains("shop/web"), "{spoiling:?}: {error}");
            return;
        }
    }
    panic!("CHECK succeeds after {spoiling:?}");
}

fn a_check_fails_while_something_is_missing(backend: &'static str) {
    let Some(node) = Node::ready(Mode::Routed, backend, &["web"]) else { return };
    listen(node.outside(), &[8080, 9090]);
    let mut web = node.sandbox("web", json!([]));
    node.add(&mut web).unwrap();
    node.check(&web).unwrap();
    let [v4, v6] = ["iptables", "ip6tables"].map(|program| format!("{program}-{backend}"));
    for spoiling in [
        remove_jump(&node, &v4),
        remove_jump(&node, &v6),
        words(&format!("{v4} -F NPC-FORWARD")),
        words(&format!("{v6} -F NPC-EGRESS")),
        empty_group(&node, &v4),
        empty_group(&node, &v6),
        words("ipset flush npc4-egress"),
        words("ipset flush npc6-ingress"),
        words("ipset del npc4-ingress 10.0.0.2"),
        words("ipset del npc6-egress fd00::2"),
        // Isolates what no policy isolates.
        words("ipset add npc4-ingress 10.0.0.200"),
    ] {
        check_fails_after(&node, &web, &spoiling);
        wait("what was missing is put back", || node.check(&web).is_ok());
    }
    for to in addresses(OUTSIDE) {
        assert!(!passes(&web.netns, to, 9090) && reaches(&web.netns, to, 8080), "{to}");
    }
}

#[test]
fn a_check_fails_while_something_is_missing_by_nft() {
    a_check_fails_while_something_is_missing("nft");
}

#[test]
fn a_check_fails_while_something_is_missing_by_legacy() {
    a_check_fails_while_something_is_missing("legacy");
}
