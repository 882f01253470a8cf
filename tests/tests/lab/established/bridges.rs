//! Flows between pods of one bridge while iptables does not see its frames.

use super::*;

/// What another program does to a node.
fn set_bridge_nf(lab: &Lab, value: &str) {
    let set = || std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", value);
    lab.node("node-1").unwrap().within(set).unwrap().unwrap();
}

fn what_a_bridge_forwards_past_iptables_is_noticed_and_ends(backend: Backend, mode: Mode) {
    let Some((mut lab, listeners)) = start(vec![db(&web(), &[1])], backend, mode, &[]) else { return };
    let mut control = control(&lab);
    let unfiltered = |lab: &Lab| lab.metric("node-1", "npc_unfiltered_bridges{family=\"IPv4\"}").unwrap();
    let tcp = |lab: &Lab| Flow::tcp(lab, &listeners, "shop/web1", Family::V4, false);
    assert!(tcp(&lab).is_err());
    // Nothing else happens from here on: no event of any object.
    set_bridge_nf(&lab, "0");
    lab.agent("node-1").unwrap().unwrap().wait_log("reach each other past iptables").unwrap();
    let udp = Flow::udp(&lab, "shop/web1", Family::V4, ADMITTED, false);
    let mut past = vec![("TCP".to_owned(), tcp(&lab).unwrap()), ("UDP".to_owned(), udp.unwrap())];
    all_go_on(&mut past);
    assert!(unfiltered(&lab) > 0.0);
    set_bridge_nf(&lab, "1");
    lab.agent("node-1").unwrap().unwrap().wait_log("iptables sees what pods").unwrap();
    all_are_cut(&mut past, &mut control);
    assert!(tcp(&lab).is_err());
}

on_both_backends!(what_a_bridge_forwards_past_iptables_is_noticed_and_ends: Bridge);
