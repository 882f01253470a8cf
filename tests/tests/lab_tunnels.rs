//! Tunnels from pods that are isolated for egress: VXLAN needs a rule that names
//! its port, and IPIP and GRE do not leave.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use npc_compiler::object::{ContainerPort, Labels, NetworkPolicy, Objects, Pod, Protocol};
use npc_lab::lab::{Backend, Enforcer, Lab, Mode, Payload, Probe, Seen, report};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// So far away that no block of a policy is near.
const OUTSIDE: &str = "203.0.113.9";

fn pod(name: &str, ports: &[ContainerPort]) -> Pod {
    let labels = Labels::from([("app".to_owned(), name.to_owned())]);
    let pod = Pod::from_template("shop".to_owned(), name.to_owned(), labels, PodSpec::default());
    Pod { ports: ports.to_vec(), ..pod }
}

/// Four pods by whom their policies let out: all ports, all ports and one by
/// number, all of UDP and one by name; the last is not isolated.
fn cluster() -> Objects {
    let vxlan = ContainerPort { name: "overlay".to_owned(), protocol: Protocol::Udp, port: 4789 };
    let policy = |name: &str, egress: Value| {
        let spec = json!({"podSelector": {"matchLabels": {"app": name}}, "policyTypes": ["Egress"], "egress": egress});
        let policy = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
        NetworkPolicy::from(serde_json::from_value::<k8s_openapi::api::networking::v1::NetworkPolicy>(policy).unwrap())
    };
    Objects {
        pods: vec![pod("all", &[]), pod("number", &[]), pod("name", &[]), pod("free", &[vxlan])],
        policies: vec![
            policy("all", json!([{}])),
            policy("number", json!([{}, {"ports": [{"protocol": "UDP", "port": 4789}]}])),
            policy("name", json!([{"ports": [{"protocol": "UDP"}, {"protocol": "UDP", "port": "overlay"}]}])),
        ],
        ..Objects::default()
    }
}

fn lab(mode: Mode, backend: Backend, arguments: &[&str]) -> Option<Lab> {
    let agent = Enforcer::for_test()?;
    let builder = Lab::builder(cluster()).mode(mode).backend(backend).outside([OUTSIDE.parse().unwrap()]);
    let builder = arguments.iter().fold(builder.enforcer(agent), |builder, one| builder.agent_argument(*one));
    Some(builder.start().unwrap())
}

/// Which of these pods reach another pod and the outside by UDP to this port.
fn who_sends(lab: &mut Lab, port: u16) -> Vec<(&'static str, [bool; 2])> {
    let names = ["all", "number", "name", "free"];
    let mut probes = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let from = lab.find(&format!("shop/{name}")).unwrap();
        // "free" is who calls the port by name, so the others send to it.
        let to = lab.find(["shop/free", "shop/all"][usize::from(index == 3)]).unwrap();
        let address = lab.places()[to].addresses[0];
        let payload = Payload::Port(Protocol::Udp, port);
        let outside = lab.find("outside").unwrap();
        probes.push(Probe::new(from, to, address, payload));
        probes.push(Probe::new(from, outside, OUTSIDE.parse().unwrap(), payload));
    }
    let seen = lab.probe(&probes).unwrap();
    let arrived = |seen: &Seen| *seen == Seen::Arrived;
    names.into_iter().zip(seen.chunks(2).map(|pair| [arrived(&pair[0]), arrived(&pair[1])])).collect()
}

fn vxlan_needs_its_name(mode: Mode, backend: Backend) {
    let Some(mut lab) = lab(mode, backend, &[]) else { return };
    let named = [("all", [false; 2]), ("number", [true; 2]), ("name", [true, false]), ("free", [true; 2])];
    assert_eq!(who_sends(&mut lab, 4789), named);
    let unnamed = [("all", [false; 2]), ("number", [false; 2]), ("name", [false; 2]), ("free", [true; 2])];
    assert_eq!(who_sends(&mut lab, 8472), unnamed);
    assert_eq!(who_sends(&mut lab, 6081), unnamed);
    let any = ["all", "number", "name", "free"].map(|name| (name, [true; 2]));
    assert_eq!(who_sends(&mut lab, 4790), any);
    let judgement = lab.judge().unwrap();
    assert_eq!(judgement.mismatches().count(), 0, "{}", report::table(&lab, &judgement));
}

#[test]
fn vxlan_needs_its_name_routed_by_nft() {
    vxlan_needs_its_name(Mode::Routed, Backend::Nft);
}

#[test]
fn vxlan_needs_its_name_bridged_by_legacy() {
    vxlan_needs_its_name(Mode::Bridge, Backend::Legacy);
}

#[test]
fn vxlan_is_left_to_policies_where_tunnels_are_allowed() {
    let Some(mut lab) = lab(Mode::Routed, Backend::Nft, &["--allow-tunnels"]) else { return };
    assert_eq!(who_sends(&mut lab, 4789), ["all", "number", "name", "free"].map(|name| (name, [true; 2])));
    let judgement = lab.judge().unwrap();
    assert_eq!(judgement.mismatches().count(), 0, "{}", report::table(&lab, &judgement));
}

/// Whose packets of this protocol, without ports, arrive at a pod, of one that is
/// isolated for egress with all ports let out and one that is not.
fn who_tunnels(lab: &Lab, protocol: i32) -> Vec<String> {
    let netns = |name: &str| &lab.places()[lab.find(name).unwrap()].netns;
    let raw = |name: &str| {
        let open = || Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::from(protocol))).unwrap();
        netns(name).within(open).unwrap()
    };
    let to = &lab.places()[lab.find("shop/number").unwrap()].addresses;
    let to = SocketAddr::new(*to.iter().find(|address| address.is_ipv4()).unwrap(), 0);
    let mut ear = raw("shop/number");
    ear.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The one that is let through comes last.
    for name in ["all", "free"] {
        // A GRE header without options; IPIP's content is nobody's business here.
        let packet = [&[0; 4], name.as_bytes()].concat();
        raw(&format!("shop/{name}")).send_to(&packet, &to.into()).unwrap();
    }
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "free") {
        let mut packet = [0; 64];
        let length = ear.read(&mut packet).unwrap();
        heard.push(String::from_utf8_lossy(&packet[24..length]).into_owned());
    }
    heard
}

#[test]
fn ipip_and_gre_do_not_leave_a_pod_that_is_isolated_for_egress() {
    for (mode, backend) in [(Mode::Routed, Backend::Nft), (Mode::Bridge, Backend::Legacy)] {
        for (arguments, heard) in [(&[][..], &["free"][..]), (&["--allow-tunnels"], &["all", "free"])] {
            let Some(lab) = lab(mode, backend, arguments) else { return };
            for protocol in [4, 47] {
                assert_eq!(who_tunnels(&lab, protocol), heard, "{protocol} {mode:?} {backend:?} {arguments:?}");
            }
        }
    }
}
