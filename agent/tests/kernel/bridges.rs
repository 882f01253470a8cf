//! Bridges that iptables does not see.

use std::fs;
use std::net::IpAddr;

use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::conntrack::sweep;
use npc_compiler::object::Family;
use npc_compiler::plan::conntrack::FlowKey;

use super::agent::{Agent, Folder};
use super::conntrack::Table;
use super::metrics::Scrape;
use super::namespace::{Beyond, Namespace, ip};
use super::on_both_backends;

on_both_backends!(a_sysctl_that_another_program_turns_is_noticed_without_an_event);

/// A bridge with two pods' ports, and the pods' subnets.
fn bridge(beyond: &Beyond) {
    ip("link add cbr0 type bridge");
    ip("link set cbr0 up");
    for port in ["port1", "port2"] {
        beyond.veth(port);
        ip(&format!("link set {port} master cbr0"));
    }
    ip("address add 10.244.1.254/24 dev cbr0");
    ip("-6 address add fd00::fe/64 dev cbr0 nodad");
}

fn turn(tables: &str, value: &str) {
    fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{tables}"), value).unwrap();
}

fn a_sysctl_that_another_program_turns_is_noticed_without_an_event(backend: Backend) {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    bridge(&beyond);
    for tables in ["iptables", "ip6tables"] {
        turn(tables, "1");
    }
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    let count = |family: &str| Scrape::now().count(&format!("npc_unfiltered_bridges{{family=\"{family}\"}}"));
    assert_eq!((count("IPv4"), count("IPv6")), (0, 0));
    for (tables, family, denied) in
        [("iptables", "IPv4", ("10.244.1.9", "10.244.1.1")), ("ip6tables", "IPv6", ("fd00::9", "fd00::1"))]
    {
        turn(tables, "0");
        let entry = agent.wait_for("reach each other past iptables");
        assert_eq!((entry["bridge"].as_str(), entry["family"].as_str()), (Some("cbr0"), Some(family)));
        assert_eq!((entry["ports"].as_u64(), entry["isolated"].as_u64()), (Some(2), Some(1)));
        assert_eq!(count(family), 1);
        // What tracks connections in the bridge itself knows a flow that nothing
        // has judged.
        let [from, to]: [(IpAddr, u16); 2] = [denied.0, denied.1].map(|address| (address.parse().unwrap(), 4000));
        let family = if family == "IPv4" { Family::V4 } else { Family::V6 };
        Table::open().insert(17, from, to, to, None);
        turn(tables, "1");
        agent.wait_for("iptables sees what pods behind this bridge");
        agent.wait_for("cut established flows");
        let is_denied = |tuple: &FlowKey| (tuple.source, tuple.destination) == (from.0, to.0);
        let mut left = 0;
        sweep(family, &mut |tuple| {
            left += u32::from(is_denied(tuple));
            false
        })
        .unwrap();
        assert_eq!(left, 0);
        assert_eq!((count("IPv4"), count("IPv6")), (0, 0));
        // A bridge's own switch does as well.
        turn(tables, "0");
        agent.wait_for("reach each other past iptables");
        ip(&format!("link set cbr0 type bridge nf_call_{tables} 1"));
        agent.wait_for("iptables sees what pods behind this bridge");
    }
}

#[test]
fn pods_behind_an_unfiltered_bridge_are_warned_of_at_the_start() {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    bridge(&beyond);
    turn("iptables", "0");
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    let entry = agent.wait_for("reach each other past iptables");
    assert_eq!((entry["bridge"].as_str(), entry["family"].as_str()), (Some("cbr0"), Some("IPv4")));
    // One port leads to no other.
    ip("link del port1");
    agent.wait_for(r#""message":"ready""#);
    assert_eq!(Scrape::now().count("npc_unfiltered_bridges{family=\"IPv4\"}"), 0);
}
