//! Tunnels from pods that are isolated for egress: VXLAN and its like need a rule
//! that names their port, IPIP, 6in4 and GRE do not leave, and everything else does.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use npc_compiler::object::{ContainerPort, Family, Labels, NetworkPolicy, Objects, Pod, Protocol};
use npc_tests::lab::{Backend, Enforcer, Lab, Mode, Payload, Probe, report};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// So far away that no block of a policy is near.
const OUTSIDE: &str = "203.0.113.9";

fn pod(name: &str, ports: &[ContainerPort]) -> Pod {
    let labels = Labels::from([("app".to_owned(), name.to_owned())]);
    let pod = Pod::from_template("shop".to_owned(), name.to_owned(), labels, PodSpec::default());
    Pod { ports: ports.to_vec(), ..pod }
}

/// Four pods with different egress policies: all ports, all ports and one by
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

/// Whether the pods `all`, `number`, `name` and `free` reach another pod, and the outside, by UDP to this
/// port.
fn reach(lab: &mut Lab, port: u16, expected: [[bool; 2]; 4]) {
    let names = ["all", "number", "name", "free"];
    let mut probes = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let from = lab.find(&format!("shop/{name}")).unwrap();
        // "free" is the pod that has the port's name, so the others send to it.
        let to = lab.find(["shop/free", "shop/all"][usize::from(index == 3)]).unwrap();
        let address = lab.places()[to].addresses[0];
        let payload = Payload::Port(Protocol::Udp, port);
        let outside = lab.find("outside").unwrap();
        probes.push(Probe::new(from, to, address, payload));
        probes.push(Probe::new(from, outside, OUTSIDE.parse().unwrap(), payload));
    }
    let arrived = lab.arrived_as(&probes, expected.as_flattened()).unwrap();
    assert_eq!(arrived, expected.as_flattened(), "of {names:?}, each to a pod and outside, to port {port}");
}

fn vxlan_needs_its_name(mode: Mode, backend: Backend) {
    let Some(mut lab) = lab(mode, backend, &[]) else { return };
    reach(&mut lab, 4789, [[false; 2], [true; 2], [true, false], [true; 2]]);
    for port in [8472, 6081, 6080, 4754] {
        reach(&mut lab, port, [[false; 2], [false; 2], [false; 2], [true; 2]]);
    }
    // VXLAN-GPE, L2TP, GTP-U, Teredo, ESP, MPLS, WireGuard, and where answers go.
    for port in [4790, 1701, 2152, 3544, 4500, 6635, 51820, 32768, 65535] {
        reach(&mut lab, port, [[true; 2]; 4]);
    }
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
    reach(&mut lab, 4789, [[true; 2]; 4]);
    let judgement = lab.judge().unwrap();
    assert_eq!(judgement.mismatches().count(), 0, "{}", report::table(&lab, &judgement));
}

/// Whose packets of this protocol, without ports, arrive at a pod, of one that is
/// isolated for egress with all ports let out and one that is not.
fn tunnelling(lab: &Lab, protocol: i32) -> Vec<String> {
    let netns = |name: &str| &lab.places()[lab.find(name).unwrap()].netns;
    let raw = |name: &str| {
        let open = || Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::from(protocol))).unwrap();
        netns(name).within(open).unwrap()
    };
    let to = &lab.places()[lab.find("shop/number").unwrap()].addresses;
    let to = SocketAddr::new(*to.iter().find(|address| address.is_ipv4()).unwrap(), 0);
    let mut socket = raw("shop/number");
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The one that is let through comes last.
    for name in ["all", "free"] {
        // A GRE header without options; IPIP's content does not matter here.
        let packet = [&[0; 4], name.as_bytes()].concat();
        raw(&format!("shop/{name}")).send_to(&packet, &to.into()).unwrap();
    }
    let mut received = Vec::new();
    while received.last().is_none_or(|last| last != "free") {
        let mut packet = [0; 64];
        let length = socket.read(&mut packet).unwrap();
        received.push(String::from_utf8_lossy(&packet[24..length]).into_owned());
    }
    received
}

#[test]
fn ipip_6in4_and_gre_do_not_leave_a_pod_that_is_isolated_for_egress_and_others_do() {
    for (mode, backend) in [(Mode::Routed, Backend::Nft), (Mode::Bridge, Backend::Legacy)] {
        for (arguments, received) in [(&[][..], &["free"][..]), (&["--allow-tunnels"], &["all", "free"])] {
            let Some(lab) = lab(mode, backend, arguments) else { return };
            for protocol in [4, 41, 47] {
                assert_eq!(tunnelling(&lab, protocol), received, "{protocol} {mode:?} {backend:?} {arguments:?}");
            }
            // ESP, AH, EtherIP, L2TP and MPLS in IP.
            for protocol in [50, 51, 97, 115, 137] {
                assert_eq!(tunnelling(&lab, protocol), ["all", "free"], "{protocol} {mode:?} {backend:?}");
            }
        }
    }
}

/// A pod's way past the policies for its egress: a node's own VXLAN device, which
/// takes any sender's packets.
fn what_a_node_unpacks(backend: Backend, arguments: &[&str]) -> Option<bool> {
    let agent = Enforcer::for_test()?;
    let mut objects = cluster();
    for (pod, node) in objects.pods.iter_mut().zip(["node-1", "node-1", "node-1", "node-2"]) {
        pod.node = Some(node.to_owned());
    }
    let builder = Lab::builder(objects).mode(Mode::Routed).backend(backend).enforcer(agent);
    let builder = builder.outside([OUTSIDE.parse().unwrap()]);
    let mut lab = arguments.iter().fold(builder, |builder, one| builder.agent_argument(*one)).start().unwrap();
    // "all" may send everything to the other node, and nothing to "free".
    let node = lab.places()[lab.find("node/node-2").unwrap()].address(Family::V4).unwrap();
    let mut objects = lab.cluster().objects.clone();
    let egress = json!([{"to": [{"ipBlock": {"cidr": format!("{node}/32")}}]}]);
    objects.policies[0].object.spec.as_mut().unwrap().egress = Some(serde_json::from_value(egress).unwrap());
    lab.apply(objects).unwrap();
    let place = |name: &str| &lab.places()[lab.find(name).unwrap()];
    let (sender, victim, node) = (place("shop/all"), place("shop/free"), lab.node("node-2").unwrap());
    let [from, to, unpacks] = [sender, victim, place("node/node-2")].map(|one| match one.address(Family::V4) {
        Some(IpAddr::V4(address)) => address,
        other => panic!("{other:?}"),
    });
    // As Flannel makes its device.
    let device = "link add vx0 address 02:00:00:00:00:01 type vxlan id 1 dstport 8472 nolearning";
    node.exec(["ip"].into_iter().chain(device.split(' ')), "").unwrap();
    node.exec(["ip", "link", "set", "vx0", "up"], "").unwrap();
    for setting in ["all", "vx0"] {
        node.exec(["sysctl", "-qw", &format!("net.ipv4.conf.{setting}.rp_filter=0")], "").unwrap();
    }

    let listening = victim.netns.within(|| UdpSocket::bind((to, 7777)).unwrap()).unwrap();
    listening.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // What goes straight to the victim does not arrive; what is inside may.
    let inside = udp_packet((from, 1), (to, 7777), b"inside");
    let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0], &inside[..]].concat();
    let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0], &frame[..]].concat();
    let socket = sender.netns.within(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
    socket.send_to(b"straight", (to, 7777)).unwrap();
    socket.send_to(&vxlan, (unpacks, 8472)).unwrap();
    // One that is not isolated for egress comes last.
    let other = place("outside");
    let outside: IpAddr = OUTSIDE.parse().unwrap();
    let last = other.netns.within(|| UdpSocket::bind((outside, 0)).unwrap()).unwrap();
    last.send_to(b"last", (to, 7777)).unwrap();
    let mut received = Vec::new();
    while received.last().is_none_or(|one| one != "last") {
        let mut buffer = [0; 64];
        let length = listening.recv(&mut buffer).unwrap();
        received.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    assert!(!received.contains(&"straight".to_owned()), "{received:?}");
    Some(received.contains(&"inside".to_owned()))
}

/// An IPv4 packet with a UDP datagram.
fn udp_packet(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), data: &[u8]) -> Vec<u8> {
    let length = |header: usize| u16::try_from(header + data.len()).unwrap().to_be_bytes();
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[2..4].copy_from_slice(&length(28));
    ip[12..16].copy_from_slice(&from.0.octets());
    ip[16..20].copy_from_slice(&to.0.octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()).to_be_bytes());
    // Without a checksum of its own.
    [&ip[..], &from.1.to_be_bytes(), &to.1.to_be_bytes(), &length(8), &[0, 0], data].concat()
}

#[test]
fn a_node_unpacks_any_senders_vxlan_so_none_leaves_under_a_rule_without_ports() {
    for backend in [Backend::Nft, Backend::Legacy] {
        let Some(arrives) = what_a_node_unpacks(backend, &["--allow-tunnels"]) else { return };
        assert!(arrives, "{backend:?}: this kernel does not show what is kept out");
        assert_eq!(what_a_node_unpacks(backend, &[]), Some(false), "{backend:?}");
    }
}
