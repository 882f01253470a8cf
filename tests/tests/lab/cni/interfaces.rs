//! What the agent concludes from the interfaces of a node, and of a pod with several.

use std::net::IpAddr;

use npc_compiler::object::{Objects, Pod};
use serde_json::json;

use super::node::{self, Mode, Node, OUTSIDE, ip, wait};
use super::traffic::{listen, passes, reaches};
use super::{addresses, first, is_isolated, objects};

/// The cluster in which the API lists these addresses for the pod.
fn with_listed(name: &str, addresses: &[IpAddr]) -> Objects {
    let mut objects = objects(&[name]);
    let mut pod = objects.pods.remove(0);
    for address in addresses {
        pod = match *address {
            IpAddr::V4(address) => Pod { ipv4: Some(address), ..pod },
            IpAddr::V6(address) => Pod { ipv6: Some(address), ..pod },
        };
    }
    Objects { pods: vec![pod], ..objects }
}

/// As with Multus, which gives a pod more interfaces, on a node where pods ran before npc's conflist was there.
#[test]
fn a_second_interface_leaves_a_pod_isolated_of_whose_first_cni_reported_nothing() {
    let Some(node) = Node::new(Mode::Routed, "nft") else { return };
    listen(node.outside(), &[8080, 9090]);
    let mut web = node.sandbox("web", json!([]));
    node.add_others(&mut web).unwrap();
    node.write(&with_listed("web", &web.addresses()));
    node.start_agent();
    node.wait_ready();
    let own = web.addresses();
    assert!(own.iter().all(|address| is_isolated(&node, *address)), "by what the API lists");
    let second = json!({"version": 1, "command": "add", "containerId": "c1", "interface": "net1", "namespace": "shop",
        "name": "web", "uid": web.uid, "addresses": ["10.9.0.5"], "wait": 5000});
    assert_eq!(node.request(&second), json!({"version": 1}));
    for address in own.iter().copied().chain(["10.9.0.5".parse().unwrap()]) {
        assert!(is_isolated(&node, address), "{address}");
    }
    for to in addresses(OUTSIDE) {
        assert!(!passes(&web.netns, to, 9090) && reaches(&web.netns, to, 8080), "{to}");
    }
}

/// The node's end of a pod's interface: its name and its index.
fn node_end(node: &Node, pod: &node::Pod) -> (String, String) {
    let interfaces = pod.result["interfaces"].as_array().unwrap();
    let of_node = interfaces.iter().find(|found| found["sandbox"].as_str().unwrap_or_default().is_empty()).unwrap();
    let name = of_node["name"].as_str().unwrap().to_owned();
    let shown = node.netns().exec(["ip", "-o", "link", "show", &name], "").unwrap();
    (name, shown.split(':').next().unwrap().to_owned())
}

/// An interface that a program makes in another network namespace keeps its index, if that is free on the node.
#[test]
fn a_released_address_is_free_though_another_interface_comes_with_the_index_of_its_own() {
    let Some(node) = Node::ready(Mode::Routed, "nft", &["web"]) else { return };
    let mut web = node.sandbox("web", json!([]));
    node.add(&mut web).unwrap();
    let (name, index) = node_end(&node, &web);
    // The agent must not look while no interface has the index.
    node.kill_agent();
    node.delete(&web).unwrap();
    assert!(node.netns().exec(["ip", "link", "show", &name], "").is_err(), "the interface goes with its pod");
    let maker = node.sandbox("maker", json!([]));
    let (from, to) = (maker.netns.name(), node.netns().name());
    ip(&format!("-n {from} link add moved index {index} type veth peer name other"));
    ip(&format!("-n {from} link set moved netns {to}"));
    let shown = node.netns().exec(["ip", "-o", "link", "show", "moved"], "").unwrap();
    assert!(shown.starts_with(&format!("{index}: ")), "{shown}");
    node.start_agent();
    node.wait_ready();
    wait("no address of the pod is isolated", || !first().iter().any(|address| is_isolated(&node, *address)));
}
