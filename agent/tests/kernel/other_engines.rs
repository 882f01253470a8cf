//! What else is on a node.

use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::other_engines::other_engines;

use super::agent::{Agent, Folder};
use super::dump;
use super::namespace::{Namespace, run};
use super::on_both_backends;

on_both_backends!(
    other_engines_are_found_by_chains_of_either_family_and_by_sets,
    an_agent_names_other_engines_at_its_start_and_touches_nothing_of_them,
);

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

fn an_agent_names_other_engines_at_its_start_and_touches_nothing_of_them(backend: Backend) {
    let _namespace = Namespace::enter();
    // In the tables of the other backend, too.
    let other = if backend == Backend::Nft { Backend::Legacy } else { Backend::Nft };
    for (tool, chain) in [
        (format!("iptables-{backend}"), "cali-FORWARD"),
        (format!("iptables-{other}"), "KUBE-ROUTER-FORWARD"),
        (format!("ip6tables-{backend}"), "CILIUM_FORWARD"),
        (format!("iptables-{other}"), "AZURE-NPM"),
    ] {
        run(&tool, &["-N", chain]);
        run(&tool, &["-A", "FORWARD", "-j", chain]);
    }
    let theirs = |backend| {
        let dump = dump(backend);
        dump.into_iter().filter(|line| !line.contains("NPC-") && !line.contains(" npc")).collect::<Vec<_>>()
    };
    let before = [backend, other].map(theirs);
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &["--once"]);
    // In the order of their names.
    for (engine, has) in [
        ("Azure NPM", format!("chain AZURE-NPM (IPv4, iptables-{other})")),
        ("Calico", format!("chain cali-FORWARD (IPv4, iptables-{backend})")),
        ("Cilium", format!("chain CILIUM_FORWARD (IPv6, iptables-{backend})")),
        ("kube-router", format!("chain KUBE-ROUTER-FORWARD (IPv4, iptables-{other})")),
    ] {
        let entry = agent.wait_for("another network policy engine");
        assert_eq!(entry["level"], "WARN");
        assert_eq!((entry["engine"].as_str(), entry["has"].as_str()), (Some(engine), Some(has.as_str())));
    }
    let (code, said) = agent.ended();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!([backend, other].map(theirs), before);
}
