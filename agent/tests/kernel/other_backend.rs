//! Rules of ours that another program restores into the backend that we do not
//! write to go while the agent runs.

use std::fs;

use npc_agent::dataplane::backend::Backend;

use super::agent::{Agent, Folder};
use super::namespace::{Namespace, feed, output, run};
use super::on_both_backends;

on_both_backends!(old_rules_that_are_restored_into_the_other_backend_go, a_backend_that_is_not_in_use_stays_so,);

/// What an agent of long ago had, between rules of others.
const SAVED: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:NPC-FORWARD - [0:0]\n\
                     :NPC-DENY-INGRESS - [0:0]\n:VPN - [0:0]\n-A FORWARD -j NPC-FORWARD\n-A FORWARD -j VPN\n\
                     -A NPC-FORWARD -g NPC-DENY-INGRESS\n-A NPC-DENY-INGRESS -j DROP\n-A VPN -j RETURN\nCOMMIT\n";

fn old_rules_that_are_restored_into_the_other_backend_go(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    let enforced = super::dump(backend);
    let other = if backend == Backend::Nft { Backend::Legacy } else { Backend::Nft };
    for _ in 0..2 {
        for tool in ["iptables", "ip6tables"] {
            feed(&format!("{tool}-{other}-restore"), &[], SAVED);
        }
        if other == Backend::Nft {
            run("nft", &["add", "rule", "ip", "filter", "VPN", "ct state established accept"]);
        }
        while ["iptables", "ip6tables"].iter().any(|tool| forward(tool, other).contains("NPC-")) {
            agent.wait_for("removed rules of npc from the other packet filter");
        }
        assert!(forward("iptables", other).contains("VPN"));
        assert_eq!(super::dump(backend), enforced);
    }
}

/// The rules of FORWARD and the names of all chains.
fn forward(tool: &str, backend: Backend) -> String {
    match backend {
        Backend::Legacy => output(&format!("{tool}-legacy"), &["-S"]),
        Backend::Nft => output("nft", &["list", "table", if tool == "iptables" { "ip" } else { "ip6" }, "filter"]),
    }
}

fn a_backend_that_is_not_in_use_stays_so(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    // The table nat is in use, the table filter is not.
    run("iptables-legacy", &["-t", "nat", "-A", "POSTROUTING", "-s", "192.0.2.1", "-j", "RETURN"]);
    let tables = || fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    if backend == Backend::Nft {
        assert_eq!(tables(), "nat\n");
        // More than one round of audits: this is the second at least.
        for member in ["10.9.9.8", "10.9.9.9"] {
            run("ipset", &["add", "npc4-ingress", member]);
            agent.wait_for("drift repaired");
        }
        assert_eq!(tables(), "nat\n");
    } else {
        assert_eq!(output("nft", &["list", "tables"]), "");
    }
}
