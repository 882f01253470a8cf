//! What else is on a node.

use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::surroundings::other_engines;

use super::namespace::{Namespace, run};
use super::on_both_backends;

on_both_backends!(other_engines_are_found_by_chains_of_either_family_and_by_sets);

fn other_engines_are_found_by_chains_of_either_family_and_by_sets(backend: Backend) {
    let _namespace = Namespace::enter();
    assert_eq!(other_engines().unwrap(), [].into());
    run(&format!("iptables-{backend}"), &["-N", "KUBE-FORWARD"]);
    run(&format!("ip6tables-{backend}"), &["-N", "cali-FORWARD"]);
    run("ipset", &["create", "weave-local-pods", "hash:ip"]);
    run("ipset", &["create", "mine", "hash:ip"]);
    let chain = format!("chain cali-FORWARD (IPv6, iptables-{backend})");
    let expected = [("Calico", chain), ("Weave Net", "set weave-local-pods".to_owned())];
    assert_eq!(other_engines().unwrap(), expected.into());
}
