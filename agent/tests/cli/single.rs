//! `npc explain ENDPOINT`: the view of one end.

use crate::Files;
use crate::manifests::{node, policy_for, running};

/// The legend says what differs where the ends are nodes, which have no replicas.
#[test]
fn what_a_daemon_set_in_its_nodes_networks_may_do_is_said_to_differ_by_node() {
    let text = [
        node("n1", "192.0.2.1"),
        node("n2", "192.0.2.2"),
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: agent}\nspec: {template: {metadata: {labels: {app: agent}}, \
         spec: {hostNetwork: true, containers: [{name: c}]}}}\n---\n"
            .to_owned(),
        running("web", "", "{app: web}", "10.0.0.1"),
        policy_for("{app: web}", "name: web", "policyTypes: [Ingress, Egress]"),
    ];
    let answer = Files::of(&text.concat()).npc("explain", &["ds/agent"]);
    assert!(answer.out.contains("    *~  from default/pod/web\n"), "{}{}", answer.out, answer.err);
    let legend = "\n~ allowed for some only. A node and the pods on it may exchange everything, and policies see each node by \
                  its address; npc explain SRC DST shows what holds for which nodes\n";
    assert!(answer.out.contains(legend) && !answer.out.contains("matrix --by pod"), "{}", answer.out);
    // What it names says it.
    let flows = Files::of(&text.concat()).npc("explain", &["ds/agent", "web:80"]);
    assert!(flows.out.contains("on one node") && flows.out.contains("between different nodes"), "{}", flows.out);
}
