//! What begins before an ADD, what comes after its sandbox, and what an ADD costs.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use npc_compiler::object::{Labels, Objects, Pod};
use serde_json::json;

use super::node::{self, Mode, Node, OUTSIDE, OWN, ip, wait};
use super::numbered::{Kind, Numbered, Received};
use super::traffic::{listen, passes, reaches, reaches_by_its_first_packet};
use super::{addresses, first, is_isolated, mappings, objects, pod, policy_of};

/// The agent is away. A plugin waits for it about a pod that no policy selects, and the runtime is
/// started again: it removes the sandbox, and gives the address to a pod that policies isolate.
#[test]
fn an_add_of_a_sandbox_that_has_ended_opens_no_other() {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    node.range = ["10.0.0.2", "10.0.0.2"].map(str::to_owned);
    node.settings = json!({"timeoutSeconds": 100});
    let mut free = pod("free");
    free.labels = Labels::from([("app".to_owned(), "free".to_owned())]);
    let policies = vec![policy_of(&json!({"matchLabels": {"app": "web"}}))];
    node.write(&Objects { pods: vec![free, pod("web")], policies, ..objects(&[]) });
    let mut free = node.sandbox("free", json!([]));
    node.add_others(&mut free).unwrap();
    let mut late = free.twin();
    thread::scope(|scope| {
        let orphan = scope.spawn(|| node.add_own(&mut late));
        thread::sleep(Duration::from_millis(500));
        assert!(!orphan.is_finished());
        node.delete(&free).unwrap();
        ip(&format!("netns del {}", free.netns.name()));
        let error = orphan.join().unwrap().unwrap_err();
        assert!(error.contains("has ended") && error.contains("CNI_NETNS"), "{error}");
    });
    node.start_agent();
    node.wait_ready();
    let mut web = node.sandbox("web", json!([]));
    node.add(&mut web).unwrap();
    let to = first()[0];
    assert_eq!(web.addresses()[0], to);
    assert!(is_isolated(&node, to));
    // A plugin of before asks on.
    let text = node.request(&json!({
        "version": 1, "command": "add", "containerId": "late", "interface": "eth0", "network": "net",
        "netns": "/run/netns/gone", "namespace": "shop", "name": "free", "uid": "uid-free",
        "addresses": [to], "hostInterface": {"name": "veth-gone", "index": 0x7fff_fff0_u32}, "wait": 5_000,
    }));
    assert_eq!(text["error"]["kind"], "gone", "{text}");
    assert!(is_isolated(&node, to));
}

/// The network of a pod is up before our plugin runs, and portmap has its host ports live. What outside hosts send
/// to both, of datagrams and of connections, ends with the ADD where policies deny it. They deny nothing to the
/// second pod, which shows that the packets go on.
fn what_began_before_add_ends_with_it(mode: Mode, backend: &'static str) {
    let Some(node) = Node::new(mode, backend) else { return };
    let free = Pod { labels: Labels::from([("app".to_owned(), "free".to_owned())]), ..pod("free") };
    let policies = vec![policy_of(&json!({"matchLabels": {"app": "web"}}))];
    node.write(&Objects { pods: vec![pod("web"), free], policies, ..objects(&[]) });
    node.start_agent();
    node.wait_ready();
    for name in ["web", "free"] {
        let mut pod = node.sandbox(name, mappings());
        node.add_others(&mut pod).unwrap();
        listen(&pod.netns, &[7000]);
        let received = Received::at(&pod.netns, 7001);
        let host_ports = addresses(OWN).map(|own| SocketAddr::new(own, 7778));
        let own: Vec<IpAddr> = pod.addresses();
        assert_eq!(own.len(), 2, "{own:?}");
        let to: Vec<_> = own.iter().map(|own| SocketAddr::new(*own, 7001)).chain(host_ports).collect();
        let packets = Numbered::start(node.outside(), &to);
        packets.wait_arrives(&received);
        node.add_own(&mut pod).unwrap();
        let last = packets.last();
        packets.wait_goes_on();
        let arrived = packets.arrived_after(last, &received);
        if name == "web" {
            assert_eq!(arrived, BTreeSet::new(), "{mode:?}, {backend}: sent after ADD");
            for own in own {
                assert!(reaches(node.outside(), own, 7000), "{mode:?}, {backend}: {own}");
            }
            for own in addresses(OWN) {
                assert!(reaches(node.outside(), own, 7777), "{mode:?}, {backend}: the host port at {own}");
            }
        } else {
            let all = packets.paths(&[Kind::Datagrams, Kind::NewConnections]);
            assert!(arrived.is_superset(&all), "{mode:?}, {backend}: {arrived:?}");
        }
        drop(packets);
        node.delete(&pod).unwrap();
    }
}

#[test]
fn what_began_before_add_ends_with_it_routed_by_nft() {
    what_began_before_add_ends_with_it(Mode::Routed, "nft");
}

#[test]
fn what_began_before_add_ends_with_it_routed_by_legacy() {
    what_began_before_add_ends_with_it(Mode::Routed, "legacy");
}

#[test]
fn what_began_before_add_ends_with_it_bridged_by_nft() {
    what_began_before_add_ends_with_it(Mode::Bridged, "nft");
}

#[test]
fn what_began_before_add_ends_with_it_bridged_by_legacy() {
    what_began_before_add_ends_with_it(Mode::Bridged, "legacy");
}

#[test]
fn the_first_connections_that_policies_allow_pass_by_their_first_packet() {
    let Some(node) = Node::ready(Mode::Routed, "nft", &["web"]) else { return };
    listen(node.outside(), &[8080]);
    let mut web = node.sandbox("web", json!([]));
    listen(&web.netns, &[7000]);
    node.add(&mut web).unwrap();
    assert!(reaches_by_its_first_packet(&web.netns, addresses(OUTSIDE)[0], 8080));
    assert!(reaches_by_its_first_packet(node.outside(), first()[0], 7000));
}

/// The pod's group is there since the pod was bound to the node.
#[test]
fn an_add_writes_entries_of_sets_and_no_rule() {
    for backend in ["nft", "legacy"] {
        let Some(node) = Node::ready(Mode::Routed, backend, &["web"]) else { return };
        let rules = || {
            ["iptables", "ip6tables"].map(|program| {
                let listed = node.netns().exec([&*format!("{program}-{backend}-save")], "").unwrap();
                let rules = listed.lines().filter(|line| line.starts_with("-A") || line.starts_with(":NPC"));
                rules.map(str::to_owned).collect::<Vec<_>>()
            })
        };
        let mut web = node.sandbox("web", json!([]));
        node.add_others(&mut web).unwrap();
        let (before, sets) = (rules(), node::sets(node.netns()));
        assert!(before.iter().all(|rules| rules.iter().any(|rule| rule.contains("NPC"))), "{before:?}");
        node.add_own(&mut web).unwrap();
        assert_eq!(rules(), before, "{backend}");
        let mut after = node::sets(node.netns());
        assert!(after != sets);
        for members in after.values_mut() {
            members.retain(|member| !web.addresses().iter().any(|address| *member == address.to_string()));
        }
        after.retain(|_, members| !members.is_empty());
        assert_eq!(after, sets, "{backend}: only entries of this pod's addresses are new");
    }
}

/// Whether a pod of an open namespace is open after its ADD, and what its object changes.
#[test]
fn a_static_pod_of_an_open_namespace_is_open_until_its_mirror_is_read() {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    node.settings = json!({"timeoutSeconds": 30, "openNamespaces": ["shop"]});
    node.write(&objects(&[]));
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);
    let mut etcd = node.sandbox("etcd", json!([]));
    super::static_pods::HASH.clone_into(&mut etcd.uid);
    node.add(&mut etcd).unwrap();
    let to = addresses(OUTSIDE)[0];
    wait("the note is read", || node.log().contains("started without an agent"));
    // Two rounds of the agent.
    thread::sleep(Duration::from_secs(2));
    assert!(reaches(&etcd.netns, to, 9090), "nothing isolates it");
    assert!(!is_isolated(&node, first()[0]));
    node.write(&super::static_pods::with_mirror());
    wait("the policies of the mirror hold", || is_isolated(&node, first()[0]) && !passes(&etcd.netns, to, 9090));
    assert!(reaches(&etcd.netns, to, 8080));
    // kubectl delete pod: the static pod goes on, and so do its policies.
    node.write(&objects(&[]));
    thread::sleep(Duration::from_secs(2));
    assert!(is_isolated(&node, first()[0]) && reaches(&etcd.netns, to, 8080));
}
