//! `npc cleanup` leaves the kernel as it was before us.

use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::cleanup::cleanup;
use npc_agent::dataplane::{Kernel, Linux};
use npc_compiler::plan::{KernelState, Plan};
use npc_compiler::ruleset::constants::POD_GROUP;

use super::namespace::{Namespace, feed, output, run};
use super::rulesets::everything;
use super::{dump, on_both_backends};

on_both_backends!(
    the_kernel_is_byte_for_byte_as_before,
    what_another_program_uses_is_reported_and_the_rest_goes,
    nothing_of_ours_is_nothing_to_remove,
);

fn enforce_everything(backend: Backend) {
    let mut kernel = Linux::open(Some(backend)).unwrap();
    kernel.apply(&Plan::new(&KernelState::default(), &everything())).unwrap();
    kernel.insert_hook().unwrap();
}

fn the_kernel_is_byte_for_byte_as_before(backend: Backend) {
    let _namespace = Namespace::enter();
    let others = "*filter\n:KUBE-FORWARD - [0:0]\n-A FORWARD -j KUBE-FORWARD\n\
                  -A KUBE-FORWARD -m set --match-set KUBE-X src -j ACCEPT\nCOMMIT\n";
    run("ipset", &["create", "KUBE-X", "hash:ip"]);
    run("ipset", &["add", "KUBE-X", "10.0.0.1"]);
    feed(&format!("iptables-{backend}-restore"), &[], others);
    run(&format!("ip6tables-{backend}"), &["-P", "FORWARD", "DROP"]);
    let before = dump(backend);

    enforce_everything(backend);
    run("ip", &["link", "add", "azv1", "type", "veth", "peer", "name", "peer1"]);
    run("ip", &["link", "set", "azv1", "group", &POD_GROUP.to_string()]);
    run("ip", &["link", "set", "peer1", "group", "7"]);
    // As after a crash in the middle of a probe.
    run(&format!("iptables-{backend}"), &["-N", "NPC-PROBE"]);
    run(&format!("iptables-{backend}"), &["-A", "FORWARD", "-j", "NPC-FORWARD"]);
    let removed = cleanup();
    assert!(removed.errors.is_empty(), "{:?}", removed.errors);
    assert_eq!(removed.jumps.len(), 2);
    assert_eq!(removed.interfaces, ["azv1"]);
    assert!(output("ip", &["link", "show", "group", "7"]).contains("peer1"));
    assert_eq!(output("ip", &["link", "show", "group", &POD_GROUP.to_string()]), "");
    assert_eq!((removed.chains.len(), removed.sets.len()), (9, 10));
    assert_eq!(dump(backend), before);
    assert!(cleanup().is_nothing());
}

fn what_another_program_uses_is_reported_and_the_rest_goes(backend: Backend) {
    let _namespace = Namespace::enter();
    enforce_everything(backend);
    let iptables = format!("iptables-{backend}");
    run(&iptables, &["-A", "OUTPUT", "-j", "NPC-INGRESS"]);
    run(&iptables, &["-A", "OUTPUT", "-m", "set", "--match-set", "npc4-peers", "dst", "-j", "DROP"]);
    let removed = cleanup();
    let errors: Vec<String> = removed.errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("-X NPC-INGRESS"), "{errors:?}");
    assert!(errors[1].contains("destroy npc4-peers"), "{errors:?}");
    assert_eq!(output("ipset", &["list", "-name"]), "npc4-peers\n");
    let chains = output(&iptables, &["-S"]);
    assert_eq!(chains.matches("-N ").count(), 1, "{chains}");
}

fn nothing_of_ours_is_nothing_to_remove(backend: Backend) {
    let _namespace = Namespace::enter();
    let other = if backend == Backend::Nft { Backend::Legacy } else { Backend::Nft };
    run(&format!("iptables-{backend}"), &["-P", "FORWARD", "DROP"]);
    let before = (dump(backend), std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap());
    assert!(cleanup().is_nothing(), "{other}");
    assert_eq!((dump(backend), std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap()), before);
}
