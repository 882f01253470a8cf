//! Forged sources: real agents with `--anti-spoof`, and pods that send from any
//! address.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use nix::sys::signal::Signal;
use npc_agent::source::manifests;
use npc_agent::status::AgentStatus;
use npc_compiler::object::{self, Family, Objects};
use npc_compiler::ruleset::constants::POD_GROUP;
use npc_compiler::ruleset::layout::RulesetOptions;
use npc_tests::lab::{Backend, Enforcer, Lab, Mode, Payload, Probe};
use socket2::{Domain, Protocol, Socket, Type};

const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8:ffff::9"];

const UDP: Payload = Payload::Port(object::Protocol::Udp, 53);

/// What a pod on another node may reach, its neighbours may not; another pod
/// admits all pods.
fn cluster() -> Objects {
    let pod = |name: &str, node: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: n, labels: {{app: {name}}}}}, \
             spec: {{nodeName: {node}, containers: []}}}}\n"
        )
    };
    let mut text = String::from(
        r"
{apiVersion: v1, kind: Node, metadata: {name: node-1}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-2}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: guarded, namespace: n}, spec: {
  podSelector: {matchLabels: {app: guarded}},
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]}}
",
    );
    for (name, node) in [("thief", 1), ("guarded", 1), ("open", 1), ("friend", 2), ("far", 2)] {
        text.push_str(&pod(name, &format!("node-{node}")));
    }
    manifests::parse_text("test", &text, &manifests::ReadOptions::default()).unwrap().objects
}

fn lab(mode: Mode, backend: Backend, arguments: &[&str]) -> Option<Lab> {
    let agent = Enforcer::for_test()?;
    let builder = Lab::builder(cluster()).mode(mode).backend(backend).enforcer(agent);
    let builder = builder.outside(OUTSIDE.map(|address| address.parse().unwrap()));
    let builder = arguments.iter().fold(builder, |builder, one| builder.agent_argument(*one));
    Some(builder.start().unwrap())
}

fn addresses(lab: &Lab, place: &str) -> Vec<IpAddr> {
    let place = &lab.places()[lab.find(place).unwrap()];
    Family::ALL.into_iter().filter_map(|family| place.address(family)).collect()
}

/// Datagrams between pods by their own addresses, in both families: which pod reaches
/// which.
fn reached(lab: &mut Lab, pairs: &[(&str, &str)]) -> Vec<bool> {
    let mut probes = Vec::new();
    for (from, to) in pairs {
        let (from, place) = (lab.find(from).unwrap(), lab.find(to).unwrap());
        probes.extend(addresses(lab, to).into_iter().map(|address| Probe::new(from, place, address, UDP)));
    }
    lab.arrived(&probes)
        .unwrap()
        .chunks(2)
        .map(|both| {
            assert_eq!(both[0], both[1], "both families alike: {pairs:?}");
            both[0]
        })
        .collect()
}

/// What the forging pod sends: `TO as CLAIM` of what arrived.
fn forged(lab: &mut Lab) -> Vec<String> {
    let from = lab.find("n/thief").unwrap();
    let claims = ["n/guarded", "n/open", "n/friend", "n/far", "outside", "node/node-2"];
    let (mut probes, mut names) = (Vec::new(), Vec::new());
    for to in ["n/guarded", "n/open", "n/friend", "outside"] {
        let place = lab.find(to).unwrap();
        for claim in claims {
            for (address, source) in addresses(lab, to).into_iter().zip(addresses(lab, claim)) {
                let probe = Probe::new(from, place, address, UDP);
                probes.push(Probe { source: Some(source), forged: true, ..probe });
                names.push(format!("{to} as {claim} {}", Family::of(&address)));
            }
        }
    }
    let arrived = lab.arrived(&probes).unwrap();
    names.into_iter().zip(arrived).filter_map(|(name, arrived)| arrived.then_some(name)).collect()
}

fn both(names: &[&str]) -> Vec<String> {
    names.iter().flat_map(|name| Family::ALL.map(|family| format!("{name} {family}"))).collect()
}

/// What a forger achieves where nothing checks sources. An IPv4 receiver takes
/// nothing that claims to be itself, and an isolated one gets none.
fn unhindered() -> Vec<String> {
    let mut all = both(&["n/guarded as n/friend", "n/open as n/guarded", "n/open as n/friend", "n/open as n/far"]);
    all.extend(both(&["n/open as outside", "n/open as node/node-2"]));
    all.extend(both(&["n/friend as n/guarded", "n/friend as n/open", "n/friend as n/far", "n/friend as outside"]));
    all.extend(both(&["n/friend as node/node-2", "outside as n/guarded", "outside as n/open", "outside as n/friend"]));
    all.extend(both(&["outside as n/far", "outside as node/node-2"]));
    all.extend(["n/open as n/open IPv6", "n/friend as n/friend IPv6"].map(str::to_owned));
    all.push("outside as outside IPv6".to_owned());
    all.sort();
    all
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

fn options() -> RulesetOptions {
    RulesetOptions { anti_spoof: true, ..RulesetOptions::default() }
}

/// How many packets the rules of a node have dropped for their sources.
fn dropped(lab: &Lab, backend: Backend, node: &str) -> [u64; 2] {
    ["iptables", "ip6tables"].map(|tool| {
        let tool = format!("{tool}-{}", backend.as_str());
        let listed = lab.node(node).unwrap().exec([&tool, "-nvxL", "NPC-SPOOF"], "").unwrap();
        let rule = listed.lines().find(|line| line.contains("DROP")).unwrap();
        assert!(rule.contains("/* not the source of the pod behind this interface */"), "{rule}");
        rule.split_ascii_whitespace().next().unwrap().parse().unwrap()
    })
}

#[test]
fn without_the_flag_forged_sources_do_what_the_policies_let_them() {
    for (mode, backend) in [(Mode::Routed, Backend::Legacy), (Mode::Bridge, Backend::Nft)] {
        let Some(mut lab) = lab(mode, backend, &[]) else { return };
        assert_eq!(sorted(forged(&mut lab)), unhindered(), "{mode:?}");
        assert_eq!(received_in_a_flow(&lab), ["forged", "last"]);
    }
}

#[test]
fn a_routed_pod_sends_by_its_own_address_and_no_other() {
    for backend in [Backend::Nft, Backend::Legacy] {
        let Some(mut lab) = lab(Mode::Routed, backend, &["--anti-spoof"]) else { return };
        lab.settle().unwrap();
        check(&mut lab, backend);
        let counted: u64 = dropped(&lab, backend, "node-1").iter().sum();
        assert_eq!(lab.metric("node-1", "npc_spoofed_packets_total").unwrap().to_string(), counted.to_string());
        assert_eq!(received_in_a_flow(&lab), ["last"], "of an established flow, too");

        // Without an agent, and with the next one.
        lab.take_agent("node-1").unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
        check(&mut lab, backend);
        lab.start_agents().unwrap();
        lab.settle().unwrap();
        assert_eq!(lab.differences("node-1", &options()).unwrap(), Vec::<String>::new());
        check(&mut lab, backend);
        let log = lab.log("node-1").unwrap();
        assert!(!log.contains("sets destroyed") && !log.contains("ERROR"), "{log}");

        // An agent without the flag leaves nothing of it.
        lab.take_agent("node-1").unwrap().unwrap().stop(Signal::SIGTERM).unwrap();
        lab.set_agent_arguments(Vec::new());
        lab.start_agents().unwrap();
        assert_eq!(lab.differences("node-1", &RulesetOptions::default()).unwrap(), Vec::<String>::new());
        assert_eq!(sorted(forged(&mut lab)), unhindered());
    }
}

#[test]
fn a_bridged_pod_sends_by_its_own_address_and_no_other() {
    for backend in [Backend::Nft, Backend::Legacy] {
        let Some(mut lab) = lab(Mode::Bridge, backend, &["--anti-spoof"]) else { return };
        lab.settle().unwrap();
        assert_eq!(reached(&mut lab, &PAIRS), ALLOWED);
        // The bridge's own table drops them, before iptables can count.
        assert_eq!(forged(&mut lab), Vec::<String>::new());
        assert_eq!(received_in_a_flow(&lab), ["last"], "of an established flow, too");
    }
}

/// A datagram that the kernel gives its lengths and checksum.
fn datagram(source: SocketAddrV4, destination: SocketAddrV4, text: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source.ip().octets());
    packet.extend(destination.ip().octets());
    packet.extend(source.port().to_be_bytes());
    packet.extend(destination.port().to_be_bytes());
    packet.extend(u16::try_from(8 + text.len()).unwrap().to_be_bytes());
    packet.extend([0; 2]);
    packet.extend(text);
    packet
}

/// What a pod receives on a flow that another has with it, when the thief sends in
/// it too.
fn received_in_a_flow(lab: &Lab) -> Vec<String> {
    let address = |name| match addresses(lab, name)[0] {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("IPv4 comes first"),
    };
    let netns = |name| &lab.places()[lab.find(name).unwrap()].netns;
    let (from, to) = (SocketAddrV4::new(address("n/open"), 4_000), SocketAddrV4::new(address("n/friend"), 4_001));
    let bind = |name, address| netns(name).within(|| UdpSocket::bind(address).unwrap()).unwrap();
    let (open, friend) = (bind("n/open", from), bind("n/friend", to));
    let mut buffer = [0; 32];
    friend.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    open.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Both ways, so that the kernel knows the flow.
    open.send_to(b"question", to).unwrap();
    assert_eq!(friend.recv_from(&mut buffer).unwrap(), (8, from.into()));
    friend.send_to(b"answer", from).unwrap();
    assert_eq!(open.recv_from(&mut buffer).unwrap(), (6, to.into()));
    netns("n/thief")
        .within(|| {
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
            raw.send_to(&datagram(from, to, b"forged"), &SocketAddr::V4(to).into()).unwrap();
        })
        .unwrap();
    open.send_to(b"last", to).unwrap();
    let mut received = Vec::new();
    while received.last().is_none_or(|last| last != "last") {
        let length = friend.recv(&mut buffer).unwrap();
        received.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    received
}

/// Which pod may reach which by its own address, and which may not.
const PAIRS: [(&str, &str); 7] = [
    ("n/thief", "n/open"),
    ("n/thief", "n/guarded"),
    ("n/thief", "n/friend"),
    ("n/thief", "outside"),
    ("n/friend", "n/guarded"),
    ("n/far", "n/guarded"),
    ("outside", "n/open"),
];
const ALLOWED: [bool; 7] = [true, false, true, true, true, false, true];

/// Policies decide on what is honest, and nothing that is forged arrives.
fn check(lab: &mut Lab, backend: Backend) {
    assert_eq!(reached(lab, &PAIRS), ALLOWED);
    let before = dropped(lab, backend, "node-1");
    assert_eq!(forged(lab), Vec::<String>::new());
    let after = dropped(lab, backend, "node-1");
    assert!(before[0] < after[0] && before[1] < after[1], "{before:?} {after:?}");
    assert_eq!(dropped(lab, backend, "node-2"), [0, 0]);
}

/// The interface of the thief, on its node.
fn interface(lab: &Lab) -> String {
    format!("azv{}", lab.find("n/thief").unwrap())
}

fn ip(lab: &Lab, command: &str) -> String {
    let command: Vec<&str> = ["ip"].into_iter().chain(command.split(' ')).collect();
    lab.node("node-1").unwrap().exec(command, "").unwrap()
}

#[test]
fn an_interface_in_a_group_of_another_program_is_left_to_policies_and_reported() {
    let Some(mut lab) = lab(Mode::Routed, Backend::Nft, &["--anti-spoof"]) else { return };
    lab.settle().unwrap();
    let thief = interface(&lab);
    ip(&lab, &format!("link set {thief} group 77"));
    let told = "forged sources from the pods behind this interface are not dropped";
    lab.agent("node-1").unwrap().unwrap().wait_log(told).unwrap();
    let log = lab.log("node-1").unwrap();
    let line = log.lines().find(|line| line.contains(told)).unwrap();
    assert!(line.contains(&thief) && line.contains("device group 77"), "{line}");
    assert_eq!(sorted(forged(&mut lab)), unhindered());
    // Of the pod, too, and once however often the agent looks.
    let told = "forged sources from this pod are not dropped";
    lab.agent("node-1").unwrap().unwrap().wait_log(told).unwrap();
    let log = lab.log("node-1").unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(told)).collect();
    assert!(lines.len() <= 2 && lines[0].contains("n/thief") && lines[0].contains("device group 77"), "{lines:?}");
    assert_eq!(lab.metric("node-1", "npc_spoofable_endpoints").unwrap().to_string(), "1");
    let status = || lab.node("node-1").unwrap().within(AgentStatus::ask).unwrap().unwrap();
    let told: Vec<_> = status().spoofable.into_iter().map(|pod| (pod.pod, pod.address)).collect();
    assert_eq!(
        told,
        addresses(&lab, "n/thief").into_iter().map(|address| ("thief".to_owned(), address)).collect::<Vec<_>>()
    );
    // The other program releases it, and then changes ours.
    ip(&lab, &format!("link set {thief} group 0"));
    lab.settle().unwrap();
    assert_eq!(forged(&mut lab), Vec::<String>::new());
    assert_eq!(lab.metric("node-1", "npc_spoofable_endpoints").unwrap().to_string(), "0");
    ip(&lab, &format!("link set {thief} group 0"));
    lab.settle().unwrap();
    assert_eq!(forged(&mut lab), Vec::<String>::new());
}

#[test]
fn the_next_pod_has_the_interface_of_the_last_by_name_only() {
    for backend in [Backend::Nft, Backend::Legacy] {
        let Some(mut lab) = lab(Mode::Routed, backend, &["--anti-spoof"]) else { return };
        lab.settle().unwrap();
        let (thief, place) = (interface(&lab), lab.find("n/thief").unwrap());
        let agent = lab.take_agent("node-1").unwrap().unwrap();
        agent.signal(Signal::SIGSTOP).unwrap();
        // The pod goes, and one by the same interface's name comes, with another
        // address, while the agent looks away.
        let netns = lab.places()[place].netns.name().to_owned();
        ip(&lab, &format!("link del {thief}"));
        ip(&lab, &format!("link add {thief} type veth peer name eth0 netns {netns}"));
        ip(&lab, &format!("link set {thief} up"));
        ip(&lab, &format!("addr add fe80::1/64 dev {thief} nodad"));
        let pod = |command: &str| {
            let command: Vec<&str> = ["ip"].into_iter().chain(command.split(' ')).collect();
            lab.places()[place].netns.exec(command, "").unwrap()
        };
        let mac = |shown: String| shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let (outer, inner) = (mac(ip(&lab, &format!("link show {thief}"))), mac(pod("link show eth0")));
        for (address, gateway) in [("10.99.0.9/32", "169.254.1.1"), ("fd00:99::9/128", "fe80::1")] {
            let bare = address.split('/').next().unwrap();
            pod(&format!("addr add {address} dev eth0"));
            pod("link set eth0 up");
            pod(&format!("neigh replace {gateway} lladdr {outer} dev eth0 nud permanent"));
            if gateway.contains('.') {
                pod(&format!("route add {gateway} dev eth0 scope link"));
            }
            let to = if gateway.contains(':') { "::/0" } else { "default" };
            pod(&format!("route add {to} via {gateway} dev eth0"));
            ip(&lab, &format!("route add {address} dev {thief}"));
            ip(&lab, &format!("neigh replace {bare} lladdr {inner} dev {thief} nud permanent"));
        }
        let probes = |lab: &Lab, sources: [&str; 2]| {
            let open = lab.find("n/open").unwrap();
            let each = addresses(lab, "n/open").into_iter().zip(sources).map(|(address, source)| Probe {
                source: Some(source.parse().unwrap()),
                forged: true,
                ..Probe::new(place, open, address, UDP)
            });
            each.collect::<Vec<_>>()
        };
        let new = ["10.99.0.9", "fd00:99::9"];
        let old: Vec<String> = addresses(&lab, "n/thief").iter().map(ToString::to_string).collect();
        let old = [old[0].as_str(), old[1].as_str()];
        // Its link is in no group, even if the sets hold the name.
        let (of_new, of_old) = (probes(&lab, new), probes(&lab, old));
        assert_eq!(lab.arrived(&of_new).unwrap(), [true, true]);
        agent.signal(Signal::SIGCONT).unwrap();
        let group = POD_GROUP.to_string();
        let mut agent = agent;
        agent
            .wait_until(|_| {
                let held = ip(&lab, &format!("link show group {group}"));
                Ok((!held.contains(&format!("{thief}@"))).then(|| format!("{thief} is not held to anything: {held}")))
            })
            .unwrap();
        assert_eq!(lab.arrived(&of_new).unwrap(), [true, true]);
        assert_eq!(lab.arrived(&of_old).unwrap(), [false, false], "the last pod's address is no pod's here");
    }
}
