//! A pod is isolated from the instant at which the chain of CNI plugins returns: the
//! reference plugins and ours, a real agent, and packets.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

mod api;
mod away;
mod bad_input;
mod burst;
mod chains;
mod check;
mod cri;
mod gap;
mod interfaces;
mod late;
pub(crate) mod node;
mod numbered;
mod obstacles;
mod older;
mod rpc;
pub(crate) mod runtime;
mod same_node;
mod static_pods;
pub(crate) mod traffic;
mod unsaved;
mod users;

use std::net::IpAddr;
use std::thread;

use k8s_openapi::api::networking::v1::NetworkPolicy as Api;
use npc_compiler::object::{Labels, Namespace, NetworkPolicy, Node as ApiNode, Objects, Pod};
use serde_json::{Value, json};

use node::{Mode, Node, OUTSIDE, OWN, wait};
use traffic::{Pings, listen, passes, reaches};

/// A pod that the API knows without an address: it is bound, and not started.
fn pod(name: &str) -> Pod {
    let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
    let spec = k8s_openapi::api::core::v1::PodSpec::default();
    let pod = Pod::from_template("shop".to_owned(), name.to_owned(), labels, spec);
    Pod { uid: format!("uid-{name}"), node: Some("n1".to_owned()), ..pod }
}

/// Isolates all pods, and admits port 8080 to the outside and TCP 7000 from there.
fn policy() -> NetworkPolicy {
    policy_of(&json!({}))
}

/// The same for the pods that this selector selects.
fn policy_of(selector: &Value) -> NetworkPolicy {
    let outside = json!([{"ipBlock": {"cidr": "192.0.2.2/32"}}, {"ipBlock": {"cidr": "2001:db8:2::2/128"}}]);
    let policy: Api = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "some"},
        "spec": {
            "podSelector": selector, "policyTypes": ["Ingress", "Egress"],
            "egress": [{"to": outside, "ports": [{"port": 8080}, {"port": 8080, "protocol": "UDP"}]}],
            "ingress": [{"from": outside, "ports": [{"port": 7000}]}],
        },
    }))
    .unwrap();
    policy.into()
}

pub(crate) fn objects(pods: &[&str]) -> Objects {
    Objects {
        namespaces: vec![Namespace::new("shop", Labels::new())],
        pods: pods.iter().map(|name| pod(name)).collect(),
        policies: vec![policy()],
        // With the networks of its pods, so that the kernel's index says which of their addresses have
        // flows.
        nodes: vec![of_node(&["10.0.0.0/16", "fd00::/64"])],
        ..Objects::default()
    }
}

/// The Node, with the networks of its pods.
fn of_node(networks: &[&str]) -> ApiNode {
    let pod_cidrs = networks.iter().map(|text| text.parse().unwrap()).collect();
    ApiNode { name: "n1".to_owned(), addresses: Vec::new(), pod_cidrs }
}

fn addresses(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().unwrap())
}

fn mappings() -> Value {
    json!([{"hostPort": 7777, "containerPort": 7000, "protocol": "tcp"},
           {"hostPort": 7778, "containerPort": 7001, "protocol": "tcp"},
           {"hostPort": 7778, "containerPort": 7001, "protocol": "udp"}])
}

/// The addresses that the first pod gets: the node's end of the network has the first of
/// the prefix.
fn first() -> [IpAddr; 2] {
    addresses(["10.0.0.2", "fd00::2"])
}

/// From the first instant to the end of a sandbox: with the agent's default, which keeps an index of
/// addresses with flows, and without the index.
fn the_policies_hold_at_once(mode: Mode, backend: &'static str) {
    for flow_index in [None, Some(false)] {
        let Some(mut node) = Node::new(mode, backend) else { return };
        node.flow_index = flow_index;
        the_policies_hold_at_once_on(&node);
    }
}

fn the_policies_hold_at_once_on(node: &Node) {
    the_policies_hold_at_once_with(node, &objects(&["web"]));
    if node.flow_index == Some(false) {
        assert_eq!(node.netns().exec(["nft", "list", "tables", "inet"], "").unwrap(), "");
        return;
    }
    assert_has_flows(node, &first());
}

/// The kernel's index says that each of these addresses, one of IPv4 and one of IPv6, has flows.
fn assert_has_flows(node: &Node, addresses: &[IpAddr]) {
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for (set, address) in ["flows4", "flows6"].into_iter().zip(addresses) {
        let noted = node.netns().exec(["nft", "list", "set", "inet", "npc", set], "").unwrap();
        let mut words = noted.split(|of: char| of.is_whitespace() || "{},".contains(of));
        assert!(words.any(|word| word == address.to_string()), "{address} has flows: {noted}");
    }
}

fn the_policies_hold_at_once_with(node: &Node, objects: &Objects) {
    node.write(objects);
    node.start_agent();
    node.wait_ready();
    listen(node.outside(), &[8080, 9090]);
    // Each address is pinged in one flow before there is anything behind it.
    let pings = first().map(|address| Pings::start(node.outside(), address));

    let mut web = node.sandbox("web", mappings());
    listen(&web.netns, &[7000, 7001]);
    node.add(&mut web).unwrap();
    let last = pings.each_ref().map(Pings::sent);

    assert_eq!(web.addresses(), first());
    thread::scope(|scope| {
        for to in addresses(OUTSIDE) {
            let netns = &web.netns;
            scope.spawn(move || assert!(!passes(netns, to, 9090), "{to}:9090 is denied"));
            scope.spawn(move || assert!(reaches(netns, to, 8080), "{to}:8080 is allowed"));
        }
        for to in first() {
            let netns = node.outside();
            scope.spawn(move || assert!(!passes(netns, to, 7001), "{to}:7001 is denied"));
            scope.spawn(move || assert!(reaches(netns, to, 7000), "{to}:7000 is allowed"));
        }
        for own in addresses(OWN) {
            let netns = node.outside();
            scope.spawn(move || assert!(!passes(netns, own, 7778), "the hostPort of 7001 at {own} is denied"));
            scope.spawn(move || assert!(reaches(netns, own, 7777), "the hostPort of 7000 at {own} is allowed"));
        }
    });
    for (pings, last) in pings.into_iter().zip(last) {
        wait("pings go on", || pings.sent() > last + 100);
        assert_eq!(pings.answered_after(last), 0, "pings that began before the rules were answered after ADD");
    }
    if node.version != "0.3.0" {
        node.check(&web).unwrap();
    }
    node.delete(&web).unwrap();
    node.delete(&web).unwrap();
    // With the sandbox its interface has gone, and then the address has no owner.
    wait("the address leaves all sets", || {
        !node::sets(node.netns()).values().flatten().any(|member| member.starts_with("10.0.0.2"))
    });
}

/// Whether an address is isolated in both directions.
pub(crate) fn is_isolated(node: &Node, address: IpAddr) -> bool {
    let sets = node::sets(node.netns());
    let family = if address.is_ipv4() { 4 } else { 6 };
    let holds = |name: String| sets.get(&name).is_some_and(|members| members.contains(&address.to_string()));
    ["ingress", "egress"].into_iter().all(|direction| holds(format!("npc{family}-{direction}")))
}

#[test]
fn the_policies_hold_at_once_routed_by_nft() {
    the_policies_hold_at_once(Mode::Routed, "nft");
}

#[test]
fn the_policies_hold_at_once_routed_by_legacy() {
    the_policies_hold_at_once(Mode::Routed, "legacy");
}

#[test]
fn the_policies_hold_at_once_bridged_by_nft() {
    the_policies_hold_at_once(Mode::Bridged, "nft");
}

#[test]
fn the_policies_hold_at_once_bridged_by_legacy() {
    the_policies_hold_at_once(Mode::Bridged, "legacy");
}

/// The same on a Node without pod CIDRs. The agent keeps no index there, and looks for flows in the
/// kernel's table.
#[test]
fn the_policies_hold_at_once_without_pod_cidrs() {
    let Some(node) = Node::new(Mode::Routed, "nft") else { return };
    let without = Objects { nodes: vec![of_node(&[])], ..objects(&["web"]) };
    the_policies_hold_at_once_with(&node, &without);
    assert_eq!(node.netns().exec(["nft", "list", "tables", "inet"], "").unwrap(), "");
}

/// What the test above would see of a plugin that does not wait.
#[test]
fn without_an_agent_pods_of_open_namespaces_start_and_are_open() {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    node.write(&objects(&["web"]));
    node.settings = json!({"timeoutSeconds": 1, "openNamespaces": ["shop"]});
    listen(node.outside(), &[9090]);
    let [to, _] = first();
    let pings = Pings::start(node.outside(), to);
    let mut web = node.sandbox("web", json!([]));
    node.add(&mut web).unwrap();
    assert!(reaches(&web.netns, addresses(OUTSIDE)[0], 9090));
    wait("pings are answered", || pings.answered() > 100);
    // The agent that comes then reads the note, and cuts what goes on.
    node.start_agent();
    node.wait_ready();
    wait("the note is read", || node.log().contains("started without an agent"));
    wait("connections are denied", || !passes(&web.netns, addresses(OUTSIDE)[0], 9090));
    wait("the pings end", || {
        let before = pings.answered();
        thread::sleep(std::time::Duration::from_millis(200));
        pings.answered() == before
    });
}

#[test]
fn a_pod_does_not_start_without_an_agent_and_does_with_the_next() {
    let Some(mut node) = Node::ready(Mode::Routed, "nft", &["web", "old"]) else { return };
    let mut old = node.sandbox("old", json!([]));
    node.add(&mut old).unwrap();
    node.kill_agent();
    node.settings = json!({"timeoutSeconds": 1});
    let mut web = node.sandbox("web", json!([]));
    let error = node.add(&mut web).unwrap_err();
    assert!(error.contains("\"code\":11") && error.contains("kubelet tries again"), "{error}");
    // A DEL succeeds all the same, of either.
    node.delete(&web).unwrap();
    node.delete(&old).unwrap();
    // A later try waits for the agent that is being started.
    node.settings = json!({"timeoutSeconds": 100});
    thread::scope(|scope| {
        let plugin = scope.spawn(|| node.add(&mut web));
        node.start_agent();
        plugin.join().unwrap().unwrap();
    });
    let sets = node::sets(node.netns());
    let has = |address: &IpAddr| sets.values().flatten().any(|member| *member == address.to_string());
    assert!(web.addresses().iter().all(has), "{sets:?}");
    // The note about the one that went meanwhile was read.
    wait("the old address leaves all sets", || {
        let sets = node::sets(node.netns());
        !old.addresses().iter().any(|old| sets.values().flatten().any(|member| *member == old.to_string()))
    });
}

#[test]
fn an_agent_after_a_kill_knows_the_sandboxes() {
    let Some(node) = Node::ready(Mode::Routed, "legacy", &["web"]) else { return };
    listen(node.outside(), &[8080, 9090]);
    let mut web = node.sandbox("web", json!([]));
    node.add(&mut web).unwrap();
    let before = node::sets(node.netns());
    assert!(before.values().flatten().any(|member| member == "10.0.0.2"));
    node.kill_agent();
    // The API does not list the address yet.
    node.start_agent();
    node.wait_ready();
    assert_eq!(node::sets(node.netns()), before);
    for to in addresses(OUTSIDE) {
        assert!(!passes(&web.netns, to, 9090) && reaches(&web.netns, to, 8080));
    }
    node.check(&web).unwrap();
}

#[test]
fn a_released_address_stays_isolated_while_its_interface_is_there() {
    let Some(node) = Node::ready(Mode::Routed, "nft", &["web"]) else { return };
    listen(node.outside(), &[8080]);
    let mut web = node.sandbox("web", json!([]));
    node.add(&mut web).unwrap();
    let to = addresses(OUTSIDE)[0];
    assert!(reaches(&web.netns, to, 8080));
    // Ours is the first of the plugins to have its DEL: the interface is there still.
    node.delete_own(&web).unwrap();
    wait("nothing is admitted any more", || !passes(&web.netns, to, 8080));
    assert!(is_isolated(&node, first()[0]));
    node.delete(&web).unwrap();
    wait("the address leaves the sets", || !is_isolated(&node, first()[0]));
}
