//! Pods of one node among each other: from the ADD of one of them to the end of its address.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use npc_compiler::object::{Labels, Objects, Pod};
use serde_json::{Value, json};

use super::node::{self, Mode, Node, wait};
use super::numbered::{Numbered, Received};
use super::traffic::{listen, passes, reaches};
use super::{addresses, is_isolated, objects, pod, policy_of};

fn pod_of(name: &str) -> Pod {
    Pod { labels: Labels::from([("app".to_owned(), name.to_owned())]), ..pod(name) }
}

fn policy_for(app: &str, mut spec: Value) -> npc_compiler::object::NetworkPolicy {
    spec["podSelector"] = json!({"matchLabels": {"app": app}});
    let policy: NetworkPolicy =
        serde_json::from_value(json!({"metadata": {"namespace": "shop", "name": app}, "spec": spec})).unwrap();
    policy.into()
}

/// `web` may reach `db`, and nothing else. `client` may reach port 7000 of `web`, and `web` port 5432 of `db`.
fn cluster() -> Objects {
    let of = |app: &str| json!([{"podSelector": {"matchLabels": {"app": app}}}]);
    let web = json!({
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": of("client"), "ports": [{"port": 7000}]}], "egress": [{"to": of("db")}],
    });
    let db = json!({"policyTypes": ["Ingress"], "ingress": [{"from": of("web"), "ports": [{"port": 5432}]}]});
    Objects {
        pods: ["web", "db", "client"].map(pod_of).to_vec(),
        policies: vec![policy_for("web", web), policy_for("db", db)],
        ..objects(&[])
    }
}

/// The sets of peers that have one of these addresses.
fn peer_sets(node: &Node, addresses: &[IpAddr]) -> BTreeSet<String> {
    let is_one = |member: &String| addresses.iter().any(|address| *member == address.to_string());
    let sets = node::sets(node.netns()).into_iter().filter(|(_, members)| members.iter().any(is_one));
    let names = sets.map(|(name, _)| name);
    names.filter(|name| ["npc4-p-", "npc6-p-"].iter().any(|of_peers| name.starts_with(of_peers))).collect()
}

/// The name and the index of the node's end of a pod's interface, while that is there.
pub(super) fn host_interface(node: &Node, pod: &node::Pod) -> Option<(String, u32)> {
    let listed = pod.result["interfaces"].as_array().unwrap();
    let of_node = |one: &&Value| one["name"].as_str().is_some_and(|name| name.starts_with("veth"));
    let name = listed.iter().find(of_node).unwrap()["name"].as_str().unwrap().to_owned();
    let index = node.netns().within(|| nix::net::if_::if_nametoindex(&*name).ok()).unwrap()?;
    Some((name, index))
}

/// From its first instant a pod has the connections to other pods of its node that policies allow, and no others.
/// Flows that began before the ADD end. After its DEL, the pod is no peer of another pod any more.
fn pods_of_one_node_are_isolated_from_each_other(mode: Mode, backend: &'static str) {
    let Some(node) = Node::new(mode, backend) else { return };
    node.write(&cluster());
    node.start_agent();
    node.wait_ready();
    let [db, client] = ["db", "client"].map(|name| {
        let mut pod = node.sandbox(name, json!([]));
        node.add(&mut pod).unwrap();
        pod
    });
    listen(&db.netns, &[5432, 5433]);
    let mut web = node.sandbox("web", json!([]));
    node.add_others(&mut web).unwrap();
    listen(&web.netns, &[7000]);
    let (at_web, at_client) = (Received::at(&web.netns, 7001), Received::at(&client.netns, 9090));
    let to = |pod: &node::Pod, port| {
        let to: Vec<_> = pod.addresses().into_iter().map(|address| SocketAddr::new(address, port)).collect();
        assert_eq!(to.len(), 2);
        to
    };
    let to_web = to(&web, 7001);
    let flows = [
        (Numbered::start(&db.netns, &to_web), &at_web, "from db"),
        (Numbered::start(&client.netns, &to_web), &at_web, "from client"),
        (Numbered::start(&web.netns, &to(&client, 9090)), &at_client, "to client"),
    ];
    for (packets, received, _) in &flows {
        packets.wait_arrives(received);
    }
    for to in db.addresses() {
        assert!(!passes(&web.netns, to, 5432), "{to} admits {:?}, which no pod has yet", web.addresses());
    }

    node.add_own(&mut web).unwrap();
    let last = flows.each_ref().map(|(packets, ..)| packets.last());
    for to in db.addresses() {
        assert!(reaches(&web.netns, to, 5432), "{mode:?}, {backend}: {to}");
        assert!(!passes(&web.netns, to, 5433), "{mode:?}, {backend}: {to}");
    }
    for to in web.addresses() {
        assert!(reaches(&client.netns, to, 7000), "{mode:?}, {backend}: {to}");
    }
    for ((packets, received, which), last) in flows.iter().zip(last) {
        packets.wait_goes_on();
        let arrived = packets.arrived_after(last, received);
        assert_eq!(arrived, BTreeSet::new(), "{mode:?}, {backend}: {which}, sent after ADD");
    }
    drop(flows);

    for address in web.addresses() {
        assert_ne!(peer_sets(&node, &[address]), BTreeSet::new(), "{address}");
    }
    node.delete_own(&web).unwrap();
    wait("its addresses leave the sets of peers", || peer_sets(&node, &web.addresses()).is_empty());
    assert!(host_interface(&node, &web).is_some(), "the other plugins have no DEL yet");
    for address in web.addresses() {
        assert!(is_isolated(&node, address), "{address}");
        assert!(!passes(&client.netns, address, 7000), "{mode:?}, {backend}: {address}");
    }
    for to in db.addresses() {
        assert!(!passes(&web.netns, to, 5432), "{mode:?}, {backend}: {to}");
    }
    node.delete(&web).unwrap();
    assert_eq!(host_interface(&node, &web), None);
    wait("its addresses leave the isolated sets", || !web.addresses().iter().any(|own| is_isolated(&node, *own)));
}

#[test]
fn pods_of_one_node_are_isolated_from_each_other_routed_by_nft() {
    pods_of_one_node_are_isolated_from_each_other(Mode::Routed, "nft");
}

#[test]
fn pods_of_one_node_are_isolated_from_each_other_routed_by_legacy() {
    pods_of_one_node_are_isolated_from_each_other(Mode::Routed, "legacy");
}

#[test]
fn pods_of_one_node_are_isolated_from_each_other_bridged_by_nft() {
    pods_of_one_node_are_isolated_from_each_other(Mode::Bridged, "nft");
}

/// The network may give an address to the next pod before the interface of the one before it has gone.
#[test]
fn a_released_address_is_its_next_owners_at_once() {
    let Some(node) = Node::new(Mode::Routed, "nft") else { return };
    let policies = vec![policy_of(&json!({"matchLabels": {"app": "web"}}))];
    node.write(&Objects { policies, pods: ["web", "free"].map(pod_of).to_vec(), ..objects(&[]) });
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[9090]);
    let mut web = node.sandbox("web", json!([]));
    node.add(&mut web).unwrap();
    node.delete_own(&web).unwrap();
    let (name, index) = host_interface(&node, &web).unwrap();
    for address in web.addresses() {
        assert!(is_isolated(&node, address), "{address}");
    }
    let answer = node.request(&json!({
        "version": 1, "command": "add", "containerId": "next", "interface": "eth0", "network": "net",
        "netns": format!("/run/netns/{}", web.netns.name()), "namespace": "shop", "name": "free", "uid": "uid-free",
        "addresses": web.addresses(), "hostInterface": {"name": name, "index": index}, "wait": 30_000,
    }));
    assert_eq!(answer, json!({"version": 1}));
    for address in web.addresses() {
        assert!(!is_isolated(&node, address), "{address}");
    }
    for to in addresses(node::OUTSIDE) {
        assert!(reaches(&web.netns, to, 9090), "{to}");
    }
}
